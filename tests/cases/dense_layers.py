"""Rows for losses and metrics with a label at every place, as in segmentation."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from tests.cases.domains import BATCH, Domain, Shape, Tensor, Tensors, positive, separated
from tests.cases.layers import Kind, LayerCase
from tests.cases.loss_layers import CLASS_WEIGHT, MATRIX, loss, spread

PLACES = (3, 2)
VOID = 255  # a label that is no class
DENSE: dict[str, Kind] = {"image": (4, *PLACES), "label": {"classes": 4, "shape": list(PLACES)}}


def some_void(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return labels of four classes, and void in every fifth place."""
    labels = rng.integers(0, 4, shape)
    labels.reshape(-1)[::5] = VOID
    return labels


def softmax(about: str, fields: Mapping[str, Any], divisor: Callable[[float], float]) -> LayerCase:
    """Return a row of SoftmaxWithLoss; `divisor` maps the number of labels that count to the normalizer."""
    ignored = fields.get("ignore_label", -1)
    weight = torch.tensor(fields["class_weight"], dtype=torch.float64) if "class_weight" in fields else None

    def normalizer(t: Tensors) -> float:
        return divisor(float((t["label"] != ignored).sum()))

    def oracle(t: Tensors) -> Tensor:
        smoothing = fields.get("label_smoothing", 0.0)
        options: dict[str, Any] = {"weight": weight, "ignore_index": ignored, "label_smoothing": smoothing}
        return F.cross_entropy(t["image"], t["label"], reduction="sum", **options) / max(1.0, normalizer(t))

    domains: dict[str, Domain] = {"label": some_void} if ignored == VOID else {}
    return loss(about, {"type": "SoftmaxWithLoss", **fields}, oracle, DENSE, domains, weight=normalizer)


def infogain(t: Tensors) -> Tensor:
    """Sum H[label, k] times -log p_k over all places."""
    gain = torch.tensor(MATRIX, dtype=torch.float64)[t["label"].long()].movedim(-1, 1)
    return -(gain * torch.log_softmax(t["image"], 1)).sum() / t["label"].numel()


def hinge(t: Tensors) -> Tensor:
    """Sum the margins of one class against all others over all places."""
    sign = 2.0 * F.one_hot(t["label"].long(), 4).movedim(-1, 1) - 1.0
    return torch.relu(1.0 - sign * t["image"]).square().sum() / BATCH


def accuracy(t: Tensors, train: bool) -> Tensor:
    """Count the places, less the void ones, where the label has the highest score."""
    right, count = 0, 0
    for scores, labels in zip(t["image"], t["label"], strict=True):
        for row in range(PLACES[0]):
            for column in range(PLACES[1]):
                label = int(labels[row, column])
                right += int(label != VOID and int(scores[:, row, column].argmax()) == label)
                count += int(label != VOID)
    return torch.tensor(right / count)


DENSE_CASES: list[LayerCase] = [
    softmax("dense", {}, lambda counted: BATCH * 6),
    softmax("dense, void", {"ignore_label": VOID}, lambda counted: counted),
    softmax("dense, void, full", {"ignore_label": VOID, "normalization": "full"}, lambda counted: BATCH * 6),
    softmax("dense, samples", {"normalization": "batch_size"}, lambda counted: BATCH),
    softmax("dense, class weights", {"class_weight": CLASS_WEIGHT}, lambda counted: BATCH * 6),
    softmax("dense, void, smoothed", {"ignore_label": VOID, "label_smoothing": 0.3}, lambda counted: counted),
    loss(
        "labels with a channel",
        {"type": "SoftmaxWithLoss"},
        lambda t: F.cross_entropy(t["image"], t["label"].squeeze(1)),
        {"image": (4, *PLACES), "label": {"classes": 4, "shape": [1, *PLACES]}},
        weight=lambda t: BATCH * 6,
    ),
    loss(
        "scores of one place",
        {"type": "SoftmaxWithLoss"},
        lambda t: F.cross_entropy(t["image"].flatten(1), t["label"]),
        {"image": (4, 1, 1), "label": 4},
    ),
    loss("dense", {"type": "InfogainLoss", "matrix": MATRIX}, infogain, DENSE, weight=lambda t: BATCH * 6),
    loss("dense", {"type": "HingeLoss", "norm": "l2"}, hinge, DENSE, {"image": spread}),
    loss(
        "dense",
        {"type": "MultinomialLogisticLoss"},
        lambda t: F.nll_loss(t["image"].log(), t["label"], reduction="sum") / BATCH,
        DENSE,
        {"image": positive},
    ),
    LayerCase(
        "Accuracy",
        "dense, void",
        [
            {"name": "objective", "type": "SoftmaxWithLoss", "ignore_label": VOID},
            {"name": "it", "type": "Accuracy", "ignore_label": VOID, "bottom": ["image", "label"]},
        ],
        DENSE,
        None,
        accuracy,
        domains={"image": separated, "label": some_void},
        smooth=False,
        weight=lambda t: float((t["label"] != VOID).sum()),
        objective=lambda t, train: F.cross_entropy(t["image"], t["label"], ignore_index=VOID),
    ),
]

# A declaration, its inputs, and a piece of the sentence that refuses it.
DENSE_MISFITS: list[tuple[dict[str, Any], dict[str, Kind], str]] = [
    ({"type": "SoftmaxWithLoss"}, {"image": (4, 3, 2), "label": 4}, "needs one score a class, got 4x3x2"),
    (
        {"type": "SoftmaxWithLoss"},
        {"image": (4, 3, 2), "label": {"classes": 4, "shape": [3, 3]}},
        "scores 4x3x2 a sample are for 6 labels, got 3x3 of them",
    ),
    (
        {"type": "Accuracy"},
        {"image": (4,), "label": {"classes": 4, "shape": [3, 3]}},
        "scores 4 a sample are for 1 labels, got 3x3",
    ),
    ({"type": "SoftmaxWithLoss", "class_weight": [1.0]}, DENSE, "class_weight: 1 numbers for 4 scores"),
]
