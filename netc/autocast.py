"""Mixed precision: the forward pass of a training network partly in float16 (Micikevicius et al., 2018, section 3.1).

Float16 has 11 bits of significand and normal numbers from 6.1e-5 to 65504. Products of convolutions and matrices take
most of a step's time; their operands bear rounding to 11 bits, and an engine adds up in float32 inside. What stands
between them waits for memory, of which float16 moves half. What would lose by it is computed in float32: sums of many
activations, whose small terms vanish beside a large sum; exponentials, logarithms, powers, squares and quotients,
whose results leave the range; statistics of normalization; losses and metrics. So operators are of three kinds:

    NARROW     compute in float16, whatever arrives: their float inputs are cast.
    FOLLOWING  compute in float16 where all that arrives is, else in float32. Parameters, constants, masks and what is
               made of these alone are cast to the type of the rest, unless a constant has no place in float16.
    others     compute in float32: their float16 inputs are cast back.

Batch normalization is of the last kind, but what follows it takes its result in the type in which its input arrived.

Parameters stay float32 in the state. A value is cast to a type once, whoever reads it, so that a step casts each weight
once. All of it is done before differentiation: the gradient of a Cast is the Cast back. So cotangents have the type of
their values, the gradients of a weight and of a bias leave their product or sum in float16 and become float32 at the
parameter's Cast, and everything behind (accumulation, clipping, decay, the solver's rule) is as ever. Small cotangents
are kept from vanishing by netc.solver.loss_scale.

Non-goals: evaluation and inference, which compute in float32 with the weights of the state.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import constant_value, origin_of
from netc.network import Network

HALF = ir.DataType.FLOAT16
NARROW = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# fmt: off
FOLLOWING = frozenset({
    # elementwise, without leaving the range by more than a factor; of products see _is_square
    "Abs", "Add", "Clip", "Elu", "LeakyRelu", "Mul", "Neg", "Relu", "Sigmoid", "Sub", "Sum", "Tanh",
    # choices; those whose gradient asks for equal values (Max, ReduceMax, ...) bear no engine that rounds only one side
    "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Where",
    # windows of a few elements; GlobalAveragePool sums over whole planes
    "AveragePool", "MaxPool",
    # what only moves elements
    "Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Tile",
    "Transpose", "Unsqueeze",
})
# fmt: on
KEEPING = frozenset({"BatchNormalization"})


def autocast(network: Network) -> None:
    """Let the forward pass of a training network compute in float16 where that does no harm."""
    _Autocast(network).run()


class _Autocast:
    def __init__(self, network: Network) -> None:
        self._g = network.net.g
        self._objectives = {placed.layer.name for placed in network.placed if placed.is_objective}
        # What takes the type of whatever it meets, and what followers take in float16.
        self._yielding = set(network.net.inputs.values())
        self._narrow: set[ir.Value] = set()
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self) -> None:
        for node in list(self._g.graph):
            floats = [x for x in node.inputs if x is not None and x.dtype in (self._g.dtype, HALF)]
            arriving = [x for x in floats if not self._yields(x)]
            follows = self._is_network(node) and node.op_type in FOLLOWING
            if not arriving and (follows or _is_mask(node)):
                self._yielding.update(node.outputs)
            dtype = HALF if self._is_narrow(node, floats, arriving) else self._g.dtype
            self._feed(node, dtype)
            keeps = self._is_network(node) and node.op_type in KEEPING and floats[0] in self._narrow
            if dtype == HALF or keeps:
                self._narrow.update(node.outputs if dtype == HALF else node.outputs[:1])

    def _yields(self, x: ir.Value) -> bool:
        return x in self._yielding or x.is_initializer()

    def _is_network(self, node: ir.Node) -> bool:
        """Whether a node belongs to a layer of the network, and not to an objective, its weight or the state."""
        origin = origin_of(node)
        return origin.part == "forward" and origin.layer not in self._objectives

    def _is_narrow(self, node: ir.Node, floats: Sequence[ir.Value], arriving: Sequence[ir.Value]) -> bool:
        if not self._is_network(node):
            return False
        if node.op_type in NARROW:
            return True
        if node.op_type not in FOLLOWING or not arriving or not self._narrow.issuperset(arriving):
            return False
        return not _is_square(node) and all(map(_fits, floats))

    def _feed(self, node: ir.Node, dtype: ir.DataType) -> None:
        """Let a node read its floats in one type."""
        kinds = (self._g.dtype, HALF)
        inputs = [x if x is None or x.dtype not in kinds else self._as(x, dtype, node) for x in node.inputs]
        if dtype == HALF or any(new is not old for new, old in zip(inputs, node.inputs, strict=True)):
            self._g.feed(node, inputs)

    def _as(self, x: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        """Return a value in a type; where it has another, one Cast before its first reader serves all of them."""
        if x.dtype == dtype:
            return x
        constant = constant_value(x)
        if constant is not None:
            return self._g.constant(constant.astype(dtype.numpy()))
        if (x, dtype) not in self._casts:
            with self._g.origin(origin_of(reader)), self._g.before(reader):
                self._casts[x, dtype] = self._g.Cast(x, to=dtype)
        return self._casts[x, dtype]


def _is_mask(node: ir.Node) -> bool:
    """Whether a node turns decisions into numbers: 0 and 1 are exact in any type."""
    return node.op_type == "Cast" and node.inputs[0] is not None and node.inputs[0].dtype == ir.DataType.BOOL


def _is_square(node: ir.Node) -> bool:
    """Whether a node is a product of a value with itself, which overflows above 256."""
    return node.op_type == "Mul" and node.inputs[0] is node.inputs[1]


def _fits(x: ir.Value) -> bool:
    """Whether a value is no constant, or one that float16 has normal numbers for."""
    constant = constant_value(x)
    if constant is None:
        return True
    finite = np.abs(constant[np.isfinite(constant) & (constant != 0)])
    limits = np.finfo(np.float16)
    return bool(np.all((finite >= limits.tiny) & (finite <= limits.max)))
