"""What runs a program: the host that was asked for, and a loaded ONNX file, whichever engine it is loaded into."""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from netc_runtime.arrays import Array
from netc_runtime.cpus import usable_cpus
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode, NotExportedError
from netc_runtime.interface import Interface, TensorSpec
from netc_runtime.jsonfields import MalformedError, parse_object
from netc_runtime.kernel_trace import KernelTrace

Device: TypeAlias = Literal["auto", "cpu", "cuda", "openvino"]
"""What to run on: ONNX Runtime's CPU or CUDA provider, or OpenVINO on the CPU; auto is CUDA where it works."""

_EXTERNAL = b"location"  # the key that each tensor in another file has
MOST_THREADS = 1024


@dataclass(frozen=True)
class Cuda:
    """How programs run on CUDA.

    There is no choice of ONNX Runtime's layout with channels last: with it training goes wrong from the second step.

    Attributes:
        tf32: round the inputs of float32 products to 10 bits of mantissa, as fast as half precision.
        graph: capture the work of a training step once and launch it as a whole from then on.
        convolution: how cuDNN's algorithms are chosen: by rules, or by timing all of them at the first run, which
            may choose others in the next run.
    """

    tf32: bool = False
    graph: bool = True
    convolution: Literal["heuristic", "exhaustive"] = "heuristic"


@dataclass(frozen=True)
class Host:
    """Where programs run: the device that was asked for and the number of threads of the CPU's operators.

    `threads` None means one for each CPU that this process may use. `not_cuda` says why `auto` must not take CUDA, None
    if it may. Unless they spin (`spins`), ONNX Runtime's threads sleep while they have nothing to do, and leave the
    cores to other programs.
    """

    device: Device = "auto"
    threads: int | None = None
    cuda: Cuda = Cuda()
    not_cuda: str | None = None
    spins: bool = True

    @property
    def thread_count(self) -> int:
        """The number of threads, at least 1; raises DriverError (2) if what was asked for is out of range."""
        if self.threads is None:
            return min(usable_cpus(), MOST_THREADS)
        if not 1 <= self.threads <= MOST_THREADS:
            raise DriverError(f"threads should be from 1 to {MOST_THREADS}, not {self.threads}", ExitCode.USAGE)
        return self.threads


class Buffer(abc.ABC):
    """One tensor at a fixed address of a device, so that a binding made once stays right.

    `host` is its memory where that is the host's, else what was last written.
    """

    def __init__(self, spec: TensorSpec, host: Array | None = None) -> None:
        self.host: Array = np.zeros(spec.static_shape, dtype=spec.dtype) if host is None else host

    def write(self, array: Array) -> None:
        """Overwrite the tensor."""
        # Unsafe casting, because narrowing (int64 labels to int32) is wanted; check_fit has proven the range.
        np.copyto(self.host, array, casting="unsafe")

    @abc.abstractmethod
    def read(self) -> Array:
        """Return a copy of the tensor."""


class Bundle:
    """Tensors that move between host and device together, each a buffer to bind; here they are on the host."""

    def __init__(self, buffers: Mapping[str, Buffer]) -> None:
        self.buffers = buffers

    def write(self, arrays: Mapping[str, Array]) -> None:
        """Overwrite all tensors."""
        for name, buffer in self.buffers.items():
            buffer.write(arrays[name])

    def read(self) -> dict[str, Array]:
        """Return all tensors; the next run may overwrite them."""
        return {name: buffer.host for name, buffer in self.buffers.items()}


class Program(abc.ABC):
    """One ONNX file, loaded into an engine by `load_program`.

    `device` is what is really active, "cpu", "cuda" or "openvino", and `reason` says why; `engine` is the name and
    version of the engine, `metadata` what the file says of itself.
    """

    device: Literal["cpu", "cuda", "openvino"]
    reason: str
    engine: str
    metadata: Mapping[str, str]
    interface: Interface
    is_captured: bool = False
    """Whether the runs of a binding are recorded at its first and launched as a whole from then on."""
    trace: KernelTrace | None = None
    """The record of the kernels; only where the program was loaded with `trace`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abc.abstractmethod
    def fix(self, feeds: Mapping[str, Array]) -> None:
        """Keep the values of some inputs on the device for all following calls; names of no input are ignored."""

    @abc.abstractmethod
    def __call__(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run once and return the named outputs as arrays on the host; raises DriverError (1) if that fails."""

    @abc.abstractmethod
    def buffer(self, spec: TensorSpec) -> Buffer:
        """Return a new buffer on the device."""

    @abc.abstractmethod
    def constant(self, spec: TensorSpec, array: Array) -> Buffer:
        """Return a buffer that holds `array`, which must not change any more: on the CPU it may be the same memory.

        Raises DriverError (1) if it does not fit on the device.
        """

    def bundle(self, specs: Sequence[TensorSpec]) -> Bundle:
        """Return new buffers on the device that one copy fills, or brings to the host."""
        return Bundle({spec.name: self.buffer(spec) for spec in specs})

    @abc.abstractmethod
    def bind(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Callable[[], None]:
        """Return a function that runs the program once, from and to these buffers; it raises DriverError (1)."""

    @abc.abstractmethod
    def peek(self, inputs: Mapping[str, Buffer], outputs: Sequence[TensorSpec]) -> list[Any]:
        """Run once on buffers, which may be more than the inputs, and return the scalars `outputs`.

        None of the memory that the run takes is kept, as far as the engine can. Raises DriverError (1) if it fails.
        """

    def _describe(self, interface: Interface | None, metadata: Mapping[str, str], names: Sequence[str]) -> None:
        """Set `metadata` and `interface`, which None takes from the metadata; `names` are the file's inputs."""
        self.metadata = metadata
        self.interface = interface or self._embedded_interface()
        if sorted(names) != sorted(spec.name for spec in self.interface.inputs):
            raise DamagedFileError(f"{self.path} does not have the inputs that its description lists; compile it again")

    def _embedded_interface(self) -> Interface:
        try:
            return Interface.parse(parse_object(self.metadata.get("netc.interface", "")))
        except MalformedError as error:
            raise NotExportedError(self.path, "netc.interface") from error


def unreadable(path: Path) -> DamagedFileError:
    """Return the error that a file is no model at all."""
    return DamagedFileError(f"{path} is not a readable ONNX model (damaged or truncated); export or compile it again")


def refuse_external_data(path: Path, content: bytes, beside: frozenset[str] = frozenset()) -> None:
    """Raise DamagedFileError for a model whose tensors lie in other files, which it could name anywhere.

    `beside` are the tensors whose file has been read and proven.
    """
    if _EXTERNAL not in content:
        return
    try:
        graphs = [onnx.load_model_from_string(content).graph]
    except DecodeError:
        return  # which the engine will say better
    for graph in graphs:
        tensors = [*graph.initializer, *(tensor.values for tensor in graph.sparse_initializer)]
        for node in graph.node:
            for attribute in node.attribute:
                tensors += [attribute.t, *attribute.tensors]
                graphs += [attribute.g, *attribute.graphs] if attribute.HasField("g") or attribute.graphs else []
        for tensor in tensors:
            if tensor.data_location == onnx.TensorProto.EXTERNAL and tensor.name not in beside:
                raise DamagedFileError(
                    f'{path} keeps the tensor "{tensor.name}" in another file, which netc does not read; save the '
                    f"model as one file"
                )
