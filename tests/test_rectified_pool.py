"""Pooling before the rectifier: the same bits forward and backward, wherever nothing else reads the rectifier."""

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
    "unequal": {"kernel_shape": [3, 2], "strides": [1, 2], "pads": [1, 0, 0, 1]},
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
def test_both_orders_give_the_same_bits(pool: str, image: str) -> None:
    graph = moved(step(pool))
    assert all(shape != list(X) for shape in rectified_shapes(graph)), "nothing rectifies the whole image"
    expected, found = run(clean(step(pool)), IMAGES[image]), run(graph, IMAGES[image])
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("pool", POOLS)
def test_both_orders_give_the_same_bits_in_float16(pool: str) -> None:
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


def test_another_pool_of_the_same_image_keeps_its_own_gradient() -> None:
    """Two rectifiers and two pools of one image: each mask goes with its own scatter."""
    g = GraphBuilder("two")
    x = g.input("x", g.dtype, X)
    first, second = g.MaxPool(g.Relu(x), **POOLS["tiles"]), g.MaxPool(g.Relu(x), **POOLS["overlapping"])
    objective = g.Add(g.ReduceSum(g.Mul(first, first), keepdims=0), g.ReduceSum(second, keepdims=0))
    g.output("dx", gradients(g, VJP, objective, [x])[x])
    expected = run(clean(replay(g.graph, {}).graph), IMAGES["noise"])
    np.testing.assert_array_equal(run(moved(g.graph), IMAGES["noise"])["dx"], expected["dx"])


def test_nodes_belong_to_the_layers_that_they_compute() -> None:
    g = GraphBuilder("layers")
    x = g.input("x", g.dtype, X)
    with g.origin(Origin("relu1", "forward")):
        rectified = g.Relu(x)
    with g.origin(Origin("pool1", "forward")):
        y = g.MaxPool(rectified, **POOLS["tiles"])
    g.output("dx", gradients(g, VJP, g.ReduceSum(g.Mul(y, y), keepdims=0), [x])[x])
    layers = {node.op_type: node.metadata_props["netc.layer"] for node in moved(g.graph)}
    assert (layers["ScatterElements"], layers["Greater"], layers["MaxPool"]) == ("pool1", "relu1", "pool1")
