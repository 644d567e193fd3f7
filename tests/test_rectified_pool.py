"""Pooling before the rectifier: equal numbers forward and backward, wherever nothing else reads the rectifier."""

import numpy as np
import onnx_ir as ir
import pytest

from netc.grad.engine import gradients
from netc.grad.table import VJP
from netc.graph import GraphBuilder, Origin, shape_of
from netc.rewrite import rectified_pool
from netc.rewrite.passes import Platform, Target, clean, optimize_step
from netc.rewrite.replay import replay
from tests.oracle import Arrays, ort_runner, to_model

SEED = 5
X = (3, 2, 8, 6)
POOLS = {
    "tiles": {"kernel_shape": [2, 2], "strides": [2, 2]},
    "overlapping": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "unequal": {"kernel_shape": [3, 2], "strides": [1, 2], "pads": [1, 0, 0, 1]},  # half of the elements
    "dilated": {"kernel_shape": [2, 2], "strides": [2, 2], "dilations": [2, 2]},
}
RNG = np.random.default_rng(SEED)
IMAGES = {
    "noise": RNG.standard_normal(X),
    "ties": np.floor(2 * RNG.standard_normal(X)),
    "all below": -np.abs(RNG.standard_normal(X)),
    "zeros": np.zeros(X),
    "minus zeros": -np.zeros(X),
}


def step(pool: str, read_twice: bool = False, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Graph:
    """Build y = c * MaxPool(Relu(x)) and the gradient of its sum by x, c being a cotangent of random numbers."""
    g = GraphBuilder("step", dtype)
    x = g.input("x", dtype, X)
    rectified = g.Relu(x)
    y = g.MaxPool(rectified, **POOLS[pool])
    weights = np.random.default_rng(SEED + 1).standard_normal([int(d) for d in shape_of(y)])
    objective = g.ReduceSum(g.Mul(y, g.constant(weights.astype(dtype.numpy()))), keepdims=0)
    if read_twice:
        objective = g.Add(objective, g.ReduceSum(rectified, keepdims=0))
    g.output("dx", gradients(g, VJP, objective, [x])[x])
    g.output("y", y)
    return g.graph


def moved(graph: ir.Graph) -> ir.Graph:
    return clean(replay(graph, rectified_pool.RULES).graph)


def rectified_shapes(graph: ir.Graph) -> list[list[int]]:
    return [[int(d) for d in shape_of(node.outputs[0])] for node in graph if node.op_type in ("Relu", "Greater")]


def run(graph: ir.Graph, image: np.ndarray) -> Arrays:
    return ort_runner(to_model(graph))({"x": image})


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("pool", POOLS)
def test_both_orders_give_equal_numbers(pool: str, image: str) -> None:
    graph = moved(step(pool))
    assert all(shape != list(X) for shape in rectified_shapes(graph)), "nothing rectifies the whole image"
    expected, found = run(clean(step(pool)), IMAGES[image]), run(graph, IMAGES[image])
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("pool", POOLS)
def test_both_orders_give_equal_numbers_in_float16(pool: str) -> None:
    graph = step(pool, dtype=ir.DataType.FLOAT16)
    expected, found = run(clean(replay(graph, {}).graph), IMAGES["noise"]), run(moved(graph), IMAGES["noise"])
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("target", ["cpu", "cuda", "openvino", "web"])
def test_every_target_pools_first(target: Target) -> None:
    graph = optimize_step(step("tiles"), Platform(target))
    assert rectified_shapes(graph) == [[3, 2, 4, 3]] * 2
    np.testing.assert_array_equal(run(graph, IMAGES["noise"])["dx"], run(moved(step("tiles")), IMAGES["noise"])["dx"])


def test_a_rectifier_that_others_read_stays_in_front() -> None:
    graph = moved(step("tiles", read_twice=True))
    assert rectified_shapes(graph) == [list(X)] * 2


def test_a_rectifier_that_is_an_output_stays_in_front() -> None:
    g = GraphBuilder("given")
    rectified = g.Relu(g.input("x", g.dtype, X))
    g.output("y", g.MaxPool(rectified, **POOLS["tiles"]))
    g.output("rectified", rectified)
    assert rectified_shapes(moved(g.graph)) == [list(X)]


def test_a_frozen_rectifier_is_moved_too() -> None:
    """Nothing goes back through it: only the forward pass is there."""
    g = GraphBuilder("frozen")
    g.output("y", g.MaxPool(g.Relu(g.input("x", g.dtype, X)), **POOLS["tiles"]))
    assert rectified_shapes(moved(g.graph)) == [[3, 2, 4, 3]]


def two_inputs() -> ir.Graph:
    """Build the gradients of MaxPool(Relu(a) + b): what is scattered is masked, and is not the rectifier's own."""
    g = GraphBuilder("sum")
    a, b = g.input("x", g.dtype, X), g.input("b", g.dtype, X)
    y = g.MaxPool(g.Add(g.Relu(a), b), **POOLS["tiles"])
    for value, gradient in gradients(g, VJP, g.ReduceSum(g.Mul(y, y), keepdims=0), [a, b]).items():
        g.output(f"d{value.name}", gradient)
    return g.graph


def test_what_is_added_behind_a_rectifier_keeps_its_gradient() -> None:
    feed = {"x": IMAGES["noise"], "b": IMAGES["ties"]}
    expected = ort_runner(to_model(clean(replay(two_inputs(), {}).graph)))(feed)
    found = ort_runner(to_model(moved(two_inputs())))(feed)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_mask_with_another_bound_is_no_rectifier_s() -> None:
    graph = step("tiles")
    (bound,) = [node.inputs[1] for node in graph if node.op_type == "Greater"]
    assert bound is not None
    bound.const_value = ir.tensor(np.array(0.5, np.float32), name=bound.name)
    expected = run(clean(replay(graph, {}).graph), IMAGES["noise"])
    assert (expected["dx"] != run(moved(step("tiles")), IMAGES["noise"])["dx"]).any()
    np.testing.assert_array_equal(run(moved(graph), IMAGES["noise"])["dx"], expected["dx"])


@pytest.mark.parametrize("read", ["rectifier", "scattered"])
def test_a_gradient_that_is_read_for_itself_stays(read: str) -> None:
    """The gradient of what the rectifier gives goes to the first of a window of zeros, where that of x goes nowhere."""
    g = GraphBuilder("read")
    x = g.input("x", g.dtype, X)
    rectified = g.Relu(x)
    y = g.MaxPool(rectified, **POOLS["tiles"])
    wanted = [x, rectified] if read == "rectifier" else [rectified]
    for number, gradient in enumerate(gradients(g, VJP, g.ReduceSum(y, keepdims=0), wanted).values()):
        g.output(f"d{number}", gradient)
    image = IMAGES["all below"]
    expected = run(clean(replay(g.graph, {}).graph), image)
    found = run(moved(g.graph), image)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_pools_that_gain_nothing_stay_behind() -> None:
    """Two pools of one rectifier would need two, and one of stride 1 has as many windows as there are elements."""
    g = GraphBuilder("nothing")
    rectified = g.Relu(g.input("x", g.dtype, X))
    g.output("tiles", g.MaxPool(rectified, **POOLS["tiles"]))
    g.output("overlapping", g.MaxPool(rectified, **POOLS["overlapping"]))
    assert rectified_shapes(moved(g.graph)) == [list(X)]
    g = GraphBuilder("stride")
    g.output("y", g.MaxPool(g.Relu(g.input("x", g.dtype, X)), kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    assert rectified_shapes(moved(g.graph)) == [list(X)]


def test_nodes_belong_to_the_layers_that_they_compute() -> None:
    g = GraphBuilder("layers")
    x = g.input("x", g.dtype, X)
    with g.origin(Origin("relu1", "forward")):
        rectified = g.Relu(x)
    with g.origin(Origin("pool1", "forward")):
        y = g.MaxPool(rectified, **POOLS["tiles"])
    g.output("dx", gradients(g, VJP, g.ReduceSum(g.Mul(y, y), keepdims=0), [x])[x])
    layers = {node.op_type: node.metadata_props["netc.layer"] for node in moved(g.graph)}
    expected = {"MaxPool": "pool1", "Relu": "relu1", "Greater": "relu1", "ScatterElements": "pool1"}
    assert {op: layers[op] for op in expected} == expected
