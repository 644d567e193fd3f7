"""Operations that mix each sample with the next one of its batch, and their labels with it."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field

from netc.augment.base import AUGMENTATIONS, Draws, Operation
from netc.graph import GraphBuilder, shape_of

_STEPS = 4096  # equally likely shares that a Beta distribution is drawn from


@dataclass(frozen=True)
class Box:
    """A rectangle of the image, the same one for all samples: a mask [H, W], true inside."""

    mask: ir.Value
    size: tuple[int, int]


class Mixing(Operation):
    """What Mixup and CutMix have in common.

    A sample is mixed with the next one of its batch, the last with the first; batches are drawn at random, so that this
    pairs at random. One share, and one rectangle, is drawn for each batch. A loss that reads labels is then
    share * loss(labels) + (1 - share) * loss(labels of the next samples), and metrics of the training batch take the
    labels with the larger share. Stands behind all other operations; of two, the second mixes what the first gave.
    """

    probability: float = Field(1.0, ge=0.0, le=1.0)
    """Probability that it happens to a batch."""
    alpha: float = Field(1.0, ge=0.05, le=100.0)
    """Both parameters of the Beta distribution that the share is drawn from; 1 is uniform."""

    def drawn_share(self, draws: Draws) -> ir.Value:
        """Return the share of the sample itself, a scalar."""
        g = draws.g
        if self.alpha == 1.0:
            share = draws.uniform("share", shape=())
        else:
            table = g.constant(beta_quantiles(self.alpha, _STEPS), g.dtype)
            with g.arithmetic():
                index = g.Cast(draws.uniform("share", 0.0, float(_STEPS), ()), to=ir.DataType.INT32)
            share = g.Gather(table, index)
        return draws.gated(share, self.probability, 1.0)

    @abstractmethod
    def plan(self, draws: Draws, size: tuple[int, int]) -> tuple[ir.Value, Box | None]:
        """Return the share of the sample itself, and the rectangle that the next one fills, if one does."""


@AUGMENTATIONS.add
class Mixup(Mixing):
    """Add each sample and the next one of the batch, weighted by a share and the rest (Zhang et al., 2018).

    Inputs of numbers are added in the same way, dense labels weighted like others.

    Example: {type: Mixup, alpha: 0.2}
    """

    type: Literal["Mixup"] = "Mixup"
    alpha: float = Field(0.2, ge=0.05, le=100.0)
    """Both parameters of the Beta distribution that the share is drawn from; 1 is uniform."""

    def plan(self, draws: Draws, size: tuple[int, int]) -> tuple[ir.Value, Box | None]:  # noqa: D102
        return self.drawn_share(draws), None


@AUGMENTATIONS.add
class CutMix(Mixing):
    """Put a rectangle of the next sample of the batch into each sample (Yun et al., 2019).

    Its sides are those of the image times sqrt(1 - share), its centre any pixel; labels weigh by the area that is
    left of it inside the image. In dense labels, and in inputs of numbers of the image's size, the same rectangle is
    put; other numbers are added, weighted by the area.

    Example: {type: CutMix}
    """

    type: Literal["CutMix"] = "CutMix"

    def plan(self, draws: Draws, size: tuple[int, int]) -> tuple[ir.Value, Box | None]:  # noqa: D102
        g = draws.g
        mask: ir.Value | None = None
        with g.arithmetic():
            ratio = g.Sqrt(1.0 - self.drawn_share(draws))
            area = g.constant(1.0 / (size[0] * size[1]))
            for what, side, shape in (("y", size[0], (-1, 1)), ("x", size[1], (1, -1))):
                half = g.Floor(g.Floor(ratio * float(side)) * 0.5)
                middle = g.Floor(draws.uniform(what, 0.0, float(side), ()))
                first, end = (g.Clip(edge, 0.0, float(side)) for edge in (middle - half, middle + half))
                places = g.constant(np.arange(side).reshape(shape), g.dtype)
                within = g.And(g.GreaterOrEqual(places, first), g.Less(places, end))
                mask = within if mask is None else g.And(mask, within)
                area = (end - first) * area
            assert mask is not None, "there are two sides"
            return 1.0 - area, Box(mask, size)


def next_samples(g: GraphBuilder, x: ir.Value) -> ir.Value:
    """Return for each sample of a batch the next one, for the last the first."""
    count, batch = int(shape_of(x)[0]), np.array([0])
    rest, first = g.Slice(x, np.array([1]), np.array([count]), batch), g.Slice(x, np.array([0]), np.array([1]), batch)
    return g.Concat(rest, first, axis=0)


def beta_quantiles(alpha: float, steps: int) -> np.ndarray:
    """Return the quantiles (k + 0.5) / steps of the distribution Beta(alpha, alpha), [steps] in float64.

    With t = x^alpha, x^(alpha - 1) (1 - x)^(alpha - 1) dx is (1 - t^(1 / alpha))^(alpha - 1) dt / alpha, whose density
    is smooth on the lower half x <= 1/2; the upper half is its mirror image.
    """
    t = np.linspace(0.0, 0.5**alpha, 1 << 16)
    density = (1.0 - t ** (1.0 / alpha)) ** (alpha - 1.0)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2.0)])
    wanted = (np.arange(steps // 2) + 0.5) / steps
    lower = np.interp(wanted, below / below[-1] / 2.0, t) ** (1.0 / alpha)
    return np.concatenate([lower, 1.0 - lower[::-1]])
