"""Measure what the trainer adds to the bare graph, and a monitor to the trainer, as shares of a LeNet step at batch 64.

    python benchmarks/overhead.py [--epochs 6] [--threads 2] [--json results.json]

The trainer runs as `netc train` does, but for the run of each step a clock is read before and after the call of ONNX
Runtime. What a step takes beyond that call, from the end of the step before to its own, is the overhead: the batch that
is gathered and written, metrics that are read and summed, and the reporter. Both come from the same steps, so that the
noise of the machine falls on both. Evaluations and checkpoints are no part of a step; they are timed apart.

For the monitor every MONITORED-th step of a second run is monitored. Such a step and the one after it, in which threads
of the monitor may still spin, are compared with the median of their neighbours on both sides.
"""

import argparse
import io
import itertools
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from netc.build import build
from netc.emit import write
from netc.spec.load import load
from netc.spec.overrides import apply_override
from netc.spec.text import read_tree
from netc_runtime.checkpoint import Checkpoint
from netc_runtime.events import StepDone
from netc_runtime.progress import PlainReporter
from netc_runtime.run import RunFolder
from netc_runtime.session import Host
from netc_runtime.step import TrainingStep
from netc_runtime.trainer import TrainOptions, train

SPECS = Path(__file__).parents[1] / "specs"
LIMIT = 0.05  # of a step
MONITOR_LIMIT = 0.02  # of the steps between two that are monitored, EVERY
EVERY = 100
MONITORED = 10  # the distance that is measured at, for many samples in little time


@dataclass(frozen=True)
class Result:
    """Medians in milliseconds over `steps` steps; `share` is the median over steps of overhead / whole step."""

    steps: int
    step_ms: float
    graph_ms: float
    overhead_ms: float
    share: float
    checkpoint_ms: float


class _Timed:
    """A session whose runs are timed."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.seconds = 0.0

    def run_with_iobinding(self, binding: Any) -> None:
        begun = time.perf_counter()
        self._session.run_with_iobinding(binding)
        self.seconds = time.perf_counter() - begun

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class _Clock(PlainReporter):
    """Reads the clock at the end of each step."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.ends: list[tuple[int, float]] = []

    def step_done(self, event: StepDone) -> None:
        super().step_done(event)
        self.ends.append((event.epoch, time.perf_counter()))


def measure(spec: str, overrides: tuple[str, ...], threads: int) -> Result:
    """Train a spec of the zoo and time its steps, those of the first epoch left out."""
    tree = read_tree(SPECS / f"{spec}.yaml")
    for option in overrides:
        tree = apply_override(tree, option)
    graph: list[float] = []
    saves: list[float] = []
    run_step, save = TrainingStep.run, RunFolder.save

    def timed_step(self: TrainingStep, batch: Any) -> dict[str, float]:
        program = self._program
        if not isinstance(program.session, _Timed):
            program.session = _Timed(program.session)
        metrics = run_step(self, batch)
        graph.append(program.session.seconds)
        return metrics

    def timed_save(self: RunFolder, checkpoint: Checkpoint, keep: int) -> Path:
        begun = time.perf_counter()
        path = save(self, checkpoint, keep)
        saves.append(time.perf_counter() - begun)
        return path

    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        write(build(load(tree)), Path(folder) / "artifact")
        TrainingStep.run, RunFolder.save = timed_step, timed_save  # type: ignore[method-assign]
        try:
            train(TrainOptions(Path(folder) / "run", Path(folder) / "artifact", Host("cpu", threads)), clock)
        finally:
            TrainingStep.run, RunFolder.save = run_step, save  # type: ignore[method-assign]
    steps = [
        (end - before, inside)
        for ((first, before), (second, end)), inside in zip(itertools.pairwise(clock.ends), graph[1:], strict=True)
        if first == second > 1  # the evaluation lies between two epochs; the first epoch warms up
    ]
    return Result(
        len(steps),
        statistics.median(whole for whole, _ in steps) * 1e3,
        statistics.median(inside for _, inside in steps) * 1e3,
        statistics.median(whole - inside for whole, inside in steps) * 1e3,
        statistics.median((whole - inside) / whole for whole, inside in steps),
        statistics.median(saves) * 1e3,
    )


def monitor_share(spec: str, overrides: tuple[str, ...], threads: int) -> tuple[float, int]:
    """Return what a monitored step takes beyond others, as a share of EVERY steps, and how many were timed."""
    tree = read_tree(SPECS / f"{spec}.yaml")
    for option in (*overrides, f"run.monitor_every={MONITORED}"):
        tree = apply_override(tree, option)
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        write(build(load(tree)), Path(folder) / "artifact")
        train(TrainOptions(Path(folder) / "run", Path(folder) / "artifact", Host("cpu", threads)), clock)
    pairs = enumerate(itertools.pairwise(clock.ends), 2)  # the number of the step that each pair ends with
    steps = {number: end - before for number, ((first, before), (second, end)) in pairs if first == second > 1}
    shares = []
    for number in range(MONITORED, max(steps), MONITORED):
        others = [steps.get(number + away) for away in (-4, -3, -2, -1, 2, 3, 4, 5)]
        near = [seconds for seconds in others if seconds is not None]
        if number in steps and number + 1 in steps and len(near) >= 4:
            plain = statistics.median(near)
            shares.append((steps[number] + steps[number + 1] - 2 * plain) / (EVERY * plain))
    return statistics.median(shares), len(shares)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what the trainer adds to the bare graph.")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of 22 steps, the first not counted (default 6)")
    parser.add_argument("--threads", type=int, default=2, help="threads of ONNX Runtime (default 2)")
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    print(f"onnxruntime {onnxruntime.__version__}, {arguments.threads} threads")
    overrides = ("data.batch_size=64", f"solver.max_epochs={arguments.epochs}")
    result = measure("lenet", overrides, arguments.threads)
    print(
        f"LeNet, batch 64: {result.step_ms:.2f} ms a step, {result.graph_ms:.2f} ms of them in the graph; overhead "
        f"{result.overhead_ms * 1e3:.0f} us, {result.share:.1%} of a step (median of {result.steps} steps; "
        f"limit {LIMIT:.0%}); a checkpoint takes {result.checkpoint_ms:.1f} ms"
    )
    share, timed = monitor_share("lenet", overrides, arguments.threads)
    print(
        f"a monitor of every {EVERY}th step takes {share:.2%} of all (median of {timed} monitored steps; limit "
        f"{MONITOR_LIMIT:.0%})"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps({**asdict(result), "monitor_share": share}, indent=1) + "\n")
    return 0 if result.share < LIMIT and share < MONITOR_LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
