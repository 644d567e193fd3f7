"""The layout with the batch innermost: where it begins and ends, and that it computes what it replaces."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from netc.graph import GraphBuilder, Site, shape_of
from netc.rewrite import batch_innermost
from netc.rewrite.passes import Platform, optimize_step
from netc.rewrite.replay import Inputs, ReplayRule
from tests.oracle import error, mutant
from tests.runs import in_ort
from tests.test_lowerings import TILES, Forward, conv, norm, step

SEED = 5
X, W = (16, 3, 12, 14), (3, 3, 3, 3)
SMALL = np.array([-1, 3, 5, 6], np.int64)


def pooled(g: GraphBuilder, x: ir.Value, w: ir.Value) -> ir.Value:
    return g.MaxPool(g.Conv(x, w), **TILES)


def repeated(g: GraphBuilder, x: ir.Value, w: ir.Value) -> ir.Value:
    return g.MaxPool(g.Conv(g.Relu(g.Conv(x, w)), w), **TILES)


def shifted(g: GraphBuilder, x: ir.Value, w: ir.Value) -> ir.Value:
    """Scale and shift by a number a channel, one with and one without an axis for the samples, and one for all."""
    shift = g.Reshape(g.ReduceSum(w, np.array([1, 2, 3], np.int64), keepdims=0), np.array([3, 1, 1], np.int64))
    scale = g.ReduceSum(x, np.array([0, 2, 3], np.int64), keepdims=1)
    return g.Mul(g.Add(g.Mul(g.Conv(x, w), shift), scale), g.constant(np.float32(0.5)))


def joined(g: GraphBuilder, x: ir.Value, w: ir.Value) -> ir.Value:
    """Add what comes from outside the region, and leave the region by two ways."""
    y = pooled(g, x, w)
    y = g.Add(y, g.MaxPool(x, kernel_shape=[2, 2], strides=[2, 2], dilations=[2, 2]))
    return g.Mul(g.Transpose(y, perm=[0, 1, 3, 2]), g.Transpose(g.Relu(y), perm=[0, 1, 3, 2]))


def masked(g: GraphBuilder, x: ir.Value, w: ir.Value) -> ir.Value:
    """Multiply by a mask that was drawn for samples outermost, as dropout does."""
    y = g.Conv(x, w)
    mask = np.random.default_rng(SEED).integers(0, 2, [int(d) for d in shape_of(y)])
    return g.Mul(y, g.constant(mask, g.dtype))


EXACT: dict[str, tuple[Forward, Sequence[int], Sequence[int]]] = {
    "one convolution": (conv(), X, W),
    "one channel": (conv(), (16, 1, 9, 8), (4, 1, 3, 2)),
    "one channel, dilated": (conv(dilations=[2, 1]), (16, 1, 9, 8), (4, 1, 3, 2)),
    "two channels, dilated": (conv(dilations=[1, 2]), (17, 2, 9, 8), (4, 2, 2, 3)),
    "pooled": (pooled, X, W),
    "odd planes pooled": (pooled, (16, 3, 9, 9), W),
    "repeated": (repeated, X, W),
    "shifted": (shifted, X, W),
    "joined": (joined, (16, 3, 10, 10), (3, 3, 3, 3)),
    "masked": (masked, X, W),
}


def places(graph: ir.Graph) -> list[ir.Node]:
    return [node for node in graph if node.metadata_props.get("netc.rewrite") == "batch_innermost"]


@pytest.mark.parametrize("name", EXACT)
def test_small_whole_numbers_give_the_same_gradients(name: str) -> None:
    """Whatever the order of sums, below 2^24 they are exact in float32; most windows hold ties."""
    forward, x, w = EXACT[name]
    rng = np.random.default_rng(SEED)
    feed = {"x": rng.integers(-1, 2, x).astype(np.float32), "w": rng.integers(-1, 2, w).astype(np.float32)}
    assert places(optimize_step(step(forward, tuple(x), tuple(w)), Platform("cpu")))
    plain, fast = (in_ort(step(forward, tuple(x), tuple(w)), feed, target) for target in (None, "cpu"))
    for output, value in plain.items():
        np.testing.assert_array_equal(fast[output], value, err_msg=output)


def recorded(rule: ReplayRule, taken: set[ReplayRule]) -> ReplayRule:
    def wrapped(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
        outputs = rule(g, site, inputs)
        if outputs is not None:
            taken.add(rule)
        return outputs

    return wrapped


def test_every_rule_takes_some_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the cases would say nothing of it."""
    every = {rule for rules in batch_innermost.RULES.values() for rule in rules}
    taken: set[ReplayRule] = set()
    for op, rules in batch_innermost.RULES.items():
        monkeypatch.setitem(batch_innermost.RULES, op, [recorded(rule, taken) for rule in rules])
    for forward, x, w in [*EXACT.values(), (normalized, X, W)]:
        optimize_step(step(forward, tuple(x), tuple(w)), Platform("cpu"))
    assert taken == every


def test_another_rule_for_ties_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = mutant(tmp_path, batch_innermost, ("g.GreaterOrEqual(first, second)", "g.Greater(first, second)"))
    monkeypatch.setitem(batch_innermost.RULES, "ScatterElements", [last.max_pool_gradient])
    with pytest.raises(AssertionError, match="dx"):
        test_small_whole_numbers_give_the_same_gradients("pooled")


def normalized(g: GraphBuilder, x: ir.Value, w: ir.Value) -> ir.Value:
    scale = g.ReduceMean(w, np.array([1, 2, 3], np.int64), keepdims=0)
    return g.MaxPool(g.Sigmoid(norm(g, g.Conv(x, w), scale)), **TILES)


def test_a_region_with_batch_normalization_is_equal_to_rounding() -> None:
    """1e-5: float32 sums in another order, behind a division by a standard deviation."""
    rng = np.random.default_rng(SEED)
    feed = {"x": rng.standard_normal(X), "w": rng.standard_normal(W)}
    plain, fast = (in_ort(step(normalized, X, W), feed, target) for target in (None, "cpu"))
    assert all(error(fast[output], value) < 1e-5 for output, value in plain.items())
    nodes = list(optimize_step(step(normalized, X, W), Platform("cpu")))
    assert "channel_affine" in {node.metadata_props.get("netc.rewrite") for node in nodes}


@pytest.mark.parametrize(
    ("reason", "forward", "x", "w"),
    [
        ("padded", conv(pads=[1, 1, 1, 1]), X, W),
        ("strided", conv(strides=[2, 2]), X, W),
        ("grouped", conv(group=3), X, (3, 1, 3, 3)),
        ("1x1", conv(), X, (3, 3, 1, 1)),
        ("few samples", conv(), (15, *X[1:]), W),
        ("one dimension", conv(), (16, 3, 9), (3, 3, 3)),
    ],
)
def test_no_region_begins(reason: str, forward: Forward, x: tuple[int, ...], w: tuple[int, ...]) -> None:
    assert not places(optimize_step(step(forward, x, w), Platform("cpu"))), reason


def test_large_convolutions_begin_no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = 16 * 27 * 10 * 12
    for most, begins in ((columns, True), (columns - 1, False)):
        monkeypatch.setattr(batch_innermost, "MOST_COLUMNS", most)
        assert bool(places(optimize_step(step(conv(), X, W), Platform("cpu")))) is begins


def test_tensors_are_laid_out_anew_at_the_borders_alone() -> None:
    """x and the cotangent of the pooled planes go in, and the gradient comes out."""
    graph = optimize_step(step(repeated, X, W), Platform("cpu"))
    layouts = [node for node in graph if node.op_type == "Transpose"]
    borders = [n for n in layouts if list(n.attributes["perm"].as_ints()) in ([1, 2, 3, 0], [3, 0, 1, 2])]
    images = [n for n in borders if shape_of(n.outputs[0])[-1] in (X[0], X[3])]
    assert sorted(shape_of(n.outputs[0]) for n in images) == [[3, 4, 5, 16], [3, 12, 14, 16], [16, 3, 12, 14]]
