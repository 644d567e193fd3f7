"""Fold batch normalization, and other affine maps of channels, of the inference graph into the weights around them.

`fold_plan` decides what folds where, `fold_algebra` has the formulas; here the graph is built anew by that plan.
"""

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, constant_value, origin_of, shape_of
from netc.rewrite.fold_algebra import Affine, View, absorbed, of_batch_normalization, vector
from netc.rewrite.fold_plan import Chain, Plan, Taken
from netc.rewrite.split import name_parameter


def fold_batch_normalization(graph: ir.Graph, state: Collection[str]) -> GraphBuilder:
    """Return the inference graph without BatchNormalization nodes.

    What stays of one is a Mul and an Add, whose metadata `netc.fold` say why.

    Args:
        graph: the inference graph.
        state: names of the graph inputs that are state.
    """
    return _Folding(graph, state).run()


class _Folding:
    def __init__(self, graph: ir.Graph, state: Collection[str]) -> None:
        self._graph, self._plan = graph, Plan(graph, state)
        self._g = GraphBuilder(graph.name or "netc")
        self._new: dict[ir.Value, ir.Value] = {}
        self._maps: dict[Chain, Affine] = {}

    def run(self) -> GraphBuilder:
        g, new, plan = self._g, self._new, self._plan
        for value in self._graph.inputs:
            new[value] = g.input(str(value.name), value.dtype or g.dtype, shape_of(value))
        for value in self._graph.initializers.values():
            new[value] = g.constant(constant_value(value))
        # What is known comes first: a linear node takes in a chain behind it, whose operands the list may have later.
        for node in sorted(self._graph, key=lambda node: node.outputs[0] not in plan.known):
            chain = plan.chains.get(node)
            if chain is not None:
                kept = chain.reason and node is chain.steps[-1]
                new[node.outputs[0]] = self._scaled_and_shifted(chain) if kept else new[self._source(node, chain)]
            elif node in plan.taken:
                new[node.outputs[0]] = self._linear(node, plan.taken[node])
            else:
                self._copy(node)
        for value in self._graph.outputs:
            g.output(str(value.name), new[value])
        return g

    def _source(self, node: ir.Node, chain: Chain) -> ir.Value:
        """Return what a step of a chain maps."""
        index = chain.steps.index(node)
        return chain.steps[index - 1].outputs[0] if index else chain.x

    def _copy(self, node: ir.Node) -> None:
        inputs = [None if x is None else self._new[x] for x in node.inputs]
        self._new.update(zip(node.outputs, self._g.copy(node, inputs), strict=True))

    def _map_of(self, chain: Chain) -> Affine:
        """Return the map that the steps of a chain make together."""
        if chain not in self._maps:
            g, total = self._g, Affine()
            for node in chain.steps:
                source = self._source(node, chain)
                operands = [self._new[x] for x in Site(node).x if x is not source]
                with g.origin(replace(origin_of(node), rewrite="fold")):
                    if node.op_type == "BatchNormalization":
                        step = of_batch_normalization(g, Site(node), operands)
                    else:
                        (v,) = (vector(g, operand) for operand in operands)
                        step = Affine(scale=v) if node.op_type == "Mul" else Affine(shift=v)
                    total = total.then(g, step)
            self._maps[chain] = total
        return self._maps[chain]

    def _scaled_and_shifted(self, chain: Chain) -> ir.Value:
        """Return what is left of a chain with a normalization that is not folded."""
        g, y, of, node = self._g, self._new[chain.x], self._map_of(chain), chain.normalization
        assert node is not None, "other chains stay as they are"
        origin = replace(origin_of(node), rewrite="fold", fold=chain.reason)
        for op_type, name, v in (("Mul", "scale", of.scale), ("Add", "shift", of.shift)):
            assert v is not None, "a normalization scales and shifts"
            with g.origin(replace(origin, fold="")):
                operand = g.Cast(_planes(g, v, y), to=y.dtype)
            with g.origin(origin):
                y = g.op(op_type, y, name_parameter(operand, f"{origin.layer}.{name}"))
        return y

    def _linear(self, node: ir.Node, taken: Taken) -> ir.Value:
        """Return the output of a linear node with weights of its own, which take in the chains around it."""
        g, site = self._g, Site(node)
        x, w, *b = (self._new[value] for value in site.x)
        before = Affine() if taken.before is None else self._map_of(taken.before)
        channels = int(shape_of(site.x[0] if taken.before is None else taken.before.y)[1])
        parts = [(self._map_of(part.chain), part.start, part.stop) for part in taken.after]
        origin, after = origin_of(node), Affine()
        with g.origin(replace(origin, rewrite="fold")):
            for of, start, stop in parts:
                after = after.then(g, of.part(g, start, stop))
            weight, bias = absorbed(g, View.of(node, channels), w, b[0] if b else None, before, after)
        operands = [name_parameter(weight, f"{origin.layer}.weight")]
        if bias is not None:
            operands.append(name_parameter(bias, f"{origin.layer}.bias"))
        op_type = "Gemm" if node.op_type == "MatMul" else node.op_type  # which adds a bias too
        with g.origin(origin):
            return g.op(op_type, x, *operands, **site.attributes())


def _planes(g: GraphBuilder, v: ir.Value, x: ir.Value) -> ir.Value:
    """View a vector [C] as [C, 1, 1, ...], which broadcasts over the planes of x."""
    rank = len(shape_of(x))
    return g.Reshape(v, np.array([-1] + [1] * (rank - 2), np.int64)) if rank > 2 else v
