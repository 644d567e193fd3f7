"""Schedules of a companion loss's weight, evaluated in the graph from the progress of the run."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field, PlainValidator, SerializeAsAny

from netc.declared import Declared, Family
from netc.graph import GraphBuilder

Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class Schedule(Declared):
    """A weight as a function of progress, which runs from 0 (first step) to 1 (the planned end)."""

    policy: str
    start: Weight

    @abstractmethod
    def value(self, g: GraphBuilder, progress: Callable[[], ir.Value]) -> ir.Value | float:
        """Return the weight, a scalar; a schedule that never asks for progress needs no planned end of the run."""


SCHEDULES: Family[Schedule] = Family("loss_weight schedule", key="policy")


def parse_schedule(value: Any) -> Schedule:
    """Let a plain number stand for a constant weight."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = {"policy": "constant", "start": value}
    return SCHEDULES.parse(value)


AnySchedule = Annotated[SerializeAsAny[Schedule], PlainValidator(parse_schedule)]


@SCHEDULES.add
class ConstantSchedule(Schedule):
    """`start` throughout."""

    policy: Literal["constant"] = "constant"

    def value(self, g: GraphBuilder, progress: Callable[[], ir.Value]) -> float:  # noqa: D102
        return self.start


@SCHEDULES.add
class LinearSchedule(Schedule):
    """From `start` to `end` along a line, reached when the fraction `until` of the run is done; then `end`."""

    policy: Literal["linear"] = "linear"
    end: Weight = 0.0
    until: float = Field(1.0, gt=0.0, le=1.0)

    def value(self, g: GraphBuilder, progress: Callable[[], ir.Value]) -> ir.Value:  # noqa: D102
        with g.arithmetic():
            return g.Min(progress() / self.until, 1.0) * (self.end - self.start) + self.start


@SCHEDULES.add
class StepOffSchedule(Schedule):
    """`start` until the fraction `until` of the run is done; then 0: the companions leave."""

    policy: Literal["step_off"] = "step_off"
    until: float = Field(gt=0.0, le=1.0)

    def value(self, g: GraphBuilder, progress: Callable[[], ir.Value]) -> ir.Value:  # noqa: D102
        done = progress()
        with g.arithmetic():
            return g.Cast(g.Less(done, self.until), to=done.dtype) * self.start


@SCHEDULES.add
class DsnSchedule(Schedule):
    """The decay of deeply-supervised nets (Lee et al. 2015): alpha <- alpha * factor * (1 - t / N) as epoch t begins.

    `epochs` is N, the planned epochs of the run. The first, t = 0, has the weight `start`; after the last it is 0.
    """

    policy: Literal["dsn"] = "dsn"
    epochs: int = Field(gt=0, le=10_000)
    factor: float = Field(0.1, gt=0.0, le=1.0)

    def value(self, g: GraphBuilder, progress: Callable[[], ir.Value]) -> ir.Value:  # noqa: D102
        done = progress()
        decays = [self.factor * (1.0 - t / self.epochs) for t in range(1, self.epochs + 1)]
        weights = self.start * np.cumprod([1.0, *decays])
        weights[weights < np.finfo(np.float32).tiny] = 0.0  # denormal numbers are slow, and differ between devices
        with g.arithmetic():
            epoch = g.Cast(g.Floor(g.Min(done, 1.0) * float(self.epochs)), to=ir.DataType.INT64)
        return g.Gather(g.constant(weights, done.dtype), epoch)
