"""The commands about data: what they print, write and refuse, and data of every kind that trains."""

# ruff: noqa: E501 (messages are whole sentences)

import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from netc_runtime.artifact import Artifact
from netc_runtime.augmented import augmented_samples
from netc_runtime.data import SOURCES, open_source
from netc_runtime.data.describe import describe
from netc_runtime.data.options import LEAVE_OUT
from netc_runtime.data.remotes import FETCHED, Fetched, Remote
from netc_runtime.data.sheet import contact_sheet
from netc_runtime.errors import DriverError
from tests.command_line import in_process

Netc = Callable[..., tuple[int, str, list[str]]]

SPEC = """\
netc: 1
name: small
inputs:
  image: {shape: [3, 4, 4]}
  label: {classes: 2}
data: {source: image_folder, path: images, resize: [4, 4], batch_size: 4, split: {test: 0.25}}
layers:
  - {name: ip, type: InnerProduct, num_output: 2}
  - {name: loss, type: SoftmaxWithLoss}
  - {name: accuracy, type: Accuracy, bottom: [ip, label]}
solver: {type: SGD, base_lr: 0.01, max_epochs: 1}
"""


@pytest.fixture
def netc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Netc:
    """Runs the command line in this process, inside a folder with two classes of eight images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "spec.yaml").write_text(SPEC)
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(8):
            Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8)).save(f"images/{name}/{index}.png")

    command = in_process(monkeypatch, capsys)

    def run(*arguments: str) -> tuple[int, str, list[str]]:
        result = command(*arguments)
        return result.code, result.out, result.errors

    return run


def test_the_list_names_every_source_and_option(netc: Netc) -> None:
    code, out, _ = netc("data", "list")
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines[::2]] == [*SOURCES]
    assert lines[0] == "digits         1,797 grey digits of 8 x 8 pixels, values 0 to 16; ships with netc"
    assert lines[2].endswith("(netc data fetch mnist)")
    told = {one["name"]: one for one in json.loads(netc("data", "list", "--json")[1])}
    assert told["hdf5"]["extra"] == "hdf5"
    for name, source in SOURCES.items():
        assert [option["name"] for option in told[name]["options"]] == [option.name for option in source.options]


def test_data_are_shown_in_numbers_and_as_a_sheet(netc: Netc) -> None:
    code, out, err = netc("data", "show", "digits", "-o", "sheet.png")
    assert (code, err) == (0, [])
    lines = out.splitlines()
    assert lines[0] == "digits: 1437 training and 360 test samples"
    assert lines[1:3] == ["  image  [1, 8, 8] of uint8", "  label  [] of uint8"]
    assert lines[3] == "10 classes, with training and test labels:"
    assert lines[4].split() == ["0", "153", "25", "#" * 40]
    train = np.asarray(open_source({"source": "digits"}).train["image"], np.float64)
    assert lines[15] == f"  0  mean {train.mean():.6g}  std {train.std():.6g}  from 0 to 16"
    assert lines[-1] == "wrote sheet.png, samples of each class"
    with Image.open("sheet.png") as sheet:
        assert sheet.size[0] > 12 * 96


def test_a_source_alone_has_no_augmentation(netc: Netc) -> None:
    assert netc("data", "show", "digits", "--set", "data.augment=[HorizontalFlip]") == (
        2,
        "",
        ["error: data.augment belongs to a spec, and digits is a data source alone; name a spec instead"],
    )
    assert not Path("digits_samples.png").exists()


def test_the_data_of_a_spec_are_shown(netc: Netc) -> None:
    code, out, _ = netc("data", "show", "spec.yaml", "--set", "data.classes=[dog]", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["name"], told["source"], told["sheet"]) == ("small", "image_folder", "small_samples.png")
    assert told["samples"] == {"train": 6, "test": 2}
    assert told["fields"][0] == {"name": "image", "shape": [3, 4, 4], "dtype": "uint8"}
    assert told["classes"] == [{"name": "dog", "train": 6, "test": 2}]
    assert len(told["channels"]) == 3
    Path("images/cat/3.png").write_bytes(b"no image")
    code, out, err = netc("data", "show", "spec.yaml", "--set", "data.on_error=skip")
    assert (code, err) == (
        0,
        [
            "warning: 1 record was left out of the data; the first: images/cat/3.png is not an image (PNG, JPEG, BMP, GIF, PPM, TIFF, WEBP)"
        ],
    )


def test_augmented_samples_stand_beside_the_first_ones(netc: Netc) -> None:
    """A flip that always happens, in more samples than a batch has."""
    flip = "data.augment=[{type: HorizontalFlip, probability: 1}]"
    code, out, err = netc("data", "show", "spec.yaml", "--set", flip)
    assert (code, err) == (0, [])
    assert out.splitlines()[-1] == "wrote small_samples.png, samples and what augmentation makes of them"
    assert netc("compile", "spec.yaml", "--set", flip, "-o", "artifact")[0] == 0
    source = open_source({"source": "image_folder", "path": "images", "resize": [4, 4], "split": {"test": 0.25}})
    indices = np.array([5, 0, 3, 11, 7, 2])
    first, second = augmented_samples(Artifact.load(Path("artifact")), source, 2)(indices)
    np.testing.assert_array_equal(first, source.train["image"][indices][..., ::-1])
    np.testing.assert_array_equal(second, first)


def test_draws_and_batches_of_augmented_samples_differ(netc: Netc) -> None:
    shift = "data.augment=[{type: PadCrop, pad: 3}]"
    assert netc("compile", "spec.yaml", "--set", shift, "-o", "artifact")[0] == 0
    source = open_source({"source": "image_folder", "path": "images", "resize": [4, 4], "split": {"test": 0.25}})
    variants = augmented_samples(Artifact.load(Path("artifact")), source, 3)
    draws = variants(np.zeros(8, np.intp))  # the same sample at every place of two batches
    assert len({one.tobytes() for draw in draws for one in draw}) > 12, "of 24, drawn from 49 places"
    np.testing.assert_array_equal(variants(np.zeros(8, np.intp)), draws)
    assert netc("compile", "spec.yaml", "-o", "plain")[0] == 0
    with pytest.raises(DriverError, match="has no augmentation"):
        augmented_samples(Artifact.load(Path("plain")), source, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_said(netc: Netc, value: float) -> None:
    images = np.random.default_rng(0).uniform(0, 1, (10, 1, 4, 4)).astype(np.float32)
    images[3, 0, 1, 2] = value
    np.savez("bad.npz", image=images, label=np.arange(10) % 2)
    code, _, err = netc("data", "show", "npz", "--set", "data.path=bad.npz", "--set", "data.split={test: 0.2}")
    assert code == 0
    assert err == [
        "warning: some values of image are not finite (NaN or infinite), which training refuses; mend or remove them"
    ]


def test_samples_that_are_no_images_have_no_sheet(netc: Netc) -> None:
    Path("a.csv").write_text("a,b,kind\n" + "1,2,x\n3,5,y\n" * 8)
    options = ["--set", "data.path=a.csv", "--set", "data.target=kind"]
    sentence = (
        "there is no contact sheet of this data: it gives an image as [2], where [1, H, W] or [3, H, W] can be shown"
    )
    code, out, err = netc("data", "show", "csv", *options)
    assert (code, err) == (0, [f"warning: {sentence}"])
    assert "  1  mean 3.5  std 1.5  from 2 to 5" in out
    asked = [*options, "-o", "x.png"]
    assert netc("data", "show", "csv", *asked) == (2, out, [f"error: {sentence}"])
    code, told, err = netc("data", "show", "csv", *asked, "--json")
    assert (code, json.loads(told)["sheet"], err) == (2, None, [f"error: {sentence}"])
    assert not Path("x.png").exists()


@pytest.mark.parametrize("given", [["-o", "no/such/x.png"], []])
def test_the_numbers_are_printed_where_the_sheet_cannot_be_written(netc: Netc, given: list[str]) -> None:
    Path("digits_samples.png").mkdir()
    code, out, err = netc("data", "show", "digits", *given)
    assert code == (3 if given else 2)
    assert out.splitlines()[0] == "digits: 1437 training and 360 test samples"
    assert "wrote" not in out
    path, reason = (
        ("no/such/x.png", "no such file or folder; check the path or choose another place")
        if given
        else ("digits_samples.png", "it is a folder; name a file")
    )
    assert err == [f"error: cannot write {path}: {reason}"]


def test_the_numbers_are_printed_where_augmentation_does_not_fit(netc: Netc) -> None:
    options = ["--set", "data.augment=[HorizontalFlip]", "--set", "data.resize=[5, 4]"]
    code, out, err = netc("data", "show", "spec.yaml", *options)
    sentence = 'the data source gives "image" as [3, 5, 4], the input "image" is declared as [3, 4, 4]; set data.resize'
    assert (code, err) == (2, [f"error: {sentence}: [4, 4]"])
    assert out.splitlines()[1] == "  image  [3, 5, 4] of uint8"
    assert "wrote" not in out


@pytest.mark.parametrize(
    ("arguments", "code", "errors"),
    [
        (["show", "digit"], 2, ['error: there is no data source, no file and no spec "digit"; did you mean "digits"?']),
        (["show", "no/x.yaml"], 2, ['error: there is no file "no/x.yaml"']),
        (["show", "spec.yaml", "--set", "data.path=no"], 2, ["error: --set data.path=no: no does not exist"]),
        (["show", "spec.yaml", "--set", "data.spilt=1"], 2, ['error: --set data.spilt=1: unknown option "spilt" of the source "image_folder"; did you mean "split"?']),
        (["show", "digits", "--set", "solver.base_lr=1"], 2, ["error: --set solver.base_lr=1: only keys of data can be changed here, such as data.path=FOLDER"]),
        (["show", "digits", "-o", "no/such/x.png"], 3, ["error: cannot write no/such/x.png: no such file or folder; check the path or choose another place"]),
        (["fetch", "digits"], 2, ['error: the source "digits" cannot be fetched; known: cifar10, cifar100, fashion_mnist, mnist']),
        (["fetch", "mnist", "--mirror", "ftp://x"], 2, ["error: --mirror ftp://x: an address that begins with https:// is needed"]),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(netc: Netc, arguments: list[str], code: int, errors: list[str]) -> None:
    assert netc("data", *arguments)[::2] == (code, errors)


def test_bad_images_stop_training_with_one_sentence(netc: Netc) -> None:
    Path("images/cat/3.png").write_bytes(b"no image")
    sentence = "images/cat/3.png is not an image (PNG, JPEG, BMP, GIF, PPM, TIFF, WEBP)"
    assert netc("train", "spec.yaml", "--run", "run")[::2] == (1, [f"error: {sentence}{LEAVE_OUT}"])
    code, _, err = netc("train", "spec.yaml", "--run", "run2", "--set", "data.on_error=skip", "--threads", "1")
    assert (code, err) == (0, [f"warning: 1 record was left out of the data; the first: {sentence}"])


@pytest.mark.parametrize("command", [["train", "--run", "run"], ["data", "show"]])
def test_images_of_several_sizes_are_brought_to_that_of_the_spec(netc: Netc, command: list[str]) -> None:
    Image.fromarray(np.zeros((7, 6, 3), np.uint8)).save("images/dog/1.png")
    unequal = "error: images/dog/1.png gives [3, 7, 6], but images/cat/0.png gives [3, 5, 6]; set data.resize"
    asked = ["--set", "data.resize=null"]
    assert netc(*command, "spec.yaml", *asked)[::2] == (2, [f"{unequal}: [4, 4]"])
    # Of a vector nobody can say a size, nor of a source alone.
    flat = [*asked, "--set", "inputs.image.shape=[48]"]
    assert netc(*command, "spec.yaml", *flat)[::2] == (2, [f"{unequal}, such as resize: [5, 6]"])
    assert netc("data", "show", "image_folder", "--set", "data.path=images")[::2] == (
        2,
        [f"{unequal}, such as resize: [5, 6]"],
    )


def test_what_a_run_needs_is_the_size_to_bring_images_to(netc: Netc) -> None:
    assert netc("train", "spec.yaml", "--run", "run", "--threads", "1")[0] == 0
    Image.fromarray(np.zeros((7, 6, 3), np.uint8)).save("images/dog/1.png")
    for command in (["eval", "run"], ["eval", "run/model.onnx"], ["predict", "run", "test:0"], ["export", "run"]):
        code, _, err = netc(*command, "--set", "data.resize=null")
        assert (code, err[0]) == (
            2,
            "error: images/dog/1.png gives [3, 7, 6], but images/cat/0.png gives [3, 5, 6]; set data.resize: [4, 4]",
        )


def test_a_folder_of_images_trains_and_its_classes_are_exported(netc: Netc) -> None:
    code, out, err = netc("train", "spec.yaml", "--run", "run", "--threads", "1")
    assert (code, err) == (0, [])
    assert "12 training and 4 test samples" in out
    code, out, _ = netc("predict", "run", "test:0", "images/dog/0.png", "--json")
    assert code == 0
    assert {one["name"] for one in json.loads(out)} <= {"cat", "dog"}


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    (tmp_path / "mirror").mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "mirror")))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_fetching_makes_a_path_needless(
    netc: Netc, mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remotes = []
    for part, count in (("train", 8), ("t10k", 4)):
        images = np.zeros((count, 2, 2), np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(count, dtype=np.uint8))):
            content = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
            name = f"{part}-{kind}-ubyte"
            (tmp_path / "mirror" / name).write_bytes(content)
            remotes.append(Remote(name, len(content), hashlib.sha256(content).hexdigest()))
    monkeypatch.setattr("netc_runtime.data.remotes.FETCHED", {**FETCHED, "mnist": Fetched((), tuple(remotes))})
    code, out, err = netc("data", "fetch", "mnist", "--mirror", mirror)
    assert (code, err) == (0, [])
    names = ", ".join(remote.name for remote in remotes)
    assert out.splitlines()[-1] == f"mnist is in {tmp_path}/cache/netc/data/mnist: {names}"
    code, out, _ = netc("data", "show", "mnist")
    assert out.startswith("mnist: 8 training and 4 test samples\n")
    assert netc("data", "fetch", "mnist", "--to", "here", "--mirror", mirror)[1].endswith(
        "use it with: --set data.path=here\n"
    )


def test_a_sheet_shows_samples_and_what_became_of_them() -> None:
    source = open_source({"source": "digits"})

    def inverted(indices: np.ndarray) -> list[np.ndarray]:
        originals = np.asarray(source.train["image"])[indices]
        return [16 - originals, originals]

    with Image.open(BytesIO(contact_sheet(source, inverted))) as sheet:
        pixels = np.asarray(sheet)
    # A cell of 8 x 8 pixels is drawn 12 times as large, with a gap of 4; names take the first 140.
    first, second, third = (pixels[8:104, 140 + 100 * column : 236 + 100 * column].astype(int) for column in range(3))
    np.testing.assert_array_equal(first, third)
    assert (np.abs(first + second - 255) <= 1).all()
    label = int(np.asarray(source.train["label"])[0])
    assert 0 <= label < 10
    assert pixels.shape == (16 + 20 * 100, 140 + 3 * 100 + 8, 3)


def test_moments_of_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source({"source": "digits"})
    source.train = {"image": np.random.default_rng(0).normal(1e6, 1, (101, 3, 2)), "label": np.arange(101) % 7}
    monkeypatch.setattr("netc_runtime.data.moments._CHUNK_VALUES", 60)
    told = describe(source)
    values = np.asarray(source.train["image"])
    # Naive sums of squares would be off by 1e-4 here, 12 digits less than 16.
    np.testing.assert_allclose([one.std for one in told.channels], values.std(axis=(0, 2)), rtol=1e-9)
    np.testing.assert_allclose([one.mean for one in told.channels], values.mean(axis=(0, 2)), rtol=1e-14)
    assert [one.train for one in told.classes[:7]] == np.bincount(np.arange(101) % 7).tolist()
    with pytest.raises(DriverError, match="it gives an image as"):
        contact_sheet(source)
