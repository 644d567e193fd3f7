"""Augmentation: every operation against its twin, the distribution of what it draws, and what becomes of programs."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
from PIL import Image

from netc.augment import AUGMENTATIONS
from netc.augment.mixing import beta_quantiles
from netc.build import build
from netc.emit import write
from netc.rewrite.passes import Target
from netc.spec.load import load
from netc.spec.text import parse_tree
from netc_runtime.artifact import Artifact as Loadable
from netc_runtime.data import open_source
from netc_runtime.data.moments import channel_moments
from netc_runtime.export import export_run
from netc_runtime.statistics import data_statistics
from netc_runtime.trainer import TrainOptions, train
from tests.augmentation import BATCH, SEED, SHAPE, augmented, compiled, feeds, images, run, session, spec_with
from tests.cases.augmentations import (
    AFFINE,
    COMPUTED,
    HIGH,
    ROWS,
    Draw,
    Row,
    affine_matrix,
    affine_places,
    cutmix_box,
    mixup_share,
)
from tests.driver.conftest import CPU, Recorder
from tests.numpy_rng import bits_of_steps, random_bits
from tests.oracle import TARGETS

IDS = [row.id for row in ROWS]


def test_every_operation_has_a_row() -> None:
    assert {row.type for row in ROWS} == set(AUGMENTATIONS.members)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_an_operation_is_its_twin(row: Row) -> None:
    model = compiled([row.operation]).models()["augment"]
    started, x = session(model), images()
    taken = {value.name for value in started.get_inputs()}
    changed = 0.0
    for step in (0, 1, 7):
        given = {name: value for name, value in feeds(step, image=x).items() if name in taken}
        (found,) = started.run(["image.augmented"], given)
        expected = row.twin(Draw(SEED, step, BATCH, row.type), x.astype(np.float64))
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() <= row.tolerance, f"step {step}"
        changed = max(changed, np.abs(expected - x).max())
    assert changed > 1, "the row would not see what does nothing"


def chi_square(counts: np.ndarray, shares: np.ndarray) -> float:
    """Return Pearson's statistic less its mean, in its standard deviations."""
    expected = counts.sum() * shares
    degrees = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - degrees) / math.sqrt(2 * degrees))


# 100,000 draws; what a right distribution exceeds once in some ten thousand, and a parameter wrong by 2 % always does.
DRAWS, PER_STEP, CRITICAL = 100_000, 500, 5.0
PARAMETERS = [(row, name) for row in ROWS for name in row.parameters]


@pytest.mark.parametrize(("row", "name"), PARAMETERS, ids=[f"{row.id} {name}" for row, name in PARAMETERS])
def test_parameters_are_distributed_as_declared(row: Row, name: str) -> None:
    parameter, law = row.parameters[name]
    count = len(parameter(Draw(SEED, 0, PER_STEP, row.type)))
    values = np.concatenate([parameter(Draw(SEED, s, PER_STEP, row.type)) for s in range(DRAWS // count)])
    assert len(values) == DRAWS
    if isinstance(law, tuple):
        assert law[0] <= values.min() < values.max() <= law[1]
        counts, _ = np.histogram(values, 64, law)
        shares = np.full(64, 1 / 64)
    elif isinstance(law, int):
        counts, shares = np.bincount(values, minlength=law), np.full(law, 1 / law)
    else:
        assert isinstance(law, float)
        counts, shares = np.bincount(values.astype(int), minlength=2), np.array([1 - law, law])
    assert chi_square(counts, shares) < CRITICAL
    if isinstance(law, tuple):  # as good as independent of the next sample, too
        pairs, _, _ = np.histogram2d(values[:-1], values[1:], 8, [law, law])
        assert chi_square(pairs.ravel(), np.full(64, 1 / 64)) < CRITICAL


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def test_the_shares_of_mixup_are_those_of_a_beta_distribution() -> None:
    for alpha in (0.05, 0.2, 1.0, 3.0):
        x = beta_quantiles(alpha, 4096)
        for power in (1, 2, 4):
            moment = math.exp(_log_beta(alpha + power, alpha) - _log_beta(alpha, alpha))
            assert abs((x**power).mean() - moment) < 2e-4  # 4096 quantiles stand for the distribution


# One draw a batch: the numbers of as many steps.
PER_BATCH = (("Mixup", "share"), ("CutMix", "share"), ("CutMix", "y"), ("CutMix", "x"))


@pytest.mark.parametrize(("kind", "what"), PER_BATCH, ids=[" ".join(names) for names in PER_BATCH])
def test_shares_and_places_of_a_batch_are_uniform(kind: str, what: str) -> None:
    name = f"data.augment/{kind}/{what}"
    words = bits_of_steps(SEED, np.arange(DRAWS, dtype=np.uint32), name)
    assert words[77] == random_bits(SEED, 77, name, ())
    counts, _ = np.histogram(words, 64, (0, 2**32))
    assert chi_square(counts, np.full(64, 1 / 64)) < CRITICAL


def test_an_affine_is_that_of_pillow() -> None:
    # In float; Pillow reads nothing beyond the outermost pixels' centres, so that only what lies inside is compared.
    size, x = (20, 24), images(shape=(3, 20, 24))
    found = augmented([AFFINE], x, 2)
    draw, compared = Draw(SEED, 2, BATCH, "Affine"), 0
    for i, (columns, rows) in enumerate(affine_places(draw, size)):
        angles = draw.uniform("rotation", -20, 20)[i], draw.uniform("shear", -5, 9)[i]
        dy, dx = (draw.uniform(what, -0.2, 0.2)[i] * side for what, side in zip("yx", size, strict=True))
        back = np.linalg.inv(affine_matrix(*angles, draw.uniform("scale", 0.7, 1.2)[i], dy, dx, size))
        corner = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # Pillow counts from the corner of a pixel
        inside = (rows > 0.01) & (rows < size[0] - 1.01) & (columns > 0.01) & (columns < size[1] - 1.01)
        for channel in range(3):
            image = Image.fromarray(x[i, channel])
            moved = image.transform(
                image.size,
                Image.Transform.AFFINE,
                tuple((corner @ back @ np.linalg.inv(corner))[:2].ravel()),
                Image.Resampling.BILINEAR,
            )
            assert np.abs(np.asarray(moved) - found[i, channel])[inside].max() < HIGH * 1e-4  # Pillow's own rounding
            compared += int(inside.sum())
    assert compared > 3000


def test_a_rotation_turns_as_pillow_does() -> None:
    x = np.zeros((BATCH, 1, 9, 9), np.float32)
    x[:, :, 4, 8] = 255.0  # on the right; counter-clockwise it goes up
    found = augmented([{"type": "Affine", "rotation": [90, 90]}], x, 0)
    turned = np.stack([np.asarray(Image.fromarray(sample[0]).rotate(90)) for sample in x])
    assert np.abs(found[:, 0] - turned).max() < COMPUTED


def test_geometric_operations_in_a_row_are_one_resampling() -> None:
    run_of_three = ["HorizontalFlip", AFFINE, {"type": "PadCrop", "pad": 2}]
    graph = compiled(run_of_three).programs["augment"].graph
    assert [node.op_type for node in graph].count("GridSample") == 1
    x = images()
    found = run(compiled(run_of_three).models()["augment"], feeds(1, image=x))["image.augmented"]
    y, z = (Draw(SEED, 1, BATCH, "PadCrop").integer(what, 5) - 2 for what in "yx")
    mirrored = Draw(SEED, 1, BATCH, "HorizontalFlip").happens(0.5)
    wide, size = np.pad(x, ((0, 0), (0, 0), (9, 9), (9, 9))), SHAPE[1:]
    # The affine about the image's centre on a wide canvas: nothing is lost between the steps.
    for i, places in enumerate(affine_places(Draw(SEED, 1, BATCH, "Affine"), size)):
        canvas = wide[i, :, :, ::-1] if mirrored[i] else wide[i]
        matrix = np.linalg.lstsq(_ones(size), places.reshape(2, -1).T, rcond=None)[0].T
        rows, columns = np.mgrid[: size[0], : size[1]] + np.array([y[i], z[i]]).reshape(2, 1, 1)
        at = np.einsum("ij,jhw->ihw", matrix, np.stack([columns, rows, np.ones(size)]))
        for row in range(size[0]):
            for column in range(size[1]):
                expected = _at(canvas, at[1, row, column] + 9, at[0, row, column] + 9)
                assert np.abs(found[i, :, row, column] - expected).max() < 5 * COMPUTED


def _ones(size: Sequence[int]) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.stack([columns.ravel(), rows.ravel(), np.ones(rows.size)], 1)


def _at(canvas: np.ndarray, y: float, x: float) -> np.ndarray:
    top, left = math.floor(y), math.floor(x)
    if not (0 <= top < canvas.shape[1] - 1 and 0 <= left < canvas.shape[2] - 1):
        return np.zeros(3)
    cell = canvas[:, top : top + 2, left : left + 2].astype(np.float64)
    return np.einsum("chw,h,w->c", cell, [1 - y + top, y - top], [1 - x + left, x - left])


def test_flips_and_crops_pick_pixels() -> None:
    two = ["HorizontalFlip", {"type": "PadCrop", "pad": 2}, "VerticalFlip"]
    graph = compiled(two).programs["augment"].graph
    kinds = [node.op_type for node in graph]
    assert kinds.count("GatherElements") == 1
    assert "GridSample" not in kinds
    x = images()
    expected = ROWS[0].twin(Draw(SEED, 5, BATCH, "HorizontalFlip"), x.astype(np.float64))
    draw = Draw(SEED, 5, BATCH, "PadCrop")
    padded = np.pad(expected, ((0, 0), (0, 0), (2, 2), (2, 2)))
    y, z = draw.integer("y", 5), draw.integer("x", 5)
    expected = np.stack([s[:, y[i] : y[i] + 6, z[i] : z[i] + 7] for i, s in enumerate(padded)])
    happens = Draw(SEED, 5, BATCH, "VerticalFlip").happens(0.5).reshape(-1, 1, 1, 1)
    expected = np.where(happens, expected[:, :, ::-1], expected)
    np.testing.assert_array_equal(augmented(two, x, 5), expected)


def test_two_of_a_type_draw_apart_and_others_do_not_matter() -> None:
    invert = {"type": "Invert"}
    first = Draw(SEED, 4, BATCH, "Invert").happens(0.5)
    second = Draw(SEED, 4, BATCH, "Invert/2").happens(0.5)
    assert (first != second).any()
    x = images()
    expected = np.where((first ^ second).reshape(-1, 1, 1, 1), HIGH - x, x)
    np.testing.assert_array_equal(
        augmented([invert, {"type": "GaussianBlur", "probability": 0}, invert], x, 4), expected
    )


@pytest.mark.parametrize("size", [2, 5])
def test_a_mirrored_border_goes_on_and_on(size: int) -> None:
    """Two shifts in a row reach beyond the mirror image; the places are those of numpy.pad."""
    x = np.random.default_rng(7).integers(0, 256, (BATCH, 3, size, size)).astype(np.float32)
    crop = {"type": "PadCrop", "pad": size - 1, "border": "reflect"}
    found = augmented([crop, crop], x, 2)
    moves = [Draw(SEED, 2, BATCH, key) for key in ("PadCrop", "PadCrop/2")]
    far = 2 * (size - 1)
    for n in range(BATCH):
        padded = np.pad(x[n], ((0, 0), (far, far), (far, far)), mode="reflect")
        y, z = (far + sum(int(move.integer(what, 2 * size - 1)[n]) - size + 1 for move in moves) for what in "yx")
        np.testing.assert_array_equal(found[n], padded[:, y : y + size, z : z + size])


EVERYTHING = [{key: value for key, value in row.operation.items() if key != "fill"} for row in ROWS if not row.variant]


@pytest.mark.parametrize("target", TARGETS)
def test_all_operations_obey_the_rules_of_graphs(target: Target) -> None:
    models = compiled(EVERYTHING, target, data={"mean": "computed", "std": "computed"}).models()  # checks them
    assert {"GridSample", "GatherElements"} & {node.op_type for node in models["train"].graph.node}
    layers = {key: {_layer(node) for node in model.graph.node} for key, model in models.items()}
    kinds = {f"augment/{row.type}" for row in ROWS}
    assert kinds <= layers["augment"]
    assert kinds <= layers["train"]
    assert not any(kinds & layers[key] for key in ("eval", "fold", "infer"))
    gradients = [_layer(node) for node in models["train"].graph.node if _part(node) == "grad"]
    assert not any(layer.startswith("augment/") or layer == "image" for layer in gradients)


def test_mixed_precision_leaves_raw_values_in_float32() -> None:
    model = onnx.shape_inference.infer_shapes(compiled(EVERYTHING, "cuda", precision="mixed").models()["train"])
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    halves = {_layer(node) for node in model.graph.node if types.get(node.output[0]) == onnx.TensorProto.FLOAT16}
    assert "ip" in halves
    assert not any(layer.startswith("augment/") or layer == "image" for layer in halves - {"ip"})


def _layer(node: onnx.NodeProto) -> str:
    return {entry.key: entry.value for entry in node.metadata_props}.get("netc.layer", "")


def _part(node: onnx.NodeProto) -> str:
    return {entry.key: entry.value for entry in node.metadata_props}.get("netc.part", "")


def test_openvino_draws_the_same_bits() -> None:
    targets: tuple[Target, ...] = ("cpu", "openvino")
    models = [compiled(EVERYTHING, target).models()["augment"] for target in targets]
    expected, found = (run(model, feeds(9, image=images()))["image.augmented"] for model in models)
    np.testing.assert_array_equal(found, expected)


def test_the_number_of_threads_changes_nothing() -> None:
    # Large enough that kernels split their work.
    x = np.random.default_rng(1).integers(0, 256, (BATCH, 3, 64, 64)).astype(np.float32)
    model = compiled(EVERYTHING, shape=(3, 64, 64)).models()["augment"]
    one, two = (run(model, feeds(3, image=x), threads)["image.augmented"] for threads in (1, 2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("kind", ["Mixup", "CutMix"])
def test_the_loss_is_that_of_both_labels(kind: str) -> None:
    artifact = compiled([{"type": kind, "alpha": 0.4} if kind == "Mixup" else kind])
    x, rng = images(), np.random.default_rng(2)
    label = rng.integers(0, 10, BATCH).astype(np.int32)
    for step in (1, 2, 3, 4):
        state = artifact.initial_state() | {"step": np.array(step)}
        found = run(artifact.models()["train"], state | {"image": x, "label": label})
        draw = Draw(SEED, step, BATCH, kind)
        row = next(row for row in ROWS if row.type == kind)
        share = mixup_share(draw) if kind == "Mixup" else 1 - _area(draw)
        scores = row.twin(draw, x.astype(np.float64)).reshape(BATCH, -1) @ state["ip.weight"].T.astype(np.float64)
        logs = scores - scores.max(1, keepdims=True)
        logs -= np.log(np.exp(logs).sum(1, keepdims=True))
        own, other = (-logs[np.arange(BATCH), y].mean() for y in (label, np.roll(label, -1)))
        assert abs(found["loss"] - (share * own + (1 - share) * other)) < 2e-5 * abs(logs).max()
        most = label if share >= 0.5 else np.roll(label, -1)
        assert abs(found["accuracy"] - (scores.argmax(1) == most).mean()) < 1e-6


def _area(draw: Draw) -> float:
    rows, columns = cutmix_box(draw, SHAPE[1:])
    return len(range(*rows.indices(6))) * len(range(*columns.indices(7))) / 42


def test_a_run_that_is_resumed_ends_in_the_same_bytes(tmp_path: Path) -> None:
    spec = spec_with(
        ["HorizontalFlip", {"type": "PadCrop", "pad": 1}, {"type": "GaussianNoise", "std": 0.1}, "Mixup"],
        shape=(1, 8, 8),
        data={"source": "digits", "range": [0, 16], "batch_size": 128, "mean": "computed", "std": "computed"},
        max_epochs=2,
        iter_size=2,
    )
    del spec["data"]["path"], spec["solver"]["max_iter"]
    write(build(load(parse_tree(json.dumps(spec), "net.yaml"))), tmp_path / "artifact")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(TrainOptions(whole, tmp_path / "artifact", CPU), Recorder())
    train(TrainOptions(parts, tmp_path / "artifact", CPU, stop_after_epochs=1), Recorder())
    train(TrainOptions(parts, None, CPU, resume=True), Recorder())
    last = [max((run / "checkpoints").iterdir(), key=lambda p: int(p.stem[5:])).read_bytes() for run in (whole, parts)]
    assert last[0] == last[1]
    # What the host computed is part of the state, and of the exported model, which eats raw pixels.
    state, raw = safetensors.numpy.load(last[0]), np.asarray(open_source({"source": "digits"}).train["image"])
    np.testing.assert_allclose(state["image.mean"], [raw.mean()], rtol=1e-6)
    np.testing.assert_allclose(state["image.std"], [raw.std()], rtol=1e-6)
    agreement = export_run(whole).agreement
    assert agreement is not None
    assert agreement.difference < 2e-5 * agreement.largest


def test_moments_of_channels_are_those_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netc_runtime.data.moments._CHUNK_VALUES", 100)  # several chunks, the last one smaller
    values = np.random.default_rng(0).normal(1e4, 1.0, (17, 3, 4, 5))
    values[:, 2] = 7.0
    found = channel_moments(values)
    np.testing.assert_allclose(found.mean, values.mean((0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(found.std[:2], values.std((0, 2, 3))[:2], rtol=1e-9)  # squares of 1e4 would leave 1e-8
    assert found.std[2] == 0.0
    np.testing.assert_array_equal(found.least, values.min((0, 2, 3)))
    np.testing.assert_array_equal(found.largest, values.max((0, 2, 3)))
    np.testing.assert_array_equal(channel_moments(np.arange(12.0).reshape(4, 3)).mean, [4.5, 5.5, 6.5])


def test_a_constant_channel_is_divided_by_1(tmp_path: Path) -> None:
    write(compiled([], data={"mean": "computed", "std": "computed"}), tmp_path / "artifact")
    values = np.random.default_rng(0).uniform(0, 255, (9, *images().shape[1:]))
    values[:, 1] = 7.0
    filled = data_statistics(Loadable.load(tmp_path / "artifact"), {"image": values})
    np.testing.assert_allclose(filled["image.std"], [values[:, 0].std(), 1.0, values[:, 2].std()], rtol=1e-6)


@pytest.mark.parametrize(
    ("mean", "std", "scale"),
    [(0.0, 1.0, 1.0), ([1.0, 2.0, 3.0], 4.0, 2.0), (1.5, [1.0, 2.0, 4.0], 1.0), ("computed", "computed", 2.0)],
)
def test_normalization_is_the_formula(mean: Any, std: Any, scale: float) -> None:
    artifact = compiled([], data={"mean": mean, "std": std, "scale": scale})
    x, state = images(), artifact.initial_state()
    state |= {"image.mean": np.array([9.0, 8.0, 7.0], np.float32), "image.std": np.array([3.0, 5.0, 6.0], np.float32)}
    model = artifact.models()["eval"]
    found = run(model, state | {"image": x, "label": np.zeros(BATCH, np.int32)})["ip"]
    a, b = (
        (state[f"image.{key}"] if given == "computed" else np.broadcast_to(given, 3)).reshape(3, 1, 1)
        for key, given in (("mean", mean), ("std", std))
    )
    expected = ((x.astype(np.float64) - a) / b * scale).reshape(BATCH, -1) @ state["ip.weight"].T.astype(np.float64)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
