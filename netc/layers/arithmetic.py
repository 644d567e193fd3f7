"""Functions of each element: powers, exponentials, logarithms, bounds."""

import math
from typing import Literal, Self

import onnx_ir as ir
from pydantic import Field, model_validator

from netc.declared import mistake
from netc.layers.base import LAYERS, Layer
from netc.layers.context import Context


@LAYERS.add
class AbsVal(Layer):
    """|x|; the gradient at 0 is 0.

    Example: {type: AbsVal}
    """

    type: Literal["AbsVal"] = "AbsVal"

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        return net.g.Abs(x[0])


class _Scaled(Layer):
    """A function of shift + scale x."""

    scale: float = Field(1.0, allow_inf_nan=False)
    """Factor of x."""
    shift: float = Field(0.0, allow_inf_nan=False)
    """What is added to that."""


@LAYERS.add
class Power(_Scaled):
    """(shift + scale x)^power; NaN where a negative number meets a power that is not whole (Caffe).

    Example: {type: Power, scale: 2.0, shift: -1.0}
    """

    type: Literal["Power"] = "Power"
    power: float = Field(1.0, allow_inf_nan=False)
    """Exponent."""

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        with net.g.arithmetic():
            if self.power == 0.0:  # a constant 1, whose derivative by way of Pow would be 0 / 0 at 0
                return x[0] * 0.0 + 1.0
            inner = affine(net, x[0], self.scale, self.shift)
            if self.power == 2.0:
                return inner * inner
            return inner if self.power == 1.0 else net.g.Pow(inner, self.power)


class _WithBase(_Scaled):
    """Such a function with a base, e unless given."""

    base: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    """The base; without it, e."""

    def log_base(self) -> float:
        """Return the natural logarithm of the base."""
        return 1.0 if self.base is None else math.log(self.base)


@LAYERS.add
class Exp(_WithBase):
    """base^(shift + scale x), with base e unless given (Caffe).

    Example: {type: Exp, base: 2.0}
    """

    type: Literal["Exp"] = "Exp"

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        return net.g.Exp(affine(net, x[0], self.scale * self.log_base(), self.shift * self.log_base()))


@LAYERS.add
class Log(_WithBase):
    """log(shift + scale x) / log(base), with base e unless given (Caffe).

    Example:
        - {type: AbsVal}
        - {type: Log, shift: 1.0}
    """

    type: Literal["Log"] = "Log"

    @model_validator(mode="after")
    def _has_logarithm(self) -> Self:
        if self.base == 1.0:
            raise mistake("base: no power of 1 is another number; leave base out for e, or give 2 or 10")
        return self

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        return affine(net, net.g.Log(affine(net, x[0], self.scale, self.shift)), 1.0 / self.log_base(), 0.0)


@LAYERS.add
class Clip(Layer):
    """min(max(x, `min`), `max`); the gradient is 1 on the closed interval, else 0 (Caffe).

    Example: {type: Clip, min: 0.0, max: 6.0}
    """

    type: Literal["Clip"] = "Clip"
    min: float = Field(allow_inf_nan=False)
    """Lower bound."""
    max: float = Field(allow_inf_nan=False)
    """Upper bound."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise mistake(f"Clip: min {self.min:g} is larger than max {self.max:g}; exchange them")
        return self

    @property
    def has_dead_zone(self) -> bool:
        """If it clips at 0 from below, as {min: 0.0, max: 6.0} does."""
        return self.min == 0.0

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        return net.g.Clip(x[0], self.min, self.max)


@LAYERS.add
class Threshold(Layer):
    """1 where x > threshold, else 0; no gradient passes (Caffe).

    Example: {type: Threshold, threshold: 0.5}
    """

    type: Literal["Threshold"] = "Threshold"
    threshold: float = Field(0.0, allow_inf_nan=False)
    """The last value that gives 0."""

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        return net.g.Cast(net.g.Greater(x[0], self.threshold), to=x[0].dtype)


def affine(net: Context, x: ir.Value, scale: float, shift: float) -> ir.Value:
    """Return shift + scale x without the steps that change nothing."""
    with net.g.arithmetic():
        scaled = x if scale == 1.0 else x * scale
        return scaled if shift == 0.0 else scaled + shift
