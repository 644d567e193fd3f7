"""Metrics that are counted: confusion matrices, which add up exactly over batches, and the numbers made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from netc_runtime.arrays import Array
from netc_runtime.artifact import SIDE, Metric

Matrix = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Counted:
    """A counting metric over a whole split.

    `matrix` is [classes, classes]: how many labels of the row's class were given the column's class. `kind` says what
    is made of it; `classes` names rows and columns.
    """

    name: str
    kind: str
    matrix: Matrix
    classes: tuple[str, ...]

    @property
    def by_class(self) -> tuple[float, ...]:
        """The number of each class, NaN for a class that does not occur; empty for a plain confusion matrix.

        class_accuracy: the share of the labels of a class that were found, diagonal / row sum. mean_iou: intersection
        over union, diagonal / (row sum + column sum - diagonal).
        """
        right, labels, found = self.matrix.diagonal(), self.matrix.sum(axis=1), self.matrix.sum(axis=0)
        match self.kind.removeprefix(SIDE):
            case "class_accuracy":
                return _shares(right, labels)
            case "mean_iou":
                return _shares(right, labels + found - right)
        return ()

    @property
    def value(self) -> float:
        """The metric's one number, larger is better; NaN where nothing was counted.

        The mean of `by_class` over the classes that occur; of a plain confusion matrix the share on its diagonal.
        """
        if self.kind.removeprefix(SIDE) == "confusion_matrix":
            total = int(self.matrix.sum())
            return int(self.matrix.trace()) / total if total else float("nan")
        occurring = [share for share in self.by_class if not np.isnan(share)]
        return sum(occurring) / len(occurring) if occurring else float("nan")

    def as_dict(self) -> dict[str, object]:
        """Return it as plain data: `kind`, `value`, `classes`, `by_class` and `matrix`."""
        return {
            "kind": self.kind,
            "value": self.value,
            "classes": list(self.classes),
            "by_class": list(self.by_class),
            "matrix": self.matrix.tolist(),
        }


class Counts:
    """Sums of confusion matrices over batches: int64, so exact for any split."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._kinds = {metric.name: metric.kind for metric in metrics if metric.is_counted}
        self._sums: dict[str, Matrix] = {}
        self.outputs = tuple(self._kinds)
        """The names of the outputs that `add` wants."""

    def add(self, results: Mapping[str, Array]) -> None:
        """Count one batch."""
        for name in self._kinds:
            matrix = results[name].astype(np.int64)
            self._sums[name] = self._sums[name] + matrix if name in self._sums else matrix

    def results(self, classes: tuple[str, ...]) -> tuple[Counted, ...]:
        """Return what was counted; `classes` are the names that the data has, used where their number fits."""
        return tuple(
            Counted(name, self._kinds[name], matrix, fitting_names(classes, len(matrix)))
            for name, matrix in self._sums.items()
        )


def fitting_names(known: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Return a name for each of `count` classes: the known ones if there are as many, else numbers."""
    return known if len(known) == count else tuple(map(str, range(count)))


def _shares(parts: Matrix, wholes: Matrix) -> tuple[float, ...]:
    return tuple(
        part / whole if whole else float("nan") for part, whole in zip(parts.tolist(), wholes.tolist(), strict=True)
    )
