"""The gradient of max pooling without Indices, for windows of any size that may overlap.

As differentiated, MaxPool gives Indices and ScatterElements adds dy there. Here each of the k * k taps of a window
is a plane of its own: the input, padded with its least value, in strides from the tap's place. A tap gets dy where it
equals the maximum and no tap before it, in row order, did: the tie rule of Indices. The gradient is the adjoint of
the strided slice, so each plane is spread by the strides and moved to the tap's place, and the planes are added:

    s_t = padded(x)[u :: s, v :: s]     e_t = (s_t == y)    f_t = e_t and not (e_1 or ... or e_(t-1))
    dx = sum over t of spread_t(f_t * dy)

All spreads together are one transposed convolution by the one-hot kernels of the taps, [k * k, 1, k, k], on planes of
k * k channels. Reason: OpenVINO computes Indices with a reference kernel on one thread, 47 ms where the plain pooling
takes one; equalities stream. A NaN in x sends dy nowhere in its windows, not to one element.
"""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, shape_of
from netc.rewrite.max_pool_gradient import comparable, scattered_by
from netc.rewrite.replay import Inputs


def without_indices(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite the scatter of a gradient to the Indices of a two-dimensional MaxPool without dilations."""
    pool, spread = scattered_by(inputs)
    if pool is None or spread is None:
        return None
    x, y = Site(pool).x[0], pool.outputs[0]
    if len(shape_of(x)) != 4 or shape_of(spread) != shape_of(y):
        return None
    if any(d != 1 for d in Site(pool).attribute("dilations") or ()):
        return None
    kernel, strides = Site(pool).attribute("kernel_shape"), Site(pool).attribute("strides") or [1, 1]
    pads = Site(pool).attribute("pads") or [0] * 4
    n, c, *size = (int(d) for d in shape_of(x))
    outs = [int(d) for d in shape_of(y)[2:]]
    reached = [(outs[i] - 1) * strides[i] + kernel[i] for i in range(2)]
    after = [reached[i] - pads[i] - size[i] for i in range(2)]
    x, y = comparable(g, pool)
    padded = x
    if any(pads[:2]) or any(a > 0 for a in after):
        widths = np.array([0, 0, pads[0], pads[1], 0, 0, max(after[0], 0), max(after[1], 0)], np.int64)
        padded = g.Pad(x, widths, g.constant(-np.inf, x.dtype))
    planes, found = list[ir.Value](), None
    for u in range(kernel[0]):
        for v in range(kernel[1]):
            ends = [start + (outs[i] - 1) * strides[i] + 1 for i, start in enumerate((u, v))]
            tap = g.Slice(
                padded,
                np.array([u, v], np.int64),
                np.array(ends, np.int64),
                np.array([2, 3], np.int64),
                np.array(strides, np.int64),
            )
            equal = g.Equal(tap, y)
            first = equal if found is None else g.And(equal, g.Not(found))
            found = equal if found is None else g.Or(found, equal)
            planes.append(g.Cast(first, to=spread.dtype) * spread)
    stack = [g.Reshape(plane, np.array([n * c, 1, *outs], np.int64)) for plane in planes]
    taps = math.prod(kernel)
    one_hot = np.eye(taps).reshape(taps, 1, *kernel)
    dx = g.ConvTranspose(
        g.Concat(*stack, axis=1),
        g.constant(one_hot, spread.dtype),
        strides=strides,
        pads=[pads[0], pads[1], max(after[0], 0), max(after[1], 0)],
        output_padding=[max(-a, 0) for a in after] if any(a < 0 for a in after) else None,
    )
    return (g.Reshape(dx, np.array([-1], np.int64)),)
