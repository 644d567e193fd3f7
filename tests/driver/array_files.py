"""What the tests of sources that read a file of arrays or of records share: a few samples, and how they are read."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from netc_runtime.data import open_source
from netc_runtime.errors import DriverError

COUNT = 12
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (COUNT, 2, 3, 4), dtype=np.uint8)
LABELS = np.arange(COUNT) % 3
HALF = {"test": 0.5, "stratified": False}


def opened(source: str, path: Path, **options: Any) -> Any:
    return open_source({"source": source, "path": str(path), **options})


def said(source: str, path: Path, **options: Any) -> tuple[str, int]:
    with pytest.raises(DriverError) as caught:
        opened(source, path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.exit_code


def everything(source: Any, field: str = "image") -> Any:
    """Return all samples in the order of their first value, whichever split they are in."""
    found = np.concatenate([np.asarray(source.train[field]), np.asarray(source.test[field])])
    return found[np.lexsort(found.reshape(len(found), -1).T[::-1])]


def encoded(index: int, size: tuple[int, int] = (3, 4)) -> bytes:
    """Return a PNG file of one colour."""
    content = io.BytesIO()
    Image.fromarray(np.full((*size, 3), index * 10, np.uint8)).save(content, "PNG")
    return content.getvalue()
