"""Recomputation (Chen et al., 2016): compute values again in the backward pass instead of keeping them until then.

A scope is a part of the network, such as one copy of a block. What the gradients of its layers read of the values that
are computed inside is computed again, by clones of the forward nodes, right before the first of them reads it. So of
a scope only its inputs are kept between the passes, and what is no saving to compute again: what others hold anyway,
such as the input of the next scope; what is small beside that which it is computed from, such as the statistics of a
batch; and what is, in memory, an input. Scopes nest: the inner ones of a clone are computed again in turn.

A clone is what common subexpression elimination is made to remove, and an executor may run it as soon as its inputs
are there. So each clone depends on the cotangent dy that arrives at its scope, itself or by the clones that it reads.
Where none of its inputs does, the smallest of them, mostly a bias or the scale of a normalization, is tied to it:

    x * one        one = 1 where not |e| < 0, that is always        e: the first element of dy

This is exact: x * 1 is x in every bit, -0.0, infinities and NaN with them, and a comparison is false for an e that is
NaN, so that nothing of dy reaches x. No optimizer without an analysis of ranges can know that `one` is constant.

Non-goals: values that others than the gradients of a scope's own layers read, such as the statistics of a monitored
step, are those of the forward pass; so are the running statistics of BatchNorm, which are updated once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, origin_of, shape_of
from netc.graph.sizes import VIEWS, size

SMALL = 16  # a value is kept that is so many times smaller than the largest that it is computed from

# The scopes that a layer is in, the outermost first. The first d of them name one scope of depth d.
Scopes = tuple[str, ...]


def recompute(
    graph: ir.Graph,
    scopes: Mapping[str, Scopes],
    cotangents: Mapping[ir.Value, ir.Value],
    dtype: ir.DataType = ir.DataType.FLOAT,
) -> ir.Graph:
    """Return a step that computes the same outputs, bit by bit, and holds less in between.

    Args:
        graph: a step, as differentiated; it stays as it is.
        scopes: by the name of a layer, the scopes that it is in; a layer in none need not be there.
        cotangents: what gradients were computed on the way, by the values that they belong to.
        dtype: the floating-point type.
    """
    return _Recomputation(graph, scopes, cotangents, dtype).run()


class _Recomputation:
    def __init__(
        self,
        graph: ir.Graph,
        scopes: Mapping[str, Scopes],
        cotangents: Mapping[ir.Value, ir.Value],
        dtype: ir.DataType,
    ) -> None:
        self._graph, self._layers = graph, scopes
        self._g = GraphBuilder(graph.name or "netc", dtype)
        self._places = {node: index for index, node in enumerate(graph)}
        # Of the old values in the new graph: version 0 is that of the forward pass, version d was computed for the
        # gradients of the first d scopes around it.
        self._versions: dict[tuple[ir.Value, int], ir.Value] = {}
        self._kept: dict[tuple[ir.Value, int], bool] = {}
        self._tied: dict[Scopes, set[ir.Value]] = {}  # what depends on the cotangent that arrives at a scope
        self._ties: dict[tuple[Scopes, ir.Value], ir.Value] = {}
        self._always: dict[Scopes, ir.Value] = {}
        self._arriving: dict[Scopes, ir.Value] = {}  # the cotangent of the last value that a scope computes
        for node in graph:
            dy, around = cotangents.get(node.outputs[0]), self._around(node)
            if dy is not None and _is_forward(node):
                self._arriving.update((around[:depth], dy) for depth in range(1, len(around) + 1))

    def run(self) -> ir.Graph:
        g = self._g
        for value in self._graph.inputs:
            self._versions[value, 0] = g.input(str(value.name), value.dtype or g.dtype, shape_of(value))
        for value in self._graph.initializers.values():
            if value.const_value is not None:
                self._versions[value, 0] = g.constant(value.const_value.numpy())
        for node in self._graph:
            around = self._around(node) if _is_gradient(node) else ()
            inputs = [None if x is None else self._read(x, around) for x in node.inputs]
            outputs = g.copy(node, inputs)
            self._versions.update(((y, 0), new) for y, new in zip(node.outputs, outputs, strict=True))
        for value in self._graph.outputs:
            g.output(str(value.name), self._versions[value, 0])
        return g.graph

    # -- where values and their readers stand -------------------------------------------------------------

    def _around(self, node: ir.Node | None) -> Scopes:
        """Return the scopes that the layer of a node is in."""
        return () if node is None else self._layers.get(node.metadata_props.get("netc.layer", ""), ())

    def _home(self, x: ir.Value) -> Scopes:
        """Return the scopes that a value is computed in during the forward pass."""
        node = x.producer()
        return self._around(node) if node is not None and _is_forward(node) else ()

    # -- versions of values -------------------------------------------------------------------------------

    def _read(self, x: ir.Value, reader: Scopes) -> ir.Value:
        """Return what a node that computes for the gradients within `reader` has to read for a value."""
        depth = _shared(self._home(x), reader)
        while depth and self._is_kept(x, depth):
            depth -= 1
        if (x, depth) not in self._versions:
            for node in self._missing(x, depth):
                self._clone(node, depth)
        return self._versions[x, depth]

    def _missing(self, x: ir.Value, depth: int) -> list[ir.Node]:
        """Return the nodes of a scope that x is computed by and that were not cloned yet, in order."""
        scope = self._home(x)[:depth]
        found: set[ir.Node] = set()
        waiting = [x]
        while waiting:
            value = waiting.pop()
            node = value.producer()
            if node is None or node in found or (value, depth) in self._versions or self._is_kept(value, depth):
                continue
            found.add(node)
            waiting += [u for u in node.inputs if u is not None and self._home(u)[:depth] == scope]
        return sorted(found, key=self._places.__getitem__)

    def _clone(self, node: ir.Node, depth: int) -> None:
        """Append a node of a scope once more, tied to the cotangent that arrives there."""
        g, scope = self._g, self._around(node)[:depth]
        inputs = [None if x is None else self._read(x, scope) for x in node.inputs]
        tied = self._tied.setdefault(scope, set())
        origin = replace(origin_of(node), part="recompute")
        with g.origin(origin):
            for index in _to_tie(node, inputs, tied):
                inputs[index] = self._tie(inputs[index], scope)
        outputs = g.copy(node, inputs, origin)
        tied.update(outputs)
        self._versions.update(((y, depth), new) for y, new in zip(node.outputs, outputs, strict=True))

    def _is_kept(self, x: ir.Value, depth: int) -> bool:
        """Whether the gradients of a scope read the version of x from outside of it."""
        key = (x, depth)
        if key not in self._kept:
            self._kept[key] = self._is_held(x, depth) or self._is_small(x) or self._views_what_is_kept(x, depth)
        return self._kept[key]

    def _is_held(self, x: ir.Value, depth: int) -> bool:
        """Whether others hold on to x: gradients of layers that are not in the scope, or another scope as its input."""
        home = self._home(x)
        readers = [*x.consumers()]
        for reader in readers:
            around = self._around(reader)
            if reader.op_type in VIEWS:  # who holds a view holds what it views
                readers += reader.outputs[0].consumers()
            if around[:depth] != home[:depth] and (
                _is_gradient(reader) or (_is_forward(reader) and len(around) > _shared(home, around))
            ):
                return True
        return False

    def _is_small(self, x: ir.Value) -> bool:
        """Whether x is far smaller than what it is computed from."""
        node = x.producer()
        sizes = [size(u) for u in node.inputs if u is not None and not u.is_initializer()] if node is not None else []
        return size(x) * SMALL <= max(sizes) if sizes else True  # what only reads constants is one itself

    def _views_what_is_kept(self, x: ir.Value, depth: int) -> bool:
        node = x.producer()
        if node is None or node.op_type not in VIEWS or node.inputs[0] is None:
            return False
        viewed = node.inputs[0]
        return self._home(viewed)[:depth] != self._home(x)[:depth] or self._is_kept(viewed, depth)

    # -- ties ---------------------------------------------------------------------------------------------

    def _tie(self, x: ir.Value | None, scope: Scopes) -> ir.Value:
        """Return x, dependent on the cotangent that arrives at a scope."""
        assert x is not None, "what is tied is read"
        if (scope, x) not in self._ties:
            g, always = self._g, self._true(scope)
            y = g.And(x, always) if x.dtype == ir.DataType.BOOL else g.Mul(x, g.Cast(always, to=x.dtype))
            self._ties[scope, x] = y
            self._tied[scope].add(y)
        return self._ties[scope, x]

    def _true(self, scope: Scopes) -> ir.Value:
        """Return the boolean [] that is true whatever the cotangent is that arrives at a scope."""
        if scope not in self._always:
            g = self._g
            dy = self._versions[self._arriving[scope], 0]
            flat = g.Reshape(dy, np.array([-1], np.int64))
            first = g.Gather(flat, np.array(0, np.int64))
            self._always[scope] = g.Not(g.Less(g.Abs(first), 0.0))
        return self._always[scope]


def _to_tie(node: ir.Node, inputs: Sequence[ir.Value | None], tied: set[ir.Value]) -> list[int]:
    """Return which inputs of a clone to tie.

    In training mode, normalizations of one scale and bias cannot all stay what they are on the CPU, see
    `batch_normalization.keep`: these get their own.
    """
    free = [i for i, x in enumerate(inputs) if x is not None and not x.is_initializer()]
    if node.op_type == "BatchNormalization" and Site(node).attribute("training_mode"):
        chosen = [i for i in free if i in (1, 2)]
        if chosen:
            return chosen
    if any(x in tied for x in inputs):
        return []
    return [min(free, key=lambda i: size(node.inputs[i] or node.outputs[0]))]


def _is_forward(node: ir.Node) -> bool:
    return node.metadata_props.get("netc.part") == "forward"


def _is_gradient(node: ir.Node) -> bool:
    return node.metadata_props.get("netc.part") == "grad"


def _shared(a: Scopes, b: Scopes) -> int:
    """Return how many of the outermost scopes are the same."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
