"""Fold batch normalization of the inference graph into the weights before it, and split the graph around it.

With s = scale / sqrt(var + eps), per channel:
    BN(Conv(x, w) + b) = Conv(x, s w) + (s (b - mean) + bias)   (w: output channels on axis 0; Gemm alike)
    BN(x) = s x + (bias - s mean)                                  (anything else)
s and everything made from it depend on the state alone. `split` cuts the graph there: what depends on the state
becomes `fold.onnx`, evaluated once at export, and the rest `infer.onnx`. The arithmetic of the fold is in double
precision. A producer with a second reader is not folded (it would be computed twice): the fold declines.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, constant_value, shape_of
from netc.rewrite.replay import Inputs, origin_of, replay

DOUBLE = ir.DataType.DOUBLE
_NAME = "netc.parameter"


@dataclass(frozen=True)
class Split:
    """The two halves of inference; `feeds` names the input of `infer` for each output of `fold`."""

    fold: GraphBuilder
    infer: GraphBuilder
    feeds: dict[str, str]


def fold_batch_normalization(graph: ir.Graph) -> GraphBuilder:
    """Return the inference graph without BatchNormalization nodes."""
    return replay(graph, {"BatchNormalization": (_fold,)})


def _producer_to_fold(site: Site) -> ir.Node | str:
    """Return the node that a BatchNormalization folds into, or the reason why there is none."""
    x = site.x[0]
    producer = x.producer()
    if producer is None:
        return "its input is fed"
    if producer.op_type not in ("Conv", "Gemm"):
        return f"its input comes from {producer.op_type}"
    if len(x.uses()) > 1 or x.is_graph_output():
        return f"{producer.name} has a second reader"
    if producer.op_type == "Gemm" and not Site(producer).attribute("transB"):
        return f"{producer.name} keeps its output channels on axis 1"
    return producer


def _fold(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value]:
    x, *statistics = (value for value in inputs if value is not None)
    scale, bias, mean, var = (g.Cast(value, to=DOUBLE) for value in statistics)
    s = scale / g.Sqrt(var + float(site.attribute("epsilon")))
    producer = _producer_to_fold(site)
    if isinstance(producer, str):
        layer = origin_of(site.node).layer
        factor = _parameter(g.Cast(_planes(g, s, x), to=x.dtype), f"{layer}.scale")
        shift = _parameter(g.Cast(_planes(g, bias - s * mean, x), to=x.dtype), f"{layer}.shift")
        return (x * factor + shift,)
    copied = x.producer()
    assert copied is not None, "the producer has been replayed before its reader"
    source, w, *b = (value for value in copied.inputs if value is not None)
    layer = origin_of(producer).layer
    folded = g.Cast(w, to=DOUBLE) * g.Reshape(s, np.array([-1] + [1] * (len(shape_of(w)) - 1), np.int64))
    offset = (g.Cast(b[0], to=DOUBLE) - mean) * s + bias if b else bias - s * mean
    weight = _parameter(g.Cast(folded, to=w.dtype), f"{layer}.weight")
    with g.origin(origin_of(producer)):
        operands = source, weight, _parameter(g.Cast(offset, to=w.dtype), f"{layer}.bias")
        return (g.op(producer.op_type, *operands, **Site(producer).attributes()),)


def _planes(g: GraphBuilder, v: ir.Value, x: ir.Value) -> ir.Value:
    """View a vector [C] as [C, 1, 1, ...], which broadcasts over the planes of x."""
    rank = len(shape_of(x))
    return g.Reshape(v, np.array([-1] + [1] * (rank - 2), np.int64)) if rank > 2 else v


def _parameter(value: ir.Value, name: str) -> ir.Value:
    """Note the name under which inference knows a folded value."""
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
            with g.origin(origin_of(node)):
                copies = g.ops(node.op_type, *inputs, num_outputs=len(node.outputs), **Site(node).attributes())
            new.update(zip(node.outputs, copies, strict=True))
    for name, value in outputs.items():
        g.output(name, new[value])
    return g
