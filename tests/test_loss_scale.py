"""Dynamic loss scaling: what overflows is left out in every bit, what would vanish is learned."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from netc.build import build
from netc.emit import Artifact, write
from netc.rewrite.passes import Target
from netc.solver.loss_scale import FIRST, GROWTH_INTERVAL, LARGEST, SMALLEST
from netc.solver.rules import SOLVERS
from netc.spec.load import load
from netc.spec.text import parse_tree
from netc_runtime.artifact import Artifact as DriverArtifact
from netc_runtime.checkpoint import checkpoint_paths
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.export import export_run
from netc_runtime.step import TrainingStep
from netc_runtime.trainer import TrainOptions, train
from tests.driver.conftest import CPU, Recorder
from tests.oracle import Arrays, Runner, error, ort_runner, rounding
from tests.test_accumulation import after, batches

LAYERS: list[dict[str, Any]] = [
    {"name": "conv", "type": "Convolution", "num_output": 6, "kernel_size": 3},
    {"name": "bn", "type": "BatchNorm"},
    {"name": "relu", "type": "ReLU"},
    {"name": "drop", "type": "Dropout", "dropout_ratio": 0.2},
    {"name": "ip", "type": "InnerProduct", "num_output": 10},
    {"name": "loss", "type": "SoftmaxWithLoss", "bottom": ["ip", "label"]},
]
SGD = {"type": "SGD", "base_lr": 0.1, "momentum": 0.9, "weight_decay": 0.001}
COUNTERS = ("loss_scale/good_steps", "loss_scale/skipped_steps")
TOO_LARGE = 2.0**34  # makes gradients of 1e-2 overflow in float16, and none in float32


def compiled(layers: list[dict[str, Any]] = LAYERS, target: Target = "cpu", **solver: Any) -> Artifact:
    phases = solver.pop("phases", [])
    rule = SGD if solver.get("type", "SGD") == "SGD" else {}
    spec = {
        "netc": 1,
        "name": "net",
        "inputs": {"image": {"shape": [1, 8, 8]}, "label": {"classes": 10}},
        "data": {"source": "digits", "scale": 0.0625, "batch_size": 16},
        "layers": layers,
        "solver": {"max_iter": 100, "precision": "mixed", **rule, **solver},
        **({"phases": phases} if phases else {}),
    }
    return build(load(parse_tree(yaml.safe_dump(spec), "net.yaml")), target, packs=False)  # state is fed by name


def runner(artifact: Artifact) -> Runner:
    return ort_runner(rounding(artifact.models()["train"]))


def with_scale(state: Arrays, scale: float, good: int = 0) -> Arrays:
    return {**state, "loss_scale": np.array(scale, np.float32), "loss_scale/good_steps": np.array(good, np.int64)}


@pytest.mark.parametrize("name", sorted(SOLVERS.members))
def test_an_update_that_overflows_is_left_out(name: str) -> None:
    spec = compiled(type=name, base_lr=0.01, weight_average=0.9, clip_norm=1.0)
    run, (first, second) = runner(spec), batches(2, 16)
    state, _ = after(run, spec.initial_state(), first)  # so that the solver remembers something
    new, metrics = after(run, with_scale(state, TOO_LARGE), second)
    kept = [t.name for t in spec.state if t.role in ("parameter", "optimizer", "average") and t.name not in COUNTERS]
    assert len(kept) >= 12
    assert all(new[name].tobytes() == state[name].tobytes() for name in kept)
    assert np.isfinite(metrics["total"])
    assert float(new["loss_scale"]) == TOO_LARGE / 2
    assert [int(new[name]) for name in COUNTERS] == [0, 1]
    assert int(new["step"]) == 2, "a step is a step: the schedule and the masks go on"
    assert not np.array_equal(new["bn.running_mean"], state["bn.running_mean"]), "the forward pass was sound"
    applied, _ = after(run, with_scale(state, FIRST), second)
    assert all(applied[name].tobytes() != state[name].tobytes() for name in ("ip.weight", "ip.weight/average"))
    assert all(np.isfinite(value).all() for value in applied.values())


def test_the_scale_finds_itself_and_grows_again() -> None:
    spec = compiled()
    run, state = runner(spec), with_scale(spec.initial_state(), TOO_LARGE)
    skipped = 0
    for batch in batches(40, 16):
        new, _ = after(run, state, batch)
        was_applied = not np.array_equal(new["ip.weight"], state["ip.weight"])
        assert float(new["loss_scale"]) == float(state["loss_scale"]) / (1 if was_applied else 2)
        skipped += not was_applied
        assert int(new["loss_scale/skipped_steps"]) == skipped
        state = new
    assert 5 < skipped < 30
    (batch,) = batches(1, 16)
    scale = float(state["loss_scale"])
    for good, factor in ((GROWTH_INTERVAL - 2, 1), (GROWTH_INTERVAL - 1, 2)):
        new, _ = after(run, with_scale(state, scale / 8, good), batch)
        assert float(new["loss_scale"]) == scale / 8 * factor
        assert int(new["loss_scale/good_steps"]) == (good + 1 if factor == 1 else 0)


def test_the_range_of_the_scale() -> None:
    """Without a gradient nothing overflows; with one that is not finite for its own sake, everything does."""
    spec = compiled([{**LAYERS[4]}, {**LAYERS[5], "loss_weight": 1e-30}])
    run, (batch,) = runner(spec), batches(1, 16)
    new, _ = after(run, with_scale(spec.initial_state(), LARGEST, GROWTH_INTERVAL - 1), batch)
    assert float(new["loss_scale"]) == LARGEST
    root = [{"name": "zero", "type": "Power", "scale": 0.0}, {"name": "root", "type": "Power", "power": 0.5}]
    spec = compiled([LAYERS[0], *root, *LAYERS[4:]])
    run, state = runner(spec), spec.initial_state()
    new, _ = after(run, with_scale(state, 2 * SMALLEST), batch)
    assert float(new["loss_scale"]) == SMALLEST
    assert np.array_equal(new["conv.weight"], state["conv.weight"])
    new, metrics = after(run, with_scale(state, SMALLEST), batch)
    assert float(new["loss_scale"]) == SMALLEST
    assert not np.isfinite(new["conv.weight"]).all(), "no scale can help, so that the driver has to be told"
    assert np.isfinite(metrics["total"])


@pytest.mark.parametrize("target", ["cpu", "cuda", "web"])
def test_what_would_vanish_in_float16_is_learned(target: Target) -> None:
    """Cotangents of 1e-9 at the scores, far below 6e-8, the smallest number of float16."""
    layers = [*LAYERS[:3], LAYERS[4], {**LAYERS[5], "loss_weight": 1e-7}]
    solver: dict[str, Any] = {"base_lr": 1e5, "momentum": 0.0, "weight_decay": 0.0}
    spec, exact = compiled(layers, target, **solver), compiled(layers, target, precision="float32", **solver)
    run, (batch,) = runner(spec), batches(1, 16)
    state = spec.initial_state()
    expected, _ = after(runner(exact), exact.initial_state(), batch)
    scaled, _ = after(run, state, batch)
    plain, _ = after(run, with_scale(state, 1.0), batch)
    for name in ("conv.weight", "ip.weight", "ip.bias"):
        # Rounding to 11 bits is 5e-4 of each product; numbers below 6e-5, of which there are some, have fewer bits.
        assert error(scaled[name] - state[name], expected[name] - state[name]) < 1e-2, name
        assert np.array_equal(plain[name], state[name]), name


def test_corrections_count_applied_updates() -> None:
    """After updates that were left out, Adam makes the very step that it makes first."""
    spec = compiled(LAYERS[4:], type="Adam", base_lr=0.01, weight_average=0.9)
    run, (first, second) = runner(spec), batches(2, 16)
    start = spec.initial_state()
    state = with_scale(start, TOO_LARGE)
    for _ in range(3):
        state, _ = after(run, state, first)
    assert int(state["loss_scale/skipped_steps"]) == 3
    late, _ = after(run, with_scale(state, FIRST), second)
    early, _ = after(run, with_scale(start, FIRST), second)
    names = [t.name for t in spec.state if t.role in ("parameter", "optimizer", "average") and t.name not in COUNTERS]
    assert all(late[name].tobytes() == early[name].tobytes() for name in names)


def test_one_overflow_spoils_an_update_of_several_batches() -> None:
    spec = compiled(iter_size=3)
    run, state = runner(spec), spec.initial_state()
    fed = batches(6, 16)
    slots = [t.name for t in spec.state if t.name.endswith("/accumulated")]
    for number, batch in enumerate(fed[:3]):
        state, _ = after(run, with_scale(state, TOO_LARGE if number == 1 else FIRST), batch)
    start = spec.initial_state()
    assert all(not state[name].any() for name in slots), "nothing of it is left"
    assert all(np.array_equal(state[name], start[name]) for name in ("conv.weight", "ip.weight", "ip.weight/velocity"))
    assert float(state["loss_scale"]) == FIRST / 2
    assert [int(state[name]) for name in (*COUNTERS, "step", "micro_batch")] == [0, 1, 1, 0]
    for batch in fed[3:]:
        scale = float(state["loss_scale"])
        state, _ = after(run, state, batch)
    assert scale == float(state["loss_scale"]) == FIRST / 2
    assert [int(state[name]) for name in (*COUNTERS, "step")] == [1, 1, 2]
    assert not np.array_equal(state["conv.weight"], start["conv.weight"])


# -- by the driver ---------------------------------------------------------------------------------------

# 16,000 times the mean of a batch: its gradients overflow at the first scale, and at some below.
LOUD = [*LAYERS[:5], {**LAYERS[5], "normalization": "none", "loss_weight": 1000.0}]


def driven(folder: Path, artifact: Artifact, epochs: int | None = None, resume: bool = False) -> Recorder:
    recorder = Recorder()
    if not resume:
        write(artifact, folder / "artifact")
    given = None if resume else folder / "artifact"
    train(TrainOptions(folder / "run", given, CPU, resume, epochs), recorder)
    return recorder


def last(folder: Path) -> Arrays:
    return load_file(checkpoint_paths(folder / "run" / "checkpoints")[-1])


def test_a_run_with_overflows_is_no_divergence_and_resumes_in_every_bit(tmp_path: Path) -> None:
    artifact = compiled(LOUD, base_lr=1e-5, max_epochs=3, max_iter=None)
    recorder = driven(tmp_path / "whole", artifact)
    assert recorder.begun is not None
    assert recorder.begun.precision == "mixed"
    state = last(tmp_path / "whole")
    assert int(state["loss_scale/skipped_steps"]) > 0
    assert float(state["loss_scale"]) == FIRST / 2 ** int(state["loss_scale/skipped_steps"])
    losses = [epoch.train["loss"] for epoch in recorder.epochs]
    assert losses[-1] < 0.7 * losses[0]
    driven(tmp_path / "parts", artifact, epochs=1)
    driven(tmp_path / "parts", artifact, resume=True)
    again = last(tmp_path / "parts")
    assert again.keys() == state.keys()
    assert all(again[name].tobytes() == value.tobytes() for name, value in state.items())
    report = export_run(tmp_path / "whole" / "run", host=CPU)
    assert report.agreement is not None
    assert report.agreement.difference < 1e-4 * report.agreement.largest  # float32 both


def test_a_loss_that_is_not_finite_is_a_divergence(tmp_path: Path) -> None:
    log: list[dict[str, Any]] = [{"name": "zero", "type": "Power", "scale": 0.0}, {"name": "log", "type": "Log"}]
    with pytest.raises(DriverError, match="the first non-finite values are in the forward pass of log") as caught:
        driven(tmp_path, compiled([LAYERS[0], *log, *LAYERS[4:]]))
    assert caught.value.exit_code == ExitCode.DIVERGED


def test_phases_keep_the_scale_and_count_anew(tmp_path: Path) -> None:
    phases: list[dict[str, Any]] = [{"iterations": 5}, {"freeze": ["bn"]}]
    driven(tmp_path, compiled(LOUD, base_lr=1e-5, max_iter=12, phases=phases))
    state = last(tmp_path)
    skipped = round(np.log2(FIRST / float(state["loss_scale"])))
    assert skipped > 0
    assert int(state["loss_scale/skipped_steps"]) < skipped, "those of the first phase are forgotten"


def test_a_stop_between_the_batches_of_an_update_leaves_no_trace(tmp_path: Path) -> None:
    write(compiled(iter_size=3), tmp_path / "artifact")
    loaded, fed = DriverArtifact.load(tmp_path / "artifact"), batches(6, 16)
    whole = TrainingStep(loaded, with_scale(loaded.initial_state(), TOO_LARGE), CPU)
    first = TrainingStep(loaded, with_scale(loaded.initial_state(), TOO_LARGE), CPU)
    for batch in fed:
        whole.run(batch)
    for batch in fed[:2]:
        first.run(batch)
    second = TrainingStep(loaded, first.state(), CPU)
    for batch in fed[2:]:
        second.run(batch)
    expected = whole.state()
    assert all(value.tobytes() == expected[name].tobytes() for name, value in second.state().items())
