"""Schedules of a companion loss's weight, evaluated in the graph from the progress of the run."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, Literal

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
