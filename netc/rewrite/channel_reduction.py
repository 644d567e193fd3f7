"""Sums and means over samples and planes: the statistics of batch normalization, and the gradients of biases.

`in_two_steps`, for CUDA, sums each plane before it sums the samples, and the same for means, whose parts have one size:

    ReduceSum over N, H, W = ReduceSum over N of (ReduceSum over H, W)

Reason: ONNX Runtime's CUDA provider has kernels of its own for reductions over the last axes and over the first ones;
what keeps an axis in the middle goes through cuDNN's general reduction.

`by_product`, for OpenVINO, sums a plane as rows of ones times its pixels, channels last, which is how OpenVINO has them
in memory; of K pixels at a time, the largest divisor of H * W that is at most MOST_PIXELS:

    sums [N * H * W / K, 1, C] = ones [1, K] times x [N * H * W / K, K, C]

Reason: OpenVINO's reductions keep few sums going at once and wait for each addition; its matrix products read as fast
as memory gives. Measured with AVX2, 16 to 64 channels: 0.2 to 0.4 of the time. A product adds its K terms one after the
other in float32, hence the bound: with 262,144 terms a mean was off by 2e-5, with 1,024 by no more than a reduction's.
"""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, constant_value, shape_of
from netc.rewrite.replay import Inputs

MOST_PIXELS, FEWEST_PIXELS = 1024, 16


def in_two_steps(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite a ReduceSum or ReduceMean over all axes but the second."""
    x = _reduced_to_channels(site, inputs)
    if x is None:
        return None
    planes = g.op(site.node.op_type, x, np.arange(2, len(shape_of(x)), dtype=np.int64), keepdims=0)
    return (g.op(site.node.op_type, planes, np.array([0], np.int64), keepdims=0),)


def by_product(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite a ReduceSum or ReduceMean of floating-point numbers over all axes but the second."""
    x = _reduced_to_channels(site, inputs)
    if x is None or x.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return None
    n, c, *plane = (int(d) for d in shape_of(x))
    pixels = math.prod(plane)
    most = max(k for k in range(1, min(pixels, MOST_PIXELS) + 1) if pixels % k == 0)
    if most < min(FEWEST_PIXELS, pixels) or pixels == 1:
        return None
    last = g.Transpose(x, perm=[0, *range(2, 2 + len(plane)), 1])
    ones = g.constant(np.ones((1, most)), x.dtype)
    sums = g.MatMul(ones, g.Reshape(last, np.array([n * pixels // most, most, c], np.int64)))
    total = g.ReduceSum(sums, np.array([0, 1], np.int64), keepdims=0)
    return (total if site.node.op_type == "ReduceSum" else total / float(n * pixels),)


def _reduced_to_channels(site: Site, inputs: Inputs) -> ir.Value | None:
    """Return what a reduction over all axes but the second reduces; None for any other."""
    x = inputs[0]
    if x is None or len(site.x) < 2 or site.attribute("keepdims"):
        return None
    axes, rank = constant_value(site.x[1]), len(shape_of(x))
    if axes is None or rank < 3 or sorted(axes.tolist()) != [0, *range(2, rank)]:
        return None
    return x
