"""The lowerings for CUDA fire where they should, and compute what they replace in any runtime."""

import numpy as np
import onnx_ir as ir
import pytest

from netc.build import build
from netc.graph import GraphBuilder, constant_value, shape_of
from netc.rewrite.matrix_weight_gradient import BLOCKS, MOST_JOINED, groups_of
from netc.rewrite.passes import Platform, optimize_step
from netc.spec.load import load
from netc.spec.overrides import apply_override
from netc.spec.text import read_tree
from tests.oracle import error, ort_runner, to_model
from tests.test_lowerings import CONVOLUTIONS, Forward, both, conv, step
from tests.zoo import SPECS

SEED = 13
# 1e-5: the same few hundred products, summed in float32 in another order.
ROUNDING = 1e-5

EXACT = {
    **CONVOLUTIONS,
    "one channel": (conv(), (2, 1, 5, 5), (3, 1, 2, 2)),
    "dilated": (conv(dilations=[2, 2]), (4, 4, 9, 7), (4, 4, 2, 3)),
    "strided and dilated": (conv(dilations=[2, 1], strides=[1, 2]), (4, 4, 9, 7), (4, 4, 2, 3)),
    "one group for all samples": (conv(pads=[1, 1, 1, 1]), (2, 64, 3, 3), (2048, 64, 3, 3)),
    "groups of several samples": (conv(), (12, 64, 4, 4), (64, 64, 3, 3)),
    "more taps than one Concat joins": (conv(pads=[3, 3, 3, 3], strides=[2, 2]), (3, 3, 9, 9), (4, 3, 7, 7)),
}


def operators(forward: Forward, x: tuple[int, ...], w: tuple[int, ...]) -> list[str]:
    return [node.op_type for node in optimize_step(step(forward, x, w), Platform("cuda"))]


@pytest.mark.parametrize("name", EXACT)
def test_the_weight_gradient_is_a_product(name: str) -> None:
    forward, x, w = EXACT[name]
    assert operators(forward, x, w).count("MatMul") == 1
    assert operators(forward, x, w).count("Conv") == 1, "that of the forward pass"
    plain, fast = both(forward, x, w, target="cuda")
    for output, value in plain.items():
        assert error(fast[output], value) < ROUNDING, output


@pytest.mark.parametrize(
    ("reason", "forward", "x", "w"),
    [
        ("grouped", conv(group=2), (2, 4, 7, 7), (4, 2, 2, 2)),
        ("one dimension", conv(), (2, 4, 7), (3, 4, 2)),
    ],
)
def test_other_weight_gradients_stay_convolutions(
    reason: str, forward: Forward, x: tuple[int, ...], w: tuple[int, ...]
) -> None:
    assert "MatMul" not in operators(forward, x, w), reason


def test_no_concat_has_more_inputs_than_a_capture_takes() -> None:
    forward, x, w = EXACT["more taps than one Concat joins"]
    nodes = optimize_step(step(forward, x, w), Platform("cuda"))
    joined = [len(node.inputs) for node in nodes if node.op_type == "Concat"]
    assert sorted(joined) == [2, 49 - MOST_JOINED, MOST_JOINED]


@pytest.mark.parametrize(
    ("n", "rows", "columns", "groups"), [(128, 144, 16, 128), (12, 576, 64, 12), (60, 576, 128, 15), (2, 4608, 512, 1)]
)
def test_the_groups_share_the_work(n: int, rows: int, columns: int, groups: int) -> None:
    """As few as give every block of threads of a large GPU a tile, or one for each sample."""
    assert groups_of(n, rows, columns) == groups
    tiles = -(-rows // 64) * -(-columns // 64)
    assert groups == n or groups * tiles >= BLOCKS


@pytest.mark.parametrize("operator", ["ReduceSum", "ReduceMean"])
@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (6, 5, 7), (2, 3, 2, 2, 2)])
def test_reductions_to_channels_have_two_steps(operator: str, shape: tuple[int, ...]) -> None:
    g = GraphBuilder("reduce")
    x = g.input("x", g.dtype, shape)
    axes = np.array([0, *range(2, len(shape))], np.int64)
    g.output("y", g.op(operator, x, axes, keepdims=0))
    graph = optimize_step(g.graph, Platform("cuda"))
    reduced = [constant_value(node.inputs[1]) for node in graph if node.inputs[1] is not None]
    assert [list(each) for each in reduced if each is not None] == [list(range(2, len(shape))), [0]]
    values = np.random.default_rng(SEED).standard_normal(shape)
    expected = (np.sum if operator == "ReduceSum" else np.mean)(values, axis=tuple(axes))
    assert error(ort_runner(to_model(graph))({"x": values})["y"], expected) < ROUNDING


@pytest.mark.parametrize(("axes", "keepdims"), [([0, 1], 0), ([2, 3], 0), ([0, 2, 3], 1)])
def test_other_reductions_stay_as_they_are(axes: list[int], keepdims: int) -> None:
    g = GraphBuilder("reduce")
    x = g.input("x", g.dtype, (2, 3, 4, 5))
    g.output("y", g.ReduceSum(x, np.array(axes, np.int64), keepdims=keepdims))
    assert len(list(optimize_step(g.graph, Platform("cuda")))) == 1


def test_a_constant_output_is_computed_exactly() -> None:
    g = GraphBuilder("constant")
    steps = g.input("step", ir.DataType.INT64, ())
    g.output("rate", g.constant(np.array(0.1, np.float32)))
    g.output("next", g.Add(steps, g.constant(1)))
    graph = optimize_step(g.graph, Platform("cuda"))
    assert all(node.op_type != "Identity" for node in graph)
    for step_number in (0, 1, 2**62):
        assert ort_runner(to_model(graph))({"step": np.array(step_number)})["rate"] == np.float32(0.1)


@pytest.mark.parametrize("name", ["lenet_dsn", "lenet_bn_dropout", "mlp", "resnet_tiny"])
def test_a_capture_can_take_the_step(name: str) -> None:
    """Shapes are fixed, every output is computed from an input, and no Concat is too wide."""
    tree = apply_override(read_tree(SPECS / f"{name}.yaml"), "solver.lr_policy=fixed")
    graph = build(load(tree, SPECS), "cuda").programs["train"].graph
    computed = set(graph.inputs)
    for node in graph:
        assert node.op_type != "Concat" or len(node.inputs) <= MOST_JOINED, node.name
        if computed.intersection(node.inputs):
            computed.update(node.outputs)
        for value in node.outputs:
            assert all(isinstance(axis, int) for axis in shape_of(value)), value.name
    assert computed.issuperset(graph.outputs)
