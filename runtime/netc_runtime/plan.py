"""How long a run is, and what its randomness is keyed by: the parts of the spec that the driver carries out."""

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
class Plan:
    """Steps of a run: `total_steps` is max_epochs * steps_per_epoch, or max_iter where `max_epochs` is None.

    A step is an update, and `batch_size` is the number of its samples, whether they come in one batch or in several.
    The `stages` follow each other from 0 to `total_steps`.
    """

    batch_size: int
    steps_per_epoch: int
    total_steps: int
    max_epochs: int | None
    seed: int
    stages: tuple[Stage, ...]

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
        if epochs is not None and iterations is None:
            total = epochs * steps
            return cls(size, steps, total, epochs, seed, _stages(artifact, steps, total))
        if iterations is not None and epochs is None:
            return cls(size, steps, iterations, None, seed, _stages(artifact, steps, iterations))
        raise DriverError("the spec should set one of solver.max_epochs and solver.max_iter", ExitCode.USAGE)

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
