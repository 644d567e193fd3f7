"""What the manifest says of a program's inputs and outputs, and the program with those that it has."""

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from netc.emit import Entry, Program, is_training
from netc.inputs import data_fields
from netc.layers.base import Metric
from netc.layers.context import StateTensor
from netc.network import Network
from netc.rewrite.packed_state import Packable, Packed, layout, pack
from netc.spec.load import Loaded

PACKED_ROLES = ("parameter", "optimizer", "statistic", "average")
"""Roles of the state that is packed; all else is scalars that hosts read and set by name."""


def output_entries(network: Network) -> dict[str, Entry]:
    """Declare the network's outputs in its graph and say what they are."""
    for output in network.outputs:
        network.net.g.output(output.name, output.value)
    entries: dict[str, Entry] = {}
    for output in network.outputs:
        entries[output.name] = {"role": "output", "activation": output.activation, "label": output.label}
        if ignored := ignored_labels(network, str(output.label)):
            entries[output.name]["ignored"] = ignored
        if output.side is not None:
            entries[output.name]["side"] = output.side
    return entries


def batch_entries(loaded: Loaded, network: Network) -> dict[str, Entry]:
    """Return what the manifest says of each batch input: which array of a data source feeds it."""
    entries: dict[str, Entry] = {}
    fields = data_fields(loaded.spec.inputs)
    for name, declared in loaded.spec.inputs.items():
        entries[name] = {"role": "batch", "field": fields[name]}
        if declared.classes is not None:
            entries[name]["classes"] = declared.classes
            if ignored := ignored_labels(network, name):
                entries[name]["ignored"] = ignored
    return entries


def ignored_labels(network: Network, name: str) -> list[int]:
    """Return the values of a label input that no loss or metric counts, so that they need be no class."""
    ignored: set[int | None] = set()
    for placed in network.placed:
        counts = isinstance(placed.layer, Metric) and placed.layer.counts  # what is no class, these leave out anyway
        if placed.layer.takes_labels and placed.bottoms[-1] == name and not counts:
            ignored.add(placed.layer.ignored)
    return [label for label in ignored if label is not None] if len(ignored) == 1 else []


def program(loaded: Loaded, network: Network, graph: ir.Graph, outputs: dict[str, Entry]) -> Program:
    """Return a program that reads state and batch, without the inputs that it does not use."""
    state: dict[str, Entry] = {name: {"role": "state"} for name in network.net.state}
    return used(Program(graph, state | batch_entries(loaded, network), outputs))


def used(program: Program) -> Program:
    """Drop the inputs that nobody reads."""
    inputs = program.graph.inputs
    inputs[:] = [value for value in inputs if value.uses() or value.is_graph_output()]
    return program


def averages_of(state: Iterable[StateTensor]) -> dict[str, str]:
    """Return the name of the average of each parameter that has one, by the parameter's name."""
    return {tensor.filled_as: tensor.name for tensor in state if tensor.role == "average"}


def use_averages(program: Program, averages: Mapping[str, str]) -> None:
    """Let a program read the averages of parameters, by the parameter's name, instead of the parameters."""
    taken: dict[str, Entry] = {}
    for value in program.graph.inputs:
        name = str(value.name)
        if name in averages and program.inputs[name]["role"] == "state":
            value.name = averages[name]
            taken[averages[name]] = {"role": "state"}
    program.inputs = {**program.inputs, **taken}


def pack_state(programs: Mapping[str, Program], state: Iterable[StateTensor]) -> list[Packed]:
    """Let all programs take the float32 tensors of the state in flat buffers; return these.

    What a training program changes is in other buffers than what none does, so that frozen weights are not copied in
    every step. What one phase changes and another does not counts as changed.
    """
    updates = {
        name: {entry["feeds"]: output for output, entry in program.outputs.items() if entry["role"] == "next"}
        for name, program in programs.items()
        if is_training(name)
    }
    tensors = [
        Packable(tensor.name, tensor.shape, tensor.layer)
        for tensor in state
        if tensor.role in PACKED_ROLES and tensor.dtype == ir.DataType.FLOAT
    ]
    changed = frozenset(name for fed in updates.values() for name in fed)
    buffers = layout(tensors, changed)
    packed = {tensor.name for buffer in buffers for tensor in buffer.tensors}
    for name, program in programs.items():
        if name == "infer":
            continue  # its parameters are those that `fold` gives, by name
        fed = {tensor: output for tensor, output in updates.get(name, {}).items() if tensor in packed}
        program.graph = pack(program.graph, buffers, fed)
        entries: dict[str, Entry] = {buffer.name: {"role": "state"} for buffer in buffers}
        nexts: dict[str, Entry] = {f"{b.name}.next": {"role": "next", "feeds": b.name} for b in buffers}
        program.inputs, program.outputs = {**program.inputs, **entries}, {**program.outputs, **nexts}
    return buffers
