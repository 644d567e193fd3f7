"""Max pooling before the rectifier in front of it.

A rectifier keeps the order of numbers, so that the two can change places, forward and backward:

    y = MaxPool(Relu(x)) = Relu(MaxPool(x))        dx = scatter of (dy where y > 0) to the places of the maxima of x

Both are exact but for the signs of zeros: the maximum of a window is where it was, unless no element is above 0, and
then nothing goes back. Reason: the rectifier and its mask see as many elements as there are windows, a quarter for
windows of 2x2. Nothing but the pool and the mask may read the rectifier, and nothing but the mask the gradient of what
it gives.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Origin, Site, constant_value, origin_of, shape_of
from netc.rewrite.max_pool_gradient import scattered_by, unflattened
from netc.rewrite.replay import Inputs, ReplayRule, file_of


def pool_first(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite a MaxPool of a rectifier that only it and the rectifier's own mask read."""
    rectified = site.x[0]
    rectifier = rectified.producer()
    if rectifier is None or rectifier.op_type != "Relu" or rectified.is_graph_output():
        return None
    if prod(map(int, shape_of(site.y))) >= prod(map(int, shape_of(rectified))):
        return None
    others = [use.node for use in rectified.uses() if use.node is not site.node]
    places = sum(len(value.uses()) for value in site.node.outputs[1:])
    if len(others) > 1 or places != len(others) or not all(_masks_only(other, site.node) for other in others):
        return None
    source = _rectified(inputs[0])
    assert source is not None, "a rectifier is copied as it is"
    y, *indices = g.ops("MaxPool", source, num_outputs=len(site.node.outputs), **site.attributes())
    with g.origin(_moved(rectifier)):
        return g.Relu(y), *indices


def mask_windows(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite the product of a scattered gradient and the mask of a rectifier, where pooling went first."""
    scatter = _scatter(inputs[0])
    x = _masked_by(inputs[1])
    if scatter is None or x is None:
        return None
    pool, spread = scattered_by(scatter.inputs)
    if pool is None or spread is None or pool.inputs[0] is not x:
        return None
    zeros, places, _ = Site(scatter).x
    masked = spread * g.Cast(g.Greater(pool.outputs[0], 0.0), to=spread.dtype)
    with g.origin(_moved(scatter)):
        flat = g.Reshape(masked, np.array([-1], np.int64))
        dx = g.ScatterElements(zeros, places, flat, **Site(scatter).attributes())
        return (g.Reshape(dx, np.array([int(d) for d in shape_of(site.y)], np.int64)),)


def _moved(node: ir.Node) -> Origin:
    """Return the origin of a node that computes the same elsewhere."""
    return replace(origin_of(node), rewrite=file_of(mask_windows))


def _masks_only(greater: ir.Node, pool: ir.Node) -> bool:
    """Say whether a node masks what is scattered to the Indices of `pool`, and nobody reads that without the mask."""
    if greater.op_type != "Greater" or (cast := _only_reader(greater.outputs[0])) is None or cast.op_type != "Cast":
        return False
    product = _only_reader(cast.outputs[0])
    if product is None or product.op_type != "Mul" or _masked_by(product.inputs[1]) is None:
        return False
    scatter = _scatter(product.inputs[0])
    if scatter is None or scattered_by(scatter.inputs)[0] is not pool:
        return False
    back = _only_reader(scatter.outputs[0])
    return back is not None and _only_reader(back.outputs[0]) is product


def _only_reader(value: ir.Value) -> ir.Node | None:
    """Return the node that reads a value, if it is one and the value is no output."""
    readers = [use.node for use in value.uses()]
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


def _scatter(value: ir.Value | None) -> ir.Node | None:
    """Return the ScatterElements whose flat result was reshaped into a value."""
    flat = unflattened(value)
    node = None if flat is None else flat.producer()
    return node if node is not None and node.op_type == "ScatterElements" else None


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
