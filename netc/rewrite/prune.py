"""Remove what repeats and what nobody reads, in time proportional to the graph.

Two nodes that apply one operator with equal attributes to the same values compute the same: the first stands for both.
onnx-ir has these passes too, but each of its removals looks at all outputs of the graph, of which a training step has
one or more a parameter: the time grows with the square of the depth.
"""

from collections.abc import Hashable

import onnx_ir as ir
from onnx_ir.passes import common

from netc.graph.inference import IR_VERSION, attribute_key


def merge_repeats(graph: ir.Graph) -> None:
    """Let the first of equal nodes stand for all; the graph's outputs keep names and order."""
    first: dict[Hashable, ir.Node] = {}
    places = {output: index for index, output in enumerate(graph.outputs)}
    repeats: list[ir.Node] = []
    for node in graph:
        attributes = tuple(sorted(attribute_key(attribute) for attribute in node.attributes.values()))
        key = node.op_identifier(), len(node.outputs), tuple(node.inputs), attributes
        kept = first.setdefault(key, node)
        if kept is not node:
            for old, new in zip(node.outputs, kept.outputs, strict=True):
                if old.is_graph_output():
                    _hand_over(graph, places, old, new, node)
                ir.convenience.replace_all_uses_with(old, new)
            _detach(node)
            repeats.append(node)
    graph.remove(repeats)


def drop_unread(graph: ir.Graph) -> None:
    """Remove the nodes, constants and omitted trailing inputs that no output depends on."""
    dead: list[ir.Node] = []
    for node in reversed(graph):
        if not any(y.is_graph_output() or y.uses() for y in node.outputs):
            _detach(node)
            dead.append(node)
    graph.remove(dead)
    common.RemoveUnusedNodesPass()(ir.Model(graph, ir_version=IR_VERSION))


def _hand_over(graph: ir.Graph, places: dict[ir.Value, int], old: ir.Value, new: ir.Value, before: ir.Node) -> None:
    """Make `new` the graph output that `old` is, or a copy of it where `new` is an output already."""
    index = places[old]
    if new.is_graph_output():
        copy = ir.Value(name=old.name, type=old.type, shape=old.shape)
        graph.insert_before(before, ir.node("Identity", [new], outputs=[copy]))
        new = copy
    else:
        new.name = old.name
    graph.outputs[index] = new
    places[new] = index


def _detach(node: ir.Node) -> None:
    """Read nothing any more."""
    for index in range(len(node.inputs)):
        node.replace_input_with(index, None)
