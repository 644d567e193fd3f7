"""Layers that are linear in their input: convolution and inner product."""

from typing import Literal

import onnx_ir as ir
from pydantic import Field

from netc.declared import Integers
from netc.graph import shape_of
from netc.layers.base import LAYERS, Layer, LayerError, one_per_axis, sample, spatial
from netc.layers.context import Context
from netc.layers.fillers import AnyFiller, Constant


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
class InnerProduct(Layer):
    """A fully connected layer: all axes behind the batch are flattened, then y = x weight^T + bias.

    Input [N, ...], output [N, num_output]. Parameters: weight [num_output, inputs], bias [num_output].
    """

    type: Literal["InnerProduct"] = "InnerProduct"
    num_output: int = Field(gt=0)
    bias_term: bool = True
    weight_filler: AnyFiller | None = None
    bias_filler: AnyFiller = Constant()

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        flat = x[0] if len(shape_of(x[0])) == 2 else net.g.Flatten(x[0], axis=1)
        inputs = int(shape_of(flat)[1])
        weight = net.parameter("weight", [self.num_output, inputs], net.weight_filler(self.weight_filler))
        if not self.bias_term:
            return net.g.Gemm(flat, weight, transB=1)
        return net.g.Gemm(flat, weight, net.parameter("bias", [self.num_output], self.bias_filler), transB=1)
