"""Rewrite by replay: build a graph anew, node by node, letting rules put other nodes in the place of some.

Every value of the new graph is typed by the builder again, so that no rewrite can leave a wrong type behind.
"""

from collections.abc import Callable, Sequence
from typing import cast

import onnx_ir as ir

from netc.graph import GraphBuilder, Origin, Site, shape_of
from netc.graph.builder import Part

# Given the new graph, a node of the old one and its inputs in the new one, a rule returns what takes the place of the
# node's outputs (fewer than the node has, if nobody reads the rest), or None to copy the node.
Inputs = Sequence[ir.Value | None]
ReplayRule = Callable[[GraphBuilder, Site, Inputs], Sequence[ir.Value] | None]


def first_of(*rules: ReplayRule) -> ReplayRule:
    """Return the rule that tries several in order and takes the first that does not decline."""

    def rule(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
        return next((outputs for each in rules if (outputs := each(g, site, inputs)) is not None), None)

    return rule


def origin_of(node: ir.Node) -> Origin:
    """Return the origin that a node carries."""
    metadata = node.metadata_props
    part = cast(Part, metadata.get("netc.part", "forward"))
    return Origin(metadata.get("netc.layer", "netc"), part, metadata.get("netc.spec", ""))


def replay(graph: ir.Graph, rules: dict[str, ReplayRule], dtype: ir.DataType = ir.DataType.FLOAT) -> GraphBuilder:
    """Return a graph that computes the same outputs, with `rules` (by operator) applied.

    Inputs and outputs keep names, types and order.
    """
    g = GraphBuilder(graph.name or "netc", dtype)
    new: dict[ir.Value, ir.Value] = {}
    for value in graph.inputs:
        new[value] = g.input(str(value.name), value.dtype or dtype, shape_of(value))
    for value in graph.initializers.values():
        if value.const_value is not None:
            new[value] = g.constant(value.const_value.numpy())
    for node in graph:
        rule = rules.get(node.op_type)
        inputs = [None if x is None else new[x] for x in node.inputs]
        with g.origin(origin_of(node)), g.arithmetic():
            outputs = rule(g, Site(node), inputs) if rule is not None else None
            if outputs is None:
                outputs = g.ops(node.op_type, *inputs, num_outputs=len(node.outputs), **Site(node).attributes())
        new.update(zip(node.outputs, outputs, strict=False))
    for value in graph.outputs:
        g.output(str(value.name), new[value])
    return g
