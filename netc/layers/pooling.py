"""Pooling layers, and upsampling, their counterpart."""

import math
from typing import Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field

from netc.declared import Integers
from netc.graph import shape_of
from netc.layers.base import (
    LAYERS,
    MAX_CONSTANT,
    MAX_ELEMENTS,
    Layer,
    LayerError,
    elements,
    one_per_axis,
    sample,
    spatial,
)
from netc.layers.context import Context
from netc.layers.fillers import bilinear_kernel
from netc.layers.shapes import reshape


@LAYERS.add
class Pooling(Layer):
    """Maximum or average over windows, or over whole planes with `global_pooling: true`.

    Input [N, C, ...], output [N, C, ...] with size ceil((n + 2 pad - k) / stride) + 1 as in Caffe, or rounded down with
    `round_mode: floor` as in most other frameworks. Ties of a maximum go to the first element. An average divides by
    the window including padding, but not by what rounding up adds beyond the padding.

    Example: {type: Pooling, pool: max, kernel_size: 2, stride: 2}
    """

    type: Literal["Pooling"] = "Pooling"
    pool: Literal["max", "average"] = "max"
    """What a window gives."""
    kernel_size: Integers | None = Field(None, min_length=1)
    """Size of the window, one number or one for each spatial axis."""
    stride: Integers = [1]
    """Step between neighbouring windows, one number or one for each spatial axis."""
    pad: Integers = [0]
    """Cells on each side, one number or one for each spatial axis."""
    round_mode: Literal["ceil", "floor"] = "ceil"
    """How the number of windows is rounded."""
    global_pooling: bool = False
    """Whether there is one window, the whole plane."""

    passes_rectifier = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        size = spatial(x[0], self)
        axes = len(size)
        if self.global_pooling:
            return self._global(net, x[0], size)
        if self.kernel_size is None:
            raise LayerError("Pooling needs kernel_size, or global_pooling: true")
        kernel = one_per_axis(self.kernel_size, axes, "kernel_size", minimum=1)
        stride = one_per_axis(self.stride, axes, "stride", minimum=1)
        pad = one_per_axis(self.pad, axes, "pad", minimum=0)
        padded_size = [n + 2 * p for n, p in zip(size, pad, strict=True)]
        if elements([*shape_of(x[0])[:2], *padded_size]) > MAX_ELEMENTS:
            raise LayerError(f"pad {max(pad)} makes the padded input larger than {MAX_ELEMENTS:,} numbers", "pad")
        outs = [self._out(*geometry, x[0]) for geometry in zip(size, kernel, stride, pad, strict=True)]
        # The end padding that makes floor division give the wanted size, whatever the runtime thinks of ceil_mode.
        needed = [(o - 1) * s + k - n - p for o, s, k, n, p in zip(outs, stride, kernel, size, pad, strict=True)]
        if self.pool == "max":
            ends = [max(0, e) for e in needed]
            return net.g.MaxPool(x[0], kernel_shape=kernel, strides=stride, pads=pad + ends)
        if math.prod(kernel) > MAX_CONSTANT:
            raise LayerError(
                f"kernel_size {max(kernel)} averages {math.prod(kernel):,} numbers, more than {MAX_CONSTANT:,}; use a "
                "smaller one, or global_pooling",
                "kernel_size",
            )
        padded = net.g.Pad(x[0], np.array([0, 0, *pad, 0, 0, *pad], np.int64)) if any(pad) else x[0]
        ends = [max(0, e - p) for e, p in zip(needed, pad, strict=True)]
        return net.g.AveragePool(
            padded, kernel_shape=kernel, strides=stride, pads=[0] * axes + ends, count_include_pad=0
        )

    def _global(self, net: Context, x: ir.Value, size: list[int]) -> ir.Value:
        for field, default in (("kernel_size", None), ("stride", [1]), ("pad", [0])):
            if getattr(self, field) != default:
                raise LayerError(f"global_pooling takes the whole plane; remove {field}", field)
        if self.pool == "average":
            return net.g.GlobalAveragePool(x)
        return net.g.MaxPool(x, kernel_shape=size, strides=[1] * len(size))

    def _out(self, n: int, k: int, s: int, p: int, x: ir.Value) -> int:
        """Return the number of windows along one axis."""
        if k > n + 2 * p:
            raise LayerError(
                f"kernel_size {k} is larger than the input {sample(x)} with pad {p}; "
                "use a smaller kernel, more padding or less pooling before it",
                "kernel_size",
            )
        if p >= k:
            raise LayerError(f"pad {p} must be smaller than kernel_size {k}: a window would see padding only", "pad")
        span = n + 2 * p - k
        out = (-(-span // s) if self.round_mode == "ceil" else span // s) + 1
        if p and (out - 1) * s >= n + p:
            out -= 1
        if (out - 1) * s >= n + p:
            raise LayerError(
                f"stride {s} with kernel_size {k} leaves the last window outside the input {sample(x)}; "
                "use round_mode: floor",
                "stride",
            )
        return out


@LAYERS.add
class SPP(Layer):
    """Spatial pyramid pooling: at each level l < pyramid_height, 2^l windows along each axis (He et al., 2014).

    Input [N, C, ...], output [N, C * (1 + 2^d + 4^d + ...)] for d spatial axes: the levels, flattened, one behind the
    other. Level l pools with b = 2^l, kernel and stride k = ceil(n / b) and pad floor((k b - n + 1) / 2), as in Caffe.

    Example: {type: SPP, pyramid_height: 3}
    """

    type: Literal["SPP"] = "SPP"
    pyramid_height: int = Field(gt=0, le=16)
    """Number of levels."""
    pool: Literal["max", "average"] = "max"
    """What a window gives."""

    passes_rectifier = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        size, levels = spatial(x[0], self), []
        for level in range(self.pyramid_height):
            bins = 2**level
            kernel = [math.ceil(n / bins) for n in size]
            pad = [(k * bins - n + 1) // 2 for k, n in zip(kernel, size, strict=True)]
            if any(p >= k for p, k in zip(pad, kernel, strict=True)):
                raise LayerError(
                    f"pyramid_height {self.pyramid_height} divides the input {sample(x[0])} into {bins} windows along "
                    f"an axis, some of which would see padding only; use {level}, or a larger input",
                    "pyramid_height",
                )
            pooling = Pooling(pool=self.pool, kernel_size=kernel, stride=kernel, pad=pad)
            levels.append(net.g.Flatten(pooling.lower(net, x[0]), axis=1))
        return net.g.Concat(*levels, axis=1) if len(levels) > 1 else levels[0]


@LAYERS.add
class Upsample(Layer):
    """Enlarge every plane by `scale`, one factor or one an axis: repeat elements, or interpolate between them.

    Input [N, C, ...], output [N, C, ...] with size scale * n. `bilinear` is linear along every axis, with elements
    as the centres of cells and the border repeated outside (half-pixel, as in most frameworks).

    Example: {type: Upsample, scale: 2, mode: bilinear}
    """

    type: Literal["Upsample"] = "Upsample"
    scale: Integers = Field(min_length=1)
    """Factor of every spatial axis, one number or one for each."""
    mode: Literal["nearest", "bilinear"] = "nearest"
    """Whether elements are repeated or interpolated."""

    passes_rectifier = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        size = spatial(x[0], self)
        scale = one_per_axis(self.scale, len(size), "scale", minimum=1)
        outs = [n * s for n, s in zip(size, scale, strict=True)]
        if elements([*shape_of(x[0])[:2], *outs]) > MAX_ELEMENTS:
            raise LayerError(f"scale {max(scale)} makes the output larger than {MAX_ELEMENTS:,} numbers", "scale")
        if self.mode == "bilinear":
            return self._interpolate(net, x[0], size, scale)
        channels = int(shape_of(x[0])[1])
        cells = reshape(net.g, x[0], [0, channels, *(m for n in size for m in (n, 1))])
        copies = net.g.Expand(cells, np.array([1, 1, *(m for s in scale for m in (1, s))], np.int64))
        return reshape(net.g, copies, [0, channels, *outs])

    def _interpolate(self, net: Context, x: ir.Value, size: list[int], scale: list[int]) -> ir.Value:
        """Spread each element with a bilinear kernel, one repeated border element on each side, cut off again."""
        g, channels = net.g, int(shape_of(x)[1])
        for axis, n in enumerate(size, start=2):
            ends = [g.Slice(x, *(np.array([v], np.int64) for v in (i, i + 1, axis))) for i in (0, n - 1)]
            x = g.Concat(ends[0], x, ends[1], axis=axis)
        kernel = [2 * s - s % 2 for s in scale]
        pads = [s // 2 + s for s in scale]
        if channels * math.prod(kernel) > MAX_CONSTANT:
            raise LayerError(
                f"scale {max(scale)} makes mode: bilinear a kernel of {channels * math.prod(kernel):,} numbers for "
                f"{channels:,} channels, more than {MAX_CONSTANT:,}; lower it, or use mode: nearest",
                "scale",
            )
        spread = np.broadcast_to(bilinear_kernel(kernel), [channels, 1, *kernel]).astype(g.dtype.numpy())
        return g.ConvTranspose(
            x, g.constant(spread), kernel_shape=kernel, strides=scale, pads=pads + pads, group=channels
        )
