"""Operations on brightness and color; channels are red, green and blue, and results stay in `data.range`."""

from typing import Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field

from netc.augment.base import AUGMENTATIONS, Draws, Picture, Pixelwise, Span, clipped, ends
from netc.graph import GraphBuilder

# Weights of red, green and blue in a grey value (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)
_CHANNELS = np.array([1])


def gray(g: GraphBuilder, x: ir.Value, picture: Picture) -> ir.Value:
    """Return the grey image [N, 1, H, W] of an image of one or three channels."""
    if picture.channels == 1:
        return x
    picture.need_color()
    weights = g.constant(np.reshape(LUMA, (1, 3, 1, 1)), x.dtype)
    return g.ReduceSum(g.Mul(x, weights), _CHANNELS, keepdims=1)


def _blended(draws: Draws, x: ir.Value, base: ir.Value | float, factor: Span, probability: float) -> ir.Value:
    """Return base + (x - base) * factor, with a factor for each sample."""
    low, high = ends(factor, 1.0)
    drawn = draws.gated(draws.uniform("factor", max(low, 0.0), high), probability, 1.0)
    if base == 0.0:
        return draws.g.Mul(x, drawn)
    with draws.g.arithmetic():
        return (x - base) * drawn + base


@AUGMENTATIONS.add
class Brightness(Pixelwise):
    """Multiply values, counted from the lowest of the range, by a random factor.

    Example: {type: Brightness, factor: [0.6, 1.4]}
    """

    type: Literal["Brightness"] = "Brightness"
    factor: Span
    """Span of the factor; 0.4 stands for 0.6 to 1.4."""

    def change(self, draws: Draws, x: ir.Value, picture: Picture) -> ir.Value:  # noqa: D102
        limits = picture.span()
        return clipped(draws.g, _blended(draws, x, limits[0], self.factor, self.probability), limits)


@AUGMENTATIONS.add
class Contrast(Pixelwise):
    """Multiply the distances of values from the mean of the grey image by a random factor.

    Example: {type: Contrast, factor: 0.4}
    """

    type: Literal["Contrast"] = "Contrast"
    factor: Span
    """Span of the factor; 0.4 stands for 0.6 to 1.4."""

    def change(self, draws: Draws, x: ir.Value, picture: Picture) -> ir.Value:  # noqa: D102
        limits, g = picture.span(), draws.g
        mean = g.ReduceMean(gray(g, x, picture), np.array([1, 2, 3]), keepdims=1)
        return clipped(g, _blended(draws, x, mean, self.factor, self.probability), limits)


@AUGMENTATIONS.add
class Saturation(Pixelwise):
    """Multiply the distances of values from the grey image by a random factor.

    Example: {type: Saturation, factor: 0.4}
    """

    type: Literal["Saturation"] = "Saturation"
    factor: Span
    """Span of the factor; 0.4 stands for 0.6 to 1.4."""

    def change(self, draws: Draws, x: ir.Value, picture: Picture) -> ir.Value:  # noqa: D102
        picture.need_color()
        limits, g = picture.span(), draws.g
        return clipped(g, _blended(draws, x, gray(g, x, picture), self.factor, self.probability), limits)


@AUGMENTATIONS.add
class Hue(Pixelwise):
    """Turn the hue of every pixel by a random share of the circle, at equal saturation and value (HSV; Smith, 1978).

    Example: {type: Hue, shift: 0.1}
    """

    type: Literal["Hue"] = "Hue"
    shift: Span
    """Span of the shift in turns; 0.1 stands for -0.1 to 0.1, and 0.5 is the opposite color."""

    def change(self, draws: Draws, x: ir.Value, picture: Picture) -> ir.Value:  # noqa: D102
        picture.need_color()
        picture.span()  # hue and saturation mean something above black alone, and this says where that is
        g = draws.g
        turn = draws.gated(draws.uniform("shift", *ends(self.shift)), self.probability)
        red, green, blue = (g.Slice(x, np.array([i]), np.array([i + 1]), _CHANNELS) for i in range(3))
        highest = g.Max(g.Max(red, green), blue)
        with g.arithmetic():
            spread = highest - g.Min(g.Min(red, green), blue)
            # Sixths of the circle from red; a grey pixel, whose differences are 0, has none and needs none.
            divisor = g.Where(g.Greater(spread, 0.0), spread, g.constant(1.0))
            at_red, at_green = g.Equal(highest, red), g.Equal(highest, green)
            difference = g.Where(at_red, green - blue, g.Where(at_green, blue - red, red - green))
            first = g.Where(at_red, g.constant(0.0), g.Where(at_green, g.constant(2.0), g.constant(4.0)))
            sixths = difference / divisor + first + turn * 6.0
            # The three channels as one function of the hue: value - spread * clip(min(k, 4 - k), 0, 1).
            k = sixths + g.constant(np.reshape([5.0, 3.0, 1.0], (1, 3, 1, 1)), g.dtype)
            k = k - g.Floor(k * (1.0 / 6.0)) * 6.0
            share = g.Clip(g.Min(k, 4.0 - k), g.constant(0.0), g.constant(1.0))
            return highest - spread * share


@AUGMENTATIONS.add
class Grayscale(Pixelwise):
    """Give all channels the grey value.

    Example: {type: Grayscale, probability: 0.1}
    """

    type: Literal["Grayscale"] = "Grayscale"
    probability: float = Field(0.1, ge=0.0, le=1.0)
    """Probability that it happens to a sample."""

    def change(self, draws: Draws, x: ir.Value, picture: Picture) -> ir.Value:  # noqa: D102
        picture.need_color()
        g, happens = draws.g, draws.happens(self.probability)
        grey = gray(g, x, picture)
        if happens is None:
            return g.Concat(grey, grey, grey, axis=1)
        return g.Where(happens, grey, x)


@AUGMENTATIONS.add
class Invert(Pixelwise):
    """Swap dark and light: low + high - x.

    Example: {type: Invert, probability: 0.2}
    """

    type: Literal["Invert"] = "Invert"
    probability: float = Field(0.5, ge=0.0, le=1.0)
    """Probability that it happens to a sample."""

    def change(self, draws: Draws, x: ir.Value, picture: Picture) -> ir.Value:  # noqa: D102
        g, happens = draws.g, draws.happens(self.probability)
        with g.arithmetic():
            inverted = sum(picture.span()) - x
        return inverted if happens is None else g.Where(happens, inverted, x)
