"""Export: the inference parameters of a checkpoint baked into one ONNX file, which is proven before it is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from netc_runtime.arrays import Array
from netc_runtime.artifact import Artifact
from netc_runtime.checkpoint import Checkpoint
from netc_runtime.data import class_names_of, open_source, value_range_of
from netc_runtime.data.base import Split
from netc_runtime.data.batches import check_fit, evaluation_batches, sample_count
from netc_runtime.engines import load_program
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.evaluate import Evaluator, Means, data_section
from netc_runtime.files import storage_errors, write_atomically
from netc_runtime.jsonfields import MalformedError, canonical, objects, parse_object
from netc_runtime.model import CLASSES_KEY, DATA_KEY, INTERFACE_KEY, RANGE_KEY, Model, class_names
from netc_runtime.run import RunFolder
from netc_runtime.seal import sealed
from netc_runtime.session import Host

# A folded batch norm rounds differently; beyond this share of the largest output it computes something else.
_TOLERANCE = 1e-3
_PROTOBUF_LIMIT = (2 << 30) - (1 << 20)


@dataclass(frozen=True)
class Agreement:
    """How an exported model compares with eval.onnx over the test split.

    `difference` is the largest absolute difference of an output, `largest` the largest absolute output. `accuracy`
    is the spec's first accuracy as eval.onnx defines it, None where the spec has none.
    """

    samples: int
    difference: float
    largest: float
    accuracy: float | None


@dataclass(frozen=True)
class ExportReport:
    """What was exported: `parameters` counts scalars, `size` bytes; `agreement` is None without verification."""

    path: Path
    checkpoint: Path
    step: int
    parameters: int
    size: int
    agreement: Agreement | None


def export_run(
    run: Path,
    out: Path | None = None,
    checkpoint: str = "last",
    host: Host | None = None,
    verify: bool = True,
    data_overrides: Mapping[str, Any] | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> ExportReport:
    """Write the inference model of a checkpoint ("last", "best" or a path) to `out`, by default RUN/model.onnx.

    Unless `verify` is false, the model and eval.onnx first run over the whole test split; a model that disagrees is
    not written. Raises DriverError.
    """
    host = host or Host()
    folder = RunFolder(run)
    artifact = folder.load_artifact()
    path, found = folder.find(checkpoint, artifact, warn)
    target = out or folder.model
    if target.is_dir():
        raise DriverError(
            f"{target} is a folder; name the file to write, such as {target / 'model.onnx'}", ExitCode.USAGE
        )
    parameters = fold(artifact, found.state, host)
    content = bake(artifact, parameters, found, host)
    agreement = None
    if verify:
        model = Model(target, host, content)
        source = open_source(data_section(artifact.spec, data_overrides))
        check_fit(source, artifact.graph("eval").inputs_of("batch"))
        agreement = _compare(artifact, found.state, model, source.test, host)
    with storage_errors("create", target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content)
    count = sum(array.size for array in parameters.values())
    return ExportReport(target, path, found.position.step, count, len(content), agreement)


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


def bake(artifact: Artifact, parameters: Mapping[str, Array], checkpoint: Checkpoint, host: Host) -> bytes:
    """Return infer.onnx with its parameters as initializers instead of inputs; equal arguments give equal bytes."""
    graph = artifact.graph("infer")
    size = sum(array.nbytes for array in parameters.values())
    if size > _PROTOBUF_LIMIT:
        raise DriverError(f"the parameters of {artifact.name} take {size} bytes, one ONNX file holds at most 2 GiB")
    program = artifact.content("infer")
    load_program(artifact.file("infer"), host, graph, program)  # which names the culprit if the file is damaged
    model = onnx.load_model_from_string(program)
    for value in list(model.graph.input):
        if value.name in parameters:
            model.graph.input.remove(value)
    for spec in graph.inputs_of("parameter"):
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
    outputs = graph.outputs_of("output")
    properties[DATA_KEY] = canonical(data)
    properties[RANGE_KEY] = canonical(value_range_of(data))
    properties[CLASSES_KEY] = canonical(class_names(class_names_of(data), outputs))
    onnx.helper.set_model_props(model, properties)
    model.doc_string = (
        f"{artifact.name} at step {checkpoint.position.step}, exported by netc {artifact.netc_version}. Inputs take "
        f"raw values of the data source; mean and scale are part of the graph."
    )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise DamagedFileError(f"{artifact.file('infer')} does not give a valid model: {error}") from error
    return sealed(model)


def _compare(artifact: Artifact, state: Mapping[str, Array], model: Model, split: Split, host: Host) -> Agreement:
    evaluator = Evaluator(artifact, host)
    names = [spec.name for spec in model.outputs if spec.name in evaluator.output_names]
    if not names:
        raise DamagedFileError(f"{artifact.folder}: eval.onnx and infer.onnx have no output in common")
    accuracies = artifact.metrics_of("accuracy")[:1]
    means = Means([spec for spec in evaluator.metrics_declared if spec.name in accuracies])
    difference = largest = 0.0
    references = evaluator.run(state, split, (*names, *means.outputs))
    batches = evaluation_batches(split, model.inputs, evaluator.batch_size)
    for batch, reference in zip(batches, references, strict=True):
        results = model.program(batch, names)
        for name in names:
            # np.maximum, unlike max, lets a NaN through.
            difference = float(np.maximum(difference, np.abs(results[name] - reference[name]).max()))
            largest = float(np.maximum(largest, np.abs(reference[name]).max()))
        means.add(reference)
    if not difference <= _TOLERANCE * max(largest, 1.0):
        raise DriverError(
            f"the exported model disagrees with eval.onnx: an output differs by {difference:.3g}, outputs reach "
            f"{largest:.3g}; {model.path} was not written"
        )
    return Agreement(sample_count(split), difference, largest, next(iter(means.values.values()), None))
