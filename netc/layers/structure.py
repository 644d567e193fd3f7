"""Layers that join and reshape."""

from typing import ClassVar, Literal

import onnx_ir as ir

from netc.graph import shape_of
from netc.layers.base import LAYERS, Layer, LayerError, sample
from netc.layers.context import Context


@LAYERS.add
class Eltwise(Layer):
    """Sum of several tops of equal shape, as in a residual connection."""

    type: Literal["Eltwise"] = "Eltwise"
    operation: Literal["sum"] = "sum"

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
        total = x[0]
        for v in x[1:]:
            total = net.g.Add(total, v)
        return total


@LAYERS.add
class Concat(Layer):
    """Join several tops along `axis`, the channels by default; all other axes must agree."""

    type: Literal["Concat"] = "Concat"
    axis: int = 1

    min_bottoms: ClassVar[int] = 2
    max_bottoms: ClassVar[int | None] = None

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        rank = len(shape_of(x[0]))
        if not -rank <= self.axis < rank or self.axis % rank == 0:
            raise LayerError(
                f"axis {self.axis} is not an axis of a sample {sample(x[0])} (axis 0 is the batch)", "axis"
            )
        others = {tuple(n for i, n in enumerate(shape_of(v)) if i != self.axis % rank) for v in x}
        if len(others) > 1 or len({len(shape_of(v)) for v in x}) > 1:
            raise LayerError(
                f"bottoms differ in more than axis {self.axis}: {', '.join(sample(v) for v in x)}", "bottom"
            )
        return net.g.Concat(*x, axis=self.axis)


@LAYERS.add
class Flatten(Layer):
    """All axes behind the batch become one: [N, C, H, W] to [N, C H W]."""

    type: Literal["Flatten"] = "Flatten"
    passes_rectifier: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        return net.g.Flatten(x[0], axis=1)
