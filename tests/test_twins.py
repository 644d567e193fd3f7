"""Whole training runs against PyTorch, and one step against ONNX's own reference evaluator."""

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from tests.torch_twin import TorchTwin
from tests.zoo import batches, compiled, loaded, next_state, run

NAMES = ["lenet", "lenet_dsn", "lenet_bn_dropout", "resnet_tiny"]
STEPS = 100
# Few random samples, so that 100 steps stay quick. The rates of the zoo are for real data; on noise they diverge,
# and a diverging run amplifies rounding without bound.
OVERRIDES = ("data.batch_size=8", "solver.base_lr=0.002")


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference in units of the largest value."""
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))


@pytest.mark.parametrize("name", NAMES)
def test_100_steps_agree_with_pytorch(name: str) -> None:
    artifact = compiled(name, *OVERRIDES)
    state = artifact.initial_state()
    if "max_steps" in state:
        state["max_steps"] = np.array(STEPS, np.float32)
    start = {k: v.copy() for k, v in state.items()}
    twin = TorchTwin(loaded(name, *OVERRIDES).spec, state, STEPS, torch.float32)
    candidates = iter(batches(name, 6 * STEPS, 7, *OVERRIDES))
    while twin.step < STEPS:
        batch = next(candidates)
        if twin.distance_to_kinks(batch["image"], batch["label"]) < 1e-5:
            continue
        outputs = run(name, "train", {**state, **batch}, *OVERRIDES)
        state = next_state(state, outputs)
        for metric, value in twin.train_step(batch["image"], batch["label"]).items():
            # 1e-4 relative: float32 sums in another order, carried through at most 100 updates.
            assert float(outputs[metric]) == pytest.approx(value, rel=1e-4), (metric, twin.step)
    assert state["step"] == STEPS
    for tensor, trained in twin.state.items():
        assert relative(state[tensor], trained.detach().numpy()) < 1e-4, tensor
        if not tensor.endswith("/velocity"):
            assert relative(start[tensor], trained.detach().numpy()) > 1e-4, f"{tensor} was not trained"


@pytest.mark.parametrize("name", NAMES)
def test_one_step_in_the_reference_evaluator(name: str) -> None:
    """The program means the same to the standard's own evaluator as to ONNX Runtime."""
    small = ("data.batch_size=8", "solver.base_lr=0.002")
    artifact = compiled(name, *small)
    feed = {**artifact.initial_state(), **batches(name, 1, 3, *small)[0]}
    model = artifact.models()["train"]
    outputs = [y.name for y in model.graph.output]
    inputs = {x.name: feed[x.name] for x in model.graph.input}
    expected = ReferenceEvaluator(model).run(outputs, inputs)
    actual = run(name, "train", feed, *small)
    for output, value in zip(outputs, expected, strict=True):
        # 1e-4: sums of thousands of float32 terms in another order.
        assert relative(np.asarray(value), actual[output]) < 1e-4, output
