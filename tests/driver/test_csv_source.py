"""The source csv: classes and numbers to predict, and a sentence for whatever is wrong."""

# ruff: noqa: E501 (messages are whole sentences)

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc_runtime.data import missing_data

from .array_files import HALF, everything, opened, said

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
        (
            CSV,
            {"target": ["a", "kind"]},
            "{path}, line 2: the column kind has 'yes', where a number is needed; leave the column out of data.target, or correct the file",
            2,
        ),
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


@pytest.mark.parametrize("name", ["train-2.csv", "test.csv"])
def test_files_have_the_same_features_in_the_same_order(tmp_path: Path, name: str) -> None:
    (tmp_path / "train-1.csv").write_text(CSV)
    first, other = tmp_path / "train-1.csv", tmp_path / name
    remedy = "name those to feed in data.features, which sets their order"
    for text, said_of_them in (
        ("a,kind\n1,yes\n", f"none as feature 2, but {first} has b"),
        ("a,b,c,kind\n1,2,3,yes\n", f"c as feature 3, but {first} has none"),
        ("b,a,kind\n1,2,yes\n", f"b as feature 1, but {first} has a"),
    ):
        other.write_text(text)
        assert said("csv", tmp_path, target="kind") == (f"{other} has {said_of_them}; {remedy}", 2)
    source = opened("csv", tmp_path, target="kind", features=["a", "b"])
    assert [2, 1] in [*source.train["image"].tolist(), *source.test["image"].tolist()]


def test_a_target_with_too_many_texts_is_probably_another_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netc_runtime.data.csv_table.MOST_CLASSES", 1)
    (tmp_path / "a.csv").write_text(CSV)
    assert said("csv", tmp_path / "a.csv", target="kind", split=HALF) == (
        f"{tmp_path / 'a.csv'} has more than 1 classes; is its target really a label?",
        2,
    )


def test_a_table_needs_a_target(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    path = str(tmp_path / "a.csv")
    assert missing_data({"source": "csv", "path": path}) == [
        (("target",), 'the source "csv" needs `target`: the column of the label, or the columns to predict')
    ]
    assert missing_data({"source": "csv", "path": path, "target": "kind", "delimiter": ";;"}) == [
        (("delimiter",), "delimiter should be one character, not ';;'")
    ]


def test_large_whole_numbers_of_a_table_are_no_labels(tmp_path: Path) -> None:
    for largest, is_label in ((1 << 20, False), ((1 << 20) - 1, True), (2_000_000_000, False)):
        (tmp_path / "a.csv").write_text(f"a,b\n1,0\n2,{largest}\n")
        source = opened("csv", tmp_path / "a.csv", target="b", split=HALF)
        assert ("label" in source.train) == is_label
        assert len(source.classes) == (1 << 20 if is_label else 0)
        assert everything(source, "target").tolist() == [[0], [np.float32(largest)]]
