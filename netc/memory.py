"""The memory that a training step takes: its tensors, over the order of its nodes, in the engine's arena.

A tensor lives from the node that computes it to the last one that reads it; of a node, inputs and outputs live
together. A view, such as the result of Reshape, is the memory of what it views. Inputs and outputs of the graph are
held throughout and counted apart.

Kernels take scratch memory from the arena too, while they run. That of ONNX Runtime's convolution counts (core/mlas,
convolve.cpp): with more filters a group than places in the output, as in gradients of weights, all windows are laid out
side by side; else each thread has a piece of them. Non-goals: other scratch memory, and program code (1 or 2 MiB).
"""

import math
from dataclasses import dataclass

import onnx_ir as ir

from netc.arena import Arena
from netc.emit import Program
from netc.graph import Site, shape_of
from netc.graph.sizes import VIEWS, size

_PIECE = 65536  # elements of a thread's piece of the windows
_THREADS = 2


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a training step.

    Attributes:
        live: activations kept for the backward pass, gradients and other temporaries, at the node where they are most.
        working: what the arena takes for them.
        state: parameters, statistics and the solver's memory; what the step changes counts twice, since old and new
            values must not share memory.
        batch: the batch itself.
    """

    live: int
    working: int
    state: int
    batch: int

    @property
    def total(self) -> int:
        """Working memory, state and batch."""
        return self.working + self.state + self.batch


def step_memory(program: Program) -> StepMemory:
    """Return what a training program, whose shapes are static, takes."""
    sizes = {"state": 0, "batch": 0, "next": 0, "metric": 0}
    for values, said in ((program.graph.inputs, program.inputs), (program.graph.outputs, program.outputs)):
        for value in values:
            sizes[said[str(value.name)]["role"]] += size(value)
    return StepMemory(*working_bytes(program.graph), sizes["state"] + sizes["next"], sizes["batch"])


def working_bytes(graph: ir.Graph) -> tuple[int, int]:
    """Return the most bytes that computed tensors, without outputs, have at once, and what an arena takes for a run."""
    last = _last_uses(graph)
    ended: dict[ir.Node, list[ir.Value]] = {}
    for value, node in last.items():
        ended.setdefault(node, []).append(value)
    arena, addresses = Arena(), dict[ir.Value, int]()
    live = peak = 0
    for node in graph:
        for y in node.outputs:
            if y in last:
                addresses[y] = arena.allocate(size(y))
                live += size(y)
        peak = max(peak, live)
        if scratch := scratch_bytes(node):
            arena.release(arena.allocate(scratch))
        for value in ended.get(node, ()):
            arena.release(addresses[value])
            live -= size(value)
    return peak, arena.written


def scratch_bytes(node: ir.Node) -> int:
    """Return the memory that the kernel of a convolution takes while it runs; 0 for all else."""
    if node.op_type != "Conv":
        return 0
    site = Site(node)
    x, w, y = ([int(n) for n in shape_of(value)] for value in (site.x[0], site.x[1], site.y))
    places, window = math.prod(y[2:]), math.prod(w[1:])
    strides, pads = site.attribute("strides") or [1], site.attribute("pads") or [0]
    if math.prod(w[2:]) == 1 and max(strides) == 1 and not any(pads):
        return 0  # a mere product of matrices
    filters = w[0] // (x[1] // w[1])
    elements = places * window if filters > places else _THREADS * _PIECE
    return elements * (site.x[0].dtype or ir.DataType.FLOAT).numpy().itemsize


def _last_uses(graph: ir.Graph) -> dict[ir.Value, ir.Node]:
    """Return, for each computed value with memory of its own that is no output, the last node that needs it."""
    owner: dict[ir.Value, ir.Value] = {}  # of each computed value, the one whose memory it is
    last: dict[ir.Value, ir.Node] = {}
    for node in graph:
        for y in node.outputs:
            x = node.inputs[0] if node.op_type in VIEWS else None
            owner[y] = y if x is None else owner.get(x, x)
        for value in (*node.inputs, *node.outputs):
            if value is not None and value in owner:
                last[owner[value]] = node
    return {value: node for value, node in last.items() if value in owner and not value.is_graph_output()}
