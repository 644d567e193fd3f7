"""The weight gradient of a convolution for OpenVINO: one in three dimensions, with most of the batch as its depth.

As in `weight_gradient`, dw = Conv(x^T, dy^T) is computed with width and channels of x interleaved on one axis, and the
batch is summed over like channels. Here only m samples, 8 where they divide the batch, are channels. The others are the
depth of x and of the kernels, which are as deep as x, so that the result has a depth of 1:

    xi = x as [1, m, N/m, H, W * ci]    dk = dy as kernels [co, m, N/m, oh, ow]
    r = Conv(xi, dk, dilations [1, s, s * ci]) [1, co, 1, k, k * ci]        dw[o, c, u, v] = r[o, u, v * ci + c]

Reason: OpenVINO has the channels of a pixel side by side in memory. With the whole batch there, the pixels that a row
of results needs, one for each tap, are hundreds of bytes apart and come one by one from the outer caches; eight samples
are one line, and lines follow each other. The kernels are as large as dy, and are read again for every few columns of
the result: a batch whose kernels would take more than PART bytes is split, and the results are added.

Measured with AVX2, batches of 16 to 128 and 16 to 512 channels: 0.5 to 1 of the time of `grouped_weight_gradient`
and of `shifted_weight_gradient`. It needs a dilation of 1 in the forward pass, and a 1x1 kernel is a matrix product.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, shape_of
from netc.rewrite.replay import Inputs
from netc.rewrite.weight_gradient import exchanged

MOST_SAMPLES, FEWEST_SAMPLES = 8, 4  # beside each other: a vector of AVX2, and half of one
PART = 2 * 2**20  # bytes of float32 kernels


def stack(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite a two-dimensional Conv whose operands both have batch and channels exchanged."""
    x, dy = (exchanged(value) for value in inputs[:2])
    if x is None or dy is None or len(site.x) != 2 or site.attribute("group") != 1:
        return None
    kernel = [int(d) for d in shape_of(site.y)[2:]]
    if kernel == [1, 1] or any(stride != 1 for stride in site.attribute("strides") or [1, 1]):
        return None
    n, ci, height, width = (int(d) for d in shape_of(x))
    _, co, *outs = (int(d) for d in shape_of(dy))
    beside = next((m for m in range(MOST_SAMPLES, FEWEST_SAMPLES - 1, -1) if n % m == 0), None)
    if beside is None:
        return None
    parts = _parts(n // beside, 4 * n * co * outs[0] * outs[1])
    depth = n // beside // parts
    top, left, bottom, right = site.attribute("pads") or [0] * 4
    down, across = site.attribute("dilations") or [1, 1]
    volumes = [1, beside, depth, height, width * ci]

    def correlate(x: ir.Value, dy: ir.Value) -> ir.Value:
        flat = g.Reshape(dy, np.array([1, beside, depth * outs[0] * outs[1], co], np.int64))
        kernels = g.Reshape(g.Transpose(flat, perm=[0, 3, 1, 2]), np.array([co, beside, depth, *outs], np.int64))
        pads = [0, top, left * ci, 0, bottom, right * ci]
        return g.Conv(g.Reshape(x, np.array(volumes, np.int64)), kernels, pads=pads, dilations=[1, down, across * ci])

    x_last, dy_last = (_split(g, value, parts) for value in (x, dy))
    r, *others = (correlate(*part) for part in zip(x_last, dy_last, strict=True))
    for other in others:
        r = r + other
    return (g.Transpose(g.Reshape(r, np.array([co, *kernel, ci], np.int64)), perm=[3, 0, 1, 2]),)


def _parts(samples: int, size: int) -> int:
    """Return into how many equal parts to split kernels of `size` bytes, as few as do for PART, or all there are."""
    fitting = (parts for parts in range(1, samples) if samples % parts == 0 and size <= parts * PART)
    return next(fitting, samples)


def _split(g: GraphBuilder, value: ir.Value, parts: int) -> Sequence[ir.Value]:
    """Return equal parts of the batch of a value [N, C, H, W], channels last, as [N / parts, H, W * C]."""
    n, c, height, width = (int(d) for d in shape_of(value))
    # In rank 4, OpenVINO would bring what it splits into an order of its own, and back.
    last = g.Reshape(g.Transpose(value, perm=[0, 2, 3, 1]), np.array([n, height, width * c], np.int64))
    if parts == 1:
        return [last]
    return g.ops("Split", last, np.full(parts, n // parts, np.int64), num_outputs=parts, axis=0)
