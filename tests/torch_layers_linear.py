"""Twins of what is linear in its input, and of pooling."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from netc.layers import linear, pooling
from tests.torch_layers_base import Run, Tensor, count, per_axis, twin


def windows(
    layer: linear.Convolution | linear.Deconvolution,
    run: Run,
    x: Tensor,
    functions: Sequence[Callable[..., Tensor]],
    channels: tuple[int, int],
) -> Tensor:
    """Apply the function for as many spatial axes as x has; `channels` are the first two axes of the weight."""
    axes = x.ndim - 2
    return functions[axes - 1](
        x,
        run.parameter("weight", [*channels, *per_axis(layer.kernel_size, axes)]),
        run.parameter("bias", [layer.num_output]) if layer.bias_term else None,
        stride=per_axis(layer.stride, axes),
        padding=per_axis(layer.pad, axes),
        dilation=per_axis(layer.dilation, axes),
        groups=layer.group,
    )


@twin(linear.Convolution)
def convolution(layer: linear.Convolution, run: Run, x: Sequence[Tensor]) -> Tensor:
    channels = layer.num_output, x[0].shape[1] // layer.group
    return windows(layer, run, x[0], (F.conv1d, F.conv2d, F.conv3d), channels)


@twin(linear.Deconvolution)
def deconvolution(layer: linear.Deconvolution, run: Run, x: Sequence[Tensor]) -> Tensor:
    channels = x[0].shape[1], layer.num_output // layer.group
    return windows(layer, run, x[0], (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), channels)


@twin(linear.InnerProduct)
def inner_product(layer: linear.InnerProduct, run: Run, x: Sequence[Tensor]) -> Tensor:
    rows = x[0].flatten(layer.axis % x[0].ndim)
    inputs = rows.shape[-1]
    if layer.transpose:
        weight = run.parameter("weight", [inputs, layer.num_output]).T
    else:
        weight = run.parameter("weight", [layer.num_output, inputs])
    return F.linear(rows, weight, run.parameter("bias", [layer.num_output]) if layer.bias_term else None)


@twin(linear.Embed)
def embed(layer: linear.Embed, run: Run, x: Sequence[Tensor]) -> Tensor:
    weight = run.parameter("weight", [layer.input_dim, layer.num_output])
    number = x[0].detach()
    if number.is_floating_point():
        run.kink(number - number.round(), 0.0)
    index = number.long()
    known = (index >= 0) & (index < layer.input_dim)
    y = weight[index.clamp(0, layer.input_dim - 1)] * known[..., None]
    return y + run.parameter("bias", [layer.num_output]) if layer.bias_term else y


def pooled(
    run: Run, x: Tensor, kind: str, kernel: Sequence[int], stride: Sequence[int], pad: Sequence[int], up: bool
) -> Tensor:
    """Pool by the definition: every window cut out, along each axis as many as Caffe counts."""
    fill = -torch.inf if kind == "max" else 0.0
    cells, sizes = x, torch.ones((), dtype=x.dtype)
    for axis, (n, k, s, p) in enumerate(zip(x.shape[2:], kernel, stride, pad, strict=True), start=2):
        span = n + 2 * p - k
        windows = (math.ceil(span / s) if up else span // s) + 1
        if (windows - 1) * s >= n + p:  # a window begins inside
            windows -= 1
        missing = (windows - 1) * s + k - (n + 2 * p)
        behind = [0, 0] * (cells.ndim - 1 - axis)
        # An average counts padding, but not what rounding up adds behind it.
        ones = F.pad(torch.ones(n + 2 * p, dtype=x.dtype), [0, missing])
        sizes = sizes[..., None] * ones.unfold(0, k, s).sum(-1)
        cells = F.pad(cells, [*behind, p, p + missing], value=fill).unfold(axis, k, s)
    inside = cells.flatten(x.ndim)
    if kind == "average":
        return inside.sum(-1) / sizes
    run.ties(inside, inside.ndim - 1)
    return inside.max(-1).values


@twin(pooling.Pooling)
def pool(layer: pooling.Pooling, run: Run, x: Sequence[Tensor]) -> Tensor:
    axes = x[0].ndim - 2
    if layer.global_pooling:
        size = tuple(x[0].shape[2:])
        return pooled(run, x[0], layer.pool, size, (1,) * axes, (0,) * axes, up=False)
    assert layer.kernel_size is not None
    kernel, stride, pad = (per_axis(values, axes) for values in (layer.kernel_size, layer.stride, layer.pad))
    return pooled(run, x[0], layer.pool, kernel, stride, pad, up=layer.round_mode == "ceil")


@twin(pooling.SPP)
def spatial_pyramid(layer: pooling.SPP, run: Run, x: Sequence[Tensor]) -> Tensor:
    levels = []
    for bins in (2**level for level in range(layer.pyramid_height)):
        kernel = [math.ceil(n / bins) for n in x[0].shape[2:]]
        pad = [(k * bins - n + 1) // 2 for k, n in zip(kernel, x[0].shape[2:], strict=True)]
        level = pooled(run, x[0], layer.pool, kernel, kernel, pad, up=True)
        assert count(level.shape[2:]) == bins ** (x[0].ndim - 2)
        levels.append(level.flatten(1))
    return torch.cat(levels, 1)


@twin(pooling.Upsample)
def upsample(layer: pooling.Upsample, run: Run, x: Sequence[Tensor]) -> Tensor:
    axes = x[0].ndim - 2
    factors = [float(s) for s in per_axis(layer.scale, axes)]
    if layer.mode == "nearest":
        return F.interpolate(x[0], scale_factor=factors, mode="nearest")
    mode = ("linear", "bilinear", "trilinear")[axes - 1]
    return F.interpolate(x[0], scale_factor=factors, mode=mode, align_corners=False)
