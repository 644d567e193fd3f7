"""Weights and activations in float16 between float32 inputs and outputs, by ONNX Runtime's own converter."""

from typing import Any

import numpy as np
import onnx

from netc_runtime.errors import DriverError, ExitCode

_LARGEST = float(np.finfo(np.float16).max)


def in_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in float16; raises DriverError (3) without ONNX Runtime.

    Constants beyond float16's range are brought to its end: whether that matters, the verification says.
    """
    convert = _converter()
    converted: onnx.ModelProto = convert(model, keep_io_types=True)
    _sort(converted)
    return converted


def beyond_float16(model: onnx.ModelProto) -> list[str]:
    """Return the float32 constants that float16 cannot hold, with their largest magnitude."""
    found = list[str]()
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        largest = float(np.abs(onnx.numpy_helper.to_array(tensor)).max(initial=0))
        if largest > _LARGEST:
            found.append(f"{tensor.name} ({largest:.3g})")
    return found


def _converter() -> Any:
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise DriverError(
            f"--fp16 converts with ONNX Runtime, which cannot be imported ({error}); install it with: "
            f'pip install "netc[cpu]"',
            ExitCode.ENVIRONMENT,
        ) from error
    return convert_float_to_float16


def _sort(model: onnx.ModelProto) -> None:
    """Put the nodes in an order in which each comes after those it reads: the converter appends its casts."""
    made = {name for node in model.graph.node for name in node.output}
    waiting, nodes = list(model.graph.node), list[onnx.NodeProto]()
    known = {""}
    while waiting:
        later = list[onnx.NodeProto]()
        for node in waiting:
            if all(name in known or name not in made for name in node.input):
                nodes.append(node)
                known.update(node.output)
            else:
                later.append(node)
        assert len(later) < len(waiting), "the graph had an order before"
        waiting = later
    copies = [onnx.NodeProto() for _ in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    del model.graph.node[:]
    model.graph.node.extend(copies)
