"""Rows for the layers, as a spec declares them, with their oracle."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from tests.cases.domains import BATCH, SEED, STEP, Domain, Shape, Tensor, Tensors, separated, ties
from tests.numpy_rng import keep_mask

Oracle = Callable[[Tensors, bool], Tensor]
# A layer that does not fit its bottoms, these, and a word of what is said; the sentences themselves are not at stake.
Misfit = tuple[dict[str, Any], dict[str, Any], str]
Kind = Shape | int | Mapping[str, Any]  # of an input: its sample shape, the number of classes, or the whole declaration


@dataclass(frozen=True)
class LayerCase:
    """The last of `layers` under test: `inputs` by sample shape (an int: a label of so many classes), see `Kind`.

    The oracle maps inputs and state, and whether it is the train phase, to the layer's top, loss or metric. `top` is
    the shape of a sample of the top, None for a loss or metric. The oracle of statistics gives their next values.
    """

    type: str
    about: str
    layers: list[dict[str, Any]]
    inputs: Mapping[str, Kind]
    top: Shape | None
    oracle: Oracle
    statistics: Callable[[Tensors], Tensors] | None = None
    domains: Mapping[str, Domain] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    smooth: bool = True
    weight: Callable[[Tensors], float] = lambda t: BATCH  # of a loss's or metric's mean
    fixed: tuple[str, ...] = ()  # inputs that the oracle chooses by, so that it has no slope along them
    objective: Oracle | None = None  # where the layer under test is a metric behind a loss

    @property
    def id(self) -> str:
        """Return the name of the test."""
        return f"{self.type}-{self.about}" if self.about else self.type


IMAGE: dict[str, Kind] = {"image": (2, 6, 5)}
SCORES: dict[str, Kind] = {"image": (4,), "label": 4}


def layer(
    about: str,
    declared: dict[str, Any],
    top: Shape,
    oracle: Oracle,
    inputs: Mapping[str, Kind] = IMAGE,
    **more: Any,
) -> LayerCase:
    """Return the row of one layer with a top, called `it`."""
    return LayerCase(declared["type"], about, [{"name": "it", **declared}], dict(inputs), top, oracle, **more)


def _batch_norm(t: Tensors, train: bool, eps: float = 1e-5) -> Tensor:
    mean, var = t["it.running_mean"].clone(), t["it.running_var"].clone()
    return F.batch_norm(t["image"], mean, var, t["it.weight"], t["it.bias"], training=train, eps=eps)


def running(fraction: float) -> Callable[[Tensors], Tensors]:
    """Return the oracle of BatchNorm's running values: design section 5, with the unbiased variance m / (m - 1)."""

    def oracle(t: Tensors) -> Tensors:
        x = t["image"].transpose(0, 1).flatten(1)
        batch = {"it.running_mean": x.mean(1), "it.running_var": x.var(1, unbiased=True)}
        return {name: fraction * t[name] + (1 - fraction) * value for name, value in batch.items()}

    return oracle


def dropout(about: str, shape: Shape, ratio: float | None) -> LayerCase:
    """Return a row of Dropout: inverted, with the masks of the numpy twin of the hash."""
    given = {} if ratio is None else {"dropout_ratio": ratio}

    def oracle(t: Tensors, train: bool) -> Tensor:
        p = 0.5 if ratio is None else ratio
        mask = torch.from_numpy(keep_mask(SEED, STEP, "it", (BATCH, *shape), p))
        return t["image"] * mask / (1 - p) if train else t["image"]

    return layer(about, {"type": "Dropout", **given}, shape, oracle, {"image": shape})


def _nan_scores(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return scores of which one sample is NaN altogether and one in its first class."""
    scores = separated(rng, shape)
    scores[0], scores[1, 0] = np.nan, np.nan
    return scores


def accuracy(about: str, top_k: int, domain: Domain) -> LayerCase:
    """Return a row of Accuracy: fewer than k other scores reach the own; ties lose, and any NaN."""

    def oracle(t: Tensors, train: bool) -> Tensor:
        scores, label = t["image"].detach().numpy(), t["label"].numpy()
        hits = []
        for row, k in zip(scores, label, strict=True):
            rivals = sum(bool(other >= row[k]) for i, other in enumerate(row) if i != k)
            hits.append(not np.isnan(row).any() and rivals < top_k)
        return torch.tensor(np.mean(hits))

    tested = {"name": "it", "type": "Accuracy", "top_k": top_k}
    return LayerCase("Accuracy", about, [tested], SCORES, None, oracle, domains={"image": domain}, smooth=False)


LAYER_CASES: list[LayerCase] = [
    layer("", {"type": "ReLU"}, (2, 6, 5), lambda t, train: torch.relu(t["image"]), domains={"image": separated}),
    layer(
        "at zero",
        {"type": "ReLU"},
        (2, 6, 5),
        lambda t, train: torch.relu(t["image"]),
        domains={"image": ties},
        smooth=False,
    ),
    layer("", {"type": "Sigmoid"}, (2, 6, 5), lambda t, train: torch.sigmoid(t["image"])),
    layer("", {"type": "TanH"}, (2, 6, 5), lambda t, train: torch.tanh(t["image"])),
    layer("channels", {"type": "Softmax"}, (2, 6, 5), lambda t, train: torch.softmax(t["image"], 1)),
    layer("last axis", {"type": "Softmax", "axis": -1}, (2, 6, 5), lambda t, train: torch.softmax(t["image"], 3)),
    layer("4-D", {"type": "BatchNorm"}, (2, 6, 5), _batch_norm, statistics=running(0.9)),
    layer(
        "2-D, other fraction and eps",
        {"type": "BatchNorm", "moving_average_fraction": 0.5, "eps": 0.01},
        (4,),
        lambda t, train: _batch_norm(t, train, 0.01),
        {"image": (4,)},
        statistics=running(0.5),
    ),
    dropout("", (4, 5, 5), None),
    dropout("of a vector, rare", (40,), 0.1),
    dropout("frequent", (40,), 0.9),
    dropout("ratio 0", (5,), 0.0),
    layer(
        "",
        {"type": "Eltwise", "bottom": ["image", "b", "image"]},
        (2, 3),
        lambda t, train: 2 * t["image"] + t["b"],
        {"image": (2, 3), "b": (2, 3)},
    ),
    layer(
        "channels",
        {"type": "Concat", "bottom": ["image", "b"]},
        (5, 3),
        lambda t, train: torch.cat([t["image"], t["b"]], 1),
        {"image": (2, 3), "b": (3, 3)},
    ),
    layer(
        "last axis",
        {"type": "Concat", "bottom": ["image", "b"], "axis": -1},
        (2, 7),
        lambda t, train: torch.cat([t["image"], t["b"]], 2),
        {"image": (2, 3), "b": (2, 4)},
    ),
    layer("", {"type": "Flatten"}, (60,), lambda t, train: t["image"].flatten(1)),
    LayerCase(
        "SoftmaxWithLoss",
        "",
        [{"name": "it", "type": "SoftmaxWithLoss"}],
        SCORES,
        None,
        lambda t, train: F.cross_entropy(t["image"], t["label"]),
    ),
    LayerCase(
        "SoftmaxWithLoss",
        "large scores",
        [{"name": "it", "type": "SoftmaxWithLoss"}],
        SCORES,
        None,
        lambda t, train: F.cross_entropy(t["image"], t["label"]),
        domains={"image": lambda rng, shape: 1000 * separated(rng, shape)},
    ),
    LayerCase(
        "EuclideanLoss",
        "",
        [{"name": "it", "type": "EuclideanLoss", "bottom": ["image", "b"]}],
        {"image": (2, 3), "b": (2, 3)},
        None,
        lambda t, train: ((t["image"] - t["b"]) ** 2).sum() / (2 * BATCH),
    ),
    LayerCase(
        "EuclideanLoss",
        "other shape, same size",
        [{"name": "it", "type": "EuclideanLoss", "bottom": ["image", "b"]}],
        {"image": (6, 1, 1), "b": (6,)},
        None,
        lambda t, train: ((t["image"].flatten(1) - t["b"]) ** 2).sum() / (2 * BATCH),
    ),
    accuracy("", 1, separated),
    accuracy("top 2", 2, separated),
    accuracy("ties", 1, ties),
    accuracy("ties, top 2", 2, ties),
    accuracy("NaN", 1, _nan_scores),
    # The network around the layers: preprocessing, layers in a row, a skip.
    layer(
        "preprocessed",
        {"type": "Flatten"},
        (60,),
        lambda t, train: ((t["image"] - torch.tensor([0.5, -1.0]).reshape(2, 1, 1)) * 0.25).flatten(1),
        data={"mean": [0.5, -1.0], "scale": 0.25},
    ),
    LayerCase(
        "Eltwise",
        "skip",
        [
            {"name": "conv", "type": "Convolution", "num_output": 2, "kernel_size": 3, "pad": 1, "bias_term": False},
            {"name": "bn", "type": "BatchNorm"},
            {"name": "it", "type": "Eltwise", "bottom": ["bn", "image"]},
        ],
        {"image": (2, 4, 4)},
        (2, 4, 4),
        lambda t, train: (
            F.batch_norm(
                F.conv2d(t["image"], t["conv.weight"], padding=1),
                t["bn.running_mean"].clone(),
                t["bn.running_var"].clone(),
                t["bn.weight"],
                t["bn.bias"],
                training=train,
            )
            + t["image"]
        ),
    ),
]
