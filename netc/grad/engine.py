"""Reverse mode over a graph: walk the nodes backwards, ask the table for each cotangent, add up.

The engine knows no operator. What it guarantees to every rule: `dy` has the shape of the first output; what it
does for every rule: sums broadcast axes away, checks shape and type of the result, adds contributions of
several readers. Only nodes between `wrt` and the objective are visited, so nothing is computed for inputs that
nobody asked about (the first layer's image, frozen parameters).

Formula: Griewank & Walther, Evaluating Derivatives, section 3.2 (adjoint accumulation).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Origin, Site, shape_of

# A rule maps the cotangent of a node's first output to the cotangent of one of its inputs.
Rule = Callable[[GraphBuilder, Site, ir.Value], ir.Value]
# Per operator: one entry an input, the last one serving all further inputs of a variadic operator. None states
# that no gradient flows to this input (indices, shapes, conditions), an empty tuple that none flows at all.
# An operator that is missing has not been thought about: meeting it is an error.
Table = Mapping[str, tuple[Rule | None, ...]]
NOT_DIFFERENTIABLE: tuple[Rule | None, ...] = ()


def gradients(g: GraphBuilder, table: Table, objective: ir.Value, wrt: Sequence[ir.Value]) -> dict[ir.Value, ir.Value]:
    """Append the gradient of a scalar objective to the graph; arguments and errors are those of `cotangents_of`.

    Returns:
        Gradients with the shape of their values. A value that does not influence the objective is missing.
    """
    cotangents = cotangents_of(g, table, objective, wrt)
    return {x: cotangents[x] for x in wrt if x in cotangents}


def cotangents_of(
    g: GraphBuilder, table: Table, objective: ir.Value, wrt: Sequence[ir.Value]
) -> dict[ir.Value, ir.Value]:
    """Append the gradient of a scalar objective to the graph, and return what was computed on the way too.

    Args:
        g: the graph that computes `objective`; new nodes are appended to it.
        table: the differentiation rules.
        objective: a value with shape [].
        wrt: values to differentiate by.

    Returns:
        Gradients by `wrt` and by every value between them and the objective, with the shape of their values. A value
        that does not influence the objective is missing.

    Raises:
        AssertionError: an operator without rules lies on the way, or a rule returns the wrong shape or type.
    """
    if shape_of(objective) != []:
        raise AssertionError(f"the objective {objective.name} is not a scalar but {shape_of(objective)}")
    nodes = _between(g.graph, wrt, objective)
    cotangents: dict[ir.Value, ir.Value] = {}
    values = [*wrt, *(output for node in nodes for output in node.outputs[:1])]
    active = {value for value in values if _has_derivative(value)}
    if objective in active:
        one = np.ones([], (objective.dtype or g.dtype).numpy())
        cotangents[objective] = g.constant(one)
    for node in reversed(nodes):
        dy = cotangents.get(node.outputs[0])
        if dy is None:
            continue
        rules = table.get(node.op_type)
        if rules is None:
            raise AssertionError(f"{node.name}: no differentiation rule for operator {node.op_type}")
        layer = node.metadata_props.get("netc.layer", "netc")
        with g.origin(Origin(layer, "grad", node.metadata_props.get("netc.spec", ""))), g.arithmetic():
            for index, x in enumerate(node.inputs):
                rule = rules[min(index, len(rules) - 1)] if rules else None
                if x is None or x not in active or rule is None:
                    continue
                dx = _unbroadcast(g, rule(g, Site(node, index), dy), x)
                known = cotangents.get(x)
                cotangents[x] = dx if known is None else known + dx
    return cotangents


def _has_derivative(value: ir.Value) -> bool:
    """Whether a value is no whole number or boolean: what passes through those, say a rounding Cast, carries none."""
    return value.dtype is not None and value.dtype.is_floating_point()


def _between(graph: ir.Graph, wrt: Sequence[ir.Value], objective: ir.Value) -> list[ir.Node]:
    """Return the nodes on a way from `wrt` to the objective, in graph order."""
    forward = {x for x in wrt if _has_derivative(x)}
    reached: list[ir.Node] = []
    for node in graph:
        if any(x in forward for x in node.inputs if x is not None):
            reached.append(node)
            forward.update(y for y in node.outputs if _has_derivative(y))
    backward: set[ir.Value] = {objective}
    chosen: list[ir.Node] = []
    for node in reversed(reached):
        if any(y in backward and y in forward for y in node.outputs[1:]):
            raise AssertionError(f"{node.name}: the objective depends on more than the first output")
        if node.outputs[0] in backward:
            chosen.append(node)
            backward.update(x for x in node.inputs if x is not None)
    return chosen[::-1]


def _unbroadcast(g: GraphBuilder, dx: ir.Value, x: ir.Value) -> ir.Value:
    """Sum a cotangent over the axes along which the operator repeated its input."""
    have, want = shape_of(dx), shape_of(x)
    if have != want:
        extra = len(have) - len(want)
        axes = [i for i in range(len(have)) if i < extra or (want[i - extra] == 1 and have[i] != 1)]
        if axes:
            dx = g.ReduceSum(dx, np.array(axes, np.int64), keepdims=1 if extra == 0 else 0)
            if shape_of(dx) != want:
                dx = g.Reshape(dx, np.array(want, np.int64))
    if shape_of(dx) != want or dx.dtype != x.dtype:
        raise AssertionError(f"gradient of {x.name} is {dx.dtype}{shape_of(dx)}, not {x.dtype}{want}")
    return dx
