"""The weight gradient of a convolution as matrix products.

As differentiated, dw = Conv(x^T, dy^T): x [N, ci, H, W] and dy [N, co, oh, ow] with batch and channels exchanged, so
that the kernel is as large as the plane of dy and the result as small as k x k. An engine that shares a convolution's
work by its results finds little to share then. As a product, with the k * k taps of x side by side (im2col):

    cols [q, k * k * ci, N/q * oh * ow]     dy [q, co, N/q * oh * ow]
    dw = sum over q groups of samples of cols dy^T

Each group is a product of its own in a batch of products, and there are as many groups as it takes to share the work.
Reason: cuDNN has algorithms made for weight gradients, but no ONNX operator reaches them; as a forward convolution
this shape finds none of its fast ones. A 1x1 convolution needs no columns: x is its own.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, shape_of
from netc.rewrite.replay import Inputs
from netc.rewrite.weight_gradient import exchanged

TILE = 64  # rows and columns of a result that one block of threads computes
BLOCKS = 256  # of threads, that keep a large GPU busy
MOST_JOINED = 32  # inputs of a Concat that CUDA graphs take


def multiply(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite a two-dimensional Conv whose operands both have batch and channels exchanged."""
    x, dy = (exchanged(value) for value in inputs[:2])
    if x is None or dy is None or len(site.x) != 2 or site.attribute("group") != 1 or len(shape_of(x)) != 4:
        return None
    n, ci, *_ = (int(d) for d in shape_of(x))
    _, co, *outs = (int(d) for d in shape_of(dy))
    kernel = [int(d) for d in shape_of(site.y)[2:]]
    pads = site.attribute("pads") or [0] * 4
    # What is a stride in the forward pass is a dilation here, and the other way round.
    steps, distances = site.attribute("dilations") or [1, 1], site.attribute("strides") or [1, 1]
    groups = groups_of(n, kernel[0] * kernel[1] * ci, co)
    if any(pads):  # before there are five axes, for which CUDA has but a slow kernel
        x = g.Pad(x, np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64))
    x, dy = (_grouped(g, value, groups) for value in (x, dy))
    taps = [
        _tap(g, x, [u * distances[0], v * distances[1]], outs, steps)
        for u in range(kernel[0])
        for v in range(kernel[1])
    ]
    columns = g.Reshape(_concat(g, taps), np.array([groups, len(taps) * ci, -1], np.int64))
    rows = g.Transpose(g.Reshape(dy, np.array([groups, co, -1], np.int64)), perm=[0, 2, 1])
    dw = g.MatMul(columns, rows)
    if groups > 1:
        dw = g.ReduceSum(dw, np.array([0], np.int64), keepdims=0)
    return (g.Transpose(g.Reshape(dw, np.array([*kernel, ci, co], np.int64)), perm=[2, 3, 0, 1]),)


def groups_of(n: int, rows: int, columns: int) -> int:
    """Return into how many groups n samples are split, for a result of so many rows and columns: a divisor of n."""
    blocks = -(-rows // TILE) * -(-columns // TILE)
    return next(q for q in range(1, n + 1) if n % q == 0 and (q * blocks >= BLOCKS or q == n))


def _grouped(g: GraphBuilder, v: ir.Value, groups: int) -> ir.Value:
    """Return v [N, C, H, W] as [groups, C, N/groups, H, W]."""
    n, c, *plane = (int(d) for d in shape_of(v))
    if groups == n:
        return g.Reshape(v, np.array([n, c, 1, *plane], np.int64))
    split = g.Reshape(v, np.array([groups, n // groups, c, *plane], np.int64))
    return g.Transpose(split, perm=[0, 2, 1, 3, 4])


def _concat(g: GraphBuilder, values: Sequence[ir.Value]) -> ir.Value:
    """Return the values side by side along axis 1."""
    while len(values) > MOST_JOINED:
        values = [_concat(g, values[i : i + MOST_JOINED]) for i in range(0, len(values), MOST_JOINED)]
    return g.Concat(*values, axis=1) if len(values) > 1 else values[0]


def _tap(g: GraphBuilder, x: ir.Value, start: Sequence[int], outs: Sequence[int], steps: Sequence[int]) -> ir.Value:
    """Return what one tap of the kernel reads: every step-th row and column from `start`, as many as dy has."""
    if list(start) == [0, 0] and list(steps) == [1, 1] and list(outs) == [int(d) for d in shape_of(x)[3:]]:
        return x
    ends = [s + (n - 1) * step + 1 for s, n, step in zip(start, outs, steps, strict=True)]
    starts, axes = np.array(start, np.int64), np.array([3, 4], np.int64)
    return g.Slice(x, starts, np.array(ends, np.int64), axes, np.array(steps, np.int64))
