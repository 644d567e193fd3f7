"""The sources image_folder and image_list: what is read, the cache, worker processes, and a sentence for bad images."""

# ruff: noqa: E501 (messages are whole sentences)

import json
import os
import shutil
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from netc_runtime.data import cache as cache_module
from netc_runtime.data import class_names_of, image_files, missing_data, open_source
from netc_runtime.data.cache import cached
from netc_runtime.data.options import LEAVE_OUT
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode

COUNT = 6  # images of each class


@pytest.fixture
def folder(tmp_path: Path, cache: Path) -> Path:
    """Two classes of six colour images of 4 x 5 pixels."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(COUNT):
            pixels = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{index}.png")
    return tmp_path / "images"


def opened(path: Path, source: str = "image_folder", **options: Any) -> Any:
    return open_source({"source": source, "path": str(path), "split": {"test": 0.34}, **options})


def pixels(path: Path) -> Any:
    """Return an image as [3, H, W], by another way than the source takes."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def said(folder: Path, source: str = "image_folder", **options: Any) -> str:
    with pytest.raises(DriverError) as caught:
        opened(folder, source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_for_each_class(folder: Path) -> None:
    (folder / ".hidden").mkdir()
    (folder / "cat" / "notes.txt").write_text("no image")
    (folder / "dog" / "more").mkdir()
    shutil.move(folder / "dog" / "5.png", folder / "dog" / "more" / "5.PNG")
    source = opened(folder)
    assert source.classes == ("cat", "dog") == class_names_of({"source": "image_folder", "path": str(folder)})
    assert (len(source.train["label"]), len(source.test["label"])) == (8, 4)
    files = [
        *(folder / "cat" / f"{i}.png" for i in range(COUNT)),
        *(folder / "dog" / f"{i}.png" for i in range(COUNT - 1)),
    ]
    expected = {pixels(path).tobytes(): path.parent.name for path in files}
    expected[pixels(folder / "dog" / "more" / "5.PNG").tobytes()] = "dog"
    for split in (source.train, source.test):
        assert split["image"].dtype == np.uint8
        for image, label in zip(split["image"], split["label"], strict=True):
            assert expected.pop(image.tobytes()) == source.classes[label]
    assert not expected


def test_given_splits_share_the_classes_of_the_training_images(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    shutil.copytree(folder, tmp_path / "both" / "train")
    (tmp_path / "both" / "val" / "dog").mkdir(parents=True)
    shutil.copy(folder / "dog" / "0.png", tmp_path / "both" / "val" / "dog")
    source = open_source({"source": "image_folder", "path": str(tmp_path / "both")})
    assert len(source.train["label"]) == 12
    assert source.test["label"][:].tolist() == [1]
    (tmp_path / "both" / "val" / "fox").mkdir()
    with pytest.raises(
        DriverError, match=r"fox is a class that the training images do not have; they have cat, dog$"
    ) as caught:
        open_source({"source": "image_folder", "path": str(tmp_path / "both")})
    assert caught.value.exit_code == ExitCode.FAILED


def test_images_are_resized_and_made_grey_as_pillow_does(folder: Path) -> None:
    source = opened(folder, resize=[2, 3], channels=1, split={"test": 0.34, "seed": 1})
    assert source.train["image"].shape == (8, 1, 2, 3)
    with Image.open(folder / "cat" / "0.png") as image:
        expected = np.asarray(image.convert("L").resize((3, 2), Image.Resampling.BILINEAR), np.int16)
    every = np.concatenate([np.asarray(source.train["image"]), np.asarray(source.test["image"])]).astype(np.int16)
    # Pillow resizes bytes with rounded weights, this source floats: they may differ by one.
    assert (np.abs(every[:, 0] - expected).max(axis=(1, 2)) <= 1).sum() == 1


def test_deep_grey_keeps_its_white(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "d" / "a").mkdir(parents=True)
    for index in range(4):
        Image.fromarray(np.array([[0, 257 * index, 65535]], np.uint16)).save(tmp_path / "d" / "a" / f"{index}.png")
    images = np.asarray(opened(tmp_path / "d", channels=1, split={"test": 0.25}).train["image"])
    assert (images[:, 0, 0, 0] == 0).all()
    assert (images[:, 0, 0, 2] == 255).all()
    assert set(images[:, 0, 0, 1]) < {0, 1, 2, 3}


@pytest.mark.parametrize(("least", "most"), [(-1, 5), (0, 65_536)])
def test_grey_of_32_bits_does_not_wrap(tmp_path: Path, cache: Path, least: int, most: int) -> None:
    path = tmp_path / "d" / "a" / "0.tif"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.array([[least, most]], np.int32)).save(path)
    sentence = f"{path} has grey values from {least} to {most}, where black is 0 and white 65535"
    assert said(tmp_path / "d") == sentence + LEAVE_OUT
    Image.fromarray(np.array([[0, 65_535]], np.int32)).save(path)
    shutil.copy(path, path.with_name("1.tif"))
    assert opened(tmp_path / "d", channels=1, split={"test": 0.5}).train["image"][0].tolist() == [[[0, 255]]]


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


def test_decoded_images_are_kept_until_what_they_are_made_of_changes(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = np.asarray(opened(folder).train["image"])
    (entry,) = entries(cache)
    monkeypatch.setattr(image_files, "_make", lambda *_: pytest.fail("decoded again"))
    np.testing.assert_array_equal(opened(folder).train["image"], first)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parents[1]))
    opened(folder, channels=1)
    opened(folder, resize=[2, 2])
    assert len(entries(cache)) == 3
    path = folder / "cat" / "0.png"
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(path)
    os.utime(path, ns=(1, 1))
    changed = opened(folder)
    assert len(entries(cache)) == 4
    assert sum(not image.any() for part in (changed.train, changed.test) for image in part["image"]) == 1
    assert entry in entries(cache)


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / "image.npy").write_bytes((entry / "image.npy").read_bytes()[:-1]),
        lambda entry: (entry / "image.npy").write_bytes((entry / "image.npy").read_bytes()[:-1] + b"\x00"),
        lambda entry: (entry / "image.npy").unlink(),
        lambda entry: (entry / "entry.json").write_text("{"),
        lambda entry: (entry / "entry.json").write_text('{"files": {"../image.npy": 1}, "notes": {}}'),
        lambda entry: (entry / "entry.json").write_text("[" * 100_000),
        lambda entry: (entry / "entry.json").unlink(),
        shutil.rmtree,
    ],
)
def test_a_damaged_cache_is_made_anew(folder: Path, cache: Path, damage: Callable[[Path], Any]) -> None:
    Image.fromarray(np.full((4, 5, 3), 255, np.uint8)).save(folder / "dog" / "5.png")  # its last byte is not 0
    first = np.asarray(opened(folder).train["image"])
    (entry,) = cache.iterdir()
    damage(entry)
    np.testing.assert_array_equal(opened(folder).train["image"], first)
    assert entries(cache) == [entry.name]


def test_nothing_is_left_of_a_cache_that_could_not_be_made(tmp_path: Path, cache: Path) -> None:
    def fail(folder: Path) -> dict[str, Any]:
        (folder / "image.npy").write_bytes(b"half")
        raise DamagedFileError("no")

    with pytest.raises(DamagedFileError, match=r"^no$"):
        cached({"a": 1}, fail)
    assert entries(cache) == []


def test_only_what_nobody_makes_any_more_is_removed_from_a_cache(cache: Path) -> None:
    def left(name: str, seconds: float) -> str:
        """Make what an unfinished process leaves, whose last byte was written so long ago."""
        (cache / name).mkdir(parents=True)
        (cache / name / "image.npy").write_bytes(b"half")
        for path in (cache / name / "image.npy", cache / name):
            os.utime(path, (time.time() - seconds,) * 2)
        return name

    here = cache_module._host()
    left(f".dead.{here}.999999999.0.tmp", 0)
    left(".old.elsewhere.999999999.0.tmp", 25 * 3600)
    left(".short.tmp", 25 * 3600)
    kept = {
        left(f".running.{here}.{os.getppid()}.0.tmp", 3600),
        left(".new.elsewhere.999999999.0.tmp", 23 * 3600),  # on another machine this process may run
        left(".brief.tmp", 3600),
    }
    cached({"a": 1}, lambda _: {})
    assert {name for name in entries(cache) if name.startswith(".")} == kept


def test_the_second_of_two_makers_leaves_the_entry_of_the_first(cache: Path) -> None:
    def make(name: str) -> Callable[[Path], dict[str, Any]]:
        def made(folder: Path) -> dict[str, Any]:
            np.save(folder / "image.npy", np.zeros(1))
            return {"by": name}

        return made

    def slow(folder: Path) -> dict[str, Any]:
        assert cached({"a": 1}, make("first")).notes == {"by": "first"}
        return make("second")(folder)

    assert cached({"a": 1}, slow).notes == {"by": "first"}
    assert len(entries(cache)) == 1


def test_processes_decode_the_same(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = np.asarray(opened(folder).train["image"])
    shutil.rmtree(cache)
    monkeypatch.setattr(image_files, "_TRIED", 1)
    monkeypatch.setattr(image_files, "_WORTH", 0.0)
    monkeypatch.setattr(image_files, "usable_cpus", lambda: 2)
    # What lies where the command runs is no module of it.
    (folder.parent / "json.py").write_text("raise SystemExit('a file of the user runs')")
    monkeypatch.chdir(folder.parent)
    np.testing.assert_array_equal(opened(folder).train["image"], alone)
    (entry,) = cache.iterdir()
    assert sorted(path.name for path in entry.iterdir()) == ["entry.json", "image.npy"]
    # What goes wrong in a process is said as here, and the first of all.
    (folder / "cat" / "4.png").write_bytes(b"no image")
    (folder / "dog" / "3.png").write_bytes(b"no image")
    sentence = f"{folder / 'cat' / '4.png'} is not an image (PNG, JPEG, BMP, GIF, PPM, TIFF, WEBP)"
    assert said(folder) == sentence + LEAVE_OUT
    skipping = opened(folder, on_error="skip")
    assert skipping.notes == (f"2 records were left out of the data; the first: {sentence}",)
    assert len(skipping.train["label"]) + len(skipping.test["label"]) == 10
    assert len(entries(cache)) == 2


def png(width: int, height: int) -> bytes:
    """Return a PNG file that claims its size and holds hardly anything."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"no image", "{path} is not an image (PNG, JPEG, BMP, GIF, PPM, TIFF, WEBP)"),
        (b"", "{path} is not an image (PNG, JPEG, BMP, GIF, PPM, TIFF, WEBP)"),
        (png(4, 5), "{path} is a damaged image: "),
        (png(20_000, 20_000), "{path} has too many pixels for a sample: "),
    ],
)
def test_an_image_that_cannot_be_decoded_stops_or_is_skipped(folder: Path, content: bytes, sentence: str) -> None:
    path = folder / "cat" / "2.png"
    path.write_bytes(content)
    assert said(folder).startswith(sentence.format(path=path))
    source = opened(folder, on_error="skip")
    assert len(source.train["label"]) + len(source.test["label"]) == 11
    assert source.notes[0].startswith("1 record was left out of the data; the first: " + sentence.format(path=path))
    assert opened(folder, on_error="skip").notes == source.notes  # from the cache


@pytest.mark.parametrize("circle", [False, True])
@pytest.mark.parametrize("name", ["cat/2.png", "cat/0.png"])  # the first image says what shape all have
def test_a_link_to_nothing_is_an_image_that_cannot_be_decoded(folder: Path, name: str, circle: bool) -> None:
    path = folder / name
    original = path.read_bytes()
    path.unlink()
    path.symlink_to(path.name if circle else "no.png")
    with pytest.raises(DriverError) as caught:
        opened(folder)
    assert (str(caught.value), caught.value.exit_code) == (f"{path} is a link to nothing{LEAVE_OUT}", ExitCode.FAILED)
    source = opened(folder, on_error="skip")
    assert len(source.train["label"]) + len(source.test["label"]) == 11
    assert source.notes == (f"1 record was left out of the data; the first: {path} is a link to nothing",)
    path.unlink()
    (folder.parent / "elsewhere").write_bytes(original)
    path.symlink_to(folder.parent / "elsewhere")  # a link to an image is as good as the image
    assert opened(folder, on_error="skip").notes == ()


def test_a_pipe_called_like_an_image_is_not_waited_for(folder: Path) -> None:
    (folder / "cat" / "2.png").unlink()
    os.mkfifo(folder / "cat" / "2.png")
    assert said(folder) == f"{folder / 'cat' / '2.png'} is not a file{LEAVE_OUT}"


def test_bad_folders_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((6, 5, 3), np.uint8)).save(folder / "dog" / "1.png")
    first = folder / "cat" / "0.png"
    unequal = f"{folder / 'dog' / '1.png'} gives [3, 6, 5], but {first} gives [3, 4, 5]; set data.resize, such as resize: [4, 5]"
    assert said(folder) == unequal
    assert said(folder, on_error="skip") == unequal
    assert opened(folder, resize=[4, 5]).train["image"].shape[1:] == (3, 4, 5)
    (folder / "fox").mkdir()
    assert said(folder) == (
        f"{folder / 'fox'} has no image in it (.png, .jpg, .jpeg, .bmp, .gif, .pgm, .ppm, .tif, .tiff, .webp); remove "
        f"the folder, or add images of the class"
    )
    for path, sentence in (
        (
            None,
            'the source "image_folder" needs `path`: the folder with a folder of images for each class, or with train and test that have them',
        ),
        (str(tmp_path / "no"), f"{tmp_path / 'no'} does not exist"),
        (str(first), f"{first} is not a folder"),
        (str(folder / "cat"), f"{folder / 'cat'} has no folder in it; a folder of images is needed for each class"),
    ):
        assert missing_data({"source": "image_folder", "path": path}) == [(("path",), sentence)]


def test_a_cache_that_cannot_be_written_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert said(folder).startswith(
        f"cannot create {tmp_path / 'file' / 'netc' / 'decoded'}: a part of this path is a file"
    )


def listed(folder: Path, lines: list[str]) -> Path:
    path = folder.parent / "list.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_list_of_images_with_labels(folder: Path) -> None:
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(folder / "with blank.png")
    path = listed(folder, ["images/with blank.png 2", "", *(f"images/cat/{i}.png {i % 2}" for i in range(COUNT))])
    source = opened(path, "image_list", split={"test": 0.3, "stratified": False})
    assert source.classes == ("0", "1", "2")
    found = {
        image.tobytes(): label
        for part in (source.train, source.test)
        for image, label in zip(part["image"], part["label"], strict=True)
    }
    assert found == {bytes(60): 2} | {pixels(folder / "cat" / f"{i}.png").tobytes(): i % 2 for i in range(COUNT)}
    rooted = listed(folder, [f"{i}.png {i % 2}" for i in range(COUNT)])
    assert len(opened(rooted, "image_list", root=str(folder / "cat")).train["label"]) == 4


def test_a_list_of_images_with_dense_targets(folder: Path) -> None:
    random = np.random.default_rng(1)
    targets = random.integers(0, 3, (COUNT, 4, 5), dtype=np.uint8)
    for index, target in enumerate(targets):
        Image.fromarray(target).save(folder / f"{index}.png")
    path = listed(folder, [f"images/cat/{i}.png images/{i}.png" for i in range(COUNT)])
    source = opened(path, "image_list")
    assert source.train["label"].shape == (4, 4, 5)
    edges = opened(path, "image_list", target="edge")
    assert (edges.train["edge"].shape, edges.train["edge"].dtype) == ((4, 1, 4, 5), np.float32)
    by_image = {pixels(folder / "cat" / f"{i}.png").tobytes(): targets[i] for i in range(COUNT)}
    for part, other in ((source.train, edges.train), (source.test, edges.test)):
        for image, label, edge in zip(part["image"], part["label"], other["edge"], strict=True):
            np.testing.assert_array_equal(label, by_image[image.tobytes()])
            np.testing.assert_array_equal(edge[0], by_image[image.tobytes()].astype(np.float32) / 255)
    # An image or a target that cannot be decoded takes the other with it.
    (folder / "1.png").write_bytes(b"no image")
    (folder / "cat" / "3.png").write_bytes(b"no image")
    few = opened(path, "image_list", on_error="skip")
    assert few.notes[0].startswith("2 records were left out of the data; the first: ")
    for part in (few.train, few.test):
        for image, label in zip(part["image"], part["label"], strict=True):
            np.testing.assert_array_equal(label, by_image[image.tobytes()])


def test_bad_lists_are_one_sentence(folder: Path) -> None:
    cat = "images/cat/0.png"
    path = folder.parent / "list.txt"
    for lines, sentence in (
        ([], f"{path} is empty: it names no image"),
        ([cat], f"{path}, line 1: the path of an image and a label are needed, found '{cat}'"),
        (
            [f"{cat} 0", f"{cat} {cat}"],
            f"{path}, line 2: '{cat}' is no label, unlike what the first line has; all lines need the same",
        ),
        ([f"{cat} -1"], f"{path}, line 1: {folder.parent / '-1'} does not exist or is not a file"),
        ([f"{cat} 9999999999"], f"{path}, line 1 has the label 9999999999; the last class is 1048575"),
        ([f"{cat} 1048576"], f"{path}, line 1 has the label 1048576; the last class is 1048575"),
        (["images/no.png 0"], f"{path}, line 1: {folder / 'no.png'} does not exist or is not a file"),
        (
            [f"{cat} {cat}"],
            f"{folder / 'cat' / '0.png'} is no map of labels: it has the mode RGB, where one byte a pixel is needed (L or P)"
            + LEAVE_OUT,
        ),
    ):
        listed(folder, lines)
        assert said(path, "image_list") == sentence
    (folder / "broken.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(folder / "map.png")
    listed(folder, ["images/broken.png images/map.png", f"{cat} images/broken.png"])
    assert said(path, "image_list", on_error="skip") == (
        f"{path} has no line whose image and target can both be decoded; the first that cannot: "
        f"{folder / 'broken.png'} is not an image (PNG, JPEG, BMP, GIF, PPM, TIFF, WEBP)"
    )
    path.write_bytes(b"\xff\xfe 0")
    assert said(path, "image_list") == f"{path} is not a text in UTF-8: invalid start byte at byte 0"
    Image.fromarray(np.zeros((2, 5), np.uint8)).save(folder / "small.png")
    listed(folder, [f"{cat} images/small.png"])
    assert said(path, "image_list") == (
        f"{folder / 'small.png'} has 2 x 5 pixels, but its image {folder / 'cat' / '0.png'} has 4 x 5; set data.resize, "
        f"such as resize: [4, 5]"
    )


def test_without_pillow_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(DriverError) as caught:
        opened(folder)
    assert str(caught.value).endswith(
        'needs Pillow, which is not installed; install it with: pip install "netc[images]"'
    )
    assert caught.value.exit_code == ExitCode.ENVIRONMENT


def test_an_entry_says_what_it_holds(folder: Path, cache: Path) -> None:
    opened(folder)
    (entry,) = cache.iterdir()
    told = json.loads((entry / "entry.json").read_text())
    assert told["files"]["image.npy"]["size"] == (entry / "image.npy").stat().st_size == 128 + 12 * 60
