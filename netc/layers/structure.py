"""Layers that join what several layers give, reduce it, or only pass it on."""

from typing import Annotated, ClassVar, Literal, NoReturn

import onnx_ir as ir
from pydantic import Field

from netc.declared import OneOrMore
from netc.graph import shape_of
from netc.layers.base import LAYERS, Layer, LayerError, sample
from netc.layers.context import Context
from netc.layers.shapes import reduce, sample_axis

Finite = Annotated[float, Field(allow_inf_nan=False)]


@LAYERS.add
class Eltwise(Layer):
    """Sum, product or maximum of several tops of equal shape, as in a residual connection.

    A sum takes `coeff`, one factor a bottom. Bottoms that share a maximum share its gradient equally.
    """

    type: Literal["Eltwise"] = "Eltwise"
    operation: Literal["sum", "prod", "max"] = "sum"
    coeff: Annotated[list[Finite], OneOrMore] = []

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
    """Join several tops along `axis`, the channels by default; all other axes must agree."""

    type: Literal["Concat"] = "Concat"
    axis: int = 1

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
    """

    type: Literal["Reduction"] = "Reduction"
    operation: Literal["sum", "asum", "sumsq", "mean"] = "sum"
    axis: int = 1
    coeff: Finite = 1.0

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        g, axes = net.g, range(sample_axis(x[0], self.axis), len(shape_of(x[0])))
        value = g.Abs(x[0]) if self.operation == "asum" else g.Mul(x[0], x[0]) if self.operation == "sumsq" else x[0]
        y = reduce(g, "ReduceMean" if self.operation == "mean" else "ReduceSum", value, axes, keepdims=0)
        return g.Mul(y, self.coeff) if self.coeff != 1.0 else y


@LAYERS.add
class ArgMax(Layer):
    """The place of the largest value along `axis`, which stays with size 1; the first of equal ones.

    Places are whole numbers in the network's type of float. No gradient passes.
    """

    type: Literal["ArgMax"] = "ArgMax"
    axis: int = 1

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        place = net.g.ArgMax(x[0], axis=sample_axis(x[0], self.axis), keepdims=1)
        return net.g.Cast(place, to=net.g.dtype)


@LAYERS.add
class Split(Layer):
    """The identity, for specs that come from Caffe: here any number of layers may read one top."""

    type: Literal["Split"] = "Split"

    passes_rectifier: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        return x[0]


@LAYERS.add
class Silence(Layer):
    """Reads tops that nothing else reads, so that they are no outputs of the model; it has no top itself."""

    type: Literal["Silence"] = "Silence"

    max_bottoms: ClassVar[int | None] = None
    reads_labels: ClassVar[bool] = True

    @property
    def tops(self) -> tuple[str, ...]:
        """None."""
        return ()

    def lower(self, net: Context, *x: ir.Value) -> tuple[ir.Value, ...]:  # noqa: D102
        return ()


@LAYERS.add
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


@LAYERS.add
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
