"""CIFAR-10 in its original binary format, read from untrusted files.

A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009: each record is one byte for the class and
3072 bytes of the image, its red, green and blue plane row by row.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from netc_runtime.data.base import Problem, Source, Split
from netc_runtime.data.packed import find, read_packed
from netc_runtime.errors import DamagedFileError, DriverError

_TRAIN = tuple(f"data_batch_{part}.bin" for part in range(1, 6))
_TEST = "test_batch.bin"
_ENDINGS = ("", ".gz", ".xz")
_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32
_MOST_RECORDS = 100_000  # ten times those of an original file
_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class CIFAR10(Source):
    """A folder with the original files data_batch_1.bin to data_batch_5.bin and test_batch.bin, plain, .gz or .xz.

    `path` names the folder. Training parts may be absent as long as there is one; images are [n, 3, 32, 32] unsigned
    bytes, in the order of the parts.
    """

    options: ClassVar[frozenset[str]] = frozenset({"path"})
    value_range: ClassVar[tuple[float, float]] = (0.0, 255.0)

    @classmethod
    def class_names(cls, name: str) -> tuple[str, ...]:
        """Return the ten kinds of things."""
        return _NAMES

    @classmethod
    def check(cls, name: str, options: Mapping[str, Any]) -> list[Problem]:
        """Return a sentence if `path` is no text."""
        path = options.get("path")
        if path is None or isinstance(path, str):
            return []
        return [(("path",), f"path should be the folder with the CIFAR-10 files, as a text, not {path!r}")]

    @classmethod
    def missing(cls, name: str, options: Mapping[str, Any]) -> list[Problem]:
        """Return a sentence if `path` is no folder with a training part and the test part."""
        path = options.get("path")
        if not path:
            return [(("path",), f'the source "{name}" needs `path`: the folder with the CIFAR-10 files')]
        folder = Path(path).expanduser()
        if not folder.is_dir():
            return [(("path",), f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}")]
        missing = [] if _present(folder, _TRAIN) else [f"{_TRAIN[0]} to {_TRAIN[-1]}, of which one is enough"]
        missing += [] if _present(folder, (_TEST,)) else [_TEST]
        if missing:
            return [(("path",), f"{folder} lacks {', and '.join(missing)} (each plain, with .gz or with .xz)")]
        return []

    @classmethod
    def open(cls, name: str, options: Mapping[str, Any]) -> Self:
        """Read the files; raises DamagedFileError naming the file, what is expected and what is found."""
        folder = Path(options["path"]).expanduser()
        return cls(_read_split(folder, _TRAIN), _read_split(folder, (_TEST,)), _NAMES)


def _present(folder: Path, files: Sequence[str]) -> list[Path]:
    return [path for path in (find(folder, file, _ENDINGS) for file in files) if path is not None]


def _read_split(folder: Path, files: Sequence[str]) -> Split:
    paths = _present(folder, files)
    if not paths:
        raise DriverError(f"{folder} no longer has {files[0]}")
    records = np.concatenate([_read_records(path) for path in paths])
    return {"image": records[:, 1:].reshape(-1, *_SHAPE), "label": records[:, 0].copy()}


def _read_records(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    content = read_packed(path, _MOST_RECORDS * _RECORD)
    if not content:
        raise DamagedFileError(f"{path} is empty; fetch it again")
    count, rest = divmod(len(content), _RECORD)
    if rest:
        raise DamagedFileError(
            f"{path} is truncated or not of CIFAR-10: records of {_RECORD} bytes expected, found {count} and {rest} "
            f"bytes more; fetch it again"
        )
    records = np.frombuffer(content, np.uint8).reshape(count, _RECORD)
    wrong = records[:, 0] >= len(_NAMES)
    if wrong.any():
        index = int(wrong.argmax())
        raise DamagedFileError(
            f"{path} is not of CIFAR-10: record {index} has the label {records[index, 0]}, the classes are 0 to "
            f"{len(_NAMES) - 1}"
        )
    return records
