"""Learning-rate policies, evaluated in the graph from the number of completed updates (`it`, from 0).

Every policy is a factor of base_lr. Factors are computed in double precision and rounded once: a power of many updates
would multiply the rounding of float32, and float32 counts no further than 2^24.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
import onnx_ir as ir
from pydantic import Field, model_validator

from netc.declared import Declared, Family, Integers, mistake
from netc.graph import GraphBuilder

DOUBLE = ir.DataType.DOUBLE

Factor = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


@dataclass(frozen=True)
class Clock:
    """What a policy may ask for.

    Attributes:
        g: the graph.
        it: the number of completed updates, int64 [].
        planned: declares and returns the planned number of updates, a scalar.
        scale: declares and returns the factor that the host sets, a scalar.
    """

    g: GraphBuilder
    it: ir.Value
    planned: Callable[[], ir.Value]
    scale: Callable[[], ir.Value]

    @property
    def t(self) -> ir.Value:
        """The number of completed updates, double []."""
        return self.g.Cast(self.it, to=DOUBLE)

    @property
    def progress(self) -> ir.Value:
        """The fraction of the planned updates that is done, at most 1, double []."""
        g = self.g
        return g.Min(g.Div(self.t, g.Cast(self.planned(), to=DOUBLE)), 1.0)


class Policy(Declared):
    """The learning rate as a function of `it`, the number of completed updates.

    With `warmup_steps` n it is multiplied by `warmup_start + (1 - warmup_start) * it / n` until n updates are done;
    the policy itself counts from the first update all the same. Policies that speak of `progress` end with the run:
    it is `it` divided by the planned number of updates.
    """

    type: str
    warmup_steps: int = Field(0, ge=0)
    """Updates in which the rate rises along a line to what the policy says."""
    warmup_start: Share = 0.0
    """Factor of the rate at the first of these updates."""

    @model_validator(mode="after")
    def _warms_up(self) -> Self:
        if self.warmup_start and not self.warmup_steps:
            raise mistake(f"warmup_start {self.warmup_start:g} says where a warm-up begins; give warmup_steps too")
        return self

    @abstractmethod
    def relative(self, clock: Clock) -> ir.Value | float:
        """Return the factor of base_lr without warm-up: double [], or a number where it is always the same."""

    def rate(self, clock: Clock, base_lr: float) -> ir.Value:
        """Return the learning rate, a scalar of the graph's float type."""
        g, factor = clock.g, self.relative(clock)
        with g.arithmetic():
            if self.warmup_steps:
                ahead = g.Max(1.0 - clock.t / float(self.warmup_steps), 0.0)
                # Exactly 1 when the warm-up is over.
                factor = (1.0 - ahead * (1.0 - self.warmup_start)) * factor
            if isinstance(factor, float):
                return g.constant(base_lr * factor)
            return g.Cast(factor * base_lr, to=g.dtype)


POLICIES: Family[Policy] = Family("lr_policy", shorthand=True)
AnyPolicy = Annotated[Policy, POLICIES]


@POLICIES.add
class Fixed(Policy):
    """base_lr throughout.

    Example: fixed
    """

    type: Literal["fixed"] = "fixed"

    def relative(self, clock: Clock) -> float:  # noqa: D102
        return 1.0


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

    def relative(self, clock: Clock) -> ir.Value:  # noqa: D102
        g = clock.g
        with g.arithmetic():
            # Whole steps are divided as integers, where no rounding can miss a boundary.
            drops = g.Cast(clock.it / g.constant(np.array(self.stepsize, np.int64)), to=DOUBLE)
        return g.Pow(g.constant(self.gamma, DOUBLE), drops)


@POLICIES.add
class MultiStep(Policy):
    """base_lr * gamma ^ n, where n is how many of `stepvalue` are not above `it`: a rate that is piecewise constant.

    Example: {type: multistep, gamma: 0.1, stepvalue: [32000, 48000]}
    """

    type: Literal["multistep"] = "multistep"
    gamma: Factor
    """Factor of every drop."""
    stepvalue: Integers = Field(min_length=1)
    """Completed updates at which the rate drops, in rising order."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if any(later <= earlier for earlier, later in zip([0, *self.stepvalue], self.stepvalue, strict=False)):
            values = ", ".join(map(str, self.stepvalue))
            raise mistake(f"stepvalue: must be above 0 and rise from entry to entry, got {values}")
        return self

    def relative(self, clock: Clock) -> ir.Value:  # noqa: D102
        g = clock.g
        passed = g.GreaterOrEqual(clock.it, g.constant(np.array(self.stepvalue, np.int64)))
        drops = g.ReduceSum(g.Cast(passed, to=DOUBLE), keepdims=0)
        return g.Pow(g.constant(self.gamma, DOUBLE), drops)


@POLICIES.add
class Exp(Policy):
    """base_lr * gamma ^ it.

    Example: {type: exp, gamma: 0.999}
    """

    type: Literal["exp"] = "exp"
    gamma: Factor
    """Factor of every update."""

    def relative(self, clock: Clock) -> ir.Value:  # noqa: D102
        return clock.g.Pow(clock.g.constant(self.gamma, DOUBLE), clock.t)


@POLICIES.add
class NaturalExp(Policy):
    """base_lr * e ^ (-gamma * it).

    Example: {type: natural_exp, gamma: 0.001}
    """

    type: Literal["natural_exp"] = "natural_exp"
    gamma: Factor
    """How soon the rate falls: 1 / gamma updates divide it by e."""

    def relative(self, clock: Clock) -> ir.Value:  # noqa: D102
        with clock.g.arithmetic():
            return clock.g.Exp(clock.t * -self.gamma)


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

    def relative(self, clock: Clock) -> ir.Value:  # noqa: D102
        with clock.g.arithmetic():
            return clock.g.Pow(clock.t * self.gamma + 1.0, clock.g.constant(-self.power, DOUBLE))


@POLICIES.add
class InverseTime(Policy):
    """base_lr / (1 + gamma * it).

    Example: {type: inverse_time, gamma: 0.001}
    """

    type: Literal["inverse_time"] = "inverse_time"
    gamma: Factor
    """How soon the rate falls: at 1 / gamma updates it is half of base_lr."""

    def relative(self, clock: Clock) -> ir.Value:  # noqa: D102
        with clock.g.arithmetic():
            return 1.0 / (clock.t * self.gamma + 1.0)


@POLICIES.add
class Poly(Policy):
    """base_lr * (1 - progress) ^ power, which is 0 when the run ends.

    Example: {type: poly, power: 0.5}
    """

    type: Literal["poly"] = "poly"
    power: Factor
    """1 is a line, less falls late, more falls early."""

    def relative(self, clock: Clock) -> ir.Value:  # noqa: D102
        with clock.g.arithmetic():
            return clock.g.Pow(1.0 - clock.progress, clock.g.constant(self.power, DOUBLE))


@POLICIES.add
class SigmoidPolicy(Policy):
    """base_lr / (1 + e ^ (-gamma * (it - stepsize))), half of base_lr at `stepsize`.

    Example: {type: sigmoid, gamma: -0.01, stepsize: 1000}
    """

    type: Literal["sigmoid"] = "sigmoid"
    gamma: float
    """How steep the curve is; the rate falls if it is below 0, as in Caffe."""
    stepsize: int = Field(gt=0)
    """Updates after which the rate is half of base_lr."""

    def relative(self, clock: Clock) -> ir.Value:  # noqa: D102
        with clock.g.arithmetic():
            return 1.0 / (clock.g.Exp((clock.t - float(self.stepsize)) * -self.gamma) + 1.0)


@POLICIES.add
class Cosine(Policy):
    """Half a wave from base_lr down (Loshchilov & Hutter, 2017): base_lr * (1 + cos(pi * progress)) / 2 without `end`.

    With `end` it is base_lr * (end + (1 - end) * (1 + cos(pi * progress)) / 2).

    Example: {type: cosine, warmup_steps: 500}
    """

    type: Literal["cosine"] = "cosine"
    end: Share = 0.0
    """Factor of base_lr when the run ends."""

    def relative(self, clock: Clock) -> ir.Value:  # noqa: D102
        return _half_wave(clock.g, clock.progress, 1.0, self.end)


@POLICIES.add
class OneCycle(Policy):
    """Half a wave up to base_lr, then half a wave down (Smith & Topin, 2019).

    From `start * base_lr` to base_lr while progress rises to `rise`, then to `end * base_lr`. The defaults are
    PyTorch's.

    Example: {type: one_cycle, rise: 0.3}
    """

    type: Literal["one_cycle"] = "one_cycle"
    rise: float = Field(0.3, gt=0.0, lt=1.0)
    """Fraction of the run in which the rate rises."""
    start: Share = 0.04
    """Factor of base_lr at the first update."""
    end: Share = 4e-6
    """Factor of base_lr when the run ends."""

    def relative(self, clock: Clock) -> ir.Value:  # noqa: D102
        g, progress = clock.g, clock.progress
        with g.arithmetic():
            risen = g.Min(progress / self.rise, 1.0)
            fallen = g.Max(progress - self.rise, 0.0) / (1.0 - self.rise)
            # Of the two waves one is always at its end, where it is exactly 1.
            return _half_wave(g, risen, self.start, 1.0) * _half_wave(g, fallen, 1.0, self.end)


@POLICIES.add
class Plateau(Policy):
    """base_lr * lr_scale, a factor that falls when an evaluation stops improving.

    After `patience` evaluations in a row in which `monitor` is not better than its best value by more than
    `min_delta`, the rate is multiplied by `factor`; the next `cooldown` evaluations then count for nothing. Larger is
    better for accuracies and what is made of counts, smaller for all else. The host that trains does this and keeps
    lr_scale in the state (docs/artifact.md).

    Example: {type: plateau, monitor: total, factor: 0.1, patience: 5}
    """

    type: Literal["plateau"] = "plateau"
    monitor: str = "total"
    """The metric of evaluation that should improve: the name of a loss or metric, or the total."""
    factor: float = Field(0.1, gt=0.0, lt=1.0)
    """Factor of every drop."""
    patience: int = Field(10, gt=0)
    """Evaluations without improvement until the rate drops."""
    min_delta: Factor = 1e-4
    """What must be exceeded for an improvement."""
    cooldown: int = Field(0, ge=0)
    """Evaluations after a drop that are not counted."""
    min_lr: Factor = 0.0
    """Rate below which no drop leads."""

    def relative(self, clock: Clock) -> ir.Value:  # noqa: D102
        return clock.g.Cast(clock.scale(), to=DOUBLE)


def _half_wave(g: GraphBuilder, part: ir.Value, start: float, end: float) -> ir.Value:
    """Return what lies between `start` (part 0) and `end` (part 1) on half a cosine wave."""
    with g.arithmetic():
        return (g.Cos(part * math.pi) + 1.0) * ((start - end) / 2.0) + end
