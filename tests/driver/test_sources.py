"""The sources cifar10 and npy: the original files in every packing, and one sentence for whatever is wrong with one."""

import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc_runtime.data import check_options, missing_data, open_source, packed
from netc_runtime.data.batches import check_fit, evaluation_batches, gather
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.interface import TensorSpec

RECORD = 3073
PARTS = ("data_batch_1.bin", "data_batch_2.bin", "data_batch_5.bin", "test_batch.bin")
COUNTS = (3, 2, 4, 5)
IMAGE = TensorSpec("image", "float32", ("N", 3, 32, 32), "batch", field="image")
LABEL = TensorSpec("label", "int32", ("N",), "batch", field="label", classes=10)
PACKINGS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


def records(part: int) -> Any:
    """Sound records [n, 3073] of one file."""
    random = np.random.default_rng(part)
    found = random.integers(0, 256, (COUNTS[part], RECORD), dtype=np.uint8)
    found[:, 0] %= 10
    return found


def write_cifar(folder: Path, ending: str = "") -> Path:
    for part, name in enumerate(PARTS):
        (folder / f"{name}{ending}").write_bytes(PACKINGS[ending](records(part).tobytes()))
    return folder


def opened(folder: Path, source: str = "cifar10") -> Any:
    return open_source({"source": source, "path": str(folder), "batch_size": 2, "mean": 0, "scale": 1})


@pytest.mark.parametrize("ending", PACKINGS)
def test_cifar10_is_read_in_every_packing(tmp_path: Path, ending: str) -> None:
    source = opened(write_cifar(tmp_path, ending))
    train = np.concatenate([records(part) for part in range(3)])
    assert source.train["image"].shape == (9, 3, 32, 32)
    assert source.train["image"].dtype == source.train["label"].dtype == np.uint8
    assert source.train["label"].tolist() == train[:, 0].tolist()
    assert source.test["label"].tolist() == records(3)[:, 0].tolist()
    # Red, green and blue plane, each row by row.
    assert source.train["image"][4, 2, 31, 7] == train[4, 1 + 2 * 1024 + 31 * 32 + 7]
    assert source.classes[0] == "airplane"
    assert source.classes[9] == "truck"
    assert (len(source.classes), source.value_range) == (10, (0, 255))
    check_fit(source, (IMAGE, LABEL))


def test_packings_may_be_mixed_and_plain_files_come_first(tmp_path: Path) -> None:
    write_cifar(tmp_path, ".xz")
    (tmp_path / "data_batch_2.bin.xz").unlink()
    (tmp_path / "data_batch_2.bin.gz").write_bytes(gzip.compress(records(1).tobytes()))
    (tmp_path / "test_batch.bin").write_bytes(records(0).tobytes())
    source = opened(tmp_path)
    assert len(source.train["label"]) == 9
    assert source.test["label"].tolist() == records(0)[:, 0].tolist()


def test_an_xz_file_may_have_several_streams_and_padding(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    (tmp_path / PARTS[0]).unlink()
    content = records(0).tobytes()
    both = lzma.compress(content[:5000]) + bytes(8) + lzma.compress(content[5000:]) + bytes(4)
    (tmp_path / f"{PARTS[0]}.xz").write_bytes(both)
    assert opened(tmp_path).train["label"][:3].tolist() == records(0)[:, 0].tolist()


def test_the_original_files_are_read() -> None:
    folder = Path(__file__).parents[3] / "shared" / "data" / "cifar10"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: the original files of CIFAR-10 are not part of the repository")
    source = opened(folder)
    assert source.train["image"].shape[1:] == (3, 32, 32)
    assert len(source.train["image"]) in range(10_000, 60_000, 10_000)
    assert np.bincount(source.test["label"]).tolist() == [1000] * 10
    # The published mean of the training split is 0.4914, 0.4822, 0.4465 of white; of a part of it that is near.
    mean = source.train["image"].mean(axis=(0, 2, 3)) / 255
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=0.005)


def packed_as(ending: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Replace the first training part by a packed one with `change(its bytes)`."""

    def apply(folder: Path) -> None:
        (folder / PARTS[0]).unlink()
        (folder / f"{PARTS[0]}{ending}").write_bytes(change(PACKINGS[ending](records(0).tobytes())))

    return apply


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            packed_as("", lambda b: b[:-1]),
            "{0} is truncated or not of CIFAR-10: records of 3073 bytes expected, found 2 and 3072 bytes more; fetch "
            "it again",
        ),
        (packed_as("", lambda b: b""), "{0} is empty; fetch it again"),
        (
            packed_as("", lambda b: b[:RECORD] + b"\x0a" + b[RECORD + 1 :]),
            "{0} is not of CIFAR-10: record 1 has the label 10, the classes are 0 to 9",
        ),
        (packed_as(".gz", lambda b: b[:-9]), "{0}.gz is truncated: the end of its stream is missing; fetch it again"),
        (packed_as(".xz", lambda b: b[:-9]), "{0}.xz is truncated: the end of its stream is missing; fetch it again"),
        (packed_as(".xz", lambda b: b[:99]), "{0}.xz is truncated: the end of its stream is missing; fetch it again"),
        (packed_as(".xz", lambda b: b""), "{0}.xz is truncated: the end of its stream is missing; fetch it again"),
        (packed_as(".gz", lambda b: b""), "{0}.gz is empty; fetch it again"),
        (packed_as(".gz", lambda b: b[:-8] + bytes(8)), "{0}.gz is damaged: CRC check failed *; fetch it again"),
        (
            packed_as(".xz", lambda b: b[:500] + bytes(8) + b[508:]),
            "{0}.xz is damaged: Corrupt input data; fetch it again",
        ),
        (packed_as(".gz", lambda b: b"no gzip"), "{0}.gz is damaged: Not a gzipped file (b'no'); fetch it again"),
        (
            packed_as(".xz", lambda b: b"no stream of xz"),
            "{0}.xz is damaged: Input format not supported by decoder; fetch it again",
        ),
        (
            packed_as(".xz", lambda b: b + b"rest"),
            "{0}.xz is truncated: the end of its stream is missing; fetch it again",
        ),
        (
            packed_as(".xz", lambda b: b + b"more than a header"),
            "{0}.xz is damaged: Input format not supported by decoder; fetch it again",
        ),
    ],
)
def test_damaged_cifar10_files_are_one_sentence(tmp_path: Path, damage: Callable[[Path], None], sentence: str) -> None:
    damage(write_cifar(tmp_path))
    with pytest.raises(DamagedFileError) as caught:
        opened(tmp_path)
    begin, star, end = sentence.format(tmp_path / PARTS[0]).partition("*")
    message = str(caught.value)
    assert message.startswith(begin)
    assert message.endswith(end)
    assert star or message == begin


@pytest.mark.parametrize("ending", PACKINGS)
def test_a_file_that_unpacks_to_too_much_is_refused_before_it_fills_memory(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"bomb{ending}"
    path.write_bytes(PACKINGS[ending](bytes(3_000_000)))
    with pytest.raises(DamagedFileError, match=r"bomb\S* has more than 1000 bytes of data, which is too large"):
        packed.read_packed(path, 1000)
    assert packed.read_packed(path, 3_000_000) == bytes(3_000_000)


def test_an_xz_file_that_asks_for_too_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_XZ_MEMORY", 1 << 20)  # a preset needs 9 MiB; the real limit takes longer to reach
    (tmp_path / "x.xz").write_bytes(lzma.compress(bytes(10)))
    with pytest.raises(DamagedFileError, match=r"x\.xz is damaged: Memory usage limit exceeded; fetch it again"):
        packed.read_packed(tmp_path / "x.xz", 1000)


def test_a_folder_without_the_cifar10_files_names_them(tmp_path: Path) -> None:
    def said(path: Any) -> str:
        data = {"source": "cifar10", "path": path}
        (((key,), sentence),) = check_options(data) + missing_data(data)
        assert key == "path"
        return sentence

    write_cifar(tmp_path)
    (tmp_path / PARTS[3]).unlink()
    assert said(str(tmp_path)) == f"{tmp_path} lacks test_batch.bin (each plain, with .gz or with .xz)"
    for name in PARTS[:3]:
        (tmp_path / name).unlink()
    assert said(str(tmp_path)) == (
        f"{tmp_path} lacks data_batch_1.bin to data_batch_5.bin, of which one is enough, test_batch.bin (each "
        f"plain, with .gz or with .xz)"
    )
    assert said(None) == (
        'the source "cifar10" needs `path`: the folder with the CIFAR-10 files; or fetch them with: netc data fetch '
        "cifar10"
    )
    assert said(3) == "path should be the folder with the CIFAR-10 files, as a text, not 3"
    assert said("/nowhere/at/all") == "/nowhere/at/all does not exist"
    assert said(__file__) == f"{__file__} is not a folder"


FIELDS = {"image": np.float32, "edge": np.uint8, "weight": np.float64}


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """7 training and 4 test samples of three fields."""
    random = np.random.default_rng(2)
    for part, count in (("train", 7), ("test", 4)):
        (tmp_path / part).mkdir()
        for field, dtype in FIELDS.items():
            shape = (count,) if field == "weight" else (count, 2, 3, 5)
            np.save(tmp_path / part / f"{field}.npy", random.integers(0, 2, shape).astype(dtype))
    return tmp_path


def test_npy_fields_are_mapped_and_fed(arrays: Path) -> None:
    source = opened(arrays, "npy")
    assert set(source.train) == set(FIELDS)
    assert source.classes == ()
    for part, split in (("train", source.train), ("test", source.test)):
        for field, dtype in FIELDS.items():
            assert isinstance(split[field], np.memmap)
            assert split[field].dtype == dtype
            np.testing.assert_array_equal(split[field], np.load(arrays / part / f"{field}.npy"))
    with pytest.raises(ValueError, match="read-only"):
        source.train["image"][0] = 1
    inputs = (
        TensorSpec("image", "float32", ("N", 2, 3, 5), "batch", field="image"),
        TensorSpec("edges", "int64", ("N", 2, 3, 5), "batch", field="edge", classes=2),
        TensorSpec("weight", "float32", ("N",), "batch", field="weight"),
    )
    check_fit(source, inputs)
    batch = gather(source.train, inputs, np.array([5, 1]))
    np.testing.assert_array_equal(batch["edges"], source.train["edge"][[5, 1]])
    parts = list(evaluation_batches(source.test, inputs, 3))
    assert [len(part["weight"]) for part in parts] == [3, 1]
    assert parts[0]["edges"].dtype == np.int64


def test_other_files_and_byte_orders_do_no_harm(arrays: Path) -> None:
    (arrays / "train" / ".partial.npy").write_bytes(b"")
    (arrays / "train" / "notes.txt").write_bytes(b"")
    (arrays / "train" / "folder.npy").mkdir()
    image = np.asfortranarray(np.arange(7 * 30).reshape(7, 2, 3, 5).astype(">f8"))
    np.save(arrays / "train" / "image.npy", image)
    source = opened(arrays, "npy")
    assert set(source.train) == set(FIELDS)
    inputs = (TensorSpec("image", "float32", ("N", 2, 3, 5), "batch", field="image"),)
    check_fit(source, inputs)
    (batch,) = evaluation_batches(source.train, inputs, 8)
    np.testing.assert_array_equal(batch["image"], image.astype(np.float32))


def test_images_of_npy_are_resized_and_what_is_none_is_a_sentence(arrays: Path) -> None:
    data = {"source": "npy", "path": str(arrays), "resize": [6, 10]}
    assert open_source(data).train["image"].shape == (7, 2, 6, 10)
    np.save(arrays / "test" / "image.npy", np.zeros((4, 30)))
    with pytest.raises(DriverError) as caught:
        open_source(data)
    assert str(caught.value) == (
        "data.resize: the data source gives an image of a sample as [30], where [channels, height, width] can be "
        "resized; leave out resize"
    )
    for part in ("train", "test"):
        (arrays / part / "image.npy").unlink()
    with pytest.raises(DriverError, match=r"^data\.resize: the data source gives no image at all, where") as caught:
        open_source(data)
    assert caught.value.exit_code == ExitCode.USAGE


def saved(array: Any) -> Callable[[Path], None]:
    return lambda path: np.save(path, array)


def written(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return apply


@pytest.mark.parametrize(
    ("damage", "sentence", "code"),
    [
        (saved(np.array([{}] * 7)), "{edge} holds Python objects; real numbers are needed", 1),
        (saved(np.array(["x"] * 7)), "{edge} holds <U1 values; real numbers are needed", 1),
        (saved(np.zeros(7, complex)), "{edge} holds complex128 values; real numbers are needed", 1),
        (saved(np.zeros(7, "M8[s]")), "{edge} holds datetime64[s] values; real numbers are needed", 1),
        (saved(np.zeros(7, [("a", "f4")])), "{edge} holds [('a', '<f4')] values; real numbers are needed", 1),
        (saved(np.zeros(())), "{edge} holds an array []: no sample at all", 1),
        (saved(np.zeros((0, 3))), "{edge} holds an array [0, 3]: no sample at all", 1),
        (saved(np.zeros((7, 0))), "{edge} holds an array [7, 0]: no sample at all", 1),
        (
            saved(np.zeros(6)),
            "{edge} holds 6 samples but {image} holds 7; all fields of a split need the same samples",
            1,
        ),
        (written(lambda b: b[:-1]), "{edge} is not an array that numpy can read: mmap length is greater than*", 1),
        (written(lambda b: b + b"x"), "{edge} is damaged: 338 bytes expected, 339 found", 1),
        (written(lambda b: b""), "{edge} is not an array that numpy can read: *", 1),
        (written(lambda b: b"PK\x03\x04" + b), "{edge} is not an array that numpy can read: *", 1),
        (written(lambda b: b"\x80\x04." + b), "{edge} is not an array that numpy can read: *", 1),
        (written(lambda b: b.replace(b"(7, 2", b"(9**9**9, 2")), "{edge} is not an array that numpy can read: *", 1),
    ],
)
def test_wrong_npy_files_are_one_sentence(
    arrays: Path, damage: Callable[[Path], None], sentence: str, code: int
) -> None:
    edge, image = arrays / "train" / "edge.npy", arrays / "train" / "image.npy"
    damage(edge)
    with pytest.raises(DriverError) as caught:
        opened(arrays, "npy")
    begin, star, _ = sentence.format(edge=edge, image=image).partition("*")
    assert str(caught.value).startswith(begin)
    assert "\n" not in str(caught.value)
    assert star or str(caught.value) == begin
    assert caught.value.exit_code == code


def test_objects_are_never_unpickled(arrays: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(arrays / "exploded"),)

    np.save(arrays / "train" / "edge.npy", np.array([Bomb()] * 7), allow_pickle=True)
    with pytest.raises(DriverError, match="holds Python objects"):
        opened(arrays, "npy")
    assert not (arrays / "exploded").exists()


def test_a_folder_of_npy_files_needs_both_parts_and_the_same_fields(arrays: Path) -> None:
    def said(path: Any) -> str:
        data = {"source": "npy", "path": path}
        (((key,), sentence),) = check_options(data) + missing_data(data)
        assert key == "path"
        return sentence

    (arrays / "test" / "edge.npy").unlink()
    assert said(str(arrays)) == (
        f"{arrays / 'test'} lacks edge.npy, which {arrays / 'train'} has: both parts need the same fields"
    )
    for path in (arrays / "train").iterdir():
        path.unlink()
    (arrays / "train").rmdir()
    assert said(str(arrays)) == f"{arrays / 'train'} holds no FIELD.npy, such as {arrays / 'train' / 'image.npy'}"
    assert said("") == 'the source "npy" needs `path`: the folder with train/FIELD.npy and test/FIELD.npy'
    assert said(["x"]) == "path should be the folder with train/FIELD.npy and test/FIELD.npy, as a text, not ['x']"
    assert said("/nowhere/at/all") == "/nowhere/at/all does not exist"
    assert said(__file__) == f"{__file__} is not a folder"


def test_large_data_are_checked_in_parts(arrays: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netc_runtime.data.batches._CHECKED_VALUES", 60)  # two samples
    image = np.zeros((7, 2, 3, 5), np.float32)
    image[5, 1, 2, 4] = np.inf
    np.save(arrays / "train" / "image.npy", image)
    spec = TensorSpec("image", "float32", ("N", 2, 3, 5), "batch", field="image")
    with pytest.raises(DriverError, match=r"^sample 5 of the train split has a value of \"image\" that is not finite$"):
        check_fit(opened(arrays, "npy"), (spec,))
