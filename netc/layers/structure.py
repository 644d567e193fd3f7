"""Layers that join what several layers give, reduce it, or only pass it on."""

from typing import Annotated, ClassVar, Literal, NoReturn

import numpy as np
import onnx_ir as ir
from pydantic import Field

from netc.declared import OneOrMore
from netc.graph import shape_of
from netc.layers.base import LAYERS, Layer, LayerError, sample
from netc.layers.context import Context
from netc.layers.shapes import reduce, reshape, sample_axis

Finite = Annotated[float, Field(allow_inf_nan=False)]


@LAYERS.add
class Eltwise(Layer):
    """Sum, product or maximum of several tops of equal shape, as in a residual connection.

    A sum takes `coeff`, one factor a bottom. Bottoms that share a maximum share its gradient equally.

    Example:
        - {name: conv1, type: Convolution, num_output: 8, kernel_size: 3, pad: 1}
        - {name: conv2, type: Convolution, num_output: 8, kernel_size: 3, pad: 1}
        - {type: Eltwise, bottom: [conv1, conv2]}
    """

    type: Literal["Eltwise"] = "Eltwise"
    operation: Literal["sum", "prod", "max"] = "sum"
    """How the bottoms are combined."""
    coeff: Annotated[list[Finite], OneOrMore] = []
    """Factors of a sum, one a bottom."""

    min_bottoms: ClassVar[int] = 2
    max_bottoms: ClassVar[int | None] = None
    passes_rectifier: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        shapes = [sample(v) for v in x]
        if len(set(shapes)) > 1:
            raise LayerError(
                f"bottoms have different shapes: {', '.join(shapes)}; "
                "project one with a 1x1 Convolution or change its stride",
                "bottom",
            )
        if self.coeff and self.operation != "sum":
            raise LayerError(f"coeff weighs a sum, not operation: {self.operation}; remove it", "coeff")
        if self.coeff and len(self.coeff) != len(x):
            raise LayerError(f"coeff: needs {len(x)} numbers, one a bottom, got {len(self.coeff)}", "coeff")
        if self.operation == "max":
            return net.g.Max(*x)
        terms = [net.g.Mul(v, c) if c != 1.0 else v for v, c in zip(x, self.coeff or [1.0] * len(x), strict=True)]
        total = terms[0]
        for v in terms[1:]:
            total = net.g.Add(total, v) if self.operation == "sum" else net.g.Mul(total, v)
        return total


@LAYERS.add
class Concat(Layer):
    """Join several tops along `axis`, the channels by default; all other axes must agree.

    Example:
        - {name: conv1, type: Convolution, num_output: 8, kernel_size: 3, pad: 1}
        - {type: Concat, bottom: [image, conv1]}
    """

    type: Literal["Concat"] = "Concat"
    axis: int = 1
    """The axis; 1 is the channels, negative ones count from the end."""

    min_bottoms: ClassVar[int] = 2
    max_bottoms: ClassVar[int | None] = None

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        axis = sample_axis(x[0], self.axis)
        others = {tuple(n for i, n in enumerate(shape_of(v)) if i != axis) for v in x}
        if len(others) > 1 or len({len(shape_of(v)) for v in x}) > 1:
            raise LayerError(
                f"bottoms differ in more than axis {self.axis}: {', '.join(sample(v) for v in x)}", "bottom"
            )
        return net.g.Concat(*x, axis=self.axis)


@LAYERS.add
class Reduction(Layer):
    """One number for all axes from `axis` on: their sum, sum of magnitudes, sum of squares or mean, times `coeff`.

    Input [N, ...], output [N, ...] without these axes; with axis 1, the default, [N].

    Example: {type: Reduction, operation: mean, axis: 2}
    """

    type: Literal["Reduction"] = "Reduction"
    operation: Literal["sum", "asum", "sumsq", "mean"] = "sum"
    """What is computed of the values."""
    axis: int = 1
    """First axis that is reduced."""
    coeff: Finite = 1.0
    """Factor of the result."""

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        g, axes = net.g, range(sample_axis(x[0], self.axis), len(shape_of(x[0])))
        value = g.Abs(x[0]) if self.operation == "asum" else g.Mul(x[0], x[0]) if self.operation == "sumsq" else x[0]
        y = reduce(g, "ReduceMean" if self.operation == "mean" else "ReduceSum", value, axes, keepdims=0)
        return g.Mul(y, self.coeff) if self.coeff != 1.0 else y


@LAYERS.add
class ArgMax(Layer):
    """The places of the `top_k` largest values along `axis`, largest first; the first of equal ones.

    Output as the input, with size top_k along `axis`; with `out_max_val` the values instead of their places. With
    `axis: null` each sample is compared as a whole and counted row by row, as in Caffe without an axis: output
    [N, 1, top_k], or with `out_max_val` [N, 2, top_k], places and then values.

    Places are whole numbers in the network's type of float. Through values a gradient passes, through places none.

    Example: {type: ArgMax}
    """

    type: Literal["ArgMax"] = "ArgMax"
    axis: int | None = 1
    """The axis; null: each sample as a whole."""
    top_k: int = Field(1, gt=0)
    """Number of largest values."""
    out_max_val: bool = False
    """Whether the values are wanted."""

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        g, k = net.g, self.top_k
        v, axis = (g.Flatten(x[0], axis=1), 1) if self.axis is None else (x[0], sample_axis(x[0], self.axis))
        size = int(shape_of(v)[axis])
        if k > size:
            raise LayerError(f"top_k {k} is more than the {size} values that are compared; lower it", "top_k")
        if k == 1 and not self.out_max_val:
            place, values = g.ArgMax(v, axis=axis, keepdims=1), []
        else:
            value, place = g.ops("TopK", v, np.array([k], np.int64), num_outputs=2, axis=axis)
            values = [value] if self.out_max_val else []
        places = g.Cast(place, to=g.dtype)
        if self.axis is not None:
            return values[0] if values else places
        rows = [reshape(g, row, [0, 1, k]) for row in (places, *values)]
        return g.Concat(*rows, axis=1) if values else rows[0]


@LAYERS.add
class Split(Layer):
    """The identity, for specs that come from Caffe: here any number of layers may read one top.

    Example: {type: Split}
    """

    type: Literal["Split"] = "Split"

    passes_rectifier: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        return x[0]


@LAYERS.add
class Silence(Layer):
    """Reads tops that nothing else reads, so that they are no outputs of the model; it has no top itself.

    Example: {type: Silence, bottom: target}
    """

    type: Literal["Silence"] = "Silence"

    max_bottoms: ClassVar[int | None] = None
    reads_labels: ClassVar[bool] = True

    @property
    def tops(self) -> tuple[str, ...]:
        """None."""
        return ()

    def lower(self, net: Context, *x: ir.Value) -> tuple[ir.Value, ...]:  # noqa: D102
        if self.loss_weight:
            raise LayerError(
                "Silence has no top whose values loss_weight could weigh; give it to a layer above", "loss_weight"
            )
        return ()


@LAYERS.refuse
class Filter(Layer):
    """Refused: how many samples it keeps depends on the data."""

    type: Literal["Filter"] = "Filter"

    max_bottoms: ClassVar[int | None] = None
    reads_labels: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> NoReturn:  # noqa: D102
        raise LayerError(
            "Filter keeps a number of samples that depends on the data, and a step has fixed shapes; "
            "multiply by a mask with Eltwise instead",
            "type",
        )


@LAYERS.refuse
class BatchReindex(Layer):
    """Refused: how many samples it gives depends on the data."""

    type: Literal["BatchReindex"] = "BatchReindex"

    max_bottoms: ClassVar[int | None] = None
    reads_labels: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> NoReturn:  # noqa: D102
        raise LayerError(
            "BatchReindex gives a number of samples that depends on the data, and a step has fixed shapes; "
            "choose the samples in the data instead",
            "type",
        )
