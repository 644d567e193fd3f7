"""Programs on OpenVINO's CPU plugin, through its own API: the whole graph is compiled for it, or refused.

ONNX Runtime has an execution provider for OpenVINO. It is not used: it needs another build of ONNX Runtime, and it left
the forward pass of training steps on the provider of the CPU.
"""

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from netc_runtime.arrays import Array
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.external import Weights
from netc_runtime.files import storage_errors
from netc_runtime.interface import Interface, TensorSpec
from netc_runtime.openvino_trace import OpenVINOTrace
from netc_runtime.session import Buffer, Host, Program, unreadable

# What OpenVINO's messages call a node, by name or, if it knows no such operator, by operator and version.
_NODE = re.compile(r"<Node\([^)]*\): (?P<name>[^>]+)>")
_UNKNOWN = re.compile(r"No conversion rule found for operations: (?P<operators>.+)")


def import_openvino() -> ModuleType:
    """Return the module `openvino`; raises DriverError (3) with the remedy if it is not installed."""
    try:
        import openvino
    except ModuleNotFoundError as error:
        if error.name != "openvino":
            raise
        raise DriverError(
            'OpenVINO is not installed; install it with: pip install "netc[openvino]"', ExitCode.ENVIRONMENT
        ) from error
    module: ModuleType = openvino
    return module


def engine_of(openvino: ModuleType) -> str:
    """Return the name and version of the engine."""
    return f"OpenVINO {openvino.get_version().split('-')[0]}"


class OpenVINOBuffer(Buffer):
    """A buffer of OpenVINO: its tensor is the memory of `host`."""

    def __init__(self, openvino: ModuleType, spec: TensorSpec, host: Array | None = None) -> None:
        super().__init__(spec, host)
        self.tensor = openvino.Tensor(self.host, shared_memory=True)

    def read(self) -> Array:
        """Return a copy of the tensor."""
        return self.host.copy()


class OpenVINOProgram(Program):
    """A program on OpenVINO's CPU plugin, which counts its kernels' times if it is `traced`.

    See `Program`, and `load_program` for what it raises.
    """

    def __init__(
        self,
        path: Path,
        host: Host,
        interface: Interface | None,
        content: bytes,
        traced: bool = False,
        weights: Weights | None = None,
    ) -> None:
        super().__init__(path)
        self._openvino = import_openvino()
        self.device = "openvino"
        self.reason = "as asked" if host.device == "openvino" else "ONNX Runtime is not installed"
        self.engine = engine_of(self._openvino)
        try:
            model = onnx.load_model_from_string(content)
        except DecodeError as error:
            raise unreadable(path) from error
        if not model.graph.node:
            raise unreadable(path)
        self._describe(interface, onnx_metadata(model), [value.name for value in model.graph.input])
        options = {
            # Else it computes in bfloat16 where the CPU can.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": host.thread_count,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # A pinned thread waits for its core, even where another one is free: a step beside other work, then
            # takes minutes.
            "ENABLE_CPU_PINNING": False,
            **(OpenVINOTrace.OPTIONS if traced else {}),
        }
        _refuse_unsigned(path, model)
        core = self._openvino.Core()
        with self._failures("cannot be loaded", model), _readable(content, weights) as readable:
            self._compiled: Any = core.compile_model(core.read_model(readable), "CPU", options)
        self.trace = OpenVINOTrace(self._compiled) if traced else None
        self._request = self._compiled.create_infer_request()
        self._fixed: set[str] = set()

    @property
    def compiled(self) -> Any:
        """The `openvino.CompiledModel`, for profiles and for looking at the kernels that were chosen."""
        return self._compiled

    def without_kernel(self) -> list[str]:
        """Return the nodes that OpenVINO's CPU plugin has no kernel for: they run in a plain loop on one thread."""
        nodes = self._compiled.get_runtime_model().get_ordered_ops()
        return [node.get_friendly_name() for node in nodes if node.get_rt_info()["layerType"].value == "Reference"]

    def fix(self, feeds: Mapping[str, Array]) -> None:
        """Keep the values of some inputs for all following calls; names of no input are ignored."""
        for spec in self.interface.inputs:
            if spec.name in feeds:
                self._request.set_tensor(spec.name, self._tensor(spec, feeds[spec.name]))
                self._fixed.add(spec.name)

    def __call__(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run once and return the named outputs as arrays on the host; raises DriverError (1) if that fails."""
        missing = [spec.name for spec in self.interface.inputs if spec.name not in self._fixed | feeds.keys()]
        if missing:
            raise DriverError(f"{self.path} failed: its inputs {', '.join(missing)} were not given")
        with self._failures("failed"):
            for spec in self.interface.inputs:
                if spec.name in feeds:
                    self._request.set_tensor(spec.name, self._tensor(spec, feeds[spec.name]))
            self._request.infer()
            return {name: np.array(self._request.get_tensor(name).data) for name in outputs}

    def buffer(self, spec: TensorSpec) -> OpenVINOBuffer:
        """Return a new buffer; all of them are on the host."""
        return OpenVINOBuffer(self._openvino, spec)

    def constant(self, spec: TensorSpec, array: Array) -> OpenVINOBuffer:
        """Return a buffer that holds `array`, in its own memory unless that cannot be written to."""
        # OpenVINO shares no memory that it could not write to.
        return OpenVINOBuffer(self._openvino, spec, array if array.flags.writeable else array.copy())

    def bind(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Callable[[], None]:
        """Return a function that runs the program once, from and to these buffers."""
        request = self._compiled.create_infer_request()
        for name, buffer in (*inputs.items(), *outputs.items()):
            assert isinstance(buffer, OpenVINOBuffer), "buffers come from this program"
            request.set_tensor(name, buffer.tensor)

        def run() -> None:
            with self._failures("failed"):
                request.infer()

        return run

    def peek(self, inputs: Mapping[str, Buffer], outputs: Sequence[TensorSpec]) -> list[Any]:
        """Run once on buffers and return the scalars `outputs`; see Program."""
        results = {spec.name: self.buffer(spec) for spec in outputs}
        self.bind({spec.name: inputs[spec.name] for spec in self.interface.inputs}, results)()
        return [buffer.host[()] for buffer in results.values()]

    def _tensor(self, spec: TensorSpec, array: Array) -> Any:
        # Of exactly this type: OpenVINO knows only one of numpy's two names of int64. The tensor has memory of its own,
        # because it does not keep an array alive.
        tensor = self._openvino.Tensor(np.empty(array.shape, spec.dtype), shared_memory=False)
        np.copyto(tensor.data, array)
        return tensor

    @contextlib.contextmanager
    def _failures(self, what: str, model: onnx.ModelProto | None = None) -> Iterator[None]:
        """Turn OpenVINO's own exceptions into one sentence, with the node of `model` that it could not take."""
        try:
            yield
        except RuntimeError as error:
            lines = [line for line in str(error).splitlines() if line and not line.startswith(("Exception", "Check"))]
            culprit = next(iter(_culprits(str(error), model)), None) if model is not None else None
            reason = f"OpenVINO does not take the node {culprit}" if culprit else " ".join(lines[-1:]) or str(error)
            raise DriverError(f"{self.path} {what}: {reason}; use another --device") from error


@contextlib.contextmanager
def _readable(content: bytes, weights: Weights | None) -> Iterator[bytes | Path]:
    """Yield what OpenVINO reads a model from: its bytes, or a file with its weights beside it."""
    if weights is None:
        yield content
        return
    with tempfile.TemporaryDirectory(prefix="netc-") as scratch:
        path = Path(scratch) / "model.onnx"
        with storage_errors("write", path):
            path.write_bytes(content)
            path.with_name(weights.name).write_bytes(weights.content)
        yield path


def onnx_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Return the metadata of an ONNX file."""
    return {entry.key: entry.value for entry in model.metadata_props}


def _refuse_unsigned(path: Path, model: onnx.ModelProto) -> None:
    """Raise DriverError (2) for arithmetic in uint32, which OpenVINO would take and compute as if it were int32."""
    unsigned = onnx.TensorProto.UINT32, onnx.TensorProto.UINT64
    constants = {tensor.name for tensor in model.graph.initializer if tensor.data_type in unsigned}
    for node in model.graph.node:
        casts = any(attribute.name == "to" and attribute.i in unsigned for attribute in node.attribute)
        if casts or constants.intersection(node.input):
            raise DriverError(
                f"{path} computes {node.name} ({node.op_type}) in unsigned integers, which OpenVINO's CPU plugin does "
                f"not do exactly; compile it with --target openvino",
                ExitCode.USAGE,
            )


def _culprits(message: str, model: onnx.ModelProto) -> Iterator[str]:
    """Yield the nodes that a message of OpenVINO's importer is about, each with its operator."""
    operators = {node.name: node.op_type for node in model.graph.node}
    for match in _NODE.finditer(message):
        name = match["name"]
        yield f"{name} ({operators.get(name, 'of an unknown operator')})"
    for match in _UNKNOWN.finditer(message):
        unknown = {operator.strip().rsplit("-", 1)[0] for operator in match["operators"].split(",")}
        yield from (f"{name} ({operator})" for name, operator in operators.items() if operator in unknown)
