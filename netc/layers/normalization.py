"""Layers that normalise: subtract a mean and divide by a standard deviation."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import numpy as np
import onnx_ir as ir
from pydantic import Field, model_validator

from netc.declared import mistake
from netc.graph import GraphBuilder, shape_of
from netc.layers.base import LAYERS, Layer, LayerError, sample
from netc.layers.context import Context
from netc.layers.fillers import Constant
from netc.layers.shapes import along, channels_of, reduce, reshape, sample_axis

# Keeps the slope of a square root finite at variance 0; far below the rounding of any other variance.
TINY = 1e-30


class _Normalization(Layer):
    eps: float = Field(1e-5, gt=0.0, allow_inf_nan=False)
    """Added to the variance, so that the divisor is never 0."""
    affine: bool = True
    """Whether a learned weight and bias follow."""

    learns_scales: ClassVar[bool] = True
    passes_rectifier: ClassVar[bool] = True


@LAYERS.add
class BatchNorm(_Normalization):
    """Normalise each channel over the batch, then scale and shift it (Ioffe & Szegedy, 2015, Algorithm 1).

    Input [N, C, ...], output of the same shape. Parameters: weight [C] (gamma, first 1), bias [C] (beta, first 0);
    with `affine: false` none. While training, mean and biased variance of the batch are used, and running values follow
    them: running = f * running + (1 - f) * batch with f = `moving_average_fraction` and the unbiased variance. Testing
    and inference use the running values; export folds them into the weights before or behind the layer, where these can
    take them in, and else leaves one scale and shift. With `use_global_stats` training uses the running values too, and
    leaves them as they are, as when weights of others are tuned further; so it does where `freeze` names the layer.
    With `statistics: population`, averages over `solver.population_batches` training batches, taken when training is
    done, replace the running values (Algorithm 2).

    Example:
        - {type: Convolution, num_output: 16, kernel_size: 3, bias_term: false}
        - {type: BatchNorm}
        - {type: ReLU}
    """

    type: Literal["BatchNorm"] = "BatchNorm"
    moving_average_fraction: float = Field(0.9, ge=0.0, lt=1.0)
    """Share of the running values that a step keeps."""
    statistics: Literal["moving_average", "population"] = "moving_average"
    """What tests use: running values, or averages taken when training is done."""
    use_global_stats: bool = False
    """Whether training uses the running values too."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.use_global_stats and self.statistics == "population":
            raise mistake("statistics: population collects what use_global_stats leaves as it is; remove one of them")
        return self

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        channels = channels_of(x[0], self)
        if self.affine:
            weight = net.parameter("weight", [channels], Constant(value=1.0))
            bias = net.parameter("bias", [channels], Constant())
        else:
            weight, bias = (net.g.constant(np.full([channels], n), net.g.dtype) for n in (1.0, 0.0))
        mean = net.statistic("running_mean", [channels], 0.0)
        var = net.statistic("running_var", [channels], 1.0)
        if net.phase == "test" or self.use_global_stats or net.is_frozen("running_mean"):
            if net.phase == "train":
                net.update(mean, net.g.Identity(mean))
                net.update(var, net.g.Identity(var))
            return net.g.BatchNormalization(x[0], weight, bias, mean, var, epsilon=self.eps)
        m = math.prod(int(n) for n in shape_of(x[0])) // channels
        if m < 2:
            raise LayerError("BatchNorm needs at least 2 values a channel in a batch; raise data.batch_size")
        # Momentum 0 makes the second and third output the statistics of this batch.
        y, batch_mean, batch_var = net.g.ops(
            "BatchNormalization",
            x[0],
            weight,
            bias,
            mean,
            var,
            num_outputs=3,
            epsilon=self.eps,
            training_mode=1,
            momentum=0.0,
        )
        f = self.moving_average_fraction
        with net.g.arithmetic():
            net.update(mean, mean * f + batch_mean * (1.0 - f))
            net.update(var, var * f + batch_var * ((1.0 - f) * m / (m - 1)))
            if self.statistics == "population":
                net.average(mean, batch_mean)
                net.average(var, batch_var * (m / (m - 1)))
        return y


@LAYERS.add
class LayerNorm(_Normalization):
    """Normalise each sample over all axes from `axis` on, then scale and shift each element (Ba et al., 2016).

    y = (x - mean) / sqrt(var + eps) * weight + bias with the biased variance. Parameters: weight and bias of the
    shape of the normalised axes, first 1 and 0; with `affine: false` none.

    Example: {type: LayerNorm}
    """

    type: Literal["LayerNorm"] = "LayerNorm"
    axis: int = 1
    """First axis that is normalised."""

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        axis, shape = sample_axis(x[0], self.axis), shape_of(x[0])
        y = standardised(net.g, x[0], range(axis, len(shape)), self.eps)
        return affine(net, y, [int(n) for n in shape[axis:]], axis) if self.affine else y


@LAYERS.add
class GroupNorm(_Normalization):
    """Normalise each group of neighbouring channels of each sample, then scale and shift each channel (Wu & He, 2018).

    y = (x - mean) / sqrt(var + eps) * weight + bias with the biased variance over a group. Input [N, C, ...].
    Parameters: weight [C] and bias [C], first 1 and 0; with `affine: false` none.

    Example: {type: GroupNorm, num_groups: 3}
    """

    type: Literal["GroupNorm"] = "GroupNorm"
    num_groups: int = Field(32, gt=0)
    """Number of groups; a divisor of the channels."""

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        channels, shape = channels_of(x[0], self), [int(n) for n in shape_of(x[0])[1:]]
        if channels % self.num_groups:
            raise LayerError(
                f"num_groups {self.num_groups} does not divide the number of input channels, {channels}; use a divisor",
                "num_groups",
            )
        size = math.prod(shape) // self.num_groups
        if size < 2:
            raise LayerError(
                f"each group of the input {sample(x[0])} has one value, which is always normalised to 0; "
                "use fewer num_groups",
                "num_groups",
            )
        groups = reshape(net.g, x[0], [0, self.num_groups, size])
        y = reshape(net.g, standardised(net.g, groups, [2], self.eps), [0, *shape])
        return affine(net, y, [channels], 1) if self.affine else y


@LAYERS.add
class InstanceNorm(_Normalization):
    """Normalise each channel of each sample, then scale and shift it (Ulyanov et al., 2016).

    y = (x - mean) / sqrt(var + eps) * weight + bias with the biased variance over a plane. Input [N, C, ...].
    Parameters: weight [C] and bias [C], first 1 and 0; with `affine: false` none.

    Example: {type: InstanceNorm}
    """

    type: Literal["InstanceNorm"] = "InstanceNorm"

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        y = standardised(net.g, x[0], _plane(x[0], self), self.eps)
        return affine(net, y, [channels_of(x[0], self)], 1) if self.affine else y


@LAYERS.add
class MVN(Layer):
    """Subtract the mean and divide by the deviation of each channel of each sample, or of each sample (Caffe).

    y = (x - mean) / (sqrt(var) + eps) with the biased variance and eps outside of the root; with
    `normalize_variance: false` only x - mean. With `across_channels` mean and variance are those of the whole sample.

    Example: {type: MVN}
    """

    type: Literal["MVN"] = "MVN"
    normalize_variance: bool = True
    """Whether the deviation is divided by."""
    across_channels: bool = False
    """Whether all channels of a sample have one mean and deviation."""
    eps: float = Field(1e-9, gt=0.0, allow_inf_nan=False)
    """Added to the deviation, so that the divisor is never 0."""

    passes_rectifier: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        channels_of(x[0], self)
        axes = range(1, len(shape_of(x[0]))) if self.across_channels else _plane(x[0], self)
        y, var = moments(net.g, x[0], axes)
        with net.g.arithmetic():
            return y / (net.g.Sqrt(var + TINY) + self.eps) if self.normalize_variance else y


def moments(g: GraphBuilder, x: ir.Value, axes: Sequence[int]) -> tuple[ir.Value, ir.Value]:
    """Return x less its mean over `axes`, and the biased variance, by the two-pass form."""
    with g.arithmetic():
        centred = x - reduce(g, "ReduceMean", x, axes)
        return centred, reduce(g, "ReduceMean", centred * centred, axes)


def standardised(g: GraphBuilder, x: ir.Value, axes: Sequence[int], eps: float) -> ir.Value:
    """Return (x - mean) / sqrt(var + eps) over `axes`."""
    centred, var = moments(g, x, axes)
    with g.arithmetic():
        return centred / g.Sqrt(var + eps)


def affine(net: Context, x: ir.Value, shape: list[int], axis: int) -> ir.Value:
    """Return x * weight + bias with learned tensors that lie along the axes of x from `axis` on."""
    weight = along(net.g, net.parameter("weight", shape, Constant(value=1.0)), x, axis)
    bias = along(net.g, net.parameter("bias", shape, Constant()), x, axis)
    with net.g.arithmetic():
        return x * weight + bias


def _plane(x: ir.Value, layer: Layer) -> list[int]:
    """Return the axes behind the channels.

    Raises:
        LayerError: there are none, so that every mean is the value itself.
    """
    rank = len(shape_of(x))
    if rank < 3 or math.prod(int(n) for n in shape_of(x)[2:]) < 2:
        raise LayerError(
            f"{layer.type} needs at least 2 values a channel in a sample, got {sample(x)}; use LayerNorm", "bottom"
        )
    return list(range(2, rank))
