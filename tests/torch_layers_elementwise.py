"""Twins of activations, functions of each element, and of what normalises, scales or disturbs."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from netc.layers import activation, arithmetic, lrn, normalization, regularization, scale
from tests.torch_layers_base import Run, Tensor, beside, twin

# -- activations -----------------------------------------------------------------------------------------


@twin(activation.ReLU)
def relu(layer: activation.ReLU, run: Run, x: Sequence[Tensor]) -> Tensor:
    run.kink(x[0], 0.0)
    return F.leaky_relu(x[0], layer.negative_slope)


@twin(activation.PReLU)
def prelu(layer: activation.PReLU, run: Run, x: Sequence[Tensor]) -> Tensor:
    run.kink(x[0], 0.0)
    return F.prelu(x[0], run.parameter("weight", [1 if layer.channel_shared else x[0].shape[1]]))


@twin(activation.ELU)
def elu(layer: activation.ELU, run: Run, x: Sequence[Tensor]) -> Tensor:
    if layer.alpha != 1.0:
        run.kink(x[0], 0.0)
    return torch.where(x[0] > 0, x[0], layer.alpha * torch.expm1(x[0].clamp(max=0.0)))


@twin(activation.SELU)
def selu(layer: activation.SELU, run: Run, x: Sequence[Tensor]) -> Tensor:
    run.kink(x[0], 0.0)
    return F.selu(x[0])


@twin(activation.GELU)
def gelu(layer: activation.GELU, run: Run, x: Sequence[Tensor]) -> Tensor:
    return F.gelu(x[0], approximate=layer.approximate)


@twin(activation.Swish)
def swish(layer: activation.Swish, run: Run, x: Sequence[Tensor]) -> Tensor:
    return x[0] / (1.0 + torch.exp(-layer.beta * x[0]))


@twin(activation.HardSwish)
def hard_swish(layer: activation.HardSwish, run: Run, x: Sequence[Tensor]) -> Tensor:
    run.kink(x[0], -3.0, 3.0)
    return F.hardswish(x[0])


@twin(activation.Mish)
def mish(layer: activation.Mish, run: Run, x: Sequence[Tensor]) -> Tensor:
    return F.mish(x[0])


@twin(activation.Softplus, activation.BNLL)
def softplus(layer: activation.Softplus | activation.BNLL, run: Run, x: Sequence[Tensor]) -> Tensor:
    return torch.logaddexp(x[0], torch.zeros_like(x[0]))


@twin(activation.Maxout)
def maxout(layer: activation.Maxout, run: Run, x: Sequence[Tensor]) -> Tensor:
    samples, channels, *size = x[0].shape
    pieces = x[0].reshape(samples, channels // layer.num_pieces, layer.num_pieces, *size)
    run.ties(pieces, 2)
    return pieces.amax(2)


@twin(activation.Sigmoid)
def sigmoid(layer: activation.Sigmoid, run: Run, x: Sequence[Tensor]) -> Tensor:
    return torch.sigmoid(x[0])


@twin(activation.TanH)
def tanh(layer: activation.TanH, run: Run, x: Sequence[Tensor]) -> Tensor:
    return torch.tanh(x[0])


@twin(activation.Softmax)
def softmax(layer: activation.Softmax, run: Run, x: Sequence[Tensor]) -> Tensor:
    return torch.softmax(x[0], layer.axis)


@twin(activation.LogSoftmax)
def log_softmax(layer: activation.LogSoftmax, run: Run, x: Sequence[Tensor]) -> Tensor:
    return torch.log_softmax(x[0], layer.axis)


# -- functions of each element ---------------------------------------------------------------------------


@twin(arithmetic.AbsVal)
def absolute(layer: arithmetic.AbsVal, run: Run, x: Sequence[Tensor]) -> Tensor:
    run.kink(x[0], 0.0)
    return x[0].abs()


@twin(arithmetic.Power)
def power(layer: arithmetic.Power, run: Run, x: Sequence[Tensor]) -> Tensor:
    inner = layer.shift + layer.scale * x[0]
    if layer.power not in (0.0, 1.0, 2.0, 3.0):
        run.condition(inner, inner.abs())  # steep near 0, like a division
    return inner**layer.power


@twin(arithmetic.Exp)
def exponential(layer: arithmetic.Exp, run: Run, x: Sequence[Tensor]) -> Tensor:
    return (math.e if layer.base is None else layer.base) ** (layer.shift + layer.scale * x[0])


@twin(arithmetic.Log)
def logarithm(layer: arithmetic.Log, run: Run, x: Sequence[Tensor]) -> Tensor:
    inner = layer.shift + layer.scale * x[0]
    run.condition(inner, inner.abs())
    return torch.log(inner) / math.log(math.e if layer.base is None else layer.base)


@twin(arithmetic.Clip)
def clip(layer: arithmetic.Clip, run: Run, x: Sequence[Tensor]) -> Tensor:
    run.kink(x[0], layer.min, layer.max)
    return x[0].clamp(layer.min, layer.max)


@twin(arithmetic.Threshold)
def threshold(layer: arithmetic.Threshold, run: Run, x: Sequence[Tensor]) -> Tensor:
    run.kink(x[0], layer.threshold)
    return (x[0] > layer.threshold).to(x[0].dtype)


# -- normalization, factors and shifts -------------------------------------------------------------------


def _spread(run: Run, x: Tensor, groups: Tensor, eps: float) -> None:
    """Note how much the division by the deviation over the last axis of `groups`, a view of x, enlarges rounding."""
    run.condition(x, (groups.var(-1, correction=0) + eps).sqrt())


def _affine(run: Run, learned: bool, shape: list[int]) -> tuple[Tensor | None, Tensor | None]:
    """Return weight and bias, which some layers do without."""
    return (run.parameter("weight", shape), run.parameter("bias", shape)) if learned else (None, None)


@twin(normalization.BatchNorm)
def batch_norm(layer: normalization.BatchNorm, run: Run, x: Sequence[Tensor]) -> Tensor:
    channels = x[0].shape[1]
    weight, bias = _affine(run, layer.affine, [channels])
    mean, var = (run.statistic(suffix, [channels]) for suffix in ("running_mean", "running_var"))
    batch = run.train and not layer.use_global_stats
    if batch:
        _spread(run, x[0], x[0].transpose(0, 1).flatten(1), layer.eps)
    y = F.batch_norm(x[0], mean, var, weight, bias, batch, 1.0 - layer.moving_average_fraction, layer.eps)
    if run.train:  # F.batch_norm has updated them, unless they are frozen
        run.update("running_mean", mean)
        run.update("running_var", var)
    return y


@twin(normalization.LayerNorm)
def layer_norm(layer: normalization.LayerNorm, run: Run, x: Sequence[Tensor]) -> Tensor:
    shape = list(x[0].shape[layer.axis % x[0].ndim :])
    _spread(run, x[0], x[0].flatten(layer.axis % x[0].ndim), layer.eps)
    return F.layer_norm(x[0], shape, *_affine(run, layer.affine, shape), layer.eps)


@twin(normalization.GroupNorm)
def group_norm(layer: normalization.GroupNorm, run: Run, x: Sequence[Tensor]) -> Tensor:
    _spread(run, x[0], x[0].reshape(x[0].shape[0], layer.num_groups, -1), layer.eps)
    return F.group_norm(x[0], layer.num_groups, *_affine(run, layer.affine, [x[0].shape[1]]), layer.eps)


@twin(normalization.InstanceNorm)
def instance_norm(layer: normalization.InstanceNorm, run: Run, x: Sequence[Tensor]) -> Tensor:
    _spread(run, x[0], x[0].flatten(2), layer.eps)
    weight, bias = _affine(run, layer.affine, [x[0].shape[1]])
    return F.instance_norm(x[0], weight=weight, bias=bias, eps=layer.eps)


@twin(normalization.MVN)
def mean_variance(layer: normalization.MVN, run: Run, x: Sequence[Tensor]) -> Tensor:
    groups = x[0].flatten(1 if layer.across_channels else 2)
    centred = groups - groups.mean(-1, keepdim=True)
    if layer.normalize_variance:
        _spread(run, x[0], groups, layer.eps**2)
        centred = centred / (groups.std(-1, correction=0, keepdim=True) + layer.eps)
    return centred.reshape(x[0].shape)


@twin(lrn.LRN)
def local_response(layer: lrn.LRN, run: Run, x: Sequence[Tensor]) -> Tensor:
    if layer.norm_region == "across_channels":
        planes = x[0] if x[0].ndim > 2 else x[0][..., None]
        y = F.local_response_norm(planes, layer.local_size, layer.alpha, layer.beta, layer.k)
        return y.reshape(x[0].shape)
    average = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[x[0].ndim - 3]
    mean: Tensor = average(F.pad(x[0] ** 2, [layer.local_size // 2] * 2 * (x[0].ndim - 2)), layer.local_size, 1)
    return x[0] / (1.0 + layer.alpha * mean) ** layer.beta


def _along(layer: scale.Scale | scale.Bias, x: Sequence[Tensor]) -> tuple[int, list[int], Tensor | None]:
    """Return the first axis and the shape of what is learned along x, and the second bottom viewed along x."""
    axis = layer.axis % x[0].ndim
    if len(x) == 1:
        end = x[0].ndim if layer.num_axes == -1 else axis + layer.num_axes
        return axis, list(x[0].shape[axis:end]) or [1], None
    shape = list(x[1].shape[1:])
    while shape and shape[-1] == 1:
        shape.pop()
    view = [len(x[0]), *[1] * (axis - 1), *shape, *[1] * (x[0].ndim - axis - len(shape))]
    return axis, shape or [1], x[1].reshape(view)


@twin(scale.Scale)
def scaled(layer: scale.Scale, run: Run, x: Sequence[Tensor]) -> Tensor:
    axis, shape, given = _along(layer, x)
    y = x[0] * (beside(run.parameter("weight", shape), x[0], axis) if given is None else given)
    return y + beside(run.parameter("bias", shape), x[0], axis) if layer.bias_term else y


@twin(scale.Bias)
def shifted(layer: scale.Bias, run: Run, x: Sequence[Tensor]) -> Tensor:
    axis, shape, given = _along(layer, x)
    return x[0] + (beside(run.parameter("bias", shape), x[0], axis) if given is None else given)


@twin(scale.WeightedSum)
def weighted_sum(layer: scale.WeightedSum, run: Run, x: Sequence[Tensor]) -> Tensor:
    return torch.tensordot(run.parameter("weight", [len(x)]), torch.stack(list(x)), 1)


# -- disturbances ----------------------------------------------------------------------------------------


@twin(regularization.Dropout)
def dropout(layer: regularization.Dropout, run: Run, x: Sequence[Tensor]) -> Tensor:
    kept = 1.0 - layer.dropout_ratio
    if not run.train:
        return x[0] * kept if layer.scale_at == "test" else x[0]
    mask = run.keep(x[0], layer.dropout_ratio, 2 if layer.whole_channel else None)
    return x[0] * mask if layer.scale_at == "test" else x[0] * mask / kept


@twin(regularization.StochasticDepth)
def stochastic_depth(layer: regularization.StochasticDepth, run: Run, x: Sequence[Tensor]) -> Tensor:
    return x[0] * run.keep(x[0], layer.drop_ratio, 1) / (1.0 - layer.drop_ratio) if run.train else x[0]


@twin(regularization.GaussianNoise)
def gaussian_noise(layer: regularization.GaussianNoise, run: Run, x: Sequence[Tensor]) -> Tensor:
    return x[0] + layer.std * run.normal(x[0]) if run.train else x[0]
