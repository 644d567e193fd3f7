"""Every spec of the zoo compiles into graphs that obey the rules, trains two steps, and exports a plain model."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from netc import zoo
from netc.emit import write
from netc.graph.rules import FORBIDDEN
from netc.rewrite.passes import Target
from netc_runtime.artifact import Artifact
from netc_runtime.data import open_source
from netc_runtime.export import export_run
from netc_runtime.progress import make_reporter
from netc_runtime.session import Host
from netc_runtime.trainer import TrainOptions, train
from tests.zoo import DIGITS, ZOO, State, batches, compiled, models, next_state, reduced, run, shallow

ONE = ("solver.max_epochs=1",)
# Networks that only repeat the blocks of another one of the zoo more often.
DEEPER = {"resnet34", "resnet101", "resnet152", "resnet56_cifar", "resnet110_cifar"}
OTHER_TARGETS: tuple[Target, ...] = ("cuda", "web", "openvino")


@pytest.fixture(scope="module", params=ZOO)
def name(request: pytest.FixtureRequest) -> str:
    """A spec; all that is done with one stands together, since it is compiled once."""
    return str(request.param)


def test_the_zoo_is_found() -> None:
    assert zoo.names() == ZOO
    assert {"mlp", "lenet", "lenet_bn_dropout", "lenet_dsn", "resnet_tiny"} <= set(ZOO)
    assert all(zoo.summary(name) for name in ZOO)


def test_graphs_obey_the_rules(name: str) -> None:
    check_graphs("cpu", models(name, "cpu", *reduced(name)))


@pytest.mark.parametrize("target", OTHER_TARGETS)
@pytest.mark.parametrize("name", [name for name in ZOO if name not in DEEPER])
def test_graphs_for_other_engines_obey_the_rules(name: str, target: Target) -> None:
    """Where a spec repeats a block, twice stands for as often as it does."""
    check_graphs(target, models(name, target, *reduced(name), *shallow(name)))


def check_graphs(target: Target, graphs: Mapping[str, onnx.ModelProto]) -> None:
    """Read back what is emitted, without netc's own checks."""
    for graph, model in graphs.items():
        onnx.checker.check_model(model, full_check=True)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
        assert model.ir_version == 10
        assert len(model.functions) == 0
        for node in model.graph.node:
            assert node.domain in ("", "ai.onnx"), node.name
            assert node.op_type not in FORBIDDEN, node.name
            assert not any(a.g.node or a.graphs for a in node.attribute), f"{node.name} has a subgraph"
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            trains = node.op_type == "BatchNormalization" and attributes.get("training_mode")
            assert not trains or target == "cpu", node.name
            layer = next(p.value for p in node.metadata_props if p.key == "netc.layer")
            assert node.name.startswith(f"{layer}/")
        values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
        computed = {y for node in model.graph.node for y in node.output}
        assert computed <= {value.name for value in values}, "a value has no type"
        for value in values:
            for dim in value.type.tensor_type.shape.dim:
                assert dim.HasField("dim_value") or (graph != "train" and dim.HasField("dim_param")), value.name
        assert not {x.name for x in model.graph.input} & {y.name for y in model.graph.output}


def test_two_steps_change_all_that_learns(name: str) -> None:
    overrides = reduced(name)
    artifact = compiled(name, *overrides)
    state = start = artifact.initial_state()
    losses = []
    for batch in batches(name, 1, 5, *overrides) * 2:
        outputs = run(name, "train", {**state, **batch}, *overrides)
        state = next_state(state, outputs)
        losses.append(float(outputs["total"]))
    assert np.isfinite(losses).all()
    assert losses[1] < losses[0], "the same batch again, and no smaller loss"
    for tensor in artifact.state:
        if tensor.role in ("parameter", "statistic") and tensor.lr_mult > 0:
            assert (state[tensor.name] != start[tensor.name]).any(), tensor.name
            assert np.isfinite(state[tensor.name]).all(), tensor.name
    if name not in DIGITS and name not in DEEPER:
        check_inference(name, state, *overrides)


def check_inference(name: str, state: State, *overrides: str) -> None:
    """Evaluate a state with eval.onnx, and with fold.onnx and infer.onnx, of which an exported model consists."""
    (batch,) = batches(name, 1, 6, *overrides)
    programs = compiled(name, *overrides).programs
    folded = run(name, "fold", state, *overrides)
    parameters = {str(entry["feeds"]): folded[key] for key, entry in programs["fold"].outputs.items()}
    expected = run(name, "eval", {**state, **batch}, *overrides)
    actual = run(name, "infer", {**parameters, **batch}, *overrides)
    assert actual
    for output, scores in actual.items():
        assert np.isfinite(scores).all(), output
        # 1e-4 of the largest score: float32 sums in another order, since a folded convolution has other weights.
        np.testing.assert_allclose(scores, expected[output], rtol=0, atol=1e-4 * np.abs(expected[output]).max())


@pytest.mark.parametrize("name", DIGITS)
def test_export(name: str, tmp_path: Path) -> None:
    write(compiled(name, *ONE), tmp_path / "artifact")
    train(TrainOptions(tmp_path / "run", tmp_path / "artifact", Host("cpu", 1)), make_reporter())
    report = export_run(tmp_path / "run", tmp_path / "model.onnx", host=Host("cpu", 1))
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    operators = {node.op_type for node in model.graph.node}
    training = {"BatchNormalization", "Dropout", "LogSoftmax", "Greater", "GreaterOrEqual", "ReduceSum", "Where"}
    assert not operators & training
    sides = {p.layer.name for p in compiled(name).network.placed if p.sides}
    assert not {node.name.split("/")[0] for node in model.graph.node} & sides
    assert [x.name for x in model.graph.input] == ["image"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    # The whole test split against eval.onnx: 1e-5 of the largest score.
    assert report.agreement is not None
    assert report.agreement.samples == 360
    assert report.agreement.difference <= 1e-5 * report.agreement.largest
    images = np.asarray(open_source(Artifact.load(tmp_path / "artifact").spec["data"]).test["image"][:3], np.float32)
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3):
        (scores,) = session.run(None, {"image": images[:count]})
        (reference,) = ReferenceEvaluator(model).run(None, {"image": images[:count]})
        np.testing.assert_allclose(np.asarray(scores), np.asarray(reference), rtol=1e-4, atol=1e-4)
