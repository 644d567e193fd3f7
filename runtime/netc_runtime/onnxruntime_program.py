"""Programs on ONNX Runtime: choosing its execution provider, and bindings that are built once."""

import contextlib
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from netc_runtime.arrays import Array
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.interface import Interface, TensorSpec
from netc_runtime.onnxruntime_trace import OnnxRuntimeTrace
from netc_runtime.session import Buffer, Bundle, Cuda, Host, Program, unreadable

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_ERRORS_ONLY, _FATAL_ONLY = 3, 4
_ALIGNMENT = 256  # bytes: what CUDA's own allocations have
_ARENAS = {"cpu": "cpu:0", "cuda": "cpu:0;gpu:0"}  # by device, those that a program allocates from


def import_onnxruntime() -> ModuleType:
    """Return the module `onnxruntime`; raises DriverError (3) with the remedy if it is not installed."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise DriverError(
            'ONNX Runtime is not installed; install it with: pip install "netc[cpu]" (or "netc[gpu]" for NVIDIA GPUs)',
            ExitCode.ENVIRONMENT,
        ) from error
    module: ModuleType = onnxruntime
    return module


def engine_of(ort: ModuleType) -> str:
    """Return the name and version of the engine."""
    return f"ONNX Runtime {ort.__version__}"


class OnnxRuntimeBuffer(Buffer):
    """A buffer of ONNX Runtime: on the CPU its value aliases `host`, so that writing there is all that is needed."""

    def __init__(self, ort: ModuleType, spec: TensorSpec, device: str, host: Array | None = None) -> None:
        super().__init__(spec, host)
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

    def bind_input(self, binding: Any, name: str) -> None:
        """Make this the input `name` of an `onnxruntime.IOBinding`."""
        binding.bind_ortvalue_input(name, self.value)

    def bind_output(self, binding: Any, name: str) -> None:
        """Make this the output `name` of an `onnxruntime.IOBinding`."""
        binding.bind_ortvalue_output(name, self.value)


class DeviceSlice(Buffer):
    """One tensor of a `DeviceBundle`: `host` lies in the bundle's copy on the host."""

    def __init__(self, spec: TensorSpec, host: Array, device: str, value: Any, start: int) -> None:
        self.host = host.view(spec.dtype).reshape(spec.static_shape)
        self._value = value  # whose memory is bound by its address alone
        address = value.data_ptr() + start
        self._place = device, 0, self.host.dtype.type, self.host.shape, address

    def read(self) -> Array:
        """Return a copy of what the bundle last moved."""
        return self.host.copy()

    def bind_input(self, binding: Any, name: str) -> None:
        """Make this the input `name` of an `onnxruntime.IOBinding`."""
        binding.bind_input(name, *self._place)

    def bind_output(self, binding: Any, name: str) -> None:
        """Make this the output `name` of an `onnxruntime.IOBinding`."""
        binding.bind_output(name, *self._place)


class DeviceBundle(Bundle):
    """Tensors in one allocation of a device.

    Each copy between host and device waits for the GPU, which costs as much as a small layer. And a captured step
    writes to the device alone: ONNX Runtime brings outputs that are bound to the host there only outside of captures.
    """

    def __init__(self, ort: ModuleType, specs: Sequence[TensorSpec], device: str) -> None:
        sizes = [np.dtype(spec.dtype).itemsize * math.prod(spec.static_shape) for spec in specs]
        starts = [0, *itertools.accumulate(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)]
        self._host = np.zeros(max(starts[-1], 1), np.uint8)
        self._value = ort.OrtValue.ortvalue_from_numpy(self._host.copy(), device, 0)
        super().__init__(
            {
                spec.name: DeviceSlice(spec, self._host[start : start + size], device, self._value, start)
                for spec, size, start in zip(specs, sizes, starts, strict=False)
            }
        )

    def write(self, arrays: Mapping[str, Array]) -> None:
        """Overwrite all tensors."""
        super().write(arrays)
        self._value.update_inplace(self._host)

    def read(self) -> dict[str, Array]:
        """Return all tensors; the next run may overwrite them."""
        np.copyto(self._host, self._value.numpy())
        return super().read()


class OnnxRuntimeProgram(Program):
    """A program on ONNX Runtime's CPU or CUDA provider; see `Program`, and `load_program` for what it raises.

    On CUDA a `steady` program's work is captured at its first runs, each binding's for itself, unless ONNX Runtime
    refuses; `reason` then says why. With `trace`, a folder, every kernel is recorded there.
    """

    def __init__(
        self,
        path: Path,
        host: Host,
        interface: Interface | None,
        content: bytes,
        steady: bool = False,
        trace: Path | None = None,
        outside: Mapping[str, Array] | None = None,
    ) -> None:
        super().__init__(path)
        self.ort = import_onnxruntime()
        self.engine = engine_of(self.ort)
        offered = offers_cuda(self.ort, host)
        self._load = partial(_load, self.ort, content, host, trace, outside or {})
        self._session: Any = None
        captured, refusal = offered and steady and host.cuda.graph and trace is None, ""
        if captured:
            try:
                self._session = self._load(offered, captured)
            except ort_exceptions(self.ort) as error:
                captured, refusal = False, str(error)
        if not captured:
            with self.failures("cannot be loaded"):
                try:
                    self._session = self._load(offered, captured)
                except _unreadable(self.ort) as error:
                    raise unreadable(path) from error
        self._session.disable_fallback()  # a program must not change its device between two runs
        # ONNX Runtime falls back to the CPU silently: what was asked for proves nothing.
        active = self._session.get_providers()[0]
        self.device = "cuda" if active == _CUDA else "cpu"
        self.reason = _reason(host, self.device, offered, _CUDA in self.ort.get_available_providers())
        if host.device == "cuda" and self.device != "cuda":
            raise DriverError(
                f"CUDA was asked for but is not active: {self.reason}; use --device cpu, or repair the installation "
                f"of the NVIDIA driver, CUDA and cuDNN",
                ExitCode.ENVIRONMENT,
            )
        self.is_captured = captured and self.device == "cuda"
        self._captures = itertools.count(1)  # those of a session are told apart by number
        if refusal and self.device == "cuda":
            self._say_refused(refusal)
        try:
            metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
            names = [value.name for value in self._session.get_inputs()]
        except UnicodeDecodeError as error:
            raise DamagedFileError(f"{path} is damaged: its texts are not UTF-8; export or compile it again") from error
        self._describe(interface, metadata, names)
        self.trace = None if trace is None else OnnxRuntimeTrace(self._session, trace)
        self._fixed: dict[str, Any] = {}

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

    def buffer(self, spec: TensorSpec) -> OnnxRuntimeBuffer:
        """Return a new buffer on the device."""
        return OnnxRuntimeBuffer(self.ort, spec, self.device)

    def constant(self, spec: TensorSpec, array: Array) -> OnnxRuntimeBuffer:
        """Return a buffer that holds `array`, on the CPU in its own memory."""
        with self.failures("failed"):
            return OnnxRuntimeBuffer(self.ort, spec, self.device, array)

    def bundle(self, specs: Sequence[TensorSpec]) -> Bundle:
        """Return new buffers on the device that one copy fills, or brings to the host."""
        return DeviceBundle(self.ort, specs, self.device) if self.device == "cuda" else super().bundle(specs)

    def bind(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Callable[[], None]:
        """Return a function that runs the program once, from and to these buffers.

        Where it is captured, the first call runs it several times, so no output may be bound to an input's buffer.
        """
        return _Runs(self, inputs, outputs)

    def peek(self, inputs: Mapping[str, Buffer], outputs: Sequence[TensorSpec]) -> list[Any]:
        """Run once on buffers and return the scalars `outputs`; see Program."""
        results = self.bundle(outputs)
        binding, _ = self.new_binding({spec.name: inputs[spec.name] for spec in self.interface.inputs}, results.buffers)
        options = self.ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", _ARENAS[self.device])
        with self.failures("failed"):
            self.run_bound(binding, options)
        found = results.read()
        return [found[spec.name][()] for spec in outputs]

    def run_bound(self, binding: Any, options: Any) -> None:
        """Run an `onnxruntime.IOBinding` of the session; raises what ONNX Runtime raises."""
        self._session.run_with_iobinding(binding, options)

    def new_binding(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> tuple[Any, Any]:
        """Return an `onnxruntime.IOBinding` of the session with these buffers, and the options of its runs."""
        binding = self._session.io_binding()
        for name, buffer in inputs.items():
            assert isinstance(buffer, OnnxRuntimeBuffer | DeviceSlice), "buffers come from this program"
            buffer.bind_input(binding, name)
        for name, buffer in outputs.items():
            assert isinstance(buffer, OnnxRuntimeBuffer | DeviceSlice), "buffers come from this program"
            buffer.bind_output(binding, name)
        options = None
        if self.is_captured:
            options = self.ort.RunOptions()
            options.add_run_config_entry("gpu_graph_id", str(next(self._captures)))
        return binding, options

    def give_up_capturing(self, reason: str) -> None:
        """Go on in a session that captures nothing; all bindings must be made again."""
        self._session = self._load(True, False)
        self.is_captured = False
        self._say_refused(reason)

    def _say_refused(self, reason: str) -> None:
        self.reason += f", without CUDA graphs: {reason.splitlines()[0]}"

    @contextlib.contextmanager
    def failures(self, what: str) -> Iterator[None]:
        """Turn ONNX Runtime's own exceptions into one sentence."""
        try:
            yield
        except ort_exceptions(self.ort) as error:
            raise DriverError(f"{self.path} {what}: {str(error).splitlines()[0]}") from error

    def _value(self, array: Array) -> Any:
        # On the CPU the value aliases the array, so it gets one of its own. (ascontiguousarray would make a
        # scalar one-dimensional.)
        return self.ort.OrtValue.ortvalue_from_numpy(np.array(array, order="C"), self.device, 0)


class _Runs:
    """Runs a program from and to the same buffers at each call; raises DriverError (1).

    What is captured at the first call may be refused only there: the program then gives up capturing. The state of the
    step is unharmed, since it is read from other buffers than it is written to.
    """

    def __init__(
        self, program: OnnxRuntimeProgram, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]
    ) -> None:
        self._program = program
        self._buffers = inputs, outputs
        self._is_captured, self._has_run = program.is_captured, False
        self._binding = program.new_binding(inputs, outputs)

    def __call__(self) -> None:
        program = self._program
        with program.failures("failed"):
            if self._is_captured and not self._has_run:
                try:
                    self._run()
                except ort_exceptions(program.ort) as error:
                    if program.is_captured:
                        program.give_up_capturing(str(error))
            if self._is_captured != program.is_captured:
                self._is_captured = program.is_captured
                self._binding = program.new_binding(*self._buffers)
            self._run()

    def _run(self) -> None:
        self._program.run_bound(*self._binding)
        self._has_run = True


def _load(
    ort: ModuleType,
    content: bytes,
    host: Host,
    trace: Path | None,
    outside: Mapping[str, Array],
    offered: bool,
    captured: bool,
) -> Any:
    """Return a session; `outside` holds the initializers that are not in `content`, by name."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = host.thread_count
    options.log_severity_level = _FATAL_ONLY if captured else _ERRORS_ONLY  # a refused capture is no error
    # On the CPU, with a pattern the second run takes one block for all tensors, while those of the first run are kept:
    # double the memory of a training step.
    options.enable_mem_pattern = offered
    if not host.spins:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if trace is not None:
        OnnxRuntimeTrace.record(options, trace)
    if outside:
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in outside.values()]
        options.add_external_initializers(list(outside), values)
    providers: list[Any] = [_CPU]
    if offered:
        _preload(ort)
        providers.insert(0, (_CUDA, _cuda_options(host.cuda, captured)))
    # Its fallback would retry a failed session with the default options, which round to TF32.
    return ort.InferenceSession(content, options, providers=providers, enable_fallback=0)


def _unreadable(ort: ModuleType) -> tuple[type[Exception], ...]:
    """Return what loading raises for a file that is no model at all."""
    state = ort.capi.onnxruntime_pybind11_state
    return state.InvalidProtobuf, state.InvalidArgument, state.NoModel


def ort_exceptions(ort: ModuleType) -> tuple[type[Exception], ...]:
    """Return what ONNX Runtime raises where it refuses a model or a run of it."""
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


def offers_cuda(ort: ModuleType, host: Host) -> bool:
    """Return whether to ask for CUDA."""
    may = host.device == "cuda" or (host.device == "auto" and host.not_cuda is None)
    return may and _CUDA in ort.get_available_providers()


def _preload(ort: ModuleType) -> None:
    """Find the libraries of CUDA that are installed as packages of Python."""
    preload = getattr(ort, "preload_dlls", None)  # new in ONNX Runtime 1.21
    if preload is not None:
        # It prints what it cannot find; stdout belongs to the results.
        with contextlib.redirect_stdout(sys.stderr):
            preload()


def _cuda_options(cuda: Cuda, captured: bool) -> dict[str, str]:
    return {
        "use_tf32": str(int(cuda.tf32)),
        "cudnn_conv_algo_search": cuda.convolution.upper(),
        "enable_cuda_graph": str(int(captured)),
    }


def _reason(host: Host, active: Literal["cpu", "cuda"], offered: bool, has_cuda: bool) -> str:
    if host.device == "cpu":
        return "as asked"
    if active == "cuda":
        return "as asked" if host.device == "cuda" else "CUDA is active"
    if offered:
        return "ONNX Runtime could not start its CUDA provider"
    return (has_cuda and host.not_cuda) or "this ONNX Runtime has no CUDA provider"
