"""Weights and activations in 8 bits: static quantization by ONNX Runtime, as pairs of Quantize- and DequantizeLinear.

Weights are quantized symmetrically, each output channel by itself; activations by the range that samples give them.
Both stay in 7 and 8 bits: without VNNI, x86 adds two products of 8 bits each in 16 bits, which saturate.
"""

import importlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx

from netc_runtime.arrays import Array
from netc_runtime.data.base import Split
from netc_runtime.data.batches import batch_of, evaluation_size, sample_count
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.interface import TensorSpec

# What gains from 8 bits, and what hands them on; softmax and normalization stay as they are, where 8 bits cost much.
_OPERATORS = [
    "Add", "AveragePool", "Concat", "Conv", "ConvTranspose", "Flatten", "Gemm", "GlobalAveragePool", "MatMul",
    "MaxPool", "Relu", "Reshape", "Transpose",
]  # fmt: skip
_PART_KEY = "netc.part"
_SHORTER = {
    "_DequantizeLinear_Output": "/dq",
    "_QuantizeLinear_Output": "/q",
    "_QuantizeLinear_Input": "/raw",
    "_quantized": "/q",
    "_quantized_scale": "/scale",
    "_scale": "/scale",
    "_zero_point": "/zero",
}
_PREPROCESSED = {"onnx.quant.pre_process": "onnxruntime.quant"}  # else it warns that nothing did


def quantized(model: onnx.ModelProto, split: Split, inputs: tuple[TensorSpec, ...], samples: int) -> onnx.ModelProto:
    """Return the model with 8-bit weights and activations, calibrated on `samples` of a split, evenly spread.

    Raises DriverError: 3 without ONNX Runtime's quantization, 2 if there is nothing to quantize.
    """
    quantization = _quantization()

    properties = list(model.metadata_props)
    given = onnx.ModelProto()
    given.CopyFrom(model)
    onnx.helper.set_model_props(given, _PREPROCESSED)
    exact = [node.name for node in model.graph.node if _is_exact(node)]
    with tempfile.TemporaryDirectory(prefix="netc-") as scratch:
        path = Path(scratch) / "int8.onnx"
        quantization.quantize_static(
            given,
            path,
            _Reader(_batches(split, inputs, samples)),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_OPERATORS,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=exact,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
        result = onnx.load(path)
    if not any(node.op_type == "DequantizeLinear" for node in result.graph.node):
        raise DriverError(
            "--int8 finds nothing to quantize: the model has no convolution and no matrix product; leave it out",
            ExitCode.USAGE,
        )
    _leave_outputs_exact(result)
    _drop_what_is_implied(result)
    _shorten_names(result)
    del result.metadata_props[:]
    result.metadata_props.extend(properties)
    return result


class _Reader:
    """Hands batches to the calibration, as ONNX Runtime's `CalibrationDataReader` says."""

    def __init__(self, batches: Iterator[Mapping[str, Array]]) -> None:
        self._batches = batches

    def get_next(self) -> Mapping[str, Array] | None:
        """Return the next batch, None after the last one."""
        return next(self._batches, None)


def _batches(split: Split, inputs: tuple[TensorSpec, ...], samples: int) -> Iterator[Mapping[str, Array]]:
    # Evenly over the split, which may be sorted by class.
    count = sample_count(split)
    chosen = np.unique(np.linspace(0, count - 1, min(samples, count)).round().astype(np.intp))
    size = evaluation_size(inputs)
    for start in range(0, len(chosen), size):
        yield batch_of(split, inputs, chosen[start : start + size])


def _is_exact(node: onnx.NodeProto) -> bool:
    """Whether a node brings raw values to those that the network sees: 8 bits before and after it would be lost."""
    return any(entry.key == _PART_KEY and entry.value == "preprocess" for entry in node.metadata_props)


def _leave_outputs_exact(model: onnx.ModelProto) -> None:
    """Drop the last quantization before each output: in 256 steps, the scores of two classes are often equal."""
    makers = {name: node for node in model.graph.node for name in node.output}
    for output in model.graph.output:
        last = makers[output.name]
        before = makers.get(last.input[0]) if last.op_type == "DequantizeLinear" else None
        if before is None or before.op_type != "QuantizeLinear":
            continue
        raw = before.input[0]
        readers = [node for node in model.graph.node if {raw, *before.output} & set(node.input)]
        if raw not in makers or len(readers) > 2:  # another layer reads it too
            continue
        maker = makers[raw]
        maker.output[list(maker.output).index(raw)] = output.name
        model.graph.node.remove(before)
        model.graph.node.remove(last)


def _drop_what_is_implied(model: onnx.ModelProto) -> None:
    """Drop zero points of weights and biases, which are 0 where there is none, and all that nothing reads any more."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in constants or len(node.input) < 3:
            continue
        if not onnx.numpy_helper.to_array(constants[node.input[2]]).any():
            del node.input[2]
    read = {name for node in model.graph.node for name in node.input}
    for name, tensor in constants.items():
        if name not in read:
            model.graph.initializer.remove(tensor)
    del model.graph.value_info[:]


def _shorten_names(model: onnx.ModelProto) -> None:
    """Shorten the names that the quantizer makes: in a net of many small layers they are a tenth of the file."""
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
    kept = {value.name for value in (*model.graph.input, *model.graph.output)}
    shorter: dict[str, str] = {}
    for name in sorted(taken - kept):
        for long, short in _SHORTER.items():
            if name.endswith(long) and (new := name.removesuffix(long) + short) not in taken:
                shorter[name] = new
                taken.add(new)
                break
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [shorter.get(name, name) for name in names]
    for tensor in model.graph.initializer:
        tensor.name = shorter.get(tensor.name, tensor.name)


def _quantization() -> ModuleType:
    try:
        return importlib.import_module("onnxruntime.quantization")
    except ImportError as error:
        raise DriverError(
            f"--int8 quantizes with onnxruntime.quantization, which cannot be imported ({error}); install it with: "
            f'pip install "netc[cpu]"',
            ExitCode.ENVIRONMENT,
        ) from error
