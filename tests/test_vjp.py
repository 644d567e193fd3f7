"""Every rule of differentiation: types, ORT against PyTorch, and the derivative along a random direction."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import onnx_ir as ir
import pytest
import torch

from netc.grad.engine import Table, gradients
from netc.grad.table import VJP
from netc.graph import GraphBuilder
from netc.graph.verify import verify
from netc.rewrite.passes import Target
from tests import runs
from tests.cases.primitives import NO_GRADIENT, PRIMITIVES, REFUSED, Primitive
from tests.oracle import DIRECTION, FLOAT32, TARGETS, Arrays, torch_gradients, worst
from tests.runs import in_ort, seed_of

FLOAT, DOUBLE = ir.DataType.FLOAT, ir.DataType.DOUBLE
Engine = Callable[..., dict[ir.Value, ir.Value]]


def feed_of(row: Primitive) -> Arrays:
    rng = np.random.default_rng(seed_of(row))
    feed = {f"x{i}": arg.draw(rng) for i, arg in enumerate(row.args)}
    values = [torch.from_numpy(value) for value in feed.values()]
    weights = rng.standard_normal(row.oracle(*values).shape).astype(np.float32)
    return feed | {"weights": weights.astype(np.float64)}


def wrt_of(row: Primitive) -> list[str]:
    return [f"x{i}" for i, arg in enumerate(row.args) if arg.wrt]


def graph_of(row: Primitive, dtype: ir.DataType, table: Table = VJP, engine: Engine = gradients) -> ir.Graph:
    """Build y, the objective sum(weights * y) and its gradients; the weights give every element its own cotangent."""
    g = GraphBuilder(row.op, dtype)
    kinds = {"f": dtype, "b": ir.DataType.BOOL, "i": ir.DataType.INT64}
    feed = feed_of(row)
    inputs = {name: g.input(name, kinds[value.dtype.kind], value.shape) for name, value in feed.items()}
    weights = inputs.pop("weights")
    y = row.build(g, *inputs.values())
    assert row.op in {node.op_type for node in g.graph}
    objective = g.ReduceSum(g.Mul(y, weights), keepdims=0)
    wrt = [inputs[name] for name in wrt_of(row)]
    found = engine(g, table, objective, wrt)
    assert set(found) == set(wrt), "a gradient is missing"
    outputs = {"y": y, "objective": objective} | {f"grad:{x.name}": value for x, value in found.items()}
    for name, value in outputs.items():
        g.output(name, value)
    verify(g.graph, "differentiation")
    return g.graph


def oracle_error(
    row: Primitive, table: Table = VJP, engine: Engine = gradients, target: Target | None = None
) -> tuple[float, str]:
    """Return the worst error of forward and gradient in ORT (float32) against PyTorch (float64), and where it is."""
    return worst(in_ort(graph_of(row, FLOAT, table, engine), feed_of(row), target), expected_of(row))


def expected_of(row: Primitive) -> Arrays:
    """Return the value of a row and its gradients by PyTorch."""
    feed = feed_of(row)

    def forward(t: dict[str, torch.Tensor]) -> torch.Tensor:
        return row.oracle(*(t[f"x{i}"] for i in range(len(row.args))))

    tensors = {name: torch.from_numpy(value) for name, value in feed.items()}
    expected = torch_gradients(lambda t: (forward(t) * t["weights"]).sum(), feed, wrt_of(row))
    return expected | {"y": forward(tensors).numpy()}


def slope_error(row: Primitive, table: Table = VJP, engine: Engine = gradients) -> float:
    """Return the error of the gradient along random directions, all in float64 in the standard's own evaluator."""
    return runs.slope_error(graph_of(row, DOUBLE, table, engine), feed_of(row), wrt_of(row), row)


def test_every_operator_of_the_table_has_a_row() -> None:
    stated = {op for op, rules in VJP.items() if not rules}
    assert {row.op for row in PRIMITIVES} == set(VJP) - stated
    assert stated <= set(NO_GRADIENT)
    assert len({row.id for row in PRIMITIVES}) == len(PRIMITIVES)


@lru_cache(maxsize=1)
def step_of(row: Primitive) -> tuple[ir.Graph, Arrays]:
    """Return a row with its gradients, and what PyTorch computes: the same for all targets."""
    return graph_of(row, FLOAT), expected_of(row)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("row", PRIMITIVES, ids=lambda row: f"{row.id}-seed{seed_of(row)}")
def test_ort_agrees_with_pytorch(row: Primitive, target: Target) -> None:
    graph, expected = step_of(row)
    found, where = worst(in_ort(graph, feed_of(row), target), expected)
    assert found < FLOAT32, where


@pytest.mark.parametrize("row", [r for r in PRIMITIVES if r.smooth], ids=lambda row: f"{row.id}-seed{seed_of(row)}")
def test_gradient_is_the_slope_along_a_random_direction(row: Primitive) -> None:
    assert slope_error(row) < DIRECTION


@pytest.mark.parametrize("op", NO_GRADIENT)
def test_no_gradient_flows(op: str) -> None:
    g = GraphBuilder(op)
    x = g.input("x", FLOAT, [2, 3])
    y = g.Cast(NO_GRADIENT[op](g, x), to=FLOAT)
    assert op in {node.op_type for node in g.graph}
    assert gradients(g, VJP, g.ReduceSum(y, keepdims=0), [x]) == {}


def test_a_value_without_influence_has_no_gradient() -> None:
    g = GraphBuilder("g")
    x, unused, label = g.input("x", FLOAT, [2]), g.input("unused", FLOAT, [2]), g.input("label", ir.DataType.INT32, [2])
    objective = g.ReduceSum(g.Mul(x, g.Cast(label, to=FLOAT)), keepdims=0)
    assert set(gradients(g, VJP, objective, [x, unused])) == {x}


def test_gradient_by_a_value_between_and_by_the_objective_itself() -> None:
    g = GraphBuilder("g")
    x = g.input("x", FLOAT, [2])
    between = g.Exp(x)
    objective = g.ReduceSum(g.Mul(between, between), keepdims=0)
    found = gradients(g, VJP, objective, [x, between, objective])
    for name, value in zip(("dx", "dbetween", "dobjective"), found.values(), strict=True):
        g.output(name, value)
    result = in_ort(g.graph, {"x": np.array([0.5, -1.0])})
    e = np.exp([0.5, -1.0])
    assert worst(result, {"dx": 2 * e * e, "dbetween": 2 * e, "dobjective": np.ones([])})[0] < FLOAT32


def test_the_objective_must_be_a_scalar() -> None:
    g = GraphBuilder("g")
    x = g.input("x", FLOAT, [2])
    with pytest.raises(AssertionError, match="not a scalar"):
        gradients(g, VJP, g.Exp(x), [x])


@pytest.mark.parametrize(("word", "build"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused_rather_than_wrong(word: str, build: Callable[..., ir.Value]) -> None:
    g = GraphBuilder("g", DOUBLE)
    x = g.input("x", DOUBLE, [2, 2, 5, 5])
    objective = g.ReduceSum(build(g, x), keepdims=0)
    with pytest.raises(AssertionError, match=word):
        gradients(g, VJP, objective, [x])
