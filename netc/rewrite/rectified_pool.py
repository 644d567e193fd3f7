"""Max pooling before the rectifier in front of it.

A rectifier keeps the order of numbers, so that the two can change places, forward and backward:

    y = MaxPool(Relu(x)) = Relu(MaxPool(x))        dx = scatter of (dy where y > 0) to the places of the maxima of x

Both are exact: the maximum of a window is where it was, unless no element is above 0, and then nothing goes back.
Reason: the rectifier and its mask see as many elements as there are windows, a quarter for windows of 2x2. It needs a
rectifier that nothing else reads; an engine that fuses one with the convolution in front still saves the mask.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, constant_value, shape_of
from netc.rewrite.max_pool_gradient import scattered_by, unflattened
from netc.rewrite.replay import Inputs, ReplayRule, file_of, origin_of


def pool_first(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite a MaxPool of a rectifier that only it and the rectifier's own gradient read."""
    rectified, source = site.x[0], _rectified(inputs[0])
    if source is None or rectified.is_graph_output():
        return None
    if any(use.node.op_type not in ("MaxPool", "Greater") for use in rectified.uses()):
        return None
    y, *indices = g.ops("MaxPool", source, num_outputs=len(site.node.outputs), **site.attributes())
    return g.Relu(y), *indices


def mask_windows(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite the product of a scattered gradient and the mask of a rectifier, where pooling went first."""
    scattered = unflattened(inputs[0])
    scatter = None if scattered is None else scattered.producer()
    x = _masked_by(inputs[1])
    if scatter is None or scatter.op_type != "ScatterElements" or x is None:
        return None
    pool, spread = scattered_by(scatter.inputs)
    if pool is None or spread is None or pool.inputs[0] is not x:
        return None
    zeros, places, _ = Site(scatter).x
    masked = spread * g.Cast(g.Greater(pool.outputs[0], 0.0), to=spread.dtype)
    with g.origin(replace(origin_of(scatter), rewrite=file_of(mask_windows))):
        flat = g.Reshape(masked, np.array([-1], np.int64))
        dx = g.ScatterElements(zeros, places, flat, **Site(scatter).attributes())
        return (g.Reshape(dx, np.array([int(d) for d in shape_of(site.y)], np.int64)),)


def _rectified(value: ir.Value | None) -> ir.Value | None:
    """Return what a Relu rectified."""
    node = None if value is None else value.producer()
    return node.inputs[0] if node is not None and node.op_type == "Relu" else None


def _masked_by(mask: ir.Value | None) -> ir.Value | None:
    """Return what was rectified of a mask Cast(Greater(Relu(x), 0))."""
    cast = None if mask is None else mask.producer()
    greater = cast.inputs[0].producer() if cast is not None and cast.op_type == "Cast" and cast.inputs[0] else None
    if greater is None or greater.op_type != "Greater":
        return None
    rectified, bound = greater.inputs
    at = None if bound is None else constant_value(bound)
    return _rectified(rectified) if at is not None and not at.any() else None


RULES: dict[str, Sequence[ReplayRule]] = {"MaxPool": (pool_first,), "Mul": (mask_windows,)}
