"""Losses: the means that training minimises."""

import math
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from netc.graph import shape_of
from netc.layers.base import LAYERS, LayerError, Loss, Mean, sample
from netc.layers.context import Context

MAX_CLASSES = 2**24  # beyond, float32 cannot tell neighbouring indices apart


def class_mask(net: Context, scores: ir.Value, labels: ir.Value) -> ir.Value:
    """Return true at each sample's class and false elsewhere, in the shape [N, C] of the scores.

    Raises:
        LayerError: the scores are no matrix, or too many.
    """
    if len(shape_of(scores)) != 2:
        raise LayerError(
            f"needs one score a class, got {sample(scores)} a sample; put an InnerProduct before it", "bottom"
        )
    if int(shape_of(scores)[1]) > MAX_CLASSES:
        raise LayerError(f"{shape_of(scores)[1]} scores a sample are more than the {MAX_CLASSES:,} supported", "bottom")
    classes = net.g.constant(np.arange(int(shape_of(scores)[1]), dtype=np.int32))
    return net.g.Equal(net.g.Unsqueeze(labels, np.array([1], np.int64)), classes)


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
            # Selected, not multiplied by 0 and 1: the score of another class may be -inf.
            picked = net.g.ReduceSum(net.g.Where(mask, net.g.LogSoftmax(scores, axis=1), net.zero()), keepdims=0)
            return Mean(-picked / count, count)


@LAYERS.add
class EuclideanLoss(Loss):
    """Half the squared distance of two bottoms of equal shape, averaged over the batch: sum (a - b)^2 / (2 N)."""

    type: Literal["EuclideanLoss"] = "EuclideanLoss"

    def lower(self, net: Context, *x: ir.Value) -> Mean:  # noqa: D102
        a, b = x
        if math.prod(map(int, shape_of(a)[1:])) != math.prod(map(int, shape_of(b)[1:])):
            raise LayerError(
                f"bottoms have different sizes: {sample(a)} and {sample(b)}; give both the same number of values",
                "bottom",
            )
        count = net.batch_count(a)
        with net.g.arithmetic():
            difference = net.g.Flatten(a, axis=1) - net.g.Flatten(b, axis=1)
            return Mean(net.g.ReduceSum(difference * difference, keepdims=0) / (count * 2.0), count)
