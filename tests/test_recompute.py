"""Recomputation: the same step bit by bit, out of less memory, however much an engine's optimizer knows."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from netc.build import build, lower_phases, step_programs
from netc.emit import Artifact
from netc.errors import SpecError
from netc.grad.engine import cotangents_of
from netc.grad.table import VJP
from netc.graph import GraphBuilder, Origin
from netc.memory import step_memory
from netc.rewrite.passes import Platform, Target
from netc.rewrite.recompute import recompute
from netc.spec.load import load
from netc.spec.text import parse_tree
from tests.oracle import Arrays
from tests.torch_twin import TorchTwin
from tests.zoo import batches, loaded, reduced, shallow

SPEC = """
netc: 1
name: net
inputs: {image: {shape: [3, 8, 8]}, label: {classes: 10}}
data: {source: digits, batch_size: 16}
blocks:
  body:
    layers:
BODY
layers:
  - {name: first, type: Convolution, num_output: 6, kernel_size: 3, pad: 1}
  - {name: res, block: body, repeat: 3, checkpoint: MARK}
  - {name: scores, type: InnerProduct, num_output: 10}
  - {name: loss, type: SoftmaxWithLoss}
solver: {type: SGD, base_lr: 0.05, momentum: 0.9, max_iter: 10}
"""
BODIES = {
    "residual": """
- {name: conv1, type: Convolution, num_output: 6, kernel_size: 3, pad: 1}
- {name: tanh, type: TanH}
- {name: conv2, type: Convolution, num_output: 6, kernel_size: 3, pad: 1}
- {name: act, type: Sigmoid}
- {name: sum, type: Eltwise, bottom: [act, $in]}
- {name: relu, type: ReLU}""",
    "batch_norm": """
- {name: conv1, type: Convolution, num_output: 6, kernel_size: 3, pad: 1, bias_term: false}
- {name: bn1, type: BatchNorm}
- {name: relu1, type: ReLU}
- {name: conv2, type: Convolution, num_output: 6, kernel_size: 3, pad: 1, bias_term: false}
- {name: bn2, type: BatchNorm, affine: false}
- {name: sum, type: Eltwise, bottom: [bn2, $in]}
- {name: relu, type: ReLU}""",
    "before_activation": """
- {name: bn, type: BatchNorm}
- {name: relu, type: ReLU}
- {name: conv, type: Convolution, num_output: 6, kernel_size: 3, pad: 1}
- {name: sum, type: Eltwise, bottom: [conv, $in]}""",
    "dropout": """
- {name: conv, type: Convolution, num_output: 6, kernel_size: 3, pad: 1}
- {name: tanh, type: TanH}
- {name: drop, type: Dropout, dropout_ratio: 0.3}
- {name: noise, type: GaussianNoise, std: 0.1}
- {name: elu, type: ELU}
- {name: sum, type: Eltwise, bottom: [elu, $in]}""",
    "without_parameters": """
- {name: tanh, type: TanH}
- {name: square, type: Power, power: 2.0}
- {name: flat, type: Flatten}
- {name: sigmoid, type: Sigmoid}
- {name: shape, type: Reshape, shape: [6, 8, 8]}""",
    "pooling_and_norms": """
- {name: conv, type: Convolution, num_output: 6, kernel_size: 3, pad: 1}
- {name: pool, type: Pooling, pool: max, kernel_size: 3, stride: 1, pad: 1}
- {name: norm, type: GroupNorm, num_groups: 2}
- {name: maxout, type: PReLU}""",
    "side_inside": """
- name: conv
  type: Convolution
  num_output: 6
  kernel_size: 3
  pad: 1
  side: {layers: [{name: s, type: InnerProduct, num_output: 10}, {name: l, type: SoftmaxWithLoss}]}
- {name: tanh, type: TanH}
- {name: relu, type: Sigmoid}""",
    "loss_inside": """
- {name: conv, type: Convolution, num_output: 6, kernel_size: 3, pad: 1}
- {name: tanh, type: TanH, loss_weight: 0.001}
- {name: elu, type: ELU}
- {name: far, type: EuclideanLoss, bottom: [elu, $in]}
- {name: relu, type: Sigmoid, bottom: elu}""",
}


def compiled(body: str, mark: bool, *more: tuple[str, str], target: Target = "cpu") -> Artifact:
    """Return a network of three copies of a body, with checkpoints or without."""
    indented = body.strip("\n").replace("\n", "\n      ")
    text = SPEC.replace("BODY", f"      {indented}").replace("MARK", "true" if mark else "false")
    for old, new in more:
        assert old in text
        text = text.replace(old, new)
    return build(load(parse_tree(text, "net.yaml")), target)


def session(model: onnx.ModelProto, optimized: Path | None = None) -> ort.InferenceSession:
    """Return a session with one thread, where ONNX Runtime is deterministic."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def outputs_of(model: onnx.ModelProto, feed: Arrays) -> Arrays:
    one = session(model)
    names = [y.name for y in one.get_outputs()]
    return dict(zip(names, one.run(names, {x.name: feed[x.name] for x in one.get_inputs()}), strict=True))


def batch_for(size: int = 16) -> Arrays:
    rng = np.random.default_rng(11)
    image = rng.normal(8, 5, [size, 3, 8, 8]).astype(np.float32)
    return {"image": image, "label": rng.integers(0, 10, [size]).astype(np.int32)}


def clones(artifact: Artifact) -> Counter[str]:
    nodes = artifact.programs["train"].graph
    return Counter(node.op_type for node in nodes if node.metadata_props["netc.part"] == "recompute")


@pytest.mark.parametrize("name", BODIES)
def test_the_step_is_the_same_bit_by_bit(name: str) -> None:
    plain, again = compiled(BODIES[name], False), compiled(BODIES[name], True)
    assert clones(again)
    assert not clones(plain)
    state = plain.initial_state()
    assert state.keys() == again.initial_state().keys()
    for _ in range(2):
        expected = outputs_of(plain.models()["train"], {**state, **batch_for()})
        actual = outputs_of(again.models()["train"], {**state, **batch_for()})
        assert actual.keys() == expected.keys()
        for output, value in expected.items():
            assert actual[output].tobytes() == value.tobytes(), output
        state = {key: expected.get(f"{key}.next", value) for key, value in state.items()}
    assert not np.array_equal(state["first.weight"], plain.initial_state()["first.weight"])


@pytest.mark.parametrize("name", ["batch_norm", "residual", "dropout"])
def test_neither_netc_nor_the_engine_merges_clones(name: str, tmp_path: Path) -> None:
    """Both remove common subexpressions; every clone of weight is in the graph that ONNX Runtime runs."""
    artifact = compiled(BODIES[name], True)
    session(artifact.models()["train"], tmp_path / "optimized.onnx")
    ran = onnx.load(tmp_path / "optimized.onnx").graph.node
    heavy = ("Conv", "BatchNormalization")
    names = [n.name for n in artifact.programs["train"].graph if "/recompute/" in str(n.name) and n.op_type in heavy]
    assert len(names) >= 3
    assert [name for name in names if not any(str(name) in node.name for node in ran)] == []
    stripped = compiled(BODIES[name], True).programs["train"].graph
    for node in stripped:  # the same graph without ties is merged: the check sees what it is for
        tied, one = (*node.inputs, None, None)[:2]
        if "/recompute/Mul" in str(node.name) and tied is not None and one is not None and "/Cast" in str(one.name):
            ir.convenience.replace_all_uses_with(node.outputs[0], tied)
    model = ir.to_proto(ir.Model(stripped, ir_version=10))
    session(model, tmp_path / "merged.onnx")
    left = {node.name for node in onnx.load(tmp_path / "merged.onnx").graph.node}
    assert len(left & {str(n) for n in names}) < len(names)


@pytest.mark.parametrize("name", [n for n in BODIES if n not in ("side_inside", "loss_inside")])
def test_a_step_holds_less(name: str) -> None:
    plain, again = (step_memory(compiled(BODIES[name], mark).programs["train"]) for mark in (False, True))
    assert again.live < plain.live
    assert again.state == plain.state


def test_memory_of_a_deep_network() -> None:
    """Each block of a deep network adds its input alone, not everything inside."""
    live: dict[bool, list[int]] = {False: [], True: []}
    for mark, found in live.items():
        for repeat in (4, 8):
            options = (f"layers.conv2.repeat={repeat}", *(("layers.conv2.checkpoint=true",) if mark else ()))
            lowered = lower_phases(loaded("resnet20_cifar", "data.batch_size=16", *options))
            found.append(step_memory(step_programs(lowered, Platform("cpu"))["train"]).live)
    top = 16 * 16 * 32 * 32 * 4
    assert live[True][1] - live[True][0] == pytest.approx(4 * top, rel=0.02)
    assert live[False][1] - live[False][0] > 3 * (live[True][1] - live[True][0])


def test_nested_checkpoints_hold_less_still() -> None:
    inner = "- {name: in1, block: unit, repeat: 3, checkpoint: INNER}\n- {name: in2, block: unit, checkpoint: INNER}"
    unit = (
        "blocks:\n",
        "blocks:\n  unit:\n    layers:\n" + "\n".join(f"      {x}" for x in BODIES["residual"].split("\n")[1:]) + "\n",
    )
    built = {
        marks: compiled(inner.replace("INNER", str(marks[1]).lower()), marks[0], unit)
        for marks in [(False, False), (True, False), (False, True), (True, True)]
    }
    state = built[False, False].initial_state()
    found = {
        marks: outputs_of(artifact.models()["train"], {**state, **batch_for()}) for marks, artifact in built.items()
    }
    for outputs in found.values():
        for name, value in outputs.items():
            assert value.tobytes() == found[False, False][name].tobytes(), name
    live = {marks: step_memory(artifact.programs["train"]).live for marks, artifact in built.items()}
    assert live[True, True] < min(live[True, False], live[False, True]) < live[False, False]


def test_against_pytorch() -> None:
    name, options = "resnet20_cifar", (*reduced("resnet20_cifar"), *shallow("resnet20_cifar"))
    marks = tuple(f"layers.conv{stage}.checkpoint=true" for stage in (2, 3, 4))
    artifact = build(loaded(name, *options, *marks))
    assert clones(artifact)
    state = artifact.initial_state()
    twin = TorchTwin(artifact.spec, state, 10, torch.float32)
    batch = next(b for b in batches(name, 50, 7, *options) if twin.distance_to_kinks(b["image"], b["label"]) > 1e-5)
    outputs = outputs_of(artifact.models()["train"], {**state, **batch})
    twin.train_step(batch["image"], batch["label"])
    for tensor, value in twin.state.items():
        expected, actual = value.detach().numpy(), outputs[f"{tensor}.next"]
        # Float32 sums in another order.
        assert np.abs(actual - expected).max() <= 1e-5 * max(1.0, float(np.abs(expected).max())), tensor


def small_step() -> tuple[GraphBuilder, dict[ir.Value, ir.Value]]:
    """Return y = sum(tanh(exp(x)) w) and its gradient by x; the layer `inside` is tanh and exp."""
    g = GraphBuilder("net")
    x, w = (g.input(name, g.dtype, [8]) for name in "xw")
    with g.origin(Origin("inside")):
        y = g.Tanh(g.Exp(x))
    with g.origin(Origin("after")):
        total = g.ReduceSum(g.Mul(y, w), keepdims=0)
    cotangents = cotangents_of(g, VJP, total, [x])
    g.output("dx", cotangents[x])
    return g, cotangents


@pytest.mark.parametrize("dy", [1.0, 0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45])
def test_whatever_the_cotangent_is_what_is_computed_again_stays(dy: float) -> None:
    """The first element of dy decides nothing: zeros of both signs, infinities and NaN in x and dy keep their bits."""
    g, cotangents = small_step()
    again = recompute(g.graph, {"inside": ("s",)}, cotangents)
    x = np.array([-0.0, 0.0, np.inf, -np.inf, np.nan, 1e-45, -3.0, 2.0], np.float32)
    feed = {"x": x, "w": np.array([dy, *range(7)], np.float32)}
    copies = [n.outputs[0] for n in again if n.metadata_props["netc.part"] == "recompute" and n.op_type == "Mul"]
    assert len(copies) == 1  # x, in front of the first clone
    again.outputs.append(copies[0])
    expected, actual = (outputs_of(ir.to_proto(ir.Model(graph, ir_version=10)), feed) for graph in (g.graph, again))
    assert actual["dx"].tobytes() == expected["dx"].tobytes()
    assert actual[str(copies[0].name)].tobytes() == x.tobytes()


def test_clones_stand_right_before_their_first_use_and_depend_on_dy() -> None:
    artifact = compiled(BODIES["residual"], True)
    nodes = list(artifact.programs["train"].graph)
    places = {node: index for index, node in enumerate(nodes)}
    again = [node for node in nodes if node.metadata_props["netc.part"] == "recompute"]
    late: set[ir.Value] = set()
    for node in nodes:
        if node.metadata_props["netc.part"] == "grad" or any(x in late for x in node.inputs):
            late.update(node.outputs)
    for node in again:
        users = [use.node for y in node.outputs for use in y.uses()]
        first = min(users, key=places.__getitem__)
        between = nodes[places[node] + 1 : places[first]]
        assert {n.metadata_props["netc.part"] for n in between} <= {"recompute"}, node.name
        assert "/recompute/" in str(node.name)
        assert node.metadata_props["netc.spec"].startswith("net.yaml:")
    computing = [node for node in again if node.op_type in ("Conv", "Tanh", "Sigmoid")]
    assert computing
    assert all(any(x in late for x in node.inputs) for node in computing)


def test_running_statistics_are_updated_once() -> None:
    plain, again = (compiled(BODIES["batch_norm"], mark).programs["train"] for mark in (False, True))
    for program in (plain, again):
        for statistic in (x for x in program.graph.inputs if str(x.name).endswith("running_mean")):
            assert len(statistic.uses()) == 1
    for output in again.graph.outputs:
        if "running_" in str(output.name):
            node = output.producer()
            assert node is not None
            assert node.metadata_props["netc.part"] == "forward"


@pytest.mark.parametrize("target", ["cpu", "cuda", "openvino", "web"])
def test_evaluation_and_inference_stay_as_they_are(target: Target) -> None:
    plain, again = (compiled(BODIES["dropout"], mark, target=target) for mark in (False, True))
    assert plain.programs.keys() == again.programs.keys()
    for name, program in plain.programs.items():
        counts = [p.graph.num_nodes() for p in (program, again.programs[name])]
        assert (counts[0] < counts[1]) if name == "train" else (counts[0] == counts[1]), name


def test_monitoring_computes_again_too() -> None:
    monitored = ("max_iter: 10}", "max_iter: 10}\nrun: {monitor_every: 1}")
    plain, again = (compiled(BODIES["residual"], mark, monitored) for mark in (False, True))
    state = {**plain.initial_state(), **batch_for()}
    expected, actual = (outputs_of(artifact.models()["monitor"], state) for artifact in (plain, again))
    assert len(expected) > 20
    for name, value in expected.items():
        assert actual[name].tobytes() == value.tobytes(), name
    assert any("/recompute/" in str(node.name) for node in again.programs["monitor"].graph)


def test_a_checkpoint_without_effect_is_said() -> None:
    body = "- {name: conv, type: Convolution, num_output: 6, kernel_size: 3, pad: 1}"
    warnings = [str(warning) for warning in compiled(body, True).warnings]
    message = "has no effect: the backward pass reads nothing of it that it would have to compute again; remove it"
    assert [w.partition("checkpoint ")[2] for w in warnings] == [f'"res/{n}" {message}' for n in (1, 2, 3)]
    assert all(warning.startswith("net.yaml:") for warning in warnings)
    assert not compiled(BODIES["residual"], True).warnings


def test_layers_name_checkpoints_themselves() -> None:
    """Without blocks, and as a resolved spec says it: layers of one name are computed again together."""
    first = "- {name: first, type: Convolution, num_output: 6, kernel_size: 3, pad: 1"
    more = "\n  - {name: tanh, type: TanH, checkpoint: a}\n  - {name: elu, type: ELU, checkpoint: [a]}"
    artifact = compiled(BODIES["residual"], False, (first + "}", first + ", checkpoint: a}" + more))
    found = {n.metadata_props["netc.layer"] for n in artifact.programs["train"].graph if "/recompute/" in str(n.name)}
    assert found == {"first", "tanh"}
    marked = {
        layer["name"]: layer["checkpoint"] for layer in compiled(BODIES["residual"], True).spec.resolved()["layers"]
    }
    assert marked["res/2/conv1"] == ["res/2"]
    assert marked["first"] == []


@pytest.mark.parametrize("value", ["1", "res", "[true]"])
def test_what_is_neither_true_nor_false_is_refused(value: str) -> None:
    with pytest.raises(SpecError, match=r"net.yaml:\d+:\d+: checkpoint: of a block is true or false, not "):
        compiled(BODIES["residual"], True, ("checkpoint: true", f"checkpoint: {value}"))
