"""Elementwise activations, and softmax."""

from typing import ClassVar, Literal

import onnx_ir as ir

from netc.graph import shape_of
from netc.layers.base import LAYERS, Layer, LayerError, sample
from netc.layers.context import Context


@LAYERS.add
class ReLU(Layer):
    """max(x, 0); the gradient at 0 is 0 (Nair & Hinton, 2010)."""

    type: Literal["ReLU"] = "ReLU"
    rectifies: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        return net.g.Relu(x[0])


@LAYERS.add
class Sigmoid(Layer):
    """1 / (1 + exp(-x))."""

    type: Literal["Sigmoid"] = "Sigmoid"

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        return net.g.Sigmoid(x[0])


@LAYERS.add
class TanH(Layer):
    """Hyperbolic tangent."""

    type: Literal["TanH"] = "TanH"

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        return net.g.Tanh(x[0])


@LAYERS.add
class Softmax(Layer):
    """exp(x) / sum exp(x) over the axis `axis`, the channels by default."""

    type: Literal["Softmax"] = "Softmax"
    axis: int = 1

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        rank = len(shape_of(x[0]))
        if not -rank <= self.axis < rank or self.axis % rank == 0:
            raise LayerError(
                f"axis {self.axis} is not an axis of a sample {sample(x[0])} (axis 0 is the batch)", "axis"
            )
        return net.g.Softmax(x[0], axis=self.axis)
