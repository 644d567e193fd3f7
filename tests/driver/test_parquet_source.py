"""The source parquet: files as Hugging Face lays them out, and a sentence for whatever is wrong."""

# ruff: noqa: E501 (messages are whole sentences)

import json
from pathlib import Path
from typing import Any

import pytest

from netc_runtime.data.options import LEAVE_OUT

from .array_files import HALF, encoded, opened, said

pytestmark = pytest.mark.usefixtures("cache")


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
    assert said("parquet", path) == (sentence + LEAVE_OUT, 1)
    source = opened("parquet", path, on_error="skip", split={"test": 0.34, "stratified": False})
    assert len(source.train["label"]) + len(source.test["label"]) == 3
    assert source.notes == (f"1 record was left out of the data; the first: {sentence}",)
    write_parquet(path, [*good[:3], None], [0, 1, 0, 1])
    assert said("parquet", path) == (f"{path}, row 3 has no image{LEAVE_OUT}", 1)
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
