"""Split the inference graph around what depends on the state alone.

What does becomes `fold.onnx`, evaluated once at export, and the rest `infer.onnx`.
"""

from dataclasses import dataclass

import onnx_ir as ir

from netc.graph import GraphBuilder, constant_value, shape_of

_NAME = "netc.parameter"


@dataclass(frozen=True)
class Split:
    """The two halves of inference; `feeds` names the input of `infer` for each output of `fold`."""

    fold: GraphBuilder
    infer: GraphBuilder
    feeds: dict[str, str]


def name_parameter(value: ir.Value, name: str) -> ir.Value:
    """Note the name under which inference knows a value that depends on the state alone, and return it."""
    value.meta[_NAME] = name
    return value


def split(graph: ir.Graph, state: set[str]) -> Split:
    """Cut an inference graph into what depends on the state alone and the rest.

    Args:
        graph: the inference graph.
        state: names of the graph inputs that are state.
    """
    of_state = {x for x in graph.inputs if x.name in state}
    of_batch = {x for x in graph.inputs if x.name not in state}
    for node in graph:
        if any(x in of_batch for x in node.inputs):
            of_batch.update(node.outputs)
        elif any(x in of_state for x in node.inputs):
            of_state.update(node.outputs)
    readers = [x for node in graph if node.outputs[0] in of_batch for x in node.inputs if x in of_state]
    frontier = dict.fromkeys(x for x in [*readers, *(y for y in graph.outputs if y in of_state)] if x is not None)
    names: dict[ir.Value, str] = {}
    taken: set[str] = set()
    for value in frontier:
        name = str(value.name) if value.is_graph_input() else value.meta.get(_NAME, str(value.name))
        while name in taken:
            name += "_"
        taken.add(name)
        names[value] = name
    fold = _half(graph, of_batch, {}, {f"{name}.folded": value for value, name in names.items()})
    infer = _half(graph, of_state, names, {str(value.name): value for value in graph.outputs})
    return Split(fold, infer, {f"{name}.folded": name for name in names.values()})


def _half(
    graph: ir.Graph, without: set[ir.Value], given: dict[ir.Value, str], outputs: dict[str, ir.Value]
) -> GraphBuilder:
    """Copy the graph less the values `without`; those among them that are `given` become inputs."""
    g = GraphBuilder(graph.name or "netc")
    new = {value: g.input(name, value.dtype or g.dtype, shape_of(value)) for value, name in given.items()}
    for value in graph.inputs:
        if value not in without:
            new[value] = g.input(str(value.name), value.dtype or g.dtype, shape_of(value))
    for constant in graph.initializers.values():
        new[constant] = g.constant(constant_value(constant))
    for node in graph:
        if node.outputs[0] not in without:
            inputs = [None if x is None else new[x] for x in node.inputs]
            new.update(zip(node.outputs, g.copy(node, inputs), strict=True))
    for name, value in outputs.items():
        g.output(name, new[value])
    return g
