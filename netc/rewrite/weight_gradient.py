"""The weight gradient of a convolution without im2col over single taps.

As differentiated, dw = Conv(x^T, dy^T): x [N, ci, H, W] and dy [N, co, oh, ow] with batch and channels exchanged. An
engine unrolls x into columns that are only k wide, one element at a time. Seen channels-last, with width and channels
interleaved on one axis, the same sum has rows k * ci wide, which are copied in long runs:

    xi = x as [1, N, H, W * ci]    r = Conv(xi, dy^T, dilations [s, s * ci]) [1, co, k, k * ci]
    dw[o, c, u, v] = r[o, u, v * ci + c]

Reason: on ONNX Runtime's CPU provider this is the largest single gain, 2 to 3 times for 16 or more channels. It needs a
dilation of 1 in the forward pass (a stride of 1 here) and gains nothing with a single channel.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, shape_of
from netc.rewrite.replay import Inputs

FEWEST_CHANNELS = 2


def interleave(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite a two-dimensional Conv whose operands both have batch and channels exchanged."""
    x, dy = (exchanged(value) for value in inputs[:2])
    if x is None or dy is None or len(site.x) != 2 or site.attribute("group") != 1:
        return None
    if any(stride != 1 for stride in site.attribute("strides") or [1, 1]):
        return None
    ci, n, height, width = (int(d) for d in shape_of(site.x[0]))
    if ci < FEWEST_CHANNELS:
        return None
    rows = g.Reshape(g.Transpose(x, perm=[0, 2, 3, 1]), np.array([1, n, height, width * ci], np.int64))
    kernels = inputs[1]
    assert kernels is not None, "a convolution has kernels"
    return (correlate(g, site, rows, kernels, ci),)


def correlate(g: GraphBuilder, site: Site, rows: ir.Value, kernels: ir.Value, ci: int) -> ir.Value:
    """Return the site's output from rows [1, N, H, W * ci] and kernels [co, N, oh, ow]."""
    top, left, bottom, right = site.attribute("pads") or [0] * 4
    down, across = site.attribute("dilations") or [1, 1]
    r = g.Conv(rows, kernels, pads=[top, left * ci, bottom, right * ci], dilations=[down, across * ci])
    co, taps_down, taps_across = (int(d) for d in shape_of(site.y)[1:])
    taps = g.Reshape(r, np.array([co, taps_down, taps_across, ci], np.int64))
    return g.Transpose(taps, perm=[3, 0, 1, 2])


def exchanged(value: ir.Value | None) -> ir.Value | None:
    """Return v where `value` is v [N, C, H, W] with its first two axes exchanged."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Transpose" or Site(node).attribute("perm") != [1, 0, 2, 3]:
        return None
    return node.inputs[0]
