"""Scale and shift each channel in one pass.

    (x - m) * s + b = BatchNormalization(x, scale s, bias b, mean m, var 1, epsilon 0)      m, s, b [C]

Reason: the left side writes two more tensors of the size of x to memory; the operator in inference mode reads x and
writes the result. The gradient of batch normalization has this form. CUDA stays as it is: cuDNN may refuse epsilon 0.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, shape_of
from netc.rewrite.replay import Inputs


def fuse(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite the Add of a vector to a product of a vector with a difference of a vector."""
    scaled = _producer(inputs[0])
    if scaled is None or scaled.op_type != "Mul":
        return None
    centred = _producer(scaled.inputs[0])
    if centred is None or centred.op_type != "Sub":
        return None
    x = centred.inputs[0]
    vectors = [_vector(value, x) for value in (scaled.inputs[1], inputs[1], centred.inputs[1])]
    if x is None or shape_of(x) != shape_of(site.y) or any(vector is None for vector in vectors):
        return None
    one = g.constant(np.ones(int(shape_of(x)[1])), x.dtype)
    return (g.BatchNormalization(x, *vectors, one, epsilon=0.0),)


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _vector(value: ir.Value | None, x: ir.Value | None) -> ir.Value | None:
    """Return the vector [C] that `value` [1, C, 1, ...] views for the channels of x [N, C, ...]."""
    node = _producer(value)
    if node is None or value is None or x is None or node.op_type != "Reshape" or node.inputs[0] is None:
        return None
    channels, rank = shape_of(x)[1], len(shape_of(x))
    if shape_of(node.inputs[0]) != [channels] or shape_of(value) != [1, channels] + [1] * (rank - 2):
        return None
    return node.inputs[0]
