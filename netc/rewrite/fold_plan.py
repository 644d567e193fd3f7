"""Which node takes in which affine map of channels, and why others stay: decided before anything is rewritten.

An affine step is a BatchNormalization, or a Mul or Add with something learned along the channels, as of Scale and Bias.
Steps in a row of which each has one reader are a chain: one affine map. A chain disappears into what stands
    before it:  a linear node that the chain alone reads; or a Concat of such nodes, each of which takes its channels
    after it:   linear nodes, where nothing else reads the chain, directly or behind a Flatten; if the chain shifts,
                then only those that add their whole kernel at every place
Either way nothing of the chain is left, so that the first is taken where both are possible: it changes one weight, and
the other as many as there are readers. A linear node can take in a chain on both sides, so that no choice is in the
way of another one. Weights that layers share are no obstacle: a layer that takes in a chain gets a copy of its own,
since the file is then larger by that copy, and every run saves two passes over the activations.

A chain with a normalization that cannot disappear becomes one scale and one shift; the plan names the reason.
Non-goals: constants of the spec, such as `coeff`, and the normalization of the data, which is no Mul or Add of anything
learned, are no steps; weights keep the meaning that they have for a network that starts from the exported file. A
scale does not go where its shift cannot: the shift would have to be divided by it, and it may be 0.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field

import onnx_ir as ir

from netc.grad.convolution import Geometry
from netc.graph import Site, origin_of, shape_of
from netc.rewrite.fold_algebra import LINEAR


@dataclass(eq=False)
class Chain:
    """Affine steps in a row. `reason` says why a normalization stays; it is empty where the chain is folded."""

    steps: list[ir.Node]
    x: ir.Value
    reason: str = ""

    @property
    def y(self) -> ir.Value:
        """What the last step gives."""
        return self.steps[-1].outputs[0]

    @property
    def normalization(self) -> ir.Node | None:
        """The last BatchNormalization among the steps."""
        return next((node for node in reversed(self.steps) if node.op_type == "BatchNormalization"), None)

    @property
    def shifts(self) -> bool:
        """Whether the map adds something."""
        return any(node.op_type != "Mul" for node in self.steps)


@dataclass(frozen=True)
class Channels:
    """The channels of a chain from `start` to before `stop`."""

    chain: Chain
    start: int
    stop: int


@dataclass
class Taken:
    """What a linear node takes in: the chain on its input, and parts of those on its output, in order."""

    before: Chain | None = None
    after: list[Channels] = field(default_factory=list)


class Plan:
    """The plan of a graph.

    Attributes:
        known: the values that depend on the state and on constants alone.
        chains: the chain that a node is a step of, where the chain is folded or kept as one scale and shift.
        taken: what a linear node takes in, where it does.
    """

    def __init__(self, graph: ir.Graph, state: Collection[str]) -> None:
        self.chains: dict[ir.Node, Chain] = {}
        self.taken: dict[ir.Node, Taken] = {}
        self._learned = {x for x in graph.inputs if x.name in state}
        fed = {x for x in graph.inputs if x.name not in state}
        for node in graph:
            if any(x in fed for x in node.inputs):
                fed.update(node.outputs)
            elif any(x in self._learned for x in node.inputs):
                self._learned.update(node.outputs)
        self.known = {*graph.inputs, *graph.initializers.values(), *(y for node in graph for y in node.outputs)} - fed
        self._makers: dict[ir.Value, ir.Node] = {}  # of what a chain gives that is folded into what stands before it
        chains = self._find(graph)
        for chain in chains:
            self.chains |= dict.fromkeys(chain.steps, chain)
        for chain in chains:
            self._decide(chain)

    def _find(self, graph: ir.Graph) -> list[Chain]:
        """Return the chains in the order of the graph."""
        ending: dict[ir.Value, Chain] = {}
        for node in graph:
            x = self._input_of_step(node)
            if x is None:
                continue
            chain = ending.pop(x) if x in ending and self._only_reader(x) else Chain([], x)
            chain.steps.append(node)
            ending[chain.y] = chain
        return list(ending.values())

    def _input_of_step(self, node: ir.Node) -> ir.Value | None:
        """Return what a node maps channel by channel, None if it does something else."""
        if node.outputs[0] in self.known:
            return None
        if node.op_type == "BatchNormalization":
            return node.inputs[0]
        if node.op_type in ("Mul", "Add"):
            for x, v in (Site(node).x, Site(node).x[::-1]):
                if v in self._learned and x not in self.known and _lies_along_channels(v, node.outputs[0], x):
                    return x
        return None

    def _decide(self, chain: Chain) -> None:
        channels = int(shape_of(chain.y)[1])
        parts = self._behind(chain.x, chain.steps[0], 0, channels)
        if not isinstance(parts, str):
            for node, start, stop in parts:
                self.taken.setdefault(node, Taken()).after.append(Channels(chain, start, stop))
            self._makers[chain.y] = self._maker(chain.x)
            return
        readers = self._ahead(chain.y, chain.shifts)
        if not isinstance(readers, str):
            for node in readers:
                self.taken.setdefault(node, Taken()).before = chain
            return
        if chain.normalization is None:  # stays as it is
            for node in chain.steps:
                del self.chains[node]
        chain.reason = f"kept as scale and shift: before it, {parts}; after it, {readers}"

    def _behind(self, x: ir.Value, reader: ir.Node, start: int, stop: int) -> list[tuple[ir.Node, int, int]] | str:
        """Return the linear nodes that give x, each with those of the channels that are its own, or what is in the way.

        `reader` is the node that has to be the only one to read x.
        """
        if x in self.known or x.is_graph_input():
            return f"{x.name} is an input of the model" if x.is_graph_input() else f"{_name(x)} is constant"
        maker, name = self._maker(x), _name(x)
        is_linear, joins = self._is_linear(maker), _joins_channels(maker)
        refusal = f"{name} ({maker.op_type}) cannot absorb it"
        if not is_linear and not joins and maker not in self.chains:
            return refusal
        if x.is_graph_output():
            return f"{name} is an output of the model"
        if not self._only_reader(x):
            others = [use.node for use in x.uses() if use.node is not reader]
            return f"{name} is also read by {origin_of(others[0]).layer}" if others else f"{name} is read twice"
        if not joins:
            return [(maker, start, stop)] if is_linear else refusal
        found: list[tuple[ir.Node, int, int]] = []
        for operand in Site(maker).x:
            stop = start + int(shape_of(operand)[1])
            parts = self._behind(operand, maker, start, stop)
            if isinstance(parts, str):
                return f"{parts} (joined by {origin_of(maker).layer})"
            found, start = found + parts, stop
        return found

    def _ahead(self, y: ir.Value, shifts: bool) -> list[ir.Node] | str:
        """Return the linear nodes that read y, which nothing else does, or what is in the way."""
        if y.is_graph_output():
            return f"{_name(y)} is an output of the model"
        found: list[ir.Node] = []
        for use in y.uses():
            node, layer = use.node, origin_of(use.node).layer
            if _flattens(node):
                behind = self._ahead(node.outputs[0], shifts)
                if isinstance(behind, str):
                    return behind
                found += behind
            elif not self._is_linear(node):
                return f"{layer} ({node.op_type}) cannot absorb it"
            elif shifts and (reason := _uneven(node)):
                return f"{layer} {reason}"
            else:
                found.append(node)
        return found

    def _maker(self, x: ir.Value) -> ir.Node:
        """Return the node that gives x once the chains decided so far are folded."""
        node = self._makers.get(x, x.producer())
        assert node is not None, "asked of what nodes compute"
        return node

    def _only_reader(self, x: ir.Value) -> bool:
        return len(x.uses()) == 1 and not x.is_graph_output()

    def _is_linear(self, node: ir.Node) -> bool:
        """Whether a node is linear along the channels of what it reads, with weights that are known at export."""
        if node.op_type not in LINEAR or any(x not in self.known for x in node.inputs[1:] if x is not None):
            return False
        if node.op_type == "MatMul":
            return len(shape_of(node.outputs[0])) == 2
        return node.op_type != "Gemm" or _is_plain(Site(node))


def _is_plain(site: Site) -> bool:
    """Whether a Gemm multiplies rows with a matrix and adds a vector, and nothing more."""
    return not site.attribute("transA") and site.attribute("alpha") == site.attribute("beta") == 1.0


def _lies_along_channels(v: ir.Value, y: ir.Value, x: ir.Value) -> bool:
    """Whether v [1, C, 1, ...], or with fewer axes at the front, or one number, is broadcast to x [N, C, ...]."""
    shape, own = shape_of(y), shape_of(v)
    axes = [*[1] * (len(shape) - len(own)), *own]
    return len(shape) > 1 and shape_of(x) == shape and axes[0] == 1 and all(n == 1 for n in axes[2:])


def _flattens(node: ir.Node) -> bool:
    """Whether a node makes one axis of all those of a sample."""
    if node.op_type not in ("Flatten", "Reshape"):
        return False
    x, y = shape_of(Site(node).x[0]), shape_of(node.outputs[0])
    return len(y) == 2 and y[1] == math.prod(n for n in x[1:] if isinstance(n, int)) and x[0] == y[0]


def _joins_channels(node: ir.Node) -> bool:
    """Whether a node puts the channels of several values one behind the other."""
    return node.op_type == "Concat" and Site(node).attribute("axis") % len(shape_of(node.outputs[0])) == 1


def _uneven(node: ir.Node) -> str:
    """Return why some outputs of a linear node add fewer elements of its kernel than others, or nothing."""
    if node.op_type not in ("Conv", "ConvTranspose"):
        return ""
    at = Geometry.of(Site(node))
    if node.op_type == "Conv":
        return "pads its input with zeros" if any(at.pads) else ""
    reach = [d * (k - 1) for d, k in zip(at.dilations, at.kernel, strict=True)]
    whole = all(p >= r for p, r in zip(at.pads, reach * 2, strict=True)) and all(s == 1 for s in at.strides)
    return "" if whole else "adds fewer elements of its kernel at some places than at others"


def _name(x: ir.Value) -> str:
    """Return the layer that gives x."""
    node = x.producer()
    return str(x.name) if node is None else origin_of(node).layer
