"""Mixed precision: what is computed in float16, and that training with it is training.

Results are checked where every float16 value is rounded, as on a GPU (`oracle.rounding`).
"""

from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import yaml

from netc.autocast import FOLLOWING, HALF, KEEPING, NARROW
from netc.build import build
from netc.emit import Artifact
from netc.grad.table import VJP
from netc.rewrite.passes import Target
from netc.spec.load import load
from netc.spec.text import parse_tree
from netc_runtime.data import open_source
from tests.oracle import TARGETS, Arrays, error, ort_runner, rounding
from tests.zoo import build_for, next_state

# Operators that ONNX Runtime's CUDA provider has kernels for in float16 at opset 18, of those that a step may hold:
# the column of the provider in its docs/OperatorKernels.md. The test below would have to look further for others.
# fmt: off
ON_CUDA = frozenset({
    "Abs", "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "ConstantOfShape", "Conv",
    "ConvTranspose", "Div", "Elu", "Equal", "Exp", "Expand", "Flatten", "Gather", "Gemm", "Greater", "GreaterOrEqual",
    "Identity", "LeakyRelu", "Less", "LessOrEqual", "Log", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "Pad",
    "Pow", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "ScatterElements",
    "Sigmoid", "Sign", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "Transpose",
    "Unsqueeze", "Where",
})
# fmt: on
SPEC = """
netc: 1
name: net
inputs: {image: {shape: [2, 12, 12]}, label: {classes: 10}}
data: {source: npy, path: none, batch_size: 8}
layers: []
solver: {type: SGD, base_lr: 0.05, momentum: 0.9, max_iter: 100, precision: mixed}
"""
# Every kind of operator of the forward pass, once.
KINDS = """
- {name: conv, type: Convolution, num_output: 8, kernel_size: 3, pad: 1}
- {name: bn, type: BatchNorm}
- {name: relu, type: ReLU}
- {name: drop, type: Dropout, dropout_ratio: 0.1}
- {name: overlapping, type: Pooling, kernel_size: 3, stride: 2, pad: 1}
- {name: lrn, type: LRN, local_size: 3}
- {name: grouped, type: Convolution, num_output: 8, kernel_size: 3, pad: 1, group: 2}
- {name: prelu, type: PReLU}
- {name: scale, type: Scale, bias_term: true}
- {name: gelu, type: GELU}
- {name: inner, type: Convolution, num_output: 8, kernel_size: 1}
- {name: leaky, type: ReLU, negative_slope: 0.1}
- {name: sum, type: Eltwise, bottom: [grouped, leaky]}
- {name: most, type: Eltwise, operation: max, bottom: [grouped, sum]}
- {name: ln, type: LayerNorm}
- {name: up, type: Deconvolution, num_output: 6, kernel_size: 2, stride: 2}
- {name: clip, type: Clip, min: -3.0, max: 3.0}
- {name: average, type: Pooling, pool: average, kernel_size: 3, stride: 2}
- {name: swish, type: Swish}
- {name: second, type: Convolution, num_output: 6, kernel_size: 3}
- {name: elu, type: ELU}
- {name: joined, type: Concat, bottom: [elu, second]}
- {name: maxout, type: Maxout}
- {name: noise, type: GaussianNoise, std: 0.01}
- {name: third, type: Convolution, num_output: 6, kernel_size: 1}
- {name: tanh, type: TanH}
- {name: shrink, type: Power, scale: 0.00001, shift: 0.1}
- {name: fourth, type: Convolution, num_output: 6, kernel_size: 1}
- {name: square, type: Power, power: 2.0}
- {name: global, type: Pooling, pool: average, global_pooling: true}
- {name: hidden, type: InnerProduct, num_output: 16, bottom: third}
- {name: sigmoid, type: Sigmoid}
- {name: scores, type: InnerProduct, num_output: 10}
- {name: loss, type: SoftmaxWithLoss, bottom: [scores, label], label_smoothing: 0.1}
- {name: margins, type: InnerProduct, num_output: 10, bottom: global}
- {name: hinge, type: HingeLoss, bottom: [margins, label], loss_weight: 0.1}
- {name: accuracy, type: Accuracy, bottom: [scores, label]}
"""


@cache
def compiled(layers: str, target: Target = "cuda", **solver: Any) -> Artifact:
    spec = yaml.safe_load(SPEC)
    spec["layers"] = yaml.safe_load(layers)
    spec["solver"] |= solver
    return build(load(parse_tree(yaml.safe_dump(spec), "net.yaml")), target, packs=False)  # state is fed by name


def batch(seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {"image": rng.standard_normal((8, 2, 12, 12)), "label": rng.integers(0, 10, 8)}


def halves(graph: ir.Graph) -> list[ir.Node]:
    """The nodes that read or write float16."""
    return [n for n in graph if any(v is not None and v.dtype == HALF for v in (*n.inputs, *n.outputs))]


def narrow(graph: ir.Graph, part: str = "forward") -> set[str]:
    """LAYER/OPERATOR of the nodes that compute in float16."""
    nodes = [n for n in halves(graph) if n.op_type != "Cast" and n.metadata_props["netc.part"] == part]
    return {f"{n.metadata_props['netc.layer']}/{n.op_type}" for n in nodes}


def test_what_is_computed_in_float16() -> None:
    graph = compiled(KINDS, "web").programs["train"].graph
    found = narrow(graph)
    assert found >= {
        "conv/Conv", "relu/Relu", "drop/Mul", "overlapping/MaxPool", "grouped/Conv", "prelu/Greater", "prelu/Where",
        "prelu/Mul", "scale/Mul", "scale/Add", "inner/Conv", "leaky/LeakyRelu", "sum/Add", "up/ConvTranspose",
        "clip/Clip", "average/AveragePool", "second/Conv", "elu/Elu", "joined/Concat", "tanh/Tanh", "hidden/Gemm",
        "sigmoid/Sigmoid", "scores/Gemm", "margins/Gemm",
    }  # fmt: skip
    layers = {name.partition("/")[0] for name in found}
    # Squares, powers, means and exponentials; constants without a normal number; whatever a loss computes.
    assert layers.isdisjoint({"bn", "lrn", "most", "ln", "global", "loss", "hinge", "accuracy"})
    assert "shrink/Mul" not in found, "1e-5 has 8 bits of 11 left in float16"
    assert "noise/Add" not in found, "noise is float32, and so is what it is added to"
    assert all(name.partition("/")[2] in NARROW | FOLLOWING for name in found)
    values = [*graph.inputs, *graph.outputs]
    assert not [value.name for value in values if value.dtype == HALF], "state, batch and metrics are float32"
    updates = [node for node in halves(graph) if node.metadata_props["netc.part"] == "update"]
    assert not updates


def test_each_weight_is_cast_once() -> None:
    artifact = compiled(KINDS)
    inputs = {value.name: value for value in artifact.programs["train"].graph.inputs}
    counts = {
        tensor.name: sum(reader.op_type == "Cast" for reader in inputs[tensor.name].consumers())
        for tensor in artifact.state
        if tensor.role == "parameter"
    }
    assert max(counts.values()) == 1
    assert counts["conv.weight"] == counts["scores.bias"] == counts["prelu.weight"] + 1 == 1  # a view of the slopes is
    assert counts["bn.weight"] == counts["ln.weight"] == 0


def test_float16_has_kernels_on_cuda() -> None:
    assert NARROW | FOLLOWING | KEEPING <= ON_CUDA
    artifacts = [
        compiled(KINDS),
        *(build_for(name, "cuda", "solver.precision=mixed") for name in ("lenet", "mlp_maxout")),
    ]
    for artifact in artifacts:
        nodes = halves(artifact.programs["train"].graph)
        assert {node.op_type for node in nodes} <= ON_CUDA
        adding = [
            node for node in nodes if node.op_type == "ScatterElements" and node.attributes["reduction"].value == "add"
        ]
        assert not adding, "the CPU provider refuses it, and atomic additions of float16 are slow"


def test_every_operator_that_narrows_has_a_gradient() -> None:
    """Or passes none at all; float16 comes with the values, so that there is no second table to keep."""
    assert set(VJP) >= (NARROW | FOLLOWING) - {"Gather", "Split", "Tile"}


@pytest.mark.parametrize("target", TARGETS)
def test_a_step_agrees_with_float32(target: Target) -> None:
    """For every lowering, a network of all kinds: rounding to 11 bits is 5e-4, and some layers add it up to 2e-3.

    Below, units of rectifiers and windows of pooling turn over where values are nearly equal: measured up to 5e-2.
    """
    mixed, exact = compiled(KINDS, target, momentum=0.0), compiled(KINDS, target, momentum=0.0, precision="float32")
    state = {**mixed.initial_state(), "loss_scale": np.array(2.0**10, np.float32)}
    found = ort_runner(rounding(mixed.models()["train"]))({**state, **batch()})
    expected = ort_runner(exact.models()["train"])({**exact.initial_state(), **batch()})
    assert int(found["loss_scale/good_steps.next"]) == 1
    assert found["total"] == pytest.approx(expected["total"], rel=2e-3)
    moved = [t.name for t in exact.state if t.role == "parameter"]
    errors = {
        name: error(found[f"{name}.next"] - state[name], expected[f"{name}.next"] - state[name]) for name in moved
    }
    assert max(errors.values()) < 0.1, errors
    above = list(errors)[list(errors).index("ln.weight") :]
    assert max(errors[name] for name in above) < 5e-3, errors
    assert min(errors.values()) > 1e-5, "something was not rounded"


@pytest.mark.parametrize("name", ["lenet", "lenet_dsn", "lenet_bn_dropout", "resnet_tiny"])
def test_training_agrees_with_float32(name: str) -> None:
    """Losses 2 % apart after 8 steps: differences of 5e-4 at first, which grow with the steps; and they fall."""
    losses = dict[str, list[float]]()
    for precision in ("float32", "mixed"):
        artifact = build_for(name, "cuda", f"solver.precision={precision}", "data.batch_size=32")
        source = open_source(artifact.spec.data.model_dump())
        run, state = ort_runner(rounding(artifact.models()["train"])), artifact.initial_state()
        if precision == "mixed":
            state["loss_scale"] = np.array(2.0**12, np.float32)  # under which no gradient of these overflows
        found = []
        for start in range(0, 12 * 32, 32):
            fed = {key: np.asarray(values[start : start + 32]) for key, values in source.train.items()}
            outputs = run({**state, **fed})
            state = next_state(state, outputs)
            found.append(float(outputs["total"]))
        losses[precision] = found
        assert precision == "float32" or int(state["loss_scale/skipped_steps"]) == 0
    assert losses["mixed"][:8] == pytest.approx(losses["float32"][:8], rel=0.02)
    assert losses["mixed"] != losses["float32"]
    assert np.mean(losses["mixed"][-4:]) < 0.8 * losses["mixed"][0]


def test_recomputation_changes_no_bit() -> None:
    lines = [line for line in KINDS.splitlines() if line]
    kept = "\n".join(line.replace("}", ", checkpoint: part}", 1) if "}" in line else line for line in lines[1:12])
    layers = "\n".join([lines[0], kept, *lines[12:]])
    plain, again = compiled(KINDS), compiled(layers)
    parts = {node.metadata_props["netc.part"] for node in halves(again.programs["train"].graph)}
    assert "recompute" in parts
    state = plain.initial_state()
    expected, found = (ort_runner(a.models()["train"])({**state, **batch()}) for a in (plain, again))
    assert all(found[name].tobytes() == value.tobytes() for name, value in expected.items())


def test_the_monitor_tells_gradients_without_the_scale() -> None:
    spec = yaml.safe_load(SPEC) | {"layers": yaml.safe_load(KINDS), "run": {"monitor_every": 1}}
    results = []
    for precision in ("mixed", "float32"):
        spec["solver"]["precision"] = precision
        artifact = build(load(parse_tree(yaml.safe_dump(spec), "net.yaml")), "cuda")
        results.append(ort_runner(artifact.models()["monitor"])({**artifact.initial_state(), **batch()}))
    found, expected = results
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=0.05, abs=2e-3), name
    assert "conv/monitor/mean_abs_gradient" in found


def half(x: np.ndarray) -> np.ndarray:
    """Round to float16, and go on in float32, in which kernels add up."""
    return x.astype(np.float16).astype(np.float32)


def test_a_chain_of_layers_in_numpy() -> None:
    """Two products and a rectifier, written down with every rounding: equal to rounding of float32."""
    layers = """
- {name: ip1, type: InnerProduct, num_output: 32}
- {name: relu, type: ReLU}
- {name: ip2, type: InnerProduct, num_output: 10}
- {name: loss, type: SoftmaxWithLoss}
"""
    artifact = compiled(layers, momentum=0.0, base_lr=1.0)
    state, fed, scale = artifact.initial_state(), batch(), np.float32(2.0**16)
    found = ort_runner(rounding(artifact.models()["train"]))({**state, **fed})
    w1, b1, w2, b2 = (half(state[name]) for name in ("ip1.weight", "ip1.bias", "ip2.weight", "ip2.bias"))
    x = half(fed["image"].astype(np.float32).reshape(8, -1))
    h = half(np.maximum(half(x @ w1.T + b1), 0))
    scores = half(h @ w2.T + b2)
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    d_scores = half((p - np.eye(10, dtype=np.float32)[fed["label"]]) / 8 * scale)
    d_h = half(d_scores @ w2) * (h > 0)
    expected = {
        "ip2.weight": half(d_scores.T @ h), "ip2.bias": half(d_scores.sum(axis=0)),
        "ip1.weight": half(d_h.T @ x), "ip1.bias": half(d_h.sum(axis=0)),
    }  # fmt: skip
    for name, gradient in expected.items():
        # lr is 1, so that the step is the gradient; float32 sums in another order round a few to their neighbour.
        step = state[name] - found[f"{name}.next"]
        apart = np.abs(step - gradient / scale) > 1e-6 * np.abs(gradient / scale).max()
        assert apart.mean() < 0.02, name
        assert error(step, gradient / scale) < 1e-3, name


def test_slow_engines_are_named() -> None:
    layers = KINDS.splitlines()[1] + "\n- {name: ip, type: InnerProduct, num_output: 10}\n- {type: SoftmaxWithLoss}\n"
    for target, count in (("cpu", 1), ("openvino", 1), ("cuda", 0), ("web", 0)):
        warnings = [str(warning) for warning in compiled(layers, target).warnings]
        assert len([text for text in warnings if f"what is compiled for {target} computes" in text]) == count
