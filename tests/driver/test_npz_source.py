"""The source npz: what names say, what is mapped, and a sentence for whatever is wrong."""

# ruff: noqa: E501 (messages are whole sentences)

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc_runtime.data import missing_data
from netc_runtime.data import rows as rows_module
from netc_runtime.data.batches import check_fit, gather
from netc_runtime.errors import DriverError
from netc_runtime.interface import TensorSpec

from .array_files import COUNT, HALF, IMAGES, LABELS, everything, opened, said


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train/image", "train/label", "test/image", "test/label"),
        ("train_data", "train_labels", "val_data", "val_labels"),
        ("train_x", "train_y", "validation_x", "validation_y"),
    ],
)
def test_the_arrays_of_an_npz_file_say_field_and_split(
    tmp_path: Path, save: Callable[..., None], names: tuple[str, ...]
) -> None:
    arrays = (IMAGES[:8], LABELS[:8], np.asfortranarray(IMAGES[8:]), LABELS[8:].astype(">i4"))
    save(tmp_path / "a.npz", **dict(zip(names, arrays, strict=True)))
    source = opened("npz", tmp_path / "a.npz")
    for split, first, second in ((source.train, 0, 1), (source.test, 2, 3)):
        np.testing.assert_array_equal(split["image"], arrays[first])
        np.testing.assert_array_equal(split["label"], arrays[second])
        assert isinstance(split["image"], np.memmap) == (save is np.savez)


def test_one_set_of_an_npz_file_is_split_and_fields_can_be_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", pixels=IMAGES, digit=LABELS)
    source = opened("npz", tmp_path / "a.npz", fields={"image": "pixels", "label": "digit"}, split={"test": 0.25})
    assert np.bincount(source.test["label"]).tolist() == [1, 1, 1]
    np.testing.assert_array_equal(everything(source), IMAGES[np.lexsort(IMAGES.reshape(COUNT, -1).T[::-1])])
    (tmp_path / "both").mkdir()
    np.savez(tmp_path / "both" / "train.npz", image=IMAGES[:8])
    np.savez(tmp_path / "both" / "test.npz", image=IMAGES[8:])
    np.testing.assert_array_equal(opened("npz", tmp_path / "both").test["image"], IMAGES[8:])
    np.savez(tmp_path / "both" / "train-2.npz", image=IMAGES[:8])
    sentence = (
        f"{tmp_path / 'both'} has 2 files of the train split, such as train-2.npz and train.npz; leave one of them"
    )
    assert said("npz", tmp_path / "both") == (sentence, 2)


def test_large_arrays_of_an_npz_file_are_read_as_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "KEPT", 0)
    np.savez(tmp_path / "a.npz", image=IMAGES, label=LABELS)
    source = opened("npz", tmp_path / "a.npz", split=HALF)
    assert isinstance(source.train["image"], rows_module.Rows)
    inputs = (
        TensorSpec("image", "float32", ("N", 2, 3, 4), "batch", field="image"),
        TensorSpec("label", "int32", ("N",), "batch", field="label", classes=3),
    )
    check_fit(source, inputs)
    batch = gather(source.train, inputs, np.array([4, 1]))
    np.testing.assert_array_equal(batch["image"], np.asarray(source.train["image"])[[4, 1]])


class Bomb:
    """What an unpickled array would run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


def test_bad_npz_files_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"

    def saved(**arrays: Any) -> None:
        np.savez(path, **arrays)

    saved(image=IMAGES, label=np.array([Bomb(tmp_path / "exploded")] * COUNT))
    assert said("npz", path) == (f"{path} has label of Python objects; real numbers are needed", 1)
    assert not (tmp_path / "exploded").exists()
    saved(image=IMAGES, label=np.array(["a"] * COUNT))
    assert said("npz", path) == (f"{path} has label of <U1 values; real numbers are needed", 1)
    saved(image=IMAGES, label=LABELS[:5])
    assert said("npz", path) == (
        f"{path} has 12 samples of image but 5 of label; all fields of a split need the same samples",
        1,
    )
    saved(image=IMAGES[:0], label=LABELS[:0])
    assert said("npz", path) == (f"{path} has image as [0, 2, 3, 4]: no sample at all", 1)
    saved(x_train=IMAGES, y_train=LABELS, x_test=IMAGES)
    assert said("npz", path) == (f"{path} has the field label in one split alone: both need the same fields", 2)
    saved(x_test=IMAGES)
    assert said("npz", path) == (f"{path} holds no training arrays; it has: x_test", 2)
    saved(x=IMAGES, image=IMAGES)
    assert said("npz", path) == (
        f"{path} has image and x, which are both the field image; say which in data.fields, such as fields: {{image: x}}",
        2,
    )
    saved(image=IMAGES)
    assert said("npz", path, fields={"label": "digit"}) == (
        f"{path} has no array digit for the field label; it has: image",
        2,
    )
    path.write_bytes(path.read_bytes()[:-30])
    assert said("npz", path) == (f"{path} is not an .npz file: File is not a zip file", 1)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", b"\x93NUMPY\x01\x00")
    assert said("npz", path)[0].startswith(f"{path} has image, which is not an array that numpy can read: ")
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(path, "w", packing) as archive:
            content = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                content, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
            )
            archive.writestr("image.npy", content.getvalue() + bytes(80))
        sentence, code = said("npz", path)
        assert (sentence.startswith(f"{path} has image, which is not an array that numpy can read: "), code) == (
            True,
            1,
        )
    assert missing_data({"source": "npz", "path": str(tmp_path / "no")}) == [
        (("path",), f"{tmp_path / 'no'} does not exist")
    ]
    assert missing_data({"source": "npz", "path": str(tmp_path)}) == [
        (("path",), f"{tmp_path} holds no training files: they are called train.npz or train-*.npz")
    ]


def test_nan_is_found_before_training(tmp_path: Path) -> None:
    images = IMAGES.astype(np.float32)
    images[3, 1, 0, 0] = np.nan
    np.savez(tmp_path / "a.npz", x_train=images, x_test=images[:2])
    with pytest.raises(DriverError, match=r"^sample 3 of the train split has a value of \"image\" that is not finite$"):
        check_fit(
            opened("npz", tmp_path / "a.npz"), (TensorSpec("image", "float32", ("N", 2, 3, 4), "batch", field="image"),)
        )


def test_the_memory_of_all_arrays_of_an_npz_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=IMAGES, image=IMAGES)
    monkeypatch.setattr("netc_runtime.data.npz._UNPACKED_LIMIT", 2 * IMAGES.nbytes)
    assert len(opened("npz", path).classes) == 0
    monkeypatch.setattr("netc_runtime.data.npz._UNPACKED_LIMIT", 2 * IMAGES.nbytes - 1)
    assert said("npz", path) == (
        f"{path} has image, which is not an array that numpy can read: it takes 288 bytes unpacked, of 575 for all arrays of a file 287 are left; store it with numpy.savez, which is mapped",
        1,
    )


def test_too_little_memory_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("Unable to allocate 9 GiB")

    np.savez_compressed(tmp_path / "a.npz", image=IMAGES)
    monkeypatch.setattr("netc_runtime.data.npz._unpacked", fail)
    assert said("npz", tmp_path / "a.npz") == (
        f"{tmp_path / 'a.npz'} has image, which takes more memory than there is; store it with numpy.savez, which is mapped",
        3,
    )
