"""How a training session looks: a bar on a terminal, plain lines elsewhere, JSON for machines."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from netc_runtime.artifact import COUNTING_KINDS, SIDE, Metric
from netc_runtime.events import EpochDone, Reporter, Started, StepDone, TrainResult
from netc_runtime.jsonfields import without_non_finite

_REFRESH = 0.1  # seconds between two updates of the bar
_MAIN = ("total", "loss", "fuse_loss", "side_loss", "penalty", "accuracy", *COUNTING_KINDS)
_KINDS = (*_MAIN, "side_accuracy", *(SIDE + kind for kind in COUNTING_KINDS), "error", "side_error", "rate")
_ORDER = {kind: place for place, kind in enumerate(_KINDS)}


def make_reporter(as_json: bool = False, out: IO[str] | None = None) -> Reporter:
    """Return the reporter for a stream (stdout by default): JSON lines, a rich bar on a terminal, or plain lines."""
    out = out or sys.stdout
    if as_json:
        return JsonReporter(out)
    return RichReporter(out) if out.isatty() else PlainReporter(out)


class PlainReporter:
    """One line for the plan, one for each epoch, one for the end; warnings go to stderr."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._started: Started | None = None

    def started(self, event: Started) -> None:
        """Print the plan."""
        self._started = event
        self._line(describe_start(event))
        for line in event.init_from.lines() if event.init_from else ():
            self._line(line)

    def step_done(self, event: StepDone) -> None:
        """Print nothing: steps are too many for lines."""

    def epoch_done(self, event: EpochDone) -> None:
        """Print one line."""
        if self._started is not None:
            self._line(describe_epoch(event, self._started))

    def warn(self, message: str) -> None:
        """Print the message to stderr."""
        print(f"warning: {message}", file=sys.stderr, flush=True)

    def finished(self, event: TrainResult) -> None:
        """Print one line."""
        self._line(describe_end(event))

    def close(self) -> None:
        """Release nothing: there is no terminal."""

    def _line(self, text: str) -> None:
        print(text, file=self._out, flush=True)


class RichReporter:
    """A bar with loss, rate and remaining time; above it one line for each epoch. NO_COLOR is honoured by rich."""

    def __init__(self, out: IO[str]) -> None:
        self._console = Console(file=out, highlight=False)
        self._errors = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps  {task.fields[status]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._started: Started | None = None
        self._begun = self._shown = 0.0

    def started(self, event: Started) -> None:
        """Print the plan and show the bar."""
        self._started = event
        self._print(describe_start(event))
        for line in event.init_from.lines() if event.init_from else ():
            self._print(line)
        self._task = self._progress.add_task(
            escape(event.name), total=event.total_steps, completed=event.step, status=""
        )
        self._begun = self._shown = time.monotonic()
        self._progress.start()

    def step_done(self, event: StepDone) -> None:
        """Move the bar, at most ten times a second."""
        now = time.monotonic()
        if self._started is None or self._task is None or now - self._shown < _REFRESH:
            return
        self._shown = now
        rate = (event.step - self._started.step) * self._started.batch_size / (now - self._begun)
        losses = [metric.name for metric in self._started.metrics if metric.kind == "total"]
        loss = "  ".join(f"{name} {event.metrics[name]:.4f}" for name in losses if name in event.metrics)
        self._progress.update(
            self._task,
            completed=event.step,
            description=escape(f"{self._started.name} epoch {event.epoch}"),
            status=f"{loss}  {rate:,.0f} images/s",
        )

    def epoch_done(self, event: EpochDone) -> None:
        """Print one line above the bar."""
        if self._started is not None and self._task is not None:
            self._progress.update(self._task, completed=event.step)
            self._print(describe_epoch(event, self._started))

    def warn(self, message: str) -> None:
        """Print the message to stderr, in yellow."""
        self._errors.print(f"[yellow]warning:[/yellow] {escape(message)}", soft_wrap=True)

    def finished(self, event: TrainResult) -> None:
        """Remove the bar and print one line."""
        self._progress.stop()
        self._print(describe_end(event))

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()

    def _print(self, text: str) -> None:
        self._console.print(escape(text), soft_wrap=True)


class JsonReporter:
    """One JSON object a line for each event but the single steps; its key `event` names it. NaN becomes null."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    def started(self, event: Started) -> None:
        """Write the plan."""
        loaded = event.init_from and event.init_from.as_dict()
        metrics = [vars(metric) for metric in event.metrics]
        self._write("started", {**vars(event), "metrics": metrics, "init_from": loaded})

    def step_done(self, event: StepDone) -> None:
        """Write nothing: steps are too many for lines."""

    def epoch_done(self, event: EpochDone) -> None:
        """Write all of an evaluation."""
        self._write("epoch", vars(event))

    def warn(self, message: str) -> None:
        """Write the message."""
        self._write("warning", {"message": message})

    def finished(self, event: TrainResult) -> None:
        """Write the result."""
        self._write("finished", vars(event))

    def close(self) -> None:
        """Release nothing: there is no terminal."""

    def _write(self, event: str, content: Mapping[str, Any]) -> None:
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in content.items()}
        text = json.dumps(without_non_finite({"event": event, **plain}), allow_nan=False)
        print(text, file=self._out, flush=True)


def describe_start(event: Started) -> str:
    """Return the plan as one line."""
    begin = f", continuing after step {event.step}" if event.step else ""
    epochs = f"{_count(event.max_epochs, 'epoch')} of " if event.max_epochs else ""
    precision = "" if event.precision == "float32" else f", {event.precision} precision"
    plan = epochs + _count(event.steps_per_epoch if epochs else event.total_steps, "step")
    return (
        f"{event.name}: {event.train_samples} training and {event.test_samples} test samples, {plan}, batches of "
        f"{event.batch_size}, on {event.device} ({event.device_reason}){precision}, {_count(event.threads, 'thread')}, "
        f"in {event.run}{begin}"
    )


def describe_epoch(event: EpochDone, started: Started) -> str:
    """Return main, side and total losses and accuracies of both splits as one line; without a step, the test alone."""
    epochs = f"/{started.max_epochs}" if started.max_epochs else ""
    train, test, rates = (_values(values, started.metrics) for values in (event.train, event.test, event.rates))
    speed = f"{event.images_per_second:,.0f} images/s" if event.images_per_second else ""
    parts = (train and f"train {train}", f"test {test}", "  ".join(filter(None, (rates, speed))))
    return f"epoch {event.epoch}{epochs}  step {event.step}/{started.total_steps}  {'  |  '.join(filter(None, parts))}"


def describe_end(event: TrainResult) -> str:
    """Return the end of a session as one line."""
    best = "" if event.best_step is None else f", best: that of step {event.best_step}"
    if event.best_step == event.step:
        best = ", also the best"
    state = "finished" if event.finished else "stopped as asked"
    if event.stopped_early:
        state = "stopped early, without further improvement,"
    if event.finished and not event.test:
        state = "nothing left to do: the run was finished already"
    rest = "" if event.finished else f"; continue with: {event.resume_command}"
    after = f"{state} after step {event.step} ({_count(event.epochs, 'epoch')})"
    return f"{after}; last checkpoint: {event.checkpoint}{best}{rest}"


def _values(values: Mapping[str, float], metrics: tuple[Metric, ...]) -> str:
    ordered = sorted(
        (metric for metric in metrics if metric.name in values), key=lambda m: _ORDER.get(m.kind, len(_ORDER))
    )
    return " ".join(
        f"{metric.name} {values[metric.name]:{'.4g' if metric.kind == 'rate' else '.4f'}}" for metric in ordered
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
