"""Losses of a top against targets that are numbers, value by value or sample by sample."""

import math
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field

from netc.graph import shape_of
from netc.layers.base import LAYERS, LayerError, Loss, Mean, sample
from netc.layers.context import Context
from netc.layers.loss import Normalization, normalized, not_ignored


def paired(net: Context, a: ir.Value, b: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return two bottoms as [N, values a sample].

    Raises:
        LayerError: their samples have different sizes.
    """
    if math.prod(map(int, shape_of(a)[1:])) != math.prod(map(int, shape_of(b)[1:])):
        raise LayerError(
            f"bottoms have different sizes: {sample(a)} and {sample(b)}; give both the same number of values", "bottom"
        )
    return net.g.Flatten(a, axis=1), net.g.Flatten(b, axis=1)


def _sum_of_samples(net: Context, x: ir.Value, keepdims: int = 0) -> ir.Value:
    return net.g.ReduceSum(x, np.array([1], np.int64), keepdims=keepdims)


@LAYERS.add
class EuclideanLoss(Loss):
    """Half the squared distance of two bottoms of equal shape, averaged over the batch: sum (a - b)^2 / (2 N).

    Example: {type: EuclideanLoss, bottom: [scores, target]}
    """

    type: Literal["EuclideanLoss"] = "EuclideanLoss"

    def lower(self, net: Context, *x: ir.Value) -> Mean:  # noqa: D102
        a, b = paired(net, *x)
        count = net.batch_count(x[0])
        with net.g.arithmetic():
            difference = a - b
            return Mean(net.g.ReduceSum(difference * difference, keepdims=0) / (count * 2.0), count)


@LAYERS.add
class L1Loss(Loss):
    """The sum of |a - b| over two bottoms of equal size, divided as `normalization` says.

    `batch_size` (the default, as in EuclideanLoss) divides by the samples, `full` and `valid` by all values.

    Example: {type: L1Loss, bottom: [scores, target]}
    """

    type: Literal["L1Loss"] = "L1Loss"
    normalization: Normalization = "batch_size"
    """What the sum of losses is divided by."""

    def lower(self, net: Context, *x: ir.Value) -> Mean:  # noqa: D102
        a, b = paired(net, *x)
        return normalized(net, net.g.Abs(net.g.Sub(a, b)), self.normalization)


@LAYERS.add
class HuberLoss(Loss):
    """The sum of a parabola near 0 and a line beyond `delta` (Huber 1964), divided as in L1Loss.

    With d = |a - b| of two bottoms of equal size: d^2 / 2 where d <= delta, else delta (d - delta / 2).

    Example: {type: HuberLoss, bottom: [scores, target], delta: 0.5}
    """

    type: Literal["HuberLoss"] = "HuberLoss"
    delta: float = Field(1.0, gt=0.0)
    """Distance at which the parabola becomes a line."""
    normalization: Normalization = "batch_size"
    """What the sum of losses is divided by."""

    def lower(self, net: Context, *x: ir.Value) -> Mean:  # noqa: D102
        a, b = paired(net, *x)
        with net.g.arithmetic():
            distance = net.g.Abs(a - b)
            near = net.g.Min(distance, self.delta)
            # near^2 / 2 + delta * (distance - near), in a form that needs no choice between two branches
            return normalized(net, near * near * 0.5 + (distance - near) * self.delta, self.normalization)


@LAYERS.add
class SigmoidCrossEntropyLoss(Loss):
    """Cross-entropy of independent sigmoids: -t log p - (1 - t) log(1 - p) with p = sigmoid(scores), normalized.

    Bottoms: scores and targets in [0, 1] of equal size. Computed from softplus, so that no score is too large for it.
    Targets equal to `ignore_label` add nothing. `normalization` is as in SoftmaxWithLoss, but `batch_size` by default.

    `balanced` is HED's form (Xie & Tu 2015): in each sample, positives (targets 1) are weighted by the share of
    negatives (targets 0) and negatives by the share of positives; other targets add nothing.

    Example: {type: SigmoidCrossEntropyLoss, bottom: [scores, target]}
    """

    type: Literal["SigmoidCrossEntropyLoss"] = "SigmoidCrossEntropyLoss"
    balanced: bool = False
    """Whether positives and negatives of a sample weigh the same in sum."""
    ignore_label: int | None = Field(None, ge=-(2**24), le=2**24)
    """Target that adds nothing."""
    normalization: Normalization = "batch_size"
    """What the sum of losses is divided by."""

    activation: ClassVar[str | None] = "sigmoid"

    def lower(self, net: Context, *x: ir.Value) -> Mean:  # noqa: D102
        scores, targets = paired(net, *x)
        counted = not_ignored(net, targets, self.ignore_label)
        with net.g.arithmetic():
            on, off = targets, 1.0 - targets
            if self.balanced:
                on, off = self._shares(net, targets, counted)
            losses = on * net.g.Softplus(-scores) + off * net.g.Softplus(scores)
        return normalized(net, losses, self.normalization, counted)

    def _shares(self, net: Context, targets: ir.Value, counted: ir.Value | None) -> tuple[ir.Value, ir.Value]:
        """Return the weights of the losses as a positive and as a negative."""
        g = net.g
        with g.arithmetic():
            masks = [g.Cast(g.Equal(targets, value), to=targets.dtype) for value in (1.0, 0.0)]
            if counted is not None:
                masks = [mask * g.Cast(counted, to=targets.dtype) for mask in masks]
            positives, negatives = (_sum_of_samples(net, mask, keepdims=1) for mask in masks)
            both = g.Max(positives + negatives, 1.0)
            return masks[0] * (negatives / both), masks[1] * (positives / both)


@LAYERS.add
class FocalLoss(Loss):
    """Cross-entropy of sigmoids that fades where the score is right already (Lin et al. 2017), normalized.

    -alpha_t (1 - p_t)^gamma log p_t. Bottoms: scores and targets 0 or 1 of equal size; p_t is sigmoid(score) where the
    target is 1 and 1 - sigmoid(score) where it is 0, alpha_t is `alpha` or 1 - `alpha`. `normalization` as in L1Loss.

    Example: {type: FocalLoss, bottom: [scores, target]}
    """

    type: Literal["FocalLoss"] = "FocalLoss"
    gamma: float = Field(2.0, ge=0.0)
    """How fast the loss of right scores fades; 0: not at all."""
    alpha: float = Field(0.25, ge=0.0, le=1.0)
    """Weight of targets 1; that of targets 0 is 1 - alpha."""
    normalization: Normalization = "batch_size"
    """What the sum of losses is divided by."""

    activation: ClassVar[str | None] = "sigmoid"

    def lower(self, net: Context, *x: ir.Value) -> Mean:  # noqa: D102
        scores, targets = paired(net, *x)
        g = net.g
        with g.arithmetic():
            right = scores * (targets * 2.0 - 1.0)  # p_t = sigmoid(right)
            alpha = targets * (2.0 * self.alpha - 1.0) + (1.0 - self.alpha)
            # (1 - p_t)^gamma without a power, whose derivative at 0 is infinite for a gamma below 1
            losses = alpha * g.Exp(g.Softplus(right) * -self.gamma) * g.Softplus(-right)
        return normalized(net, losses, self.normalization)


@LAYERS.add
class DiceLoss(Loss):
    """1 - (2 sum p t + smooth) / (sum p^2 + sum t^2 + smooth) of each sample (Milletari et al. 2016), averaged.

    Bottoms: scores and targets in [0, 1] of equal size; p = sigmoid(scores). `smooth` defines the loss of a sample
    without any target.

    Example: {type: DiceLoss, bottom: [scores, target]}
    """

    type: Literal["DiceLoss"] = "DiceLoss"
    smooth: float = Field(1.0, gt=0.0)
    """Added above and below the fraction bar."""

    activation: ClassVar[str | None] = "sigmoid"

    def lower(self, net: Context, *x: ir.Value) -> Mean:  # noqa: D102
        scores, targets = paired(net, *x)
        with net.g.arithmetic():
            p = net.g.Sigmoid(scores)
            overlap = _sum_of_samples(net, p * targets) * 2.0 + self.smooth
            union = _sum_of_samples(net, p * p + targets * targets) + self.smooth
            return normalized(net, 1.0 - overlap / union, "batch_size")


@LAYERS.add
class KLDivergenceLoss(Loss):
    """The divergence of a softmax from target probabilities: sum t (log t - log softmax(scores)), averaged.

    Bottoms: scores [N, C] and targets [N, C], such as the Softmax of another path gives; 0 log 0 is 0.

    Example:
        - {name: teacher, type: Softmax, bottom: target}
        - {type: KLDivergenceLoss, bottom: [scores, teacher]}
    """

    type: Literal["KLDivergenceLoss"] = "KLDivergenceLoss"

    activation: ClassVar[str | None] = "logits"

    def lower(self, net: Context, *x: ir.Value) -> Mean:  # noqa: D102
        if len(shape_of(x[0])) != 2:
            raise LayerError(
                f"needs one score a class, got {sample(x[0])} a sample; put an InnerProduct before it", "bottom"
            )
        scores, targets = paired(net, *x)
        g = net.g
        with g.arithmetic():
            losses = targets * (g.Log(g.Clip(targets, 1e-30)) - g.LogSoftmax(scores, axis=1))
        return normalized(net, losses, "batch_size")


@LAYERS.add
class ContrastiveLoss(Loss):
    """Pulls pairs of similar samples together and pushes others `margin` apart (Hadsell et al. 2006), averaged.

    Bottoms: a and b of equal size, and a number a sample, 1 for a similar pair and 0 for another. With d the distance
    of a and b: y d^2 + (1 - y) max(0, margin - d)^2, or max(0, margin - d^2) with `legacy_version`, over 2 N.

    Example: {type: ContrastiveLoss, bottom: [scores, target, similar]}
    """

    type: Literal["ContrastiveLoss"] = "ContrastiveLoss"
    margin: float = Field(1.0, gt=0.0)
    """Distance from which samples that differ cost nothing."""
    legacy_version: bool = False
    """Whether the margin is compared with the squared distance, as in Caffe's first version."""

    min_bottoms: ClassVar[int] = 3
    max_bottoms: ClassVar[int | None] = 3

    def lower(self, net: Context, *x: ir.Value) -> Mean:  # noqa: D102
        g, (a, b) = net.g, paired(net, *x[:2])
        if math.prod(map(int, shape_of(x[2])[1:])) != 1:
            raise LayerError(
                f"needs one number a pair, 1 for similar and 0 for not, got {sample(x[2])} a sample; "
                "give an input of shape [1]",
                "bottom",
            )
        similar = g.Flatten(x[2], axis=1)
        with g.arithmetic():
            squared = _sum_of_samples(net, (a - b) * (a - b), keepdims=1)
            if self.legacy_version:
                apart = g.Relu(self.margin - squared)
            else:
                # The distance has no slope at 0: equal samples push each other nowhere.
                gap = g.Relu(self.margin - g.Sqrt(g.Clip(squared, 1e-12)))
                apart = gap * gap
            return normalized(net, (similar * squared + (1.0 - similar) * apart) * 0.5, "batch_size")
