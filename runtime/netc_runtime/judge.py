"""Which evaluation is the best, and for how long there has been no better one."""

import math
from collections.abc import Mapping, Sequence

from netc_runtime.artifact import Metric
from netc_runtime.checkpoint import Best, Position
from netc_runtime.plan import EarlyStopping

# The kinds of metric that say which checkpoint is the best, the first one first.
_JUDGES = ("accuracy", "mean_iou", "class_accuracy", "total")


class Judge:
    """Judges evaluations by the metric that early stopping monitors, else by the first of the first kind there is."""

    def __init__(self, metrics: Sequence[Metric], early_stopping: EarlyStopping | None) -> None:
        self._least = early_stopping.min_delta if early_stopping else 0.0
        monitor = early_stopping.monitor if early_stopping else None
        if monitor is not None:
            self._candidates = [metric for metric in metrics if metric.name == monitor]
        else:
            self._candidates = [metric for kind in _JUDGES for metric in metrics if metric.kind == kind]

    def judge(self, position: Position, test: Mapping[str, float]) -> tuple[Best | None, int]:
        """Return the best evaluation with this one of the state at `position`, and how many there were since."""
        best, step = position.best, position.step
        metric = next((metric for metric in self._candidates if metric.name in test), None)
        if metric is None:
            return best, position.stale
        value = test[metric.name]
        # The metric may be another one since a resume. An evaluation that is done again, with population statistics,
        # replaces the one before it.
        if best is None or best.metric != metric.name or best.step == step:
            better = True
        else:
            better = best.beaten_by(value, metric.larger_is_better, self._least)
        return (Best(metric.name, value, step), 0) if better and math.isfinite(value) else (best, position.stale + 1)
