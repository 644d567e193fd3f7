"""What an update does beside its rule: averages of weights, the norm of all gradients, what is spared the decay."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc.emit import write
from netc_runtime.export import export_run
from netc_runtime.trainer import TrainOptions, train
from tests.driver.conftest import CPU, Recorder
from tests.oracle import Arrays, error, ort_runner
from tests.test_accumulation import LAYERS, SGD, after, batches, compiled

NORMALIZED: list[dict[str, Any]] = [
    {"name": "conv", "type": "Convolution", "num_output": 6, "kernel_size": 3},
    {"name": "bn", "type": "BatchNorm"},
    {"name": "prelu", "type": "PReLU"},
    {"name": "scale", "type": "Scale", "bias_term": True},
    {"name": "ln", "type": "LayerNorm"},
    {"name": "shift", "type": "Bias"},
    {"name": "ip", "type": "InnerProduct", "num_output": 10},
    {"name": "loss", "type": "SoftmaxWithLoss", "bottom": ["ip", "label"]},
]


def test_averages_follow_the_weights() -> None:
    artifact = compiled(LAYERS, 16, weight_average=0.6, **SGD)
    run, state = ort_runner(artifact.models()["train"]), artifact.initial_state()
    learned = [t.name for t in artifact.state if t.role == "parameter"]
    assert {t.name for t in artifact.state if t.role == "average"} == {f"{name}/average" for name in learned}
    averages = {name: state[name].astype(np.float64) for name in learned}
    assert all(np.array_equal(state[name], state[f"{name}/average"]) for name in learned)
    for t, batch in enumerate(batches(30, 16)):
        state, _ = after(run, state, batch)
        kept = min(0.6, t / (t + 10))
        averages = {name: kept * average + (1 - kept) * state[name] for name, average in averages.items()}
        # A few roundings of float32, which later updates forget.
        assert max(error(state[f"{name}/average"], value) for name, value in averages.items()) < 1e-6, t
    assert kept == 0.6
    assert error(state["ip.weight"], averages["ip.weight"]) > 1e-3


def test_evaluation_and_inference_use_the_averages() -> None:
    averaged, plain = compiled(LAYERS, 16, weight_average=0.9, **SGD), compiled(LAYERS, 16, **SGD)
    state, rng = averaged.initial_state(), np.random.default_rng(2)
    for tensor in averaged.state:
        if tensor.role == "average":
            state[tensor.name] = rng.normal(size=tensor.shape).astype(np.float32)
    instead = {name: state.get(f"{name}/average", value) for name, value in state.items()}
    (batch,) = batches(1, 16)
    for graph in ("eval", "fold"):
        found = ort_runner(averaged.models()[graph])({**state, **batch})
        expected = ort_runner(plain.models()[graph])({**instead, **batch})
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    of_infer = [x["name"] for x in averaged.manifest()["graphs"]["infer"]["inputs"]]
    assert of_infer == [x["name"] for x in plain.manifest()["graphs"]["infer"]["inputs"]]


def test_a_run_with_averages_and_normalization_exports(tmp_path: Path) -> None:
    """Export proves itself that the model agrees with the evaluation, which takes the averages."""
    layers = [NORMALIZED[0], {"type": "Dropout"}, {**NORMALIZED[1], "statistics": "population"}, *NORMALIZED[2:]]
    solver = {**SGD, "weight_average": 0.95, "iter_size": 2, "max_iter": 15, "population_batches": 3}
    artifact = compiled(layers, 32, **solver)
    inputs = {x["name"] for x in artifact.manifest()["graphs"]["population"]["inputs"]}
    assert "conv.weight/average" in inputs
    assert "conv.weight" not in inputs
    write(artifact, tmp_path / "artifact")
    train(TrainOptions(tmp_path / "run", tmp_path / "artifact", CPU), Recorder())
    report = export_run(tmp_path / "run", host=CPU)
    assert report.agreement is not None
    assert report.agreement.difference < 1e-4 * report.agreement.largest


def test_the_norm_is_of_all_parameters_and_counts_shared_ones_once() -> None:
    shared = {"weight_filler": {"type": "gaussian", "std": 0.3}, "param": [{"name": "w"}, {"name": "b"}]}
    layers = [
        {"name": "ip1", "type": "InnerProduct", "num_output": 64, **shared},
        {"name": "ip2", "type": "InnerProduct", "num_output": 64, **shared},
        *LAYERS[3:],
    ]
    artifact = compiled(layers, 16, type="SGD", base_lr=1.0, clip_norm=0.25)
    state = artifact.initial_state()
    new, _ = after(ort_runner(artifact.models()["train"]), state, batches(1, 16)[0])
    moved: Arrays = {t.name: new[t.name] - state[t.name] for t in artifact.state if t.role == "parameter"}
    assert set(moved) == {"w", "b", "ip.weight", "ip.bias"}
    norm = np.sqrt(sum(float(np.sum(change.astype(np.float64) ** 2)) for change in moved.values()))
    assert norm == pytest.approx(0.25, rel=1e-5)  # differences of float32 weights


def test_small_and_zero_gradients_are_not_scaled() -> None:
    free, clipped = (compiled(LAYERS, 16, type="SGD", base_lr=1.0, **more) for more in ({}, {"clip_norm": 1e6}))
    (batch,) = batches(1, 16)
    expected, _ = after(ort_runner(free.models()["train"]), free.initial_state(), batch)
    found, _ = after(ort_runner(clipped.models()["train"]), clipped.initial_state(), batch)
    assert all(np.array_equal(found[name], value) for name, value in expected.items())
    still = compiled(
        [*NORMALIZED[-2:-1], {**LAYERS[4], "loss_weight": 1e-30}], 16, type="SGD", base_lr=1.0, clip_norm=1.0
    )
    state, _ = after(ort_runner(still.models()["train"]), still.initial_state(), batch)
    assert all(np.isfinite(value).all() for value in state.values())


@pytest.mark.parametrize("spared", [True, False])
def test_lars_leaves_the_rate_of_zero_and_of_spared_parameters(spared: bool) -> None:
    layers = [{**NORMALIZED[-2], "bias_filler": {"type": "constant", "value": 0.5 if spared else 0.0}}, NORMALIZED[-1]]
    options = {"base_lr": 0.1, "decay_bias_and_norm": not spared}
    (batch,) = batches(1, 16)
    new = {}
    for solver in ("LARS", "SGD"):
        artifact = compiled(layers, 16, type=solver, **options)
        new[solver], _ = after(ort_runner(artifact.models()["train"]), artifact.initial_state(), batch)
    assert np.array_equal(new["LARS"]["ip.bias"], new["SGD"]["ip.bias"])
    assert not np.array_equal(new["LARS"]["ip.weight"], new["SGD"]["ip.weight"])


def test_decay_spares_biases_and_what_normalization_learns() -> None:
    artifact = compiled(NORMALIZED, 16, **{**SGD, "decay_bias_and_norm": False})
    decayed = {t.name for t in artifact.state if t.role == "parameter" and t.is_weight}
    assert decayed == {"conv.weight", "prelu.weight", "ip.weight"}
    # With decoupled decay at a rate of 0 gradients, the difference between both runs is the decay alone.
    options = {"type": "SGD", "base_lr": 0.5, "decoupled_decay": True, "decay_bias_and_norm": False}
    (batch,) = batches(1, 16)
    with_decay, without = (compiled(NORMALIZED, 16, **options, weight_decay=wd) for wd in (0.1, 0.0))
    state = {name: value + np.float32(0.25) if value.dtype == np.float32 else value
             for name, value in with_decay.initial_state().items()}  # fmt: skip
    one, _ = after(ort_runner(with_decay.models()["train"]), state, batch)
    other, _ = after(ort_runner(without.models()["train"]), state, batch)
    assert {t.name for t in artifact.state if not np.array_equal(one.get(t.name, 0), other.get(t.name, 0))} == decayed
    for name in decayed:
        # One rounding of a weight of size 1.
        assert other[name] - one[name] == pytest.approx(0.05 * state[name], abs=2e-7)
