"""Elementwise activations, Maxout, and softmax."""

import math
from typing import ClassVar, Literal

import onnx_ir as ir
from pydantic import Field

from netc.graph import shape_of
from netc.layers.base import LAYERS, Layer, LayerError
from netc.layers.context import Context
from netc.layers.fillers import AnyFiller, Constant
from netc.layers.shapes import along, channels_of, reduce, reshape, sample_axis


@LAYERS.add
class ReLU(Layer):
    """max(x, 0) + negative_slope * min(x, 0); the gradient at 0 is the slope (Nair & Hinton, 2010; Maas et al.).

    Example: {type: ReLU, negative_slope: 0.1}
    """

    type: Literal["ReLU"] = "ReLU"
    negative_slope: float = Field(0.0, allow_inf_nan=False)
    """Slope left of 0."""

    rectifies: ClassVar[bool] = True

    @property
    def has_dead_zone(self) -> bool:
        """Without a slope: everywhere left of 0."""
        return self.negative_slope == 0.0

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        return net.g.LeakyRelu(x[0], alpha=self.negative_slope) if self.negative_slope else net.g.Relu(x[0])


@LAYERS.add
class PReLU(Layer):
    """x where x > 0, else w x with a learned slope w; the gradient at 0 is w (He et al., 2015).

    Input [N, C, ...], output of the same shape. Parameter: weight [C], or [1] with `channel_shared`.

    Example: {type: PReLU}
    """

    type: Literal["PReLU"] = "PReLU"
    channel_shared: bool = False
    """Whether all channels have one slope."""
    weight_filler: AnyFiller = Constant(value=0.25)
    """First slopes."""

    rectifies: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        shape = [1] if self.channel_shared else [channels_of(x[0], self)]
        weight = net.parameter("weight", shape, self.weight_filler)
        with net.g.arithmetic():
            return net.g.Where(net.g.Greater(x[0], 0.0), x[0], x[0] * along(net.g, weight, x[0]))


@LAYERS.add
class ELU(Layer):
    """x where x > 0, else alpha (exp(x) - 1) (Clevert et al., 2016).

    Example: {type: ELU}
    """

    type: Literal["ELU"] = "ELU"
    alpha: float = Field(1.0, allow_inf_nan=False)
    """Magnitude of the limit far left of 0."""

    rectifies: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        return net.g.Elu(x[0], alpha=self.alpha)


@LAYERS.add
class SELU(Layer):
    """1.0507 ELU(x) with alpha 1.6733: keeps mean 0 and variance 1 from layer to layer (Klambauer et al., 2017).

    Example: {type: SELU}
    """

    type: Literal["SELU"] = "SELU"
    alpha: ClassVar[float] = 1.6732632423543772848170429916717
    scale: ClassVar[float] = 1.0507009873554804934193349852946

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        return net.g.Mul(net.g.Elu(x[0], alpha=self.alpha), self.scale)


@LAYERS.add
class GELU(Layer):
    """x P(N(0, 1) <= x) = x (1 + erf(x / sqrt(2))) / 2 (Hendrycks & Gimpel, 2016).

    `approximate: tanh` is x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, as GPT-2 was trained with.

    Example: {type: GELU, approximate: tanh}
    """

    type: Literal["GELU"] = "GELU"
    approximate: Literal["none", "tanh"] = "none"
    """The formula: with the error function, or with tanh."""

    rectifies: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        g, v = net.g, x[0]
        with g.arithmetic():
            if self.approximate == "none":
                return v * 0.5 * (g.Erf(v * math.sqrt(0.5)) + 1.0)
            return v * 0.5 * (g.Tanh((v + v * v * v * 0.044715) * math.sqrt(2.0 / math.pi)) + 1.0)


@LAYERS.add
class Swish(Layer):
    """x / (1 + exp(-beta x)); with beta 1 also called SiLU (Ramachandran et al., 2017).

    Example: {type: Swish}
    """

    type: Literal["Swish"] = "Swish"
    beta: float = Field(1.0, allow_inf_nan=False)
    """Steepness of the sigmoid."""

    rectifies: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        with net.g.arithmetic():
            return x[0] * net.g.Sigmoid(x[0] if self.beta == 1.0 else x[0] * self.beta)


@LAYERS.add
class HardSwish(Layer):
    """x min(max(x + 3, 0), 6) / 6 (Howard et al., 2019, section 5.2).

    Example: {type: HardSwish}
    """

    type: Literal["HardSwish"] = "HardSwish"
    rectifies: ClassVar[bool] = True

    @property
    def has_dead_zone(self) -> bool:
        """Always: everywhere left of -3."""
        return True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        with net.g.arithmetic():
            return x[0] * net.g.Clip(x[0] + 3.0, 0.0, 6.0) * (1.0 / 6.0)


@LAYERS.add
class Mish(Layer):
    """x tanh(log(1 + exp(x))) (Misra, 2020).

    Example: {type: Mish}
    """

    type: Literal["Mish"] = "Mish"
    rectifies: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        return net.g.Mul(x[0], net.g.Tanh(net.g.Softplus(x[0])))


class _Softplus(Layer):
    rectifies: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:
        return net.g.Softplus(x[0])


@LAYERS.add
class Softplus(_Softplus):
    """log(1 + exp(x)), a smooth rectifier (Dugas et al., 2001); without overflow for large x.

    Example: {type: Softplus}
    """

    type: Literal["Softplus"] = "Softplus"


@LAYERS.add
class BNLL(_Softplus):
    """log(1 + exp(x)): Caffe's name (binomial normal log likelihood) for Softplus.

    Example: {type: BNLL}
    """

    type: Literal["BNLL"] = "BNLL"


@LAYERS.add
class Maxout(Layer):
    """The largest of each group of `num_pieces` neighbouring channels (Goodfellow et al., 2013).

    Input [N, C, ...], output [N, C / num_pieces, ...]. Equal largest ones share the gradient equally.

    Example:
        - {name: pieces, type: InnerProduct, num_output: 32}
        - {name: hidden, type: Maxout, num_pieces: 4}
    """

    type: Literal["Maxout"] = "Maxout"
    num_pieces: int = Field(2, gt=1)
    """Channels of a group; a divisor of their number."""

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        channels = channels_of(x[0], self)
        if channels % self.num_pieces:
            raise LayerError(
                f"num_pieces {self.num_pieces} does not divide the number of input channels, {channels}; "
                "use a divisor, or another num_output before it",
                "num_pieces",
            )
        size = [int(n) for n in shape_of(x[0])[2:]]
        pieces = reshape(net.g, x[0], [0, channels // self.num_pieces, self.num_pieces, *size])
        return reduce(net.g, "ReduceMax", pieces, [2], keepdims=0)


@LAYERS.add
class Sigmoid(Layer):
    """1 / (1 + exp(-x)).

    Example: {type: Sigmoid}
    """

    type: Literal["Sigmoid"] = "Sigmoid"

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        return net.g.Sigmoid(x[0])


@LAYERS.add
class TanH(Layer):
    """Hyperbolic tangent.

    Example: {type: TanH}
    """

    type: Literal["TanH"] = "TanH"

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        return net.g.Tanh(x[0])


class _Softmax(Layer):
    axis: int = 1
    """Axis whose values add up to 1."""

    operator: ClassVar[str]

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:
        sample_axis(x[0], self.axis)
        return net.g.op(self.operator, x[0], axis=self.axis)


@LAYERS.add
class Softmax(_Softmax):
    """exp(x) / sum exp(x) over the axis `axis`, the channels by default.

    Example: {type: Softmax}
    """

    type: Literal["Softmax"] = "Softmax"

    operator: ClassVar[str] = "Softmax"


@LAYERS.add
class LogSoftmax(_Softmax):
    """x - log sum exp(x) over the axis `axis`, the channels by default: the logarithm of Softmax, without overflow.

    Example: {type: LogSoftmax}
    """

    type: Literal["LogSoftmax"] = "LogSoftmax"

    operator: ClassVar[str] = "LogSoftmax"
