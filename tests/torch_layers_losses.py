"""Twins of losses and metrics: the mean over a batch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from netc.layers import loss, metric, targets
from tests.torch_layers_base import Run, Tensor, twin

NOWHERE = -(2**30)  # a label that nothing has


def _divisor(by: str, samples: int, values: int, counted: int) -> float:
    """Return Caffe's normalizer: what counts, all values, samples, or nothing; never less than 1."""
    return max(1.0, {"valid": float(counted), "full": float(values), "batch_size": float(samples), "none": 1.0}[by])


def _rows(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores [N, C, ...] as a row [C] for each label, and the labels [N, ...] as a vector."""
    return scores.flatten(2).movedim(1, -1).reshape(
        -1, scores.shape[1]
    ) if scores.ndim > 2 else scores, labels.flatten().long()


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return true at each label; a label that is no class is nowhere."""
    return labels[:, None] == torch.arange(classes)


@twin(loss.SoftmaxWithLoss)
def softmax_with_loss(layer: loss.SoftmaxWithLoss, run: Run, x: Sequence[Tensor]) -> Tensor:
    ignored = NOWHERE if layer.ignore_label is None else layer.ignore_label
    rows, labels = _rows(*x)
    total = F.cross_entropy(
        rows,
        labels,
        weight=None if layer.class_weight is None else torch.tensor(layer.class_weight, dtype=x[0].dtype),
        ignore_index=ignored,
        reduction="sum",
        label_smoothing=layer.label_smoothing,
    )
    return total / _divisor(layer.normalization, len(x[0]), len(labels), int((labels != ignored).sum()))


@twin(loss.MultinomialLogisticLoss)
def multinomial_logistic(layer: loss.MultinomialLogisticLoss, run: Run, x: Sequence[Tensor]) -> Tensor:
    rows, labels = _rows(*x)
    own = rows.gather(1, labels[:, None])
    return -own.clamp(min=1e-20).log().sum() / len(x[0])


@twin(loss.InfogainLoss)
def infogain(layer: loss.InfogainLoss, run: Run, x: Sequence[Tensor]) -> Tensor:
    ignored = NOWHERE if layer.ignore_label is None else layer.ignore_label
    rows, labels = _rows(*x)
    counted = labels != ignored
    gain = torch.tensor(layer.matrix, dtype=rows.dtype)[labels[counted]]
    total = -(gain * torch.log_softmax(rows, 1)[counted]).sum()
    return total / _divisor(layer.normalization, len(x[0]), len(labels), int(counted.sum()))


@twin(loss.HingeLoss)
def hinge(layer: loss.HingeLoss, run: Run, x: Sequence[Tensor]) -> Tensor:
    rows, labels = _rows(*x)
    margin = torch.where(_one_hot(labels, rows.shape[1]), 1.0 - rows, 1.0 + rows)
    if layer.norm == "l1":
        run.kink(margin, 0.0)
    return margin.clamp(min=0.0).pow(2 if layer.norm == "l2" else 1).sum() / len(x[0])


@twin(targets.EuclideanLoss)
def euclidean(layer: targets.EuclideanLoss, run: Run, x: Sequence[Tensor]) -> Tensor:
    return ((x[0].flatten(1) - x[1].flatten(1)) ** 2).sum() / (2 * len(x[0]))


@twin(targets.L1Loss)
def l1(layer: targets.L1Loss, run: Run, x: Sequence[Tensor]) -> Tensor:
    difference = x[0].flatten(1) - x[1].flatten(1)
    run.kink(difference, 0.0)
    number = difference.numel()
    return difference.abs().sum() / _divisor(layer.normalization, len(x[0]), number, number)


@twin(targets.HuberLoss)
def huber(layer: targets.HuberLoss, run: Run, x: Sequence[Tensor]) -> Tensor:
    total = F.huber_loss(x[0].flatten(1), x[1].flatten(1), reduction="sum", delta=layer.delta)
    return total / _divisor(layer.normalization, len(x[0]), x[0].numel(), x[0].numel())


@twin(targets.SigmoidCrossEntropyLoss)
def sigmoid_cross_entropy(layer: targets.SigmoidCrossEntropyLoss, run: Run, x: Sequence[Tensor]) -> Tensor:
    scores, wanted = x[0].flatten(1), x[1].flatten(1)
    counted = torch.ones_like(wanted, dtype=torch.bool)
    if layer.ignore_label is not None:
        counted = wanted != layer.ignore_label
    weight = counted.to(scores.dtype)
    if layer.balanced:
        positive, negative = (wanted == 1) & counted, (wanted == 0) & counted
        share = negative.sum(1, keepdim=True) / (positive | negative).sum(1, keepdim=True).clamp(min=1)
        weight = positive * share + negative * (1.0 - share)
    total = F.binary_cross_entropy_with_logits(scores, wanted, weight.to(scores.dtype), reduction="sum")
    return total / _divisor(layer.normalization, len(scores), scores.numel(), int(counted.sum()))


@twin(targets.FocalLoss)
def focal(layer: targets.FocalLoss, run: Run, x: Sequence[Tensor]) -> Tensor:
    scores, on = x[0].flatten(1), x[1].flatten(1) == 1
    right = torch.where(on, scores, -scores)
    alpha = torch.where(on, layer.alpha, 1.0 - layer.alpha)
    total = -(alpha * torch.sigmoid(-right) ** layer.gamma * F.logsigmoid(right)).sum()
    return total / _divisor(layer.normalization, len(scores), scores.numel(), scores.numel())


@twin(targets.DiceLoss)
def dice(layer: targets.DiceLoss, run: Run, x: Sequence[Tensor]) -> Tensor:
    p, wanted = torch.sigmoid(x[0]).flatten(1), x[1].flatten(1)
    overlap = 2.0 * (p * wanted).sum(1) + layer.smooth
    return (1.0 - overlap / ((p**2).sum(1) + (wanted**2).sum(1) + layer.smooth)).mean()


@twin(targets.KLDivergenceLoss)
def kullback_leibler(layer: targets.KLDivergenceLoss, run: Run, x: Sequence[Tensor]) -> Tensor:
    return (torch.xlogy(x[1], x[1]) - x[1] * torch.log_softmax(x[0], 1)).sum() / len(x[0])


@twin(targets.ContrastiveLoss)
def contrastive(layer: targets.ContrastiveLoss, run: Run, x: Sequence[Tensor]) -> Tensor:
    squared, similar = ((x[0].flatten(1) - x[1].flatten(1)) ** 2).sum(1), x[2].flatten()
    if layer.legacy_version:
        run.kink(squared, layer.margin)
        apart = (layer.margin - squared).clamp(min=0.0)
    else:
        run.condition(x[0], squared.sqrt())
        apart = (layer.margin - squared.sqrt()).clamp(min=0.0) ** 2
    return (similar * squared + (1.0 - similar) * apart).sum() / (2 * len(squared))


@twin(metric.Accuracy)
def accuracy(layer: metric.Accuracy, run: Run, x: Sequence[Tensor]) -> Tensor:
    rows, labels = _rows(*x)
    own, hot = rows.gather(1, labels.clamp(0, rows.shape[1] - 1)[:, None]), _one_hot(labels, rows.shape[1])
    run.kink((rows - own)[~hot], 0.0)
    hits = ((rows >= own) & ~hot).sum(1) < layer.top_k
    counted = torch.ones_like(hits) if layer.ignore_label is None else labels != layer.ignore_label
    return (hits & counted).sum().to(rows.dtype) / max(1, int(counted.sum()))


@twin(metric.ConfusionMatrix, metric.ClassAccuracy, metric.MeanIoU)
def confusion(layer: metric.CountingMetric, run: Run, x: Sequence[Tensor]) -> Tensor:
    rows, labels = _rows(*x)
    run.ties(rows, 1)
    matrix = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.int64)
    for true, predicted in zip(labels.tolist(), rows.argmax(1).tolist(), strict=True):
        if true != layer.ignore_label and 0 <= true < len(matrix):
            matrix[true, predicted] += 1
    return matrix


@twin(metric.MeanAbsoluteError)
def mean_absolute_error(layer: metric.MeanAbsoluteError, run: Run, x: Sequence[Tensor]) -> Tensor:
    return (x[0].flatten(1) - x[1].flatten(1)).abs().mean()
