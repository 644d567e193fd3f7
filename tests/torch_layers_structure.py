"""Twins of what joins, cuts, orders, repeats or reduces."""

import functools
import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from netc.layers import crop, reshape, structure
from tests.torch_layers_base import Run, Tensor, per_axis, twin


@twin(structure.Eltwise)
def eltwise(layer: structure.Eltwise, run: Run, x: Sequence[Tensor]) -> Tensor:
    if layer.operation == "max":
        run.ties(torch.stack(list(x)), 0)
        return torch.stack(list(x)).amax(0)
    if layer.operation == "prod":
        return functools.reduce(torch.mul, x)
    factors = torch.tensor(layer.coeff or [1.0] * len(x), dtype=x[0].dtype)
    return torch.tensordot(factors, torch.stack(list(x)), 1)


@twin(structure.Concat)
def concat(layer: structure.Concat, run: Run, x: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(x), layer.axis)


@twin(structure.Reduction)
def reduction(layer: structure.Reduction, run: Run, x: Sequence[Tensor]) -> Tensor:
    rows = x[0].flatten(layer.axis % x[0].ndim)
    if layer.operation == "asum":
        run.kink(x[0], 0.0)
        rows = rows.abs()
    if layer.operation == "sumsq":
        rows = rows**2
    return layer.coeff * (rows.mean(-1) if layer.operation == "mean" else rows.sum(-1))


@twin(structure.ArgMax)
def arg_max(layer: structure.ArgMax, run: Run, x: Sequence[Tensor]) -> Tensor:
    values, axis = (x[0].flatten(1), 1) if layer.axis is None else (x[0], layer.axis % x[0].ndim)
    ordered = values.sort(dim=axis, descending=True, stable=True)
    for rank in range(min(layer.top_k, values.shape[axis] - 1)):
        run.ties(ordered.values.narrow(axis, rank, 2), axis)
    largest = ordered.values.narrow(axis, 0, layer.top_k)
    places = ordered.indices.narrow(axis, 0, layer.top_k).to(x[0].dtype)
    if layer.axis is None:
        return torch.stack([places, largest] if layer.out_max_val else [places], 1)
    return largest if layer.out_max_val else places


@twin(structure.Split)
def split(layer: structure.Split, run: Run, x: Sequence[Tensor]) -> Tensor:
    return x[0]


@twin(structure.Silence)
def silence(layer: structure.Silence, run: Run, x: Sequence[Tensor]) -> list[Tensor]:
    return []


@twin(reshape.Flatten)
def flatten(layer: reshape.Flatten, run: Run, x: Sequence[Tensor]) -> Tensor:
    return x[0].flatten(layer.axis, layer.end_axis)


@twin(reshape.Reshape)
def reshaped(layer: reshape.Reshape, run: Run, x: Sequence[Tensor]) -> Tensor:
    old = list(x[0].shape)
    first = layer.axis + len(old) + 1 if layer.axis < 0 else layer.axis
    behind = [] if layer.num_axes == -1 else old[first + layer.num_axes :]
    return x[0].reshape([*old[:first], *(old[first + i] if n == 0 else n for i, n in enumerate(layer.shape)), *behind])


@twin(reshape.Permute)
def permute(layer: reshape.Permute, run: Run, x: Sequence[Tensor]) -> Tensor:
    return x[0].permute([*layer.order, *(axis for axis in range(x[0].ndim) if axis not in layer.order)])


@twin(reshape.Pad)
def pad(layer: reshape.Pad, run: Run, x: Sequence[Tensor]) -> Tensor:
    begins, ends = (per_axis(p, x[0].ndim - 2) for p in (layer.pad, layer.pad_end or layer.pad))
    widths = [width for pair in reversed(list(zip(begins, ends, strict=True))) for width in pair]
    if layer.mode == "constant":
        return F.pad(x[0], widths, value=layer.value)
    return F.pad(x[0], widths, mode="replicate" if layer.mode == "edge" else "reflect")


@twin(reshape.Tile)
def tile(layer: reshape.Tile, run: Run, x: Sequence[Tensor]) -> Tensor:
    return torch.cat([x[0]] * layer.tiles, layer.axis)


@twin(crop.Crop)
def cropped(layer: crop.Crop, run: Run, x: Sequence[Tensor]) -> Tensor:
    assert layer.offset != "auto", "the twin aligns no planes"
    first = layer.axis % x[0].ndim
    y = x[0]
    for axis, start in enumerate(per_axis(layer.offset, x[0].ndim - first), start=first):
        y = y.narrow(axis, start, x[1].shape[axis])
    return y


@twin(reshape.Slice)
def cut(layer: reshape.Slice, run: Run, x: Sequence[Tensor]) -> list[Tensor]:
    if not layer.slice_point:
        return list(x[0].chunk(len(layer.top), layer.axis))
    bounds = [0, *layer.slice_point, x[0].shape[layer.axis]]
    return [x[0].narrow(layer.axis, low, high - low) for low, high in itertools.pairwise(bounds)]
