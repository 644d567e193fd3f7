"""Data that stay on the device: the driver puts a Gather in front of a training program, whose batch is then a vector.

The artifact's program takes a batch, as every host may feed it. Loaded here, it takes the whole training split instead,
bound once, and the indices of the samples: all that crosses to the device at a step. The samples come out in the same
bits as from the host, because the data are kept in a type whose values the program's type can hold.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import helper

from netc_runtime.arrays import Array
from netc_runtime.artifact import Artifact
from netc_runtime.data.base import Split
from netc_runtime.data.batches import field_of, sample_count
from netc_runtime.engines import host_for_training, offers_cuda
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.interface import Interface, TensorSpec
from netc_runtime.jsonfields import MalformedError, field
from netc_runtime.session import Buffer, Host, Program, unreadable

INDEX = "netc.index"
"""The input with the indices of a batch's samples, int64 [batch size]."""
DATASET = "netc.dataset/"
"""What the names of the inputs with whole fields begin with."""

LIMIT = 1 << 30
"""Bytes of a training split up to which it is resident unless the spec says otherwise."""


class Dataset:
    """A training split on the device, each field once, whichever programs read it."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self._buffers: dict[tuple[str, str], Buffer] = {}

    def put_in_front(self, path: Path, content: bytes, graph: Interface) -> tuple[bytes, Interface]:
        """Return a program that gathers its batch, and its interface: `INDEX` is all of its role batch.

        `content` is the program at `path` with the interface `graph`. An input of role dataset takes a whole field, of
        a number of samples that is fixed. Raises DamagedFileError if it is no ONNX model.
        """
        try:
            model = onnx.load_model_from_string(content)
        except DecodeError as error:
            raise unreadable(path) from error
        batch, count = graph.inputs_of("batch"), sample_count(self.split)
        index = TensorSpec(INDEX, "int64", batch[0].static_shape[:1], "batch")
        datasets, nodes = list[TensorSpec](), list[onnx.NodeProto]()
        for spec in batch:
            dtype = _kept_as(self.split[field_of(spec)].dtype, spec)
            whole = TensorSpec(f"{DATASET}{spec.name}", dtype, (count, *spec.shape[1:]), "dataset", field=spec.field)
            datasets.append(whole)
            gathered = spec.name if dtype == spec.dtype else f"{whole.name}/gathered"
            place = f"{spec.name}/batch"
            nodes.append(helper.make_node("Gather", [whole.name, INDEX], [gathered], f"{place}/Gather", axis=0))
            if dtype != spec.dtype:
                element = _element(spec.dtype)
                nodes.append(helper.make_node("Cast", [gathered], [spec.name], f"{place}/Cast", to=element))
        names = {spec.name for spec in batch}
        inputs = [value for value in model.graph.input if value.name not in names]
        inputs += [helper.make_tensor_value_info(s.name, _element(s.dtype), s.shape) for s in (*datasets, index)]
        nodes += model.graph.node
        del model.graph.input[:], model.graph.node[:]
        model.graph.input.extend(inputs)
        model.graph.node.extend(nodes)
        rest = tuple(spec for spec in graph.inputs if spec.name not in names)
        return model.SerializeToString(), Interface((*rest, *datasets, index), graph.outputs)

    def buffers(self, program: Program) -> dict[str, Buffer]:
        """Return the fields that a loaded program takes, which are brought to the device when they are first asked for.

        Raises DriverError (3) if they do not fit there.
        """
        found = {}
        for spec in program.interface.inputs_of("dataset"):
            key = spec.field or spec.name, spec.dtype
            if key not in self._buffers:
                self._buffers[key] = self._bring(program, spec)
            found[spec.name] = self._buffers[key]
        return found

    def _bring(self, program: Program, spec: TensorSpec) -> Buffer:
        name = spec.field or spec.name.removeprefix(DATASET)
        try:
            return program.constant(spec, np.ascontiguousarray(self.split[name], dtype=spec.dtype))
        except (DriverError, MemoryError) as error:
            raise DriverError(
                f'data.resident: the field "{name}" of the training split does not fit on the device '
                f"({error or 'out of memory'}); set data.resident: false",
                ExitCode.ENVIRONMENT,
            ) from error


def dataset_of(artifact: Artifact, split: Split, host: Host) -> Dataset | None:
    """Return the training split if it is to stay on the device: as `data.resident` of the spec says, or if it fits.

    It fits on CUDA if what training reads of it are arrays that take at most `LIMIT` bytes. On the CPU nothing has to
    cross to a device, and gathering in the graph is not faster for all networks. Raises DriverError (2) if
    `data.resident` is neither true, false nor null.
    """
    asked = _asked(artifact)
    specs = [spec for phase in artifact.phases for spec in artifact.graph(phase.graph).inputs_of("batch")]
    if asked is None:
        is_array = all(isinstance(split[field_of(spec)], np.ndarray) for spec in specs)
        asked = offers_cuda(host_for_training(artifact, host)) and is_array and _bytes(split, specs) <= LIMIT
    return Dataset(split) if asked and specs else None


def _asked(artifact: Artifact) -> bool | None:
    try:
        value = field(artifact.spec, "data", dict).get("resident")
    except MalformedError as error:
        raise DriverError(f"the data section of the spec cannot be used: {error}", ExitCode.USAGE) from error
    if value is None or isinstance(value, bool):
        return value
    raise DriverError(f"data.resident should be true, false or null, not {value!r}", ExitCode.USAGE)


def _bytes(split: Split, specs: Sequence[TensorSpec]) -> int:
    arrays: Mapping[str, tuple[Array, TensorSpec]] = {field_of(spec): (split[field_of(spec)], spec) for spec in specs}
    return sum(array.size * np.dtype(_kept_as(array.dtype, spec)).itemsize for array, spec in arrays.values())


def _kept_as(own: np.dtype[np.generic], spec: TensorSpec) -> str:
    """Return the dtype of a field on the device: an integer of one byte if the data have no more, else the input's.

    For most others OpenVINO has no kernels, so that it would convert all of the data at each step, bool included.
    """
    if own.kind == "b":
        return "uint8"
    return own.name if own.itemsize == 1 and np.can_cast(own, spec.dtype) else spec.dtype


def _element(dtype: str) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
