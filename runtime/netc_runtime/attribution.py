"""Whose work a kernel of an engine does: the layer and the part of the step that its node was compiled for.

The compiler writes both into every node. Before it runs a graph, the engine's optimizer fuses nodes, replaces them and
inserts others, so that a kernel may have a name that is in no file. The graph that it made traces them back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

NORMAL_PARTS = ("forward", "recompute", "grad", "update")


@dataclass(frozen=True)
class Origin:
    """A layer of the spec, or what stands in its place (`solver`, `random`), and a part of the step.

    The parts are NORMAL_PARTS, and others of small work (`preprocess`, `weight`, `keys`).
    """

    layer: str
    part: str


@dataclass(frozen=True)
class EngineNode:
    """One node of the graph that an engine runs: its name, and the values that it reads and computes.

    `made_of` are the nodes that it does the work of, none where the engine inserted it; None if the engine does not
    say.
    """

    name: str
    reads: tuple[str, ...]
    computes: tuple[str, ...]
    made_of: tuple[str, ...] | None = None


def nodes_of(graph: onnx.GraphProto) -> list[EngineNode]:
    """Return the nodes of an engine's graph that is written as ONNX."""
    return [EngineNode(node.name, tuple(node.input), tuple(node.output)) for node in graph.node]


def origins(graph: onnx.GraphProto) -> dict[str, Origin]:
    """Return the origin of every node of a compiled program by its name, in the order of the program.

    A node without one, which the compiler never writes, is left out.
    """
    found = dict[str, Origin]()
    for node in graph.node:
        metadata = {entry.key: entry.value for entry in node.metadata_props}
        if "netc.layer" in metadata and "netc.part" in metadata:
            found[node.name] = Origin(metadata["netc.layer"], metadata["netc.part"])
    return found


def kernel_origins(compiled: onnx.GraphProto, nodes: Sequence[EngineNode]) -> dict[str, Origin]:
    """Return the origin of every node that an engine runs, by its name; those of unknown origin are left out.

    `compiled` is the program as it was compiled, `nodes` what the engine made of it, in the order of running. The first
    that applies is taken:

    1. The node has the name of a compiled node.
    2. Its name contains one, as fused and replaced nodes do: `fused ip1/forward/Gemm`, `pool/forward/MaxPool_nchwc`.
       Such a kernel may do the work of another layer too (here of the ReLU that follows).
    3. It computes a value that a compiled node computed.
    4. The engine says that it was made of a compiled node, or of one of those values; the first counts.
    5. It serves one of known origin that reads its result, as copies and changes of the memory layout in front of a
       kernel do, or else one whose result it reads.

    Of a node that the engine says it inserted, only the last is asked: it may be called after all its neighbours.
    """
    declared = origins(compiled)
    values = {value: declared[node.name] for node in compiled.node if node.name in declared for value in node.output}
    found = dict[str, Origin]()
    for node in nodes:
        if node.made_of == ():
            continue
        origin = declared.get(node.name) or _by_part_of_name(node.name, declared)
        origin = origin or next((values[value] for value in node.computes if value in values), None)
        named = (declared.get(name) or values.get(name) for name in node.made_of or ())
        origin = origin or next(filter(None, named), None)
        if origin is not None:
            found[node.name] = origin
    return found | _by_neighbours(nodes, found)


def _by_part_of_name(name: str, declared: Mapping[str, Origin]) -> Origin | None:
    # The longest: conv1/forward/Conv_12 contains conv1/forward/Conv_1 too, and v1/forward/Conv.
    longest = max((known for known in declared if known in name), key=len, default=None)
    return None if longest is None else declared[longest]


def _by_neighbours(nodes: Sequence[EngineNode], known: Mapping[str, Origin]) -> dict[str, Origin]:
    """Return the origins of nodes that only their neighbours tell, which may be such nodes themselves."""
    producer = {value: node.name for node in nodes for value in node.computes}
    readers = dict[str, list[str]]()
    for node in nodes:
        for value in node.reads:
            readers.setdefault(value, []).append(node.name)
    found = dict[str, Origin]()
    unknown = [node for node in nodes if node.name not in known]
    # Backwards and then forwards, so that a chain of such nodes is followed to its end.
    for node in reversed(unknown):
        names = [reader for value in node.computes for reader in readers.get(value, ())]
        _take_first(node.name, names, known, found)
    for node in unknown:
        if node.name not in found:
            _take_first(node.name, [producer[value] for value in node.reads if value in producer], known, found)
    return found


def _take_first(name: str, neighbours: list[str], known: Mapping[str, Origin], found: dict[str, Origin]) -> None:
    origin = next((o for n in neighbours if (o := known.get(n) or found.get(n)) is not None), None)
    if origin is not None:
        found[name] = origin
