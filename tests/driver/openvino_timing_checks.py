"""Times and tuning on OpenVINO: whose the kernels are, that alternatives compute the same, that choices are kept."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from netc.build import build
from netc.cli import app
from netc.emit import write
from netc.rewrite.lowerings import PLAIN, Lowerings
from netc.rewrite.passes import alternatives
from netc.spec.load import load
from netc.spec.text import read_tree
from netc_runtime.artifact import Artifact
from netc_runtime.attribution import Origin, kernel_origins
from netc_runtime.session import Host
from netc_runtime.step import TrainingStep
from netc_runtime.timetable import rows
from netc_runtime.timing import Timing, synthetic_batch, time_step
from tests.zoo import build_for

pytest.importorskip("openvino", reason='needs the extra "openvino"')

OPENVINO = Host("openvino", threads=1)
# A place for every rule: a batch of sixteens and channels of one tap a product, both kinds of pooling.
SPEC = """\
netc: 1
name: small
inputs:
  image: {shape: [1, 8, 8]}
  label: {classes: 10}
data: {source: digits, batch_size: 16}
layers:
  - {name: conv1, type: Convolution, num_output: 32, kernel_size: 3, pad: 1}
  - {name: bn, type: BatchNorm}
  - {name: relu, type: ReLU}
  - {name: maximum, type: Pooling, pool: max, kernel_size: 2, stride: 2}
  - {name: conv2, type: Convolution, num_output: 32, kernel_size: 3, pad: 1}
  - {name: average, type: Pooling, pool: average, kernel_size: 2, stride: 2}
  - {name: ip, type: InnerProduct, num_output: 10}
  - {name: loss, type: SoftmaxWithLoss}
solver: {type: SGD, base_lr: 0.01, momentum: 0.9, max_epochs: 1}
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "small.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def timing(tmp_path_factory: pytest.TempPathFactory) -> Timing:
    folder = tmp_path_factory.mktemp("timing") / "artifact"
    write(build_for("lenet_dsn", "openvino"), folder)
    return time_step(Artifact.load(folder), OPENVINO, 3)


def test_every_kernel_has_an_origin_and_the_times_add_up(timing: Timing) -> None:
    assert (timing.device, timing.steps) == ("openvino", 3)
    assert timing.kernels
    assert all(kernel.origin is not None and kernel.milliseconds >= 0 for kernel in timing.kernels)
    assert {kernel.origin for kernel in timing.kernels} <= set(timing.nodes.values())
    for by in ("layer", "operator", "node"):
        assert sum(row.milliseconds for row in rows(timing, by)) == pytest.approx(timing.kernels_ms)


def test_kernels_are_those_of_the_layers_that_they_serve(timing: Timing) -> None:
    found = {kernel.name: kernel.origin for kernel in timing.kernels}
    # Their own names, parts of names, values, and a change of the layout for who reads it.
    assert found["conv1/forward/Conv"] == Origin("conv1", "forward")
    assert found["ip1/forward/Gemm/WithoutBiases"] == Origin("ip1", "forward")
    assert found["ip1.weight.next"] == Origin("ip1", "update")
    assert found["lr"] == Origin("solver", "update")
    assert found["relu1/forward/Relu_acdb_abcd_ip1_side/forward/Flatten"] == Origin("ip1_side", "forward")
    assert "Parameter" not in {kernel.operator for kernel in timing.kernels}


@pytest.mark.parametrize("name", ["lenet_sigmoid", "lenet_bn_dropout"])
def test_every_kernel_of_other_networks_has_an_origin(name: str, tmp_path: Path) -> None:
    write(build_for(name, "openvino", "data.batch_size=4"), tmp_path / "artifact")
    artifact = Artifact.load(tmp_path / "artifact")
    step = TrainingStep(artifact, artifact.initial_state(), OPENVINO, trace=tmp_path)
    step.run(synthetic_batch(artifact, "train"))
    step.trace.end_lap(1)
    program = build_for(name, "openvino", "data.batch_size=4").models()["train"].graph
    assert set(step.trace.end().names) <= kernel_origins(program, step.trace.nodes).keys()


@pytest.fixture(scope="module")
def usual(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], Lowerings]:
    lowerings = Lowerings()
    return after_a_step(small, lowerings, tmp_path_factory.mktemp("usual")), lowerings


def after_a_step(spec: Path, lowerings: Lowerings, folder: Path) -> dict[str, np.ndarray]:
    write(build(load(read_tree(spec), spec.parent), "openvino", lowerings=lowerings), folder / "artifact")
    artifact = Artifact.load(folder / "artifact")
    step = TrainingStep(artifact, artifact.initial_state(), OPENVINO)
    step.run(synthetic_batch(artifact, "train"))
    return step.state()


@pytest.mark.parametrize("alternative", alternatives("openvino"), ids=":".join)
def test_every_alternative_computes_the_same(
    alternative: tuple[str, str], small: Path, usual: tuple[dict[str, np.ndarray], Lowerings], tmp_path: Path
) -> None:
    """1e-5 of each tensor's largest element: the same sums in another order."""
    expected, lowerings = usual
    assert any(place.startswith(f"{alternative[0]}(") for place in lowerings.applied)
    found = after_a_step(small, Lowerings(everywhere=alternative), tmp_path)
    for name, value in expected.items():
        # Batch normalization takes the bias in front of it away: its gradient is 0, and it gets what rounding leaves.
        bound = 1e-8 if name.startswith("conv1.bias") else 1e-5 * np.abs(value).max()
        np.testing.assert_allclose(found[name], value, rtol=0, atol=bound, err_msg=name)


@pytest.fixture
def one_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time one alternative alone, since each takes as long as the test before this one."""
    monkeypatch.setattr("netc.rewrite.passes.alternatives", lambda target: [("ScatterElements", PLAIN)])


@pytest.mark.usefixtures("one_alternative")
def test_tune_writes_its_choices_and_a_run_keeps_them(small: Path, tmp_path: Path) -> None:
    runner, tuned, options = CliRunner(), tmp_path / "tuned", ["--provider", "openvino", "--threads", "1"]
    result = runner.invoke(app, ["tune", str(small), "-o", str(tuned), "--steps", "1", "--json", *options])
    assert result.exit_code == 0, result.output
    said, manifest = json.loads(result.stdout), json.loads((tuned / "manifest.json").read_text())
    assert manifest["target"] == "openvino"
    assert manifest.get("tuning") == said["tuning"]
    if said["tuning"] is not None:  # the clock found something that pays
        assert said["tuning"]["engine"].startswith("OpenVINO 20")
    # A choice made by hand, so that it does not hang on a clock.
    place = next(c["signature"] for c in said["choices"] if c["signature"].startswith("ScatterElements("))
    manifest["tuning"] = {"engine": "any", "threads": 1, "lowerings": {place: PLAIN}}
    (tuned / "manifest.json").write_text(json.dumps(manifest))
    run, short = tmp_path / "run", ["--set", "data.limit=32"]
    result = runner.invoke(app, ["train", str(tuned), "--run", str(run), *short, *options])
    assert result.exit_code == 0, result.output
    kept = Artifact.load(run / "artifact")
    assert json.loads((run / "artifact" / "manifest.json").read_text())["tuning"]["lowerings"] == {place: PLAIN}
    assert b"ScatterElements" in kept.content("train")


@pytest.mark.usefixtures("one_alternative")
def test_train_tunes_for_the_engine_that_trains(small: Path, tmp_path: Path) -> None:
    arguments = ["train", str(small), "--run", str(tmp_path / "run"), "--tune", "--provider", "openvino"]
    result = CliRunner().invoke(app, [*arguments, "--threads", "1", "--set", "data.limit=32"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("tuned small: ")
    assert json.loads((tmp_path / "run" / "artifact" / "manifest.json").read_text())["target"] == "openvino"


def test_the_command_that_times(small: Path) -> None:
    result = CliRunner().invoke(app, ["time", str(small), "--provider", "openvino", "--steps", "1", "--threads", "1"])
    assert result.exit_code == 0, result.output
    assert " ms a step of 16 samples on openvino, 1 threads, 1 steps; " in result.stdout
    assert result.stderr == ""
