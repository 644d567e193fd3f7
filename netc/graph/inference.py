"""The types of a node's outputs, by the ONNX standard's own inference, which is asked once for each kind of node.

A deep network repeats few kinds of nodes thousands of times, and builder and verifier ask about every node of every
graph on the way. The answer depends only on operator, attributes, number of outputs, types and shapes of the inputs
and the content of the small constants among them, so that these are the key under which it is kept: a node that is
new, changed or wrongly typed has another key, and is inferred or found out.
"""

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
from onnx import shape_inference

OPSET = 18
IR_VERSION = 10
# Shape arguments (Reshape, Slice, Pad, ...) are tiny; larger constants never decide a shape.
MAX_SHAPE_DATA = 64
MAX_KEPT = 100_000  # answers; a network of a thousand layers has a few hundred


class Inferred(NamedTuple):
    """Element type as in ONNX, 0 if unknown, and the shape, None if the rank is unknown.

    The shape is frozen, since all values of this type may share it.
    """

    kind: int
    shape: ir.Shape | None


_OPSET_IMPORTS = [onnx.helper.make_opsetid("", OPSET)]
_kept: dict[Hashable, tuple[Inferred, ...]] = {}


def infer(node: ir.Node) -> tuple[Inferred, ...]:
    """Return what the standard infers for each output of a node, whose inputs have types.

    Raises:
        Exception: whatever the inference raises when it refuses the node.
    """
    key = _key(node)
    answer = _kept.get(key)
    if answer is None:
        answer = _ask(node)
        if len(_kept) >= MAX_KEPT:
            _kept.clear()
        _kept[key] = answer
    return answer


def _key(node: ir.Node) -> Hashable:
    inputs = tuple([None if x is None else _input_key(x) for x in node.inputs])
    attributes = tuple([attribute_key(attribute) for attribute in node.attributes.data.values()])
    return node.op_type, len(node.outputs), inputs, attributes


def attribute_key(attribute: ir.Attr) -> tuple[str, int, Hashable]:
    """Return name, type and value of an attribute: equal for equal attributes alone."""
    value = _content(attribute.as_tensor().numpy()) if attribute.type == ir.AttributeType.TENSOR else attribute.value
    return attribute.name, int(attribute.type), value


def _input_key(value: ir.Value) -> Hashable:
    shape = value.shape
    dims = None if shape is None else shape.dims
    if value.const_value is None:
        return value.dtype, dims
    data = _shape_data(value)
    return value.dtype, dims, None if data is None else _content(data)


def _shape_data(value: ir.Value) -> np.ndarray | None:
    """Return the array behind a constant that may be a shape argument."""
    if value.const_value is None:
        return None
    array = value.const_value.numpy()
    return array if array.size <= MAX_SHAPE_DATA else None


def _content(array: np.ndarray) -> Hashable:
    return array.dtype, array.shape, array.tobytes()


def _ask(node: ir.Node) -> tuple[Inferred, ...]:
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for value in node.inputs:
        if value is None:
            continue
        name = str(value.name)
        shape = None if value.shape is None else [d if isinstance(d, int) else d.value for d in value.shape]
        types[name] = onnx.helper.make_tensor_type_proto(int(value.dtype or 0), shape)
        array = _shape_data(value)
        if array is not None:
            data[name] = onnx.numpy_helper.from_array(array, name)
    inferred = shape_inference.infer_node_outputs(
        onnx.defs.get_schema(node.op_type, OPSET),
        ir.serde.serialize_node(node),
        types,
        data,
        opset_imports=_OPSET_IMPORTS,
        ir_version=IR_VERSION,
    )
    return tuple(_read(inferred[str(value.name)].tensor_type) for value in node.outputs)


def _read(kind: onnx.TypeProto.Tensor) -> Inferred:
    if not kind.HasField("shape"):
        return Inferred(kind.elem_type, None)
    dims = (dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None) for dim in kind.shape.dim)
    return Inferred(kind.elem_type, ir.Shape(dims, frozen=True))
