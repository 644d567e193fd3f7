"""How long a run is, and what its randomness is keyed by: the parts of the spec that the driver carries out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netc_runtime.artifact import Artifact
from netc_runtime.data.batches import steps_per_epoch
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.jsonfields import MalformedError, field, optional


@dataclass(frozen=True)
class Stage:
    """The steps of one phase of training: after `start` updates, until there are `end`, by the program `graph`."""

    graph: str
    start: int
    end: int


@dataclass(frozen=True)
class EarlyStopping:
    """Training ends after `patience` evaluations in a row that did not improve the metric `monitor` by `min_delta`.

    `monitor` None is the metric that says which checkpoint is the best. `restore_best` makes the best checkpoint the
    one that is exported.
    """

    monitor: str | None
    patience: int
    min_delta: float
    restore_best: bool


@dataclass(frozen=True)
class Plan:
    """Steps of a run: `total_steps` is max_epochs * steps_per_epoch, or max_iter where `max_epochs` is None.

    A step is an update, and `batch_size` is the number of its samples, whether they come in one batch or in several.
    The `stages` follow each other from 0 to `total_steps`.
    Evaluations take place after every `evaluate_steps` steps, or at the end of every `evaluate_epochs` epochs; the
    other one is None. `keep` checkpoints stay, beside the best one. What the layers do is written down in every
    `monitor_every`-th step, or in none.
    """

    batch_size: int
    steps_per_epoch: int
    total_steps: int
    max_epochs: int | None
    seed: int
    stages: tuple[Stage, ...]
    evaluate_steps: int | None
    evaluate_epochs: int | None
    keep: int
    monitor_every: int | None
    early_stopping: EarlyStopping | None

    @classmethod
    def of(cls, artifact: Artifact, samples: int) -> "Plan":
        """Return the plan for a training split of so many samples; raises DriverError (2)."""
        steps = steps_per_epoch(samples, artifact.batch_size, artifact.iter_size)
        size = artifact.batch_size * artifact.iter_size
        try:
            solver: Mapping[str, Any] = field(artifact.spec, "solver", dict)
            seed = field(solver, "random_seed", int)
            epochs, iterations = optional(solver, "max_epochs", int), optional(solver, "max_iter", int)
        except MalformedError as error:
            raise DriverError(f"the solver section of the spec cannot be used: {error}", ExitCode.USAGE) from error
        if not 0 <= seed < 1 << 64:
            raise DriverError(f"solver.random_seed should be from 0 to 2^64 - 1, not {seed}", ExitCode.USAGE)
        if (epochs is None) == (iterations is None):
            raise DriverError("the spec should set one of solver.max_epochs and solver.max_iter", ExitCode.USAGE)
        total = iterations if epochs is None else epochs * steps
        assert total is not None, "one of the two is set"
        return cls(size, steps, total, epochs, seed, _stages(artifact, steps, total), *_run_section(artifact))

    def evaluates_at(self, step: int, epoch: int, cursor: int) -> bool:
        """Whether an evaluation is due after `step` steps: `epoch` whole epochs and `cursor` batches of the next."""
        if step >= self.total_steps:
            return True
        if self.evaluate_steps is not None:
            return step > 0 and step % self.evaluate_steps == 0
        return cursor == self.steps_per_epoch and (epoch + 1) % (self.evaluate_epochs or 1) == 0

    def require_reach(self, step: int, what: str) -> None:
        """Raise DriverError (2) if the plan ends before `step`, where `what` stands already."""
        if step <= self.total_steps:
            return
        if self.max_epochs is None:
            key, value, least = "solver.max_iter", self.total_steps, step
        else:
            key, value, least = "solver.max_epochs", self.max_epochs, -(-step // self.steps_per_epoch)
        raise DriverError(
            f"{what} is at step {step} already, but {key}={value} of the spec ends after step {self.total_steps}; "
            f"pass --set {key}=N with N of at least {least}, or resume without the SPEC",
            ExitCode.USAGE,
        )

    def stage_before(self, step: int) -> Stage:
        """Return the stage that the last update of a run at `step` belonged to; the first one at step 0."""
        return next((stage for stage in self.stages if step <= stage.end), self.stages[-1])

    def stage_after(self, step: int) -> Stage:
        """Return the stage that the next update of a run at `step` belongs to; the last one at the end."""
        return next((stage for stage in self.stages if step < stage.end), self.stages[-1])


def _stages(artifact: Artifact, steps_per_epoch: int, total_steps: int) -> tuple[Stage, ...]:
    start, stages = 0, list[Stage]()
    for phase in artifact.phases[:-1]:
        end = start + (phase.iterations or (phase.epochs or 0) * steps_per_epoch)
        stages.append(Stage(phase.graph, start, end))
        start = end
    if start >= total_steps:
        raise DriverError(
            f"the phases before the last one take {start} steps, but the run ends after step {total_steps}; raise "
            f"solver.max_epochs or max_iter, or shorten the phases",
            ExitCode.USAGE,
        )
    return (*stages, Stage(artifact.phases[-1].graph, start, total_steps))


def _run_section(artifact: Artifact) -> tuple[int | None, int | None, int, int | None, EarlyStopping | None]:
    """Return evaluate_steps, evaluate_epochs, keep, monitor_every and early_stopping; raises DriverError (2)."""
    try:
        section: Mapping[str, Any] = field(artifact.spec, "run", dict)
        every: Mapping[str, Any] = field(section, "evaluate_every", dict)
        steps, epochs = _optional_count(every, "steps"), _optional_count(every, "epochs")
        if (steps is None) == (epochs is None):
            raise MalformedError("evaluate_every should have one of epochs and steps")
        monitor = _optional_count(section, "monitor_every")
        if monitor is not None and not artifact.monitors:
            raise MalformedError(f"monitor_every is {monitor}, but there is no graph that monitors; compile it again")
        stopping: Mapping[str, Any] | None = optional(section, "early_stopping", dict)
        early = None if stopping is None else _early(stopping, artifact)
        return steps, epochs, _count(section, "keep"), monitor, early
    except MalformedError as error:
        raise DriverError(f"the run section of the spec cannot be used: {error}", ExitCode.USAGE) from error


def _early(section: Mapping[str, Any], artifact: Artifact) -> EarlyStopping:
    monitor, delta = optional(section, "monitor", str), field(section, "min_delta", float)
    if monitor is not None and monitor not in (metric.name for metric in artifact.metrics if metric.kind != "rate"):
        raise MalformedError(f'evaluation has no metric "{monitor}" to monitor')
    if not 0 <= delta < math.inf:
        raise MalformedError(f'"min_delta" should be at least 0, not {delta}')
    restore = section.get("restore_best")
    if not isinstance(restore, bool):
        raise MalformedError('"restore_best" should be true or false')
    return EarlyStopping(monitor, _count(section, "patience"), delta, restore)


def _optional_count(entry: Mapping[str, Any], key: str) -> int | None:
    return None if entry.get(key) is None else _count(entry, key)


def _count(entry: Mapping[str, Any], key: str) -> int:
    value = field(entry, key, int)
    if value < 1:
        raise MalformedError(f'"{key}" should be at least 1, not {value}')
    return value
