"""Operations that move places."""

import math
from typing import Annotated, ClassVar, Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field, ValidationInfo, field_validator

from netc.augment.base import AUGMENTATIONS, AugmentError, Bordered, Draws, Geometric, Span, ends, gaussian_rows
from netc.declared import Integers, mistake


@AUGMENTATIONS.add
class HorizontalFlip(Geometric):
    """Mirror left and right.

    Example: {type: HorizontalFlip}
    """

    type: Literal["HorizontalFlip"] = "HorizontalFlip"
    probability: float = Field(0.5, ge=0.0, le=1.0)
    """Probability that it happens to a sample."""

    exact: ClassVar[bool] = True

    def source(  # noqa: D102
        self, draws: Draws, y: ir.Value, x: ir.Value, size: tuple[int, int]
    ) -> tuple[ir.Value, ir.Value]:
        return y, _mirrored(draws, x, size[1], self.probability)


@AUGMENTATIONS.add
class VerticalFlip(Geometric):
    """Mirror top and bottom.

    Example: {type: VerticalFlip}
    """

    type: Literal["VerticalFlip"] = "VerticalFlip"
    probability: float = Field(0.5, ge=0.0, le=1.0)
    """Probability that it happens to a sample."""

    exact: ClassVar[bool] = True

    def source(  # noqa: D102
        self, draws: Draws, y: ir.Value, x: ir.Value, size: tuple[int, int]
    ) -> tuple[ir.Value, ir.Value]:
        return _mirrored(draws, y, size[0], self.probability), x


def _mirrored(draws: Draws, places: ir.Value, size: int, probability: float) -> ir.Value:
    """Return places counted from the other end where the operation happens."""
    g, happens = draws.g, draws.happens(probability)
    with g.arithmetic():
        mirrored = float(size - 1) - places
    return mirrored if happens is None else g.Where(happens, mirrored, places)


@AUGMENTATIONS.add
class PadCrop(Bordered):
    """Pad all sides by `pad` pixels and cut the first size out again at a random place (He et al., 2016, section 4.2).

    Each of the (2 pad + 1)^2 places is equally likely.

    Example: {type: PadCrop, pad: 4}
    """

    type: Literal["PadCrop"] = "PadCrop"
    pad: Annotated[Integers, Field(min_length=1, max_length=2)]
    """Pixels on each side: one number, or that of height and that of width."""

    exact: ClassVar[bool] = True

    @field_validator("pad")
    @classmethod
    def _not_negative(cls, pad: list[int]) -> list[int]:
        if min(pad) < 0:
            raise mistake(f"pad: must be at least 0, got {min(pad)}")
        return pad

    def source(  # noqa: D102
        self, draws: Draws, y: ir.Value, x: ir.Value, size: tuple[int, int]
    ) -> tuple[ir.Value, ir.Value]:
        moved: list[ir.Value] = []
        for what, places, side, pad in zip("yx", (y, x), size, (self.pad * 2)[:2], strict=True):
            if pad >= side:
                raise AugmentError(f"pad: {pad} is not less than the {side} pixels of that side; lower it", "pad")
            if pad:
                with draws.g.arithmetic():
                    offset = draws.integer(what, 2 * pad + 1) - float(pad)
                    places = places + draws.gated(offset, self.probability)
            moved.append(places)
        return moved[0], moved[1]


@AUGMENTATIONS.add
class RandomResizedCrop(Geometric):
    """Cut out a rectangle of random area and shape, and bring it to the first size (Szegedy et al., 2015, section 6).

    The area is uniform in `area`, the logarithm of width / height uniform in that of `ratio`; sides longer than the
    image are cut to it, where other libraries draw again. Values between pixels are bilinear, without a filter for
    what becomes smaller.

    Example: {type: RandomResizedCrop, area: [0.25, 1.0]}
    """

    type: Literal["RandomResizedCrop"] = "RandomResizedCrop"
    area: Annotated[list[Annotated[float, Field(gt=0.0, le=1.0)]], Field(min_length=2, max_length=2)] = [0.08, 1.0]
    """Smallest and largest share of the image."""
    ratio: Annotated[list[Annotated[float, Field(gt=0.0)]], Field(min_length=2, max_length=2)] = [0.75, 4 / 3]
    """Smallest and largest width / height."""

    @field_validator("area", "ratio")
    @classmethod
    def _ordered(cls, span: list[float], info: ValidationInfo) -> list[float]:
        low, high = span
        if low > high:
            raise mistake(f"{info.field_name}: the smallest, {low:g}, is larger than the largest, {high:g}; swap them")
        return span

    def source(  # noqa: D102
        self, draws: Draws, y: ir.Value, x: ir.Value, size: tuple[int, int]
    ) -> tuple[ir.Value, ir.Value]:
        g, (H, W) = draws.g, size
        area = draws.uniform("area", self.area[0], self.area[1])
        # Half of log(width / height): width is sqrt(area) times exp(half), height is sqrt(area) by it.
        half = draws.uniform("ratio", math.log(self.ratio[0]) / 2, math.log(self.ratio[1]) / 2)
        moved: list[ir.Value] = []
        with g.arithmetic():
            root = g.Sqrt(area * float(H * W))
            for what, places, side, length in (("y", y, H, root * g.Exp(-half)), ("x", x, W, root * g.Exp(half))):
                length = draws.gated(g.Min(length, float(side)), self.probability, float(side))
                first = draws.uniform(what) * (float(side) - length)
                place = first + (places + 0.5) * (length / float(side)) - 0.5
                # Beyond the outermost pixels lies nothing of the image: they reach to its edge.
                moved.append(g.Clip(place, g.constant(0.0), g.constant(float(side - 1))))
        return moved[0], moved[1]


@AUGMENTATIONS.add
class Affine(Bordered):
    """Shear, scale, rotate and translate about the centre, in this order, with bilinear values between pixels.

    Each parameter is uniform in its span; a number stands for as much on both sides of what changes nothing.
    Translations of height and width are drawn apart. Angles are in degrees, a rotation counter-clockwise.

    Example: {type: Affine, rotation: 10, translation: 0.1, scale: [0.9, 1.1], shear: 5}
    """

    type: Literal["Affine"] = "Affine"
    rotation: Span = 0.0
    """Angle in degrees."""
    translation: Span = 0.0
    """Shift as a share of height and of width."""
    scale: Span = 0.0
    """Factor of the size: `[0.9, 1.1]`, or 0.1 for the same."""
    shear: Span = 0.0
    """Angle by which vertical lines lean, in degrees."""

    @field_validator("scale")
    @classmethod
    def _positive(cls, scale: float | list[float]) -> float | list[float]:
        if ends(scale, 1.0)[0] <= 0.0:
            raise mistake(f"scale: must stay above 0, got {ends(scale, 1.0)[0]:g} as its smallest")
        return scale

    @field_validator("shear")
    @classmethod
    def _below_right_angles(cls, shear: float | list[float]) -> float | list[float]:
        if max(map(abs, ends(shear))) >= 90.0:
            raise mistake(f"shear: must stay within 90 degrees, got {max(map(abs, ends(shear))):g}")
        return shear

    def source(  # noqa: D102
        self, draws: Draws, y: ir.Value, x: ir.Value, size: tuple[int, int]
    ) -> tuple[ir.Value, ir.Value]:
        g, radians = draws.g, math.pi / 180.0
        with g.arithmetic():
            happens = draws.happens(self.probability)

            def drawn(what: str, span: tuple[float, float], neutral: float = 0.0) -> ir.Value:
                value = draws.uniform(what, *span)
                return value if happens is None else g.Where(happens, value, g.constant(neutral))

            turn = drawn("rotation", ends(self.rotation)) * radians
            lean = drawn("shear", ends(self.shear)) * radians
            factor = drawn("scale", ends(self.scale, 1.0), 1.0)
            (cy, cx), spans = ((n - 1) / 2 for n in size), ends(self.translation)
            dy = y - cy - drawn("y", spans) * float(size[0])
            dx = x - cx - drawn("x", spans) * float(size[1])
            # The inverse of rotate(scale(shear(p))), with y downwards.
            cos, sin = g.Cos(turn), g.Sin(turn)
            u = (dx * cos - dy * sin) / factor
            v = (dx * sin + dy * cos) / factor
            return v + cy, u - v * (g.Sin(lean) / g.Cos(lean)) + cx  # CUDA has no kernel of Tan


@AUGMENTATIONS.add
class ElasticDistortion(Bordered):
    """Move every place by a smooth random field (Simard, Steinkraus & Platt, 2003, section 2).

    Both components of the field are U(-1, 1) at each pixel, smoothed by a Gaussian of the standard deviation `sigma`
    (weights at edges sum to 1), times `alpha`. Operations behind it resample its result.

    Example: {type: ElasticDistortion, alpha: 34, sigma: 4}
    """

    type: Literal["ElasticDistortion"] = "ElasticDistortion"
    alpha: float = Field(34.0, ge=0.0)
    """Factor of the smooth field, in pixels."""
    sigma: float = Field(4.0, ge=0.1)
    """Standard deviation of the Gaussian, in pixels."""

    ends_run: ClassVar[bool] = True

    def source(  # noqa: D102
        self, draws: Draws, y: ir.Value, x: ir.Value, size: tuple[int, int]
    ) -> tuple[ir.Value, ir.Value]:
        g, shape = draws.g, [draws.shape[0], *size]
        down, right = (self._smoothing(side) for side in size)
        moved: list[ir.Value] = []
        with g.arithmetic():
            alpha = draws.gated(g.constant(self.alpha), self.probability)
            for what, places in (("y", y), ("x", x)):
                field = draws.uniform(what, -1.0, 1.0, shape)
                smooth = g.MatMul(g.MatMul(g.constant(down, g.dtype), field), g.constant(right.T, g.dtype))
                moved.append(places + smooth * alpha)
        return moved[0], moved[1]

    def _smoothing(self, size: int) -> np.ndarray:
        """Return the matrix [size, size] that smooths a line."""
        weights = np.exp(-gaussian_rows(size) / (2.0 * self.sigma**2))
        smoothing: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
        return smoothing
