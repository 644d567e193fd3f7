"""Dynamic loss scaling in the graph (Micikevicius et al., 2018, sections 3.2 and 3.2.1).

A cotangent below 6e-8 is 0 in float16. With s the scale, a power of two, the backward pass starts from s instead of 1,
which multiplies every cotangent by s, and gradients are divided by s where they are float32 again: both are exact. Too
large an s makes cotangents overflow to infinity, which shows in the gradients, so that s can be looked for:

    finite   all gradients of the update are finite: the sum of all their elements is
    applied  finite, or s is SMALLEST already
    s'       2 s after GROWTH_INTERVAL applied updates in a row, s / 2 after one that is not applied

An update that is not applied leaves parameters, the solver's memory of them and averages of weights in every bit as
they are. For all else it is an update: the step counter and what follows it (learning rate, schedules, dropout) go on,
and running statistics follow the forward pass, which was sound. What counts updates for its own sake, as the bias
correction of Adam does, counts applied ones. At SMALLEST an overflow cannot come of the scale, so that the update is
made: training then diverges as it does in float32, instead of standing still without a word.

With several batches for one update all of them have one scale, and one overflow among them spoils the update.
"""

import functools
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import Origin
from netc.layers.context import Context

FIRST = 2.0**16
GROWTH_INTERVAL = 2000
# The range of float16 is 2^-24 to 2^16: no cotangent needs a factor beyond what takes one end of it to the other.
SMALLEST, LARGEST = 2.0**-24, 2.0**40

_ORIGIN = Origin("solver", "update")


class LossScale:
    """The scale of one training step, and the decision whether its update is applied."""

    def __init__(self, net: Context) -> None:
        self._net = net
        self.value = net.loss_scale(FIRST)
        self._good, self._skipped = net.counter("loss_scale/good_steps"), net.counter("loss_scale/skipped_steps")

    def scaled(self, objective: ir.Value) -> ir.Value:
        """Return the objective times the scale, to be differentiated."""
        g = self._net.g
        with g.origin(_ORIGIN):
            return g.Mul(objective, self.value)

    def unscaled(self, dw: ir.Value, layer: str) -> ir.Value:
        """Return the gradient that a scaled one stands for, in the same type."""
        g = self._net.g
        with g.origin(_ORIGIN):
            factor = g.Reciprocal(self.value)
        with g.origin(Origin(layer, "update")):
            return g.Mul(dw, factor)

    def applied_before(self, it: ir.Value) -> ir.Value:
        """Return how many of `it` updates were applied, int64 []."""
        g = self._net.g
        with g.origin(_ORIGIN):
            return g.Sub(it, self._skipped)

    def judge(self, gradients: Sequence[ir.Value]) -> tuple[ir.Value, dict[str, ir.Value]]:
        """Return whether the update by these gradients is applied, bool [], and the state after it."""
        g, one = self._net.g, np.array(1, np.int64)
        with g.origin(_ORIGIN), g.arithmetic():
            total = functools.reduce(g.Add, [g.ReduceSum(dw, keepdims=0) for dw in gradients])
            finite = g.Less(g.Abs(total), np.inf)
            applied = g.Or(finite, g.LessOrEqual(self.value, SMALLEST))
            good = self._good + one
            grows = g.GreaterOrEqual(good, np.array(GROWTH_INTERVAL, np.int64))
            larger, smaller = g.Min(self.value * 2.0, LARGEST), g.Max(self.value * 0.5, SMALLEST)
            scale = g.Where(applied, g.Where(grows, larger, self.value), smaller)
            none = g.constant(np.array(0, np.int64))
            return applied, {
                str(self.value.name): scale,
                str(self._good.name): g.Where(g.And(applied, g.Not(grows)), good, none),
                str(self._skipped.name): g.Where(applied, self._skipped, self._skipped + one),
            }
