"""Learning-rate policies, evaluated in the graph from the number of completed updates (`it`, from 0)."""

from abc import abstractmethod
from typing import Annotated, Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field

from netc.declared import Declared, Family
from netc.graph import GraphBuilder

Factor = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class Policy(Declared):
    """The learning rate as a function of the step."""

    type: str

    @abstractmethod
    def rate(self, g: GraphBuilder, base_lr: float, it: ir.Value) -> ir.Value:
        """Return the rate, a scalar; `it` is int64 []."""


POLICIES: Family[Policy] = Family("lr_policy", shorthand=True)
AnyPolicy = Annotated[Policy, POLICIES]


@POLICIES.add
class Fixed(Policy):
    """base_lr throughout.

    Example: fixed
    """

    type: Literal["fixed"] = "fixed"

    def rate(self, g: GraphBuilder, base_lr: float, it: ir.Value) -> ir.Value:  # noqa: D102
        return g.constant(base_lr)


@POLICIES.add
class Step(Policy):
    """base_lr * gamma ^ floor(it / stepsize).

    Example: {type: step, gamma: 0.1, stepsize: 1000}
    """

    type: Literal["step"] = "step"
    gamma: Factor
    """Factor of every drop."""
    stepsize: int = Field(gt=0)
    """Updates between two drops."""

    def rate(self, g: GraphBuilder, base_lr: float, it: ir.Value) -> ir.Value:  # noqa: D102
        with g.arithmetic():
            # Whole steps are divided as integers, where no rounding can miss a boundary.
            drops = g.Cast(it / g.constant(np.array(self.stepsize, np.int64)), to=g.dtype)
            return g.Pow(g.constant(self.gamma), drops) * base_lr


@POLICIES.add
class Inv(Policy):
    """base_lr * (1 + gamma * it) ^ -power.

    Example: {type: inv, gamma: 0.0001, power: 0.75}
    """

    type: Literal["inv"] = "inv"
    gamma: Factor
    """How soon the rate falls: at 1 / gamma updates it has been multiplied by 2 ^ -power."""
    power: Factor
    """How steeply it falls in the end."""

    def rate(self, g: GraphBuilder, base_lr: float, it: ir.Value) -> ir.Value:  # noqa: D102
        with g.arithmetic():
            return g.Pow(g.Cast(it, to=g.dtype) * self.gamma + 1.0, g.constant(-self.power)) * base_lr
