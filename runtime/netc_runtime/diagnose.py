"""Which layer went wrong first: a diverged step run once more, with a probe at every value that it computes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper

from netc_runtime.arrays import Array
from netc_runtime.artifact import Artifact, Interface
from netc_runtime.errors import DriverError
from netc_runtime.files import read_bounded
from netc_runtime.session import Host, Program

_LIMIT = 2 << 30
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16})
_PARTS = {
    "forward": "the forward pass of",
    "grad": "the gradient of",
    "update": "the update of",
    "weight": "the loss weight of",
    "preprocess": "the preprocessing of",
}
_BACKWARD = frozenset({"grad", "update"})


def origin_of_divergence(
    artifact: Artifact, feeds: Mapping[str, Array], threads: int | None, key: str = "train"
) -> str:
    """Return a clause that names where the non-finite results of one training step come from.

    `feeds` are all inputs of the program `key`. The step is run on the CPU, whatever device it diverged on.
    """
    try:
        return _origin(artifact, feeds, threads, key)
    except (DriverError, DecodeError, onnx.shape_inference.InferenceError, ValueError, MemoryError) as error:
        return f"the layer where it began could not be found ({error})"


def _origin(artifact: Artifact, feeds: Mapping[str, Array], threads: int | None, key: str) -> str:
    path = artifact.file(key)
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(read_bounded(path, _LIMIT)))
    nodes = list(model.graph.node)
    outputs = [value.name for value in model.graph.output]
    bad = _non_finite(artifact.graph(key), path, model, feeds, threads)
    totals = [name for name in artifact.metrics_of("total") if name in bad]
    ends = totals or [name for name in outputs if name in bad]
    if not ends:
        return "run again on the CPU, the same step gives finite values"
    guilty, sources = _ancestors(nodes, ends, bad)
    state = sorted(sources & feeds.keys())
    if state:
        return f"the state was not finite already before this step ({', '.join(state)})"
    # Emitted graphs are in topological order, and a sort keeps it.
    return f"the first non-finite values are in {_describe(min(guilty, key=lambda node: _part(node) in _BACKWARD))}"


def _non_finite(
    graph: Interface, path: Path, model: onnx.ModelProto, feeds: Mapping[str, Array], threads: int | None
) -> set[str]:
    """Return the names of all inputs and values of a step that are not finite."""
    bad = {name for name, array in feeds.items() if array.dtype.kind == "f" and not np.isfinite(array).all()}
    probes = {f"netc.probe/{index}": name for index, name in enumerate(_float_values(model.graph))}
    for probe, name in probes.items():
        # A difference with itself is 0, or NaN where a value is infinite or NaN; one number leaves the program for
        # each value, not the value, which would need the memory of all of them at once.
        model.graph.node.append(helper.make_node("Sub", [name, name], [f"{probe}/zero"]))
        model.graph.node.append(helper.make_node("ReduceSum", [f"{probe}/zero"], [probe], keepdims=0))
        model.graph.output.append(onnx.ValueInfoProto(name=probe))
    program = Program(path, Host("cpu", threads), graph, model.SerializeToString())
    results = program(feeds, tuple(probes))
    return bad | {probes[probe] for probe, value in results.items() if np.isnan(value)}


def _float_values(graph: onnx.GraphProto) -> Iterator[str]:
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    for node in graph.node:
        if node.op_type != "Constant":
            yield from (name for name in node.output if types.get(name) in _FLOATS)


def _ancestors(
    nodes: Sequence[onnx.NodeProto], ends: Sequence[str], bad: set[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """Return the nodes, in order, from which non-finite values reach `ends`, and the names of all such values.

    A value that is not finite by intention, and left out by a later Where, reaches nothing.
    """
    reached, found = set(ends), list[onnx.NodeProto]()
    for node in reversed(nodes):
        if reached.intersection(node.output):
            found.append(node)
            reached.update(bad.intersection(node.input))
    return found[::-1], reached


def _part(node: onnx.NodeProto) -> str | None:
    return next((entry.value for entry in node.metadata_props if entry.key == "netc.part"), None)


def _describe(node: onnx.NodeProto) -> str:
    name = node.name or f"{node.op_type} -> {', '.join(node.output)}"
    layer, part = next((entry.value for entry in node.metadata_props if entry.key == "netc.layer"), None), _part(node)
    if layer is None or part is None:
        return f"the node {name}"
    return f"{_PARTS.get(part, f'the part {part} of')} {layer} ({name})"
