"""Several batches for one update: the same as one large batch, exact wherever it is stopped."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from netc.build import build
from netc.emit import Artifact, write
from netc.spec.load import load
from netc.spec.text import parse_tree
from netc_runtime.artifact import Artifact as DriverArtifact
from netc_runtime.errors import DriverError
from netc_runtime.step import TrainingStep
from netc_runtime.trainer import TrainOptions, train
from tests.driver.conftest import CPU, Recorder
from tests.oracle import Arrays, Runner, error, ort_runner

LAYERS: list[dict[str, Any]] = [
    {"name": "conv", "type": "Convolution", "num_output": 6, "kernel_size": 3},
    {
        "name": "pool",
        "type": "Pooling",
        "pool": "average",
        "kernel_size": 2,
        "stride": 2,
        "side": {
            "loss_weight": {"policy": "linear", "start": 0.4, "end": 0.1},
            "layers": [
                {"name": "scores1", "type": "InnerProduct", "num_output": 10},
                {"name": "l1", "type": "SoftmaxWithLoss"},
            ],
        },
    },
    {"name": "tanh", "type": "TanH"},
    {"name": "ip", "type": "InnerProduct", "num_output": 10, "param": [{"l2": 0.01}]},
    {"name": "loss", "type": "SoftmaxWithLoss", "bottom": ["ip", "label"]},
    {"name": "accuracy", "type": "Accuracy", "bottom": ["ip", "label"]},
]
SGD = {"type": "SGD", "base_lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "clip_norm": 0.5}
POLICY = {"type": "poly", "power": 1.0, "warmup_steps": 2, "warmup_start": 0.5}
SOLVERS: list[dict[str, Any]] = [
    {**SGD, "lr_policy": POLICY, "weight_average": 0.9},
    {"type": "AdaGrad", "base_lr": 0.05, "eps": 1e-3},
    {"type": "Adam", "base_lr": 0.01, "eps": 1e-3, "decoupled_decay": True, "weight_decay": 0.1, "clip_value": 0.01},
]


def compiled(layers: list[dict[str, Any]], batch_size: int, **solver: Any) -> Artifact:
    spec = {
        "netc": 1,
        "name": "net",
        "inputs": {"image": {"shape": [1, 8, 8]}, "label": {"classes": 10}},
        "data": {"source": "digits", "scale": 0.0625, "batch_size": batch_size},
        "layers": layers,
        "solver": {"max_iter": 10, **solver},
    }
    return build(load(parse_tree(json.dumps(spec), "net.yaml")))


def batches(count: int, size: int) -> list[Arrays]:
    rng = np.random.default_rng(5)
    shape = (count, size)
    images, labels = rng.integers(0, 17, (*shape, 1, 8, 8)), rng.integers(0, 10, shape)
    return [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]


def after(run: Runner, state: Arrays, batch: Arrays) -> tuple[Arrays, Arrays]:
    """Return the next state and the metrics."""
    found = run({**state, **batch})
    return {name: found.get(f"{name}.next", value) for name, value in state.items()}, found


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver["type"])
def test_four_batches_of_16_are_one_of_64(solver: dict[str, Any]) -> None:
    whole, parts = compiled(LAYERS, 64, **solver), compiled(LAYERS, 16, iter_size=4, **solver)
    run_whole, run_parts = ort_runner(whole.models()["train"]), ort_runner(parts.models()["train"])
    state, state_of_parts = whole.initial_state(), parts.initial_state()
    for batch in batches(8, 64):
        state, metrics = after(run_whole, state, batch)
        seen = []
        for start in range(0, 64, 16):
            part = {name: values[start : start + 16] for name, values in batch.items()}
            state_of_parts, found = after(run_parts, state_of_parts, part)
            seen.append(found)
        for name in ("total", "loss", "l1", "ip.penalty", "accuracy"):
            assert float(np.mean([float(found[name]) for found in seen])) == pytest.approx(
                float(metrics[name]), rel=1e-6
            )
        assert {float(found["lr"]) for found in seen} == {float(metrics["lr"])}
    assert state["step"] == state_of_parts["step"] == 8
    for name, value in state.items():
        # Sums of 64 gradients in another order, each rounded to 6e-8; measured below 5e-7, and a square doubles it.
        assert error(state_of_parts[name], value) < (5e-6 if "/" in name else 1e-6), name
    moved = error(state["ip.weight"], whole.initial_state()["ip.weight"])
    assert moved > 0.1, "nothing was learned"


def test_between_updates_nothing_changes_but_what_is_collected() -> None:
    artifact = compiled(LAYERS, 16, iter_size=3, **SOLVERS[0])
    run, state = ort_runner(artifact.models()["train"]), artifact.initial_state()
    for number, batch in enumerate(batches(7, 16)):
        new, _ = after(run, state, batch)
        updates = number % 3 == 2
        assert int(new["micro_batch"]) == (number + 1) % 3
        assert int(new["step"]) == (number + 1) // 3
        for name, value in new.items():
            if name.endswith("/accumulated"):
                assert value.any() != updates, name
            elif name not in ("micro_batch", "step", "max_steps", "seed"):
                assert np.array_equal(value, state[name]) != updates, name
        state = new


def test_a_stop_between_the_batches_of_an_update_leaves_no_trace(tmp_path: Path) -> None:
    artifact = compiled([{"name": "drop", "type": "Dropout"}, *LAYERS], 16, iter_size=4, **SOLVERS[2])
    write(artifact, tmp_path / "artifact")
    loaded, fed = DriverArtifact.load(tmp_path / "artifact"), batches(9, 16)
    whole, first = (TrainingStep(loaded, loaded.initial_state(), CPU) for _ in range(2))
    for batch in fed:
        whole.run(batch)
    for batch in fed[:6]:
        first.run(batch)
    save_file(first.state(), tmp_path / "state.safetensors")
    second = TrainingStep(loaded, load_file(tmp_path / "state.safetensors"), CPU)
    assert int(second.state()["micro_batch"]) == 2
    for batch in fed[6:]:
        second.run(batch)
    expected = whole.state()
    assert all(value.tobytes() == expected[name].tobytes() for name, value in second.state().items())


def test_every_batch_of_an_update_draws_anew() -> None:
    dropout = [{"name": "drop", "type": "Dropout"}, *LAYERS[3:]]
    artifact = compiled(dropout, 16, iter_size=3, **SGD)
    run, state = ort_runner(artifact.models()["train"]), artifact.initial_state()
    frozen = {name: value for name, value in state.items() if name not in ("micro_batch", "step")}
    (batch,) = batches(1, 16)
    totals = []
    for _ in range(6):
        state, metrics = after(run, {**state, **frozen}, batch)
        totals.append(float(metrics["total"]))
    assert len(set(totals)) == 6


def trained(folder: Path, artifact: Artifact) -> tuple[Arrays, dict[str, Any]]:
    """Train with the driver; return the last state and the last line of metrics."""
    write(artifact, folder / "artifact")
    train(TrainOptions(folder / "run", folder / "artifact", CPU), Recorder())
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    (checkpoint,) = sorted((folder / "run" / "checkpoints").iterdir())[-1:]
    return load_file(checkpoint), json.loads(lines[-1])


def test_the_driver_gives_both_the_same_samples(tmp_path: Path) -> None:
    solver = {**SOLVERS[0], "max_iter": 12}
    state, line = trained(tmp_path / "whole", compiled(LAYERS, 64, **solver))
    state_of_parts, line_of_parts = trained(tmp_path / "parts", compiled(LAYERS, 16, iter_size=4, **solver))
    assert line_of_parts["step"] == line["step"] == 12
    assert line_of_parts["rates"] == line["rates"]
    for split in ("train", "test"):
        assert line_of_parts[split] == pytest.approx(line[split], rel=1e-5)
    for name, value in state.items():
        assert error(state_of_parts[name], value) < 1e-5, name  # rounding grows with the updates


def test_too_little_data_for_one_update(tmp_path: Path) -> None:
    write(compiled(LAYERS, 64, iter_size=100, **SGD), tmp_path / "artifact")
    with pytest.raises(DriverError, match="fewer than the 100 batches of 64 that make one update"):
        train(TrainOptions(tmp_path / "run", tmp_path / "artifact", CPU), Recorder())
