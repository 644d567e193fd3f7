"""The plateau policy: when the factor of the rate falls, and that a resumed run remembers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from safetensors.numpy import load_file

from netc_runtime.artifact import Artifact
from netc_runtime.checkpoint import Checkpoint
from netc_runtime.errors import DriverError
from netc_runtime.jsonfields import MalformedError
from netc_runtime.plateau import Plateau, Waiting
from netc_runtime.trainer import TrainOptions, train

from .conftest import CPU, Recorder
from .handmade import METRICS, STATE, first_state, spec, write_programs
from .handmade import _eval as eval_program
from .handmade import _fold as fold_program
from .handmade import _infer as infer_program
from .handmade import _train as train_program

SETTINGS = Plateau("lr_scale", "total", False, 0.5, 2, 0.01, 1, 0.0)


def scales(plateau: Plateau, values: list[float]) -> list[float]:
    waiting, scale, found = Waiting(), 1.0, []
    for step, value in enumerate(values, start=1):
        waiting, scale = plateau.after(waiting, value, step, scale)
        found.append(scale)
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("larger_is_better", [False, True])
@pytest.mark.parametrize(("patience", "cooldown", "min_delta"), [(1, 0, 0.0), (2, 0, 0.05), (3, 2, 0.01), (5, 4, 0.1)])
def test_the_rate_falls_when_pytorch_lets_it_fall(
    seed: int, larger_is_better: bool, patience: int, cooldown: int, min_delta: float
) -> None:
    """PyTorch's patience is the number of bad evaluations that it tolerates: one less."""
    values = [float(value) for value in np.random.default_rng(seed).normal(size=80).cumsum() * 0.05]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    mode = "max" if larger_is_better else "min"
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode,  # type: ignore[arg-type]
        0.5,
        patience - 1,
        min_delta,
        "abs",
        cooldown,
        min_lr=0.01,
        eps=0.0,
    )
    expected = []
    for value in values:
        oracle.step(value)
        expected.append(optimizer.param_groups[0]["lr"])
    plateau = Plateau("lr_scale", "total", larger_is_better, 0.5, patience, min_delta, cooldown, 0.01)
    assert scales(plateau, values) == expected
    assert len(set(expected)) > 2, "nothing fell"


def test_a_value_that_is_not_finite_is_no_improvement() -> None:
    assert scales(SETTINGS, [float("nan"), float("nan"), 1.0]) == [1.0, 0.5, 0.5]
    assert scales(SETTINGS, [float("-inf"), 1.0, 0.5, 0.2]) == [1.0] * 4


def test_an_evaluation_done_again_decides_nothing() -> None:
    waiting, scale = SETTINGS.after(Waiting(best=0.0, waited=1, step=7), 1.0, 8, 1.0)
    assert scale == 0.5
    assert SETTINGS.after(waiting, 1.0, 8, scale) == (waiting, 0.5)


def test_a_floor_above_the_rate_does_not_raise_it() -> None:
    plateau = Plateau("lr_scale", "total", False, 0.5, 1, 0.0, 0, 2.0)
    assert scales(plateau, [1.0, 2.0]) == [1.0, 1.0]


@pytest.mark.parametrize("entry", [{"best": 1.0}, {"best": None, "waited": -1, "cooling": 0, "step": 0}])
def test_a_damaged_memory_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        Waiting.parse(entry)


# ------------------------------------------------------------------------------------------------- through a run


def write_artifact(folder: Path, monitor: str = "total") -> Path:
    """Write the handmade artifact with a rate of base_lr * lr_scale instead of its own schedule."""
    policy = {"type": "plateau", "monitor": monitor, "factor": 0.5, "patience": 1, "min_delta": 0.05, "cooldown": 1}
    resolved = spec({"solver.lr_policy": {**policy, "min_lr": 0.001}})
    nodes, initializers, entry = train_program(0.1, 64)
    kept = [node for node in nodes if not {"now", "progress", "left", "lr"} & set(node.output)]
    rate = helper.make_node("Mul", ["lr_scale", "base_lr"], ["lr"], name="solver/update/Mul")
    scale = {"name": "lr_scale", "dtype": "float32", "shape": [], "role": "lr_scale"}
    inputs = [scale if each["name"] == "max_steps" else each for each in entry["inputs"]]
    inputs = [{**each, "role": "state"} if each["name"] == "lr_scale" else each for each in inputs]
    used = [each for each in initializers if each.name != "full"]
    graphs = {
        "train": ([rate, *kept], used, {**entry, "inputs": inputs}),
        "eval": eval_program(),
        "fold": fold_program(),
        "infer": infer_program(),
    }
    state = [scale if each["name"] == "max_steps" else each for each in STATE]
    first = {name: value for name, value in first_state().items() if name != "max_steps"}
    first["lr_scale"] = np.ones((), np.float32)
    return write_programs(folder, resolved, {"state": state, "metrics": METRICS}, graphs, first)


def rates(run: Path) -> list[float]:
    return [json.loads(line)["rates"]["lr"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_rate_falls_and_a_resumed_run_goes_on_alike(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path / "artifact")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(TrainOptions(whole, artifact, CPU), Recorder())
    totals = [json.loads(line)["test"]["total"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    plateau = Plateau("lr_scale", "total", False, 0.5, 1, 0.05, 1, 0.01)
    expected = [1.0, *scales(plateau, totals)]
    assert rates(whole) == pytest.approx([0.1 * scale for scale in expected[:-1]], rel=1e-6)
    assert len(set(expected)) > 1, "nothing fell"
    train(TrainOptions(parts, artifact, CPU, stop_after_epochs=1), Recorder())
    for _ in range(5):
        train(TrainOptions(parts, host=CPU, resume=True, stop_after_epochs=1), Recorder())
    name = "checkpoints/step_132.safetensors"
    assert (parts / name).read_bytes() == (whole / name).read_bytes()
    assert load_file(whole / name)["lr_scale"] == expected[-1]
    waiting = Checkpoint.load(whole / name, Artifact.load(artifact)).position.plateau
    assert waiting is not None
    assert waiting.step == 132


def test_a_plateau_of_no_metric_is_refused(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path / "artifact", monitor="los")
    with pytest.raises(DriverError, match='there is no metric "los" to monitor'):
        train(TrainOptions(tmp_path / "run", artifact, CPU), Recorder())
