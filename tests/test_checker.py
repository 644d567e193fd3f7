"""The checks of test_vjp are checked: both must catch planted faults, where the geometry lets a fault show."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from netc.grad import engine, normalization, pooling
from netc.grad.engine import Table
from netc.grad.table import VJP
from netc.graph import GraphBuilder, Site
from netc.rewrite import max_pool_gradient
from netc.rewrite.passes import RULES, Platform, Target, optimize_step
from netc.rewrite.replay import ReplayRule
from tests.cases.primitives import PRIMITIVES, Primitive
from tests.oracle import DIRECTION, FLOAT32, mutant
from tests.test_vjp import FLOAT, Engine, graph_of, oracle_error, slope_error

ROWS = {row.id: row for row in PRIMITIVES}


def caught(row: Primitive, table: Table = VJP, gradients: Engine = engine.gradients) -> tuple[bool, bool]:
    """Return whether the comparison with PyTorch, and the slope along a direction, catch a fault."""
    return not oracle_error(row, table, gradients)[0] < FLOAT32, not slope_error(row, table, gradients) < DIRECTION


def scaled(op: str, index: int) -> Table:
    """Return the table with one rule wrong by 0.1 %."""
    rules = list(VJP[op])
    right = rules[index]
    assert right is not None

    def wrong(g: GraphBuilder, site: Site, dy: ir.Value) -> ir.Value:
        dx: ir.Value = right(g, site, dy) * 1.001
        return dx

    rules[index] = wrong
    return {**VJP, op: tuple(rules)}


@pytest.mark.parametrize(
    ("row", "index"),
    [
        ("Tanh", 0),
        ("Conv-grouped, strided, unreached", 0),
        ("Conv-grouped, strided, unreached", 1),
        ("Conv-grouped, strided, unreached", 2),
        ("MaxPool-padded", 0),
        ("BatchNormalization-4-D, training", 0),
        ("Gemm-A B", 1),
    ],
)
def test_a_gradient_wrong_by_a_thousandth_is_caught(row: str, index: int) -> None:
    assert caught(ROWS[row]) == (False, False)
    assert caught(ROWS[row], scaled(ROWS[row].op, index)) == (True, True)


@pytest.mark.parametrize("geometry", ["overlapping", "overlapping densely", "overlapping along one axis", "padded"])
def test_a_pooling_gradient_that_overwrites_is_caught(tmp_path: Path, geometry: str) -> None:
    overwriting = mutant(tmp_path, pooling, ('"none" if apart else "add"', '"none"'))
    table = {**VJP, "MaxPool": (overwriting.max_pool_dx,)}
    assert caught(ROWS[f"MaxPool-{geometry}"], table) == (True, True)


def test_windows_that_do_not_overlap_cannot_catch_it(tmp_path: Path) -> None:
    """Kernel 2 stride 2 hides the fault: this is why the table has overlapping windows."""
    overwriting = mutant(tmp_path, pooling, ('"none" if apart else "add"', '"none"'))
    table = {**VJP, "MaxPool": (overwriting.max_pool_dx,)}
    assert caught(ROWS["MaxPool-apart"], table) == (False, False)


def test_windows_that_interleave_are_not_apart(tmp_path: Path) -> None:
    """Kernel 2 stride 2 dilation 2 overlaps: a rule that forgets dilation is caught."""
    forgetful = mutant(tmp_path, pooling, ("d * (k - 1) < s", "k <= s"))
    table = {**VJP, "MaxPool": (forgetful.max_pool_dx,)}
    assert caught(ROWS["MaxPool-dilated, windows interleave"], table) == (True, True)


@pytest.mark.parametrize("row", ["Mul-two readers: a square", "Add-three readers", "Concat-one value twice"])
def test_an_engine_that_overwrites_is_caught(tmp_path: Path, row: str) -> None:
    overwriting = mutant(tmp_path, engine, ("dx if known is None else known + dx", "dx"))
    assert caught(ROWS[row], gradients=overwriting.gradients) == (True, True)


def test_one_reader_cannot_catch_it(tmp_path: Path) -> None:
    overwriting = mutant(tmp_path, engine, ("dx if known is None else known + dx", "dx"))
    assert caught(ROWS["Mul-same"], gradients=overwriting.gradients) == (False, False)


def test_batch_statistics_taken_for_constants_are_caught(tmp_path: Path) -> None:
    """Leaving out how mean and variance depend on the input is the classic fault of batch normalization."""
    constant = mutant(tmp_path, normalization, ('if not site.attribute("training_mode"):', "if True:"))
    rules = (constant.batch_normalization_dx, *VJP["BatchNormalization"][1:])
    table = {**VJP, "BatchNormalization": rules}
    assert caught(ROWS["BatchNormalization-4-D, training"], table) == (True, True)
    assert caught(ROWS["BatchNormalization-4-D, inference"], table) == (False, False)


def test_a_missing_gradient_is_caught() -> None:
    silent: Table = {**VJP, "Exp": ()}
    with pytest.raises(AssertionError, match="missing"):
        oracle_error(ROWS["Exp"], silent)


def test_a_wrong_shape_or_type_is_refused_by_the_engine() -> None:
    for rule in (lambda g, n, dy: g.Transpose(dy), lambda g, n, dy: g.Cast(dy, to=ir.DataType.FLOAT16)):
        with pytest.raises(AssertionError, match="gradient of x0 is"):
            oracle_error(ROWS["Exp"], {**VJP, "Exp": (rule,)})


def test_nan_is_caught() -> None:
    broken: Table = {**VJP, "Exp": (lambda g, n, dy: dy * float(np.nan),)}
    assert caught(ROWS["Exp"], broken) == (True, True)


@cache
def operators(row: Primitive) -> set[str]:
    """Return the operators of a row with its gradients, as differentiated."""
    return {node.op_type for node in graph_of(row, FLOAT)}


@pytest.mark.parametrize(
    ("target", "op", "rule"),
    [
        (target, op, rule)
        for target, rules in RULES.items()
        for op, alternatives in rules.items()
        for rule in alternatives
    ],
)
def test_every_lowering_takes_some_row(
    monkeypatch: pytest.MonkeyPatch, target: Target, op: str, rule: ReplayRule
) -> None:
    """Otherwise the rows would say nothing of it."""
    taken: list[bool] = []

    def recorded(g: GraphBuilder, site: Site, inputs: Any) -> Sequence[ir.Value] | None:
        outputs = rule(g, site, inputs)
        taken.append(outputs is not None)
        return outputs

    def takes(row: Primitive) -> bool:
        taken.clear()
        optimize_step(graph_of(row, FLOAT), Platform(target))
        return any(taken)

    monkeypatch.setitem(RULES[target], op, [recorded])
    likely_first = sorted(PRIMITIVES, key=lambda row: op not in operators(row))
    row = next((row for row in likely_first if takes(row)), None)
    assert row is not None, "no row has a place for it"
    assert oracle_error(row, target=target)[0] < FLOAT32, row.id


def test_a_lowering_with_another_rule_for_ties_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = mutant(tmp_path, max_pool_gradient, ("np.array([[4, 3], [2, 1]])", "np.array([[1, 2], [3, 4]])"))
    monkeypatch.setitem(RULES["cpu"], "ScatterElements", [last.without_indices])
    assert oracle_error(ROWS["MaxPool-apart"], target="cpu")[0] < FLOAT32, "without ties nothing shows"
    assert not oracle_error(ROWS["MaxPool-ties, apart"], target="cpu")[0] < FLOAT32
