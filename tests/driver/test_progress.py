"""How training looks: one plain line an epoch with every loss by itself, JSON for machines, a bar on a terminal."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from netc_runtime.artifact import Metric
from netc_runtime.events import EpochDone, Reporter, Started, StepDone, TrainResult
from netc_runtime.progress import (
    JsonReporter,
    PlainReporter,
    RichReporter,
    describe_end,
    describe_epoch,
    describe_start,
    make_reporter,
)

from .handmade import METRICS

STARTED = Started(
    name="net",
    run=Path("runs/a"),
    device="cpu",
    device_reason="as asked",
    threads=1,
    train_samples=100,
    test_samples=20,
    batch_size=10,
    steps_per_epoch=10,
    total_steps=20,
    max_epochs=2,
    step=0,
    metrics=tuple(Metric(entry["name"], entry["kind"], entry["layer"]) for entry in METRICS),
)
EPOCH = EpochDone(
    epoch=1,
    step=10,
    rates={"lr": 0.01},
    train={"accuracy": 0.5, "l1": 2.0, "loss": 1.5, "total": 2.1},
    test={"accuracy": 0.25, "l1": float("nan"), "loss": 1.75, "total": 2.2},
    images_per_second=12345.6,
    seconds=0.5,
)
RESULT = TrainResult(
    run=Path("runs/a"),
    resume_command="netc train --run runs/a --resume",
    step=20,
    epochs=2,
    finished=True,
    checkpoint=Path("runs/a/checkpoints/step_20.safetensors"),
    test=EPOCH.test,
    best_step=10,
    seconds=1.0,
)
LINES = [
    "net: 100 training and 20 test samples, 2 epochs of 10 steps, batches of 10, on cpu (as asked), 1 thread, "
    "in runs/a",
    "epoch 1/2  step 10/20  train total 2.1000 loss 1.5000 l1 2.0000 accuracy 0.5000  |  "
    "test total 2.2000 loss 1.7500 l1 nan accuracy 0.2500  |  lr 0.01  12,346 images/s",
    "finished after step 20 (2 epochs); last checkpoint: runs/a/checkpoints/step_20.safetensors, best: that of step 10",
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def play(reporter: Reporter) -> None:
    reporter.started(STARTED)
    for step in range(1, 11):
        reporter.step_done(StepDone(step, 1, {"total": 2.0}))
    reporter.epoch_done(EPOCH)
    reporter.warn("look [here]")
    reporter.finished(RESULT)
    reporter.close()


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    play(make_reporter(out=out))
    assert out.getvalue().splitlines() == LINES
    assert capsys.readouterr().err == "warning: look [here]\n"


def test_json_lines_are_strict_json() -> None:
    out = io.StringIO()
    play(make_reporter(as_json=True, out=out))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    events = [json.loads(line, parse_constant=refuse) for line in out.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["started", "epoch", "warning", "finished"]
    assert events[0]["metrics"][2] == {"name": "l1", "kind": "side_loss", "layer": "l1"}
    assert events[1]["test"]["l1"] is None
    assert events[3]["checkpoint"] == "runs/a/checkpoints/step_20.safetensors"


def test_metrics_stand_in_the_order_of_their_kinds() -> None:
    kinds = [
        "total", "loss", "fuse_loss", "side_loss", "penalty", "accuracy", "mean_iou", "class_accuracy",
        "confusion_matrix", "side_accuracy", "side_mean_iou", "error", "kind of tomorrow",
    ]  # fmt: skip
    metrics = tuple(Metric(f"m{place}", kind, None) for place, kind in enumerate(kinds))
    started = replace(STARTED, metrics=metrics[::-1])
    test = {metric.name: place / 100 for place, metric in enumerate(metrics)}
    line = describe_epoch(replace(EPOCH, train={}, rates={}, test=test), started)
    expected = " ".join(f"m{place} 0.{place:02}00" for place in range(len(kinds)))
    assert f"/20  test {expected}  |" in line


@pytest.mark.parametrize("no_color", [True, False])
def test_a_terminal_gets_the_same_lines_and_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], no_color: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    reporter = make_reporter(out=out)
    assert isinstance(reporter, RichReporter)
    play(reporter)
    for line in LINES:
        assert line in out.getvalue()
    assert "20 steps" in out.getvalue()
    assert ("\x1b[38;" in out.getvalue()) is not no_color
    assert "warning: look [here]" in capsys.readouterr().err


def test_the_stream_decides() -> None:
    assert isinstance(make_reporter(out=io.StringIO()), PlainReporter)
    assert isinstance(make_reporter(as_json=True, out=Terminal()), JsonReporter)


def test_what_counts_one_is_singular() -> None:
    start = describe_start(replace(STARTED, max_epochs=1, steps_per_epoch=1, step=1))
    assert ", 1 epoch of 1 step, batches of 10, " in start
    assert start.endswith(", 1 thread, in runs/a, continuing after step 1")
    assert ", on cpu (as asked), mixed precision, 1 thread, " in describe_start(replace(STARTED, precision="mixed"))
    assert ", 1 step, " in describe_start(replace(STARTED, max_epochs=None, total_steps=1))


def test_the_end_says_how_to_continue_or_that_nothing_was_left() -> None:
    path = "runs/a/checkpoints/step_20.safetensors"
    assert describe_end(replace(RESULT, finished=False, epochs=1)) == (
        f"stopped as asked after step 20 (1 epoch); last checkpoint: {path}, best: that of step 10; "
        f"continue with: netc train --run runs/a --resume"
    )
    assert describe_end(replace(RESULT, test={})) == (
        f"nothing left to do: the run was finished already after step 20 (2 epochs); last checkpoint: {path}, "
        "best: that of step 10"
    )
    finished = f"finished after step 20 (2 epochs); last checkpoint: {path}"
    assert describe_end(replace(RESULT, best_step=20)) == f"{finished}, also the best"
    assert describe_end(replace(RESULT, best_step=None)) == finished


def test_an_evaluation_without_a_step_before_it_shows_the_test_split_alone() -> None:
    test = "epoch 1/2  step 10/20  test total 2.2000 loss 1.7500 l1 nan accuracy 0.2500"
    still = replace(EPOCH, train={}, rates={}, images_per_second=0.0)
    assert describe_epoch(still, STARTED) == test
    # What a session trained that was stopped before the evaluation is known, how fast is not.
    assert describe_epoch(replace(EPOCH, images_per_second=0.0), STARTED) == LINES[1].removesuffix("  12,346 images/s")
