"""Data sources: what bad options and damaged files say, splits that never change, resizing as torch does."""

import gzip
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from netc_runtime.data import SOURCES, check_options, missing_data, open_source
from netc_runtime.data.base import Problem, Split
from netc_runtime.data.batches import check_fit, evaluation_batches, gather, steps_per_epoch
from netc_runtime.data.digits import Digits
from netc_runtime.data.order import permutation
from netc_runtime.data.resize import resize_bilinear
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.interface import TensorSpec

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
KNOWN = ", ".join(sorted(SOURCES))
NEEDED = (
    'the source "mnist" needs `path`: the folder with the four IDX files; or fetch them with: netc data fetch mnist'
)
IMAGE = TensorSpec("image", "float32", ("N", 1, 4, 3), "batch", field="image")
LABEL = TensorSpec("label", "int32", ("N",), "batch", field="label", classes=10)


def idx_bytes(array: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four sound IDX files: 12 training and 5 test images of 4 x 3."""
    random = np.random.default_rng(0)
    for names, count in ((NAMES[:2], 12), (NAMES[2:], 5)):
        (tmp_path / names[0]).write_bytes(idx_bytes(random.integers(0, 256, (count, 4, 3), dtype=np.uint8)))
        (tmp_path / names[1]).write_bytes(idx_bytes(np.arange(count, dtype=np.uint8) % 10))
    return tmp_path


def test_digits_have_a_fixed_split() -> None:
    source = open_source({"source": "digits"})
    assert source.train["image"].shape == (1437, 1, 8, 8)
    assert source.test["image"].shape == (360, 1, 8, 8)
    assert source.train["image"].dtype == np.uint8
    assert source.classes == tuple("0123456789")
    # Fixed for ever: published accuracies depend on it.
    assert source.test["label"][:12].tolist() == FIRST_LABELS
    everything = np.concatenate([source.train["image"], source.test["image"]]).reshape(-1, 64)
    assert len(np.unique(everything, axis=0)) == len(everything)


FIRST_LABELS = [1, 8, 4, 1, 7, 7, 8, 1, 5, 4, 3, 2]


def test_permutations_are_fixed_and_differ_by_seed_and_epoch() -> None:
    assert permutation(7, 3, 8).tolist() == [2, 5, 7, 3, 0, 6, 4, 1]
    assert sorted(permutation(5, 2, 1000)) == list(range(1000))
    orders = {tuple(permutation(seed, epoch, 50)) for seed in (0, 1, 2**64 - 1) for epoch in range(3)}
    assert len(orders) == 9


def test_a_limit_keeps_the_same_few_training_samples_of_idx_files(folder: Path) -> None:
    data = {"source": "idx", "path": str(folder)}
    whole, few, fewer = (open_source(data | {"limit": limit}) for limit in (None, 6, 3))
    order = permutation(0, 0, 12)
    for name in ("image", "label"):
        np.testing.assert_array_equal(few.train[name], whole.train[name][order[:6]])
        np.testing.assert_array_equal(fewer.train[name], few.train[name][:3])
        np.testing.assert_array_equal(few.test[name], whole.test[name])
    with pytest.raises(DriverError, match="has 12 training samples, fewer than the limit 13; lower or remove it"):
        open_source(data | {"limit": 13})
    for limit in (0, -1, 2.0, "all", True):
        ((path, sentence),) = check_options(data | {"limit": limit})
        assert path == ("limit",)
        assert sentence == f"limit should be how many training samples to keep, 1 or more, not {limit!r}"


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_are_read_plain_or_zipped(folder: Path, zipped: bool) -> None:
    expected = np.frombuffer((folder / NAMES[0]).read_bytes()[16:], np.uint8).reshape(12, 1, 4, 3)
    if zipped:
        for name in NAMES:
            (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
            (folder / name).unlink()
    source = open_source({"source": "idx", "path": str(folder), "batch_size": 4, "mean": 0, "scale": 1})
    np.testing.assert_array_equal(source.train["image"], expected)
    assert source.test["label"][:].tolist() == [0, 1, 2, 3, 4]
    assert source.classes == tuple("0123456789")
    check_fit(source, (IMAGE, LABEL))
    assert open_source({"source": "fashion_mnist", "path": str(folder)}).classes[9] == "Ankle boot"


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_original_files_are_read(name: str) -> None:
    folder = Path(__file__).parents[3] / "shared" / "data" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: the original files of {name} are not part of the repository")
    source = open_source({"source": name, "path": str(folder)})
    assert source.train["image"].shape == (60_000, 1, 28, 28)
    assert source.test["image"].shape == (10_000, 1, 28, 28)
    assert set(source.test["label"][:]) == set(range(10))


def zipped_in_place(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Replace the training images by a gzip file of `change(its bytes)`."""

    def apply(folder: Path) -> None:
        content = change(gzip.compress((folder / NAMES[0]).read_bytes()))
        (folder / NAMES[0]).unlink()
        (folder / f"{NAMES[0]}.gz").write_bytes(content)

    return apply


def changed(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return apply


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            changed(NAMES[0], lambda b: b[:-10]),
            "{0} is truncated: 144 bytes of data expected, 134 found",
        ),
        (changed(NAMES[0], lambda b: b + b"x"), "{0} is damaged: 144 bytes of data expected, more found"),
        (
            changed(NAMES[0], lambda b: b[:9]),
            "{0} is truncated: a header of 16 bytes expected, 9 found",
        ),
        (
            changed(NAMES[0], lambda b: b"\x89PNG" + b[4:]),
            "{0} is not an IDX file of unsigned bytes with 3 axes: it should begin with 00 00 08 03, not 89 50 4e 47",
        ),
        (
            changed(NAMES[1], lambda b: b""),
            "{1} is not an IDX file of unsigned bytes with 1 axes: it should begin with 00 00 08 01, not nothing",
        ),
        (
            changed(NAMES[0], lambda b: idx_bytes(np.zeros((0, 4, 3), np.uint8))),
            "{0} is empty: its header says [0, 4, 3]",
        ),
        (
            changed(NAMES[0], lambda b: b[:4] + b"\xff" * 12 + b[16:]),
            "{0} claims 79228162458924105385300197375 bytes of data, the limit is 2147483648",
        ),
        (
            changed(NAMES[0], lambda b: b[:4] + struct.pack(">3I", 60000, 28, 28) + b[16:]),
            "{0} is truncated: 47040000 bytes of data expected, 144 found",
        ),
        (
            changed(NAMES[1], lambda b: idx_bytes(np.zeros(11, np.uint8))),
            "{0} holds 12 images but {1} holds 11 labels; they must be of one set",
        ),
        (zipped_in_place(lambda b: b[:60]), "{0}.gz is truncated: 144 bytes of data expected, *"),
        (
            zipped_in_place(lambda b: b[:-3]),
            "{0}.gz is truncated: the end of its gzip stream is missing; fetch it again",
        ),
        (zipped_in_place(lambda b: b[:-8] + bytes(8)), "{0}.gz is damaged: CRC check failed *; fetch it again"),
        (zipped_in_place(lambda b: b"no gzip"), "{0}.gz is damaged: Not a gzipped file (b'no'); fetch it again"),
    ],
)
def test_damaged_idx_files_are_one_sentence(folder: Path, damage: Callable[[Path], None], sentence: str) -> None:
    damage(folder)
    with pytest.raises(DriverError) as caught:
        open_source({"source": "mnist", "path": str(folder)})
    assert caught.value.exit_code == ExitCode.FAILED
    begin, star, end = sentence.format(*(folder / name for name in NAMES)).partition("*")
    message = str(caught.value)
    assert message.startswith(begin)
    assert message.endswith(end)
    assert star or message == begin


@pytest.mark.parametrize(
    ("data", "problems"),
    [
        ({"source": "digits", "resize": [28, 28], "batch_size": 64, "mean": 0, "scale": 1, "path": None}, []),
        ({}, [(("source",), f"a source is needed; known: {KNOWN}")]),
        ({"source": "digit"}, [(("source",), 'unknown source "digit"; did you mean "digits"?')]),
        (
            {"source": "zzz"},
            [(("source",), f'unknown source "zzz"; known: {KNOWN}')],
        ),
        (
            {"source": "digits", "path": "x"},
            [
                (
                    ("path",),
                    'unknown option "path" of the source "digits"; known: augment, batch_size, classes, limit, '
                    "mean, range, resident, resize, scale, source, split, std, test_views",
                )
            ],
        ),
        (
            {"source": "mnist", "pth": "x"},
            [
                (("pth",), 'unknown option "pth" of the source "mnist"; did you mean "path"?'),
                (("path",), NEEDED),
            ],
        ),
        ({"source": "mnist", "path": "/nowhere/at/all"}, [(("path",), "/nowhere/at/all does not exist")]),
        ({"source": "mnist", "path": __file__}, [(("path",), f"{__file__} is not a folder")]),
        (
            {"source": "digits", "resize": [28, 0]},
            [(("resize",), "resize should be [height, width] in pixels, at least 1, not [28, 0]")],
        ),
    ],
)
def test_options_are_checked_without_data(data: Mapping[str, Any], problems: list[Problem]) -> None:
    assert check_options(data) + missing_data(data) == problems
    if problems:
        with pytest.raises(DriverError) as caught:
            open_source(data)
        assert caught.value.exit_code == ExitCode.USAGE
        assert str(caught.value) == "\n".join(f"data.{path[0]}: {sentence}" for path, sentence in problems)


def test_a_folder_without_the_files_names_them(folder: Path) -> None:
    (folder / NAMES[2]).unlink()
    (folder / NAMES[3]).unlink()
    sentence = f"{folder} lacks {NAMES[2]}, {NAMES[3]} (each plain, with .gz or with .xz)"
    assert missing_data({"source": "idx", "path": str(folder)}) == [(("path",), sentence)]


def test_every_source_has_its_range_and_checks_its_options() -> None:
    for name, source in SOURCES.items():
        assert source.value_range[0] < source.value_range[1]
        assert source.about
        assert len({option.name for option in source.options}) == len(source.options)
        assert check_options({"source": name, **{o.name: o.default for o in source.options}}) == []


@pytest.mark.parametrize("size", [(28, 28), (3, 20), (8, 8), (1, 1), (32, 5)])
def test_resizing_equals_torch(size: tuple[int, int]) -> None:
    images = np.random.default_rng(1).integers(0, 256, (1030, 2, 8, 9), dtype=np.uint8)
    tensor = torch.from_numpy(images.astype(np.float32))
    expected = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear", align_corners=False)
    result = resize_bilinear(images, *size)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected.numpy(), rtol=1e-5, atol=1e-4)


def test_resizing_to_a_monstrous_size_is_refused() -> None:
    with pytest.raises(
        DriverError, match=r"^data\.resize: 1437 images resized to \[50000, 50000\] would take 13383 GiB"
    ):
        open_source({"source": "digits", "resize": [50000, 50000]})


def fitting(image: Any = None, label: Any = None) -> Digits:
    split = {
        "image": np.zeros((6, 1, 4, 3), np.float32) if image is None else image,
        "label": np.arange(6) if label is None else label,
    }
    return Digits(split, split, tuple("0123456789"))


def with_nan() -> Any:
    images = np.zeros((6, 1, 4, 3), np.float32)
    images[4, 0, 1, 2] = np.nan
    return images


@pytest.mark.parametrize(
    ("source", "inputs", "sentence"),
    [
        (
            fitting(image=np.zeros((6, 1, 5, 5))),
            (IMAGE,),
            'the data source gives "image" as [1, 5, 5], the input "image" is declared as [1, 4, 3]; '
            "set data.resize: [4, 3]",
        ),
        (
            fitting(image=np.zeros((6, 3, 4, 3))),
            (IMAGE,),
            'the data source gives "image" as [3, 4, 3], the input "image" is declared as [1, 4, 3]; '
            "declare the input with shape: [3, 4, 3]",
        ),
        (
            fitting(image=np.zeros((6, 4, 4, 3))),
            (IMAGE,),
            'the data source gives "image" as [4, 4, 3], the input "image" is declared as [1, 4, 3]; '
            "store channels first, as [3, 4, 4]",
        ),
        (
            fitting(label=np.eye(6)),
            (LABEL,),
            'the data source gives "label" as [6], the input "label" is declared as []; '
            "store class numbers, not a vector for each sample",
        ),
        (
            fitting(),
            (TensorSpec("depth", "float32", (8, 1), "batch", field="depth"),),
            'the input "depth" needs the field "depth", which the data source lacks; it has: image, label',
        ),
        (fitting(image=with_nan()), (IMAGE,), 'sample 4 of the train split has a value of "image" that is not finite'),
        (
            fitting(label=np.array([0, 1, 2, 10, 4, -1])),
            (LABEL,),
            "sample 3 of the train split has the label 10, but the spec declares 10 classes (0 to 9); "
            "correct `classes` of the input, or give every loss and metric of it that ignore_label",
        ),
        (
            fitting(label=np.array([0, 1, 2, 3, 4, -1])),
            (LABEL,),
            "sample 5 of the train split has the label -1, but the spec declares 10 classes (0 to 9); "
            "correct `classes` of the input, or give every loss and metric of it that ignore_label",
        ),
    ],
)
def test_data_that_does_not_fit_is_one_sentence(source: Digits, inputs: tuple[TensorSpec, ...], sentence: str) -> None:
    with pytest.raises(DriverError) as caught:
        check_fit(source, inputs)
    assert str(caught.value) == sentence


def test_training_drops_an_incomplete_batch_and_evaluation_does_not() -> None:
    assert steps_per_epoch(20, 6) == 3
    with pytest.raises(DriverError, match="has 5 samples, fewer than one batch of 6; choose a batch_size of at most 5"):
        steps_per_epoch(5, 6)
    split: Split = {"image": np.arange(10, dtype=np.uint8).reshape(10, 1), "label": np.arange(10)}
    inputs = (TensorSpec("x", "float32", ("N", 1), "batch", field="image"), LABEL)
    batches = list(evaluation_batches(split, inputs, 4))
    assert [len(batch["x"]) for batch in batches] == [4, 4, 2]
    assert [batches[0][name].dtype.name for name in ("x", "label")] == ["float32", "int32"]
    assert batches[2]["label"].tolist() == [8, 9]
    assert gather(split, inputs, np.array([7, 2]))["label"].tolist() == [7, 2]


def test_data_and_artifact_need_no_onnxruntime() -> None:
    program = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "import netc_runtime.artifact, netc_runtime.data, netc_runtime.trainer, netc_runtime.export\n"
        "assert netc_runtime.data.check_options({'source': 'digits'}) == []\n"
        "assert not any(name == 'netc' or name.startswith('netc.') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": ":".join(sys.path)}, check=True)
