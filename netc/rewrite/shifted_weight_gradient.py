"""The weight gradient of a convolution for OpenVINO: one matrix product for each tap of the kernel.

As differentiated, dw = Conv(x^T, dy^T): x [N, ci, H, W] and dy [N, co, oh, ow] with batch and channels exchanged. With
channels last, x_uv is what the tap (u, v) reads: padded, shifted by the tap, every s-th row and column. Then

    dw[:, :, u, v] = dy^T x_uv        dy [N * oh * ow, co]    x_uv [N * oh * ow, ci]

Each half of an even batch has a product of its own, which are added: the sum is long and its result small, so that
OpenVINO finds little else to share between threads (with AVX2, a product takes 0.75 to 1 of the time).

Reason: a 1x1 kernel needs no copies of x, and no convolution is faster. Larger ones need a copy for each tap; where
`deep_weight_gradient` declines they pay off with many channels, whose products run near the peak. Against
`grouped_weight_gradient` with AVX-512: twice as fast for 128 channels in a batch of 16, 1.2 times for 64 in a batch of
64, slower for 16.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, shape_of
from netc.rewrite.replay import Inputs
from netc.rewrite.weight_gradient import exchanged

FEWEST_CHANNELS = 32
GROUPS = 2
MOST_TAPS = 25


def multiply(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite a two-dimensional Conv whose operands both have batch and channels exchanged."""
    x, dy = (exchanged(value) for value in inputs[:2])
    if x is None or dy is None or len(site.x) != 2 or site.attribute("group") != 1:
        return None
    n, ci, height, width = (int(d) for d in shape_of(x))
    _, co, *outs = (int(d) for d in shape_of(dy))
    kernel = [int(d) for d in shape_of(site.y)[2:]]
    taps = kernel[0] * kernel[1]
    if taps > MOST_TAPS or (taps > 1 and min(ci, co) < FEWEST_CHANNELS):
        return None
    top, left, bottom, right = site.attribute("pads") or [0] * 4
    # What is a stride in the forward pass is a dilation here, and the other way round.
    steps, distances = site.attribute("dilations") or [1, 1], site.attribute("strides") or [1, 1]
    # [N, H, W * ci]: in rank 4, OpenVINO would bring what it pads and slices into an order of its own, and back.
    last = g.Reshape(g.Transpose(x, perm=[0, 2, 3, 1]), np.array([n, height, width * ci], np.int64))
    if any((top, left, bottom, right)):
        last = g.Pad(last, np.array([0, top, left * ci, 0, bottom, right * ci], np.int64))
    groups = GROUPS if n % GROUPS == 0 else 1
    rows = np.array([groups, n // groups * outs[0] * outs[1], -1], np.int64)
    dy_t = g.Transpose(g.Reshape(g.Transpose(dy, perm=[0, 2, 3, 1]), rows), perm=[0, 2, 1])
    products = [
        g.MatMul(dy_t, g.Reshape(_shifted(g, last, (u * distances[0], v * distances[1]), outs, steps, ci), rows))
        for u in range(kernel[0])
        for v in range(kernel[1])
    ]
    parts = g.Concat(*products, axis=2) if taps > 1 else products[0]
    dw = parts if groups == 1 else g.ReduceSum(parts, np.array([0], np.int64), keepdims=0)
    return (g.Transpose(g.Reshape(dw, np.array([co, *kernel, ci], np.int64)), perm=[3, 0, 1, 2]),)


def _shifted(
    g: GraphBuilder, x: ir.Value, start: tuple[int, int], outs: Sequence[int], steps: Sequence[int], ci: int
) -> ir.Value:
    """Return every step-th row and column of x [N, H, W * ci] from `start`, as many as `outs`."""
    n, height, width = (int(d) for d in shape_of(x))
    if start == (0, 0) and list(steps) == [1, 1] and list(outs) == [height, width // ci]:
        return x
    ends = [s + (out - 1) * step + 1 for s, out, step in zip(start, outs, steps, strict=True)]
    axes = np.array([1, 2], np.int64)
    if steps[1] == 1:
        starts, stops = np.array([start[0], start[1] * ci], np.int64), np.array([ends[0], ends[1] * ci], np.int64)
        return g.Slice(x, starts, stops, axes, np.array([steps[0], 1], np.int64))
    columns = g.Reshape(x, np.array([n, height, width // ci, ci], np.int64))
    return g.Slice(columns, np.array(start, np.int64), np.array(ends, np.int64), axes, np.array(steps, np.int64))
