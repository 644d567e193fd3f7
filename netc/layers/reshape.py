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
from netc.layers.shapes import end_of, reshape, sample_axis


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@LAYERS.add
class Flatten(Layer):
    """The axes from `axis` to `end_axis` become one, by default all behind the batch: [N, C, H, W] to [N, C H W].

    Example: {type: Flatten}
    """

    type: Literal["Flatten"] = "Flatten"
    axis: int = 1
    """First axis of those that become one."""
    end_axis: int = -1
    """Last axis of those that become one."""

    passes_rectifier: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        if (self.axis, self.end_axis) == (1, -1):  # also of samples without axes, which become [N, 1]
            return net.g.Flatten(x[0], axis=1)
        first, last = sample_axis(x[0], self.axis), sample_axis(x[0], self.end_axis, "end_axis")
        if first > last:
            raise LayerError(
                f"axis {self.axis} of the input {sample(x[0])} lies behind end_axis {self.end_axis}; exchange them",
                "end_axis",
            )
        size = [int(n) for n in shape_of(x[0])[1:]]
        return reshape(net.g, x[0], [0, *size[: first - 1], math.prod(size[first - 1 : last]), *size[last:]])


@LAYERS.add
class Reshape(Layer):
    """Give every sample another shape of equal size: `shape: [0, -1]`.

    Input [N, ...], output [N, *shape]. In `shape`, 0 copies the axis of the sample at its place, and one -1 takes what
    the others leave over. The batch is not part of it.

    To replace only some axes, `shape` stands for `num_axes` of them from `axis` on, and the others stay. A negative
    `axis` counts from behind the last: with `axis: -1` and `num_axes: 0`, `shape: 1` appends an axis of size 1 (Caffe).

    Example: {type: Reshape, shape: [0, -1]}
    """

    type: Literal["Reshape"] = "Reshape"
    shape: Integers = Field(min_length=1)
    """The new sizes; 0 copies one, -1 takes what is left."""
    axis: int = 1
    """First axis that is replaced."""
    num_axes: int = Field(-1, ge=-1)
    """Number of axes that are replaced; -1: all from axis on."""

    passes_rectifier: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        rank = len(shape_of(x[0]))
        first = self.axis + rank + 1 if self.axis < 0 else self.axis
        if not 1 <= first <= rank:
            raise LayerError(
                f"axis {self.axis} is no place in a sample {sample(x[0])}; 1 is its front and -1 its end", "axis"
            )
        last = end_of(x[0], first, self.num_axes)
        lead, have, tail = ([int(n) for n in shape_of(x[0])[i:j]] for i, j in ((1, first), (first, last), (last, rank)))
        if min(self.shape) < -1 or self.shape.count(-1) > 1:
            raise LayerError(f"shape {self.shape} takes sizes, 0 to copy one, and at most one -1", "shape")
        replaced = "x".join(map(str, have)) or "none"
        if any(n == 0 and i >= len(have) for i, n in enumerate(self.shape)):
            raise LayerError(
                f"shape {self.shape} copies an axis with 0 that is not among those it replaces, {replaced}", "shape"
            )
        want = [have[i] if n == 0 else n for i, n in enumerate(self.shape)]
        size, given = math.prod(have), math.prod(n for n in want if n != -1)
        if size % given if -1 in want else size != given:
            raise LayerError(
                f"shape {self.shape} does not hold the {size} values of the axes that it replaces, {replaced}; "
                "the batch axis stays and is not part of it",
                "shape",
            )
        return reshape(net.g, x[0], [0, *lead, *(size // given if n == -1 else n for n in want), *tail])


@LAYERS.add
class Permute(Layer):
    """Put the axes into another order: top axis i is bottom axis `order[i]`.

    `order` begins with 0, the batch; axes that it does not name follow as they are, as in SSD.

    Example: {type: Permute, order: [0, 2, 3, 1]}
    """

    type: Literal["Permute"] = "Permute"
    order: Integers = Field(min_length=1)
    """Axes of the input in their new order, the batch first."""

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
    """Surround every plane with `pad` cells, one width or one an axis; `pad_end`, where given, is that of the far side.

    Input [N, C, ...], output [N, C, ...] with size n + pad + pad_end. The cells hold `value`, or with `mode: edge` the
    nearest element, or with `mode: reflect` the plane mirrored at its outermost elements, which are not repeated.

    Example: {type: Pad, pad: 2, mode: reflect}
    """

    type: Literal["Pad"] = "Pad"
    pad: Integers = Field(min_length=1)
    """Cells on each side, one number or one for each spatial axis."""
    pad_end: Integers | None = Field(None, min_length=1)
    """Cells on the far side, where they differ."""
    mode: Literal["constant", "edge", "reflect"] = "constant"
    """What the cells hold."""
    value: float = Field(0.0, allow_inf_nan=False)
    """What the cells hold with mode constant."""

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        size = spatial(x[0], self)
        begin = one_per_axis(self.pad, len(size), "pad", minimum=0)
        end = begin if self.pad_end is None else one_per_axis(self.pad_end, len(size), "pad_end", minimum=0)
        if self.mode != "constant" and self.value:
            raise LayerError(f"mode: {self.mode} repeats elements of the input; remove value", "value")
        for field, cells in (("pad", begin), ("pad_end", end)):
            for width, n in zip(cells, size, strict=True):
                if self.mode == "reflect" and width >= n:
                    raise LayerError(
                        f"{field} {width} must be smaller than the size {n} that mode: reflect mirrors in the input "
                        f"{sample(x[0])}; lower it, or use mode: edge",
                        field,
                    )
        outs = [n + b + e for n, b, e in zip(size, begin, end, strict=True)]
        if elements([*shape_of(x[0])[:2], *outs]) > MAX_ELEMENTS:
            raise LayerError(
                f"pad {max(begin + end)} makes the output larger than {MAX_ELEMENTS:,} numbers",
                "pad" if max(begin) >= max(end) else "pad_end",
            )
        widths = _ints(0, 0, *begin, 0, 0, *end)
        if self.mode != "constant":
            return net.g.Pad(x[0], widths, mode=self.mode)
        return net.g.Pad(x[0], widths, self.value) if self.value else net.g.Pad(x[0], widths)


@LAYERS.add
class Tile(Layer):
    """Repeat the whole input `tiles` times along `axis`, the channels by default.

    Example: {type: Tile, tiles: 2}
    """

    type: Literal["Tile"] = "Tile"
    axis: int = 1
    """The axis; 1 is the channels, negative ones count from the end."""
    tiles: int = Field(gt=0)
    """Number of copies."""

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
class Slice(Layer):
    """Cut the input along `axis` into several tops: `top: [a, b]`.

    The cuts are before the positions in `slice_point`, one fewer than tops; without it all tops are equally large.
    Later layers name a top as their bottom.

    Example:
        - {type: Slice, top: [upper, lower], axis: 2}
        - {type: Eltwise, bottom: [upper, lower]}
    """

    type: Literal["Slice"] = "Slice"
    top: Annotated[list[Name], OneOrMore] = Field(min_length=2)
    """Names of the tops."""
    axis: int = 1
    """The axis; 1 is the channels, negative ones count from the end."""
    slice_point: Integers = []
    """Positions before which the input is cut."""

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
