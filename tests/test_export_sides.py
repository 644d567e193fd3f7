"""`netc export --keep-sides`: scores of companions in the exported model, compared with the evaluation graph too."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import load_file, save_file

from netc_runtime.data import open_source
from tests.command_line import Netc, in_process

SMALL = ("--set", "layers.conv1.num_output=4", "--set", "layers.conv2.num_output=6", "--set", "layers.ip1.num_output=8")

SIDE = ("--keep-sides", "l1", "--json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the runs of this file."""
    return tmp_path_factory.mktemp("sides")


@pytest.fixture
def netc(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Netc:
    """Runs the command line; there is a run `run` of two epochs, and the same network compiled for browsers, `web`."""
    monkeypatch.chdir(folder)
    run = in_process(monkeypatch, capsys)
    if not Path("run").exists():
        assert run("train", "lenet_dsn", "--run", "run", "--set", "solver.max_epochs=2", *SMALL).code == 0
        assert run("compile", "lenet_dsn", "--target", "web", "-o", "web", *SMALL).code == 0
    return run


def scores(model: str) -> dict[str, np.ndarray]:
    """Return what a model gives for the test samples, by output."""
    images = open_source({"source": "digits", "resize": [28, 28]}).test["image"][:]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": np.asarray(images, np.float32)}), strict=True))


def test_scores_of_sides_come_last_and_are_compared(netc: Netc) -> None:
    plain = netc("export", "run", "-o", "plain.onnx", "--json")
    assert plain.code == 0, plain.err
    result = netc("export", "run", "-o", "sides.onnx", "--keep-sides", "l2", "--keep-sides", "pool1")
    assert result.code == 0, result.err
    found, expected = scores("sides.onnx"), scores("plain.onnx")
    assert list(found) == ["ip2", "ip1_side", "ip2_side"]
    np.testing.assert_array_equal(found["ip2"], expected["ip2"])
    labels = np.asarray(open_source({"source": "digits"}).test["label"][:])
    assert (found["ip2_side"].argmax(axis=1) == labels).mean() > 0.3, "a companion that has learned is right more often"
    both = netc("export", "run", "-o", "both.onnx", "--keep-sides", "l2,l1")
    assert both.code == 0
    assert [output.name for output in onnx.load("both.onnx").graph.output] == list(found)


def test_of_weights_that_a_browser_trained(netc: Netc) -> None:
    """The programs of `web` take packed state, those with sides do not: the same model comes out."""
    trained = load_file("run/checkpoints/step_44.safetensors")
    trained["ip1_side.weight"] *= 100
    save_file(trained, "weights.safetensors")
    reports = []
    for source in ("run", "web"):
        result = netc("export", source, "--checkpoint", "weights.safetensors", "-o", f"{source}.onnx", *SIDE)
        assert result.code == 0, result.err
        reports.append(json.loads(result.out)["agreement"])
    assert reports[0] == reports[1]
    found, expected = scores("web.onnx"), scores("run.onnx")
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name])
    # The proof of the export covers sides: of all that it compared, the scores of the side are the largest by far.
    assert reports[0]["largest"] == pytest.approx(float(np.abs(found["ip1_side"]).max()), rel=1e-5)
    assert reports[0]["largest"] > 10 * float(np.abs(found["ip2"]).max())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run --keep-sides pool3", 'there is no side "pool3"; did you mean "pool2"? sides: pool1 (loss l1), pool2'),
        ("run --keep-sides ,", 'there is no side ""'),
        ("gone --keep-sides l1", "gone does not exist; name a run folder"),
    ],
)
def test_mistakes(netc: Netc, arguments: str, message: str) -> None:
    result = netc("export", *arguments.split(), "-o", "bad.onnx")
    assert result.code == 2
    assert result.err.startswith(f"error: {message}"), result.err
    assert not Path("bad.onnx").exists()
