"""Pooling layers."""

from typing import Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field

from netc.declared import Integers
from netc.graph import shape_of
from netc.layers.base import LAYERS, MAX_ELEMENTS, Layer, LayerError, elements, one_per_axis, sample, spatial
from netc.layers.context import Context


@LAYERS.add
class Pooling(Layer):
    """Maximum or average over windows, or over whole planes with `global_pooling: true`.

    Input [N, C, ...], output [N, C, ...] with size ceil((n + 2 pad - k) / stride) + 1 as in Caffe, or rounded down with
    `round_mode: floor` as in most other frameworks. Ties of a maximum go to the first element. An average divides by
    the window including padding, but not by what rounding up adds beyond the padding.
    """

    type: Literal["Pooling"] = "Pooling"
    pool: Literal["max", "average"] = "max"
    kernel_size: Integers | None = Field(None, min_length=1)
    stride: Integers = [1]
    pad: Integers = [0]
    round_mode: Literal["ceil", "floor"] = "ceil"
    global_pooling: bool = False

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
