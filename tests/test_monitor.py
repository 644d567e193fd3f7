"""The monitor of a run: each statistic against PyTorch, and a training that it leaves as it is."""

import csv
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from netc.build import build
from netc.emit import Artifact, write
from netc.graph import shape_of
from netc.monitor import QUANTITIES
from netc.spec.load import load
from netc.spec.model import NetSpec
from netc.spec.text import parse_tree
from netc_runtime.artifact import Artifact as DriverArtifact
from netc_runtime.checkpoint import checkpoint_paths
from netc_runtime.errors import DriverError
from netc_runtime.events import StepDone
from netc_runtime.monitor import COLUMNS, Monitor
from netc_runtime.trainer import TrainOptions, train
from tests.driver.conftest import CPU, Recorder
from tests.oracle import TARGETS, Arrays, ort_runner
from tests.torch_twin import TorchTwin
from tests.zoo import loaded, reduced

# A bias before BatchNorm would have no gradient but rounding.
SPEC: dict[str, Any] = yaml.safe_load("""
netc: 1
name: monitored
inputs:
  image: {shape: [1, 8, 8]}
  label: {classes: 10}
data: {source: digits, scale: 0.0625, batch_size: 16}
layers:
  - {name: conv1, type: Convolution, num_output: 6, kernel_size: 3, bias_term: false}
  - {name: bn1, type: BatchNorm}
  - {name: relu1, type: ReLU}
  - name: pool1
    type: Pooling
    pool: average
    kernel_size: 2
    stride: 2
    side:
      loss_weight: {policy: linear, start: 0.5, end: 0.1}
      layers:
        - {name: scores1, type: InnerProduct, num_output: 10}
        - {name: loss1, type: SoftmaxWithLoss}
  - {name: ip1, type: InnerProduct, num_output: 12, bias_filler: {type: constant, value: -0.4}}
  - {name: relu2, type: ReLU}
  - {name: drop, type: Dropout, dropout_ratio: 0.3}
  - {name: leaky, type: ReLU, negative_slope: 0.1}
  - {name: ip2, type: InnerProduct, num_output: 10, param: [{l2: 0.01}]}
  - {name: loss, type: SoftmaxWithLoss}
  - {name: accuracy, type: Accuracy, bottom: [ip2, label]}
solver: {type: SGD, base_lr: 0.1, momentum: 0.9, weight_decay: 0.01, max_iter: 100}
run: {monitor_every: 10}
""")
# Sums of at most a few thousand float32 numbers; weights before and after a step differ in their last digits alone, so
# that their difference is known to 6e-8 of the weights.
RELATIVE, ABSOLUTE = 2e-5, 2e-7

Statistics = dict[tuple[str, str, str], float]


def compiled(**sections: Any) -> Artifact:
    return build(load(parse_tree(json.dumps(SPEC | sections), "spec.yaml")))


def without(layers: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [layer for layer in layers if layer["name"] not in names]


def batches(count: int) -> list[Arrays]:
    rng = np.random.default_rng(3)
    images, labels = rng.integers(0, 17, (count, 16, 1, 8, 8)), rng.integers(0, 10, (count, 16))
    return [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]


def monitored(artifact: Artifact, state: Arrays, batch: Arrays, key: str = "monitor") -> Statistics:
    """Run a monitor program; return its statistics by layer, tensor and quantity."""
    program = artifact.programs[key]
    found = ort_runner(artifact.models()[key])({**state, **batch})
    assert found.keys() == program.outputs.keys()
    said = {name: (entry["layer"], entry["tensor"], entry["quantity"]) for name, entry in program.outputs.items()}
    return {said[name]: float(value) for name, value in found.items()}


def after(artifact: Artifact, state: Arrays, batch: Arrays) -> Arrays:
    found = ort_runner(artifact.models()["train"])({**state, **batch})
    return {name: found.get(f"{name}.next", value) for name, value in state.items()}


def expected_statistics(spec: NetSpec, state: Arrays, batch: Arrays) -> Statistics:
    """Return what PyTorch finds, in float64, for a spec whose parameters all learn."""
    twin = TorchTwin(spec, state, 100, torch.float64)
    twin.step = int(state["step"])
    names = [name for name in twin.state if name.endswith((".weight", ".bias"))]
    for name in names:
        twin.state[name].requires_grad_(True)
    found = twin._evaluate(batch["image"], batch["label"])
    tops = {name: top for name, top in found.tops.items() if name not in spec.inputs}
    of_tops = torch.autograd.grad(found.total, list(tops.values()), retain_graph=True)
    of_parameters = torch.autograd.grad(found.total, [twin.state[name] for name in names])
    before = {name: twin.state[name].detach().clone() for name in names}
    twin.train_step(batch["image"], batch["label"])
    expected: Statistics = {}
    for (name, y), dy in zip(tops.items(), of_tops, strict=True):
        expected[name, name, "mean_abs_activation"] = y.abs().mean().item()
        expected[name, name, "mean_abs_gradient"] = dy.abs().mean().item()
        if name in ("relu1", "relu2"):
            silent = (y.detach() == 0).to(torch.float64)
            expected[name, name, "zero_fraction"] = silent.mean().item()
            by_unit = silent.transpose(0, 1).flatten(1)
            expected[name, name, "dead_fraction"] = (by_unit.min(1).values == 1).to(torch.float64).mean().item()
    for name, dw in zip(names, of_parameters, strict=True):
        layer = name.rpartition(".")[0]
        expected[layer, name, "gradient_norm"] = dw.norm().item()
        change = (twin.state[name] - before[name]).norm()
        expected[layer, name, "update_ratio"] = (change / before[name].norm()).item()
    return expected


def compare(found: Statistics, expected: Statistics) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if np.isfinite(value):
            assert found[key] == pytest.approx(value, rel=RELATIVE, abs=ABSOLUTE), key
        else:
            assert not np.isfinite(found[key]), key


def test_every_statistic_is_that_of_pytorch() -> None:
    """Batch norm, dropout, a companion and a penalty; at the start, where biases are 0, and some steps later."""
    artifact = compiled()
    state = artifact.initial_state()
    for number, batch in enumerate(batches(4)):
        found = monitored(artifact, state, batch)
        compare(found, expected_statistics(artifact.spec, state, batch))
        assert (found["ip2", "ip2.bias", "update_ratio"] == np.inf) == (number == 0)
        state = after(artifact, state, batch)
    assert {quantity for _, _, quantity in found} == set(QUANTITIES)
    assert found["relu2", "relu2", "zero_fraction"] > 0.3, "nothing is cut, so that the test shows little"


def test_units_that_are_dead() -> None:
    """Of 12 units 3 have no chance; of 6 channels the one whose shift is very negative."""
    artifact = compiled()
    state, (batch,) = artifact.initial_state(), batches(1)
    state["ip1.bias"][[1, 5, 6]] = -1e3
    state["bn1.bias"][2] = -1e3
    found = monitored(artifact, state, batch)
    assert found["relu2", "relu2", "dead_fraction"] >= 3 / 12
    assert found["relu1", "relu1", "dead_fraction"] == pytest.approx(1 / 6)
    compare(found, expected_statistics(artifact.spec, state, batch))


def test_clipping_comes_after_the_norm_of_the_gradient() -> None:
    (batch,), plain, clipped = batches(1), compiled(), compiled(solver=SPEC["solver"] | {"clip_norm": 1e-3})
    state = plain.initial_state()
    found, other = monitored(plain, state, batch), monitored(clipped, state, batch)
    for key, value in found.items():
        if key[-1] == "update_ratio" and np.isfinite(value):
            assert other[key] < value
        else:
            assert other[key] == value


def test_frozen_parameters_have_no_gradient() -> None:
    artifact, plain, (batch,) = compiled(freeze=["conv1", "ip1.bias"]), compiled(), batches(1)
    state = plain.initial_state()
    found, every = monitored(artifact, state, batch), monitored(plain, state, batch)
    frozen = [("conv1", "conv1.weight"), ("ip1", "ip1.bias")]
    gone = {(*which, quantity) for which in frozen for quantity in ("gradient_norm", "update_ratio")}
    gone.add(("conv1", "conv1", "mean_abs_gradient"))  # nothing before it learns
    assert found.keys() == every.keys() - gone
    compare(found, {key: every[key] for key in found})
    parts = [
        (node.metadata_props["netc.layer"], node.metadata_props["netc.part"])
        for node in artifact.programs["monitor"].graph
    ]
    assert ("conv1", "grad") not in parts


def test_the_last_of_several_batches_is_monitored_with_the_gradient_of_all() -> None:
    layers = without(SPEC["layers"], "drop")  # whose masks are drawn by batch, which the twin does not know
    artifact = compiled(layers=layers, solver=SPEC["solver"] | {"iter_size": 3})
    one = compiled(layers=layers)
    state = artifact.initial_state()
    sums: dict[str, np.ndarray] = {}
    for batch in batches(3):
        of_batch = expected_statistics(one.spec, state, batch)
        found = monitored(artifact, state, batch)
        for name, dw in gradients(one.spec, state, batch).items():
            sums[name] = sums.get(name, 0.0) + dw
        before, state = state, after(artifact, state, batch)
    for (layer, tensor, quantity), value in found.items():
        if quantity == "gradient_norm":
            expected = float(np.linalg.norm(sums[tensor] / 3))
        elif quantity == "update_ratio":
            with np.errstate(divide="ignore"):
                change = np.linalg.norm(state[tensor].astype(np.float64) - before[tensor])
                expected = float(change / np.linalg.norm(before[tensor]))
        else:
            expected = of_batch[layer, tensor, quantity]
        assert value == pytest.approx(expected, rel=RELATIVE, abs=ABSOLUTE), (tensor, quantity)


def gradients(spec: NetSpec, state: Arrays, batch: Arrays) -> Arrays:
    """Return the gradient of each parameter in PyTorch."""
    twin = TorchTwin(spec, state, 100, torch.float64)
    names = [name for name in twin.state if name.endswith((".weight", ".bias"))]
    for name in names:
        twin.state[name].requires_grad_(True)
    total = twin._evaluate(batch["image"], batch["label"]).total
    found = torch.autograd.grad(total, [twin.state[name] for name in names])
    return {name: dw.numpy() for name, dw in zip(names, found, strict=True)}


def test_each_phase_is_monitored_as_it_trains() -> None:
    artifact = compiled(phases=[{"iterations": 20, "sides": False, "freeze": "bn1"}, {}])
    assert artifact.manifest()["monitors"] == {"train.1": "monitor.1", "train": "monitor"}
    state, (batch,) = artifact.initial_state(), batches(1)
    first, second = (monitored(artifact, state, batch, key) for key in ("monitor.1", "monitor"))
    gone = {layer for layer, _, quantity in second.keys() - first.keys() if quantity == "mean_abs_gradient"}
    assert gone == {"scores1"}
    assert ("bn1", "bn1.weight", "gradient_norm") in second.keys() - first.keys()
    assert first["pool1", "pool1", "mean_abs_gradient"] < second["pool1", "pool1", "mean_abs_gradient"]


@pytest.mark.parametrize("target", TARGETS)
def test_monitoring_adds_reductions_and_changes_no_other_program(target: Any) -> None:
    tree = json.dumps(SPEC | {"run": {}})
    plain = build(load(parse_tree(tree, "spec.yaml")), target)
    artifact = build(load(parse_tree(json.dumps(SPEC), "spec.yaml")), target)
    models, others = artifact.models(), plain.models()  # which checks the rules of graphs
    assert models.keys() - others.keys() == {"monitor"}
    for name, model in others.items():
        assert models[name].SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    assert "monitors" not in plain.manifest()
    own = {node.op_type for node in artifact.programs["monitor"].graph if node.metadata_props["netc.part"] == "monitor"}
    layout = {"Reshape", "Transpose"} if target == "cpu" else set()  # which lays small batches innermost
    assert own - layout <= {"Abs", "Equal", "Not", "Cast", "Sub", "Div", "ReduceMean", "ReduceMax", "ReduceL2"}
    assert all(shape_of(value) == [] for value in artifact.programs["monitor"].graph.outputs)


@pytest.mark.parametrize("name", ["lenet_dsn", "mlp_maxout", "nin_dsn_cifar10", "autoencoder"])
def test_specs_of_the_zoo_can_be_monitored(name: str) -> None:
    artifact = build(loaded(name, *reduced(name), "run.monitor_every=5"))
    artifact.models()
    layers = {entry["layer"] for entry in artifact.programs["monitor"].outputs.values()}
    assert layers == {placed.layer.name for placed in artifact.network.placed if not placed.is_objective}


# -- in a run -------------------------------------------------------------------------------------------------

RUN = {"solver": SPEC["solver"] | {"max_iter": 60}, "data": SPEC["data"] | {"batch_size": 64}}  # 22 steps an epoch
PHASES = [{"iterations": 25, "sides": False}, {}]


def written(folder: Path, every: int | None = 10, **sections: Any) -> Path:
    write(compiled(**RUN | {"run": {"monitor_every": every}} | sections), folder)
    return folder


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "monitor.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def steps(run: Path) -> list[tuple[int, int]]:
    return sorted({(int(row["step"]), int(row["epoch"])) for row in rows(run)})


def interrupted(artifact: Path, run: Path, step: int, resume: bool = False) -> None:
    def send(event: StepDone) -> None:
        if event.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(DriverError, match=f"stopped by SIGINT after step {step}"):
        train(TrainOptions(run, artifact, CPU, resume=resume), Recorder(send))


def last_state(run: Path) -> Mapping[str, np.ndarray]:
    return load_file(checkpoint_paths(run / "checkpoints")[0])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("monitored")
    train(TrainOptions(folder / "run", written(folder / "artifact", phases=PHASES), CPU), Recorder())
    return folder


def test_the_first_step_and_every_tenth_are_written_down(finished: Path) -> None:
    run = finished / "run"
    assert steps(run) == [(1, 1), (10, 1), (20, 1), (30, 2), (40, 2), (50, 3), (60, 3)]
    of_first = [row for row in rows(run) if row["step"] == "1"]
    artifact = compiled(**RUN, phases=PHASES)
    said = [
        (entry["layer"], entry["tensor"], entry["quantity"])
        for entry in artifact.programs["monitor.1"].outputs.values()
    ]
    assert [(row["layer"], row["tensor"], row["quantity"]) for row in of_first] == said
    empty = {row["tensor"] for row in of_first if not row["value"]}
    assert empty == {"ip2.bias", "bn1.bias"}, "what is 0 has no relative change; scores1 does not learn yet"
    sides = {row["step"] for row in rows(run) if row["tensor"] == "scores1" and row["quantity"] == "mean_abs_gradient"}
    assert sides == {"30", "40", "50", "60"}, "the second phase, which has companions, begins after step 25"


def test_the_values_are_those_of_the_step(finished: Path) -> None:
    """The same program, run here on the state of a checkpoint and the batch that follows it."""
    from netc_runtime.data import open_source
    from netc_runtime.data.order import permutation

    artifact = compiled(**RUN, phases=PHASES)
    run = finished / "nine"
    interrupted(finished / "artifact", run, 9)
    source = open_source({"source": "digits"})
    indices = permutation(0, 0, 1437)[9 * 64 : 10 * 64]
    batch = {"image": source.train["image"][indices], "label": source.train["label"][indices]}
    expected = monitored(artifact, dict(last_state(run)), batch, "monitor.1")
    found = [row for row in rows(finished / "run") if row["step"] == "10"]
    assert len(found) == len(expected)
    for row in found:
        value = expected[row["layer"], row["tensor"], row["quantity"]]
        assert np.float32(row["value"]) == np.float32(value)


@pytest.mark.parametrize("stops", [(1,), (9,), (10,), (11,), (25,), (44, 50)])
def test_a_run_that_was_stopped_has_the_same_rows(stops: tuple[int, ...], finished: Path, tmp_path: Path) -> None:
    for number, step in enumerate(stops):
        interrupted(finished / "artifact", tmp_path / "run", step, resume=number > 0)
    train(TrainOptions(tmp_path / "run", resume=True), Recorder())
    assert (tmp_path / "run" / "monitor.csv").read_bytes() == (finished / "run" / "monitor.csv").read_bytes()


def test_rows_after_the_checkpoint_are_taken_back(finished: Path, tmp_path: Path) -> None:
    """A killed process wrote on after its last checkpoint, and half a row."""
    interrupted(finished / "artifact", tmp_path / "run", 32)
    expected = (finished / "run" / "monitor.csv").read_bytes()
    (tmp_path / "run" / "monitor.csv").write_bytes(expected[: expected.rindex(b"60,3,pool1") + 17])
    train(TrainOptions(tmp_path / "run", resume=True), Recorder())
    assert (tmp_path / "run" / "monitor.csv").read_bytes() == expected


@pytest.mark.parametrize("step", [0, 9, 20, 45])
def test_wherever_a_process_was_killed_whole_rows_remain(step: int, finished: Path, tmp_path: Path) -> None:
    whole = (finished / "run" / "monitor.csv").read_bytes()
    lines = whole.splitlines(keepends=True)
    kept = b"".join([lines[0], *(line for line in lines[1:] if int(line.split(b",")[0]) <= step)])
    path = tmp_path / "monitor.csv"
    monitor = Monitor(DriverArtifact.load(finished / "artifact"), CPU, 10, path)
    for end in [*range(len(kept), min(len(kept) + 200, len(whole))), len(whole)]:
        path.write_bytes(whole[:end])
        monitor.rewind(step)
        assert path.read_bytes() == kept
    for damage in (b"", b"something else\n1,2,3\n", b"step", whole[:10] + b"\0" * 4096, b"\xff" * (1 << 17)):
        path.write_bytes(damage)
        monitor.rewind(step)
        assert path.read_bytes() == lines[0]


def test_monitoring_changes_no_bit_of_a_run(finished: Path, tmp_path: Path) -> None:
    train(TrainOptions(tmp_path / "run", written(tmp_path / "artifact", None, phases=PHASES), CPU), Recorder())
    assert not (tmp_path / "run" / "monitor.csv").exists()
    state, expected = last_state(finished / "run"), last_state(tmp_path / "run")
    assert state.keys() == expected.keys()
    assert all(state[name].tobytes() == value.tobytes() for name, value in expected.items())


def test_a_resume_may_change_how_often(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    interrupted(finished / "artifact", run, 22)
    often = written(tmp_path / "often", 7, phases=PHASES)
    interrupted(often, run, 44, resume=True)
    assert [step for step, _ in steps(run)] == [1, 10, 20, 28, 35, 42]
    never = written(tmp_path / "never", None, phases=PHASES)
    train(TrainOptions(run, never, CPU, resume=True), Recorder())
    assert [step for step, _ in steps(run)] == [1, 10, 20, 28, 35, 42]
    state, expected = last_state(run), last_state(finished / "run")
    assert all(state[name].tobytes() == value.tobytes() for name, value in expected.items())


def test_columns(finished: Path) -> None:
    assert (finished / "run" / "monitor.csv").read_text().startswith(",".join(COLUMNS) + "\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.pop("monitors"), "monitor_every is 10, but there is no graph that monitors; compile it again"),
        (lambda m: m["monitors"].pop("train.1"), 'there is no graph that monitors "train.1"'),
        (lambda m: m["monitors"].update(train="nothing"), 'there is no graph that monitors "train"'),
        (lambda m: m["graphs"]["monitor"]["inputs"][0]["shape"].append(2), "which train does not take in this shape"),
        (lambda m: m["graphs"]["monitor"]["outputs"][0].pop("layer"), "should be a scalar that says what it is of"),
    ],
)
def test_manifests_that_make_no_sense(change: Any, said: str, finished: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "artifact", phases=PHASES)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["digest"]
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DriverError, match=said):
        train(TrainOptions(tmp_path / "run", folder, CPU), Recorder())
