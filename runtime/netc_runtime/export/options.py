"""What export may be asked for, checked as a whole."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import onnx

from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.external import EXTERNAL_ABOVE

Precision: TypeAlias = Literal["float32", "float16", "int8"]
FileFormat: TypeAlias = Literal["onnx", "ort"]

OPSETS = (14, max(int(row[2]) for row in onnx.helper.VERSION_TABLE))
"""The smallest and largest opset of a model: ONNX's converter takes no arithmetic below; above, nothing is released."""

# How far an output may be from that of eval.onnx, as a share of its largest value. A folded batch norm rounds
# differently; beyond this share it computes something else. Float16 has 11 bits, of which a deep network loses some.
# What 8 bits leave is no question of rounding: their accuracy says what it costs.
_TOLERANCES: dict[Precision, float | None] = {"float32": 1e-3, "float16": 1e-2, "int8": None}


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        softmax: turn outputs whose loss would still apply softmax or a sigmoid into probabilities.
        opset: version of the ONNX operators, None for that of the artifact.
        precision: of weights and activations; inputs and outputs are float32 in any case.
        calibration_samples: training samples that the ranges of int8 activations are taken from.
        format: None for what the name of the file says.
        tolerance: largest difference of an output to that of eval.onnx as a share of the largest value of the same
            output; None for that of the precision.
        external_above: bytes above which weights go into a second file.
    """

    softmax: bool = False
    opset: int | None = None
    precision: Precision = "float32"
    calibration_samples: int = 512
    format: FileFormat | None = None
    tolerance: float | None = None
    external_above: int = EXTERNAL_ABOVE

    def __post_init__(self) -> None:
        low, high = OPSETS
        if self.opset is not None and not low <= self.opset <= high:
            raise DriverError(f"--opset should be from {low} to {high}, not {self.opset}", ExitCode.USAGE)
        if self.calibration_samples < 1:
            raise DriverError(
                f"--calibration-samples should be at least 1, not {self.calibration_samples}", ExitCode.USAGE
            )
        if self.tolerance is not None and not 0 <= self.tolerance < math.inf:
            raise DriverError(
                f"--verify takes a share of at least 0, such as 0.001, not {self.tolerance}", ExitCode.USAGE
            )

    @property
    def limit(self) -> float | None:
        """The tolerance that holds; None where only the accuracy says what is lost."""
        return _TOLERANCES[self.precision] if self.tolerance is None else self.tolerance

    def file_name(self, has_sides: bool) -> str:
        """Return the default name: model.onnx is the plain model of a run, and nothing else takes its place."""
        parts = [
            {"float32": "", "float16": "fp16", "int8": "int8"}[self.precision],
            "softmax" if self.softmax else "",
            "sides" if has_sides else "",
            "" if self.opset is None else f"opset{self.opset}",
            self.format or "onnx",
        ]
        return ".".join(["model", *filter(None, parts)])

    def format_of(self, path: Path) -> FileFormat:
        """Return the format of the file at `path`; raises DriverError (2) if it is not called like one."""
        wanted = f".{self.format}" if self.format else path.suffix
        if path.suffix == wanted in (".onnx", ".ort"):
            return "ort" if wanted == ".ort" else "onnx"
        if self.format:
            raise DriverError(
                f"{path} is not called like a file of --format {self.format}; name it {path.with_suffix(wanted)}",
                ExitCode.USAGE,
            )
        raise DriverError(
            f"{path} does not say its format; name it {path.name}.onnx, or {path.name}.ort for ORT format",
            ExitCode.USAGE,
        )
