"""`--set data.KEY=VALUE` where nothing is compiled: each key has an effect, or is refused in a sentence."""

# ruff: noqa: E501 (messages are whole sentences)

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from netc_runtime.data import COMMON_KEYS, SOURCES
from netc_runtime.errors import DriverError
from netc_runtime.mc_dropout import predict_with_dropout
from tests.command_line import Netc, in_process
from tests.driver.conftest import CPU

SPEC = """\
netc: 1
name: small
inputs:
  image: {shape: [1, 8, 8]}
  label: {classes: 10}
data: {source: digits, batch_size: 20, scale: 0.0625, test_views: [identity]}
layers:
  - {name: hidden, type: InnerProduct, num_output: 20}
  - {name: drop, type: Dropout}
  - {name: ip, type: InnerProduct, num_output: 10}
  - {name: loss, type: SoftmaxWithLoss}
  - {name: accuracy, type: Accuracy, bottom: [ip, label]}
solver: {type: SGD, base_lr: 0.1, max_epochs: 1}
"""
# Another value for every key that a section with the source digits may have.
OTHER = {
    "source": "mnist",
    "batch_size": "3",
    "resize": "[4, 4]",
    "mean": "1",
    "std": "2",
    "scale": "2",
    "range": "[0, 15]",
    "augment": "[HorizontalFlip]",
    "test_views": "[horizontal_flip]",
    "resident": "true",
    "split": "{test: 0.5}",
    "classes": "[9, 8, 7, 6, 5, 4, 3, 2, 1, 0]",
    "limit": "40",
}
COMPILED = "is compiled into the programs that training made; leave it out, or train with it"
RESIDENT = "resident says where data stay while training; leave it out"
NO_SAMPLE = "concerns samples of the data, such as test:17, of which no INPUT names any; leave it out"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and a picture."""
    folder = tmp_path_factory.mktemp("overrides")
    (folder / "spec.yaml").write_text(SPEC)
    Image.fromarray(np.tile(np.arange(0, 256, 32), (8, 1)).astype(np.uint8)).save(folder / "picture.png")
    command = [sys.executable, "-m", "netc.cli", "train", "spec.yaml", "--run", "run", "--threads", "1"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def netc(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Netc:
    """Runs the command line in this process, in a copy of the folder; nothing has been fetched."""
    shutil.copytree(trained, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return in_process(monkeypatch, capsys)


COMMANDS = [
    ["eval", "run"],
    ["eval", "run", "--tta"],
    ["eval", "run/model.onnx"],
    ["predict", "run", "test:0-9"],
    ["predict", "run", "train:0-9", "--tta"],
    ["predict", "run", "picture.png"],
    ["predict", "run", "picture.png", "--tta"],
    ["predict", "run", "picture.png", "--mc-dropout", "2"],
    ["export", "run", "-o", "out.onnx"],
    ["export", "run", "-o", "out.onnx", "--int8", "--calibration-samples", "200"],
    ["data", "show", "digits", "-o", "sheet.png"],
]


def test_another_value_for_every_key() -> None:
    assert OTHER.keys() == COMMON_KEYS | {option.name for option in SOURCES["digits"].options}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_key_has_an_effect_or_is_refused(netc: Netc, command: list[str]) -> None:
    def result(*options: str) -> tuple[int, str, list[str], dict[str, bytes]]:
        found = netc(*command, *options)
        written = {str(path): path.read_bytes() for path in Path().glob("*.png") if path.name == "sheet.png"}
        return found.code, found.out, found.errors, written

    usual = result()
    assert usual[0] == 0
    for key, value in OTHER.items():
        if (command[0], key) == ("data", "source"):  # the source itself is the argument there
            continue
        found = result("--set", f"data.{key}={value}")
        assert found != usual, key
        if found[0] != 0:
            assert (found[0], found[1]) == (2, ""), key
            assert f"data.{key}" in "".join(found[2]) or key in ("source", "resize"), key


@pytest.mark.parametrize(
    ("command", "option", "sentence"),
    [
        (["eval", "run"], "mean=7", f"mean {COMPILED}"),
        (["eval", "run"], "batch_size=3", f"batch_size {COMPILED}"),
        (["eval", "run"], "augment=[]", f"augment {COMPILED}"),
        (["eval", "run"], "resident=true", RESIDENT),
        (["eval", "run"], "test_views=[identity]", "test_views are averaged with --tta alone; add that, or leave them out"),
        (["eval", "run"], "limit=5", "limit keeps some of the training samples, and those of the test split are evaluated; leave it out"),
        (["eval", "run"], "split.seed=5", "here only the whole of split can be given, as data.split={...}"),
        (["predict", "run", "picture.png"], "path=there", f"path {NO_SAMPLE}"),
        (["predict", "run", "picture.png"], "no such key=1", f"no such key {NO_SAMPLE}"),
        (["predict", "run", "test:0"], "limit=5", "limit keeps some of the training samples, of which no INPUT names any; leave it out"),
        (["predict", "run", "test:0"], "std=5", f"std {COMPILED}"),
        (["predict", "run", "picture.png", "--mc-dropout", "2"], "resize=[8, 8]", f"resize {NO_SAMPLE}"),
        (["export", "run", "-o", "x.onnx"], "limit=5", "limit keeps some of the training samples, which only --int8 takes; leave it out"),
        (["export", "run", "-o", "x.onnx"], "test_views=[]", "test_views are for netc eval and netc predict; leave them out"),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_refused(netc: Netc, command: list[str], option: str, sentence: str) -> None:
    result = netc(*command, "--set", f"data.{option}")
    assert (result.code, result.out, result.errors) == (2, "", [f"error: --set data.{option}: {sentence}"])
    assert not Path("x.onnx").exists()


def test_the_limit_of_a_run_can_be_lifted(netc: Netc) -> None:
    """As is needed where fewer samples are at hand than it was trained on."""
    assert netc("train", "spec.yaml", "--run", "limited", "--threads", "1", "--set", "data.limit=100").code == 0
    images = np.random.default_rng(0).integers(0, 17, (40, 1, 8, 8), dtype=np.uint8)
    np.savez("few.npz", image=images, label=np.arange(40) % 10)
    few = ["--set", "data.source=npz", "--set", "data.path=few.npz"]
    refused = netc("eval", "limited", *few)
    assert (refused.code, refused.errors[0][:20]) == (2, "error: data.limit: t")
    for command in (["eval", "limited"], ["predict", "limited", "test:0"], ["export", "limited", "-o", "x.onnx"]):
        assert netc(*command, *few, "--set", "data.limit=null").code == 0


def test_a_source_alone_takes_no_keys_of_a_spec(netc: Netc) -> None:
    result = netc("data", "show", "digits", "--set", "data.mean=1")
    sentence = "data.mean belongs to a spec, and digits is a data source alone; name a spec instead"
    assert (result.code, result.errors) == (2, [f"error: {sentence}"])


@pytest.mark.parametrize(
    "value", ["5", "[5, 1]", "[1, 1]", "[a, b]", "[true, false]", "[0, .nan]", "[0, .inf]", "[1]", "{}"]
)
def test_a_range_is_checked_wherever_it_is_given(netc: Netc, trained: Path, value: str) -> None:
    for command in (
        ["eval", "run"],
        ["predict", "run", "picture.png", "--mc-dropout", "2"],
        ["data", "show", "digits"],
    ):
        result = netc(*command, "--set", f"data.range={value}")
        assert result.code == 2
        assert len(result.errors) == 1
        assert result.errors[0].startswith(
            "error: data.range: range should be the lowest and the highest raw value, [0, 255], not "
        )


def test_the_section_of_a_run_is_checked_before_pictures_are_scaled(trained: Path) -> None:
    with pytest.raises(
        DriverError, match=r"^data\.limit: limit should be how many training samples to keep, 1 or more"
    ):
        predict_with_dropout(trained / "run", [str(trained / "picture.png")], 2, host=CPU, data_overrides={"limit": 0})
