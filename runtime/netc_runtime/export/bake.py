"""The inference parameters of a state, and infer.onnx with them inside and with a description of itself."""

from collections.abc import Mapping

import onnx

from netc_runtime.arrays import Array
from netc_runtime.artifact import Artifact
from netc_runtime.data import class_names_of, value_range_of
from netc_runtime.engines import load_program
from netc_runtime.errors import DamagedFileError
from netc_runtime.evaluate import data_section
from netc_runtime.jsonfields import MalformedError, canonical, objects, parse_object
from netc_runtime.model import CLASSES_KEY, DATA_KEY, INTERFACE_KEY, RANGE_KEY, class_names
from netc_runtime.session import Host

_FOLD_KEY = "netc.fold"
_LAYER_KEY = "netc.layer"


def fold(artifact: Artifact, state: Mapping[str, Array], host: Host) -> dict[str, Array]:
    """Return the inference parameters of a state, by the name of the infer input that takes them."""
    graph = artifact.graph("fold")
    if not graph.outputs:  # inference has no parameter, as a mere softmax; ONNX Runtime refuses empty graphs
        return {}
    program = load_program(artifact.file("fold"), host, graph, artifact.content("fold"))
    outputs = {spec.name: spec.feeds for spec in graph.outputs_of("parameter")}
    fed = artifact.packing.pack(state)
    results = program({spec.name: fed[spec.name] for spec in graph.inputs}, tuple(outputs))
    return {feeds: results[name] for name, feeds in outputs.items() if feeds is not None}


def load_infer(artifact: Artifact, host: Host) -> onnx.ModelProto:
    """Return infer.onnx; raises DriverError, which names the culprit, if the host's engine does not load it."""
    program = artifact.content("infer")
    load_program(artifact.file("infer"), host, artifact.graph("infer"), program)
    return onnx.load_model_from_string(program)


def bake(model: onnx.ModelProto, artifact: Artifact, parameters: Mapping[str, Array]) -> None:
    """Make initializers of the inputs of infer.onnx that take parameters, and say in its metadata what to feed.

    Raises DamagedFileError if the file does not describe itself.
    """
    for value in list(model.graph.input):
        if value.name in parameters:
            model.graph.input.remove(value)
    for spec in artifact.graph("infer").inputs_of("parameter"):
        model.graph.initializer.append(onnx.numpy_helper.from_array(parameters[spec.name], spec.name))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    try:
        interface = parse_object(properties.get(INTERFACE_KEY, ""))
        inputs_left = [entry for entry in objects(interface, "inputs") if entry.get("name") not in parameters]
    except MalformedError as error:
        raise DamagedFileError(f"{artifact.file('infer')} has no usable {INTERFACE_KEY}: {error}") from error
    # The file has one description of itself: what is now inside is no input any more.
    properties[INTERFACE_KEY] = canonical({**interface, "inputs": inputs_left})
    data = data_section(artifact.spec)
    outputs = artifact.graph("infer").outputs_of("output")
    properties[DATA_KEY] = canonical(data)
    properties[RANGE_KEY] = canonical(value_range_of(data))
    properties[CLASSES_KEY] = canonical(class_names(class_names_of(data), outputs))
    onnx.helper.set_model_props(model, properties)


def not_folded(model: onnx.ModelProto) -> dict[str, str]:
    """Return why the batch norm of a layer could not be folded, by layer, as the nodes that are left of it say."""
    reasons: dict[str, str] = {}
    for node in model.graph.node:
        said = {entry.key: entry.value for entry in node.metadata_props}
        if _FOLD_KEY in said:
            reasons.setdefault(said.get(_LAYER_KEY, node.name), said[_FOLD_KEY])
    return reasons


def require_valid(model: onnx.ModelProto, artifact: Artifact) -> None:
    """Raise DamagedFileError unless `model` is one by the standard's own checker, types and shapes included."""
    checked = onnx.ModelProto()
    checked.CopyFrom(model)
    # The checker would look for the files of tensors that lie outside; with inputs in their place it sees as much.
    for tensor in list(checked.graph.initializer):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            checked.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
            checked.graph.initializer.remove(tensor)
    try:
        onnx.checker.check_model(checked, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise DamagedFileError(f"{artifact.file('infer')} does not give a valid model: {error}") from error
