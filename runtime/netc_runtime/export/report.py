"""What an export says of itself, as text and as plain data."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netc_runtime.export.options import FileFormat, Precision
from netc_runtime.export.verify import Agreement
from netc_runtime.jsonfields import without_non_finite

_NOT_COMPARED = "it was not compared with the evaluation graph"
_SAME = 1e-6  # accuracies that differ by less are of the same samples: the one is a mean of float32


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    `parameters` counts scalars, `size` the bytes of the file and of `weights`, the file beside it, if there is one;
    `step` is None for weights that do not say theirs; `not_folded` says by layer why a batch norm is still there;
    `calibration_samples` is None unless the precision is int8, `agreement` without verification.
    """

    path: Path
    checkpoint: Path
    step: int | None
    parameters: int
    size: int
    precision: Precision
    opset: int
    format: FileFormat
    softmax: bool
    calibration_samples: int | None
    weights: Path | None
    not_folded: Mapping[str, str]
    agreement: Agreement | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        agreement = None if self.agreement is None else vars(self.agreement)
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in vars(self).items()}
        plain |= {"not_folded": dict(self.not_folded), "agreement": agreement}
        return {key: without_non_finite(value) for key, value in plain.items()}

    def lines(self) -> Iterator[str]:
        """Yield the report for people."""
        how = "ORT format" if self.format == "ort" else f"opset {self.opset}"
        beside = "" if self.weights is None else f", weights in {self.weights}"
        probabilities = ", probabilities" if self.softmax else ""
        yield (
            f"exported {self.path}: {self.parameters:,} parameters, {_size(self.size)}, {self.precision}, "
            f"{how}{probabilities}{beside}"
        )
        if self.calibration_samples is not None:
            yield f"ranges of activations come from {self.calibration_samples} training samples"
        for layer, reason in self.not_folded.items():
            yield f"{layer} is not folded: {reason}"
        yield _NOT_COMPARED if self.agreement is None else _verified(self.agreement)


def _verified(agreement: Agreement) -> str:
    return (
        f"on {agreement.samples} test samples it differs from the evaluation graph by at most "
        f"{agreement.difference:.1e}, no output by more than {agreement.relative:.1e} of its largest value"
        f"{_accuracies(agreement)}"
    )


def _accuracies(agreement: Agreement) -> str:
    own, before, after = agreement.accuracy, agreement.before, agreement.after
    if before is None or after is None:
        return "" if own is None else f"; accuracy {own:.4f}"
    if own is None or abs(own - before) < _SAME:
        return f"; accuracy {before:.4f} before, {after:.4f} after"
    return f"; accuracy {own:.4f}; top-1 accuracy {before:.4f} before, {after:.4f} after"


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
