"""Factors and shifts, learned or computed by another layer."""

from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field

from netc.graph import GraphBuilder, shape_of
from netc.layers.base import LAYERS, Layer, LayerError, sample
from netc.layers.context import Context
from netc.layers.fillers import AnyFiller, Constant, Filler
from netc.layers.shapes import along, end_of, reshape, sample_axis


class _Along(Layer):
    """What Scale and Bias share: operands that lie along axes of a sample, learned or given as a second bottom."""

    axis: int = 1
    """First axis that the factor lies along."""
    num_axes: int = Field(1, ge=-1)
    """Number of axes that what is learned lies along; 0: one number, -1: all from axis on."""
    bias_filler: AnyFiller = Constant()
    """How bias is filled first."""

    max_bottoms: ClassVar[int | None] = 2
    learns_scales: ClassVar[bool] = True
    passes_rectifier: ClassVar[bool] = True

    def learned(self, net: Context, suffix: str, filler: Filler, x: ir.Value, shape: list[int]) -> ir.Value:
        """Declare a parameter, and view it along x."""
        return along(net.g, net.parameter(suffix, shape, filler), x, sample_axis(x, self.axis))

    def span(self, x: ir.Value) -> list[int]:
        """Return the shape of a parameter along `num_axes` axes of x; a single number has shape [1].

        Raises:
            LayerError: x has fewer axes.
        """
        first = sample_axis(x, self.axis)
        return [int(n) for n in shape_of(x)[first : end_of(x, first, self.num_axes)]] or [1]

    def second(self, g: GraphBuilder, x: ir.Value, v: ir.Value, unused: list[str]) -> tuple[ir.Value, list[int]]:
        """View the second bottom v along x, and return its axes too, without those of size 1 at the end.

        Raises:
            LayerError: v does not lie along x, or the user gave one of the fields `unused`, which are about what is
                learned in its place.
        """
        for field in unused:
            if getattr(self, field) != type(self).model_fields[field].default:
                raise LayerError(
                    f"{field} is about a learned tensor, and the second bottom stands in its place; "
                    f"remove {field}, or the second bottom",
                    field,
                )
        have = [int(n) for n in shape_of(v)[1:]]
        axis, size = sample_axis(x, self.axis), list(have)
        while size and size[-1] == 1:
            size.pop()
        beside = shape_of(x)[axis : axis + len(size)]
        if len(beside) < len(size) or any(n not in (1, m) for n, m in zip(size, beside, strict=True)):
            raise LayerError(
                f"the second bottom, {sample(v)} a sample, does not lie along the axes of the first, {sample(x)}, "
                f"from axis {self.axis} on; there it needs the same sizes, or 1",
                "bottom",
            )
        want = [*[1] * (axis - 1), *size, *[1] * (len(shape_of(x)) - axis - len(size))]
        return v if have == want else reshape(g, v, [0, *want]), size or [1]


@LAYERS.add
class Scale(_Along):
    """x * weight, plus bias with `bias_term`, learned along `num_axes` axes of a sample from `axis` on (Caffe).

    With `num_axes: 0` weight and bias are one number each, with -1 they span all axes from `axis` on. By default one
    number a channel, weight [C] and bias [C].

    A second bottom takes the place of weight: `bottom: [x, v]` is x * v, as in squeeze-and-excitation. The axes of a
    sample of v lie along those of x from `axis` on, [N, C] or [N, C, 1, 1] beside [N, C, H, W]; where v has size 1, or
    no axis any more, its numbers are repeated. A bias is then learned along the axes of v.

    Example: {type: Scale, bias_term: true}
    """

    type: Literal["Scale"] = "Scale"
    bias_term: bool = False
    """Whether a bias is added."""
    weight_filler: AnyFiller = Constant(value=1.0)
    """How weight is filled first."""

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        if len(x) == 2:
            factor, shape = self.second(net.g, *x, unused=["num_axes", "weight_filler"])
        else:
            shape = self.span(x[0])
            factor = self.learned(net, "weight", self.weight_filler, x[0], shape)
        y = net.g.Mul(x[0], factor)
        return net.g.Add(y, self.learned(net, "bias", self.bias_filler, x[0], shape)) if self.bias_term else y


@LAYERS.add
class Bias(_Along):
    """x + bias, learned along `num_axes` axes of a sample from `axis` on (Caffe).

    With `num_axes: 0` bias is one number, with -1 it spans all axes from `axis` on. By default one number a channel,
    bias [C]. A second bottom takes the place of bias, along the same axes as in Scale.

    Example: {type: Bias}
    """

    type: Literal["Bias"] = "Bias"

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        if len(x) == 2:
            shift, _ = self.second(net.g, *x, unused=["num_axes", "bias_filler"])
        else:
            shift = self.learned(net, "bias", self.bias_filler, x[0], self.span(x[0]))
        return net.g.Add(x[0], shift)


@LAYERS.add
class WeightedSum(Layer):
    """The sum of several tops of equal shape, each times a learned number: fuses the scores of sides (Xie & Tu 2015).

    Parameters: weight [bottoms], first 1 / bottoms, so that the sum begins as the mean.

    Example:
        - {name: conv1, type: Convolution, num_output: 8, kernel_size: 3, pad: 1}
        - {name: conv2, type: Convolution, num_output: 8, kernel_size: 1, bottom: image}
        - {type: WeightedSum, bottom: [conv1, conv2]}
    """

    type: Literal["WeightedSum"] = "WeightedSum"
    weight_filler: AnyFiller | None = None
    """How weight is filled first; default 1 / bottoms."""

    max_bottoms: ClassVar[int | None] = None

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        shapes = [sample(v) for v in x]
        if len(set(shapes)) > 1:
            raise LayerError(f"bottoms have different shapes: {', '.join(shapes)}; make them equal first", "bottom")
        weights = net.parameter("weight", [len(x)], self.weight_filler or Constant(value=1.0 / len(x)))
        g, total = net.g, None
        for index, v in enumerate(x):
            part = g.Mul(v, g.Slice(weights, *(np.array([n], np.int64) for n in (index, index + 1, 0))))
            total = part if total is None else g.Add(total, part)
        assert total is not None, "a layer has a bottom"
        return total
