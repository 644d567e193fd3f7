"""The range of raw values: what the spec declares holds for checks, exported models and pictures that are fed."""

from pathlib import Path

import numpy as np
import pytest

from netc_runtime.data import class_names_of, open_source, value_range_of
from netc_runtime.data.batches import check_fit
from netc_runtime.errors import DriverError
from netc_runtime.interface import TensorSpec

IMAGE = TensorSpec("image", "float32", ("N", 1, 2, 2), "batch", field="image")


@pytest.fixture
def arrays(tmp_path: Path) -> str:
    images = np.random.default_rng(0).uniform(0, 1, (8, 1, 2, 2)).astype(np.float32)
    images[5] = 3.5
    np.savez(tmp_path / "data.npz", image=images, label=np.arange(8) % 2)
    return str(tmp_path / "data.npz")


def test_the_declared_range_comes_before_that_of_the_source(arrays: str) -> None:
    assert value_range_of({"source": "digits"}) == (0.0, 16.0)
    assert value_range_of({"source": "npz", "path": arrays, "range": None}) == (0.0, 255.0)
    assert value_range_of({"source": "npz", "path": arrays, "range": [0, 4]}) == (0.0, 4.0)


def test_values_outside_of_the_declared_range_are_refused(arrays: str) -> None:
    data = {"source": "npz", "path": arrays, "split": {"test": 0.25, "seed": 1}}
    check_fit(open_source(data), (IMAGE,))
    check_fit(open_source({**data, "range": [0, 4]}), (IMAGE,))
    with pytest.raises(DriverError, match=r'has the value 3\.5 of "image", outside of data\.range \[0, 1\]'):
        check_fit(open_source({**data, "range": [0, 1]}), (IMAGE,))


def test_texts_of_a_csv_name_the_classes(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,kind\n" + "1,wave\n2,bar\n" * 6)
    data = {"source": "csv", "path": str(tmp_path / "t.csv"), "target": "kind"}
    assert class_names_of(data) == ("bar", "wave")
    assert class_names_of({**data, "path": str(tmp_path / "gone.csv")}) == ()
    assert class_names_of({**data, "classes": ["wave"]}) == ("wave",)
