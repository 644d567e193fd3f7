"""Layers that view, order, cut or repeat what they read, without computing with it."""

import itertools
import math
from typing import Annotated, ClassVar, Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field

from netc.declared import Integers, OneOrMore
from netc.graph import shape_of
from netc.layers.base import LAYERS, MAX_ELEMENTS, Layer, LayerError, Name, elements, one_per_axis, sample, spatial
from netc.layers.context import Context
from netc.layers.shapes import reshape, sample_axis


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@LAYERS.add
class Flatten(Layer):
    """All axes behind the batch become one: [N, C, H, W] to [N, C H W]."""

    type: Literal["Flatten"] = "Flatten"
    passes_rectifier: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        return net.g.Flatten(x[0], axis=1)


@LAYERS.add
class Reshape(Layer):
    """Give every sample another shape of equal size: `shape: [0, -1]`.

    Input [N, ...], output [N, *shape]. In `shape`, 0 copies the axis of the sample at its place, and one -1 takes what
    the others leave over. The batch is not part of it.
    """

    type: Literal["Reshape"] = "Reshape"
    shape: Integers = Field(min_length=1)

    passes_rectifier: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        have = [int(n) for n in shape_of(x[0])[1:]]
        if min(self.shape) < -1 or self.shape.count(-1) > 1:
            raise LayerError(f"shape {self.shape} takes sizes, 0 to copy one, and at most one -1", "shape")
        if any(n == 0 and i >= len(have) for i, n in enumerate(self.shape)):
            raise LayerError(
                f"shape {self.shape} copies an axis with 0 that the input {sample(x[0])} does not have", "shape"
            )
        want = [have[i] if n == 0 else n for i, n in enumerate(self.shape)]
        size, given = math.prod(have), math.prod(n for n in want if n != -1)
        if size % given if -1 in want else size != given:
            raise LayerError(
                f"shape {self.shape} does not hold the {size} values of the input {sample(x[0])}; the batch axis "
                "stays and is not part of it",
                "shape",
            )
        return reshape(net.g, x[0], [0, *(size // given if n == -1 else n for n in want)])


@LAYERS.add
class Permute(Layer):
    """Put the axes into another order: top axis i is bottom axis `order[i]`.

    `order` begins with 0, the batch; axes that it does not name follow as they are, as in SSD.
    """

    type: Literal["Permute"] = "Permute"
    order: Integers = Field(min_length=1)

    passes_rectifier: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        rank = len(shape_of(x[0]))
        order = [*self.order, *(axis for axis in range(rank) if axis not in self.order)]
        if self.order[0] != 0:
            raise LayerError(f"order {self.order} must begin with 0: the batch stays first", "order")
        if sorted(order) != list(range(rank)):
            raise LayerError(
                f"order {self.order} does not name axes of the input {sample(x[0])}, once each, from 1 to {rank - 1}",
                "order",
            )
        return net.g.Transpose(x[0], perm=order)


@LAYERS.add
class Pad(Layer):
    """Surround every plane with `pad` cells of `value`, one width or one an axis.

    Input [N, C, ...], output [N, C, ...] with size n + 2 pad.
    """

    type: Literal["Pad"] = "Pad"
    pad: Integers = Field(min_length=1)
    value: float = Field(0.0, allow_inf_nan=False)

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        size = spatial(x[0], self)
        pad = one_per_axis(self.pad, len(size), "pad", minimum=0)
        outs = [n + 2 * p for n, p in zip(size, pad, strict=True)]
        if elements([*shape_of(x[0])[:2], *outs]) > MAX_ELEMENTS:
            raise LayerError(f"pad {max(pad)} makes the output larger than {MAX_ELEMENTS:,} numbers", "pad")
        widths = _ints(0, 0, *pad, 0, 0, *pad)
        return net.g.Pad(x[0], widths, self.value) if self.value else net.g.Pad(x[0], widths)


@LAYERS.add
class Tile(Layer):
    """Repeat the whole input `tiles` times along `axis`, the channels by default."""

    type: Literal["Tile"] = "Tile"
    axis: int = 1
    tiles: int = Field(gt=0)

    passes_rectifier: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        axis, size = sample_axis(x[0], self.axis), [0, *(int(n) for n in shape_of(x[0])[1:])]
        if elements(shape_of(x[0])) * self.tiles > MAX_ELEMENTS:
            raise LayerError(f"tiles {self.tiles} makes the output larger than {MAX_ELEMENTS:,} numbers", "tiles")
        # Not Tile: the standard's inference would lose a batch of any size.
        one = reshape(net.g, x[0], [*size[:axis], 1, *size[axis:]])
        copies = net.g.Expand(one, _ints(*(self.tiles if i == axis else 1 for i in range(len(size) + 1))))
        return reshape(net.g, copies, [*size[:axis], self.tiles * size[axis], *size[axis + 1 :]])


@LAYERS.add
class Crop(Layer):
    """Cut the first bottom to the size of the second along `axis` and all axes behind it, from `offset` on.

    `offset` is one number, or one for each axis that is cut. No gradient reaches the second bottom.
    """

    type: Literal["Crop"] = "Crop"
    axis: int = 2
    offset: Integers = [0]

    min_bottoms: ClassVar[int] = 2
    max_bottoms: ClassVar[int | None] = 2
    passes_rectifier: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        have, want = shape_of(x[0]), shape_of(x[1])
        axis = sample_axis(x[0], self.axis)
        if len(have) != len(want):
            raise LayerError(f"bottoms have different numbers of axes: {sample(x[0])} and {sample(x[1])}", "bottom")
        cut = len(have) - axis
        if len(self.offset) not in (1, cut):
            raise LayerError(
                f"offset: needs 1 or {cut} numbers for the axes from {self.axis} on, got {len(self.offset)}", "offset"
            )
        starts = self.offset * cut if len(self.offset) == 1 else self.offset
        ends = [start + int(n) for start, n in zip(starts, want[axis:], strict=True)]
        if min(starts) < 0 or any(end > int(n) for end, n in zip(ends, have[axis:], strict=True)):
            raise LayerError(
                f"offset {self.offset} and the size {sample(x[1])} reach outside the input {sample(x[0])}", "offset"
            )
        return net.g.Slice(x[0], _ints(*starts), _ints(*ends), _ints(*range(axis, len(have))))


@LAYERS.add
class Slice(Layer):
    """Cut the input along `axis` into several tops: `top: [a, b]`.

    The cuts are before the positions in `slice_point`, one fewer than tops; without it all tops are equally large.
    Later layers name a top as their bottom.
    """

    type: Literal["Slice"] = "Slice"
    top: Annotated[list[Name], OneOrMore] = Field(min_length=2)
    axis: int = 1
    slice_point: Integers = []

    passes_rectifier: ClassVar[bool] = True

    @property
    def tops(self) -> list[str]:
        """Names of the tops, as the user gives them."""
        return self.top

    def lower(self, net: Context, *x: ir.Value) -> list[ir.Value]:  # noqa: D102
        axis, count = sample_axis(x[0], self.axis), len(self.top)
        size = int(shape_of(x[0])[axis])
        if not self.slice_point and size % count:
            raise LayerError(
                f"axis {self.axis} of the input {sample(x[0])} cannot be cut into {count} equal tops; give slice_point",
                "top",
            )
        if self.slice_point and len(self.slice_point) != count - 1:
            raise LayerError(
                f"slice_point: {count} tops need {count - 1} {'cut' if count == 2 else 'cuts'}, "
                f"got {len(self.slice_point)}",
                "slice_point",
            )
        bounds = [0, *(self.slice_point or range(size // count, size, size // count)), size]
        if any(low >= high for low, high in itertools.pairwise(bounds)):
            raise LayerError(
                f"slice_point {self.slice_point} must rise between 0 and {size}, the size of axis {self.axis}",
                "slice_point",
            )
        return [net.g.Slice(x[0], _ints(low), _ints(high), _ints(axis)) for low, high in itertools.pairwise(bounds)]
