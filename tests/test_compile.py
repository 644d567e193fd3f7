"""That compiling deep networks stays cheap: what is asked once, walked once, written piece by piece."""

import gc
import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import shape_inference
from onnx_ir.passes import common
from safetensors.numpy import save

from netc.build import build, lower_phases
from netc.commands.common import compile_spec, summarize_spec
from netc.errors import SpecError
from netc.graph import GraphBuilder, Origin, inference
from netc.graph.inference import IR_VERSION
from netc.graph.verify import VerificationError, verify
from netc.layers.fillers import FILLERS, PIECE, normal_unit
from netc.rewrite.prune import drop_unread, merge_repeats
from netc.rewrite.replay import replay
from netc.spec.load import Loaded, load
from netc.spec.text import parse_tree
from tests.test_golden import text_of
from tests.zoo import compiled

FLOAT = ir.DataType.FLOAT
SPEC = """
netc: 1
name: deep
inputs: {{image: {{shape: [1, 8, 8]}}, label: {{classes: 10}}}}
data: {{source: digits, batch_size: 4}}
blocks:
  unit:
    layers:
      - {{name: conv, type: Convolution, num_output: 4, kernel_size: 3, pad: 1, bias_term: false}}
      - {{name: bn, type: BatchNorm}}
      - {{name: relu, type: ReLU}}
      - {{name: sum, type: Eltwise, bottom: [relu, $in]}}
layers:
  - {{name: conv, type: Convolution, num_output: 4, kernel_size: 3, pad: 1}}
  - {{name: deep, block: unit, repeat: {depth}}}
  - {{name: drop, type: Dropout}}
  - {{name: scores, type: InnerProduct, num_output: {classes}}}
  - {{name: loss, type: SoftmaxWithLoss}}
solver: {{type: SGD, base_lr: 0.1, momentum: 0.9, max_iter: 10}}
"""


def deep(depth: int = 2, classes: int = 10) -> Loaded:
    return load(parse_tree(SPEC.format(depth=depth, classes=classes), "deep.yaml"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the operators that the standard's inference is asked about, beginning with nothing kept."""
    operators: list[str] = []
    infer_node_outputs = shape_inference.infer_node_outputs

    def record(schema, node, *rest, **named):  # type: ignore[no-untyped-def]
        operators.append(node.op_type)
        return infer_node_outputs(schema, node, *rest, **named)

    monkeypatch.setattr(inference, "_kept", {})
    monkeypatch.setattr(shape_inference, "infer_node_outputs", record)
    return operators


# ------------------------------------------------------------------------------------------------------- inference


def test_inference_is_asked_once_for_each_kind_of_node(asked: list[str]) -> None:
    g = GraphBuilder("g")
    x = g.input("x", FLOAT, [2, 3])
    for _ in range(20):
        x = g.Relu(g.Reshape(x, np.array([3, 2])))
        x = g.Reshape(x, np.array([2, 3]))
    verify(g.graph, "building")
    assert sorted(asked) == ["Relu", "Reshape", "Reshape"]


def test_depth_asks_nothing_new(asked: list[str]) -> None:
    build(deep(3))
    once = len(asked)
    nodes = build(deep(30)).programs["train"].graph.num_nodes()
    assert len(asked) == once < nodes / 3


def test_what_decides_a_type_tells_nodes_apart(asked: list[str]) -> None:
    """Attributes, number of outputs, omitted inputs, element types, shapes and the content of shape arguments."""
    g = GraphBuilder("g")
    x = g.input("x", FLOAT, [1, 2, 4, 4])
    n = g.input("n", FLOAT, ["N", 2, 4, 4])
    assert g.Transpose(x, perm=[1, 0, 2, 3]).shape == [2, 1, 4, 4]
    assert g.Transpose(x, perm=[0, 2, 3, 1]).shape == [1, 4, 4, 2]
    assert g.Transpose(n, perm=[1, 0, 2, 3]).shape == [2, "N", 4, 4]
    assert g.Reshape(x, np.array([2, 16])).shape == [2, 16]
    assert g.Reshape(x, np.array([16, 2])).shape == [16, 2]
    assert g.Cast(x, to=ir.DataType.INT64).dtype == ir.DataType.INT64
    assert g.Cast(x, to=ir.DataType.DOUBLE).dtype == ir.DataType.DOUBLE
    assert g.Relu(g.Cast(x, to=ir.DataType.DOUBLE)).dtype == ir.DataType.DOUBLE
    assert g.Relu(x).dtype == FLOAT
    values = [ir.tensor(np.zeros(1, dtype)) for dtype in (np.int64, np.float32)]
    shape = np.array([3])
    kinds = [g.ConstantOfShape(shape, value=value).dtype for value in values]
    assert kinds == [ir.DataType.INT64, FLOAT]
    assert len(g.ops("MaxPool", x, num_outputs=2, kernel_shape=[2, 2])) == 2
    assert g.MaxPool(x, kernel_shape=[2, 2]).shape == [1, 2, 3, 3]
    assert len(asked) == 13


@pytest.mark.parametrize("fault", ["attribute", "shape argument"])
def test_the_verifier_sees_what_changes_after_it_has_verified(fault: str) -> None:
    g = GraphBuilder("g")
    x = g.input("x", FLOAT, [2, 3, 4])
    g.output("y", g.Reshape(g.Transpose(x, perm=[0, 2, 1]), np.array([4, 6])))
    verify(g.graph, "building")
    transpose, reshape = g.graph
    if fault == "attribute":
        transpose.attributes["perm"] = ir.AttrInt64s("perm", [1, 0, 2])
    else:
        reshape.replace_input_with(1, g.constant(np.array([6, 4])))
    with pytest.raises(VerificationError, match=r"inferred as \[(3, 2, 4|6, 4)\]"):
        verify(g.graph, "planting a fault")


# ----------------------------------------------------------------------------------------------------------- passes


def repeating() -> ir.Graph:
    """Return repeats that are outputs, feed each other or differ in an attribute, and nodes that nobody reads."""
    g = GraphBuilder("g")
    x = g.input("x", FLOAT, [1, 2, 4, 4])
    with g.origin(Origin("layer")), g.arithmetic():
        a, b = g.Exp(x) + 1.0, g.Exp(x) + 1.0
        pools = [g.ops("MaxPool", x, num_outputs=2, kernel_shape=[2, 2]) for _ in range(2)]
        turned = [g.Transpose(a, perm=perm) for perm in ([1, 0, 2, 3], [1, 0, 2, 3], [0, 1, 3, 2])]
        g.Neg(g.Sqrt(b))
        values = {"a": a, "b": b, "c": a * b, "e": g.Exp(x), "p": pools[0][0], "q": pools[1][1], "r": pools[1][0]}
        values |= {f"t{i}": g.Neg(t) for i, t in enumerate(turned)} | {"clip": g.Clip(x, 0.0, None)}
    for name, value in values.items():
        g.output(name, value)
    return g.graph


@pytest.mark.parametrize("source", ["made up", "lenet", "resnet_tiny"])
def test_repeats_and_dead_nodes_are_those_that_onnx_ir_finds(source: str) -> None:
    """onnx-ir's passes, of which these are faster copies, are the oracle: the same nodes under the same names."""
    graph = repeating() if source == "made up" else compiled(source).network.net.g.graph
    ours, theirs = replay(graph, {}).graph, replay(graph, {}).graph
    merge_repeats(ours)
    drop_unread(ours)
    model = ir.Model(theirs, ir_version=IR_VERSION)
    for rewrite in (common.CommonSubexpressionEliminationPass(), common.RemoveUnusedNodesPass()):
        rewrite(model)
    assert text_of(ours) == text_of(theirs)
    assert ours.num_nodes() < graph.num_nodes()


def test_building_leaves_the_collector_as_it_was() -> None:
    lower_phases(deep())
    assert gc.isenabled()
    with pytest.raises(SpecError):
        build(deep(classes=3))
    assert gc.isenabled()
    gc.disable()
    try:
        build(deep())
        assert not gc.isenabled()
    finally:
        gc.enable()


# ------------------------------------------------------------------------------------------------------------ state


@pytest.mark.parametrize("dtype", [FLOAT, ir.DataType.DOUBLE])
def test_the_state_is_written_as_safetensors_writes_it(dtype: ir.DataType) -> None:
    artifact = build(deep(), dtype=dtype)
    assert {tensor.dtype for tensor in artifact.state} == {dtype, ir.DataType.INT64, ir.DataType.UINT32}
    assert b"".join(artifact.state_file()) == save(artifact.initial_state())


@pytest.mark.parametrize("count", [1, 3, PIECE, 2 * PIECE + 5])
def test_normal_draws_do_not_depend_on_the_pieces(count: int) -> None:
    """Bit for bit what the formula gives for all numbers at once: first all radii, then all angles."""
    raw = np.random.Philox(key=5).random_raw(2 * count) >> np.uint64(11)
    u, v = np.split(raw * 2.0**-53, 2)
    wanted = np.sqrt(-2.0 * np.log1p(-u)) * np.cos(2.0 * np.pi * v)
    assert normal_unit(np.random.Philox(key=5), (count, 1)).tobytes() == wanted.tobytes()


# ------------------------------------------------------------------------------------------------------------ check


@pytest.mark.parametrize(
    "change",
    [
        ("classes: 10", "classes: 300"),  # shows where the loss is lowered
        ("num_output: 10", "num_output: 10, axis: 9"),
        ("source: digits", "source: digits, unknown: 1"),
        ("base_lr: 0.1", "base_lr: -1"),
        ("type: SoftmaxWithLoss", "type: SoftmaxWithLoss, loss_weight: 0"),
    ],
)
def test_check_reports_what_compile_reports(change: tuple[str, str], tmp_path: Path) -> None:
    text = SPEC.format(depth=2, classes=10)
    assert change[0] in text
    file = tmp_path / "deep.yaml"
    file.write_text(text.replace(*change), encoding="utf-8")
    with pytest.raises(SpecError) as compiling:
        compile_spec(str(file), [])
    with pytest.raises(SpecError) as checking:
        summarize_spec(str(file), [])
    assert str(checking.value) == str(compiling.value)


def _filled(filler: str) -> dict[str, object]:
    """Return a filler with the fields that it needs."""
    return {"type": filler, **({"std": 0.1} if filler == "gaussian" else {})}


@pytest.mark.parametrize("filler", sorted(set(FILLERS.members) - {"bilinear"}))  # which is for kernels alone
@pytest.mark.parametrize("outputs", [16, 100])
def test_the_state_of_every_filler_is_written(filler: str, outputs: int) -> None:
    """A wide and a tall matrix: some fillers draw the transpose."""
    wide = {"name": "ip", "type": "InnerProduct", "num_output": outputs, "weight_filler": _filled(filler)}
    layers = [wide, {"name": "loss", "type": "SoftmaxWithLoss"}]
    spec = {
        "netc": 1,
        "name": "filled",
        "inputs": {"image": {"shape": [1, 8, 8]}, "label": {"classes": 10}},
        "data": {"source": "digits"},
        "layers": layers,
        "solver": {"type": "SGD", "base_lr": 0.1, "max_iter": 1},
    }
    artifact = build(load(parse_tree(json.dumps(spec), "filled.yaml")))
    assert b"".join(artifact.state_file()) == save(artifact.initial_state())
