"""ONNX Runtime's own file format, which its builds for phones and browsers load without a parser of ONNX."""

import tempfile
from pathlib import Path

from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.onnxruntime_program import import_onnxruntime, ort_exceptions

_ERRORS_ONLY = 3


def to_ort_format(content: bytes) -> bytes:
    """Return an ONNX model in ORT format, optimized as far as that suits every machine.

    Raises DriverError: 3 without ONNX Runtime, 1 if that does not load the model.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    # Above this level, layouts are chosen for the width of this CPU's vectors.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.save_model_format", "ORT")
    with tempfile.TemporaryDirectory(prefix="netc-") as scratch:
        path = Path(scratch) / "model.ort"
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except ort_exceptions(ort) as error:
            raise DriverError(f"the model cannot be loaded: {str(error).splitlines()[0]}") from error
        return path.read_bytes()


def refuse_too_large(size: int, most: int) -> None:
    """Raise DriverError (2) for a model that would need a second file, which the format does not know."""
    if size > most:
        raise DriverError(
            f"a file in ORT format holds at most {most} bytes, the model takes {size}; export it as .onnx, or in fewer "
            f"bits with --fp16 or --int8",
            ExitCode.USAGE,
        )
