"""Rows for the metrics that count: a confusion matrix over a whole split."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.cases.dense_layers import DENSE, VOID
from tests.cases.layers import SCORES, Kind


@dataclass(frozen=True)
class CountCase:
    """A counting metric; `ignored` is the label among its data that counts nothing."""

    type: str
    kind: str
    inputs: Mapping[str, Kind]
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Return the name of the test."""
        return "-".join([self.type, "dense" if self.inputs is DENSE else "", *map(str, self.fields)])


KINDS = {"ConfusionMatrix": "confusion_matrix", "ClassAccuracy": "class_accuracy", "MeanIoU": "mean_iou"}
COUNT_CASES = [
    CountCase(name, kind, inputs, fields)
    for name, kind in KINDS.items()
    for inputs, fields in ((SCORES, {}), (SCORES, {"ignore_label": 2}), (DENSE, {}), (DENSE, {"ignore_label": VOID}))
]
