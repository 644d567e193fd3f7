"""Layers that are linear in their input: convolutions, inner product and embedding."""

from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field

from netc.declared import Integers
from netc.graph import shape_of
from netc.layers.base import (
    LAYERS,
    MAX_ELEMENTS,
    Layer,
    LayerError,
    elements,
    one_per_axis,
    sample,
    spatial,
)
from netc.layers.context import Context
from netc.layers.fillers import AnyFiller, Constant
from netc.layers.shapes import reshape, sample_axis


@LAYERS.add
class Convolution(Layer):
    """Cross-correlation with learned kernels, in one, two or three dimensions.

    Input [N, C, ...], output [N, num_output, ...] with size floor((n + 2 pad - dilation (k - 1) - 1) / stride) + 1.
    Parameters: weight [num_output, C / group, k, ...], bias [num_output].
    """

    type: Literal["Convolution"] = "Convolution"
    num_output: int = Field(gt=0)
    kernel_size: Integers = Field(min_length=1)
    stride: Integers = [1]
    pad: Integers = [0]
    dilation: Integers = [1]
    group: int = Field(1, gt=0)
    bias_term: bool = True
    weight_filler: AnyFiller | None = None
    bias_filler: AnyFiller = Constant()

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        size, channels = spatial(x[0], self), int(shape_of(x[0])[1])
        axes = len(size)
        kernel = one_per_axis(self.kernel_size, axes, "kernel_size", minimum=1)
        stride = one_per_axis(self.stride, axes, "stride", minimum=1)
        pad = one_per_axis(self.pad, axes, "pad", minimum=0)
        dilation = one_per_axis(self.dilation, axes, "dilation", minimum=1)
        for n, k, p, d, s in zip(size, kernel, pad, dilation, stride, strict=True):
            if d * (k - 1) + 1 > n + 2 * p:
                reach = f"{k}" if d == 1 else f"{k} with dilation {d} (reach {d * (k - 1) + 1})"
                raise LayerError(
                    f"kernel_size {reach} is larger than the input {sample(x[0])} with pad {p}; "
                    "use a smaller kernel, more padding or less pooling before it",
                    "kernel_size",
                )
            if (n + 2 * p - d * (k - 1) - 1) // s * s + d * (k - 1) + 1 <= p:
                raise LayerError(
                    f"with pad {p} and stride {s} no window meets the input {sample(x[0])}; lower pad", "pad"
                )
        for count, what in ((channels, "the number of input channels"), (self.num_output, "num_output")):
            if count % self.group:
                raise LayerError(f"group {self.group} does not divide {what}, {count}; use a divisor of both", "group")
        filler = net.weight_filler(self.weight_filler)
        weight = net.parameter("weight", [self.num_output, channels // self.group, *kernel], filler)
        bias = net.parameter("bias", [self.num_output], self.bias_filler) if self.bias_term else None
        operands = (x[0], weight) if bias is None else (x[0], weight, bias)
        return net.g.Conv(
            *operands,
            kernel_shape=kernel,
            strides=stride,
            pads=pad + pad,
            dilations=dilation,
            group=self.group,
        )


@LAYERS.add
class Deconvolution(Layer):
    """The transpose of a convolution: every input spreads a learned kernel over the output.

    Input [N, C, ...], output [N, num_output, ...] with size stride (n - 1) + dilation (k - 1) + 1 - 2 pad.
    Parameters: weight [C, num_output / group, k, ...], bias [num_output].
    """

    type: Literal["Deconvolution"] = "Deconvolution"
    num_output: int = Field(gt=0)
    kernel_size: Integers = Field(min_length=1)
    stride: Integers = [1]
    pad: Integers = [0]
    dilation: Integers = [1]
    group: int = Field(1, gt=0)
    bias_term: bool = True
    weight_filler: AnyFiller | None = None
    bias_filler: AnyFiller = Constant()

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        size, channels = spatial(x[0], self), int(shape_of(x[0])[1])
        axes = len(size)
        kernel = one_per_axis(self.kernel_size, axes, "kernel_size", minimum=1)
        stride = one_per_axis(self.stride, axes, "stride", minimum=1)
        pad = one_per_axis(self.pad, axes, "pad", minimum=0)
        dilation = one_per_axis(self.dilation, axes, "dilation", minimum=1)
        full = [s * (n - 1) + d * (k - 1) + 1 for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)]
        for reach, p in zip(full, pad, strict=True):
            if reach <= 2 * p:
                raise LayerError(f"pad {p} cuts off the whole output of size {reach}; lower pad", "pad")
        if elements([*shape_of(x[0])[:1], self.num_output, *full]) > MAX_ELEMENTS:
            raise LayerError(
                f"its output before pad, {self.num_output}x{'x'.join(map(str, full))} a sample, is larger than "
                f"{MAX_ELEMENTS:,} numbers; lower stride",
                "stride",
            )
        for count, what in ((channels, "the number of input channels"), (self.num_output, "num_output")):
            if count % self.group:
                raise LayerError(f"group {self.group} does not divide {what}, {count}; use a divisor of both", "group")
        filler = net.weight_filler(self.weight_filler)
        weight = net.parameter("weight", [channels, self.num_output // self.group, *kernel], filler)
        bias = net.parameter("bias", [self.num_output], self.bias_filler) if self.bias_term else None
        operands = (x[0], weight) if bias is None else (x[0], weight, bias)
        return net.g.ConvTranspose(
            *operands,
            kernel_shape=kernel,
            strides=stride,
            pads=pad + pad,
            dilations=dilation,
            group=self.group,
        )


@LAYERS.add
class InnerProduct(Layer):
    """A fully connected layer: the axes from `axis` on are flattened, then y = x weight^T + bias.

    Input [N, ...], output [N, num_output]; with an `axis` beyond 1 the axes before it stay: [N, ..., num_output].
    Parameters: weight [num_output, inputs], or [inputs, num_output] with `transpose`, and bias [num_output].
    """

    type: Literal["InnerProduct"] = "InnerProduct"
    num_output: int = Field(gt=0)
    axis: int = 1
    transpose: bool = False
    bias_term: bool = True
    weight_filler: AnyFiller | None = None
    bias_filler: AnyFiller = Constant()

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        g, axis = net.g, sample_axis(x[0], self.axis)
        shape = shape_of(x[0])
        lead, inputs = [int(n) for n in shape[1:axis]], elements(shape[axis:])
        matrix = [inputs, self.num_output] if self.transpose else [self.num_output, inputs]
        weight = net.parameter("weight", matrix, net.weight_filler(self.weight_filler))
        bias = net.parameter("bias", [self.num_output], self.bias_filler) if self.bias_term else None
        if not lead:
            flat = x[0] if len(shape) == 2 else g.Flatten(x[0], axis=1)
            operands = (flat, weight) if bias is None else (flat, weight, bias)
            return g.Gemm(*operands, transB=0 if self.transpose else 1)
        rows = x[0] if axis == len(shape) - 1 else reshape(g, x[0], [0, *lead, inputs])
        y = g.MatMul(rows, weight if self.transpose else g.Transpose(weight, perm=[1, 0]))
        return y if bias is None else g.Add(y, bias)


@LAYERS.add
class Embed(Layer):
    """A learned vector for each whole number below `input_dim`: y = weight[x] + bias.

    Input [N, ...] of whole numbers, or class labels [N]; output [N, ..., num_output]. Parameters: weight
    [input_dim, num_output], bias [num_output]. Fractions are cut off; a number outside gives the bias alone.
    """

    type: Literal["Embed"] = "Embed"
    num_output: int = Field(gt=0)
    input_dim: int = Field(gt=0)
    bias_term: bool = True
    weight_filler: AnyFiller | None = None
    bias_filler: AnyFiller = Constant()

    reads_labels: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        g, count = net.g, elements([*shape_of(x[0]), self.input_dim])
        if count > MAX_ELEMENTS:
            raise LayerError(
                f"input_dim {self.input_dim:,} for {sample(x[0])} numbers a sample makes {count:,} choices, more than "
                f"the {MAX_ELEMENTS:,} that a tensor can hold; lower data.batch_size",
                "input_dim",
            )
        weight = net.parameter("weight", [self.input_dim, self.num_output], net.weight_filler(self.weight_filler))
        # One-hot rows times the weight: the gradient is a product as well, whose sums have a fixed order anywhere.
        index = g.Unsqueeze(g.Cast(x[0], to=ir.DataType.INT64), np.array([-1], np.int64))
        hot = g.Cast(g.Equal(index, np.arange(self.input_dim, dtype=np.int64)), to=g.dtype)
        y = g.MatMul(hot, weight)
        return g.Add(y, net.parameter("bias", [self.num_output], self.bias_filler)) if self.bias_term else y
