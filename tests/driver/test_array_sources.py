"""The sources npz, hdf5, csv, parquet, lmdb and cifar100: what is read, and a sentence for whatever is wrong."""

# ruff: noqa: E501 (messages are whole sentences)

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from netc_runtime.data import class_names_of, missing_data, open_source
from netc_runtime.data import rows as rows_module
from netc_runtime.data.batches import check_fit, gather
from netc_runtime.data.hdf5 import HDF5
from netc_runtime.data.mapped import KEPT
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.interface import TensorSpec

COUNT = 12
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (COUNT, 2, 3, 4), dtype=np.uint8)
LABELS = np.arange(COUNT) % 3
HALF = {"test": 0.5, "stratified": False}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


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


# -- npz ---------------------------------------------------------------------------------------------------------


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
    assert said("npz", path) == (f"{path} has label of Python objects; real numbers are needed", 2)
    assert not (tmp_path / "exploded").exists()
    saved(image=IMAGES, label=np.array(["a"] * COUNT))
    assert said("npz", path) == (f"{path} has label of <U1 values; real numbers are needed", 2)
    saved(image=IMAGES, label=LABELS[:5])
    assert said("npz", path) == (
        f"{path} has 12 samples of image but 5 of label; all fields of a split need the same samples",
        2,
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


# -- csv ---------------------------------------------------------------------------------------------------------

CSV = "a,b,kind\n1,2.5,yes\n-3,4e1,no\n5,6,yes\n7,8,no\n"


def test_a_table_with_classes_of_texts(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    source = opened("csv", tmp_path / "a.csv", target="kind", split=HALF)
    assert source.classes == ("no", "yes")
    assert source.train["image"].dtype == np.float32
    np.testing.assert_array_equal(everything(source), [[-3, 40], [1, 2.5], [5, 6], [7, 8]])
    both = [
        *zip(source.train["image"][:, 0], source.train["label"], strict=True),
        *zip(source.test["image"][:, 0], source.test["label"], strict=True),
    ]
    assert dict(both) == {1: 1, -3: 0, 5: 1, 7: 0}


def test_a_table_with_numbers_to_predict(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("\ufeffa; b ;c\n1;2;3\n4;5;6\n", encoding="utf-8")
    (tmp_path / "test.csv").write_text("a;b;c\n7;8;9\n")
    source = opened("csv", tmp_path, target=["c", "a"], features="b", delimiter=";")
    assert source.train["image"].tolist() == [[2], [5]]
    assert source.train["target"].tolist() == [[3, 1], [6, 4]]
    assert "label" not in source.train
    source = opened("csv", tmp_path, target="c", delimiter=";")
    assert source.test["image"].tolist() == [[7, 8]]
    assert source.test["target"].tolist() == [[9]]
    assert source.test["label"].tolist() == [9]
    assert len(source.classes) == 10
    (tmp_path / "test.csv").write_text("a;b;c\n7;8;9.5\n")  # now these are numbers, not classes
    assert "label" not in opened("csv", tmp_path, target="c", delimiter=";").train


@pytest.mark.parametrize(
    ("text", "options", "sentence", "code"),
    [
        (
            CSV.replace("6", "six"),
            {},
            "{path}, line 4: the column b has 'six', where a number is needed; leave the column out of data.features, or correct the file",
            2,
        ),
        (
            CSV.replace("6", ""),
            {},
            "{path}, line 4: the column b is empty, where a number is needed; leave the column out of data.features, or correct the file",
            2,
        ),
        (CSV.replace("6", "nan"), {}, "{path}, line 4: the column b has nan, which is not a finite number", 1),
        (CSV.replace("6", "1e39"), {}, "{path}, line 4: the column b has 1e39, which is not a finite number", 1),
        (CSV.replace("6", "6,7"), {}, "{path}, line 4: 3 columns expected, as in the first line, found 4", 1),
        (CSV.replace("5,6,yes", "5,6,"), {}, "{path}, line 4: the column kind is empty, where a target is needed", 1),
        (CSV, {"target": "knd"}, 'data.target: {path} has no column knd; did you mean "kind"?', 2),
        (CSV, {"features": ["a", "c"]}, "data.features: {path} has no column c; known: a, b, kind", 2),
        ("a,a,kind\n", {"features": ["a"]}, "data.features: {path} has 2 columns a; give them different names", 2),
        ("kind\n1\n", {}, "{path} has no column besides its target; features are needed too", 2),
        ("a,kind\n", {}, "{path} has no line after the names of its columns: no sample at all", 1),
        ("", {}, "{path} is empty: its first line should name the columns", 1),
        (CSV.replace("6", '"6'), {}, "{path}, line 5: unexpected end of data", 1),
        (CSV.replace("yes", "\xff"), {}, "{path} is not a text in UTF-8: invalid start byte at byte 15", 1),
        (
            CSV.replace("no", "inf"),
            {"features": ["a"]},
            "{path}, line 3: the column kind has inf, which is not a finite number",
            1,
        ),
    ],
)
def test_bad_tables_are_one_sentence(
    tmp_path: Path, text: str, options: dict[str, Any], sentence: str, code: int
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode("latin-1"))
    if "inf" in text:
        path.write_bytes(text.replace("yes", "1").encode())
    assert said("csv", path, **{"target": "kind", "split": HALF, **options}) == (sentence.format(path=path), code)


def test_a_table_needs_a_target(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    path = str(tmp_path / "a.csv")
    assert missing_data({"source": "csv", "path": path}) == [
        (("target",), 'the source "csv" needs `target`: the column of the label, or the columns to predict')
    ]
    assert missing_data({"source": "csv", "path": path, "target": "kind", "delimiter": ";;"}) == [
        (("delimiter",), "delimiter should be one character, not ';;'")
    ]


# -- hdf5 --------------------------------------------------------------------------------------------------------


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
    assert said("hdf5", path) == (f"{path} has label of |S1 values; real numbers are needed", 2)
    written(data=IMAGES, label=["x"] * COUNT)
    assert said("hdf5", path) == (f"{path} has label of Python objects; real numbers are needed", 2)
    written(data=IMAGES, label=h5py.ExternalLink("/etc/passwd", "x"))
    assert said("hdf5", path) == (f"{path} has a link at label; only data in the file itself are read", 2)
    with h5py.File(path, "w") as file:
        file.create_dataset("data", (4, 4), "u1", external=[("/etc/passwd", 0, 16)])
    assert said("hdf5", path) == (f"{path} keeps data in other files; only data in the file itself are read", 2)
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


def test_the_memory_of_all_arrays_of_a_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    h5py = pytest.importorskip("h5py")

    def fail(*_: Any) -> None:
        raise MemoryError("Unable to allocate 9 GiB")

    np.savez_compressed(tmp_path / "a.npz", image=IMAGES)
    monkeypatch.setattr("netc_runtime.data.npz._unpacked", fail)
    assert said("npz", tmp_path / "a.npz") == (
        f"{tmp_path / 'a.npz'} has image, which takes more memory than there is; store it with numpy.savez, which is mapped",
        3,
    )
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", data=IMAGES, chunks=(3, 2, 3, 4))
    monkeypatch.setattr(h5py.Dataset, "__getitem__", fail)
    assert said("hdf5", tmp_path / "a.h5") == (
        f"{tmp_path / 'a.h5'} takes more memory than there is: Unable to allocate 9 GiB",
        3,
    )


# -- parquet and lmdb --------------------------------------------------------------------------------------------


def encoded(index: int, size: tuple[int, int] = (3, 4)) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((*size, 3), index * 10, np.uint8)).save(content, "PNG")
    return content.getvalue()


def write_parquet(path: Path, images: list[Any], labels: list[Any], names: Any = None, column: str = "image") -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({column: images, "label": labels})
    if names is not None:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    parquet.write_table(table, path, row_group_size=5)


def test_parquet_as_hugging_face_lays_it_out(tmp_path: Path) -> None:
    for split, first, last in (
        ("train-00000-of-00002", 0, 6),
        ("train-00001-of-00002", 6, 9),
        ("validation-00000", 9, 12),
    ):
        images = [{"bytes": encoded(i), "path": f"{i}.png"} for i in range(first, last)]
        write_parquet(tmp_path / f"{split}.parquet", images, [i % 2 for i in range(first, last)], ["no", "yes"])
    source = opened("parquet", tmp_path)
    assert source.classes == ("no", "yes")
    assert source.train["image"].shape == (9, 3, 3, 4)
    assert source.train["image"][:, 0, 0, 0].tolist() == [i * 10 for i in range(9)]
    assert source.test["label"][:].tolist() == [1, 0, 1]
    path = tmp_path / "one.parquet"
    write_parquet(path, [encoded(i, (3 + i % 2, 4)) for i in range(4)], [0, 1, 0, 1], column="picture")
    few = opened("parquet", path, fields={"image": "picture"}, split=HALF, channels=1, resize=[2, 2])
    assert few.train["image"].shape == (2, 1, 2, 2)
    assert few.classes == ("0", "1")


def test_large_whole_numbers_of_a_table_are_no_labels(tmp_path: Path) -> None:
    for largest, is_label in ((1 << 20, False), ((1 << 20) - 1, True), (2_000_000_000, False)):
        (tmp_path / "a.csv").write_text(f"a,b\n1,0\n2,{largest}\n")
        source = opened("csv", tmp_path / "a.csv", target="b", split=HALF)
        assert ("label" in source.train) == is_label
        assert len(source.classes) == (1 << 20 if is_label else 0)
        assert everything(source, "target").tolist() == [[0], [np.float32(largest)]]


def test_bad_parquet_files_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    good = [encoded(i) for i in range(4)]
    write_parquet(path, good, [0, 1, 0, 1], column="x")
    assert said("parquet", path) == (
        f"{path} has no column image or img for the field image; it has: x, label; say which in data.fields, such as fields: {{image: x}}",
        2,
    )
    assert said("parquet", path, fields={"image": "x", "weight": "y"}) == (
        "data.fields: fields should be which columns are image and label, as a mapping with image or label alone, not {'image': 'x', 'weight': 'y'}",
        2,
    )
    write_parquet(path, [good[0], b"no image", *good[2:]], [0, 1, 0, 1])
    sentence = f"{path}, row 1 is not an image (PNG, JPEG, BMP, GIF, PPM, TIFF, WEBP)"
    assert said("parquet", path) == (sentence, 1)
    source = opened("parquet", path, on_error="skip", split={"test": 0.34, "stratified": False})
    assert len(source.train["label"]) + len(source.test["label"]) == 3
    assert source.notes == (f"1 record was left out of the data; the first: {sentence}",)
    write_parquet(path, [*good[:3], None], [0, 1, 0, 1])
    assert said("parquet", path) == (f"{path}, row 3 has no image", 1)
    write_parquet(path, good, [0, 1, None, 1])
    assert said("parquet", path) == (f"{path}, row 2 has the label None, where a class 0, 1, ... is needed", 1)
    write_parquet(path, good, [0, 1, 0, -1])
    assert said("parquet", path) == (f"{path}, row 3 has the label -1, where a class 0, 1, ... is needed", 1)
    write_parquet(path, good, [0, 1, 0, 2_000_000_000])
    assert said("parquet", path) == (f"{path}, row 3 has the label 2000000000; the last class is 1048575", 1)
    write_parquet(path, [*good[:3], encoded(1, (9, 4))], [0, 1, 0, 1])
    assert said("parquet", path) == (
        f"{path}, row 3 has an image [3, 9, 4] of uint8, but {path}, row 0 has [3, 3, 4] of uint8; set data.resize, such as resize: [3, 4]",
        2,
    )
    path.write_bytes(path.read_bytes()[:-20])
    sentence, code = said("parquet", path)
    assert (sentence.startswith(f"{path} is not a sound Parquet file: "), code) == (True, 1)


def datum(**fields: Any) -> bytes:
    """Return one of Caffe's Datum records, written by hand: (number << 3 | kind), value."""
    numbers = {"channels": 1, "height": 2, "width": 3, "data": 4, "label": 5, "float_data": 6, "encoded": 7}

    def varint(value: int) -> bytes:
        return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)

    content = b""
    for name, value in fields.items():
        number = numbers[name] << 3
        if name == "data":
            content += bytes([number | 2]) + varint(len(value)) + value
        elif name == "float_data":
            content += b"".join(bytes([number | 5]) + struct.pack("<f", one) for one in value)
        else:
            content += bytes([number]) + varint(int(value))
    return content


def write_lmdb(path: Path, records: list[bytes]) -> None:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path), map_size=1 << 22) as database, database.begin(write=True) as transaction:
        for index, record in enumerate(records):
            transaction.put(b"%08d" % index, record)


def raw(index: int, **fields: Any) -> bytes:
    return datum(
        **{"channels": 2, "height": 3, "width": 4, "data": IMAGES[index].tobytes(), "label": LABELS[index], **fields}
    )


def test_lmdb_of_caffe(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "train_lmdb", [raw(i) for i in range(8)])
    write_lmdb(tmp_path / "test_lmdb", [raw(i) for i in range(8, 12)])
    source = opened("lmdb", tmp_path)
    np.testing.assert_array_equal(source.train["image"], IMAGES[:8])
    np.testing.assert_array_equal(source.train["label"], LABELS[:8])
    np.testing.assert_array_equal(source.test["image"], IMAGES[8:])
    assert source.classes == ("0", "1", "2")
    (tmp_path / "test_lmdb").rename(tmp_path / "validation_lmdb")
    np.testing.assert_array_equal(opened("lmdb", tmp_path).test["image"], IMAGES[8:])
    write_lmdb(
        tmp_path / "floats",
        [datum(channels=1, height=1, width=2, float_data=(i / 2, -1.0), label=300 + i) for i in range(4)],
    )
    floats = opened("lmdb", tmp_path / "floats", split=HALF)
    assert floats.train["image"].dtype == np.float32
    assert everything(floats)[:, 0, 0].tolist() == [[i / 2, -1] for i in range(4)]
    write_lmdb(tmp_path / "packed", [datum(encoded=True, data=encoded(i), label=0) for i in range(4)])
    assert everything(opened("lmdb", tmp_path / "packed", split=HALF))[:, 2, 1, 1].tolist() == [0, 10, 20, 30]
    # Reading leaves the database as it was.
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == ["data.mdb", "lock.mdb"]


def test_bad_lmdb_databases_are_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    cases: list[tuple[list[bytes], str, int]] = [
        ([raw(0), raw(1, data=b"short")], ", key 00000001 has 5 values, but says that its image is [2, 3, 4]", 1),
        ([raw(0), raw(1, channels=0)], ", key 00000001 has 24 values, but says that its image is [0, 3, 4]", 1),
        ([raw(0), b"\xff\xff"], ", key 00000001 is not one of Caffe's Datum records: ", 1),
        ([raw(0), raw(1, height=4, width=3)], ", key 00000001 has an image [2, 4, 3] of uint8, but ", 2),
        ([raw(0), datum(encoded=True, data=b"x")], ", key 00000001 is not an image (", 1),
        ([raw(0, label=2**31 + 5)], ", key 00000000 has the label ", 1),
        ([], "no record can be used: there is none", 1),
    ]
    for number, (records, part, code) in enumerate(cases):
        path = tmp_path / str(number)
        write_lmdb(path, records)
        sentence, found = said("lmdb", path)
        assert sentence.startswith(f"{path / 'data.mdb'}{part}" if part.startswith(",") else part)
        assert found == code
    path = tmp_path / "0" / "data.mdb"
    path.write_bytes(b"no database" * 1000)
    sentence, code = said("lmdb", tmp_path / "0")
    assert (sentence.startswith(f"{path} is not a sound LMDB database: "), code) == (True, 1)
    assert missing_data({"source": "lmdb", "path": str(tmp_path)}) == [
        (("path",), f"{tmp_path} is no LMDB database: it lacks data.mdb")
    ]


@pytest.mark.parametrize(
    ("source", "module", "ending", "library"),
    [("hdf5", "h5py", ".h5", "h5py"), ("parquet", "pyarrow", ".parquet", "pyarrow"), ("lmdb", "lmdb", ".mdb", "lmdb")],
)
def test_a_missing_library_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, module: str, ending: str, library: str
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / f"a{ending}").write_bytes(b"x")
    sentence, code = said(source, tmp_path / f"a{ending}")
    assert sentence.endswith(f'needs {library}, which is not installed; install it with: pip install "netc[{source}]"')
    assert code == ExitCode.ENVIRONMENT


# -- cifar100 ----------------------------------------------------------------------------------------------------


def test_cifar100_has_fine_and_coarse_labels(tmp_path: Path) -> None:
    records = np.random.default_rng(0).integers(0, 256, (6, 3074), dtype=np.uint8)
    records[:, 0], records[:, 1] = [0, 3, 19, 7, 1, 2], [99, 0, 5, 3, 42, 1]
    (tmp_path / "train.bin").write_bytes(records[:4].tobytes())
    (tmp_path / "test.bin").write_bytes(records[4:].tobytes())
    fine, coarse = opened("cifar100", tmp_path), opened("cifar100", tmp_path, labels="coarse")
    assert fine.train["label"].tolist() == [99, 0, 5, 3]
    assert coarse.test["label"].tolist() == [1, 2]
    assert (len(fine.classes), len(coarse.classes)) == (100, 20)
    assert (fine.classes[99], coarse.classes[19]) == ("worm", "vehicles_2")
    assert class_names_of({"source": "cifar100", "labels": "coarse"}) == coarse.classes
    assert fine.train["image"][2, 1, 0, 3] == records[2, 2 + 1024 + 3]
    records[1, 0] = 20
    (tmp_path / "train.bin").write_bytes(records[:4].tobytes())
    path = tmp_path / "train.bin"
    assert (
        said("cifar100", tmp_path)[0]
        == f"{path} is not of CIFAR-100: record 1 has the label 20, the classes are 0 to 19"
    )
