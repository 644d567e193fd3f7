"""The section `run` of a spec: when a run evaluates, what it keeps, when it ends early, what a resume may change."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from netc_runtime.artifact import Artifact, Metric
from netc_runtime.checkpoint import Best, Checkpoint, Position
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.evaluate import Evaluator
from netc_runtime.judge import Judge
from netc_runtime.plan import EarlyStopping
from netc_runtime.trainer import TrainOptions, train

from .conftest import CPU, Recorder
from .handmade import write_artifact

STEPS = 22  # of an epoch
OF_STEPS = {"epochs": None, "steps": 10}


def steps_of(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def checkpoints(run: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step_")) for path in (run / "checkpoints").iterdir())


def early(**changes: Any) -> dict[str, Any]:
    return {"monitor": None, "patience": 2, "min_delta": 0.0, "restore_best": False, **changes}


def plan_evaluations(monkeypatch: pytest.MonkeyPatch, accuracies: Sequence[float]) -> None:
    """Let evaluations find these accuracies, one after another."""
    whole, left = Evaluator.metrics, list(accuracies)

    def planned(self: Evaluator, *arguments: Any) -> Mapping[str, float]:
        return {**whole(self, *arguments), "accuracy": left.pop(0)}

    monkeypatch.setattr(Evaluator, "metrics", planned)


def test_evaluations_every_so_many_steps_and_at_the_end(artifact: Path, finished_run: Path, tmp_path: Path) -> None:
    often = write_artifact(tmp_path / "often", {"run.evaluate_every": OF_STEPS, "run.keep": 1000})
    recorder = Recorder()
    train(TrainOptions(tmp_path / "run", often, CPU), recorder)
    assert steps_of(tmp_path / "run") == [*range(10, 132, 10), 132]
    assert [event.epoch for event in recorder.epochs] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 6, 6, 6]
    # A checkpoint after each evaluation and at the end of each epoch.
    assert checkpoints(tmp_path / "run") == sorted({*range(10, 132, 10), *range(22, 133, 22)})
    batches = [step.metrics["loss"] for step in recorder.steps]
    assert recorder.epochs[2].train["loss"] == pytest.approx(sum(batches[20:30]) / 10, rel=1e-12)
    # When it is evaluated changes nothing of what is trained.
    ends = [tmp_path / "run" / "checkpoints" / "step_132.safetensors"]
    ends.append(finished_run / "checkpoints" / "step_132.safetensors")
    states = [Checkpoint.load(path, Artifact.load(artifact)).state for path in ends]
    assert {n: a.tobytes() for n, a in states[0].items()} == {n: a.tobytes() for n, a in states[1].items()}


def test_evaluations_every_so_many_epochs_and_at_the_end(tmp_path: Path) -> None:
    rare = write_artifact(tmp_path / "rare", {"run.evaluate_every": {"epochs": 4, "steps": None}, "run.keep": 2})
    recorder = Recorder()
    result = train(TrainOptions(tmp_path / "run", rare, CPU), recorder)
    assert steps_of(tmp_path / "run") == [88, 132]
    batches = [step.metrics["loss"] for step in recorder.steps]
    assert recorder.epochs[0].train["loss"] == pytest.approx(sum(batches[:88]) / 88, rel=1e-12)
    assert (result.finished, result.epochs, result.stopped_early) == (True, 6, False)
    assert set(checkpoints(tmp_path / "run")) == {110, 132, result.best_step}


@pytest.mark.parametrize("every", [OF_STEPS, {"epochs": 2, "steps": None}, {"epochs": None, "steps": 22}])
def test_sessions_of_one_epoch_end_in_the_same_bytes(tmp_path: Path, every: dict[str, Any]) -> None:
    made = write_artifact(tmp_path / "made", {"run.evaluate_every": every, "solver.max_epochs": 3})
    train(TrainOptions(tmp_path / "whole", made, CPU), Recorder())
    for session in range(3):
        result = train(TrainOptions(tmp_path / "parts", made, CPU, session > 0, stop_after_epochs=1), Recorder())
    assert result.finished
    last = f"checkpoints/step_{3 * STEPS}.safetensors"
    assert (tmp_path / "parts" / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()
    assert steps_of(tmp_path / "parts") == steps_of(tmp_path / "whole")


def test_a_run_ends_early_and_goes_on_with_more_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = [0.5, 0.6, 0.55, 0.6, 0.7, 0.71]
    impatient = write_artifact(tmp_path / "impatient", {"run.early_stopping": early(restore_best=True)})
    patient = write_artifact(tmp_path / "patient", {"run.early_stopping": early(patience=3)})
    with monkeypatch.context() as patched:
        plan_evaluations(patched, accuracies)
        train(TrainOptions(tmp_path / "whole", patient, CPU), Recorder())
    plan_evaluations(monkeypatch, accuracies)
    run = tmp_path / "run"
    result = train(TrainOptions(run, impatient, CPU), Recorder())
    assert (result.step, result.finished, result.stopped_early) == (88, True, True)
    assert (result.best_step, result.chosen) == (44, "best")
    again = Recorder()
    assert train(TrainOptions(run, resume=True), again).stopped_early
    assert again.steps == []
    result = train(TrainOptions(run, patient, resume=True), Recorder())
    assert (result.step, result.stopped_early, result.best_step, result.chosen) == (132, False, 132, "last")
    last = "checkpoints/step_132.safetensors"
    theirs, ours = (Checkpoint.load(p / last, Artifact.load(patient)) for p in (tmp_path / "whole", run))
    assert ours.position == theirs.position
    assert (run / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()


def position(best: Best | None, step: int = 3, stale: int = 1) -> Position:
    return replace(Position.start(), step=step, best=best, stale=stale)


METRICS = [Metric("total", "total", None), Metric("acc", "accuracy", "acc"), Metric("side", "side_mean_iou", "side")]


@pytest.mark.parametrize(
    ("monitor", "delta", "test", "best", "stale"),
    [
        (None, 0.0, {"total": 1.0, "acc": 0.6}, Best("acc", 0.6, 3), 0),
        (None, 0.0, {"total": 1.0, "acc": 0.5}, Best("acc", 0.5, 2), 2),
        (None, 0.0, {"total": 1.0}, Best("total", 1.0, 3), 0),  # another metric than before begins anew
        ("acc", 0.1, {"acc": 0.6}, Best("acc", 0.6, 3), 0),  # 0.6 - 0.5 is less than 0.1 in floating point
        ("acc", 0.1, {"acc": 0.599}, Best("acc", 0.5, 2), 2),
        ("acc", 0.0, {"acc": float("nan")}, Best("acc", 0.5, 2), 2),
        ("total", 0.0, {"total": 1.0, "acc": 0.1}, Best("total", 1.0, 3), 0),
        ("side", 0.0, {"total": 1.0, "side": 0.1}, Best("side", 0.1, 3), 0),
    ],
)
def test_judging(monitor: str | None, delta: float, test: dict[str, float], best: Best, stale: int) -> None:
    judge = Judge(METRICS, EarlyStopping(monitor, 5, delta, False))
    assert judge.judge(position(Best("acc", 0.5, 2)), test) == (best, stale)
    assert Judge(METRICS, None).judge(position(None), {"total": 2.0})[0] == Best("total", 2.0, 3)


def test_what_is_monitored_knows_which_way_is_better() -> None:
    smaller = Judge(METRICS, EarlyStopping("total", 5, 0.0, False))
    assert smaller.judge(position(Best("total", 2.0, 2)), {"total": 1.0}) == (Best("total", 1.0, 3), 0)
    assert smaller.judge(position(Best("total", 2.0, 2)), {"total": 3.0}) == (Best("total", 2.0, 2), 2)
    larger = Judge(METRICS, EarlyStopping("side", 5, 0.0, False))
    assert larger.judge(position(Best("side", 0.2, 2)), {"side": 0.1}) == (Best("side", 0.2, 2), 2)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"run.keep": 0}, '"keep" should be at least 1, not 0'),
        ({"run.evaluate_every": {"epochs": 1, "steps": 1}}, "evaluate_every should have one of epochs and steps"),
        ({"run.evaluate_every": {"steps": "x"}}, '"steps" should be a JSON integer, not "x"'),
        ({"run.early_stopping": early(monitor="acuracy")}, 'evaluation has no metric "acuracy" to monitor'),
        ({"run.early_stopping": early(min_delta=-1)}, '"min_delta" should be at least 0, not -1.0'),
        ({"run.early_stopping": early(restore_best=1)}, '"restore_best" should be true or false'),
        ({"run.early_stopping": {}}, 'the key "min_delta" is missing'),
    ],
)
def test_a_wrong_section_is_one_sentence(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DriverError) as caught:
        train(TrainOptions(tmp_path / "run", write_artifact(tmp_path / "wrong", changes), CPU), Recorder())
    assert str(caught.value) == f"the run section of the spec cannot be used: {sentence}"
    assert caught.value.exit_code == ExitCode.USAGE
    assert not (tmp_path / "run").exists()
