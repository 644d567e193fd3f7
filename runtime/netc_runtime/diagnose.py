"""Which layer went wrong first: a diverged step run once more, with a probe at every value that it computes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper

from netc_runtime.arrays import Array
from netc_runtime.artifact import Artifact
from netc_runtime.engines import cpu_device, load_program
from netc_runtime.errors import DriverError
from netc_runtime.interface import Interface
from netc_runtime.session import Host

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16})
_PARTS = {
    "forward": "the forward pass of",
    "recompute": "the recomputation of",
    "grad": "the gradient of",
    "update": "the update of",
    "weight": "the loss weight of",
    "preprocess": "the preprocessing of",
}
_BACKWARD = frozenset({"grad", "update"})


def origin_of_divergence(
    artifact: Artifact,
    feeds: Mapping[str, Array],
    threads: int | None,
    samples: Sequence[int] = (),
    key: str = "train",
) -> str:
    """Return a clause that names where the non-finite results of one training step come from.

    `feeds` are all inputs of the program `key`, `samples` the indices in the training split of the batch among them,
    if they are known. The step is run on the CPU, whatever device it diverged on.
    """
    try:
        return _origin(artifact, feeds, threads, samples, key)
    except (DriverError, DecodeError, onnx.shape_inference.InferenceError, ValueError, MemoryError) as error:
        return f"the layer where it began could not be found ({error})"


def _origin(
    artifact: Artifact, feeds: Mapping[str, Array], threads: int | None, samples: Sequence[int], key: str
) -> str:
    path, graph = artifact.file(key), artifact.graph(key)
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(artifact.content(key)))
    nodes = list(model.graph.node)
    outputs = [value.name for value in model.graph.output]
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    bad = _non_finite(graph, path, probed, feeds, threads)
    totals = [name for name in artifact.metrics_of("total") if name in bad]
    ends = totals or [name for name in outputs if name in bad]
    if not ends:
        return "run again on the CPU, the same step gives finite values"
    guilty, sources = _ancestors(nodes, ends, bad)
    batch = [spec.name for spec in graph.inputs_of("batch") if spec.name in sources & feeds.keys()]
    if batch:
        culprit = next(iter(_samples(feeds[batch[0]], samples)), "the batch")
        return f'{culprit} has a value of "{batch[0]}" that is not finite'
    named = artifact.packing.unpack({name: feeds[name] for name in sources & feeds.keys()})
    state = sorted(name for name, array in named.items() if not np.isfinite(array).all())
    if state:
        return f"the state was not finite already before this step ({', '.join(state)})"
    # Emitted graphs are in topological order, and a sort keeps it.
    first = min(guilty, key=lambda node: _part(node) in _BACKWARD)
    where = f"the first non-finite values are in {_describe(first)}"
    if _part(first) in _BACKWARD:
        return where
    name = next(name for name in first.output if name in bad)
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=name))
    program = load_program(path, Host(cpu_device(), threads), graph, model.SerializeToString())
    culprits = _samples(program(feeds, (name,))[name], samples)
    # Several are no fault of a sample.
    return f"{where}, of {culprits[0]} alone" if len(culprits) == 1 else where


def _samples(values: Array, samples: Sequence[int]) -> list[str]:
    """Return the samples of the training split that have a non-finite value, nothing where that is not known."""
    if values.ndim == 0 or len(values) != len(samples):
        return []
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    return [f"sample {samples[int(index)]} of the train split" for index in bad]


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
    program = load_program(path, Host(cpu_device(), threads), graph, model.SerializeToString())
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
