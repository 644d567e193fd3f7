# ruff: noqa: E501  (a message stands on one line, as it is printed)
"""`netc export` as it is typed: what it prints, what it refuses, and how small and exact real networks become."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from netc_runtime.export import export_run
from netc_runtime.export.options import OPSETS
from netc_runtime.trainer import TrainOptions, train
from tests.command_line import Netc, in_process
from tests.driver.conftest import CPU, Recorder
from tests.driver.handmade import write_artifact


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a compiled folder, `compiled`, and a run of it, `run`, that has not reached its end."""
    folder = tmp_path_factory.mktemp("export")
    write_artifact(folder / "compiled")
    train(TrainOptions(folder / "run", folder / "compiled", CPU, stop_after_epochs=3), Recorder())
    return folder


@pytest.fixture
def netc(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Netc:
    """Runs the command line in this process, in a copy of the folder."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return in_process(monkeypatch, capsys)


def test_what_it_prints(netc: Netc) -> None:
    result = netc("export", "run", "-o", "m.onnx", "--int8", "--calibration-samples", "64", "--softmax")
    assert (result.code, len(result.errors)) == (0, 1)
    assert result.err.startswith("warning: run is not finished: its last checkpoint is of step 66 of 132; export again")
    first, second, third = result.out.splitlines()
    assert (
        first
        == f"exported m.onnx: 650 parameters, {round(Path('m.onnx').stat().st_size / 1e3)} kB, int8, opset 18, probabilities"
    )
    assert second == "ranges of activations come from 64 training samples"
    assert third.startswith("on 360 test samples it differs from the evaluation graph by at most ")
    assert re.search(r" by at most \S+, no output by more than \S+ of its largest value; accuracy 0\.", third)
    assert third.endswith(" after")


def test_what_it_prints_for_machines(netc: Netc) -> None:
    result = netc("export", "run", "-o", "m.ort", "--fp16", "--checkpoint", "best", "--json", "--verify", "0.005")
    report = json.loads(result.out)
    assert (result.code, result.err, report["event"]) == (0, "", "exported")
    assert (report["precision"], report["format"], report["softmax"]) == ("float16", "ort", False)
    assert 0 < report["agreement"]["relative"] < 0.005
    assert report["agreement"]["before"] == pytest.approx(report["agreement"]["after"], abs=0.01)
    assert report["size"] == Path("m.ort").stat().st_size


BAD: list[tuple[str, int, str]] = [
    ("compiled", 2, "compiled is a compiled folder, which holds nothing trained to export; name a run folder, or the weights with --checkpoint FILE.safetensors"),
    ("lenet_dsn", 2, "lenet_dsn is a spec, and only what is trained can be exported; name a run folder, which netc train lenet_dsn makes, or pack its training programs with --what train"),
    ("old.onnx", 2, "old.onnx is a model already; name the run folder that it came from"),
    ("old.zip", 2, "old.zip is a zip file; unpack it, and name the folder and --checkpoint FILE.safetensors"),
    ("gone", 2, "gone does not exist; name a run folder, which netc train makes"),
    ("run/checkpoints/step_66.safetensors", 2, "run/checkpoints/step_66.safetensors is not a run folder: it is a file; name a run folder, which netc train makes"),
    ("run --checkpoint gone.safetensors", 2, "there is no checkpoint gone.safetensors; give last, best, or the path of a file such as run/checkpoints/step_N.safetensors"),
    ("run -o run", 2, "run is a folder; name the file to write, such as run/model.onnx"),
    ("run -o m", 2, "m does not say its format; name it m.onnx, or m.ort for ORT format"),
    ("run -o m.onnx --format ort", 2, "m.onnx is not called like a file of --format ort; name it m.ort"),
    ("run --fp16 --int8", 2, "--fp16 and --int8 are two precisions: leave one of them out"),
    ("run --calibration-samples 5", 2, "--calibration-samples is for --int8: add it, or leave both out"),
    ("run --int8 --calibration-samples 0", 2, "--calibration-samples should be at least 1, not 0"),
    ("run --verify 0 --no-verify", 2, "--verify and --no-verify exclude each other: leave one of them out"),
    ("run --int8 --no-verify", 2, "--int8 is calibrated on the data, which then can verify it too: leave out --no-verify"),
    ("run --no-verify --set data.path=x", 2, "--set names the data to verify with: leave it out, or --no-verify"),
    ("run --opset 13", 2, f"--opset should be from 14 to {OPSETS[1]}, not 13"),
    ("run --what train -o x --verify 0", 2, "--verify is for the inference model: drop it, or drop --what train"),
    ("run --what train -o x --opset 0", 2, "--opset is for the inference model: drop it, or drop --what train"),
    ("run --what train -o x --calibration-samples 0", 2, "--calibration-samples is for the inference model: drop it, or drop --what train"),
    ("run --what train -o x --no-verify", 2, "--no-verify is for the inference model: drop it, or drop --what train"),
    ("run --verify -1", 2, "--verify takes a share of at least 0, such as 0.001, not -1.0"),
    ("run --verify nan", 2, "--verify takes a share of at least 0, such as 0.001, not nan"),
    ("run --target web", 2, "--target chooses what --what train packs; a model runs on any engine: leave it out"),
    ("run --set solver.base_lr=1", 2, "--set solver.base_lr=1: only keys of data can be changed here, such as data.path=FOLDER"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "message"), BAD, ids=[row[0] for row in BAD])
def test_mistakes(netc: Netc, arguments: str, code: int, message: str) -> None:
    for name in ("old.onnx", "old.zip"):
        Path(name).touch()
    before = sorted(Path().rglob("*"))
    result = netc("export", *arguments.split())
    assert (result.code, result.errors, result.out) == (code, [f"error: {message}"], "")
    assert sorted(Path().rglob("*")) == before


def test_where_the_data_are_not_at_hand(netc: Netc) -> None:
    write_artifact(Path("moved"), {"data.source": "mnist", "data.path": "gone"})
    given = ("export", "moved", "--checkpoint", "moved/init.safetensors", "-o", "m.onnx")
    result = netc(*given)
    assert (result.code, Path("m.onnx").exists()) == (2, False)
    assert result.errors[-1].endswith("name the data with --set data.path=FOLDER, or leave that out with --no-verify")
    result = netc(*given, "--no-verify")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[1:] == ["it was not compared with the evaluation graph"]
    report = json.loads(netc(*given, "--no-verify", "--json").out)
    assert report["agreement"] is None
    onnx.checker.check_model("m.onnx", full_check=True)


def test_a_limit_that_is_not_met(netc: Netc) -> None:
    result = netc("export", "run", "-o", "m.onnx", "--fp16", "--verify", "1e-9", "--checkpoint", "best")
    assert result.code == 1
    (line,) = result.errors
    assert line.startswith("error: the exported model disagrees with eval.onnx: an output differs by 0.0")
    assert line.endswith(" where 1e-09 is allowed; m.onnx was not written")
    assert not Path("m.onnx").exists()


def test_int8_without_calibration_data(netc: Netc) -> None:
    result = netc("export", "run", "-o", "m.onnx", "--int8", "--set", "data.source=mnist", "--set", "data.path=gone")
    assert result.code == 2
    assert result.errors[0].startswith("error: data.path: ")
    assert result.errors[1:] == [
        "error: --int8 is calibrated on training samples: name the data with --set data.path=FOLDER"
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(netc: Netc) -> None:
    Path("locked").mkdir(mode=0o500)
    result = netc("export", "run", "-o", "locked/m.onnx", "--checkpoint", "best")
    message = "cannot write locked/m.onnx: permission denied; change the permissions or choose another place"
    assert (result.code, result.errors) == (3, [f"error: {message}"])


# -- real networks -----------------------------------------------------------------------------------------------


def test_lenet_becomes_small_and_stays_right(netc: Netc) -> None:
    assert netc("train", "lenet", "--run", "lenet", "--threads", "1", "--set", "solver.max_epochs=5").code == 0
    sizes, accuracies = dict[str, int](), dict[str, float]()
    for option in ("--softmax", "--fp16", "--int8"):
        report = json.loads(netc("export", "lenet", "-o", f"{option[2:]}.onnx", option, "--json").out)
        sizes[option], accuracies[option] = report["size"], report["agreement"]["after"]
        assert report["agreement"]["before"] > 0.9
        assert report["agreement"]["after"] == pytest.approx(report["agreement"]["before"], abs=0.01)
        onnx.checker.check_model(f"{option[2:]}.onnx", full_check=True)
    assert accuracies["--fp16"] == pytest.approx(accuracies["--softmax"], abs=0.001)  # of 360 samples, all the same
    assert sizes["--fp16"] < 0.51 * sizes["--softmax"]
    assert sizes["--int8"] < 0.27 * sizes["--softmax"]


def test_resnet20_in_8_bits_is_less_than_a_third(netc: Netc) -> None:
    """What each of its 22 layers costs beside its weights is what is measured, so noise is data enough."""
    rng = np.random.default_rng(0)
    arrays = {f"{part}_image": rng.integers(0, 256, (8, 3, 32, 32), np.uint8) for part in ("train", "test")}
    labels = {f"{part}_label": rng.integers(0, 10, 8) for part in ("train", "test")}
    np.savez("noise.npz", **arrays, **labels)  # type: ignore[arg-type]
    assert netc("compile", "resnet20_cifar", "-o", "resnet20").code == 0
    data = {"source": "npz", "path": "noise.npz"}
    first = "resnet20/init.safetensors"
    whole = export_run(Path("resnet20"), Path("whole.onnx"), first, CPU, data_overrides=data)
    given = ["--set", "data.source=npz", "--set", "data.path=noise.npz", "--checkpoint", first]
    result = netc("export", "resnet20", "-o", "small.onnx", "--int8", *given)
    assert result.code == 0, result.err
    assert Path("small.onnx").stat().st_size <= 0.3 * whole.size
