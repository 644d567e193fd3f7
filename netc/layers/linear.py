"""Layers that are linear in their input: convolutions, inner product and embedding."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

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
from netc.layers.fillers import AnyFiller, Constant
from netc.layers.shapes import reshape, sample_axis


class _Linear(Layer):
    """What all layers here share: a learned matrix or kernels, and a bias for each output unless turned off."""

    num_output: int = Field(gt=0)
    """Number of outputs: channels, or the length of a vector."""
    bias_term: bool = True
    """Whether a bias is added."""
    weight_filler: AnyFiller | None = None
    """How weight is filled first; default msra before a rectifier, else xavier."""
    bias_filler: AnyFiller = Constant()
    """How bias is filled first."""

    def parameters(self, net: Context, shape: list[int]) -> list[ir.Value]:
        """Declare the weight of this shape and, with `bias_term`, the bias [num_output]."""
        weight = net.parameter("weight", shape, net.weight_filler(self.weight_filler))
        bias = [net.parameter("bias", [self.num_output], self.bias_filler)] if self.bias_term else []
        return [weight, *bias]


@dataclass(frozen=True)
class _Geometry:
    """How windows lie, one number a spatial axis of the input."""

    size: list[int]
    kernel: list[int]
    stride: list[int]
    pad: list[int]
    dilation: list[int]

    @property
    def reach(self) -> list[int]:
        """Size of a window from its first to its last element, gaps of dilation included."""
        return [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]


class _Kernels(_Linear):
    """A convolution or its transpose: learned kernels that slide over one, two or three spatial axes."""

    kernel_size: Integers = Field(min_length=1)
    """Size of the kernel, one number or one for each spatial axis."""
    stride: Integers = [1]
    """Step between neighbouring windows, one number or one for each spatial axis."""
    pad: Integers = [0]
    """Zeros on each side, one number or one for each spatial axis."""
    dilation: Integers = [1]
    """Distance of neighbouring kernel elements, one number or one for each spatial axis."""
    group: int = Field(1, gt=0)
    """Number of groups of channels, each of which is computed from its own part of the input alone."""

    operator: ClassVar[str]

    @abstractmethod
    def weight_shape(self, channels: int) -> list[int]:
        """Return the axes of the weight before those of the kernel, for so many input channels."""

    @abstractmethod
    def check(self, x: ir.Value, at: _Geometry) -> None:
        """Refuse a geometry that gives no output.

        Raises:
            LayerError: a sentence that names the field to change.
        """

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:
        size, channels = spatial(x[0], self), int(shape_of(x[0])[1])
        axes = len(size)
        at = _Geometry(
            size,
            one_per_axis(self.kernel_size, axes, "kernel_size", minimum=1),
            one_per_axis(self.stride, axes, "stride", minimum=1),
            one_per_axis(self.pad, axes, "pad", minimum=0),
            one_per_axis(self.dilation, axes, "dilation", minimum=1),
        )
        self.check(x[0], at)
        for count, what in ((channels, "the number of input channels"), (self.num_output, "num_output")):
            if count % self.group:
                raise LayerError(f"group {self.group} does not divide {what}, {count}; use a divisor of both", "group")
        return net.g.op(
            self.operator,
            x[0],
            *self.parameters(net, [*self.weight_shape(channels), *at.kernel]),
            kernel_shape=at.kernel,
            strides=at.stride,
            pads=at.pad + at.pad,
            dilations=at.dilation,
            group=self.group,
        )


@LAYERS.add
class Convolution(_Kernels):
    """Cross-correlation with learned kernels, in one, two or three dimensions.

    Input [N, C, ...], output [N, num_output, ...] with size floor((n + 2 pad - dilation (k - 1) - 1) / stride) + 1.
    Parameters: weight [num_output, C / group, k, ...], bias [num_output].

    Example: {type: Convolution, num_output: 16, kernel_size: 3, pad: 1}
    """

    type: Literal["Convolution"] = "Convolution"

    operator: ClassVar[str] = "Conv"

    def weight_shape(self, channels: int) -> list[int]:  # noqa: D102
        return [self.num_output, channels // self.group]

    def check(self, x: ir.Value, at: _Geometry) -> None:  # noqa: D102
        lists = (at.size, at.kernel, at.stride, at.pad, at.dilation, at.reach)
        for n, k, s, p, d, reach in zip(*lists, strict=True):
            if reach > n + 2 * p:
                window = f"{k}" if d == 1 else f"{k} with dilation {d} (reach {reach})"
                raise LayerError(
                    f"kernel_size {window} is larger than the input {sample(x)} with pad {p}; "
                    "use a smaller kernel, more padding or less pooling before it",
                    "kernel_size",
                )
            if (n + 2 * p - reach) // s * s + reach <= p:
                raise LayerError(f"with pad {p} and stride {s} no window meets the input {sample(x)}; lower pad", "pad")


@LAYERS.add
class Deconvolution(_Kernels):
    """The transpose of a convolution: every input spreads a learned kernel over the output.

    Input [N, C, ...], output [N, num_output, ...] with size stride (n - 1) + dilation (k - 1) + 1 - 2 pad.
    Parameters: weight [C, num_output / group, k, ...], bias [num_output].

    Example: {type: Deconvolution, num_output: 3, kernel_size: 4, stride: 2, pad: 1, weight_filler: bilinear, group: 3}
    """

    type: Literal["Deconvolution"] = "Deconvolution"

    operator: ClassVar[str] = "ConvTranspose"

    def weight_shape(self, channels: int) -> list[int]:  # noqa: D102
        return [channels, self.num_output // self.group]

    def check(self, x: ir.Value, at: _Geometry) -> None:  # noqa: D102
        full = [s * (n - 1) + reach for n, s, reach in zip(at.size, at.stride, at.reach, strict=True)]
        for whole, p in zip(full, at.pad, strict=True):
            if whole <= 2 * p:
                raise LayerError(f"pad {p} cuts off the whole output of size {whole}; lower pad", "pad")
        if elements([*shape_of(x)[:1], self.num_output, *full]) > MAX_ELEMENTS:
            raise LayerError(
                f"its output before pad, {self.num_output}x{'x'.join(map(str, full))} a sample, is larger than "
                f"{MAX_ELEMENTS:,} numbers; lower stride",
                "stride",
            )


@LAYERS.add
class InnerProduct(_Linear):
    """A fully connected layer: the axes from `axis` on are flattened, then y = x weight^T + bias.

    Input [N, ...], output [N, num_output]; with an `axis` beyond 1 the axes before it stay: [N, ..., num_output].
    Parameters: weight [num_output, inputs], or [inputs, num_output] with `transpose`, and bias [num_output].

    Example: {type: InnerProduct, num_output: 64}
    """

    type: Literal["InnerProduct"] = "InnerProduct"
    axis: int = 1
    """First axis that is flattened."""
    transpose: bool = False
    """Whether the weight is stored with the inputs first."""

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        g, axis = net.g, sample_axis(x[0], self.axis)
        shape = shape_of(x[0])
        lead, inputs = [int(n) for n in shape[1:axis]], elements(shape[axis:])
        matrix = [inputs, self.num_output] if self.transpose else [self.num_output, inputs]
        weight, *bias = self.parameters(net, matrix)
        if not lead:
            flat = x[0] if len(shape) == 2 else g.Flatten(x[0], axis=1)
            return g.Gemm(flat, weight, *bias, transB=0 if self.transpose else 1)
        rows = x[0] if axis == len(shape) - 1 else reshape(g, x[0], [0, *lead, inputs])
        y = g.MatMul(rows, weight if self.transpose else g.Transpose(weight, perm=[1, 0]))
        return g.Add(y, *bias) if bias else y


@LAYERS.add
class Embed(_Linear):
    """A learned vector for each whole number below `input_dim`: y = weight[x] + bias.

    Input [N, ...] of whole numbers, or class labels; output [N, ..., num_output]. Parameters: weight
    [input_dim, num_output], bias [num_output]. Fractions are cut off; a number outside gives the bias alone.

    Example: {type: Embed, bottom: label, input_dim: 10, num_output: 16}
    """

    type: Literal["Embed"] = "Embed"
    input_dim: int = Field(gt=0)
    """Number of vectors."""

    reads_labels: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        g, count = net.g, elements([*shape_of(x[0]), self.input_dim])
        if self.input_dim > MAX_CONSTANT:
            raise LayerError(
                f"input_dim {self.input_dim:,} is more than the {MAX_CONSTANT:,} whole numbers that a 32-bit float "
                "tells apart; lower it",
                "input_dim",
            )
        if count > MAX_ELEMENTS:
            raise LayerError(
                f"input_dim {self.input_dim:,} for {sample(x[0])} numbers a sample makes {count:,} choices, more than "
                f"the {MAX_ELEMENTS:,} that a tensor can hold; lower data.batch_size",
                "input_dim",
            )
        weight, *bias = self.parameters(net, [self.input_dim, self.num_output])
        # One-hot rows times the weight: the gradient is a product as well, whose sums have a fixed order anywhere.
        index = g.Unsqueeze(g.Cast(x[0], to=ir.DataType.INT64), np.array([-1], np.int64))
        hot = g.Cast(g.Equal(index, np.arange(self.input_dim, dtype=np.int64)), to=g.dtype)
        y = g.MatMul(hot, weight)
        return g.Add(y, *bias) if bias else y
