"""The learning-rate policy `plateau`: after evaluations without improvement, the factor `lr_scale` in the state falls.

The program multiplies its rate by `lr_scale`; when it falls is decided here, from what evaluation measured.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from netc_runtime.artifact import Artifact
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.jsonfields import MalformedError, field, optional

_MOST_EVALUATIONS = 1 << 53


@dataclass(frozen=True)
class Waiting:
    """What a plateau remembers between evaluations.

    `best` is the best value so far (None before the first), `waited` counts evaluations since then or since the last
    drop, `cooling` those that still count for nothing, and `step` is that of the last evaluation.
    """

    best: float | None = None
    waited: int = 0
    cooling: int = 0
    step: int = 0

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> "Waiting":
        """Read what a checkpoint's metadata says; raises MalformedError."""
        best = optional(entry, "best", float)
        if best is not None and not math.isfinite(best):
            raise MalformedError(f'"best" of the plateau is {best}')
        counts = {key: field(entry, key, int) for key in ("waited", "cooling", "step")}
        for key, count in counts.items():
            if not 0 <= count <= _MOST_EVALUATIONS:
                raise MalformedError(f'"{key}" of the plateau is {count}')
        return cls(best, **counts)


@dataclass(frozen=True)
class Plateau:
    """When the rate falls: as the spec's `lr_policy` of type `plateau` says.

    `lowest` is the smallest factor, min_lr / base_lr, and `state` the name of the tensor that holds the factor.
    """

    state: str
    monitor: str
    larger_is_better: bool
    factor: float
    patience: int
    min_delta: float
    cooldown: int
    lowest: float

    @classmethod
    def of(cls, artifact: Artifact) -> "Plateau | None":
        """Return what the spec asks for, None where no plateau is; raises DriverError (2)."""
        state = next((spec.name for spec in artifact.state if spec.role == "lr_scale"), None)
        if state is None:
            return None
        try:
            solver = field(artifact.spec, "solver", dict)
            policy = field(solver, "lr_policy", dict)
            monitor = field(policy, "monitor", str)
            metric = next((metric for metric in artifact.metrics if metric.name == monitor), None)
            if metric is None:
                raise MalformedError(f'there is no metric "{monitor}" to monitor')
            return cls(
                state=state,
                monitor=monitor,
                larger_is_better=metric.larger_is_better,
                factor=field(policy, "factor", float),
                patience=field(policy, "patience", int),
                min_delta=field(policy, "min_delta", float),
                cooldown=field(policy, "cooldown", int),
                lowest=field(policy, "min_lr", float) / field(solver, "base_lr", float),
            )
        except MalformedError as error:
            raise DriverError(f"the plateau of the spec cannot be used: {error}", ExitCode.USAGE) from error

    def after(self, waiting: Waiting, value: float, step: int, scale: float) -> tuple[Waiting, float]:
        """Return what to remember and the factor, after an evaluation at `step` that measured `value`.

        An evaluation of the same step, done again, decides nothing. A value that is not finite is no improvement.
        """
        if waiting.step == step and step > 0:
            return waiting, scale
        if math.isfinite(value) and (waiting.best is None or self._improves(value, waiting.best)):
            waiting = replace(waiting, best=value, waited=0)
        else:
            waiting = replace(waiting, waited=waiting.waited + 1)
        if waiting.cooling > 0:
            waiting = replace(waiting, cooling=waiting.cooling - 1, waited=0)
        if waiting.waited >= self.patience:
            scale = min(scale, max(scale * self.factor, self.lowest))
            waiting = replace(waiting, waited=0, cooling=self.cooldown)
        return replace(waiting, step=step), scale

    def _improves(self, value: float, best: float) -> bool:
        gain = value - best if self.larger_is_better else best - value
        return gain > self.min_delta
