"""Geometric operations in a row as one resampling.

Each says where a place comes from, so that a row of them is one function from places of the result to places of the
image, and each value is read once. Whole pixels are picked by their index; else GridSample computes between pixels.
What one operation moves out of the image and the next one back in is therefore still there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from netc.augment.base import Border
from netc.graph import GraphBuilder, shape_of
from netc.layers.shapes import reshape

# How GridSample calls the borders; its corners are the centres of the outermost pixels, about which it then mirrors.
_PADDING = {"constant": "zeros", "edge": "border", "reflect": "reflection"}


@dataclass(frozen=True)
class Warp:
    """Where the places of a result come from: y and x in pixels, each broadcasting to [N, H, W]."""

    g: GraphBuilder
    y: ir.Value
    x: ir.Value
    size: tuple[int, int]
    exact: bool
    border: Border | None

    def apply(self, value: ir.Value, fill: float, nearest: bool) -> ir.Value:
        """Return a value [N, ..., H, W] resampled: between pixels, or to the nearest one."""
        shape = [int(n) for n in shape_of(value)]
        is_image = len(shape) == 4
        planes = value if is_image else reshape(self.g, value, [shape[0], -1, *self.size])
        moved = self._picked(planes, fill) if self.exact else self._sampled(planes, fill, nearest)
        return moved if is_image else reshape(self.g, moved, shape)

    def _picked(self, x: ir.Value, fill: float) -> ir.Value:
        """Return the pixels of x [N, P, H, W] at whole places."""
        g, (N, P, H, W) = self.g, (int(n) for n in shape_of(x))
        rows, columns = self._inside(self.y, H), self._inside(self.x, W)
        of_planes = (np.arange(N * P, dtype=np.int32) * (H * W)).reshape(N, P, 1, 1)
        with g.arithmetic():
            places = self._index(rows) * g.constant(np.array(W, np.int32)) + self._index(columns)
            index = g.Unsqueeze(places, np.array([1])) + g.constant(of_planes)
        flat = reshape(g, g.Expand(index, np.array([N, P, H, W])), [-1])
        picked = reshape(g, g.GatherElements(reshape(g, x, [-1]), flat, axis=0), [N, P, H, W])
        if self.border != "constant":
            return picked
        seen = g.And(self._is_inside(self.y, H), self._is_inside(self.x, W))
        return g.Where(g.Unsqueeze(seen, np.array([1])), picked, g.constant(fill, x.dtype))

    def _index(self, places: ir.Value) -> ir.Value:
        return self.g.Cast(places, to=ir.DataType.INT32)

    def _inside(self, places: ir.Value, size: int) -> ir.Value:
        """Return places of the image: mirrored at its edges, or else the nearest ones."""
        g = self.g
        if self.border is None:
            return places
        with g.arithmetic():
            if self.border == "reflect" and size > 1:
                period = 2.0 * (size - 1)  # there and back
                places = places - period * g.Floor(places / period)
                places = float(size - 1) - g.Abs(float(size - 1) - places)
        return g.Clip(places, g.constant(0.0), g.constant(float(size - 1)))

    def _is_inside(self, places: ir.Value, size: int) -> ir.Value:
        g = self.g
        return g.And(g.GreaterOrEqual(places, g.constant(0.0)), g.Less(places, g.constant(float(size))))

    def _sampled(self, x: ir.Value, fill: float, nearest: bool) -> ir.Value:
        """Return x [N, P, H, W] between pixels, or at the nearest ones."""
        g, dtype = self.g, x.dtype
        x = x if dtype == g.dtype else g.Cast(x, to=g.dtype)
        N = int(shape_of(x)[0])
        with g.arithmetic():
            axes = [  # -1 and 1 are the centres of the outermost pixels
                g.Expand(places * (2.0 / max(size - 1, 1)) - 1.0, np.array([N, *self.size]))
                for places, size in zip((self.x, self.y), reversed(self.size), strict=True)
            ]
            grid = g.Concat(*(g.Unsqueeze(axis, np.array([3])) for axis in axes), axis=3)
            filled = self.border == "constant" and fill != 0.0  # GridSample knows of zeros alone
            sampled = g.GridSample(
                x - fill if filled else x,
                grid,
                mode="nearest" if nearest else "bilinear",
                padding_mode=_PADDING[self.border or "edge"],
                align_corners=1,
            )
            sampled = sampled + fill if filled else sampled
        return sampled if dtype == g.dtype else g.Cast(sampled, to=dtype)


def places(g: GraphBuilder, size: Sequence[int]) -> tuple[ir.Value, ir.Value]:
    """Return the row and the column of every place: [1, H, 1] and [1, 1, W]."""
    H, W = size
    return (
        g.constant(np.arange(H).reshape(1, H, 1), g.dtype),
        g.constant(np.arange(W).reshape(1, 1, W), g.dtype),
    )
