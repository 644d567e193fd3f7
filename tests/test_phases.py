"""Phases of training: each trains by its own settings, and a run that stops in any of them continues exactly."""

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from netc.build import build
from netc.emit import write
from netc.errors import SpecError
from netc.spec.load import load
from netc.spec.text import parse_tree
from netc_runtime.checkpoint import checkpoint_paths
from netc_runtime.errors import DriverError
from netc_runtime.events import StepDone
from netc_runtime.trainer import TrainOptions, train
from tests.driver.conftest import CPU, Recorder

# 44 steps an epoch.
SPEC: dict[str, Any] = yaml.safe_load("""
netc: 1
name: phased
inputs:
  image: {shape: [1, 8, 8]}
  label: {classes: 10}
data: {source: digits, scale: 0.0625, batch_size: 32}
layers:
  - name: conv1
    type: Convolution
    num_output: 4
    kernel_size: 3
    side:
      loss_weight: {policy: linear, start: 0.5, end: 0.0, until: 1.0}
      layers:
        - {name: scores1, type: InnerProduct, num_output: 10}
        - {name: loss1, type: SoftmaxWithLoss}
  - {type: BatchNorm, name: bn1}
  - {type: ReLU}
  - {type: Dropout, dropout_ratio: 0.2}
  - {name: scores, type: InnerProduct, num_output: 10}
  - {name: loss, type: SoftmaxWithLoss}
  - {name: accuracy, type: Accuracy, bottom: [scores, label]}
solver: {type: SGD, base_lr: 0.1, momentum: 0.9, lr_policy: {type: inv, gamma: 0.01, power: 1.0}, max_epochs: 3}
""")
HEAD = {"epochs": 1, "freeze": ["conv1", "bn1"]}
ADAM = {"iterations": 20, "sides": False, "solver": {"type": "Adam", "base_lr": 0.002, "lr_policy": "fixed"}}
ALL = {"solver": {"base_lr": 0.01}}
PHASES = [HEAD, ADAM, ALL]  # which begin after 0, 44 and 64 steps

Arrays = Mapping[str, np.ndarray]


def compiled(folder: Path, phases: list[Any], **sections: Any) -> Path:
    write(build(load(parse_tree(json.dumps(SPEC | sections | {"phases": phases}), "spec.yaml"))), folder)
    return folder


def newest(run: Path) -> Path:
    return checkpoint_paths(run / "checkpoints")[0]


def signal_at(step: int) -> Recorder:
    def send(event: StepDone) -> None:
        if event.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return Recorder(send)


def stopped_after(artifact: Path, run: Path, *steps: int) -> Path:
    """Train, interrupted after each of some steps and resumed each time; return the newest checkpoint."""
    for number, step in enumerate(steps):
        with pytest.raises(DriverError, match="stopped by SIGINT after step"):
            train(TrainOptions(run, artifact, CPU, resume=number > 0), signal_at(step))
    train(TrainOptions(run, artifact, CPU, resume=bool(steps)), Recorder())
    return newest(run)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("phases") / "artifact", PHASES)


@pytest.fixture(scope="module")
def finished(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder]:
    run, recorder = tmp_path_factory.mktemp("phases") / "run", Recorder()
    train(TrainOptions(run, artifact, CPU), recorder)
    return run, recorder


@pytest.mark.parametrize(
    "stops", [(10,), (43,), (44,), (45,), (50,), (63,), (64,), (65,), (88,), (20, 44, 64, 90, 131)]
)
def test_a_run_stopped_in_any_phase_ends_in_the_same_bytes(
    stops: tuple[int, ...], artifact: Path, finished: tuple[Path, Recorder], tmp_path: Path
) -> None:
    assert stopped_after(artifact, tmp_path / "run", *stops).read_bytes() == newest(finished[0]).read_bytes()


def test_phases_with_all_else_that_a_run_may_do(tmp_path: Path) -> None:
    """Several batches an update, evaluations amid epochs, a rate that they let fall, and an end before the planned."""
    policy = {"type": "plateau", "monitor": "accuracy", "factor": 0.5, "patience": 1, "min_delta": 0.05}
    made = compiled(
        tmp_path / "artifact",
        [HEAD, ALL],
        data=SPEC["data"] | {"batch_size": 16},
        solver=SPEC["solver"] | {"iter_size": 2, "lr_policy": policy},
        run={"evaluate_every": {"steps": 7}, "early_stopping": {"patience": 4, "min_delta": 0.01}},
    )
    recorder = Recorder()
    train(TrainOptions(tmp_path / "whole", made, CPU), recorder)
    evaluations = [event.step for event in recorder.epochs]
    last = evaluations[-1]
    assert evaluations == list(range(7, last + 1, 7))
    assert 44 < last < 132, "it should end early, in the second phase"
    assert len({event.rates["lr"] for event in recorder.epochs}) > 2, "the rate never fell"
    again = stopped_after(made, tmp_path / "parts", 5, 7, 43, 44, 45, last - 1)
    assert again.name == f"step_{last}.safetensors"
    assert again.read_bytes() == newest(tmp_path / "whole").read_bytes()
    assert (tmp_path / "parts" / "metrics.csv").read_text().count("\n") == len(evaluations) + 1


def test_the_first_phase_is_a_run_of_its_own(artifact: Path, finished: tuple[Path, Recorder], tmp_path: Path) -> None:
    """Its epoch gives what a spec without phases gives that freezes the same layers."""
    alone = SPEC | {"freeze": HEAD["freeze"]}
    alone["solver"] = SPEC["solver"] | {"max_epochs": 1}
    write(build(load(parse_tree(json.dumps(alone), "spec.yaml"))), tmp_path / "alone")
    train(TrainOptions(tmp_path / "alone_run", tmp_path / "alone", CPU), Recorder())
    state, expected = (
        load_file(finished[0] / "checkpoints" / "step_44.safetensors"),
        load_file(newest(tmp_path / "alone_run")),
    )
    for name, array in expected.items():
        assert state[name].tobytes() == array.tobytes(), name


def test_frozen_and_dropped_parameters_stay_where_they_are(
    artifact: Path, finished: tuple[Path, Recorder], tmp_path: Path
) -> None:
    with pytest.raises(DriverError, match="after step 64"):
        train(TrainOptions(tmp_path / "run", artifact, CPU), signal_at(64))
    first = load_file(artifact / "init.safetensors")
    after_head = load_file(finished[0] / "checkpoints" / "step_44.safetensors")
    after_adam, after_all = load_file(newest(tmp_path / "run")), load_file(newest(finished[0]))

    def changed(before: Arrays, after: Arrays) -> set[str]:
        names = ("conv1.weight", "bn1.bias", "bn1.running_mean", "scores1.weight", "scores.weight")
        return {name for name in names if before[name].tobytes() != after[name].tobytes()}

    assert changed(first, after_head) == {"scores1.weight", "scores.weight"}
    assert changed(after_head, after_adam) == {"conv1.weight", "bn1.bias", "bn1.running_mean", "scores.weight"}
    assert len(changed(after_adam, after_all)) == 5


def test_rates_and_companions_count_from_the_beginning_of_a_phase(finished: tuple[Path, Recorder]) -> None:
    run, recorder = finished
    rates = [epoch.rates["lr"] for epoch in recorder.epochs]
    # The last steps of the epochs are the 44th of the first phase, and the 24th and the 68th of the third.
    expected = [0.1 / (1 + 0.01 * 43), 0.01 / (1 + 0.01 * 23), 0.01 / (1 + 0.01 * 67)]
    assert rates == pytest.approx(expected, rel=1e-5)
    for step in recorder.steps:
        start, length = next((s, n) for s, n in ((64, 68), (44, 20), (0, 44)) if step.step > s)
        weight = 0.0 if start == 44 else 0.5 * (1 - (step.step - 1 - start) / length)
        total = step.metrics["loss"] + weight * step.metrics["loss1"]
        # Sums of float32 numbers up to 5.
        assert step.metrics["total"] == pytest.approx(total, rel=1e-5), step.step
    state = load_file(newest(run))
    assert [float(state[name]) for name in ("phase_start", "max_steps", "step")] == [64, 68, 132]


def test_a_phase_begins_without_memory_of_the_solver(tmp_path: Path) -> None:
    """At rate 0 for its first step, momentum alone would move the weights."""
    tiny = {"base_lr": 1e-30}
    artifact = compiled(tmp_path / "artifact", [{"iterations": 5}, {"solver": tiny}])
    with pytest.raises(DriverError, match="after step 5"):
        train(TrainOptions(tmp_path / "five", artifact, CPU), signal_at(5))
    before = load_file(newest(tmp_path / "five"))
    after = load_file(stopped_after(artifact, tmp_path / "seven", 7))
    assert np.abs(before["scores.weight/velocity"]).max() > 1e-3
    assert before["scores.weight"].tobytes() == after["scores.weight"].tobytes()


def test_companions_that_are_dropped_cost_no_gradient() -> None:
    programs = build(load(parse_tree(json.dumps(SPEC | {"phases": PHASES}), "spec.yaml"))).programs

    def backward(name: str) -> set[str]:
        nodes = list(programs[name].graph)
        return {
            n.metadata_props["netc.layer"] for n in nodes if n.metadata_props.get("netc.part") in ("grad", "update")
        }

    assert backward("train.1") == {"scores1", "loss1", "scores", "loss", "total", "solver"}
    assert not backward("train.2") & {"scores1", "loss1"}
    assert backward("train.2") >= {"conv1", "bn1", "scores", "loss"}
    assert backward("train") >= {"conv1", "bn1", "scores", "loss", "scores1", "loss1"}


def test_the_last_phase_is_what_a_longer_run_extends(artifact: Path, tmp_path: Path) -> None:
    train(TrainOptions(tmp_path / "run", artifact, CPU), Recorder())
    longer = compiled(tmp_path / "longer", PHASES, solver=SPEC["solver"] | {"max_epochs": 4})
    recorder = Recorder()
    train(TrainOptions(tmp_path / "run", longer, CPU, resume=True), recorder)
    assert recorder.epochs[-1].step == 176
    assert recorder.epochs[-1].rates["lr"] == pytest.approx(0.01 / (1 + 0.01 * 111), rel=1e-5)
    shorter = compiled(tmp_path / "shorter", PHASES, solver=SPEC["solver"] | {"max_epochs": 1})
    said = "the phases before the last one take 64 steps, but the run ends after step 44"
    with pytest.raises(DriverError, match=said):
        train(TrainOptions(tmp_path / "other", shorter, CPU), Recorder())


def test_a_run_of_other_phases_is_refused(artifact: Path, finished: tuple[Path, Recorder], tmp_path: Path) -> None:
    train(TrainOptions(tmp_path / "run", artifact, CPU, stop_after_epochs=1), Recorder())
    other = compiled(tmp_path / "other", [HEAD | {"epochs": 2}, ALL])
    with pytest.raises(DriverError, match="belongs to another spec; it differs in phases"):
        train(TrainOptions(tmp_path / "run", other, CPU, resume=True), Recorder())


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ([{}, {}], "a phase before the last one needs exactly one of epochs and iterations, not none"),
        ([{"epochs": 1, "iterations": 2}, {}], "needs exactly one of epochs and iterations, not 2"),
        ([{"epochs": 1}, {"epochs": 1}], "epochs: the last phase lasts until the end of the run"),
        ([{"epochs": 0}, {}], "epochs: must be greater than 0, got 0"),
        ([{"epochs": 1, "freeze": "conv9"}, {}], 'freeze: "conv9" matches neither'),
        ([{"epochs": 1, "freeze": "*"}, {}], "freeze: every parameter is frozen"),
        ([{"lr_mult": {"nothing": 2}}], 'lr_mult: "nothing" matches neither'),
        ([{"solver": {"type": "Adm"}}], 'unknown solver type "Adm"; did you mean "Adam"?'),
        ([{"solver": {"base_lr": -1}}], "base_lr: must be greater than 0, got -1"),
        ([{"solver": {"momentun": 0.5}}], 'SGD has no field "momentun"; did you mean "momentum"?'),
        ([{"solver": {"lr_policy": "fxied"}}], 'unknown lr_policy type "fxied"; did you mean "fixed"?'),
        ([{"solver": {"max_epochs": 2}}], "max_epochs: the length of a phase is its epochs or iterations"),
        ([{"solver": {"random_seed": 2}}], "random_seed: holds for the whole run; set it in the solver section"),
        ([{"sides": "off"}], 'sides: expected true or false, got "off"'),
        ([{"epoch": 2}, {}], 'phase has no field "epoch"; did you mean "epochs"?'),
        ([3], "expected a mapping, got 3"),
        ({"epochs": 1}, "phases: expected a list, got a mapping"),
    ],
)  # fmt: skip
def test_mistakes_of_the_spec(phases: Any, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        build(load(parse_tree(json.dumps(SPEC | {"phases": phases}), "spec.yaml")))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("spec.yaml:1:")
