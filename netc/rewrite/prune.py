"""Remove what repeats and what nobody reads, in time proportional to the graph.

Two nodes that apply one operator with equal attributes to the same values compute the same: the first stands for both.
onnx-ir has these passes too, but each of its removals looks at all outputs of the graph, of which a training step has
one or more a parameter: the time grows with the square of the depth.
"""

from collections.abc import Hashable

import onnx
import onnx_ir as ir

from netc.graph.inference import OPSET, attribute_key


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
    """Remove what no output depends on: nodes, their last outputs, constants; and omitted inputs at the end."""
    dead: list[ir.Node] = []
    for node in reversed(graph):
        if not any(map(_is_read, node.outputs)):
            _detach(node)
            dead.append(node)
            continue
        given = len(node.inputs)
        while given and node.inputs[given - 1] is None:
            given -= 1
        if given < len(node.inputs):
            node.resize_inputs(given)
        if len(node.outputs) > 1:
            _drop_unread_outputs(node)
    graph.remove(dead)
    for name, constant in list(graph.initializers.items()):
        if not _is_read(constant):
            del graph.initializers[name]


def _is_read(value: ir.Value) -> bool:
    return value.is_graph_output() or bool(value.uses())


def _drop_unread_outputs(node: ir.Node) -> None:
    """Stop asking a node for trailing outputs that nobody reads, such as the Indices of a MaxPool."""
    training = node.attributes.get("training_mode")
    if training is None or not training.as_int():  # in training mode the number of outputs is fixed
        required = onnx.defs.get_schema(node.op_type, OPSET).min_output  # two of TopK, whichever is read
        read = [index for index, y in enumerate(node.outputs) if _is_read(y)]
        node.resize_outputs(max(required, 1 + max(read)))


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
