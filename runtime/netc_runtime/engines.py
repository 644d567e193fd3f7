"""Loading a program into the engine that the host asks for; an engine is imported only where it is used."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from netc_runtime.artifact import Artifact
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.external import Weights
from netc_runtime.files import read_bounded, refuse_spec
from netc_runtime.interface import Interface
from netc_runtime.seal import is_ort_format
from netc_runtime.session import Device, Host, Program, refuse_external_data

_LIMIT = 2 << 30  # what one protobuf message can hold
_NOT_FOR_CUDA = ("cpu", "openvino")  # targets whose programs of training may hold what CUDA refuses


def load_program(
    path: Path,
    host: Host,
    interface: Interface | None = None,
    content: bytes | None = None,
    steady: bool = False,
    trace: Path | None = None,
    weights: Weights | None = None,
) -> Program:
    """Load one ONNX file.

    `interface` None takes the description that the file carries itself; `content` is the file's bytes where it
    is not written yet, and `weights` the file with its tensors that lie outside. A `steady` program has fixed shapes
    and is run by `bind` alone, so that an engine may capture what it does. `trace` is an empty folder, for programs
    that record their kernels there or in memory. Raises DriverError: 3 if the engine is missing or `cuda` was asked
    for and is not active, 2 if the file does not exist, 1 if it cannot be loaded.
    """
    require_engine(host.device)
    if content is None and not path.is_file():
        raise DriverError(f"{path} does not exist or is not a file", ExitCode.USAGE)
    refuse_spec(path)
    content = content or read_bounded(path, _LIMIT)
    outside = {} if weights is None else weights.arrays(path, content)
    refuse_external_data(path, content, frozenset(outside))
    if _runs_on_openvino(host.device):
        from netc_runtime.openvino_program import OpenVINOProgram

        if is_ort_format(content):
            raise DriverError(
                f"{path} is in ORT format, which only ONNX Runtime runs; export it as .onnx", ExitCode.USAGE
            )
        return OpenVINOProgram(path, host, interface, content, trace is not None, weights)
    from netc_runtime.onnxruntime_program import OnnxRuntimeProgram

    return OnnxRuntimeProgram(path, host, interface, content, steady, trace, outside)


def host_for_training(artifact: Artifact, host: Host) -> Host:
    """Return where the programs of training run: `auto` does not take CUDA for what was compiled for another engine.

    Raises DriverError (2) if `cuda` was asked for such an artifact.
    """
    if artifact.target not in _NOT_FOR_CUDA:
        return host
    if host.device == "cuda":
        raise DriverError(
            f"{artifact.folder} was compiled for {artifact.target} and does not train on CUDA; compile the spec with "
            f"netc compile --target cuda, or use --device cpu",
            ExitCode.USAGE,
        )
    return replace(host, not_cuda=f"the artifact was compiled for {artifact.target}")


def cpu_device() -> Device:
    """Return the device on the CPU whose engine is installed: `cpu`, or `openvino` where ONNX Runtime is missing."""
    return "openvino" if find_spec("onnxruntime") is None and find_spec("openvino") is not None else "cpu"


def require_engine(device: Device) -> str:
    """Import the engine of a device and return its name and version.

    Raises DriverError (3) with the remedy if it is not installed.
    """
    if _runs_on_openvino(device):
        from netc_runtime import openvino_program

        return openvino_program.engine_of(openvino_program.import_openvino())
    from netc_runtime import onnxruntime_program

    return onnxruntime_program.engine_of(onnxruntime_program.import_onnxruntime())


def offers_cuda(host: Host) -> bool:
    """Return whether programs run on CUDA if it can be started; raises DriverError (3) without the host's engine."""
    if _runs_on_openvino(host.device):
        return False
    from netc_runtime.onnxruntime_program import import_onnxruntime, offers_cuda

    return offers_cuda(import_onnxruntime(), host)


def _runs_on_openvino(device: Device) -> bool:
    return device == "openvino" or (device == "auto" and cpu_device() == "openvino")
