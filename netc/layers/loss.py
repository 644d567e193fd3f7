"""Losses: the means that training minimises."""

import math
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from netc.graph import shape_of
from netc.layers.base import LAYERS, LayerError, Loss, Mean, sample
from netc.layers.context import Context


def class_mask(net: Context, scores: ir.Value, labels: ir.Value) -> ir.Value:
    """Return 1 at each sample's class and 0 elsewhere, in the shape [N, C] of the scores.

    Raises:
        LayerError: the scores are no matrix, or the labels not one class index a sample.
    """
    if len(shape_of(scores)) != 2:
        raise LayerError(f"needs one score a class, got {sample(scores)} a sample; flatten or pool before it", "bottom")
    if len(shape_of(labels)) != 1 or labels.dtype != ir.DataType.INT32:
        raise LayerError("its last bottom must be class labels: declare an input with `classes`", "bottom")
    classes = net.g.constant(np.arange(int(shape_of(scores)[1]), dtype=np.int32))
    return net.g.Cast(net.g.Equal(net.g.Unsqueeze(labels, np.array([1], np.int64)), classes), to=scores.dtype)


@LAYERS.add
class SoftmaxWithLoss(Loss):
    """Cross-entropy of the softmax of the scores: -log p(label), averaged over the batch.

    Bottoms: scores [N, C] and labels [N]. Computed from log-softmax, so that no score is too large for it.
    """

    type: Literal["SoftmaxWithLoss"] = "SoftmaxWithLoss"

    takes_labels: ClassVar[bool] = True
    activation: ClassVar[str | None] = "logits"

    def lower(self, net: Context, *x: ir.Value) -> Mean:  # noqa: D102
        scores, labels = x
        mask = class_mask(net, scores, labels)
        count = net.batch_count(scores)
        with net.g.arithmetic():
            picked = net.g.ReduceSum(net.g.LogSoftmax(scores, axis=1) * mask, keepdims=0)
            return Mean(-picked / count, count)


@LAYERS.add
class EuclideanLoss(Loss):
    """Half the squared distance of two bottoms of equal shape, averaged over the batch: sum (a - b)^2 / (2 N)."""

    type: Literal["EuclideanLoss"] = "EuclideanLoss"

    def lower(self, net: Context, *x: ir.Value) -> Mean:  # noqa: D102
        a, b = x
        if math.prod(map(int, shape_of(a)[1:])) != math.prod(map(int, shape_of(b)[1:])):
            raise LayerError(f"bottoms have different sizes: {sample(a)} and {sample(b)}", "bottom")
        if a.dtype != b.dtype:
            raise LayerError("compares numbers, and class labels are none; use SoftmaxWithLoss", "bottom")
        count = net.batch_count(a)
        with net.g.arithmetic():
            difference = net.g.Flatten(a, axis=1) - net.g.Flatten(b, axis=1)
            return Mean(net.g.ReduceSum(difference * difference, keepdims=0) / (count * 2.0), count)
