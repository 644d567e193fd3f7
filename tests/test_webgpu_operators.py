"""What browsers have no WebGPU kernel for is replaced by what they have, and computes the same."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from netc.build import build
from netc.graph import GraphBuilder, shape_of
from netc.graph.webgpu import KERNELS, MAX_TENSORS, missing_kernel
from netc.rewrite.passes import Platform, optimize_step
from netc.spec.load import load
from netc.spec.text import parse_tree
from tests.oracle import Arrays, error, ort_runner, to_model
from tests.zoo import build_for, reduced

Build = Callable[[GraphBuilder, ir.Value, ir.Value], ir.Value]
# Ties, both zeros and values that are not numbers among ordinary ones, each against each.
VALUES = np.array([-3.5, -1.0, -0.0, 0.0, 1.0, 1.0000001, 40.0, -90.0, 90.0, np.inf, -np.inf, np.nan], np.float32)
FINITE = VALUES[:9]
BROWSERS = ("lenet", "lenet_dsn", "lenet_bn_dropout", "mlp", "resnet20_cifar")


def floats(g: GraphBuilder, condition: ir.Value) -> ir.Value:
    return g.Cast(condition, to=g.dtype)


EXACT: dict[str, Build] = {
    "And": lambda g, a, b: floats(g, g.And(g.Greater(a, 0.0), g.Less(b, 1.0))),
    "Or": lambda g, a, b: floats(g, g.Or(g.Greater(a, 0.0), g.Less(b, 1.0))),
    "Max": lambda g, a, b: g.Max(a, b),
    "Max of three": lambda g, a, b: g.Max(a, b, g.Neg(a)),
    "Max with a constant": lambda g, a, b: g.Max(a, 0.5),
    "Max of a constant": lambda g, a, b: g.Max(g.constant(0.5), b),
    "Min": lambda g, a, b: g.Min(a, b),
    "Min with a constant": lambda g, a, b: g.Min(a, 0.5),
    "Min of 0 and 1": lambda g, a, b: g.Min(*(floats(g, g.Greater(x, 0.0)) for x in (a, b))),
    "Sum": lambda g, a, b: g.Sum(a, b, g.constant(0.1)),
    "ConstantOfShape": lambda g, a, b: g.Add(
        g.ConstantOfShape(np.array([12, 1], np.int64), value=ir.tensor(np.array([2.5], np.float32))), a
    ),
    "Identity": lambda g, a, b: g.Identity(a),
    "Concat": lambda g, a, b: g.Concat(*(g.Mul(a, float(n)) for n in range(1, 20)), axis=1),
}
# Two of four numbers, as keys of random numbers are taken apart.
EXACT["Slice of random bits"] = lambda g, a, b: g.Add(
    a, floats(g, g.Slice(g.Cast(g.constant([7.0, 8.0, 9.0, 3e9]), to=ir.DataType.UINT32), [1], [3]))
)
ROUNDED: dict[str, Build] = {
    "LogSoftmax": lambda g, a, b: g.LogSoftmax(g.Mul(a, b), axis=1),
    "LogSoftmax of columns": lambda g, a, b: g.LogSoftmax(g.Mul(a, b), axis=0),
    "Softplus": lambda g, a, b: g.Softplus(a),
}


def both(build: Build, values: np.ndarray) -> tuple[Arrays, Arrays]:
    """Run a graph of x [n, 1] and y [1, n] as it is, and as it is made for browsers; the latter has kernels only."""
    g = GraphBuilder("operator")
    x, y = g.input("x", g.dtype, [len(values), 1]), g.input("y", g.dtype, [1, len(values)])
    g.output("z", build(g, x, y))
    feed = {"x": values[:, None], "y": values[None]}
    plain = ort_runner(to_model(g.graph))(feed)
    rewritten = optimize_step(g.graph, Platform("web"))
    assert not [node.op_type for node in rewritten if missing_kernel(node)]
    return plain, ort_runner(to_model(rewritten))(feed)


@pytest.mark.parametrize("name", EXACT)
def test_exact_replacements(name: str) -> None:
    plain, found = both(EXACT[name], VALUES)
    np.testing.assert_array_equal(found["z"], plain["z"])


@pytest.mark.parametrize("name", ROUNDED)
def test_replacements_to_rounding(name: str) -> None:
    """2e-6 of the largest value: a sum of nine exponentials and its logarithm, each rounded to 6e-8 a few times."""
    plain, found = both(ROUNDED[name], FINITE)
    assert np.isfinite(found["z"]).all()
    assert error(found["z"], plain["z"]) < 2e-6


def test_the_sign_of_numbers() -> None:
    plain, found = both(lambda g, a, b: g.Sign(a), VALUES[:-1])
    np.testing.assert_array_equal(found["z"], plain["z"])


def test_a_node_may_not_touch_more_tensors_than_a_shader_binds() -> None:
    g = GraphBuilder("concat")
    x = g.input("x", g.dtype, [2])
    nodes = [g.Concat(*[x] * count, axis=0).producer() for count in (MAX_TENSORS - 1, MAX_TENSORS)]
    assert [node and missing_kernel(node) for node in nodes] == [None, "Concat of 9 tensors"]
    pool = g.ops("MaxPool", g.input("y", g.dtype, [1, 1, 4]), num_outputs=2, kernel_shape=[2])[0].producer()
    assert pool is not None
    assert missing_kernel(pool) == "MaxPool with Indices"


@pytest.mark.parametrize("name", BROWSERS)
def test_what_browsers_train_by_has_kernels(name: str) -> None:
    """None computes float64, which the WebGPU build has nowhere, and int64 only counts steps and samples."""
    artifact = build_for(name, "web", *reduced(name))
    for key in ("train", "eval", "infer"):
        graph = artifact.programs[key].graph
        assert {node.op_type for node in graph} <= KERNELS, key
        assert not [missing for node in graph if (missing := missing_kernel(node))], key
        for value in (value for node in graph for value in node.outputs):
            assert value.dtype != ir.DataType.DOUBLE, (key, value.name)
            assert value.dtype != ir.DataType.INT64 or shape_of(value) in ([], [1]), (key, value.name)
    assert not [warning for warning in artifact.warnings if "WebGPU" in str(warning)]


@pytest.mark.parametrize("gamma", [0.9999, 0.99999, 1.0001])
def test_powers_of_a_constant_keep_their_digits(gamma: float) -> None:
    """5e-6: the exponent, up to 10, is rounded twice to 6e-8. As powers in float32 they are wrong by 1e-3 and more."""
    double = ir.DataType.DOUBLE
    g = GraphBuilder("rate")
    t = g.input("t", ir.DataType.INT64, [])
    rate = g.Pow(g.constant(gamma, double), g.Cast(t, to=double))
    zero = g.ConstantOfShape(np.array([1], np.int64), value=ir.tensor(np.array([0.0])))
    g.output("rate", g.Cast(g.Add(rate, zero), to=g.dtype))
    run = ort_runner(to_model(optimize_step(g.graph, Platform("web"))))
    for step in (1, 1000, 100_000):
        (found,) = run({"t": np.array(step)}).values()
        assert error(found, np.array([gamma**step])) < 5e-6, step


SPEC = """
netc: 1
name: net
inputs: {image: {shape: [1, 8, 8]}, label: {classes: 10}}
data: {source: digits, batch_size: 16}
layers:
  - {name: ip, type: InnerProduct, num_output: 10}
  - {name: loss, type: SoftmaxWithLoss}
  - {name: best, type: ArgMax, top_k: 2, bottom: ip}
  - {name: second, type: ArgMax, top_k: 3, bottom: ip}
solver: {type: SGD, base_lr: 0.1, max_iter: 10}
"""


def test_what_stays_without_a_kernel_is_one_warning() -> None:
    spec = load(parse_tree(SPEC, "net.yaml"))
    (said,) = [str(warning) for warning in build(spec, "web").warnings if "WebGPU" in str(warning)]
    assert said == (
        "net.yaml:6:1: WebGPU has no kernel for TopK (best, second): in a browser these nodes run on the WebAssembly "
        "provider, to which what they read is copied in every step; train on WebAssembly alone, or use other layers"
    )
    assert not [warning for warning in build(spec, "cpu").warnings if "WebGPU" in str(warning)]
