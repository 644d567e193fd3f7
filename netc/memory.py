"""The memory that a training step takes: its buffers, as the engine plans them, in the engine's arena.

`allocation_plan` says which buffers there are, when each begins and ends, and `Arena` what memory they take. Inputs and
outputs of the graph are held throughout and counted apart.

Kernels take scratch memory from the arena too, while they run. That of ONNX Runtime's convolutions counts. Conv
(core/mlas, convolve.cpp): with more filters a group than places in the output, as in gradients of weights, all windows
are laid out side by side; else each thread has a piece of them. ConvTranspose (core/providers/cpu/nn,
conv_transpose.cc) lays out what every place gives to all windows, one sample and group at a time. Non-goal: other
scratch memory.
"""

import math
from dataclasses import dataclass

import onnx_ir as ir

from netc.allocation_plan import allocation_plan
from netc.arena import Arena
from netc.emit import Program
from netc.graph import Site, shape_of
from netc.graph.sizes import size

_PIECE = 65536  # elements of a thread's piece of the windows
_THREADS = 2  # each more adds a piece, 256 KiB
# What ONNX Runtime 1.32 holds for each node of a program: measured, 5 to 8 KiB in programs of 140 to 7,200 nodes.
_NODE_BYTES = 7 << 10
_SESSION_BYTES = 3 << 19  # and for a program of one node
_STEPS = 2  # the second one finds regions of the arena that the first one asked for


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a training step.

    Attributes:
        live: buffers of activations kept for the backward pass, gradients and other temporaries, at the node where they
            are most.
        working: what the arena takes for them and for the scratch memory of kernels.
        state: parameters, statistics and the solver's memory; what the step changes counts twice, since old and new
            values must not share memory.
        batch: the batch itself.
        program: the nodes in the engine.
    """

    live: int
    working: int
    state: int
    batch: int
    program: int

    @property
    def total(self) -> int:
        """Working memory, state, batch and program."""
        return self.working + self.state + self.batch + self.program


def step_memory(program: Program) -> StepMemory:
    """Return what a training program, whose shapes are static, takes."""
    sizes = {"state": 0, "batch": 0, "next": 0, "metric": 0}
    for values, said in ((program.graph.inputs, program.inputs), (program.graph.outputs, program.outputs)):
        for value in values:
            sizes[said[str(value.name)]["role"]] += size(value)
    live, working = working_bytes(program.graph)
    held = _SESSION_BYTES + program.graph.num_nodes() * _NODE_BYTES
    return StepMemory(live, working, sizes["state"] + sizes["next"], sizes["batch"], held)


def working_bytes(graph: ir.Graph) -> tuple[int, int]:
    """Return the most bytes that buffers of computed tensors have at once, and what an arena takes for steps."""
    plan = allocation_plan(graph)
    arena, addresses = Arena(), dict[ir.Value, int]()
    live = peak = 0
    for step in plan * _STEPS:
        for value in step.begun:
            addresses[value] = arena.allocate(size(value))
            live += size(value)
        peak = max(peak, live)
        if scratch := scratch_bytes(step.node):
            arena.release(arena.allocate(scratch))
        for value in step.ended:
            arena.release(addresses.pop(value))
            live -= size(value)
    return peak, arena.written


def scratch_bytes(node: ir.Node) -> int:
    """Return the memory that the kernel of a convolution takes while it runs; 0 for all else."""
    if node.op_type not in ("Conv", "ConvTranspose"):
        return 0
    site = Site(node)
    x, w, y = ([int(n) for n in shape_of(value)] for value in (site.x[0], site.x[1], site.y))
    strides, pads = site.attribute("strides") or [1], site.attribute("pads") or [0]
    if node.op_type == "Conv" and math.prod(w[2:]) == 1 and max(strides) == 1 and not any(pads):
        return 0  # a mere product of matrices
    window, item = math.prod(w[1:]), (site.x[0].dtype or ir.DataType.FLOAT).numpy().itemsize
    if node.op_type == "ConvTranspose":
        return window * math.prod(x[2:]) * item
    places, filters = math.prod(y[2:]), w[0] // (x[1] // w[1])
    return (places * window if filters > places else _THREADS * _PIECE) * item
