"""The weight gradient of a convolution for OpenVINO: interleaved, and split over groups of the batch.

As in `weight_gradient`, dw = Conv(x^T, dy^T) is computed with width and channels of x interleaved on one axis, which
gives the result rows k * ci wide. There the batch is summed over like channels, so that the whole plane of results is
small, and OpenVINO's convolution finds little to share between threads. A sum over n samples is a sum of q sums over
n/q samples each: one grouped convolution, whose groups are independent, and a small sum at the end:

    xi = x as [1, N, H, W * ci]        dk = dy as q kernels [co, N/q, oh, ow]
    r = Conv(xi, dk, group q, dilations [s, s * ci]) [1, q * co, k, k * ci]
    dw[o, c, u, v] = sum over j of r[j * co + o, u, v * ci + c]

Both operands come out of transposes from channels-last, which cost nothing in OpenVINO: its activations lie that way.
The number of groups is fixed, because a compiled step does not know the threads that will run it: one for each of
two. It needs a dilation of 1 in the forward pass. A single channel has nothing to interleave, but gains the transposes.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, shape_of
from netc.rewrite.replay import Inputs
from netc.rewrite.weight_gradient import exchanged

GROUPS = 2
FEWEST_SAMPLES = 16  # of a group, which the kernel for AVX-512 takes at once


def group(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite a two-dimensional Conv whose operands both have batch and channels exchanged."""
    x, dy = (exchanged(value) for value in inputs[:2])
    if x is None or dy is None or len(site.x) != 2 or site.attribute("group") != 1:
        return None
    if any(stride != 1 for stride in site.attribute("strides") or [1, 1]):
        return None
    n, ci, height, width = (int(d) for d in shape_of(x))
    _, co, out_height, out_width = (int(d) for d in shape_of(dy))
    groups = GROUPS if n % (GROUPS * FEWEST_SAMPLES) == 0 else 1
    rows = g.Reshape(g.Transpose(x, perm=[0, 2, 3, 1]), np.array([1, n, height, width * ci], np.int64))
    last = g.Transpose(dy, perm=[0, 2, 3, 1])
    split = g.Reshape(last, np.array([groups, n // groups, out_height * out_width, co], np.int64))
    kernels = g.Reshape(
        g.Transpose(split, perm=[0, 3, 1, 2]), np.array([groups * co, n // groups, out_height, out_width], np.int64)
    )
    top, left, bottom, right = site.attribute("pads") or [0] * 4
    down, across = site.attribute("dilations") or [1, 1]
    pads = [top, left * ci, bottom, right * ci]
    r = g.Conv(rows, kernels, pads=pads, dilations=[down, across * ci], group=groups)
    taps_down, taps_across = (int(d) for d in shape_of(site.y)[2:])
    parts = g.Reshape(r, np.array([groups, co, taps_down, taps_across, ci], np.int64))
    dw = g.ReduceSum(parts, np.array([0], np.int64), keepdims=0)
    return (g.Transpose(dw, perm=[3, 0, 1, 2]),)
