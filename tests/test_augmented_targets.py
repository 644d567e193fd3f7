"""Labels and maps that are augmented with their image."""

from typing import Any

import numpy as np
import pytest

from tests.augmentation import BATCH, DENSE, DENSE_LAYERS, SEED, compiled, feeds, images, run
from tests.cases.augmentations import (
    AFFINE,
    Draw,
    affine_places,
    cutmix,
    cutmix_box,
    mixup,
    mixup_share,
)


@pytest.mark.parametrize(
    "operations", [["VerticalFlip", {"type": "PadCrop", "pad": 2}], [AFFINE]], ids=["picked", "sampled"]
)
def test_dense_targets_move_with_the_image(operations: list[Any]) -> None:
    # An image that is its own label says where every pixel went; only places near the middle of two may differ.
    rng = np.random.default_rng(5)
    label = rng.integers(0, 5, (BATCH, 6, 7)).astype(np.int32)
    image = np.repeat(label[:, None], 3, 1).astype(np.float32)
    edge = rng.integers(0, 2, (BATCH, 1, 6, 7)).astype(np.float32)
    model = compiled(operations, inputs=DENSE, layers=DENSE_LAYERS).models()["augment"]
    found = run(model, feeds(1, image=image, label=label, edge=edge))
    assert found["label.augmented"].dtype == np.int32
    if operations == [AFFINE]:
        expected, edges = np.full_like(label, 255), np.zeros_like(edge)
        for i, (columns, rows) in enumerate(affine_places(Draw(SEED, 1, BATCH, "Affine"), (6, 7))):
            y, x = np.rint(rows).astype(int), np.rint(columns).astype(int)
            inside = (y >= 0) & (y < 6) & (x >= 0) & (x < 7)
            expected[i][inside] = label[i][y[inside], x[inside]]
            edges[i, 0][inside] = edge[i, 0][y[inside], x[inside]]
        np.testing.assert_array_equal(found["edge.augmented"], edges)
    else:
        whole = run(model, feeds(1, image=image + 1, label=label, edge=edge))["image.augmented"][:, 0]
        expected = np.where(whole == 0, 255, whole - 1).astype(np.int32)
    np.testing.assert_array_equal(found["label.augmented"], expected)
    assert (expected == 255).any()


def test_cutmix_puts_the_same_rectangle_into_dense_targets() -> None:
    rng, size = np.random.default_rng(6), (BATCH, 6, 7)
    label, edge = rng.integers(0, 5, size).astype(np.int32), rng.integers(0, 2, (BATCH, 1, 6, 7)).astype(np.float32)
    model = compiled(["CutMix"], inputs=DENSE, layers=DENSE_LAYERS).models()["augment"]
    found = run(model, feeds(4, image=images(), label=label, edge=edge))
    rows, columns = cutmix_box(Draw(SEED, 4, BATCH, "CutMix"), (6, 7))
    for value in (label, edge):
        value[..., rows, columns] = np.roll(value, -1, 0)[..., rows, columns]
    np.testing.assert_array_equal(found["label.augmented"], label)
    np.testing.assert_array_equal(found["edge.augmented"], edge)
    assert len(range(*rows.indices(6))) * len(range(*columns.indices(7))) > 0


@pytest.mark.parametrize("kinds", [("Mixup", "CutMix"), ("CutMix", "Mixup")], ids=" ".join)
def test_dense_labels_are_mixed_as_the_image_is(kinds: tuple[str, str]) -> None:
    """The loss of what a numpy twin makes of image and labels, in both orders."""
    operations = [{"type": "Mixup", "alpha": 0.4} if kind == "Mixup" else kind for kind in kinds]
    artifact = compiled(operations, inputs={"label": DENSE["label"]}, layers=DENSE_LAYERS[:2])
    label = np.random.default_rng(6).integers(0, 5, (BATCH, 6, 7)).astype(np.int32)
    for step in (1, 2, 3):
        mixed, parts = images().astype(np.float64), [(label, 1.0)]
        for kind in kinds:
            draw = Draw(SEED, step, BATCH, kind)
            if kind == "Mixup":
                share = mixup_share(draw)
                mixed = mixup(draw, mixed)
                parts = [(y, s * share) for y, s in parts] + [(np.roll(y, -1, 0), s * (1 - share)) for y, s in parts]
            else:
                mixed, box = cutmix(draw, mixed), cutmix_box(draw, (6, 7))
                parts = [(y.copy(), s) for y, s in parts]
                for y, _ in parts:
                    y[(..., *box)] = np.roll(y, -1, 0)[(..., *box)]
        state = artifact.initial_state() | {"step": np.array(step)}
        scores = np.einsum("nchw,oc->nohw", mixed, state["scores.weight"][:, :, 0, 0].astype(np.float64))
        logs = scores - np.log(np.exp(scores - scores.max(1, keepdims=True)).sum(1, keepdims=True))
        logs -= scores.max(1, keepdims=True)
        expected = sum(s * -np.take_along_axis(logs, y[:, None], 1).mean() for y, s in parts)
        found = run(artifact.models()["train"], state | {"image": images(), "label": label})["loss"]
        assert abs(found - expected) < 2e-5 * abs(logs).max(), step
