"""The gradient of max pooling without Indices, for windows of any size that may overlap.

As differentiated, MaxPool gives Indices and ScatterElements adds dy there. Here each of the k * k taps of a window
is a plane of its own: the input, padded with its least value, in strides from the tap's place. A tap gets dy where it
equals the maximum and no tap before it, in row order, did: the tie rule of Indices. The gradient is the adjoint of
the strided slice, so each plane is spread by the strides and moved to the tap's place, and the planes are added:

    s_t = padded(x)[u :: s, v :: s]     e_t = (s_t == y)    f_t = e_t and not (e_1 or ... or e_(t-1))
    dx = sum over t of spread_t(f_t * dy)

The tap u = b * s + a of the window i lies in the row (i + b) * s + a. Taps of one remainder a are therefore added as
they are, moved by b, and the s * s sums are interleaved once. Reason: OpenVINO computes Indices with a reference kernel
on one thread, 47 ms where the plain pooling takes one; equalities and sums stream. WebGPU has no kernel for Indices at
all, nor for `and` and `or`, which numbers stand for there. A NaN in x sends dy nowhere in its windows, not to one
element.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, shape_of
from netc.rewrite.max_pool_gradient import comparable, scattered_by
from netc.rewrite.replay import Inputs


def without_indices(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite the scatter of a gradient to the Indices of a two-dimensional MaxPool without dilations."""
    return _by_taps(g, inputs, logical=True)


def without_logic(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite it as `without_indices` does, with the numbers 0 and 1 for false and true, which is exact."""
    return _by_taps(g, inputs, logical=False)


def _by_taps(g: GraphBuilder, inputs: Inputs, logical: bool) -> Sequence[ir.Value] | None:
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
    size = [int(d) for d in shape_of(x)[2:]]
    outs = [int(d) for d in shape_of(y)[2:]]
    reached = [(outs[i] - 1) * strides[i] + kernel[i] for i in range(2)]
    after = [reached[i] - pads[i] - size[i] for i in range(2)]
    x, y = comparable(g, pool)
    padded = x
    if any(pads[:2]) or any(a > 0 for a in after):
        widths = np.array([0, 0, pads[0], pads[1], 0, 0, max(after[0], 0), max(after[1], 0)], np.int64)
        padded = g.Pad(x, widths, g.constant(-np.inf, x.dtype))
    # Sums of taps by remainder: [N, C, rows, columns] with a row more for each step that a window reaches beyond one.
    steps = [(k - 1) // s for k, s in zip(kernel, strides, strict=True)]
    sums: dict[tuple[int, int], ir.Value] = {}
    found = None
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
            if not logical:
                equal = g.Cast(equal, to=spread.dtype)
                first = equal if found is None else equal * (1.0 - found)
                found = first if found is None else found + first
            else:
                first = equal if found is None else g.And(equal, g.Not(found))
                found = equal if found is None else g.Or(found, equal)
            (down, row), (across, column) = divmod(u, strides[0]), divmod(v, strides[1])
            begins, ends = [down, across], [steps[0] - down, steps[1] - across]
            moved = (g.Cast(first, to=spread.dtype) if logical else first) * spread
            if any((*begins, *ends)):
                moved = g.Pad(moved, np.array([0, 0, *begins, 0, 0, *ends], np.int64))
            before = sums.get((row, column))
            sums[row, column] = moved if before is None else before + moved
    dx = _interleave(g, sums, strides)
    # From the rows that were reached, padding included, to those of x.
    lengths = [int(d) for d in shape_of(dx)[2:]]
    ends = [pads[i] + size[i] for i in range(2)]
    if any(pads[:2]) or any(e < n for e, n in zip(ends, lengths, strict=True)):
        dx = g.Slice(dx, np.array(pads[:2], np.int64), np.array(ends, np.int64), np.array([2, 3], np.int64))
    missing = [max(e - n, 0) for e, n in zip(ends, lengths, strict=True)]
    if any(missing):
        dx = g.Pad(dx, np.array([0, 0, 0, 0, 0, 0, *missing], np.int64))
    return (g.Reshape(dx, np.array([-1], np.int64)),)


def _interleave(g: GraphBuilder, sums: Mapping[tuple[int, int], ir.Value], strides: Sequence[int]) -> ir.Value:
    """Return the planes whose every s-th row and column from (a, b) is `sums[a, b]`; those that are not given are 0."""
    some = next(iter(sums.values()))
    n, c, rows, columns = (int(d) for d in shape_of(some))
    down, across = strides
    if (down, across) == (1, 1):
        return some
    taps = [sums.get((a, b)) for a in range(down) for b in range(across)]
    if None in taps:  # windows leave rows or columns out
        zeros = g.Expand(g.constant(0.0, some.dtype), np.array([n, c, rows, columns], np.int64))
        taps = [zeros if tap is None else tap for tap in taps]
    stack = g.Concat(*taps, axis=1)
    if down == across:
        return g.DepthToSpace(stack, blocksize=down)
    split = g.Reshape(stack, np.array([n, down, across, c, rows, columns], np.int64))
    turned = g.Transpose(split, perm=[0, 3, 4, 1, 5, 2])
    return g.Reshape(turned, np.array([n, c, rows * down, columns * across], np.int64))
