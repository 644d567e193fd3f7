"""The builder, the verifier, the rules of emitted graphs, and rewriting by replay."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from netc.graph import GraphBuilder, Origin, Site, constant_value, shape_of
from netc.graph.builder import OPSET
from netc.graph.rules import FORBIDDEN, broken_rule
from netc.graph.verify import VerificationError, verify
from netc.rewrite.passes import Platform, clean, optimize_step
from netc.rewrite.replay import Rules, replay
from tests.oracle import FLOAT32, TARGETS, Arrays, ort_runner, to_model, worst

FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64


def small() -> GraphBuilder:
    """Return a graph: y = (x + 1) * (x + 1), z = exp(x), and a node that nobody reads."""
    g = GraphBuilder("small")
    x = g.input("x", FLOAT, [2, 3])
    with g.origin(Origin("layer", "forward", "f.yaml:3")), g.arithmetic():
        y = (x + 1.0) * (x + 1.0)
        z = g.Exp(x)
        g.Neg(z)
    g.output("y", y)
    g.output("z", z)
    return g


def expected(x: np.ndarray) -> Arrays:
    return {"y": (x + 1) ** 2, "z": np.exp(x)}


def operators(graph: ir.Graph) -> list[str]:
    return [node.op_type for node in graph]


def interface(graph: ir.Graph) -> list[tuple[str | None, Any, list[int | str]]]:
    return [(value.name, value.dtype, shape_of(value)) for value in (*graph.inputs, *graph.outputs)]


# ------------------------------------------------------------------------------------------------------- builder


def test_values_are_typed_by_the_standard() -> None:
    g = GraphBuilder("g")
    x = g.input("x", FLOAT, ["N", 3, 8, 8])
    y = g.Conv(x, np.zeros((4, 3, 3, 3), np.float32), strides=[2, 2])
    assert (y.dtype, shape_of(y)) == (FLOAT, ["N", 4, 3, 3])
    assert shape_of(g.Reshape(y, np.array([0, -1]))) == ["N", 36]
    assert g.ArgMax(y, axis=1).dtype == INT64


def test_nodes_are_named_after_their_origin() -> None:
    nodes = list(small().graph)
    assert [node.name for node in nodes] == [
        "layer/forward/Add",
        "layer/forward/Add_1",
        "layer/forward/Mul",
        "layer/forward/Exp",
        "layer/forward/Neg",
    ]
    assert nodes[0].metadata_props == {"netc.layer": "layer", "netc.part": "forward", "netc.spec": "f.yaml:3"}


@pytest.mark.parametrize(
    ("formula", "result"),
    [
        (lambda x: x + 2.0, [3.0, 6.0]),
        (lambda x: 2.0 - x, [1.0, -2.0]),
        (lambda x: x - 2, [-1.0, 2.0]),
        (lambda x: 3 * x, [3.0, 12.0]),
        (lambda x: x / 2.0, [0.5, 2.0]),
        (lambda x: 2 / x, [2.0, 0.5]),
        (lambda x: -x, [-1.0, -4.0]),
        (lambda x: x * np.array([2.0, 3.0], np.float32), [2.0, 12.0]),
    ],
)
def test_arithmetic(formula: Callable[[ir.Value], ir.Value], result: list[float]) -> None:
    g = GraphBuilder("g")
    x = g.input("x", FLOAT, [2])
    with g.arithmetic():
        y = formula(x)
    assert y.dtype == FLOAT
    g.output("y", y)
    assert ort_runner(to_model(g.graph))({"x": np.array([1.0, 4.0])})["y"].tolist() == result


def test_equal_constants_are_one_and_take_the_type_beside_them() -> None:
    g = GraphBuilder("g")
    x, n = g.input("x", FLOAT, [2]), g.input("n", INT64, [2])
    assert g.constant(1.0) is g.constant(1.0)
    assert g.constant(1.0) is not g.constant(np.array([1.0], np.float32))
    for value, beside in ((g.Add(x, 1), FLOAT), (g.Add(n, 1), INT64)):
        assert [v.dtype for v in (value.producer() or pytest.fail("no producer")).inputs if v] == [beside, beside]
    assert constant_value(x) is None
    with pytest.raises(AssertionError, match="stands beside a value of type"):
        g.Add(n, 0.5)


def test_an_invalid_node_names_itself_and_its_inputs() -> None:
    g = GraphBuilder("g")
    a, b = g.input("a", FLOAT, [2, 3]), g.input("b", FLOAT, [2, 3])
    with pytest.raises(AssertionError, match=r"netc/forward/MatMul is not a valid MatMul of a: FLOAT\[2, 3\], b"):
        g.MatMul(a, b)
    with pytest.raises(AttributeError):
        g.no_operator(a)


def test_names_are_unique() -> None:
    g = GraphBuilder("g")
    x = g.input("x", FLOAT, [2])
    with pytest.raises(AssertionError, match="x is declared twice"):
        g.input("x", FLOAT, [2])
    g.output("y", g.Exp(x))
    with pytest.raises(AssertionError, match="y collides"):
        g.output("y", g.Neg(x))


def test_what_is_no_node_of_its_own_is_copied_into_an_output() -> None:
    g = GraphBuilder("g")
    x = g.input("x", FLOAT, [2])
    y = g.Exp(x)
    for name, value in {"of input": x, "of constant": g.constant([1.0, 2.0]), "first": y, "second": y}.items():
        g.output(name, value)
    assert operators(g.graph) == ["Exp", "Identity", "Identity", "Identity"]
    e = np.exp([0.0, 1.0])
    result = ort_runner(to_model(g.graph))({"x": np.array([0.0, 1.0])})
    wanted = {"of input": np.array([0.0, 1.0]), "of constant": np.array([1.0, 2.0]), "first": e, "second": e}
    assert worst(result, wanted)[0] < FLOAT32


def test_a_site_knows_defaults_and_omitted_inputs() -> None:
    g = GraphBuilder("g")
    x = g.input("x", FLOAT, [1, 1, 4, 4])
    clip = Site(g.Clip(x, None, 1.0).producer() or pytest.fail("no producer"))
    assert (clip.given(1), clip.given(7), len(clip.x)) == (None, None, 2)
    pool = Site(g.MaxPool(x, kernel_shape=[2, 2]).producer() or pytest.fail("no producer"))
    assert (pool.attribute("kernel_shape"), pool.attribute("strides"), pool.attribute("ceil_mode")) == ([2, 2], None, 0)
    indices = g.widen(pool.node, 2)[1]
    assert (indices.dtype, shape_of(indices)) == (INT64, [1, 1, 3, 3])
    assert len(g.widen(pool.node, 2)) == 2


# ------------------------------------------------------------------------------------------------------ verifier


def break_type(g: GraphBuilder) -> None:
    g.graph.outputs[0].dtype = ir.DataType.DOUBLE


def break_shape(g: GraphBuilder) -> None:
    g.graph.outputs[1].shape = ir.Shape([3, 2])


def drop_type(g: GraphBuilder) -> None:
    g.graph.outputs[1].type = None


def break_order(g: GraphBuilder) -> None:
    first = next(iter(g.graph))
    g.graph.remove(first)
    g.graph.append(first)


def break_name(g: GraphBuilder) -> None:
    nodes = list(g.graph)
    nodes[0].outputs[0].name = nodes[1].outputs[0].name


def drop_name(g: GraphBuilder) -> None:
    next(iter(g.graph)).outputs[0].name = None


def clash_with_input(g: GraphBuilder) -> None:
    g.graph.outputs[0].name = "x"


def foreign_input(g: GraphBuilder) -> None:
    next(iter(g.graph)).replace_input_with(0, small().graph.inputs[0])


def foreign_output(g: GraphBuilder) -> None:
    g.graph.outputs[0] = ir.Value(name="y", type=ir.TensorType(FLOAT), shape=ir.Shape([2, 3]))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (break_type, "y is stated as DOUBLE"),
        (break_shape, r"z is stated as FLOAT\[3, 2\], inferred as \[2, 3\]"),
        (drop_type, "z has no type"),
        (break_order, "is used before it is computed"),
        (break_name, "stands for two values"),
        (drop_name, "the name None stands for"),
        (clash_with_input, "the name 'x' stands for two values"),
        (foreign_input, "x is used before it is computed"),
        (foreign_output, "output y is computed by no node"),
    ],
)
def test_the_verifier_catches(fault: Callable[[GraphBuilder], None], message: str) -> None:
    g = small()
    verify(g.graph, "building")
    fault(g)
    with pytest.raises(VerificationError, match=message) as caught:
        verify(g.graph, "planting a fault")
    assert str(caught.value).startswith("after planting a fault: ")


# --------------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize("op", FORBIDDEN)
def test_forbidden_operators_are_standard_and_refused(op: str) -> None:
    assert onnx.defs.get_schema(op, OPSET).name == op
    assert broken_rule(ir.Node("", op, []), static=False, target="cpu") == FORBIDDEN[op]


def test_other_broken_rules() -> None:
    g = GraphBuilder("g")
    x = g.input("x", FLOAT, ["N", 2])
    channels = [np.ones(2, np.float32)] * 4
    training = g.ops("BatchNormalization", x, *channels, num_outputs=3, training_mode=1)[0].producer()
    own = [g.Exp(g.constant(np.full(2, n, np.float32))) for n in (1.0, 2.0)]  # running values of its own
    private = g.ops("BatchNormalization", x, *channels[:2], *own, num_outputs=3, training_mode=1)[0].producer()
    given = g.BatchNormalization(x, *channels).producer()
    symbolic, shape = g.Exp(x).producer(), g.Shape(x).producer()
    static = g.Exp(g.constant([1.0])).producer()
    assert training is not None
    assert given is not None
    assert symbolic is not None
    assert shape is not None
    assert static is not None
    assert "training mode" in (broken_rule(training, static=False, target="cuda") or "")
    assert "overwrites the running values" in (broken_rule(training, static=False, target="cpu") or "")
    assert private is not None
    assert broken_rule(private, static=False, target="cpu") is None
    g.Exp(own[0])
    assert "overwrites the running values" in (broken_rule(private, static=False, target="cpu") or "")
    assert broken_rule(given, static=False, target="cuda") is None
    assert broken_rule(symbolic, static=False, target="cuda") is None
    assert "is not static" in (broken_rule(symbolic, static=True, target="cuda") or "")
    assert broken_rule(shape, static=False, target="cuda") is None
    assert "static shapes only" in (broken_rule(shape, static=True, target="cuda") or "")
    assert broken_rule(static, static=True, target="cuda") is None
    assert "domain" in (broken_rule(ir.Node("com.microsoft", "Gelu", []), static=False, target="cuda") or "")


# ------------------------------------------------------------------------------------------------------ rewrites

X = np.array([[0.5, -1.0, 2.0], [0.0, 3.0, -0.25]])


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda graph: replay(graph, {}).graph,
        clean,
        *(partial(optimize_step, platform=Platform(target)) for target in TARGETS),
    ],
    ids=["replay", "clean", *TARGETS],
)
def test_rewrites_keep_interface_and_meaning(rewrite: Callable[[ir.Graph], ir.Graph]) -> None:
    g = small()
    before = interface(g.graph)
    after = rewrite(g.graph)
    assert interface(after) == before
    assert worst(ort_runner(to_model(after))({"x": X}), expected(X))[0] < FLOAT32


def test_clean_removes_what_repeats_and_what_nobody_reads() -> None:
    assert operators(clean(small().graph)) == ["Add", "Mul", "Exp"]


def test_clean_keeps_every_output_apart() -> None:
    """Outputs that compute the same, or copy an input, stay outputs under their names."""
    g = GraphBuilder("g")
    x = g.input("x", FLOAT, [2])
    for name, value in {"a": g.Exp(x), "b": g.Exp(x), "c": x, "d": g.constant([1.0, 2.0]), "e": g.Identity(x)}.items():
        g.output(name, value)
    before = interface(g.graph)
    after = clean(g.graph)
    assert interface(after) == before
    result = ort_runner(to_model(after))({"x": np.array([0.5, -1.0])})
    e, copy = np.exp([0.5, -1.0]), np.array([0.5, -1.0])
    assert worst(result, {"a": e, "b": e, "c": copy, "d": np.array([1.0, 2.0]), "e": copy})[0] < FLOAT32


def test_replay_keeps_origins_and_applies_rules() -> None:
    def double(g: GraphBuilder, site: Site, inputs: Any) -> list[ir.Value]:
        return [g.Mul(inputs[0], 2.0)]

    rules: Rules = {"Exp": [lambda g, site, inputs: None, double], "Neg": [lambda g, site, inputs: None]}
    after = replay(small().graph, rules).graph
    verify(after, "replay")
    assert operators(after) == ["Add", "Add", "Mul", "Mul", "Neg"]
    assert all(node.metadata_props["netc.spec"] == "f.yaml:3" for node in after)
    result = ort_runner(to_model(after))({"x": X})
    assert worst(result, {"y": (X + 1) ** 2, "z": 2 * X})[0] < FLOAT32


def test_replay_of_omitted_inputs_and_several_outputs() -> None:
    g = GraphBuilder("g")
    x = g.input("x", FLOAT, [1, 1, 4, 4])
    y, indices = g.ops("MaxPool", g.Clip(x, None, 0.5), num_outputs=2, kernel_shape=[2, 2], strides=[2, 2])
    g.output("y", y)
    g.output("indices", indices)
    after = replay(g.graph, {}).graph
    assert interface(after) == interface(g.graph)
    feed = {"x": np.linspace(-1, 1, 16).reshape(1, 1, 4, 4)}
    before, result = ort_runner(to_model(g.graph))(feed), ort_runner(to_model(after))(feed)
    assert all(np.array_equal(before[name], result[name]) for name in before)


def test_expanding_batch_normalization_needs_statistics_of_the_batch() -> None:
    g = GraphBuilder("g")
    x = g.input("x", FLOAT, [4, 2])
    g.output("y", g.ops("BatchNormalization", x, *[np.ones(2, np.float32)] * 4, num_outputs=3, training_mode=1)[0])
    with pytest.raises(AssertionError, match="momentum 0"):
        optimize_step(g.graph, Platform("web"))
