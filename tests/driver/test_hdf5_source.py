"""The source hdf5: what is mapped or read in chunks, and a sentence for whatever is wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc_runtime.data import rows as rows_module
from netc_runtime.data.hdf5 import HDF5
from netc_runtime.data.mapped import KEPT

from .array_files import COUNT, HALF, IMAGES, LABELS, everything, opened, said


def test_hdf5_files_are_mapped_or_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["train/data"] = IMAGES[:8]
        file.create_dataset("train/label", data=LABELS[:8], chunks=(3,), compression="gzip")
        file["test/data"] = IMAGES[8:]
        file["test/label"] = LABELS[8:]
    for small in (KEPT, 0):
        monkeypatch.setattr("netc_runtime.data.hdf5.KEPT", small)
        monkeypatch.setattr(rows_module, "KEPT", small)
        source = opened("hdf5", path)
        np.testing.assert_array_equal(source.train["image"], IMAGES[:8])
        np.testing.assert_array_equal(source.train["label"], LABELS[:8])
        np.testing.assert_array_equal(source.train["label"][np.array([5, 0, 5, 7])], LABELS[[5, 0, 5, 7]])
        np.testing.assert_array_equal(source.train["label"][np.array([], int)], [])
        np.testing.assert_array_equal(source.test["label"], LABELS[8:])


def test_bad_hdf5_files_are_one_sentence(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"

    def written(**arrays: Any) -> None:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array

    written(data=IMAGES, label=np.array([b"x"] * COUNT))
    assert said("hdf5", path) == (f"{path} has label of |S1 values; real numbers are needed", 1)
    written(data=IMAGES, label=["x"] * COUNT)
    assert said("hdf5", path) == (f"{path} has label of Python objects; real numbers are needed", 1)
    written(data=IMAGES, label=h5py.ExternalLink("/etc/passwd", "x"))
    assert said("hdf5", path) == (f"{path} has a link at label; only data in the file itself are read", 1)
    with h5py.File(path, "w") as file:
        file.create_dataset("data", (4, 4), "u1", external=[("/etc/passwd", 0, 16)])
    assert said("hdf5", path) == (f"{path} keeps data in other files; only data in the file itself are read", 1)
    written(data=IMAGES)
    content = path.read_bytes()
    for damaged in (content[:-100], content[:600], b"", b"no file"):
        path.write_bytes(damaged)
        sentence, code = said("hdf5", path)
        assert sentence.startswith(f"{path} is ")
        assert code == 1


def test_hard_links_of_an_hdf5_file_may_make_circles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["data"] = IMAGES
        file["more/label"] = LABELS
        for number in range(12):
            file[f"more/{number}"] = file["more"]
            file[f"more/root{number}"] = file
    source = opened("hdf5", path, split=HALF)
    assert sorted(source.train) == ["image", "more/label"]
    monkeypatch.setattr("netc_runtime.data.hdf5._MOST_NAMES", 20)
    assert said("hdf5", path) == (f"{path} has more than 20 groups and data sets", 1)


def test_groups_of_an_hdf5_file_are_read_at_any_depth_or_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path, deep = tmp_path / "a.h5", "a/b/c/d/e/f/g/h/"
    with h5py.File(path, "w") as file:
        file["data"], file[f"{deep}weight"] = IMAGES, LABELS
        file[f"{deep}again"] = file["a"]  # a group that is known already is none that lies too deep
    assert sorted(opened("hdf5", path, split=HALF).train) == [f"{deep}weight", "image"]
    with h5py.File(path, "a") as file:
        file[f"{deep}i/label"] = LABELS
    assert said("hdf5", path) == (
        f"{path} has the group {deep}i/ in 8 others, the limit; move what is to be read further out",
        1,
    )
    with h5py.File(path, "a") as file:
        file["short"] = file[f"{deep}i"]
    assert sorted(opened("hdf5", path, split=HALF).train) == [f"{deep}weight", "image", "short/label"]


def test_the_memory_of_all_arrays_of_an_hdf5_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name in ("a", "b", "image"):
            file.create_dataset(name, data=IMAGES, chunks=(3, 2, 3, 4))
    monkeypatch.setattr("netc_runtime.data.hdf5.KEPT", 2 * IMAGES.nbytes)
    source = opened("hdf5", path)
    np.testing.assert_array_equal(everything(source), IMAGES[np.lexsort(IMAGES.reshape(COUNT, -1).T[::-1])])
    kept = HDF5.open("hdf5", {"path": str(path)}).train
    assert [isinstance(kept[name], np.ndarray) for name in ("a", "b", "image")] == [True, True, False]


def test_too_little_memory_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")

    def fail(*_: Any) -> None:
        raise MemoryError("Unable to allocate 9 GiB")

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", data=IMAGES, chunks=(3, 2, 3, 4))
    monkeypatch.setattr(h5py.Dataset, "__getitem__", fail)
    assert said("hdf5", tmp_path / "a.h5") == (
        f"{tmp_path / 'a.h5'} takes more memory than there is: Unable to allocate 9 GiB",
        3,
    )
