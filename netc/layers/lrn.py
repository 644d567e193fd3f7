"""Local response normalization."""

import math
from typing import Literal, Self

import onnx_ir as ir
from pydantic import Field, model_validator

from netc.declared import mistake
from netc.graph import shape_of
from netc.layers.base import LAYERS, Layer, spatial
from netc.layers.context import Context
from netc.layers.shapes import channels_of, reshape


@LAYERS.add
class LRN(Layer):
    """x (k + alpha * mean of x^2 in a window of `local_size`)^-beta (Krizhevsky et al., 2012, section 3.3; Caffe).

    The window lies across neighbouring channels, or within the plane of each channel. Where it reaches beyond the
    edge, zeros count. Within channels k is 1, as in Caffe.

    Example: {type: LRN, local_size: 5, alpha: 0.0001, beta: 0.75}
    """

    type: Literal["LRN"] = "LRN"
    local_size: int = Field(5, gt=0)
    """Size of the window, odd."""
    alpha: float = Field(1.0, ge=0.0, allow_inf_nan=False)
    """Factor of the mean of squares."""
    beta: float = Field(0.75, ge=0.0, allow_inf_nan=False)
    """Exponent."""
    k: float = Field(1.0, gt=0.0, allow_inf_nan=False)
    """What the scaled mean is added to."""
    norm_region: Literal["across_channels", "within_channel"] = "across_channels"
    """Where the window lies."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.local_size % 2 == 0:
            raise mistake(
                f"local_size {self.local_size} has no middle; use an odd one, {self.local_size - 1} or "
                f"{self.local_size + 1}"
            )
        if self.norm_region == "within_channel" and self.k != 1.0:
            raise mistake(f"k {self.k:g} has no place within a channel, where it is always 1; remove k")
        return self

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        g, v = net.g, x[0]
        with g.arithmetic():
            square = v * v
            if self.norm_region == "within_channel":
                mean = self._mean(net, square, [self.local_size] * len(spatial(v, self)))
            else:  # channels and positions as the two axes of a plane
                shape = [channels_of(v, self), *(int(n) for n in shape_of(v)[2:])]
                plane = reshape(g, square, [0, 1, shape[0], math.prod(shape[1:])])
                mean = reshape(g, self._mean(net, plane, [self.local_size, 1]), [0, *shape])
            return v * g.Pow(mean * self.alpha + self.k, -self.beta)

    def _mean(self, net: Context, x: ir.Value, window: list[int]) -> ir.Value:
        """Return the mean over the window around each element; what lies outside counts as 0."""
        # What every element sees of a wider window is zeros; a window of any size would need as large a constant.
        seen = [min(n, 2 * int(size) - 1) for n, size in zip(window, shape_of(x)[2:], strict=True)]
        pads = [n // 2 for n in seen]
        mean = net.g.AveragePool(x, kernel_shape=seen, pads=pads + pads, count_include_pad=1)
        return mean if seen == window else mean * (math.prod(seen) / math.prod(window))
