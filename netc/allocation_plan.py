"""In which order ONNX Runtime runs nodes, and which results share a buffer.

It runs nodes depth first (core/graph/graph.cc, ReverseDFSFrom), not in the order of the file: a parameter is updated as
soon as its gradient can be had. Before it runs anything it plans buffers (core/framework/allocation_planner.cc). A
result takes, of the first kind that there is:

- the memory of its first input, where it is a view of that;
- the buffer of an input that nothing reads later, where kernels may write to their inputs and the sizes agree;
- a buffer that nothing reads any more and whose first tensor has the same shape and element size;
- a new one.

A buffer that is taken again stays allocated in between, so that a step holds more than the tensors alive.
"""

from dataclasses import dataclass, field

import onnx_ir as ir

from netc.graph import shape_of
from netc.graph.sizes import VIEWS

# Operators whose kernels may write to their input, as seen in profiles of ONNX Runtime 1.32; Add and Mul do not.
# fmt: off
_IN_PLACE = {
    "Abs", "Cast", "Ceil", "Clip", "Elu", "Exp", "Floor", "LeakyRelu", "Log", "Neg", "Not", "Reciprocal", "Relu",
    "Selu", "Sigmoid", "Sqrt", "Tanh",
}
# fmt: on


@dataclass
class Step:
    """A node with the buffers, each named by its first tensor, that begin and end with it."""

    node: ir.Node
    begun: list[ir.Value] = field(default_factory=list)
    ended: list[ir.Value] = field(default_factory=list)


def allocation_plan(graph: ir.Graph) -> list[Step]:
    """Return the nodes in order of execution, with their buffers; inputs and outputs of the graph have none.

    Nodes that ONNX Runtime fuses while it loads a program are taken as they are.
    """
    steps = [Step(node) for node in execution_order(graph)]
    buffer: dict[ir.Value, ir.Value] = {}  # of each result, the first tensor of its buffer
    uses: dict[ir.Value, int] = {}  # of each buffer, how many reads are left
    free: dict[tuple[object, ...], list[ir.Value]] = {}  # buffers by what fits, the one that was freed last at the end
    last: dict[ir.Value, Step] = {}
    for step in steps:
        for y in step.node.outputs:
            if y.is_graph_output():
                continue
            taken = _viewed(y, buffer)
            if taken is y:
                fitting = free.get(_fit(y), [])
                taken = _overwritten(y, buffer, uses) or (fitting.pop() if fitting else y)
            if taken is y:
                step.begun.append(y)
            if taken is not None:
                buffer[y] = taken
                uses[taken] = uses.get(taken, 0) + len(y.uses())
        read = [buffer[x] for x in step.node.inputs if x is not None and x in buffer]
        for each in read:
            uses[each] -= 1
        for each in dict.fromkeys([*read, *(buffer[y] for y in step.node.outputs if y in buffer)]):
            if not uses[each]:
                free.setdefault(_fit(each), []).append(each)
                last[each] = step
    for each, step in last.items():
        step.ended.append(each)
    return steps


def execution_order(graph: ir.Graph) -> list[ir.Node]:
    """Return the nodes as ONNX Runtime's default order has them.

    It begins with the last of the nodes that no other node reads. Before a node it runs those it reads from, first the
    one that is last in the file with all that it needs.
    """
    place = {node: index for index, node in enumerate(graph)}
    pending = [(node, False) for node in graph if not any(y.uses() for y in node.outputs)]
    order, seen = list[ir.Node](), set[ir.Node]()
    while pending:
        node, is_ready = pending.pop()
        if is_ready:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            pending.append((node, True))
            before = {maker for x in node.inputs if x is not None and (maker := x.producer()) is not None}
            pending += ((each, False) for each in sorted(before, key=place.__getitem__) if each not in seen)
    return order


def _viewed(y: ir.Value, buffer: dict[ir.Value, ir.Value]) -> ir.Value | None:
    """Return the buffer that y is a view of, y itself if it is none, and None for a view of what has no buffer."""
    node = y.producer()
    if node is None or node.op_type not in VIEWS or node.inputs[0] is None:
        return y
    return buffer.get(node.inputs[0])


def _overwritten(y: ir.Value, buffer: dict[ir.Value, ir.Value], uses: dict[ir.Value, int]) -> ir.Value | None:
    """Return the buffer of an input that the node of y may overwrite and that nothing reads later."""
    node = y.producer()
    x = node.inputs[0] if node is not None and node.op_type in _IN_PLACE else None
    return buffer[x] if x is not None and x in buffer and uses[buffer[x]] == 1 and _fit(x) == _fit(y) else None


def _fit(value: ir.Value) -> tuple[object, ...]:
    """Return what two tensors must have in common to share a buffer: the size of their elements, and the shape."""
    return (value.dtype or ir.DataType.FLOAT).numpy().itemsize, *shape_of(value)
