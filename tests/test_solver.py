"""Policies, schedules and update rules against their formulas in float64, through whole optimizer steps."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from netc.graph import GraphBuilder
from netc.layers.schedules import SCHEDULES
from netc.network import Network
from netc.rewrite.passes import Platform, optimize_step
from netc.solver.policies import POLICIES, Clock
from netc.solver.rules import SOLVERS
from netc.solver.step import append_update
from tests.cases.solvers import PLANNED, POLICY_CASES, SCHEDULE_CASES, SOLVER_CASES, CurveCase, SolverCase
from tests.oracle import Arrays, Runner, ort_runner, to_model, worst
from tests.test_layers import lowered

STEPS = 200
# float32 against float64 after 200 updates, each rounded to 6e-8 of the largest weight; measured below 4e-6.
UPDATES = 1e-5


def test_every_member_has_a_row() -> None:
    assert {row.given["type"] for row in POLICY_CASES} == set(POLICIES.members)
    assert {row.given["policy"] for row in SCHEDULE_CASES} == set(SCHEDULES.members)
    assert {row.given["type"] for row in SOLVER_CASES} == set(SOLVERS.members)


def rate_of(policy: dict[str, Any], base_lr: float, planned: int = PLANNED) -> Callable[[int], float]:
    """Return the compiled policy as a function of the completed updates."""
    g = GraphBuilder("policy")
    it = g.input("it", ir.DataType.INT64, [])
    inputs: dict[str, ir.Value] = {}

    def declare(name: str) -> ir.Value:
        if name not in inputs:
            inputs[name] = g.input(name, g.dtype, [])
        return inputs[name]

    clock = Clock(g, it, lambda: declare("planned"), lambda: declare("scale"))
    g.output("rate", POLICIES.parse(policy).rate(clock, base_lr))
    run = ort_runner(to_model(g.graph))
    feed: Arrays = {"planned": np.array(planned), "scale": np.array(1.0)}
    return lambda step: float(run({**feed, "it": np.array(step)})["rate"])


@pytest.mark.parametrize("row", POLICY_CASES, ids=lambda row: row.id)
def test_policy(row: CurveCase) -> None:
    """At every update of the run, and beyond its end."""
    rate = rate_of(row.given, 0.1)
    for step in (*range(PLANNED + 1), PLANNED + 7, 12345):
        # Computed in double precision: one rounding of float32, and underflow below 1e-38.
        assert rate(step) == pytest.approx(row.formula(step), rel=2e-7, abs=1e-37), step


@pytest.mark.parametrize("start", [0, 3 * 2**24 + 1, 2**40 + 1])
@pytest.mark.parametrize(
    "policy",
    [
        {"type": "step", "gamma": 0.5, "stepsize": "START"},
        {"type": "multistep", "gamma": 0.5, "stepvalue": ["START"]},
        {"type": "fixed", "warmup_steps": "START", "warmup_start": 0.5},
    ],
    ids=lambda policy: policy["type"],
)
def test_boundaries_are_exact_however_many_steps_there_were(policy: dict[str, Any], start: int) -> None:
    """Float32 counts to 2^24; there, a drop would come early or late beyond."""
    boundary = start or 1000
    text = json.dumps(policy).replace('"START"', str(boundary))
    rate = rate_of(json.loads(text), 1.0)
    before, after = rate(boundary - 1), rate(boundary)
    if policy["type"] == "fixed":
        assert after == 1.0
        assert before == np.float32(1 - 0.5 / boundary)
    else:
        assert (before, after) == (1.0, 0.5)


def test_lr_scale_is_a_factor_of_the_rate() -> None:
    g = GraphBuilder("policy")
    it, scale = g.input("it", ir.DataType.INT64, []), g.input("scale", g.dtype, [])
    clock = Clock(g, it, lambda: pytest.fail("asked for the end of the run"), lambda: scale)
    g.output("rate", POLICIES.parse("plateau").rate(clock, 0.1))
    rate = ort_runner(to_model(g.graph))({"it": np.array(3), "scale": np.array(0.01)})["rate"]
    assert float(rate) == pytest.approx(0.001, rel=2e-7)


@pytest.mark.parametrize("row", SCHEDULE_CASES, ids=lambda row: row.id)
def test_schedule(row: CurveCase) -> None:
    g = GraphBuilder("schedule")
    progress = g.input("progress", ir.DataType.FLOAT, [])
    value = SCHEDULES.parse(row.given).value(g, lambda: progress)
    if isinstance(value, float):
        assert value == row.formula(0.5)
        return
    g.output("weight", value)
    run = ort_runner(to_model(g.graph))
    for done in (0.0, 0.1, 0.5, 0.8, 0.9, 1.0, 1.5):
        expected = pytest.approx(row.formula(done), rel=1e-6, abs=1e-7)  # a few roundings of float32
        assert float(run({"progress": np.array(done)})["weight"]) == expected, done


def test_a_number_is_a_constant_schedule() -> None:
    assert SCHEDULES.parse(0.25).value(GraphBuilder("g"), lambda: pytest.fail("asked for progress")) == 0.25


# ------------------------------------------------------------------------------------------------------- solvers

# A linear regression behind a frozen layer: its gradients are three lines of numpy.
MULTIPLIERS = {"ip.weight": (0.5, 2.0), "ip.bias": (2.0, 0.5)}
LAYERS: list[dict[str, Any]] = [
    {"name": "frozen", "type": "InnerProduct", "num_output": 5, "param": [{"lr_mult": 0.0}, {"lr_mult": 0.0}]},
    {
        "name": "ip",
        "type": "InnerProduct",
        "num_output": 3,
        "param": [{"lr_mult": lr, "decay_mult": decay} for lr, decay in MULTIPLIERS.values()],
    },
    {"name": "loss", "type": "EuclideanLoss", "bottom": ["ip", "target"]},
    {"name": "idle", "type": "InnerProduct", "num_output": 2, "bottom": "image"},
]
INPUTS: dict[str, Any] = {"image": (4,), "target": (3,)}
SAMPLES = 8


def trained(row: SolverCase) -> tuple[Network, Runner]:
    """Build one optimizer step."""
    given = {"max_iter": STEPS, **row.given}
    network = lowered(LAYERS, INPUTS, "train", batch=SAMPLES, solver=given)
    rate = append_update(network.net, SOLVERS.parse(given), network.terms[0].mean.value).rate
    for name, value in {**network.net.updates, "lr": rate}.items():
        network.net.g.output(name if name == "lr" else f"{name}.next", value)
    return network, ort_runner(to_model(optimize_step(network.net.g.graph, Platform("cpu"))))


def start(network: Network) -> tuple[Arrays, list[Arrays]]:
    rng = np.random.default_rng(11)
    state = {
        t.name: np.zeros(t.shape) if t.role in ("optimizer", "step") else rng.normal(size=t.shape).astype(np.float32)
        for t in network.net.state.values()
    }
    shapes = {"image": (SAMPLES, 4), "target": (SAMPLES, 3)}
    batches = [{k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()} for _ in range(STEPS)]
    return state, batches


def derivatives(state: Arrays, batch: Arrays) -> Arrays:
    """Return the gradient of sum (ip - target)^2 / 2N."""
    h = batch["image"] @ state["frozen.weight"].T + state["frozen.bias"]
    difference = (h @ state["ip.weight"].T + state["ip.bias"] - batch["target"]) / SAMPLES
    return {"ip.weight": difference.T @ h, "ip.bias": difference.sum(0)}


def doubled(arrays: Arrays) -> Arrays:
    return {name: np.asarray(value, np.float64) for name, value in arrays.items()}


def clipped(row: SolverCase, gradients: Arrays) -> Arrays:
    """Clip by value, then by the norm of all gradients."""
    value, norm = row.given.get("clip_value"), row.given.get("clip_norm")
    if value is not None:
        gradients = {name: np.clip(dw, -value, value) for name, dw in gradients.items()}
    if norm is not None:
        found = np.sqrt(sum(float(np.sum(dw**2)) for dw in gradients.values()))
        gradients = {name: dw * min(1.0, norm / found) for name, dw in gradients.items()}
    return gradients


@pytest.mark.parametrize("row", SOLVER_CASES, ids=lambda row: row.id)
def test_solver_agrees_with_its_formula(row: SolverCase) -> None:
    network, run = trained(row)
    state, batches = start(network)
    first, twin = state, doubled(state)
    memory: dict[str, Arrays] = {name: {} for name in MULTIPLIERS}
    for it, batch in enumerate(batches):
        result = run({**state, **batch})
        state = {name: result.get(f"{name}.next", value) for name, value in state.items()}
        gradients = derivatives(twin, doubled(batch))
        rate = row.given["base_lr"] * row.policy(it)
        assert float(result["lr"]) == pytest.approx(rate, rel=1e-6)
        gradients = clipped(row, gradients)
        for name, (lr, decay_mult) in MULTIPLIERS.items():
            pull = np.sign(twin[name]) if row.given.get("regularization") == "L1" else twin[name]
            exempt = row.given.get("decay_bias_and_norm") is False and name == "ip.bias"
            decay = 0.0 if exempt else row.given.get("weight_decay", 0.0) * decay_mult
            twin[name] = row.twin(twin[name], gradients[name], decay * pull, rate * lr, it, memory[name])
    assert state["step"] == STEPS
    found, where = worst(state, {name: twin[name] for name in MULTIPLIERS})
    assert found < UPDATES, where
    assert all(worst(state, {name: first[name]})[0] > 0.05 for name in MULTIPLIERS), "nothing was learned"


@pytest.mark.parametrize("row", [row for row in SOLVER_CASES if row.optimizer], ids=lambda row: row.id)
def test_solver_agrees_with_pytorch(row: SolverCase) -> None:
    network, run = trained(row)
    state, batches = start(network)
    twin = doubled(state)
    tensors = {name: torch.from_numpy(twin[name]) for name in MULTIPLIERS}
    assert row.optimizer is not None
    base, weight_decay = row.given["base_lr"], row.given.get("weight_decay", 0.0)
    optimizer = row.optimizer(
        [
            {"params": [tensors[name]], "lr": base * lr, "weight_decay": weight_decay * decay}
            for name, (lr, decay) in MULTIPLIERS.items()
        ]
    )
    for batch in batches:
        result = run({**state, **batch})
        state = {name: result.get(f"{name}.next", value) for name, value in state.items()}
        for name, gradient in derivatives(twin, doubled(batch)).items():
            tensors[name].grad = torch.from_numpy(gradient)
        optimizer.step()
    found, where = worst(state, {name: tensor.numpy() for name, tensor in tensors.items()})
    assert found < UPDATES, where


@pytest.mark.parametrize("row", SOLVER_CASES, ids=lambda row: row.id)
def test_frozen_and_idle_parameters_cost_nothing(row: SolverCase) -> None:
    network, _ = trained(row)
    moved = {name for name in network.net.updates if name != "step"}
    slots = SOLVERS.parse({"max_iter": 1, **row.given}).slots
    assert moved == set(MULTIPLIERS) | {f"{name}/{slot}" for name in MULTIPLIERS for slot in slots}
    memory = [t for t in network.net.state.values() if t.role == "optimizer"]
    assert {t.name for t in memory} == moved - set(MULTIPLIERS)
    assert not [node.name for node in network.net.g.graph if str(node.name).startswith(("frozen/grad", "idle/grad"))]
