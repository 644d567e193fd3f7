"""Schedules of a companion loss's weight, evaluated in the graph from the progress of the run."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field

from netc.declared import Declared, Family
from netc.graph import GraphBuilder

Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class Schedule(Declared):
    """A weight as a function of progress, which runs from 0 (first step) to 1 (the planned end)."""

    policy: str
    start: Weight
    """Weight at the first step."""

    @abstractmethod
    def value(self, g: GraphBuilder, progress: Callable[[], ir.Value]) -> ir.Value | float:
        """Return the weight, a scalar; a schedule that never asks for progress needs no planned end of the run."""


SCHEDULES: Family[Schedule] = Family("loss_weight schedule", key="policy", number=("constant", "start"))
AnySchedule = Annotated[Schedule, SCHEDULES]


@SCHEDULES.add
class ConstantSchedule(Schedule):
    """`start` throughout.

    Example: 0.3
    """

    policy: Literal["constant"] = "constant"

    def value(self, g: GraphBuilder, progress: Callable[[], ir.Value]) -> float:  # noqa: D102
        return self.start


@SCHEDULES.add
class LinearSchedule(Schedule):
    """From `start` to `end` along a line, reached when the fraction `until` of the run is done; then `end`.

    Example: {policy: linear, start: 0.3, end: 0.0, until: 0.8}
    """

    policy: Literal["linear"] = "linear"
    end: Weight = 0.0
    """Weight from then on."""
    until: float = Field(1.0, gt=0.0, le=1.0)
    """Fraction of the run after which the weight no longer changes."""

    def value(self, g: GraphBuilder, progress: Callable[[], ir.Value]) -> ir.Value:  # noqa: D102
        with g.arithmetic():
            return g.Min(progress() / self.until, 1.0) * (self.end - self.start) + self.start


@SCHEDULES.add
class StepOffSchedule(Schedule):
    """`start` until the fraction `until` of the run is done; then 0: the companions leave.

    Example: {policy: step_off, start: 0.3, until: 0.5}
    """

    policy: Literal["step_off"] = "step_off"
    until: float = Field(gt=0.0, le=1.0)
    """Fraction of the run after which the weight is 0."""

    def value(self, g: GraphBuilder, progress: Callable[[], ir.Value]) -> ir.Value:  # noqa: D102
        done = progress()
        with g.arithmetic():
            return g.Cast(g.Less(done, self.until), to=done.dtype) * self.start


@SCHEDULES.add
class DsnSchedule(Schedule):
    """The decay of deeply-supervised nets (Lee et al. 2015): alpha <- alpha * factor * (1 - t / N) as epoch t begins.

    `epochs` is N, the planned epochs of the run. The first, t = 0, has the weight `start`; after the last it is 0.

    Example: {policy: dsn, start: 0.3, epochs: 10}
    """

    policy: Literal["dsn"] = "dsn"
    epochs: int = Field(gt=0, le=10_000)
    """Planned epochs of the run."""
    factor: float = Field(0.1, gt=0.0, le=1.0)
    """What every epoch multiplies the weight by, besides the fraction of the run that is left."""

    def value(self, g: GraphBuilder, progress: Callable[[], ir.Value]) -> ir.Value:  # noqa: D102
        done = progress()
        decays = [self.factor * (1.0 - t / self.epochs) for t in range(1, self.epochs + 1)]
        weights = self.start * np.cumprod([1.0, *decays])
        weights[weights < np.finfo(np.float32).tiny] = 0.0  # denormal numbers are slow, and differ between devices
        with g.arithmetic():
            # Progress is rounded, and the first step of an epoch must not count for the epoch before.
            begun = g.Min(done, 1.0) * float(self.epochs) + self.epochs * 2.0**-22
            epoch = g.Cast(g.Floor(begun), to=ir.DataType.INT64)
        return g.Gather(g.constant(weights, done.dtype), epoch)
