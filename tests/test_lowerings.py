"""Each lowering fires where it should, declines where it should, and computes what it replaces."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch.nn import functional

from netc import rewrite
from netc.grad.engine import gradients
from netc.grad.table import VJP
from netc.graph import GraphBuilder, shape_of
from netc.rewrite.lowerings import PLAIN, Lowerings
from netc.rewrite.passes import Platform, Target, optimize_step
from tests.oracle import Arrays, error
from tests.runs import in_ort

Forward = Callable[[GraphBuilder, ir.Value, ir.Value], ir.Value]
SEED = 11


def step(forward: Forward, x: tuple[int, ...], w: tuple[int, ...]) -> ir.Graph:
    """Build the gradients of sum(y * y) by x and w."""
    g = GraphBuilder("step")
    values = [g.input("x", g.dtype, x), g.input("w", g.dtype, w)]
    y = forward(g, *values)
    objective = g.ReduceSum(g.Mul(y, y), keepdims=0)
    for value, gradient in gradients(g, VJP, objective, values).items():
        g.output(f"d{value.name}", gradient)
    return g.graph


def both(
    forward: Forward, x: tuple[int, ...], w: tuple[int, ...], image: np.ndarray | None = None, target: Target = "cpu"
) -> list[Arrays]:
    """Run the plain lowering and that for an engine on the same numbers; an `image` is pooled."""
    rng = np.random.default_rng(SEED)
    feed = {"x": rng.standard_normal(x) if image is None else image, "w": rng.standard_normal(w)}
    return [in_ort(step(forward, x, w), feed, each) for each in (None, target)]


def operators(forward: Forward, x: tuple[int, ...], w: tuple[int, ...]) -> set[str]:
    return {node.op_type for node in optimize_step(step(forward, x, w), Platform("cpu"))}


def conv(**attributes: object) -> Forward:
    return lambda g, x, w: g.Conv(x, w, **attributes)


CONVOLUTIONS = {
    "plain": (conv(), (3, 4, 8, 7), (5, 4, 3, 2)),
    "padded": (conv(pads=[1, 2, 1, 2]), (2, 3, 6, 6), (4, 3, 3, 5)),
    "unequal pads": (conv(pads=[0, 1, 2, 0]), (2, 3, 6, 6), (4, 3, 3, 3)),
    "strided": (conv(strides=[2, 2], pads=[1, 1, 1, 1]), (2, 4, 8, 8), (3, 4, 3, 3)),
    "strided with unreached rows": (conv(strides=[3, 2]), (2, 4, 9, 8), (3, 4, 2, 3)),
    "1x1 strided": (conv(strides=[2, 2]), (2, 4, 8, 8), (3, 4, 1, 1)),
    "two channels": (conv(), (2, 2, 5, 5), (3, 2, 2, 2)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_gradients_are_equal_to_rounding(name: str) -> None:
    plain, fast = both(*CONVOLUTIONS[name])
    for output, value in plain.items():
        # 1e-5: the same few hundred products, summed in float32 in another order.
        assert error(fast[output], value) < 1e-5, output


def test_the_weight_gradient_is_interleaved() -> None:
    forward, x, w = CONVOLUTIONS["strided"]
    dilations = [
        node.attributes["dilations"].as_ints()
        for node in optimize_step(step(forward, x, w), Platform("cpu"))
        if node.op_type == "Conv" and "grad" in str(node.name)
    ]
    assert dilations == [(2, 2 * x[1])]


@pytest.mark.parametrize(
    ("reason", "forward", "x", "w"),
    [
        ("one channel", conv(), (2, 1, 5, 5), (3, 1, 2, 2)),
        ("dilated", conv(dilations=[2, 2]), (2, 4, 7, 7), (3, 4, 2, 2)),
        ("grouped", conv(group=2), (2, 4, 7, 7), (4, 2, 2, 2)),
        ("one dimension", conv(), (2, 4, 7), (3, 4, 2)),
    ],
)
def test_the_interleaving_declines(reason: str, forward: Forward, x: tuple[int, ...], w: tuple[int, ...]) -> None:
    for node in optimize_step(step(forward, x, w), Platform("cpu")):
        if node.op_type == "Reshape":
            assert node.outputs[0].shape != ir.Shape([1, x[0], *x[2:-1], x[-1] * x[1]]), reason
    plain, fast = both(forward, x, w)
    assert all(error(fast[output], value) < 1e-5 for output, value in plain.items())


def test_the_input_gradient_is_flipped_only_where_it_pays() -> None:
    same = conv(pads=[1, 1, 1, 1])
    assert "ConvTranspose" not in operators(same, (2, 4, 8, 8), (3, 4, 3, 3))
    assert "ConvTranspose" in operators(conv(), (2, 4, 8, 8), (3, 4, 5, 5))
    assert "ConvTranspose" in operators(conv(strides=[2, 2]), (2, 4, 8, 8), (3, 4, 2, 2))


def pool(**attributes: object) -> Forward:
    return lambda g, x, w: g.MaxPool(g.Mul(x, w), **attributes)


TILES = {"kernel_shape": [2, 2], "strides": [2, 2]}


@pytest.mark.parametrize("kind", ["noise", "ties", "constant"])
def test_the_pooling_gradient_without_indices_is_exact(kind: str) -> None:
    """Ties included: the first maximum in row order takes all."""
    rng = np.random.default_rng(SEED)
    shape = (3, 2, 6, 8)
    noise = rng.standard_normal(shape)
    image = {"noise": noise, "ties": np.floor(np.maximum(2 * noise, 0)), "constant": np.ones(shape)}[kind]
    plain, fast = both(pool(**TILES), shape, (1,), image.astype(np.float32))
    np.testing.assert_array_equal(fast["dx"], plain["dx"])
    assert error(fast["dw"], plain["dw"]) < 1e-6


def test_the_pooling_gradient_needs_tiles_of_two() -> None:
    assert "ScatterElements" not in operators(pool(**TILES), (2, 3, 6, 6), (1,))
    assert "ScatterElements" in operators(pool(**TILES), (2, 3, 7, 6), (1,))
    assert "ScatterElements" in operators(pool(kernel_shape=[3, 3], strides=[2, 2]), (2, 3, 7, 7), (1,))
    assert "ScatterElements" in operators(pool(kernel_shape=[2, 2], strides=[1, 1]), (2, 3, 6, 6), (1,))
    padded = pool(**TILES, pads=[1, 1, 1, 1])
    assert "ScatterElements" in operators(padded, (2, 3, 6, 6), (1,))


def norm(g: GraphBuilder, x: ir.Value, scale: ir.Value) -> ir.Value:
    """Normalise by the statistics of the batch, with a bias that depends on x as no constant would."""
    channels = int(shape_of(x)[1])
    bias = g.ReduceMean(x, np.array([0, *range(2, len(shape_of(x)))]), keepdims=0)
    rest = [g.constant(np.full(channels, n), g.dtype) for n in (0.0, 1.0)]
    return g.ops(
        "BatchNormalization", x, scale, bias, *rest, num_outputs=3, training_mode=1, momentum=0.0, epsilon=1e-3
    )[0]


def twice(g: GraphBuilder, x: ir.Value, scale: ir.Value) -> ir.Value:
    return norm(g, g.Mul(norm(g, x, scale), x), scale)


def trained(forward: Forward, x: tuple[int, ...]) -> list[ir.Node]:
    graph = optimize_step(step(forward, x, x[1:2]), Platform("cpu"))
    return [n for n in graph if n.op_type == "BatchNormalization" and "training_mode" in n.attributes]


@pytest.mark.parametrize("x", [(6, 3), (4, 3, 5), (3, 4, 5, 2), (2, 3, 2, 2, 3)])
def test_batch_normalization_is_kept_with_running_values_of_its_own(x: tuple[int, ...]) -> None:
    """1e-5: float32 sums in another order, behind a division by a standard deviation."""
    (kept,) = trained(norm, x)
    assert not any(value.is_graph_input() or value.is_initializer() for value in kept.inputs[3:] if value is not None)
    assert all(value is not None and len(value.uses()) == 1 for value in kept.inputs[3:])
    plain, fast = both(norm, x, x[1:2])
    assert all(error(fast[output], value) < 1e-5 for output, value in plain.items())


def test_batch_normalization_with_a_shared_scale_is_expanded() -> None:
    x = (3, 4, 5, 2)
    assert not trained(twice, x)
    plain, fast = both(twice, x, x[1:2])
    assert all(error(fast[output], value) < 1e-5 for output, value in plain.items())


def dense(g: GraphBuilder, x: ir.Value, w: ir.Value) -> ir.Value:
    """Normalise x and tanh(x) together, and then both and w x; what is returned depends on all of them."""

    def normalised(joined: ir.Value) -> ir.Value:
        zero, one = (g.constant(np.full(int(shape_of(joined)[1]), n), g.dtype) for n in (0.0, 1.0))
        options: dict[str, Any] = {"training_mode": 1, "momentum": 0.0, "epsilon": 1e-3}
        y = g.ops("BatchNormalization", joined, one, zero, zero, one, num_outputs=3, **options)[0]
        return g.Mul(y, joined)  # a sum of squares of y alone would not depend on x

    first = g.Concat(x, g.Tanh(x), axis=1)
    second = g.Concat(first, g.Mul(x, w), axis=1)
    return g.Concat(normalised(first), normalised(second), axis=1)


@pytest.mark.parametrize("target", ["openvino", "cuda", "web"])
@pytest.mark.parametrize("shape", [(4, 3, 5, 2), (6, 3)])
def test_joined_channels_are_summed_once(target: Target, shape: tuple[int, ...]) -> None:
    w = (1, *shape[1:])
    as_expanded = Platform(target, lowerings=Lowerings(everywhere=("ReduceMean", PLAIN)))
    means = sum(node.op_type == "ReduceMean" for node in optimize_step(step(dense, shape, w), as_expanded))
    assert means == 6, "three parts, each with its mean and its variance"
    rng = np.random.default_rng(SEED)
    feed = {"x": rng.standard_normal(shape), "w": rng.standard_normal(w)}
    fast = in_ort(step(dense, shape, w), feed, target)
    for output, value in dense_gradients(feed).items():
        assert error(fast[output], value) < 1e-5, output


def dense_gradients(feed: Arrays) -> Arrays:
    """Return what `step` of `dense` computes, by PyTorch in float64."""
    x, w = (torch.tensor(feed[name], dtype=torch.float64, requires_grad=True) for name in ("x", "w"))
    first = torch.cat([x, torch.tanh(x)], 1)
    second = torch.cat([first, x * w], 1)
    y = torch.cat(
        [joined * functional.batch_norm(joined, None, None, training=True, eps=1e-3) for joined in (first, second)], 1
    )
    dx, dw = torch.autograd.grad((y * y).sum(), (x, w))
    return {"dx": dx.numpy(), "dw": dw.numpy()}


def test_scale_and_shift_of_channels_are_one_pass() -> None:
    x = (3, 4, 5, 2)
    fused = [
        n for n in optimize_step(step(norm, x, x[1:2]), Platform("cpu")) if n.attributes.get("epsilon") is not None
    ]
    assert [n.attributes["epsilon"].as_float() for n in fused][1:] == [0.0]
    assert fused[1].metadata_props["netc.rewrite"] == "channel_affine"


def test_nodes_name_the_file_of_the_rule_that_placed_them() -> None:
    forward, x, w = CONVOLUTIONS["padded"]
    nodes = optimize_step(step(forward, x, w), Platform("cpu"))
    files = {node.metadata_props.get("netc.rewrite", "") for node in nodes}
    assert files == {"", "weight_gradient", "input_gradient"}
    for file in files - {""}:
        assert (Path(rewrite.__file__).parent / f"{file}.py").is_file()
