"""Metrics that count against a confusion matrix counted by hand, over batches of any size."""

import zlib
from typing import Any

import numpy as np
import pytest

from tests.cases.counting_metrics import COUNT_CASES, CountCase
from tests.cases.domains import separated
from tests.oracle import ort_runner, reference_runner, to_model
from tests.test_layers import declaration, lowered


def counted_by_hand(scores: np.ndarray, labels: np.ndarray, ignored: int | None) -> np.ndarray:
    """Return the matrix of scores [n, C, ...] and labels [n, ...]; labels that are no class count nothing."""
    classes = scores.shape[1]
    matrix = np.zeros((classes, classes), np.int64)
    for place in np.ndindex(labels.shape):
        true = int(labels[place])
        predicted = int(np.argmax(scores[(place[0], slice(None), *place[1:])]))
        if true != ignored and true < classes:
            matrix[true, predicted] += 1
    return matrix


@pytest.mark.parametrize("row", COUNT_CASES, ids=lambda row: row.id)
def test_counts(row: CountCase) -> None:
    layers: list[dict[str, Any]] = [
        {"name": "loss", "type": "SoftmaxWithLoss", **row.fields},
        {"name": "it", "type": row.type, "bottom": ["image", "label"], **row.fields},
    ]
    network = lowered(layers, dict(row.inputs), "test", batch=None)
    (count,) = network.counts
    assert (count.name, count.kind) == ("it", row.kind)
    network.net.g.output("it", count.matrix)
    model = to_model(network.net.g.graph, emitted=False)
    seed = zlib.crc32(row.id.encode())
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    ignored = row.fields.get("ignore_label")
    shape = declaration(row.inputs["image"])["shape"]
    for samples in (1, 7):
        scores = separated(rng, (samples, *shape)).astype(np.float32)
        scores[0, 0] = scores[0, 1]  # equal scores: the first class is predicted
        labels = rng.choice([0, 1, 2, 3, ignored or 0], (samples, *shape[1:])).astype(np.int32)
        expected = counted_by_hand(scores, labels, ignored)
        feed = {"image": scores, "label": labels}
        for run in (ort_runner, reference_runner):
            result = run(model)(feed)["it"]
            assert result.dtype == np.int64
            np.testing.assert_array_equal(result, expected)


def test_training_does_not_count() -> None:
    row = COUNT_CASES[0]
    layers: list[dict[str, Any]] = [
        {"name": "loss", "type": "SoftmaxWithLoss"},
        {"name": "it", "type": row.type, "bottom": ["image", "label"]},
    ]
    network = lowered(layers, dict(row.inputs), "train")
    assert not network.counts
    assert [term.name for term in network.terms] == ["total", "loss"]


def test_a_side_counts_under_its_own_kind() -> None:
    side: list[dict[str, Any]] = [
        {"name": "it", "type": "MeanIoU", "bottom": ["ip", "label"]},
        {"name": "l", "type": "SoftmaxWithLoss", "bottom": ["ip", "label"]},
    ]
    layers: list[dict[str, Any]] = [
        {"name": "ip", "type": "InnerProduct", "num_output": 4, "side": {"layers": side}},
        {"name": "loss", "type": "SoftmaxWithLoss"},
    ]
    (count,) = lowered(layers, {"image": (3,), "label": 4}, "test").counts
    assert count.kind == "side_mean_iou"
