"""The lowerings for OpenVINO fire where they should, and compute what they replace in any runtime."""

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from netc.graph import GraphBuilder
from netc.graph.counter_rng import CounterRNG
from netc.rewrite.passes import Platform, optimize_step
from tests.numpy_rng import keep_mask, random_bits
from tests.oracle import Arrays, error, to_model
from tests.runs import in_ort
from tests.test_lowerings import Forward, conv, pool, step

SEED = 12


def both(forward: Forward, x: np.ndarray, w: tuple[int, ...]) -> tuple[Arrays, Arrays]:
    """Run a plain lowering and that for OpenVINO on the same numbers."""
    feed = {"x": x, "w": np.random.default_rng(SEED).standard_normal(w)}
    found, fast = (in_ort(step(forward, x.shape, w), feed, target) for target in (None, "openvino"))
    return found, fast


def groups(forward: Forward, x: tuple[int, ...], w: tuple[int, ...]) -> set[int]:
    """Return the groups of the convolutions in the lowering for OpenVINO."""
    nodes = optimize_step(step(forward, x, w), Platform("openvino"))
    return {node.attributes["group"].as_int() for node in nodes if "group" in node.attributes}


@pytest.mark.parametrize(
    ("forward", "x", "w"),
    [
        (conv(), (32, 4, 8, 7), (32, 4, 3, 2)),
        (conv(pads=[1, 2, 1, 2]), (32, 3, 6, 6), (32, 3, 3, 5)),
        (conv(pads=[0, 1, 2, 0]), (32, 3, 6, 6), (32, 3, 3, 3)),
        (conv(strides=[2, 2], pads=[1, 1, 1, 1]), (32, 4, 8, 8), (32, 4, 3, 3)),
        (conv(strides=[3, 2]), (32, 4, 9, 8), (32, 4, 2, 3)),
        (conv(), (32, 1, 5, 5), (32, 1, 2, 2)),
    ],
)
def test_the_grouped_weight_gradient_is_equal_to_rounding(
    forward: Forward, x: tuple[int, ...], w: tuple[int, ...]
) -> None:
    assert 2 in groups(forward, x, w)
    plain, fast = both(forward, np.random.default_rng(SEED).standard_normal(x), w)
    for output, value in plain.items():
        # 1e-5: the same few hundred products, summed in float32 in another order.
        assert error(fast[output], value) < 1e-5, output


WIDE = 32


@pytest.mark.parametrize(
    ("forward", "x", "w"),
    [
        (conv(pads=[1, 2, 1, 2]), (2, WIDE, 6, 6), (WIDE, WIDE, 3, 5)),
        (conv(pads=[0, 1, 2, 0]), (3, WIDE, 6, 6), (WIDE + 1, WIDE, 3, 3)),
        (conv(strides=[3, 2], pads=[1, 1, 1, 1]), (2, WIDE + 1, 9, 8), (WIDE, WIDE + 1, 3, 3)),
        (conv(dilations=[2, 1], pads=[2, 0, 2, 0]), (2, WIDE, 7, 7), (WIDE, WIDE, 3, 2)),
        (conv(), (2, 3, 5, 4), (4, 3, 1, 1)),
        (conv(strides=[2, 2]), (2, 3, 5, 4), (4, 3, 1, 1)),
    ],
)
def test_the_weight_gradient_by_taps_is_equal_to_rounding(
    forward: Forward, x: tuple[int, ...], w: tuple[int, ...]
) -> None:
    nodes = list(optimize_step(step(forward, x, w), Platform("openvino")))
    assert sum(node.op_type == "MatMul" for node in nodes) == w[2] * w[3]
    plain, fast = both(forward, np.random.default_rng(SEED).standard_normal(x), w)
    for output, value in plain.items():
        # 1e-5: the same few hundred products, summed in float32 in another order.
        assert error(fast[output], value) < 1e-5, output


def test_few_channels_and_large_kernels_are_no_products_by_taps() -> None:
    for x, w in (((2, WIDE - 1, 6, 6), (WIDE, WIDE - 1, 3, 3)), ((2, WIDE, 8, 8), (WIDE, WIDE, 6, 6))):
        nodes = optimize_step(step(conv(), x, w), Platform("openvino"))
        assert "MatMul" not in {node.op_type for node in nodes}


@pytest.mark.parametrize(
    ("reason", "forward", "x", "w"),
    [
        ("a batch that does not split into sixteens", conv(), (48, 4, 5, 5), (3, 4, 2, 2)),
        ("dilated", conv(dilations=[2, 2]), (2, 4, 7, 7), (3, 4, 2, 2)),
        ("one dimension", conv(), (2, 4, 7), (3, 4, 2)),
    ],
)
def test_the_grouping_declines(reason: str, forward: Forward, x: tuple[int, ...], w: tuple[int, ...]) -> None:
    assert groups(forward, x, w) <= {1}, reason


POOLS = {
    "ResNet's": ({"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, (8, 8)),
    "AlexNet's": ({"kernel_shape": [3, 3], "strides": [2, 2]}, (7, 9)),
    "rows that no window reaches": ({"kernel_shape": [2, 3], "strides": [3, 2]}, (7, 8)),
    "unequal pads": ({"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 0, 1]}, (6, 5)),
    "stride 1": ({"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}, (5, 5)),
    "tiles on odd planes": ({"kernel_shape": [2, 2], "strides": [2, 2]}, (7, 5)),
    "no strides": ({"kernel_shape": [2, 2]}, (4, 4)),
}


@pytest.mark.parametrize("kind", ["noise", "ties", "constant"])
@pytest.mark.parametrize("name", POOLS)
def test_the_gradient_of_overlapping_windows_needs_no_indices(name: str, kind: str) -> None:
    """Ties included: the first maximum in row order takes all."""
    attributes, size = POOLS[name]
    shape = (3, 2, *size)
    noise = np.random.default_rng(SEED).standard_normal(shape)
    image = {"noise": noise, "ties": np.floor(np.maximum(2 * noise, 0)), "constant": np.ones(shape)}[kind]
    assert "ScatterElements" not in operators(attributes, shape)
    plain, fast = both(pool(**attributes), image.astype(np.float32), (1,))
    # Up to nine cotangents are added in another order.
    np.testing.assert_allclose(fast["dx"], plain["dx"], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(fast["dx"] == 0, plain["dx"] == 0)


def test_pooling_that_keeps_its_indices() -> None:
    assert "ScatterElements" in operators({"kernel_shape": [2, 2], "dilations": [2, 2]}, (2, 3, 6, 6))
    assert "ScatterElements" in operators({"kernel_shape": [2]}, (2, 3, 6))


def average(**attributes: object) -> Forward:
    return lambda g, x, w: g.AveragePool(g.Mul(x, w), **attributes)


def operators_of_average(size: tuple[int, int], **attributes: object) -> list[str]:
    graph = optimize_step(step(average(**attributes), (3, 2, *size), (1,)), Platform("openvino"))
    return [node.op_type for node in graph]


@pytest.mark.parametrize(
    ("kernel", "strides", "size"),
    [((2, 2), (2, 2), (6, 8)), ((1, 1), (2, 2), (6, 8)), ((2, 1), (3, 2), (9, 4)), ((3, 3), (3, 3), (3, 3))],
)
def test_the_gradient_of_windows_apart_is_upsampling(
    kernel: tuple[int, int], strides: tuple[int, int], size: tuple[int, int]
) -> None:
    attributes = {"kernel_shape": kernel, "strides": strides}
    assert "ConvTranspose" not in operators_of_average(size, **attributes)
    x = np.random.default_rng(SEED).standard_normal((3, 2, *size)).astype(np.float32)
    plain, fast = both(average(**attributes), x, (1,))
    np.testing.assert_array_equal(fast["dx"], plain["dx"])  # each is one product


@pytest.mark.parametrize(
    ("reason", "size", "attributes"),
    [
        ("overlapping", (7, 7), {"kernel_shape": [3, 3], "strides": [2, 2]}),
        ("padded", (6, 6), {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("rows that no window reaches", (7, 6), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ],
)
def test_the_upsampling_declines(reason: str, size: tuple[int, int], attributes: dict[str, list[int]]) -> None:
    assert "ConvTranspose" in operators_of_average(size, **attributes), reason


def test_the_variance_is_a_norm() -> None:
    """The mean is three deviations away, which a difference of means of squares would lose digits to."""
    shape = (4, 3, 5, 5)
    x = np.random.default_rng(SEED).normal(3, 1, shape).astype(np.float32)

    def normalised(g: GraphBuilder, x: ir.Value, w: ir.Value) -> ir.Value:
        zero, one = g.constant(np.zeros(3, np.float32)), g.constant(np.ones(3, np.float32))
        options: dict[str, Any] = {"training_mode": 1, "momentum": 0.0}
        y = g.ops("BatchNormalization", x, w, zero, zero, one, num_outputs=3, **options)[0]
        return g.Mul(y, x)  # a sum of squares of y alone would not depend on x

    assert "ReduceL2" in {n.op_type for n in optimize_step(step(normalised, shape, (3,)), Platform("openvino"))}
    plain, fast = both(normalised, x, (3,))
    for output, value in plain.items():
        assert error(fast[output], value) < 1e-5, output


def operators(attributes: dict[str, list[int]], x: tuple[int, ...]) -> set[str]:
    return {node.op_type for node in optimize_step(step(pool(**attributes), x, (1,)), Platform("openvino"))}


THRESHOLDS = (0, 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1, 0x80000100, 0x7FFFFF00)


def bits_against_thresholds() -> ir.Graph:
    """Compare uint32 numbers u, given in the constants of a product with 1, with each threshold."""
    g = GraphBuilder("bits")
    seed = g.input("seed", ir.DataType.UINT32, (1,))
    u = g.Mul(g.constant(numbers()), seed)
    for threshold in THRESHOLDS:
        g.output(f"at least {threshold}", g.GreaterOrEqual(u, g.constant(np.array(threshold, np.uint32))))
    g.output("half", g.Cast(g.Div(u, g.constant(np.array(65536, np.uint32))), to=ir.DataType.FLOAT))
    return optimize_step(g.graph, Platform("openvino"))


def numbers() -> np.ndarray:
    """Return numbers around every threshold, around multiples of 65536, and others."""
    near = [t + d for t in (*THRESHOLDS, *(n << 16 for n in range(0, 65536, 251))) for d in range(-130, 131, 13)]
    every = np.random.default_rng(SEED).integers(0, 2**32, 4000)
    return (np.concatenate([near, every]) % 2**32).astype(np.uint32)


def expected_bits() -> dict[str, np.ndarray]:
    u = numbers()
    masks = {f"at least {threshold}": u >= np.uint32(threshold) for threshold in THRESHOLDS}
    return masks | {"half": (u >> 16).astype(np.float32)}


def draws() -> ir.Graph:
    """Draw a mask and normal numbers."""
    g = GraphBuilder("draws")
    seed, count = g.input("seed", ir.DataType.UINT32, (1,)), g.input("step", ir.DataType.INT64, ())
    rng = CounterRNG(g, seed, count)
    g.output("mask", rng.keep("drop", (5, 7, 3), 0.4))
    g.output("noise", rng.normal("noise", (9, 4)))
    return optimize_step(g.graph, Platform("openvino"))


def test_signed_arithmetic_is_exact_at_every_threshold() -> None:
    graph = bits_against_thresholds()
    assert not any(value.dtype == ir.DataType.UINT32 for node in graph for value in node.outputs)
    session = ort.InferenceSession(to_model(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    results = session.run(None, {"seed": np.ones(1, np.uint32)})
    for (name, expected), found in zip(expected_bits().items(), results, strict=True):
        np.testing.assert_array_equal(np.asarray(found), expected, err_msg=name)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
def test_masks_are_those_of_every_other_target(seed: int) -> None:
    session = ort.InferenceSession(to_model(draws()).SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (0, 41):
        feed = {"seed": np.array([seed], np.uint32), "step": np.array(count, np.int64)}
        mask, noise = (np.asarray(value) for value in session.run(["mask", "noise"], feed))
        np.testing.assert_array_equal(mask, keep_mask(seed, count, "drop", (5, 7, 3), 0.4))
        u, v = (((random_bits(seed, count, n, (9, 4)) >> 16) + 0.5) / 65536 for n in ("noise", "noise.angle"))
        np.testing.assert_allclose(noise, np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v), rtol=1e-4, atol=1e-5)
