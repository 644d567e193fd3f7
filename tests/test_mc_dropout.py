"""Predictions under masks of dropout: the program against a twin of its masks, and what the driver makes of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from netc.build import build
from netc.emit import Artifact, write
from netc.spec.load import load
from netc.spec.text import parse_tree
from netc_runtime.artifact import Artifact as DriverArtifact
from netc_runtime.classmap import ClassMap, save_maps
from netc_runtime.data import open_source
from netc_runtime.errors import DriverError
from netc_runtime.export import export_run
from netc_runtime.mc_dropout import DropoutSampler, predict_with_dropout
from netc_runtime.predict import Prediction, predict
from netc_runtime.trainer import TrainOptions, train
from tests.driver.conftest import CPU, Recorder
from tests.numpy_rng import keep_mask
from tests.oracle import Arrays, error, ort_runner

Layers = list[dict[str, Any]]
BATCH, SEED, MASKS = 4, 11, 5
LOSS = {"name": "loss", "type": "SoftmaxWithLoss", "bottom": ["ip", "label"]}
IP = {"name": "ip", "type": "InnerProduct", "num_output": 10, "weight_filler": {"type": "gaussian", "std": 0.3}}
DROP = {"name": "drop", "type": "Dropout", "dropout_ratio": 0.3}
EVERYTHING: Layers = [
    {"name": "conv", "type": "Convolution", "num_output": 5, "kernel_size": 1, "bias_term": False},
    {"name": "bn", "type": "BatchNorm"},
    {"name": "wide", "type": "Dropout", "dropout_ratio": 0.4, "whole_channel": True},
    {"name": "noise", "type": "GaussianNoise", "std": 1.0},
    {"name": "classic", "type": "Dropout", "dropout_ratio": 0.25, "scale_at": "test"},
    {"name": "depth", "type": "StochasticDepth", "drop_ratio": 0.5},
    {"name": "sum", "type": "Eltwise", "bottom": ["classic", "depth"]},
    IP,
    LOSS,
]


def compiled(layers: Layers, batch_size: int = BATCH, **solver: Any) -> Artifact:
    spec = {
        "netc": 1,
        "name": "net",
        "inputs": {"image": {"shape": [1, 8, 8]}, "label": {"classes": 10}},
        "data": {"source": "digits", "scale": 0.0625, "batch_size": batch_size},
        "layers": layers,
        "solver": {"type": "SGD", "base_lr": 0.1, "max_iter": 30, "random_seed": SEED, **solver},
    }
    return build(load(parse_tree(json.dumps(spec), "net.yaml")))


def images(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 17, (count, 1, 8, 8)).astype(np.float32)


def masked(state: Arrays, x: np.ndarray, seed: int, draw: int) -> np.ndarray:
    """Return the scores of EVERYTHING in float64, written by hand: running statistics, and masks as in training."""
    x = np.einsum("nihw,oi->nohw", x * 0.0625, state["conv.weight"][:, :, 0, 0].astype(np.float64))
    mean, var, w, b = (
        state[f"bn.{name}"].astype(np.float64)[:, None, None]
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    x = (x - mean) / np.sqrt(var + 1e-5) * w + b
    x = x * keep_mask(seed, draw, "wide", (*x.shape[:2], 1, 1), 0.4) / 0.6
    x = x * keep_mask(seed, draw, "classic", x.shape, 0.25)
    x = x + x * keep_mask(seed, draw, "depth", (len(x), 1, 1, 1), 0.5) / 0.5
    scores: np.ndarray = x.reshape(len(x), -1) @ state["ip.weight"].T.astype(np.float64) + state["ip.bias"]
    return scores


@pytest.mark.parametrize("solver", [{}, {"iter_size": 3}], ids=["plain", "iter_size"])
def test_the_program_draws_as_training_and_is_else_in_test_mode(solver: dict[str, Any]) -> None:
    artifact = compiled(EVERYTHING, **solver)
    run, state, rng = ort_runner(artifact.models()["sample"]), artifact.initial_state(), np.random.default_rng(1)
    for name, value in state.items():
        if name.startswith("bn."):
            state[name] = (0.5 + rng.random(value.shape)).astype(np.float32)
    seen = []
    for seed, draw in ((SEED, 0), (SEED, 1), (SEED, 2**32 + 5), (12, 0)):
        feeds = {**state, "image": images(BATCH), "seed": np.array([seed], np.uint32), "draw": np.array(draw)}
        (found,) = run(feeds).values()
        # Sums of 320 products in float32.
        assert error(found, masked(state, images(BATCH), seed, draw % 2**32)) < 1e-5
        seen.append(found)
    assert len({found.tobytes() for found in seen}) == len(seen)


def test_the_manifest_says_what_to_feed() -> None:
    artifact = compiled(EVERYTHING)
    sample, infer = (artifact.manifest()["graphs"][name] for name in ("sample", "infer"))
    roles = {entry["name"]: entry["role"] for entry in sample["inputs"]}
    assert roles["draw"] == "draw"
    assert roles["seed"] == roles["bn.running_var"] == roles["ip.weight"] == "state"
    assert {"step", "label"}.isdisjoint(roles)
    assert [entry["shape"] for entry in sample["inputs"] if entry["role"] == "batch"] == [[BATCH, 1, 8, 8]]
    assert sample["outputs"] == [{**entry, "shape": [BATCH, 10]} for entry in infer["outputs"]]


SIDE = {"loss_weight": 0.3, "layers": [DROP, {**IP, "name": "ip1"}, {"name": "l1", "type": "SoftmaxWithLoss"}]}


@pytest.mark.parametrize(
    "layers",
    [
        [IP, LOSS],
        [{**DROP, "dropout_ratio": 0.0}, IP, LOSS],
        [{**DROP, "include": {"phase": "train"}}, IP, LOSS],
        [{"name": "noise", "type": "GaussianNoise", "std": 1.0}, IP, LOSS],
        [{"name": "tanh", "type": "TanH", "side": SIDE}, IP, LOSS],
        [DROP, {"name": "none", "type": "Silence"}, {**IP, "bottom": "image"}, LOSS],
    ],
    ids=["without", "ratio 0", "train only", "noise", "in a side", "unread"],
)
def test_there_is_no_program_where_no_mask_reaches_an_output(layers: Layers) -> None:
    assert "sample" not in compiled(layers).programs


def test_the_program_takes_the_averages_of_weights() -> None:
    averaged, plain = compiled([DROP, IP, LOSS], weight_average=0.9), compiled([DROP, IP, LOSS])
    state, rng = averaged.initial_state(), np.random.default_rng(2)
    for tensor in averaged.state:
        if tensor.role == "average":
            state[tensor.name] = rng.normal(size=tensor.shape).astype(np.float32)
    fed = {"image": images(BATCH), "draw": np.array(3)}
    instead = {name: state.get(f"{name}/average", value) for name, value in state.items()}
    found = ort_runner(averaged.models()["sample"])({**state, **fed})["ip"]
    assert np.array_equal(found, ort_runner(plain.models()["sample"])({**instead, **fed})["ip"])
    assert not np.array_equal(found, ort_runner(plain.models()["sample"])({**state, **fed})["ip"])


# -- the driver --------------------------------------------------------------------------------------------------


def trained(folder: Path, layers: Layers, **solver: Any) -> Path:
    write(compiled(layers, **solver), folder / "artifact")
    train(TrainOptions(folder / "run", folder / "artifact", CPU), Recorder())
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("mc_dropout"), [DROP, IP, LOSS])


def sampled(run: Path, inputs: list[str], masks: int, seed: int | None = None) -> list[Prediction]:
    found = predict_with_dropout(run, inputs, masks, seed, host=CPU)
    predictions = [prediction for prediction in found if isinstance(prediction, Prediction)]
    assert len(predictions) == len(found)
    return predictions


def last_state(run: Path) -> Arrays:
    return load_file(run / "checkpoints" / "step_30.safetensors")


def probabilities_of(run: Path, count: int, masks: int, seed: int) -> np.ndarray:
    """Return [count, masks, 10] probabilities of the first test samples, in float64, as the driver documents masks."""
    state, found = last_state(run), np.zeros((count, masks, 10))
    for row in range(count * masks):
        image = open_source({"source": "digits"}).test["image"][row // masks] * 0.0625
        keep = keep_mask(seed, row // BATCH, "drop", (BATCH, 1, 8, 8), 0.3)[row % BATCH]
        scores = state["ip.weight"].astype(np.float64) @ (image * keep / 0.7).ravel() + state["ip.bias"]
        powers = np.exp(scores - scores.max())
        found[row // masks, row % masks] = powers / powers.sum()
    return found


@pytest.mark.parametrize(("count", "masks"), [(3, MASKS), (1, 1), (6, 1), (1, 9), (2, 2)])
def test_mean_and_deviation_are_those_of_the_masks(run: Path, count: int, masks: int) -> None:
    expected = probabilities_of(run, count, masks, SEED)
    for index, one in enumerate(sampled(run, [f"test:0-{count - 1}"], masks)):
        mean, deviation = expected[index].mean(0), expected[index].std(0)
        assert one.index == mean.argmax()
        # Scores of float32, up to 20 in size, round by 1e-6.
        assert one.probability == pytest.approx(mean[one.index], abs=1e-5)
        assert one.deviation == pytest.approx(deviation[one.index], abs=1e-5)
        assert (one.deviation == 0) == (masks == 1)
        assert one.truth == open_source({"source": "digits"}).test["label"][index]


def test_equal_seeds_give_equal_bits(run: Path) -> None:
    first = sampled(run, ["test:0-3"], MASKS)
    assert first == sampled(run, ["test:0-3"], MASKS) == sampled(run, ["test:0-3"], MASKS, SEED)
    other = sampled(run, ["test:0-3"], MASKS, SEED + 1)
    assert all(a.probability != b.probability for a, b in zip(first, other, strict=True))
    # What comes behind a sample changes nothing of it.
    assert sampled(run, ["test:0-1"], MASKS) == first[:2]


def test_samples_and_draws_have_masks_of_their_own(run: Path) -> None:
    artifact, image = DriverArtifact.load(run / "artifact"), open_source({"source": "digits"}).test["image"][0]
    sampler = DropoutSampler(artifact, last_state(run), CPU, None, run)
    each = [mean for mean, _ in sampler.moments([image] * 40, 1)]
    assert len({mean.tobytes() for mean in each}) == 40
    ((mean, deviation),) = sampler.moments([image], 40)
    np.testing.assert_allclose(np.mean(each, axis=0), mean, rtol=1e-12)
    np.testing.assert_allclose(np.std(each, axis=0), deviation, rtol=1e-9)


def test_the_mean_approaches_the_prediction_without_masks(tmp_path: Path) -> None:
    """A linear network without a softmax: the expectation over masks is the output of the test phase, exactly."""
    hinge = {"name": "hinge", "type": "HingeLoss", "bottom": ["ip", "label"]}
    run, masks = trained(tmp_path, [DROP, IP, hinge], base_lr=0.01), 4000
    state, image = last_state(run), open_source({"source": "digits"}).test["image"][0] * 0.0625
    expected = state["ip.weight"].astype(np.float64) @ image.ravel() + state["ip.bias"]
    (found,) = sampled(run, ["test:0"], masks)
    assert found.deviation is not None
    # A mean of so many draws is off by more than 4.9 deviations once in a million seeds.
    assert abs(found.probability - expected[found.index]) < 4.9 * found.deviation / masks**0.5
    # The variance of a sum of independent units: w^2 x^2 ratio / (1 - ratio).
    terms = (state["ip.weight"][found.index].astype(np.float64) * image.ravel()) ** 2
    assert found.deviation == pytest.approx(float(np.sqrt(terms.sum() * 0.3 / 0.7)), rel=0.06)


def test_a_layer_of_the_test_phase_alone_draws_too(tmp_path: Path) -> None:
    """Training then has no seed of its own."""
    run = trained(tmp_path, [{**DROP, "include": {"phase": "test"}}, IP, LOSS])
    assert [found.deviation for found in sampled(run, ["test:0"], MASKS)] != [0]


@pytest.mark.parametrize(
    ("masks", "seed", "sentence"),
    [
        (0, None, "the number of masks should be at least 1, not 0"),
        (3, -1, "the seed of the masks should be from 0 to 4294967295, not -1"),
        (3, 2**32, "the seed of the masks should be from 0 to 4294967295, not 4294967296"),
    ],
)
def test_what_makes_no_sense_is_refused(run: Path, masks: int, seed: int | None, sentence: str) -> None:
    with pytest.raises(DriverError) as caught:
        sampled(run, ["test:0"], masks, seed)
    assert (str(caught.value), caught.value.exit_code) == (sentence, 2)


def test_a_network_without_dropout_is_refused(tmp_path: Path) -> None:
    run = trained(tmp_path, [IP, LOSS])
    with pytest.raises(DriverError) as caught:
        sampled(run, ["test:0"], 3)
    assert caught.value.exit_code == 2
    assert str(caught.value) == (
        f"{run} has no dropout to sample: no Dropout or StochasticDepth of the test phase acts on the outputs of net, "
        f"so that every prediction would be the same; predict without masks"
    )


@pytest.mark.parametrize(
    ("side", "name", "change", "sentence"),
    [
        ("inputs", "draw", {"role": "state"}, 'sample takes the state "draw", which is not declared'),
        ("inputs", "draw", {"shape": [1]}, "sample should take one scalar int64 of the role draw"),
        ("inputs", "draw", {"dtype": "int32"}, "sample should take one scalar int64 of the role draw"),
        ("inputs", "image", {"shape": [BATCH, 1, 8, 9]}, "sample takes something else than infer"),
        ("inputs", "image", {"shape": ["N", 1, 8, 8]}, f"which is no batch of {BATCH} samples"),
        ("outputs", "ip", {"shape": [BATCH, 9]}, "sample gives something else than infer"),
    ],
)
def test_a_wrong_manifest_is_one_sentence(
    tmp_path: Path, side: str, name: str, change: dict[str, Any], sentence: str
) -> None:
    write(compiled([DROP, IP, LOSS]), tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["digest"]
    next(entry for entry in manifest["graphs"]["sample"][side] if entry["name"] == name).update(change)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DriverError) as caught:
        DriverArtifact.load(tmp_path)
    assert sentence in str(caught.value)


def test_class_maps_have_a_deviation_at_each_position(tmp_path: Path) -> None:
    scores = np.array([[[0.7, 0.2]], [[0.3, 0.8]]])
    deviations = np.array([[[0.1, 0.3]], [[0.2, 0.5]]])
    found = ClassMap.of("test:3", scores, ("a", "b"), None, (), deviations)
    assert found.as_dict()["deviations"] == [[0.1, 0.5]]
    assert found.as_text() == "test:3  [1, 2]  a 0.500, b 0.500  +- 0.300"
    save_maps([found], tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "deviations" / "test_3.npy"), np.array([[0.1, 0.5]], np.float32))
    np.testing.assert_array_equal(np.load(tmp_path / "test_3.npy"), [[0, 1]])
    assert "deviations" not in ClassMap.of("test:3", scores, ("a", "b"), None, ()).as_dict()


def test_a_dense_network_gives_class_maps(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / "data" / part).mkdir(parents=True)
        x = np.random.default_rng(4).normal(size=(8, 1, 4, 4)).astype(np.float32)
        np.save(tmp_path / "data" / part / "image.npy", x)
        np.save(tmp_path / "data" / part / "label.npy", (x[:, 0] > 0).astype(np.uint8))
    spec = {
        "netc": 1,
        "name": "dense",
        "inputs": {"image": {"shape": [1, 4, 4]}, "label": {"shape": [4, 4], "classes": 2}},
        "data": {"source": "npy", "path": str(tmp_path / "data"), "batch_size": BATCH},
        "layers": [
            {"name": "conv", "type": "Convolution", "num_output": 6, "kernel_size": 1},
            {"name": "drop", "type": "Dropout"},
            {"name": "scores", "type": "Convolution", "num_output": 2, "kernel_size": 1},
            {"name": "loss", "type": "SoftmaxWithLoss"},
        ],
        "solver": {"type": "SGD", "base_lr": 0.1, "max_iter": 2},
    }
    write(build(load(parse_tree(json.dumps(spec), "dense.yaml"))), tmp_path / "artifact")
    train(TrainOptions(tmp_path / "run", tmp_path / "artifact", CPU), Recorder())
    for one in predict_with_dropout(tmp_path / "run", ["test:0-2"], MASKS, host=CPU):
        assert isinstance(one, ClassMap)
        assert one.map.shape == (4, 4)
        assert one.deviations is not None
        assert one.deviations.shape == (4, 4)
        assert 0 < one.deviations.min() < one.deviations.max() <= 0.5


def test_without_masks_nothing_is_said_of_deviations(run: Path) -> None:
    export_run(run, host=CPU)
    (plain,) = predict(run / "model.onnx", ["test:0"], CPU)
    assert "deviation" not in plain.as_dict()
    assert "+-" not in plain.as_text()
    (masked_one,) = sampled(run, ["test:0"], 3)
    assert masked_one.as_dict()["deviation"] == masked_one.deviation
    assert f"+- {masked_one.deviation:.3f}" in masked_one.as_text()
