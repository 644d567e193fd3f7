"""Programs on ONNX Runtime: choosing its execution provider, and bindings that are built once."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from netc_runtime.arrays import Array
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.interface import Interface, TensorSpec
from netc_runtime.session import Buffer, Device, Host, Program, unreadable

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
# TF32 rounds the inputs of float32 products to 10 bits; the exhaustive search times every convolution at its
# first run, which is slow and may choose differently in the next run.
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
_ERRORS_ONLY = 3
_ARENAS = {"cpu": "cpu:0", "cuda": "cpu:0;gpu:0"}  # by device, those that a program allocates from
OPTIMIZED = "optimized.onnx"
"""The file in the folder of a trace with the graph that ONNX Runtime runs."""


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


class OnnxRuntimeBuffer(Buffer):
    """A buffer of ONNX Runtime: on the CPU its value aliases `host`, so that writing there is all that is needed."""

    def __init__(self, ort: ModuleType, spec: TensorSpec, device: str) -> None:
        super().__init__(spec)
        self.value = ort.OrtValue.ortvalue_from_numpy(self.host, device, 0)
        self._aliased = device == "cpu"

    def write(self, array: Array) -> None:
        """Overwrite the tensor."""
        super().write(array)
        if not self._aliased:
            self.value.update_inplace(self.host)

    def read(self) -> Array:
        """Return a copy of the tensor."""
        if self._aliased:
            return self.host.copy()
        array: Array = self.value.numpy()
        return array


def _ort_value(buffer: Buffer) -> Any:
    assert isinstance(buffer, OnnxRuntimeBuffer), "buffers come from a program of this engine"
    return buffer.value


class OnnxRuntimeProgram(Program):
    """A program on ONNX Runtime's CPU or CUDA provider; see `Program`, and `load_program` for what it raises.

    With `trace`, a folder, every kernel is recorded there until `end_trace`, and the graph that ONNX Runtime made of
    the file is written to `OPTIMIZED`.
    """

    def __init__(
        self, path: Path, host: Host, interface: Interface | None, content: bytes, trace: Path | None = None
    ) -> None:
        super().__init__(path)
        self.ort = import_onnxruntime()
        self.engine = f"ONNX Runtime {self.ort.__version__}"
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = host.thread_count
        options.log_severity_level = _ERRORS_ONLY
        # With a pattern the second run takes one block for all tensors, while those of the first run are kept: double
        # the memory of a training step.
        options.enable_mem_pattern = False
        if not host.spins:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if trace is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(trace / "profile")
            options.optimized_model_filepath = str(trace / OPTIMIZED)
        providers = _providers(self.ort, host.device)
        with self.failures("cannot be loaded"):
            try:
                self._session: Any = self.ort.InferenceSession(content, options, providers=providers)
            except _unreadable(self.ort) as error:
                raise unreadable(path) from error
        self._session.disable_fallback()  # a program must not change its device between two runs
        # ONNX Runtime falls back to the CPU silently: what was asked for proves nothing.
        active = self._session.get_providers()[0]
        self.device = "cuda" if active == _CUDA else "cpu"
        self.reason = _reason(host.device, self.device, offered=len(providers) > 1)
        if host.device == "cuda" and self.device != "cuda":
            raise DriverError(
                f"CUDA was asked for but is not active: {self.reason}; use --device cpu, or repair the installation "
                f"of the NVIDIA driver, CUDA and cuDNN",
                ExitCode.ENVIRONMENT,
            )
        try:
            metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
            names = [value.name for value in self._session.get_inputs()]
        except UnicodeDecodeError as error:
            raise DamagedFileError(f"{path} is damaged: its texts are not UTF-8; export or compile it again") from error
        self._describe(interface, metadata, names)
        self._fixed: dict[str, Any] = {}

    def end_trace(self) -> Path:
        """Stop recording kernels and return the file of them."""
        return Path(self._session.end_profiling())

    def fix(self, feeds: Mapping[str, Array]) -> None:
        """Keep the values of some inputs on the device for all following calls; names of no input are ignored."""
        for spec in self.interface.inputs:
            if spec.name in feeds:
                self._fixed[spec.name] = self._value(feeds[spec.name])

    def __call__(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run once and return the named outputs as arrays on the host; raises DriverError (1) if that fails."""
        values = {name: self.ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        with self.failures("failed"):
            results = self._session.run_with_ort_values(list(outputs), self._fixed | values)
        return {name: result.numpy() for name, result in zip(outputs, results, strict=True)}

    def buffer(self, spec: TensorSpec, on_host: bool = False) -> OnnxRuntimeBuffer:
        """Return a new buffer on the device, or on the host."""
        return OnnxRuntimeBuffer(self.ort, spec, "cpu" if on_host else self.device)

    def bind(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Callable[[], None]:
        """Return a function that runs the program once, from and to these buffers."""
        binding = self._session.io_binding()
        for name, buffer in inputs.items():
            binding.bind_ortvalue_input(name, _ort_value(buffer))
        for name, buffer in outputs.items():
            binding.bind_ortvalue_output(name, _ort_value(buffer))

        def run() -> None:
            with self.failures("failed"):
                self._session.run_with_iobinding(binding)

        return run

    def peek(self, inputs: Mapping[str, Buffer], outputs: Sequence[TensorSpec]) -> list[Any]:
        """Run once on buffers and return the scalars `outputs`; see Program."""
        options = self.ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", _ARENAS[self.device])
        feeds = {spec.name: _ort_value(inputs[spec.name]) for spec in self.interface.inputs}
        with self.failures("failed"):
            results = self._session.run_with_ort_values([spec.name for spec in outputs], feeds, options)
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
