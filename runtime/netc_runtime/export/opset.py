"""Another version of the ONNX operators, by ONNX's own converter."""

import onnx
import onnx.version_converter

from netc_runtime.errors import DriverError, ExitCode

_NODE_METADATA = 10  # the first version of the format in which nodes have metadata


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators that a model uses."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def convert_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a model with the operators of another version; raises DriverError (2) if the converter does not know how.

    The version of the format goes down with that of the operators, because old engines refuse what is newer in either.
    """
    if opset == opset_of(model):
        return model
    origins = {node.name: list(node.metadata_props) for node in model.graph.node}
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as error:
        reason = next(iter(str(error).rpartition("failed: ")[2].strip().splitlines()), "it gives no reason")
        raise DriverError(
            f"the model cannot be converted to opset {opset}, ONNX's converter says ({reason}); choose one nearer to "
            f"{opset_of(model)}",
            ExitCode.USAGE,
        ) from error
    least = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    converted.ir_version = min(model.ir_version, least)
    if converted.ir_version >= _NODE_METADATA or opset > opset_of(model):
        converted.ir_version = model.ir_version
        for node in converted.graph.node:  # the converter drops what nodes say of themselves
            if not node.metadata_props:
                node.metadata_props.extend(origins.get(node.name, []))
    return converted
