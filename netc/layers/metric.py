"""Metrics: means that are reported and never minimised."""

from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field

from netc.graph import shape_of
from netc.layers.base import LAYERS, LayerError, Mean, Metric
from netc.layers.context import Context
from netc.layers.loss import MAX_CLASSES, class_mask, normalized, not_ignored
from netc.layers.targets import paired


@LAYERS.add
class Accuracy(Metric):
    """The fraction of samples whose label is among the `top_k` highest scores; ties count against it.

    Bottoms: scores [N, C] and labels [N]. Samples with `ignore_label` count neither as right nor as wrong.
    """

    type: Literal["Accuracy"] = "Accuracy"
    top_k: int = Field(1, gt=0)
    ignore_label: int | None = Field(None, ge=0, lt=MAX_CLASSES)

    takes_labels: ClassVar[bool] = True
    kind: ClassVar[str] = "accuracy"

    def lower(self, net: Context, *x: ir.Value) -> Mean:  # noqa: D102
        scores, labels = x
        mask = class_mask(net, scores, labels)
        if self.top_k > int(shape_of(scores)[1]):
            raise LayerError(f"top_k {self.top_k} is more than the {shape_of(scores)[1]} classes", "top_k")
        g, axis = net.g, np.array([1], np.int64)
        with g.arithmetic():
            own = g.ReduceSum(g.Where(mask, scores, net.zero()), axis, keepdims=1)
            # Whatever is not below the own score, an equal one or NaN, counts against the sample.
            below = g.ReduceSum(g.Cast(g.Less(scores, own), to=scores.dtype), axis, keepdims=0)
            hit = g.GreaterOrEqual(below, float(int(shape_of(scores)[1]) - self.top_k))
            hit = g.Cast(hit, to=scores.dtype)
            counted = not_ignored(net, labels, self.ignore_label)
            if counted is not None:
                return normalized(net, hit, "valid", counted)
            return Mean(g.ReduceMean(hit, keepdims=0), net.batch_count(scores))


@LAYERS.add
class MeanAbsoluteError(Metric):
    """The mean of |a - b| over all values of two bottoms of equal size."""

    type: Literal["MeanAbsoluteError"] = "MeanAbsoluteError"

    kind: ClassVar[str] = "error"

    def lower(self, net: Context, *x: ir.Value) -> Mean:  # noqa: D102
        a, b = paired(net, *x)
        return Mean(net.g.ReduceMean(net.g.Abs(net.g.Sub(a, b)), keepdims=0), net.batch_count(a))
