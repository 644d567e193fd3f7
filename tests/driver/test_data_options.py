"""Options that all data sources share: what is refused, how samples are divided, chosen and limited."""

# ruff: noqa: E501 (messages are whole sentences)

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc_runtime.data import SOURCES, check_options, class_names_of, open_source
from netc_runtime.data import rows as rows_module
from netc_runtime.data.options import Division
from netc_runtime.data.rows import Rows, changed, mapped, select
from netc_runtime.data.splits import divided
from netc_runtime.errors import DriverError, ExitCode


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"split": 0.2}, "split should be how to draw the test split from the training samples, such as {test: 0.2, seed: 0}, not 0.2"),
        ({"split": {"tets": 0.2}}, 'split has no key "tets"; did you mean "test"?'),
        ({"split": {"test": 1}}, "split.test should be the fraction of samples to test with, 0 to 1, not 1"),
        ({"split": {"test": True}}, "split.test should be the fraction of samples to test with, 0 to 1, not True"),
        ({"split": {"test": float("nan")}}, "split.test should be the fraction of samples to test with, 0 to 1, not nan"),
        ({"split": {"seed": -1}}, "split.seed should be a whole number from 0 on, not -1"),
        ({"split": {"stratified": "yes"}}, "split.stratified should be true or false, not 'yes'"),
        ({"classes": []}, "classes should be which classes to keep, by name or number, as a list of different names or numbers, not []"),
        ({"classes": [1, 1]}, "classes should be which classes to keep, by name or number, as a list of different names or numbers, not [1, 1]"),
        ({"limit": 0}, "limit should be how many training samples to keep, 1 or more, not 0"),
    ],
)  # fmt: skip
def test_wrong_values_of_common_options_are_one_sentence(option: dict[str, Any], sentence: str) -> None:
    (key,) = option
    assert check_options({"source": "digits", **option}) == [((key,), sentence)]


def data(classes: tuple[int, ...]) -> dict[str, Any]:
    labels = np.repeat(np.arange(len(classes)), classes)
    return {"image": np.arange(len(labels)).reshape(-1, 1, 1, 1), "label": labels}


def test_a_stratified_split_takes_from_each_class_alike_and_never_changes() -> None:
    split = data((20, 10, 5))
    train, test = divided(split, Division(0.2, 0))
    assert np.bincount(test["label"][:]).tolist() == [4, 2, 1]
    assert np.bincount(train["label"][:]).tolist() == [16, 8, 4]
    everything = sorted([*train["image"][:].ravel(), *test["image"][:].ravel()])
    assert everything == list(range(35))
    np.testing.assert_array_equal(split["label"][test["image"][:].ravel()], test["label"][:])
    # Fixed for ever: figures of users depend on it.
    assert test["image"][:].ravel().tolist() == STRATIFIED
    others = [divided(split, Division(0.2, seed))[1]["image"][:].ravel().tolist() for seed in (0, 1)]
    assert others[0] == STRATIFIED
    assert others[1] != STRATIFIED


STRATIFIED = [0, 2, 11, 17, 20, 21, 32]


def test_a_split_need_not_be_stratified() -> None:
    labels = np.repeat(np.arange(50), 2)
    _, test = divided({"label": labels}, Division(0.1, 3, stratified=False))
    assert len(test["label"]) == 10
    with pytest.raises(
        DriverError, match=r"^data.split: a test fraction of 0.1 of 100 samples leaves 100 to train and"
    ):
        divided({"label": labels}, Division(0.1, 3))
    dense = {"label": np.zeros((10, 4, 4), np.uint8)}
    assert len(divided(dense, Division(0.2))[1]["label"]) == 2
    with pytest.raises(
        DriverError, match=r"^data.split: stratified needs one label a sample, which the data source do"
    ):
        divided(dense, Division(0.2, stratified=True))


def test_a_split_leaves_the_test_samples_of_the_source_alone() -> None:
    whole = open_source({"source": "digits"})
    again = open_source({"source": "digits", "split": {"test": 0.25}})
    assert len(again.train["label"]) + len(again.test["label"]) == len(whole.train["label"]) == 1437
    digest = {image.tobytes() for image in np.asarray(whole.test["image"])}
    assert not any(image.tobytes() in digest for image in np.asarray(again.test["image"]))


def test_classes_are_chosen_by_name_or_number_and_labelled_in_their_order() -> None:
    whole = open_source({"source": "digits"})
    few = open_source({"source": "digits", "classes": ["7", 1], "limit": 30})
    assert few.classes == ("7", "1") == class_names_of({"source": "digits", "classes": ["7", 1]})
    assert len(few.train["label"]) == 30
    test = np.asarray(whole.test["label"])
    kept = (test == 7) | (test == 1)
    np.testing.assert_array_equal(few.test["label"], (test[kept] == 1).astype(int))
    np.testing.assert_array_equal(few.test["image"], np.asarray(whole.test["image"])[kept])
    for classes, said in (
        (["x"], "data.classes: the data source has no class x; known: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        ([10], "data.classes: the data source has no class 10; they are 0 to 9"),
        (["1", 1], "data.classes: a class is named twice, by name and by number"),
    ):
        with pytest.raises(DriverError) as caught:
            open_source({"source": "digits", "classes": classes})
        assert (str(caught.value), caught.value.exit_code) == (said, ExitCode.USAGE)


def test_every_option_is_told_once_and_has_a_sentence() -> None:
    for name, source in SOURCES.items():
        for option in source.options:
            ((key, *_), sentence), *_ = [*check_options({"source": name, option.name: object()}), (("",), "")]
            assert key == option.name
            assert sentence.startswith(f"{option.name} should be {option.about}, ")


def test_rows_behave_like_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the part that is asked for, and however little may be held, it is that of the array."""
    monkeypatch.setattr(rows_module, "KEPT", 0)
    monkeypatch.setattr(rows_module, "_HELD", 3000)
    monkeypatch.setattr(rows_module, "_NEIGHBOURS", 1000)
    monkeypatch.setattr(rows_module, "_CHUNK_BYTES", 200)
    array = np.random.default_rng(0).integers(0, 256, (50, 3, 4), dtype=np.uint8)
    np.save(tmp_path / "a.npy", array)
    lazy = mapped(np.lib.format.open_memmap(tmp_path / "a.npy", mode="r"))
    assert isinstance(lazy, Rows)
    order = np.random.default_rng(1).permutation(50)[:30]
    for field, same in (
        (lazy, array),
        (select(lazy, order), array[order]),
        (select(select(lazy, order), np.array([3, 3, 0])), array[order][[3, 3, 0]]),
        (changed(lazy, lambda some: some[:, :1] / 2), array[:, :1] / 2),
    ):
        assert (field.shape, field.ndim, field.dtype, len(field)) == (same.shape, same.ndim, same.dtype, len(same))
        assert field.nbytes == same.nbytes
        np.testing.assert_array_equal(field, same)
        np.testing.assert_array_equal(field[2], same[2])
        np.testing.assert_array_equal(field[-1], same[-1])
        np.testing.assert_array_equal(field[1:], same[1:])
        np.testing.assert_array_equal(field[5:2], same[5:2])
        np.testing.assert_array_equal(field[np.array([2, 0, 1, 1])], same[[2, 0, 1, 1]])
        np.testing.assert_array_equal(field[same[:, 0, 0] > 9], same[same[:, 0, 0] > 9])
        with pytest.raises(IndexError):
            field[np.array([len(same)])]


def test_large_images_are_resized_as_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        np.save(tmp_path / part / "image.npy", np.random.default_rng(0).integers(0, 256, (9, 1, 6, 6), dtype=np.uint8))
    section = {"source": "npy", "path": str(tmp_path), "resize": [3, 4]}
    small = open_source(section).train["image"]
    monkeypatch.setattr(rows_module, "KEPT", 0)
    large = open_source(section).train["image"]
    assert isinstance(large, Rows)
    np.testing.assert_array_equal(np.asarray(large), small)
