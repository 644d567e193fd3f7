"""Flat buffers in which programs take the tensors of the state (docs/artifact.md), packed and unpacked here alone.

Everything else in the driver, checkpoints and reports among it, knows tensors by their names.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from netc_runtime.arrays import Array
from netc_runtime.interface import TensorSpec
from netc_runtime.jsonfields import MalformedError, field, integers, objects


@dataclass(frozen=True)
class PackedBuffer:
    """One buffer: a vector of the dtype of its tensors, which follow each other row by row without gaps."""

    name: str
    tensors: tuple[TensorSpec, ...]

    @classmethod
    def parse(cls, entry: Mapping[str, Any], state: Mapping[str, TensorSpec]) -> "PackedBuffer":
        """Read one entry of the manifest; raises MalformedError unless it fits the tensors of the state."""
        name, dtype, size = field(entry, "name", str), field(entry, "dtype", str), field(entry, "size", int)
        tensors, end = list[TensorSpec](), 0
        for part in objects(entry, "tensors"):
            spec, offset = state.get(field(part, "name", str)), field(part, "offset", int)
            if spec is None or spec.dtype != dtype or spec.static_shape != integers(part, "shape"):
                raise MalformedError(f'"{name}" packs "{part["name"]}", which is no such tensor of the state')
            if offset != end:
                raise MalformedError(f'"{name}" has "{spec.name}" at {offset}, not at {end} where it should follow')
            tensors.append(spec)
            end += math.prod(spec.static_shape)
        if end != size or not tensors:
            raise MalformedError(f'"{name}" has the size {size}, but its tensors have {end} elements')
        return cls(name, tuple(tensors))

    @property
    def spec(self) -> TensorSpec:
        """The buffer as an input of programs."""
        size = sum(math.prod(spec.static_shape) for spec in self.tensors)
        return TensorSpec(self.name, self.tensors[0].dtype, (size,), "state")

    def pack(self, state: Mapping[str, Array]) -> Array:
        """Return the buffer that holds the tensors of a state."""
        return np.concatenate([state[spec.name].reshape(-1) for spec in self.tensors])

    def unpack(self, buffer: Array) -> dict[str, Array]:
        """Return the tensors, which lie in the memory of the buffer."""
        ends = np.cumsum([math.prod(spec.static_shape) for spec in self.tensors])
        parts = np.split(buffer, ends[:-1])
        return {spec.name: part.reshape(spec.static_shape) for spec, part in zip(self.tensors, parts, strict=True)}


@dataclass(frozen=True)
class Packing:
    """The buffers of an artifact; there are none where programs take every tensor by its name."""

    buffers: tuple[PackedBuffer, ...] = ()

    @classmethod
    def parse(cls, manifest: Mapping[str, Any], state: Sequence[TensorSpec]) -> "Packing":
        """Read the manifest's list; raises MalformedError if it is none, or a tensor is in two buffers."""
        entries = objects(manifest, "packed") if "packed" in manifest else []
        named = {spec.name: spec for spec in state}
        buffers = tuple(PackedBuffer.parse(entry, named) for entry in entries)
        rest = [spec.name for spec in cls(buffers).specs(state)]  # each tensor that is packed is once less
        if entries and len(set(rest)) != len(state) - sum(len(buffer.tensors) for buffer in buffers) + len(buffers):
            raise MalformedError('"packed" has one name twice')
        return cls(buffers)

    def specs(self, state: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        """Return the state as programs take it: tensors that are not packed, and buffers."""
        packed = {spec.name for buffer in self.buffers for spec in buffer.tensors}
        return (*(spec for spec in state if spec.name not in packed), *(buffer.spec for buffer in self.buffers))

    def pack(self, state: Mapping[str, Array]) -> dict[str, Array]:
        """Return a whole state as programs take it."""
        packed = {spec.name for buffer in self.buffers for spec in buffer.tensors}
        rest = {name: array for name, array in state.items() if name not in packed}
        return {**rest, **{buffer.name: buffer.pack(state) for buffer in self.buffers}}

    def unpack(self, fed: Mapping[str, Array]) -> dict[str, Array]:
        """Return what programs took or gave, with the tensors of buffers by name; they lie in the buffers' memory."""
        buffers = {buffer.name: buffer for buffer in self.buffers}
        named: dict[str, Array] = {}
        for name, array in fed.items():
            named |= buffers[name].unpack(array) if name in buffers else {name: array}
        return named
