"""The memory that a training step takes: its tensors, over the order of its nodes, in the engine's arena.

A tensor lives from the node that computes it to the last one that reads it; of a node, inputs and outputs live
together. A view, such as the result of Reshape, is the memory of what it views. Inputs and outputs of the graph are
held throughout and counted apart.

Non-goals: the scratch memory of kernels, which an engine takes beside its arena, and its program code (1 or 2 MiB).
"""

from dataclasses import dataclass

import onnx_ir as ir

from netc.arena import Arena
from netc.emit import Program
from netc.graph.sizes import VIEWS, size


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
    """Return the most bytes that computed tensors, without outputs, have at once, and what an arena takes for them."""
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
        for value in ended.get(node, ()):
            arena.release(addresses[value])
            live -= size(value)
    return peak, arena.written


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
