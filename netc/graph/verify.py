"""Check a graph after every arrow of the pipeline, with the rules that built it.

Goals: SSA and topological order; unique names; every value typed as the standard's inference types it.
Non-goals: whether the graph computes the right thing (tests do that), and the rules of emitted graphs
(`rules.py`, applied by `emit`), since rooms before the rewrites may use operators that a rewrite expands.
"""

import onnx_ir as ir

from netc.graph.inference import infer


class VerificationError(AssertionError):
    """A graph that breaks its own grammar: always a defect of netc, never of the user."""


def verify(graph: ir.Graph, after: str) -> None:
    """Raise VerificationError, naming the pass that ran last and the nodes around the fault.

    Args:
        graph: any graph of the pipeline.
        after: the arrow that has just produced it, for the message.
    """
    defined: set[ir.Value] = set(graph.inputs) | set(graph.initializers.values())
    names: set[str] = set()
    nodes = list(graph)
    for value in defined:
        _check_name(value, names, after)
    for index, node in enumerate(nodes):
        for x in node.inputs:
            if x is not None and x not in defined:
                _fail(nodes, index, after, f"{x.name} is used before it is computed")
        for value in node.outputs:
            _check_name(value, names, after)
            if value.shape is None or value.dtype is None:
                _fail(nodes, index, after, f"{value.name} has no type")
            defined.add(value)
        _check_types(nodes, index, after)
    for value in graph.outputs:
        if value not in defined:
            raise VerificationError(f"after {after}: output {value.name} is computed by no node of the graph")


def _check_name(value: ir.Value, names: set[str], after: str) -> None:
    if not value.name or value.name in names:
        raise VerificationError(f"after {after}: the name {value.name!r} stands for two values")
    names.add(value.name)


def _check_types(nodes: list[ir.Node], index: int, after: str) -> None:
    for value, (kind, shape) in zip(nodes[index].outputs, infer(nodes[index]), strict=True):
        if kind == value.dtype and shape is value.shape:  # a frozen shape, so that nothing can have changed it
            continue
        dims = [dim if isinstance(dim, int) else None for dim in shape or ()]
        stated = [dim if isinstance(dim, int) else None for dim in value.shape or ()]
        if kind != value.dtype or dims != stated:
            _fail(nodes, index, after, f"{value.name} is stated as {value.dtype}{stated}, inferred as {dims}")


def _fail(nodes: list[ir.Node], index: int, after: str, reason: str) -> None:
    around = "\n".join(f"  {node}" for node in nodes[max(0, index - 3) : index + 3])
    raise VerificationError(f"after {after}: {reason}\n{around}")
