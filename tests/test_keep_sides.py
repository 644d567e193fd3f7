"""Inference programs that return the scores of sides too, compiled without the rest of an artifact."""

import json
from typing import Any

import numpy as np
import onnx
import pytest

from netc.build import build, build_inference
from netc.emit import Inference
from netc.errors import UsageError
from netc.network import lower
from netc.spec.load import Loaded, load
from netc.spec.text import parse_tree
from tests.folding import FOLDED, reasons
from tests.oracle import Arrays, error, ort_runner, to_model
from tests.zoo import loaded

SCORES = {"name": "ip", "type": "InnerProduct", "num_output": 3}
LOSS = {"name": "loss", "type": "SoftmaxWithLoss"}


def spec_of(layers: list[dict[str, Any]], **sections: Any) -> Loaded:
    spec = {
        "netc": 1,
        "name": "net",
        "inputs": {"image": {"shape": [1, 6, 6]}, "label": {"classes": 3}},
        "data": {"source": "digits", "batch_size": 4},
        "layers": layers,
        "solver": {"type": "SGD", "base_lr": 0.1, "max_iter": 10, **sections.pop("solver", {})},
        **sections,
    }
    return load(parse_tree(json.dumps(spec), "net.yaml"))


def side(name: str, **fields: Any) -> dict[str, Any]:
    """Return a side of a score and a loss, both called after `name`."""
    score = {"name": f"{name}_score", "type": "InnerProduct", "num_output": 3, **fields}
    return {"layers": [score, {"name": f"{name}_loss", "type": "SoftmaxWithLoss"}]}


def outputs(programs: Inference) -> list[str]:
    return [str(value.name) for value in programs.programs["infer"].graph.outputs]


def conv(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "type": "Convolution", "num_output": 3, "kernel_size": 3, **fields}


NESTED = side("outer")
NESTED["layers"].insert(0, {"name": "inside", "type": "ReLU", "side": side("inner")})
TWO = [conv("c1", side=NESTED), {"name": "relu", "type": "ReLU"}, conv("c2", side=side("late")), SCORES, LOSS]


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        ([], []),
        (["c1"], ["outer_score"]),
        (["outer_loss"], ["outer_score"]),
        (["late_score"], ["late_score"]),
        (["inside"], ["inner_score"]),
        (["late_loss", "c2", "c1"], ["outer_score", "late_score"]),
    ],
)
def test_a_side_is_called_like_its_layer_its_loss_or_its_scores(names: list[str], kept: list[str]) -> None:
    assert outputs(build_inference(spec_of(TWO), names)) == ["ip", *kept]


def test_a_score_of_two_losses_is_one_output() -> None:
    two = side("s")
    two["layers"].append({"name": "hinge", "type": "HingeLoss", "bottom": ["s_score", "label"]})
    programs = build_inference(spec_of([conv("c", side=two), SCORES, LOSS]), ["c", "hinge"])
    assert outputs(programs) == ["ip", "s_score"]


@pytest.mark.parametrize(
    ("spec", "name", "kept"),
    [
        ("hed", "side2", ["side2/map"]),
        ("hed", "side2/trunk", ["side2/map"]),
        ("hed", "side2/loss", ["side2/map"]),
        ("googlenet_bn", "loss1", ["loss1/classifier"]),
        ("lenet_dsn", "l1", ["ip1_side"]),
    ],
)
def test_sides_of_the_zoo(spec: str, name: str, kept: list[str]) -> None:
    assert outputs(build_inference(loaded(spec), [name]))[1:] == kept


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["c2", "insid"], 'there is no side "insid"; did you mean "inside"? sides: '),
        (["late_lost"], 'there is no side "late_lost"; did you mean "late_loss"? sides: '),
        (["xyz"], 'there is no side "xyz"; sides: '),
    ],
)
def test_an_unknown_side(names: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_inference(spec_of(TWO), names)
    assert str(caught.value) == message + "inside (loss inner_loss), c1 (loss outer_loss), c2 (loss late_loss)"


def test_no_sides() -> None:
    with pytest.raises(UsageError) as caught:
        build_inference(spec_of([SCORES, LOSS]), ["c1"])
    assert str(caught.value) == 'there is no side "c1", since the network has no sides'


def test_kept_scores_are_those_of_the_network() -> None:
    """Normalizations in the side fold too."""
    spec = loaded("googlenet_bn", "inputs.image.shape=[3,80,80]")
    programs = build_inference(spec, ["loss1"])
    models = {name: onnx.load_model_from_string(content) for name, content in programs.files().items()}
    nodes = [*models["fold.onnx"].graph.node, *models["infer.onnx"].graph.node]
    assert "BatchNormalization" not in [node.op_type for node in nodes]
    network = lower(spec, "test", None)
    names = ["loss1/classifier", "loss3/classifier"]
    for name in names:
        network.net.g.output(name, network.tops[name])
    rng = np.random.default_rng(0)
    feed: Arrays = {name: tensor.first_value(0) for name, tensor in network.net.state.items()}
    feed |= {name: 1 + rng.random(value.shape) for name, value in feed.items() if name.endswith("running_var")}
    feed |= {name: rng.normal(size=value.shape) for name, value in feed.items() if name.endswith("running_mean")}
    feed |= {"image": rng.normal(size=(2, 3, 80, 80)) * 50, "label": np.zeros(2)}
    expected = ort_runner(to_model(network.net.g.graph, emitted=False))(feed)
    feeds = {y["name"]: y["feeds"] for y in programs.graphs()["fold"]["outputs"]}
    folded = ort_runner(models["fold.onnx"])(feed)
    result = ort_runner(models["infer.onnx"])(feed | {feeds[name]: value for name, value in folded.items()})
    assert list(result) == names[::-1]
    for name in names:
        assert error(result[name], expected[name].astype(np.float64)) < FOLDED


def test_what_a_manifest_says_of_a_side() -> None:
    entries = build_inference(spec_of(TWO), ["c2"]).graphs()
    assert entries["infer"]["file"] == "infer.onnx"
    score = {"dtype": "float32", "shape": ["N", 3], "role": "output", "activation": "logits", "label": "label"}
    assert entries["infer"]["outputs"] == [{"name": "ip", **score}, {"name": "late_score", **score, "side": "c2"}]
    assert {"name": "late_score.weight", "dtype": "float32", "shape": [3, 12], "role": "parameter"} in entries["infer"][
        "inputs"
    ]


def test_a_score_that_is_an_output_takes_in_nothing() -> None:
    """The fused head normalizes what is now an output of the model as well."""
    layers = [
        conv("c1", side=side("s1")),
        conv("c2", side=side("s2")),
        *({"name": "relu", "type": "ReLU"}, SCORES, LOSS),
    ]
    head = [
        {"name": "maps", "type": "Concat"},
        {"name": "bn", "type": "BatchNorm"},
        {"name": "relu2", "type": "ReLU"},
        {"name": "fused", "type": "InnerProduct", "num_output": 3},
        {"name": "fuse_loss", "type": "SoftmaxWithLoss"},
    ]
    spec = spec_of(layers, fuse={"layers": head})
    assert reasons(build_inference(spec).programs["infer"].graph) == {}
    before, after = "s2_score is an output of the model (joined by maps)", "relu2 (Relu) cannot absorb it"
    kept = build_inference(spec, ["c2"])
    assert outputs(kept) == ["ip", "fused", "s2_score"]
    said = {"bn": f"kept as scale and shift: before it, {before}; after it, {after}"}
    assert reasons(kept.programs["infer"].graph) == said
    (model,) = (onnx.load_model_from_string(content) for name, content in kept.files().items() if name == "infer.onnx")
    emitted = [{p.key: p.value for p in node.metadata_props}.get("netc.fold") for node in model.graph.node]
    assert [text for text in emitted if text] == [said["bn"]] * 2


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"solver": {"weight_average": 0.9}, "freeze": ["c1"]},
        {"solver": {"weight_average": 0.9}, "phases": [{"iterations": 5, "freeze": ["c*"]}, {"freeze": ["c1", "ip"]}]},
    ],
)
def test_without_kept_sides_the_programs_are_those_of_the_artifact(sections: dict[str, Any]) -> None:
    spec = spec_of(TWO, **sections)
    artifact, programs = build(spec), build_inference(spec)
    models = artifact.models()
    content = {f"{name}.onnx": models[name].SerializeToString(deterministic=True) for name in ("fold", "infer")}
    assert programs.files() == content
    assert programs.graphs() == {name: artifact.manifest()["graphs"][name] for name in ("fold", "infer")}
