"""Operations that take away what an image says: noise, blur and holes."""

from typing import Annotated, Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field, field_validator

from netc.augment.base import (
    AUGMENTATIONS,
    AugmentError,
    Draws,
    Picture,
    Pixelwise,
    Size,
    Span,
    clipped,
    ends,
    gaussian_rows,
)
from netc.declared import OneOrMore, mistake
from netc.graph import GraphBuilder

LEAST_SIGMA = 0.1  # pixels; a narrower Gaussian changes nothing


@AUGMENTATIONS.add
class GaussianNoise(Pixelwise):
    """Add a number from N(0, std) to every value, and bring the sum back into `data.range`.

    Example: {type: GaussianNoise, std: 0.05}
    """

    type: Literal["GaussianNoise"] = "GaussianNoise"
    std: float = Field(gt=0.0)
    """Standard deviation as a share of the range of raw values."""

    def change(self, draws: Draws, x: ir.Value, picture: Picture) -> ir.Value:  # noqa: D102
        limits, g = picture.span(), draws.g
        size = draws.gated(g.constant(self.std * (limits[1] - limits[0])), self.probability)
        with g.arithmetic():
            noisy = x + draws.normal("noise", [draws.shape[0], picture.channels, *_size(picture)]) * size
        return clipped(g, noisy, limits)


@AUGMENTATIONS.add
class SaltAndPepper(Pixelwise):
    """Set a share of the pixels, in all channels, to the lowest or the highest value, both equally often.

    Example: {type: SaltAndPepper, amount: 0.05}
    """

    type: Literal["SaltAndPepper"] = "SaltAndPepper"
    amount: float = Field(gt=0.0, le=1.0)
    """Share of the pixels that are set."""

    def change(self, draws: Draws, x: ir.Value, picture: Picture) -> ir.Value:  # noqa: D102
        (low, high), g = picture.span(), draws.g
        drawn = draws.uniform("pixels", shape=[draws.shape[0], 1, *_size(picture)])
        half = draws.gated(g.constant(self.amount / 2), self.probability)
        with g.arithmetic():
            salted = g.Where(g.Greater(drawn, 1.0 - half), g.constant(high), x)
            return g.Where(g.Less(drawn, half), g.constant(low), salted)


@AUGMENTATIONS.add
class GaussianBlur(Pixelwise):
    """Smooth by a Gaussian whose standard deviation is drawn; weights at edges sum to 1.

    Example: {type: GaussianBlur, sigma: [0.1, 2.0], probability: 0.5}
    """

    type: Literal["GaussianBlur"] = "GaussianBlur"
    sigma: Span = [0.1, 2.0]
    """Span of the standard deviation in pixels; a number stands for itself."""

    @field_validator("sigma")
    @classmethod
    def _wide_enough(cls, sigma: float | list[float]) -> float | list[float]:
        least = sigma[0] if isinstance(sigma, list) else sigma
        if least < LEAST_SIGMA:
            raise mistake(f"sigma: must be at least {LEAST_SIGMA:g}, got {least:g}")
        return sigma

    def _sigmas(self) -> tuple[float, float]:
        return ends(self.sigma) if isinstance(self.sigma, list) else (self.sigma, self.sigma)

    def change(self, draws: Draws, x: ir.Value, picture: Picture) -> ir.Value:  # noqa: D102
        g, happens = draws.g, draws.happens(self.probability)
        with g.arithmetic():
            sigma = draws.uniform("sigma", *self._sigmas())
            rate = -0.5 / (sigma * sigma)
        turned = g.Transpose(self._weights(g, rate, picture.width), perm=[0, 1, 3, 2])
        smoothed = g.MatMul(g.MatMul(self._weights(g, rate, picture.height), x), turned)
        return smoothed if happens is None else g.Where(happens, smoothed, x)

    def _weights(self, g: GraphBuilder, rate: ir.Value, size: int) -> ir.Value:
        """Return matrices [N, 1, size, size] that smooth a line."""
        with g.arithmetic():
            weights = g.Exp(g.constant(gaussian_rows(size)[np.newaxis, np.newaxis], g.dtype) * rate)
            return weights / g.ReduceSum(weights, np.array([3]), keepdims=1)


@AUGMENTATIONS.add
class Cutout(Pixelwise):
    """Cut a rectangle out around a random pixel (DeVries & Taylor, 2017); at the edges it loses what lies beyond.

    Example: {type: Cutout, size: 4, fill: 8}
    """

    type: Literal["Cutout"] = "Cutout"
    size: Annotated[list[Size], Field(min_length=1, max_length=2), OneOrMore]
    """Height and width in pixels, or one number for both."""
    fill: float = 0.0
    """Raw value of what is cut out."""

    def change(self, draws: Draws, x: ir.Value, picture: Picture) -> ir.Value:  # noqa: D102
        g, happens = draws.g, draws.happens(self.probability)
        inside = happens
        for what, axis, side, length in zip("yx", (2, 3), _size(picture), (self.size * 2)[:2], strict=True):
            if length > 2 * side:
                raise AugmentError(f"size: {length} is more than twice the {side} pixels of that side", "size")
            places = g.constant(np.arange(side).reshape([-1 if i == axis else 1 for i in range(4)]), g.dtype)
            with g.arithmetic():
                first = draws.integer(what, side) - float(length // 2)
                within = g.And(g.GreaterOrEqual(places, first), g.Less(places, first + float(length)))
            inside = within if inside is None else g.And(inside, within)
        assert inside is not None, "there are two sides"
        return g.Where(inside, g.constant(self.fill), x)


def _size(picture: Picture) -> tuple[int, int]:
    return picture.height, picture.width
