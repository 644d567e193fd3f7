"""Layers that disturb training on purpose."""

from typing import ClassVar, Literal

import onnx_ir as ir
from pydantic import Field

from netc.layers.base import LAYERS, Layer
from netc.layers.context import Context


@LAYERS.add
class Dropout(Layer):
    """Drop units with probability `dropout_ratio` while training; kept units are scaled by 1 / (1 - dropout_ratio).

    At test time the identity (inverted dropout; Srivastava et al., 2014, section 10). Masks are a pure function of
    seed, step and the layer's name, so that a resumed run drops the same units.
    """

    type: Literal["Dropout"] = "Dropout"
    dropout_ratio: float = Field(0.5, ge=0.0, lt=1.0)

    passes_rectifier: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        if net.phase == "test" or self.dropout_ratio == 0.0:
            return x[0]
        with net.g.arithmetic():
            return x[0] * (net.keep(x[0], self.dropout_ratio) * (1.0 / (1.0 - self.dropout_ratio)))
