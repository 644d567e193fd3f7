"""Rows for losses and metrics."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from tests.cases.domains import BATCH, Domain, Shape, Tensor, Tensors, positive, separated
from tests.cases.layers import SCORES, Kind, LayerCase, Misfit

PAIR: dict[str, Kind] = {"image": (2, 3), "b": (2, 3)}


def loss(
    about: str,
    fields: dict[str, Any],
    oracle: Callable[[Tensors], Tensor],
    inputs: Mapping[str, Kind] = SCORES,
    domains: Mapping[str, Domain] | None = None,
    **more: Any,
) -> LayerCase:
    """Return the row of a loss of all inputs."""
    layers = [{"name": "it", "bottom": list(inputs), **fields}]
    domains = domains or {}
    return LayerCase(
        fields["type"], about, layers, dict(inputs), None, lambda t, train: oracle(t), domains=domains, **more
    )


def unit(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw from [0, 1)."""
    return rng.uniform(0.0, 1.0, shape)


def binary(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw 0 and 1."""
    return rng.integers(0, 2, shape).astype(np.float64)


def far(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw scores at which exp overflows or vanishes."""
    return 1000 * separated(rng, shape)


def spread(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return values on both sides of 1 and -1, and of 0, none of them near."""
    return 7.3 * separated(rng, shape)


def mixed(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw 0, 1 and what is neither."""
    return rng.choice([0.0, 1.0, 0.3], shape)


def one_ignored(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return labels of which exactly one is 2."""
    return np.array([2, *[0, 1] * shape[0]])[: shape[0]]


CLASS_WEIGHT = [0.5, 2.0, 0.0, 1.5]
MATRIX = [[1.0, 0.2, 0.0, 0.1], [0.0, 2.0, 0.3, 0.0], [0.5, 0.0, 1.0, 0.0], [0.0, 0.0, 0.7, 0.4]]


def softmax(about: str, fields: dict[str, Any], divisor: Callable[[float], float]) -> LayerCase:
    """Return a row of SoftmaxWithLoss; `divisor` maps the number of labels that count to the normalizer."""
    declared = {"type": "SoftmaxWithLoss", **fields}
    weight = torch.tensor(fields["class_weight"], dtype=torch.float64) if "class_weight" in fields else None

    def normalizer(t: Tensors) -> float:
        return divisor(float((t["label"] != fields.get("ignore_label", -1)).sum()))

    def oracle(t: Tensors) -> Tensor:
        total = F.cross_entropy(
            t["image"],
            t["label"],
            weight=weight,
            ignore_index=fields.get("ignore_label", -1),
            reduction="sum",
            label_smoothing=fields.get("label_smoothing", 0.0),
        )
        return total / max(1.0, normalizer(t))

    domains = {"label": one_ignored} if "ignore_label" in fields else {}
    return loss(about, declared, oracle, SCORES, domains, weight=normalizer)


def infogain(t: Tensors) -> Tensor:
    """Sum H[label, k] times -log p_k."""
    gain = torch.tensor(MATRIX, dtype=torch.float64)[t["label"].long()]
    return -(gain * torch.log_softmax(t["image"], 1)).sum() / BATCH


def hinge(power: int) -> Callable[[Tensors], Tensor]:
    """Return the oracle of one class against all others."""

    def oracle(t: Tensors) -> Tensor:
        sign = 2.0 * F.one_hot(t["label"].long(), 4) - 1.0
        return torch.relu(1.0 - sign * t["image"]).pow(power).sum() / BATCH

    return oracle


def sigmoid(about: str, fields: dict[str, Any], divisor: float, **domains: Domain) -> LayerCase:
    """Return a row of SigmoidCrossEntropyLoss."""
    return loss(
        about,
        {"type": "SigmoidCrossEntropyLoss", **fields},
        lambda t: F.binary_cross_entropy_with_logits(t["image"], t["b"], reduction="sum") / divisor,
        PAIR,
        {"b": unit, **domains},
        weight=lambda t: divisor,
    )


def balanced(t: Tensors) -> Tensor:
    """Weigh positives by the share of negatives, image by image, as HED does."""
    total = torch.zeros(())
    for x, y in zip(t["image"], t["b"], strict=True):
        positives, negatives = (y == 1).sum(), (y == 0).sum()
        share = negatives / (positives + negatives)
        total = total + share * F.softplus(-x[y == 1]).sum() + (1 - share) * F.softplus(x[y == 0]).sum()
    return total / BATCH


def focal(gamma: float, alpha: float) -> Callable[[Tensors], Tensor]:
    """Return the oracle of the paper's formula."""

    def oracle(t: Tensors) -> Tensor:
        p, y = torch.sigmoid(t["image"]), t["b"]
        right = torch.where(y == 1, p, 1 - p)
        return -(torch.where(y == 1, alpha, 1 - alpha) * (1 - right) ** gamma * right.log()).sum() / BATCH

    return oracle


def dice(t: Tensors) -> Tensor:
    """Return one minus the overlap of each sample."""
    p, y = torch.sigmoid(t["image"]).flatten(1), t["b"].flatten(1)
    return (1 - (2 * (p * y).sum(1) + 1) / ((p * p).sum(1) + (y * y).sum(1) + 1)).mean()


def contrastive(margin: float, legacy: bool) -> Callable[[Tensors], Tensor]:
    """Return Caffe's formula."""

    def oracle(t: Tensors) -> Tensor:
        squared = ((t["image"] - t["b"]) ** 2).flatten(1).sum(1)
        apart = torch.relu(margin - squared) if legacy else torch.relu(margin - squared.sqrt()) ** 2
        return (t["similar"][:, 0] * squared + (1 - t["similar"][:, 0]) * apart).sum() / (2 * BATCH)

    return oracle


TRIPLE: dict[str, Kind] = {"image": (4,), "b": (4,), "similar": (1,)}


def accuracy_ignoring(t: Tensors) -> Tensor:
    """Return the share of hits among the labels other than 2."""
    counted = t["label"] != 2
    return (t["image"].argmax(1) == t["label"])[counted].double().mean()


LOSS_CASES: list[LayerCase] = [
    softmax("smoothed", {"label_smoothing": 0.1}, lambda n: n),
    softmax("weighted", {"class_weight": CLASS_WEIGHT}, lambda n: n),
    softmax("weighted, smoothed", {"class_weight": CLASS_WEIGHT, "label_smoothing": 0.3}, lambda n: n),
    softmax("ignoring", {"ignore_label": 2}, lambda n: n),
    softmax("ignoring, smoothed", {"ignore_label": 2, "label_smoothing": 0.1}, lambda n: n),
    softmax("ignoring, full", {"ignore_label": 2, "normalization": "full"}, lambda n: BATCH),
    softmax("batch_size", {"ignore_label": 2, "normalization": "batch_size"}, lambda n: BATCH),
    softmax("none", {"normalization": "none"}, lambda n: 1.0),
    loss(
        "all ignored",
        {"type": "SoftmaxWithLoss", "ignore_label": 2},
        lambda t: 0.0 * t["image"].sum(),
        domains={"label": lambda rng, shape: np.full(shape, 2)},
        weight=lambda t: 0.0,
    ),
    loss(
        "",
        {"type": "MultinomialLogisticLoss"},
        lambda t: -t["image"].gather(1, t["label"].long()[:, None]).log().sum() / BATCH,
        domains={"image": positive},
    ),
    loss(
        "clamped",
        {"type": "MultinomialLogisticLoss"},
        lambda t: 0.0 * t["image"].sum() - np.log(1e-20),
        domains={"image": lambda rng, shape: np.zeros(shape)},
        smooth=False,
    ),
    loss("", {"type": "InfogainLoss", "matrix": MATRIX}, infogain),
    loss("", {"type": "HingeLoss"}, hinge(1), domains={"image": spread}),
    loss("squared", {"type": "HingeLoss", "norm": "l2"}, hinge(2), domains={"image": spread}),
    sigmoid("", {}, BATCH),
    sigmoid("large scores", {}, BATCH, image=far, b=binary),
    sigmoid("full", {"normalization": "full"}, BATCH * 6),
    sigmoid("none", {"normalization": "none"}, 1.0),
    loss(
        "ignoring",
        {"type": "SigmoidCrossEntropyLoss", "ignore_label": 1, "normalization": "valid"},
        lambda t: F.softplus(t["image"][t["b"] == 0]).mean(),
        PAIR,
        {"b": binary},
        weight=lambda t: float((t["b"] == 0).sum()),
        fixed=("b",),
    ),
    loss(
        "balanced",
        {"type": "SigmoidCrossEntropyLoss", "balanced": True},
        balanced,
        {"image": (3, 5), "b": (3, 5)},
        {"b": mixed},
        fixed=("b",),
    ),
    loss("", {"type": "FocalLoss"}, focal(2.0, 0.25), PAIR, {"b": binary}, fixed=("b",)),
    loss(
        "sharp", {"type": "FocalLoss", "gamma": 0.5, "alpha": 0.6}, focal(0.5, 0.6), PAIR, {"b": binary}, fixed=("b",)
    ),
    loss("", {"type": "DiceLoss"}, dice, PAIR, {"b": unit}),
    loss(
        "",
        {"type": "KLDivergenceLoss"},
        lambda t: (t["b"] * (t["b"].log() - torch.log_softmax(t["image"], 1))).sum() / BATCH,
        {"image": (4,), "b": (4,)},
        {"b": positive},
    ),
    loss(
        "",
        {"type": "L1Loss"},
        lambda t: (t["image"] - t["b"]).abs().sum() / BATCH,
        PAIR,
        {"image": positive, "b": separated},
    ),
    loss(
        "full",
        {"type": "L1Loss", "normalization": "full"},
        lambda t: F.l1_loss(t["image"], t["b"]),
        PAIR,
        {"image": positive, "b": separated},
        weight=lambda t: BATCH * 6,
    ),
    loss("", {"type": "HuberLoss"}, lambda t: F.huber_loss(t["image"], t["b"], reduction="sum") / BATCH, PAIR),
    loss(
        "narrow",
        {"type": "HuberLoss", "delta": 0.3, "normalization": "full"},
        lambda t: F.huber_loss(t["image"], t["b"], delta=0.3),
        PAIR,
        weight=lambda t: BATCH * 6,
    ),
    loss(
        "",
        {"type": "ContrastiveLoss", "margin": 4.0},
        contrastive(4.0, False),
        TRIPLE,
        {"similar": unit},
    ),
    loss(
        "legacy",
        {"type": "ContrastiveLoss", "margin": 20.0, "legacy_version": True},
        contrastive(20.0, True),
        TRIPLE,
        {"similar": unit},
    ),
    LayerCase(
        "Accuracy",
        "ignoring",
        [{"name": "it", "type": "Accuracy", "ignore_label": 2}],
        SCORES,
        None,
        lambda t, train: accuracy_ignoring(t),
        domains={"image": separated, "label": one_ignored},
        smooth=False,
        weight=lambda t: float((t["label"] != 2).sum()),
    ),
    LayerCase(
        "MeanAbsoluteError",
        "",
        [
            {"name": "objective", "type": "EuclideanLoss", "bottom": ["image", "b"]},
            {"name": "it", "type": "MeanAbsoluteError", "bottom": ["image", "b"]},
        ],
        PAIR,
        None,
        lambda t, train: (t["image"] - t["b"]).abs().mean(),
        smooth=False,
        objective=lambda t, train: ((t["image"] - t["b"]) ** 2).sum() / (2 * BATCH),
    ),
]

LOSS_MISFITS: list[Misfit] = [
    ({"type": "EuclideanLoss", "bottom": ["image", "b"]}, {"image": (4,), "b": (5,)}, "4 and 5"),
    ({"type": "SoftmaxWithLoss"}, {"image": (4, 2), "label": 4}, "4x2"),
    ({"type": "Accuracy", "top_k": 5}, SCORES, "top_k 5"),
    ({"type": "SoftmaxWithLoss", "class_weight": [1.0, 2.0]}, SCORES, "2 numbers for 4 scores"),
    ({"type": "InfogainLoss", "matrix": [[1.0, 0.0], [0.0]]}, SCORES, "2 rows of 2, 1 numbers for 4 scores"),
    ({"type": "KLDivergenceLoss", "bottom": ["image", "b"]}, {"image": (4, 2), "b": (8,)}, "4x2"),
    ({"type": "ContrastiveLoss", "bottom": ["image", "b", "image"]}, {"image": (4,), "b": (4,)}, "one number a pair"),
]
