"""Learned factors and shifts."""

from typing import ClassVar, Literal

import onnx_ir as ir
from pydantic import Field

from netc.graph import shape_of
from netc.layers.base import LAYERS, Layer, LayerError, sample
from netc.layers.context import Context
from netc.layers.fillers import AnyFiller, Constant
from netc.layers.shapes import along, sample_axis


@LAYERS.add
class Scale(Layer):
    """x * weight, plus bias with `bias_term`, learned along `num_axes` axes of a sample from `axis` on (Caffe).

    With `num_axes: 0` weight and bias are one number each, with -1 they span all axes from `axis` on. By default one
    number a channel, weight [C] and bias [C].
    """

    type: Literal["Scale"] = "Scale"
    axis: int = 1
    num_axes: int = Field(1, ge=-1)
    bias_term: bool = False
    weight_filler: AnyFiller = Constant(value=1.0)
    bias_filler: AnyFiller = Constant()

    passes_rectifier: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        axis, shape = _span(x[0], self.axis, self.num_axes)
        y = net.g.Mul(x[0], along(net.g, net.parameter("weight", shape, self.weight_filler), x[0], axis))
        if not self.bias_term:
            return y
        return net.g.Add(y, along(net.g, net.parameter("bias", shape, self.bias_filler), x[0], axis))


@LAYERS.add
class Bias(Layer):
    """x + bias, learned along `num_axes` axes of a sample from `axis` on (Caffe).

    With `num_axes: 0` bias is one number, with -1 it spans all axes from `axis` on. By default one number a channel,
    bias [C].
    """

    type: Literal["Bias"] = "Bias"
    axis: int = 1
    num_axes: int = Field(1, ge=-1)
    bias_filler: AnyFiller = Constant()

    passes_rectifier: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        axis, shape = _span(x[0], self.axis, self.num_axes)
        return net.g.Add(x[0], along(net.g, net.parameter("bias", shape, self.bias_filler), x[0], axis))


def _span(x: ir.Value, axis: int, count: int) -> tuple[int, list[int]]:
    """Return the first axis and the shape of a parameter along `count` axes of x; a single number has shape [1].

    Raises:
        LayerError: x has fewer axes.
    """
    first, shape = sample_axis(x, axis), shape_of(x)
    if first + count > len(shape):
        raise LayerError(
            f"num_axes {count} from axis {axis} on is more than a sample {sample(x)} has; write -1 for all of them",
            "num_axes",
        )
    last = len(shape) if count == -1 else first + count
    return first, [int(n) for n in shape[first:last]] or [1]
