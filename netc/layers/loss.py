"""Losses of class scores against labels: the means that training minimises."""

from typing import Annotated, ClassVar, Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field

from netc.graph import shape_of
from netc.layers.base import LAYERS, LayerError, Loss, Mean, elements, sample
from netc.layers.context import Context
from netc.layers.shapes import reshape

MAX_CLASSES = 2**24  # beyond, float32 cannot tell neighbouring indices apart

# What a sum of losses is divided by, at least 1: the values that are not ignored, all values, samples, or nothing.
Normalization = Literal["valid", "full", "batch_size", "none"]
Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]

# Labels with this value count nothing; it need not be one of the classes, as 255 in many sets.
IgnoredLabel = Annotated[int | None, Field(gt=-MAX_CLASSES, lt=MAX_CLASSES)]

_CLASSES = np.array([1], np.int64)  # the axis of the classes in scores [N, C, ...]


def scored(net: Context, scores: ir.Value, labels: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return scores [N, C, ...] and the labels [N, ...] in the shape of the scores without their classes.

    Raises:
        LayerError: there is not one label for each place that has scores, or the scores are too many.
    """
    have, want = [int(n) for n in shape_of(labels)[1:]], [int(n) for n in shape_of(scores)[2:]]
    if len(shape_of(scores)) < 2 or (elements(want) > 1 and not have):
        dense = f", or give the labels their shape, {want}" if want else ""
        raise LayerError(
            f"needs one score a class, got {sample(scores)} a sample; put an InnerProduct before it{dense}", "bottom"
        )
    if elements(have) != elements(want):
        raise LayerError(
            f"scores {sample(scores)} a sample are for {elements(want):,} labels, got {sample(labels)} of them; give "
            "scores [C, ...] and labels [...] of one size",
            "bottom",
        )
    if int(shape_of(scores)[1]) > MAX_CLASSES:
        raise LayerError(f"{shape_of(scores)[1]} scores a sample are more than the {MAX_CLASSES:,} supported", "bottom")
    return scores, labels if have == want else reshape(net.g, labels, [0, *want])


def class_mask(net: Context, scores: ir.Value, labels: ir.Value) -> ir.Value:
    """Return true at the class of each label [N, ...] and false elsewhere, in the shape [N, C, ...] of the scores."""
    classes = np.arange(int(shape_of(scores)[1]), dtype=np.int32)
    return net.g.Equal(net.g.Unsqueeze(labels, _CLASSES), _along_classes(scores, classes))


def _along_classes(scores: ir.Value, values: np.ndarray) -> np.ndarray:
    """View one number a class [C] so that it lies along the classes of scores [N, C, ...]."""
    return values.reshape([-1] + [1] * (len(shape_of(scores)) - 2))


def not_ignored(net: Context, labels: ir.Value, ignore_label: int | None) -> ir.Value | None:
    """Return true where a label, or a target, counts; None where all do."""
    if ignore_label is None:
        return None
    unwanted = net.g.constant(ignore_label, labels.dtype)
    return net.g.Not(net.g.Equal(labels, unwanted))


def normalized(net: Context, losses: ir.Value, by: Normalization, counted: ir.Value | None = None) -> Mean:
    """Sum the losses of a batch [N, ...], one a value, where they are `counted`, and divide: see `divided`."""
    if counted is not None:
        losses = net.g.Where(counted, losses, net.zero())
    return divided(net, net.g.ReduceSum(losses, keepdims=0), losses, by, counted)


def divided(
    net: Context, total: ir.Value, values: ir.Value, by: Normalization, counted: ir.Value | None = None
) -> Mean:
    """Divide a sum of losses by the normalizer, which is also the weight of the mean.

    Args:
        net: the network.
        total: the sum of the losses that count.
        values: the labels or values [N, ...] that have a loss each.
        by: what to divide by; where nothing counts, the mean is 0 and weighs nothing.
        counted: where a loss counts; None: everywhere.
    """
    g = net.g
    if by == "none":
        return Mean(total, g.constant(1.0))
    with g.arithmetic():
        if by == "valid" and counted is not None:
            weight = g.ReduceSum(g.Cast(counted, to=g.dtype), keepdims=0)
            return Mean(total / g.Max(weight, 1.0), weight)
        weight = net.batch_count(values)
        inner = elements(shape_of(values)[1:])
        if by != "batch_size" and inner != 1:
            weight = weight * float(inner)
        return Mean(total / weight, weight)


def _per_class(net: Context, values: list[float], scores: ir.Value, field: str) -> ir.Value:
    """Return a constant of one number a class that lies along the classes of scores [N, C, ...].

    Raises:
        LayerError: there are more or fewer numbers than scores.
    """
    if len(values) != shape_of(scores)[1]:
        raise LayerError(
            f"{field}: {len(values)} numbers for {shape_of(scores)[1]} scores a sample; give one a class", field
        )
    return net.g.constant(_along_classes(scores, np.array(values)), scores.dtype)


@LAYERS.add
class SoftmaxWithLoss(Loss):
    """Cross-entropy of the softmax of the scores: -sum_k w_k t_k log p_k over the labels that count, normalized.

    Bottoms: scores [N, C] and labels [N], or scores [N, C, ...] and dense labels [N, ...], as in segmentation.
    Computed from log-softmax, so that no score is too large for it.
    t is 1 at the label and 0 elsewhere; with `label_smoothing` s it is (1 - s) t + s / C (Szegedy et al. 2016). w is
    `class_weight`, 1 without it; it changes no normalizer. Labels equal to `ignore_label` add nothing. `normalization`
    divides by the labels that count (`valid`), all labels (`full`), samples (`batch_size`) or 1 (`none`), as in Caffe.

    Example: {type: SoftmaxWithLoss, bottom: [scores, label], label_smoothing: 0.1}
    """

    type: Literal["SoftmaxWithLoss"] = "SoftmaxWithLoss"
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of the target that is spread over all classes."""
    class_weight: list[Weight] | None = None
    """Factor of each class, one number a class."""
    ignore_label: IgnoredLabel = None
    """Label that adds nothing; it need not be a class."""
    normalization: Normalization = "valid"
    """What the sum of losses is divided by."""

    takes_labels: ClassVar[bool] = True
    activation: ClassVar[str | None] = "logits"

    def lower(self, net: Context, *x: ir.Value) -> Mean:  # noqa: D102
        scores, labels = scored(net, *x)
        g, smoothing = net.g, self.label_smoothing
        mask = class_mask(net, scores, labels)
        with g.arithmetic():
            logs = g.LogSoftmax(scores, axis=1)
            if self.class_weight is not None:
                logs = logs * _per_class(net, self.class_weight, scores, "class_weight")
            # Selected, not multiplied by 0 and 1: the score of another class may be -inf.
            picked = g.Where(mask, logs * (1.0 - smoothing) if smoothing else logs, net.zero())
            if smoothing:
                picked = picked + logs * (smoothing / int(shape_of(scores)[1]))
            counted = not_ignored(net, labels, self.ignore_label)
            if counted is not None:
                picked = g.Where(g.Unsqueeze(counted, _CLASSES), picked, net.zero())
            total = -g.ReduceSum(picked, keepdims=0)
        return divided(net, total, labels, self.normalization, counted)


@LAYERS.add
class MultinomialLogisticLoss(Loss):
    """Cross-entropy of probabilities: -log max(p(label), 1e-20), averaged over the batch.

    Bottoms: probabilities [N, C, ...], such as a Softmax gives, and labels [N, ...]. The gradient is 0 below 1e-20.
    Prefer SoftmaxWithLoss, which takes the scores themselves and is exact for all of them.

    Example:
        - {name: probabilities, type: Softmax}
        - {type: MultinomialLogisticLoss, bottom: [probabilities, label]}
    """

    type: Literal["MultinomialLogisticLoss"] = "MultinomialLogisticLoss"

    takes_labels: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> Mean:  # noqa: D102
        probabilities, labels = scored(net, *x)
        g = net.g
        picked = g.Where(class_mask(net, probabilities, labels), probabilities, net.zero())
        own = g.ReduceSum(picked, _CLASSES, keepdims=0)
        return normalized(net, g.Neg(g.Log(g.Clip(own, 1e-20))), "batch_size")


@LAYERS.add
class InfogainLoss(Loss):
    """Cross-entropy that weighs mistakes: -sum_k H[label, k] log p_k over the labels that count, normalized.

    Bottoms: scores [N, C, ...] and labels [N, ...]; p is the softmax of the scores, as in Caffe since 2016. `matrix` is
    H, a row for each label; the identity gives SoftmaxWithLoss. `ignore_label` and `normalization` are as there.

    Example:
        - {name: finding, type: InnerProduct, num_output: 2}
        - {type: InfogainLoss, bottom: [finding, sick], matrix: [[1.0, 0.0], [0.0, 5.0]]}
    """

    type: Literal["InfogainLoss"] = "InfogainLoss"
    matrix: list[list[Weight]]
    """H: a row for each label, with a weight for each class."""
    ignore_label: IgnoredLabel = None
    """Label that adds nothing; it need not be a class."""
    normalization: Normalization = "valid"
    """What the sum of losses is divided by."""

    takes_labels: ClassVar[bool] = True
    activation: ClassVar[str | None] = "logits"

    def lower(self, net: Context, *x: ir.Value) -> Mean:  # noqa: D102
        scores, labels = scored(net, *x)
        g, classes = net.g, shape_of(scores)[1]
        mask = class_mask(net, scores, labels)
        sizes = {len(self.matrix), *map(len, self.matrix)}
        if sizes != {classes}:
            rows = ", ".join(str(len(row)) for row in self.matrix[:8])
            raise LayerError(
                f"matrix: {len(self.matrix)} rows of {rows} numbers for {classes} scores a sample; "
                f"give {classes} rows of {classes}",
                "matrix",
            )
        # Classes last for the product with the matrix, and back.
        axes = range(len(shape_of(scores)))
        truth = g.Transpose(g.Cast(mask, to=scores.dtype), perm=[0, *axes[2:], 1])
        gain = g.MatMul(truth, g.constant(np.array(self.matrix), scores.dtype))
        weighted = g.Mul(g.Transpose(gain, perm=[0, axes[-1], *axes[1:-1]]), g.LogSoftmax(scores, axis=1))
        losses = g.Neg(g.ReduceSum(weighted, _CLASSES, keepdims=0))
        return normalized(net, losses, self.normalization, not_ignored(net, labels, self.ignore_label))


@LAYERS.add
class HingeLoss(Loss):
    """One against all others: the sum over all classes, and places, of max(0, 1 - t x), averaged over the batch.

    Bottoms: scores [N, C, ...] and labels [N, ...]; t is 1 at the label and -1 elsewhere. `norm: l2` squares each
    margin, as deeply-supervised nets do. No factor 1/2, as in Caffe.

    Example: {type: HingeLoss, bottom: [scores, label], norm: l2}
    """

    type: Literal["HingeLoss"] = "HingeLoss"
    norm: Literal["l1", "l2"] = "l1"
    """Whether margins count as they are or squared."""

    takes_labels: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> Mean:  # noqa: D102
        scores, labels = scored(net, *x)
        g = net.g
        with g.arithmetic():
            sign = g.Cast(class_mask(net, scores, labels), to=scores.dtype) * 2.0 - 1.0
            margin = g.Relu(1.0 - sign * scores)
            return normalized(net, margin * margin if self.norm == "l2" else margin, "batch_size")
