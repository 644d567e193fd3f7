"""Rewrite by replay: build a graph anew, node by node, letting rules put other nodes in the place of some.

Every value of the new graph is typed by the builder again, so that no rewrite can leave a wrong type behind.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from netc.graph import GraphBuilder, Site, origin_of, shape_of

# Given the new graph, a node of the old one and its inputs in the new one, a rule returns what takes the place of the
# node's outputs (fewer than the node has, if nobody reads the rest), or None to copy the node.
Inputs = Sequence[ir.Value | None]
ReplayRule = Callable[[GraphBuilder, Site, Inputs], Sequence[ir.Value] | None]
# By operator; the first rule that does not decline is taken.
Rules = Mapping[str, Sequence[ReplayRule]]


def file_of(rule: ReplayRule) -> str:
    """Return the name of the file in netc/rewrite that a rule is in."""
    return rule.__module__.rsplit(".", 1)[-1]


def replay(
    graph: ir.Graph,
    rules: Rules,
    dtype: ir.DataType = ir.DataType.FLOAT,
    replaced: Callable[[Site], None] | None = None,
    order: Callable[[Site, Sequence[ReplayRule]], Sequence[ReplayRule]] = lambda site, rules: rules,
) -> GraphBuilder:
    """Return a graph that computes the same outputs, with `rules` applied.

    Inputs and outputs keep names, types and order. Nodes that a rule appends carry the name of its file. `order` says
    which rules to try at a node, and `replaced` is told of each node that one took.
    """
    g = GraphBuilder(graph.name or "netc", dtype)
    new: dict[ir.Value, ir.Value] = {}
    for value in graph.inputs:
        new[value] = g.input(str(value.name), value.dtype or dtype, shape_of(value))
    replay_nodes(g, graph, new, rules, replaced, order)
    for value in graph.outputs:
        g.output(str(value.name), new[value])
    return g


def replay_nodes(
    g: GraphBuilder,
    graph: ir.Graph,
    new: dict[ir.Value, ir.Value],
    rules: Rules,
    replaced: Callable[[Site], None] | None = None,
    order: Callable[[Site, Sequence[ReplayRule]], Sequence[ReplayRule]] = lambda site, rules: rules,
) -> None:
    """Append the constants and nodes of a graph to `g`, with `rules` applied.

    `new` has what its inputs are in `g`, and gets what all its other values are there.
    """
    for value in graph.initializers.values():
        if value.const_value is not None:
            new[value] = g.constant(value.const_value.numpy())
    for node in graph:
        inputs = [None if x is None else new[x] for x in node.inputs]
        outputs = None
        given = rules.get(node.op_type, ())
        for rule in order(Site(node), given) if given else ():
            with g.origin(replace(origin_of(node), rewrite=file_of(rule))), g.arithmetic():
                outputs = rule(g, Site(node), inputs)
            if outputs is not None:
                if replaced is not None:
                    replaced(Site(node))
                break
        if outputs is None:
            outputs = g.copy(node, inputs)
        new.update(zip(node.outputs, outputs, strict=False))
