"""The gradient of 2x2 stride-2 max pooling without Indices.

As differentiated, MaxPool gives Indices and ScatterElements writes dy there. For windows that tile the plane the first
maximum can be marked in place, with up(t) nearest upsampling by 2 and rank the tiling of [[4, 3], [2, 1]]:

    e = (x == up(y)) * rank        dx = (e == up(MaxPool(e))) * up(dy)

e is the rank of each maximum in its window, so its own maximum is the first of them in row order: the tie rule of
Indices. Reason: a MaxPool with Indices and a scatter run on one thread in ONNX Runtime's CPU provider and have no
kernel in WebGPU; equalities and upsampling stream. A NaN in x sends dy nowhere in its window, not to one element.
Float16 is pooled once more in float32: what ONNX Runtime's CPU provider makes of it is rounded between some operators
alone, so that a maximum need not equal the element that it is.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, shape_of
from netc.rewrite.replay import Inputs

RANK = np.array([[4, 3], [2, 1]])


def without_indices(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite the scatter of a gradient to the Indices of a 2x2 stride-2 MaxPool on even planes."""
    pool, spread = scattered_by(inputs)
    if pool is None or spread is None:
        return None
    x, y = Site(pool).x[0], pool.outputs[0]
    if not tiled(Site(pool)) or shape_of(spread) != shape_of(y):
        return None
    x, y = comparable(g, pool)
    height, width = (int(n) for n in shape_of(x)[2:])
    rank = np.tile(RANK, (height // 2, width // 2)).astype((x.dtype or g.dtype).numpy())
    e = g.Cast(g.Equal(x, _up(g, y)), to=x.dtype) * g.constant(rank)
    first = g.MaxPool(e, kernel_shape=[2, 2], strides=[2, 2])
    dx = g.Cast(g.Equal(e, _up(g, first)), to=spread.dtype) * _up(g, spread)
    return (g.Reshape(dx, np.array([-1], np.int64)),)


def scattered_by(inputs: Inputs) -> tuple[ir.Node | None, ir.Value | None]:
    """Return the MaxPool to whose Indices a ScatterElements writes, and what it writes; None for any other."""
    _, indices, spread = (unflattened(value) for value in inputs)
    pool = indices.producer() if indices is not None else None
    if pool is None or pool.op_type != "MaxPool" or indices is not pool.outputs[1]:
        return None, None
    return pool, spread


def comparable(g: GraphBuilder, pool: ir.Node) -> tuple[ir.Value, ir.Value]:
    """Return input and output of a MaxPool, in a type in which a maximum equals the element that it is."""
    x, y = Site(pool).x[0], pool.outputs[0]
    if x.dtype != ir.DataType.FLOAT16:
        return x, y
    wide = g.Cast(x, to=ir.DataType.FLOAT)
    return wide, g.MaxPool(wide, **Site(pool).attributes())


def tiled(site: Site) -> bool:
    """Say whether the windows of a MaxPool are 2x2 and tile the plane."""
    shape = shape_of(site.x[0])
    padded, dilated = any(site.attribute("pads") or ()), any(d != 1 for d in site.attribute("dilations") or ())
    window = site.attribute("kernel_shape"), site.attribute("strides")
    even = len(shape) == 4 and all(int(n) % 2 == 0 for n in shape[2:])
    return window == ([2, 2], [2, 2]) and not padded and not dilated and even


def unflattened(value: ir.Value | None) -> ir.Value | None:
    """Return what a flat vector was reshaped from."""
    node = value.producer() if value is not None else None
    return node.inputs[0] if node is not None and node.op_type == "Reshape" else None


def _up(g: GraphBuilder, v: ir.Value) -> ir.Value:
    """Repeat each element of the planes twice along both axes."""
    scales = np.array([1, 1, 2, 2], np.float32)
    return g.Resize(v, None, scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
