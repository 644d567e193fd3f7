"""State in few flat buffers: each tensor is a slice of one in front, and a part of the next one at the end.

    w = reshape(packed[o : o + n])        packed' = concat(flat(w'), flat(v'), ...)

A tensor that a program does not change goes into the next buffer as it came. Reason: a browser pays for every tensor
that crosses between JavaScript and the engine, more than for its bytes, and a network of twenty layers has a hundred
of them; packed, it keeps and hands on two buffers, brings one to the GPU and gets one back. Slices, each of one tensor,
stand in front instead of one Split: WebGPU binds at most 8 tensors to a shader, and a Split binds all of its outputs.
For the same reason the end is a tree of Concat, and no buffer is larger than what every device binds.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Origin, shape_of
from netc.graph.verify import verify
from netc.graph.webgpu import MAX_BYTES
from netc.rewrite.replay import replay_nodes
from netc.rewrite.webgpu_operators import concatenated

NAME = "packed.float32"
CONSTANT = "constant"
MOST = MAX_BYTES // 4  # float32 numbers of one buffer
REWRITE = "packed_state"


@dataclass(frozen=True)
class Packable:
    """One tensor of the state: its name, its shape, and the layer that declares it."""

    name: str
    shape: tuple[int, ...]
    layer: str

    @property
    def size(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Packed:
    """One flat buffer: its tensors, row by row and without gaps."""

    name: str
    tensors: tuple[Packable, ...]

    @property
    def offsets(self) -> list[int]:
        """The element that each tensor begins with."""
        return [0, *itertools.accumulate(tensor.size for tensor in self.tensors[:-1])]

    @property
    def size(self) -> int:
        """The number of all elements."""
        return sum(tensor.size for tensor in self.tensors)

    def as_dict(self) -> dict[str, object]:
        """Return what the manifest says of it."""
        tensors = [
            {"name": tensor.name, "offset": offset, "shape": list(tensor.shape)}
            for tensor, offset in zip(self.tensors, self.offsets, strict=True)
        ]
        return {"name": self.name, "dtype": "float32", "size": self.size, "tensors": tensors}


def layout(tensors: Sequence[Packable], changed: frozenset[str]) -> list[Packed]:
    """Return the buffers that hold all tensors: those that training changes, and apart from them the others.

    What is larger than a buffer may be has one of its own, which the engine may then refuse as it would the tensor.
    """
    buffers: list[Packed] = []
    for kind, is_constant in (("", False), (f".{CONSTANT}", True)):
        groups: list[list[Packable]] = []
        room = 0
        for tensor in tensors:
            if (tensor.name not in changed) is not is_constant:
                continue
            if not groups or tensor.size > room:
                groups.append([])
                room = MOST
            groups[-1].append(tensor)
            room -= tensor.size
        for number, group in enumerate(groups, 1):
            buffers.append(Packed(f"{NAME}{kind}{f'.{number}' if number > 1 else ''}", tuple(group)))
    return buffers


def pack(graph: ir.Graph, buffers: Sequence[Packed], updates: Mapping[str, str]) -> ir.Graph:
    """Return a graph that takes buffers in the place of their tensors, and gives the next ones.

    Args:
        graph: a program of the artifact.
        buffers: what `layout` returned.
        updates: the name of the output that gives the next value of a tensor of a buffer, by the tensor's name.
    """
    g = GraphBuilder(graph.name or "netc")
    named = {str(value.name): value for value in graph.inputs}
    results = {str(value.name): value for value in graph.outputs}
    new: dict[ir.Value, ir.Value] = {}
    next_buffers = [buffer for buffer in buffers if any(tensor.name in updates for tensor in buffer.tensors)]
    sources = {
        buffer.name: g.input(buffer.name, ir.DataType.FLOAT, [buffer.size])
        for buffer in buffers
        if buffer in next_buffers or any(tensor.name in named for tensor in buffer.tensors)
    }
    packed = {tensor.name for buffer in buffers for tensor in buffer.tensors}
    for name, value in named.items():
        if name not in packed:
            new[value] = g.input(name, value.dtype or g.dtype, shape_of(value))
    flat: dict[str, ir.Value] = {}
    for buffer in buffers:
        for tensor, offset in zip(buffer.tensors, buffer.offsets, strict=True):
            if tensor.name in named or (buffer in next_buffers and tensor.name not in updates):
                with g.origin(Origin(tensor.layer, "packing", rewrite=REWRITE)):
                    flat[tensor.name] = _part(g, sources[buffer.name], offset, tensor.size)
                    if tensor.name in named:
                        new[named[tensor.name]] = _shaped(g, flat[tensor.name], tensor.shape)
    replay_nodes(g, graph, new, {})
    for buffer in next_buffers:
        parts: list[ir.Value] = []
        for tensor in buffer.tensors:
            if tensor.name in updates:
                with g.origin(Origin(tensor.layer, "packing", rewrite=REWRITE)):
                    parts.append(_shaped(g, new[results[updates[tensor.name]]], (tensor.size,)))
            else:
                parts.append(flat[tensor.name])
        with g.origin(Origin("netc", "packing", rewrite=REWRITE)):
            g.output(f"{buffer.name}.next", concatenated(g, parts, 0))
    given = set(updates.values())
    for name, value in results.items():
        if name not in given:
            g.output(name, new[value])
    verify(g.graph, "packing the state")
    return g.graph


def _part(g: GraphBuilder, source: ir.Value, offset: int, size: int) -> ir.Value:
    """Return some elements of a flat buffer."""
    begin, end, axis = (np.array([n], np.int64) for n in (offset, offset + size, 0))
    return g.Slice(source, begin, end, axis)


def _shaped(g: GraphBuilder, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    """Return a value in a shape of as many elements."""
    return value if shape_of(value) == list(shape) else g.Reshape(value, np.array(shape, np.int64))
