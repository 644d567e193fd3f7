"""Metrics: means that are reported and never minimised."""

from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field

from netc.graph import shape_of
from netc.layers.base import LAYERS, Counts, LayerError, Mean, Metric
from netc.layers.context import Context
from netc.layers.loss import IgnoredLabel, class_mask, normalized, not_ignored, scored
from netc.layers.shapes import reduce, reshape
from netc.layers.targets import paired


@LAYERS.add
class Accuracy(Metric):
    """The fraction of labels that are among the `top_k` highest scores; ties count against it.

    Bottoms: scores [N, C] and labels [N], or scores [N, C, ...] and dense labels [N, ...]. Labels equal to
    `ignore_label` count neither as right nor as wrong.

    Example: {type: Accuracy, bottom: [scores, label], top_k: 5}
    """

    type: Literal["Accuracy"] = "Accuracy"
    top_k: int = Field(1, gt=0)
    """Number of highest scores among which the label has to be."""
    ignore_label: IgnoredLabel = None
    """Label that does not count; it need not be a class."""

    takes_labels: ClassVar[bool] = True
    kind: ClassVar[str] = "accuracy"

    def lower(self, net: Context, *x: ir.Value) -> Mean:  # noqa: D102
        scores, labels = scored(net, *x)
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
            return normalized(net, hit, "valid", not_ignored(net, labels, self.ignore_label))


class CountingMetric(Metric):
    """A metric of a whole split that is made of its confusion matrix; training steps do not report it.

    Bottoms: scores [N, C, ...] and labels [N, ...]. The predicted class is the first of the highest scores. Labels
    equal to `ignore_label`, or that are no class, count nothing.
    """

    ignore_label: IgnoredLabel = None
    """Label that does not count; it need not be a class."""

    takes_labels: ClassVar[bool] = True
    counts: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> Counts:  # noqa: D102
        scores, labels = scored(net, *x)
        g, classes = net.g, int(shape_of(scores)[1])
        true = class_mask(net, scores, labels)
        counted = not_ignored(net, labels, self.ignore_label)
        if counted is not None:
            true = g.And(true, g.Unsqueeze(counted, np.array([1], np.int64)))
        predicted = class_mask(net, scores, g.Cast(g.ArgMax(scores, axis=1, keepdims=0), to=ir.DataType.INT32))
        # [N, C, places] each. Counts of one sample are exact in float32; their sum over samples needs float64, since
        # CUDA adds no whole numbers.
        rows, columns = (reshape(g, g.Cast(m, to=scores.dtype), [0, classes, -1]) for m in (true, predicted))
        matrices = g.MatMul(rows, g.Transpose(columns, perm=[0, 2, 1]))
        total = reduce(g, "ReduceSum", g.Cast(matrices, to=ir.DataType.DOUBLE), [0], keepdims=0)
        return Counts(g.Cast(total, to=ir.DataType.INT64))


@LAYERS.add
class ConfusionMatrix(CountingMetric):
    """How often each class is taken for each other one: [C, C], rows the true class, columns the predicted one.

    Its one number is the fraction on the diagonal.

    Example: {type: ConfusionMatrix, bottom: [scores, label]}
    """

    type: Literal["ConfusionMatrix"] = "ConfusionMatrix"

    kind: ClassVar[str] = "confusion_matrix"


@LAYERS.add
class ClassAccuracy(CountingMetric):
    """For each class the fraction of its samples that are recognised; its one number is the mean over the classes.

    Classes without any sample do not count.

    Example: {type: ClassAccuracy, bottom: [scores, label]}
    """

    type: Literal["ClassAccuracy"] = "ClassAccuracy"

    kind: ClassVar[str] = "class_accuracy"


@LAYERS.add
class MeanIoU(CountingMetric):
    """The mean over the classes of intersection over union: right / (truly the class + taken for it - right).

    Classes that neither occur nor are predicted do not count.

    Example: {type: MeanIoU, bottom: [scores, label]}
    """

    type: Literal["MeanIoU"] = "MeanIoU"

    kind: ClassVar[str] = "mean_iou"


@LAYERS.add
class MeanAbsoluteError(Metric):
    """The mean of |a - b| over all values of two bottoms of equal size.

    Example: {type: MeanAbsoluteError, bottom: [scores, target]}
    """

    type: Literal["MeanAbsoluteError"] = "MeanAbsoluteError"

    kind: ClassVar[str] = "error"

    def lower(self, net: Context, *x: ir.Value) -> Mean:  # noqa: D102
        a, b = paired(net, *x)
        return Mean(net.g.ReduceMean(net.g.Abs(net.g.Sub(a, b)), keepdims=0), net.batch_count(a))
