"""ONNX Runtime sessions: choosing a device, and programs that run with plain feeds."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from netc_runtime.arrays import Array
from netc_runtime.artifact import Interface
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode, NotExportedError
from netc_runtime.files import read_bounded, refuse_spec
from netc_runtime.jsonfields import MalformedError, parse_object

Device: TypeAlias = Literal["auto", "cpu", "cuda"]

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
# TF32 rounds the inputs of float32 products to 10 bits; the exhaustive search times every convolution at its
# first run, which is slow and may choose differently in the next run.
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
_ERRORS_ONLY = 3
_LIMIT = 2 << 30  # what one protobuf message can hold
_EXTERNAL = b"location"  # the key that each tensor in another file has
MOST_THREADS = 1024
_ARENAS = {"cpu": "cpu:0", "cuda": "cpu:0;gpu:0"}  # by device, those that a program allocates from


@dataclass(frozen=True)
class Host:
    """Where programs run: the device that was asked for and the number of threads of the CPU's operators.

    `threads` None means one for each CPU.
    """

    device: Device = "auto"
    threads: int | None = None

    @property
    def thread_count(self) -> int:
        """The number of threads, at least 1; raises DriverError (2) if what was asked for is out of range."""
        if self.threads is None:
            return min(os.cpu_count() or 1, MOST_THREADS)
        if not 1 <= self.threads <= MOST_THREADS:
            raise DriverError(f"threads should be from 1 to {MOST_THREADS}, not {self.threads}", ExitCode.USAGE)
        return self.threads


def import_onnxruntime() -> ModuleType:
    """Return the module `onnxruntime`; raises DriverError (3) with the remedy if it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise DriverError(
            'ONNX Runtime is not installed; install it with: pip install "netc[cpu]" (or "netc[gpu]" for NVIDIA GPUs)',
            ExitCode.ENVIRONMENT,
        ) from error
    module: ModuleType = onnxruntime
    return module


class Program:
    """One ONNX file, loaded.

    Unless it `spins`, its threads sleep while they have nothing to do, which leaves the cores to other programs.
    `interface` None takes the description that the file carries itself; `content` is the file's bytes where it
    is not written yet. `device` is "cpu" or "cuda", whichever is really active, and `reason` says why. Raises
    DriverError: 3 if ONNX Runtime is missing or `cuda` was asked for and is not active, 2 if the file does not
    exist, 1 if it cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        host: Host,
        interface: Interface | None = None,
        content: bytes | None = None,
        spins: bool = True,
    ) -> None:
        self.path = path
        self.ort = import_onnxruntime()
        if content is None and not path.is_file():
            raise DriverError(f"{path} does not exist or is not a file", ExitCode.USAGE)
        refuse_spec(path)
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = host.thread_count
        options.log_severity_level = _ERRORS_ONLY
        if not spins:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = _providers(self.ort, host.device)
        content = content or read_bounded(path, _LIMIT)
        _refuse_external_data(path, content)
        with self.failures("cannot be loaded"):
            try:
                self.session: Any = self.ort.InferenceSession(content, options, providers=providers)
            except _unreadable(self.ort) as error:
                raise DamagedFileError(
                    f"{path} is not a readable ONNX model (damaged or truncated); export or compile it again"
                ) from error
        self.session.disable_fallback()  # a program must not change its device between two runs
        # ONNX Runtime falls back to the CPU silently: what was asked for proves nothing.
        active = self.session.get_providers()[0]
        self.device: Literal["cpu", "cuda"] = "cuda" if active == _CUDA else "cpu"
        self.reason = _reason(host.device, self.device, offered=len(providers) > 1)
        if host.device == "cuda" and self.device != "cuda":
            raise DriverError(
                f"CUDA was asked for but is not active: {self.reason}; use --device cpu, or repair the installation "
                f"of the NVIDIA driver, CUDA and cuDNN",
                ExitCode.ENVIRONMENT,
            )
        try:
            self.metadata: Mapping[str, str] = self.session.get_modelmeta().custom_metadata_map
            names = sorted(value.name for value in self.session.get_inputs())
        except UnicodeDecodeError as error:
            raise DamagedFileError(f"{path} is damaged: its texts are not UTF-8; export or compile it again") from error
        self.interface = interface or self._embedded_interface()
        if names != sorted(spec.name for spec in self.interface.inputs):
            raise DamagedFileError(f"{path} does not have the inputs that its description lists; compile it again")
        self._fixed: dict[str, Any] = {}

    def _embedded_interface(self) -> Interface:
        try:
            return Interface.parse(parse_object(self.metadata.get("netc.interface", "")))
        except MalformedError as error:
            raise NotExportedError(self.path, "netc.interface") from error

    def fix(self, feeds: Mapping[str, Array]) -> None:
        """Keep the values of some inputs on the device for all following calls; names of no input are ignored."""
        for spec in self.interface.inputs:
            if spec.name in feeds:
                self._fixed[spec.name] = self._value(feeds[spec.name])

    def __call__(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run once and return the named outputs as arrays on the host; raises DriverError (1) if that fails."""
        values = {name: self.ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        with self.failures("failed"):
            results = self.session.run_with_ort_values(list(outputs), self._fixed | values)
        return {name: result.numpy() for name, result in zip(outputs, results, strict=True)}

    def peek(self, values: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        """Run once on ONNX Runtime's values and return the named scalars; keep none of the memory that it took.

        `values` may hold more than the inputs. Raises DriverError (1) if that fails.
        """
        options = self.ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", _ARENAS[self.device])
        feeds = {spec.name: values[spec.name] for spec in self.interface.inputs}
        with self.failures("failed"):
            results = self.session.run_with_ort_values(list(outputs), feeds, options)
        return [result.numpy()[()] for result in results]

    @contextlib.contextmanager
    def failures(self, what: str) -> Iterator[None]:
        """Turn ONNX Runtime's own exceptions into one sentence."""
        try:
            yield
        except _ort_exceptions(self.ort) as error:
            raise DriverError(f"{self.path} {what}: {str(error).splitlines()[0]}") from error

    def _value(self, array: Array) -> Any:
        # On the CPU the value aliases the array, so it gets one of its own. (ascontiguousarray would make a
        # scalar one-dimensional.)
        return self.ort.OrtValue.ortvalue_from_numpy(np.array(array, order="C"), self.device, 0)


def _refuse_external_data(path: Path, content: bytes) -> None:
    """Raise DamagedFileError for a model whose tensors lie in other files, which it could name anywhere."""
    if _EXTERNAL not in content:
        return
    try:
        graphs = [onnx.load_model_from_string(content).graph]
    except DecodeError:
        return  # which ONNX Runtime will say better
    for graph in graphs:
        tensors = [*graph.initializer, *(tensor.values for tensor in graph.sparse_initializer)]
        for node in graph.node:
            for attribute in node.attribute:
                tensors += [attribute.t, *attribute.tensors]
                graphs += [attribute.g, *attribute.graphs] if attribute.HasField("g") or attribute.graphs else []
        for tensor in tensors:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise DamagedFileError(
                    f'{path} keeps the tensor "{tensor.name}" in another file, which netc does not read; save the '
                    f"model as one file"
                )


def _unreadable(ort: ModuleType) -> tuple[type[Exception], ...]:
    """Return what loading raises for a file that is no model at all."""
    state = ort.capi.onnxruntime_pybind11_state
    return state.InvalidProtobuf, state.InvalidArgument, state.NoModel


def _ort_exceptions(ort: ModuleType) -> tuple[type[Exception], ...]:
    state = ort.capi.onnxruntime_pybind11_state
    return (
        RuntimeError,
        ValueError,
        state.EngineError,
        state.EPFail,
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoModel,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    )


def _providers(ort: ModuleType, device: Device) -> list[Any]:
    if device == "cpu" or _CUDA not in ort.get_available_providers():
        return [_CPU]
    preload = getattr(ort, "preload_dlls", None)  # new in ONNX Runtime 1.21
    if preload is not None:
        # It prints what it cannot find; stdout belongs to the results.
        with contextlib.redirect_stdout(sys.stderr):
            preload()
    return [(_CUDA, _CUDA_OPTIONS), _CPU]


def _reason(asked: Device, active: Literal["cpu", "cuda"], offered: bool) -> str:
    if asked == "cpu":
        return "as asked"
    if active == "cuda":
        return "as asked" if asked == "cuda" else "CUDA is active"
    if offered:
        return "ONNX Runtime could not start its CUDA provider"
    return "this ONNX Runtime has no CUDA provider"
