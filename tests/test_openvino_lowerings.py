"""The lowerings for OpenVINO fire where they should, and compute what they replace in any runtime."""

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from netc.graph import GraphBuilder, shape_of
from netc.graph.counter_rng import CounterRNG
from netc.rewrite.lowerings import Lowerings
from netc.rewrite.passes import Platform, optimize_step
from tests.numpy_rng import keep_mask, random_bits
from tests.oracle import Arrays, error, ort_runner, to_model
from tests.runs import in_ort
from tests.test_lowerings import Forward, conv, pool, step

SEED = 12


STACK, GROUP = "deep_weight_gradient.stack", "grouped_weight_gradient.group"


def both(forward: Forward, x: np.ndarray, w: tuple[int, ...], rule: str = STACK) -> tuple[Arrays, Arrays]:
    """Run a plain lowering and that for OpenVINO, which tries a rule for convolutions first, on the same numbers."""
    feed = {"x": x, "w": np.random.default_rng(SEED).standard_normal(w)}
    graph = optimize_step(step(forward, x.shape, w), Platform("openvino", lowerings=first(rule)))
    return in_ort(step(forward, x.shape, w), feed), ort_runner(to_model(graph, target="openvino"))(feed)


def first(rule: str) -> Lowerings:
    return Lowerings(everywhere=("Conv", rule))


def nodes(forward: Forward, x: tuple[int, ...], w: tuple[int, ...], rule: str = STACK) -> list[ir.Node]:
    """Return the lowering for OpenVINO, which tries a rule for convolutions first."""
    return list(optimize_step(step(forward, x, w), Platform("openvino", lowerings=first(rule))))


# By what they try; most have a batch of 32, which every rule splits.
CONVOLUTIONS = {
    "unequal sides": (conv(), (32, 4, 8, 7), (32, 4, 3, 2)),
    "padded": (conv(pads=[1, 2, 1, 2]), (32, 3, 6, 6), (32, 3, 3, 5)),
    "unequal pads": (conv(pads=[0, 1, 2, 0]), (32, 3, 6, 6), (32, 3, 3, 3)),
    "strided": (conv(strides=[2, 2], pads=[1, 1, 1, 1]), (32, 4, 8, 8), (32, 4, 3, 3)),
    "strided with unreached rows": (conv(strides=[3, 2]), (32, 4, 9, 8), (32, 4, 2, 3)),
    "one channel": (conv(), (32, 1, 5, 5), (32, 1, 2, 2)),
}


@pytest.mark.parametrize("rule", [STACK, GROUP])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_gradients_are_equal_to_rounding(name: str, rule: str) -> None:
    forward, x, w = CONVOLUTIONS[name]
    applied = deep_kernels(forward, x, w) == [[w[0], 8, 4]] if rule == STACK else 2 in groups(forward, x, w)
    assert applied
    plain, fast = both(forward, np.random.default_rng(SEED).standard_normal(x), w, rule)
    for output, value in plain.items():
        # 1e-5: the same few hundred products, summed in float32 in another order.
        assert error(fast[output], value) < 1e-5, output


def deep_kernels(forward: Forward, x: tuple[int, ...], w: tuple[int, ...]) -> list[list[int]]:
    """Return outputs, channels and depth of the kernels that have a depth, in the usual lowering."""
    found = [shape_of(node.inputs[1]) for node in nodes(forward, x, w) if node.op_type == "Conv" and node.inputs[1]]
    return [[int(d) for d in shape[:3]] for shape in found if len(shape) == 5]


def groups(forward: Forward, x: tuple[int, ...], w: tuple[int, ...]) -> set[int]:
    """Return the groups of the convolutions where the weight gradient may be grouped."""
    convolutions = (node.attributes for node in nodes(forward, x, w, GROUP) if node.op_type == "Conv")
    return {attributes["group"].as_int() for attributes in convolutions if "group" in attributes}


@pytest.mark.parametrize(
    ("batch", "kernels"),
    [(128, [[3, 8, 16]]), (12, [[3, 6, 2]]), (20, [[3, 5, 4]]), (4, [[3, 4, 1]]), (49, [[3, 7, 7]])],
)
def test_as_many_samples_beside_each_other_as_divide_the_batch(batch: int, kernels: list[list[int]]) -> None:
    assert deep_kernels(conv(), (batch, 2, 5, 5), (3, 2, 2, 2)) == kernels


def test_a_batch_whose_kernels_are_large_is_split() -> None:
    """2 MiB are 512 kernels of 32 x 32: 16 of one sample, 4 of these parts."""
    forward, x, w = conv(pads=[1, 1, 1, 1]), (128, 2, 32, 32), (16, 2, 3, 3)
    assert deep_kernels(forward, x, w) == [[16, 8, 4]] * 4
    plain, fast = both(forward, np.random.default_rng(SEED).standard_normal(x), w)
    for output, value in plain.items():
        # 1e-4: 131,072 products, summed in float32 in another order.
        assert error(fast[output], value) < 1e-4, output


@pytest.mark.parametrize(
    ("reason", "forward", "x", "w"),
    [
        ("a prime batch", conv(), (11, 4, 5, 5), (3, 4, 2, 2)),
        ("three samples", conv(), (3, 4, 5, 5), (3, 4, 2, 2)),
        ("dilated", conv(dilations=[2, 2]), (8, 4, 7, 7), (3, 4, 2, 2)),
        ("one dimension", conv(), (8, 4, 7), (3, 4, 2)),
        ("1x1", conv(), (8, 4, 7, 7), (3, 4, 1, 1)),
    ],
)
def test_the_stacking_declines(reason: str, forward: Forward, x: tuple[int, ...], w: tuple[int, ...]) -> None:
    assert not deep_kernels(forward, x, w), reason


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
    assert sum(node.op_type == "MatMul" for node in nodes(forward, x, w)) == w[2] * w[3]
    plain, fast = both(forward, np.random.default_rng(SEED).standard_normal(x), w)
    for output, value in plain.items():
        # 1e-5: the same few hundred products, summed in float32 in another order.
        assert error(fast[output], value) < 1e-5, output


def test_few_channels_and_large_kernels_are_no_products_by_taps() -> None:
    for x, w in (((2, WIDE - 1, 6, 6), (WIDE, WIDE - 1, 3, 3)), ((2, WIDE, 8, 8), (WIDE, WIDE, 6, 6))):
        assert "MatMul" not in {node.op_type for node in nodes(conv(), x, w)}


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


@pytest.mark.parametrize("operator", ["ReduceSum", "ReduceMean"])
@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (6, 5, 7), (2, 3, 2, 2, 2)])
def test_reductions_to_channels_are_products(operator: str, shape: tuple[int, ...]) -> None:
    graph = reduction(operator, shape, [0, *range(2, len(shape))], 0)
    assert next(n.op_type for n in graph if n.op_type in ("MatMul", operator)) == "MatMul"
    values = np.random.default_rng(SEED).standard_normal(shape)
    expected = (np.sum if operator == "ReduceSum" else np.mean)(values, axis=(0, *range(2, len(shape))))
    # 1e-6: a few dozen float32 numbers in another order than numpy's in float64.
    assert error(ort_runner(to_model(graph))({"x": values})["y"], expected) < 1e-6


@pytest.mark.parametrize(
    ("plane", "terms"), [((32, 32), 1024), ((112, 112), 896), ((64, 96), 1024), ((31, 31), 961), ((1031, 2), 2)]
)
def test_a_product_adds_no_more_terms_than_keep_it_exact(plane: tuple[int, int], terms: int) -> None:
    """As many as divide the plane; a plane that no useful number divides stays as it is."""
    graph = reduction("ReduceMean", (2, 3, *plane), [0, 2, 3], 0)
    products = [shape_of(node.inputs[0]) for node in graph if node.op_type == "MatMul" and node.inputs[0] is not None]
    assert [[int(d) for d in shape] for shape in products] == ([[1, terms]] if terms > 2 else [])
    values = np.random.default_rng(SEED).normal(1, 1, (2, 3, *plane))
    # 1e-5: a thousand numbers added one after the other, each time off by half a unit in the last place.
    assert error(ort_runner(to_model(graph))({"x": values})["y"], values.mean((0, 2, 3))) < 1e-5


def test_planes_of_one_pixel_are_no_products() -> None:
    assert "MatMul" not in {node.op_type for node in reduction("ReduceSum", (5, 3, 1, 1), [0, 2, 3], 0)}


@pytest.mark.parametrize(("axes", "keepdims"), [([0, 1], 0), ([2, 3], 0), ([0, 2, 3], 1)])
def test_other_reductions_stay_as_they_are(axes: list[int], keepdims: int) -> None:
    assert len(list(reduction("ReduceSum", (2, 3, 4, 5), axes, keepdims))) == 1


def test_sums_of_whole_numbers_are_no_products() -> None:
    assert len(list(reduction("ReduceSum", (2, 3, 4, 5), [0, 2, 3], 0, ir.DataType.INT64))) == 1


def reduction(
    operator: str, shape: tuple[int, ...], axes: list[int], keepdims: int, dtype: ir.DataType = ir.DataType.FLOAT
) -> ir.Graph:
    g = GraphBuilder("reduce")
    g.output("y", g.op(operator, g.input("x", dtype, shape), np.array(axes, np.int64), keepdims=keepdims))
    return optimize_step(g.graph, Platform("openvino"))


def test_statistics_of_the_batch_have_two_passes() -> None:
    """The mean is three hundred deviations away, where a difference of means of squares would have no digit left."""
    shape = (4, 3, 5, 5)
    x = np.random.default_rng(SEED).normal(300, 1, shape).astype(np.float32)

    g = GraphBuilder("statistics")
    zero, one = g.constant(np.zeros(3, np.float32)), g.constant(np.ones(3, np.float32))
    options: dict[str, Any] = {"training_mode": 1, "momentum": 0.0}
    values = g.input("x", g.dtype, shape), g.input("w", g.dtype, (3,)), zero, zero, one
    g.output("var", g.ops("BatchNormalization", *values, num_outputs=3, **options)[2])
    graph = optimize_step(g.graph, Platform("openvino"))
    assert sum(node.op_type == "MatMul" for node in graph) == 2
    found = ort_runner(to_model(graph))({"x": x, "w": np.ones(3)})["var"]
    # 1e-5: a hundred squares about a mean that is off by 3e-5, whose square they gain; one pass errs by 4e-3.
    assert error(found, x.astype(np.float64).var(axis=(0, 2, 3))) < 1e-5


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
    results = session.run(list(expected_bits()), {"seed": np.ones(1, np.uint32)})
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


def test_a_number_is_parted_from_the_tensors_that_read_it() -> None:
    """Products and quotients of tensors alone; the numbers are the same."""
    g = GraphBuilder("update")
    x, step_number = g.input("x", g.dtype, (3, 2)), g.input("step", ir.DataType.INT64, ())
    rate = g.Div(g.Cast(step_number, to=g.dtype), g.constant(np.array(3, np.float32)))
    g.output("product", g.Mul(rate, x))
    g.output("quotient", g.Div(x, rate))
    g.output("half", g.Mul(rate, g.constant(np.array(0.5, np.float32))))
    g.output("lr", rate)
    graph = optimize_step(g.graph, Platform("openvino"))
    assert [node.op_type for node in graph].count("Reshape") == 1, "one for both"
    values = np.random.default_rng(SEED).standard_normal((3, 2)).astype(np.float32)
    found = ort_runner(to_model(graph))({"x": values, "step": np.array(2)})
    np.testing.assert_array_equal(found["product"], np.float32(2 / 3) * values)
    np.testing.assert_array_equal(found["quotient"], values / np.float32(2 / 3))
    assert found["half"].shape == found["lr"].shape == ()
