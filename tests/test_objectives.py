"""What adds to the objective beside the losses: weights on any layer, penalties, shared parameters, a fused head."""

import json
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from netc.build import build
from netc.emit import Artifact
from netc.errors import SpecError
from netc.spec.load import load
from netc.spec.text import parse_tree
from tests.oracle import ort_runner

BATCH = 4
INPUTS: dict[str, Any] = {"image": {"shape": [1, 4, 4]}, "label": {"classes": 3}}
IP: dict[str, Any] = {"name": "ip", "type": "InnerProduct", "num_output": 3}
LOSS: dict[str, Any] = {"name": "loss", "type": "SoftmaxWithLoss", "bottom": ["ip", "label"]}
Arrays = dict[str, np.ndarray]


def compiled(layers: list[dict[str, Any]], inputs: dict[str, Any] = INPUTS, **sections: Any) -> Artifact:
    spec = {
        "netc": 1,
        "name": "net",
        "inputs": inputs,
        "data": {"source": "digits", "batch_size": BATCH},
        "layers": layers,
        "solver": {"type": "SGD", "base_lr": 1.0, "momentum": 0.5, "max_iter": 10},
        **sections,
    }
    return build(load(parse_tree(json.dumps(spec), "net.yaml")))


def refused(layers: list[dict[str, Any]], **sections: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        compiled(layers, **sections)
    return [diagnostic.message for diagnostic in caught.value.diagnostics]


def run(artifact: Artifact, graph: str, seed: int = 3) -> tuple[Arrays, Arrays]:
    """Run one program on noise; return what it was fed and its outputs."""
    rng = np.random.default_rng(seed)
    model = artifact.models()[graph]
    feed: Arrays = dict(artifact.initial_state())
    for x in model.graph.input:
        if x.name not in feed:
            shape = [dim.dim_value or BATCH for dim in x.type.tensor_type.shape.dim]
            labels = x.type.tensor_type.elem_type == 6
            drawn = rng.integers(0, 3, shape) if labels else rng.normal(size=shape)
            feed[x.name] = drawn.astype(np.int32 if labels else np.float32)
    return feed, ort_runner(model)(feed)


def kinds(artifact: Artifact) -> dict[str, str]:
    return {metric["name"]: metric["kind"] for metric in artifact.metrics}


# ------------------------------------------------------------------------------------------------ loss_weight


def test_any_layer_can_be_minimised() -> None:
    """Its values add up over a sample, and their mean over the batch is weighed."""
    squares = {"name": "size", "type": "Power", "power": 2.0, "loss_weight": 0.25, "bottom": "ip"}
    artifact = compiled([IP, LOSS, squares])
    feed, outputs = run(artifact, "train")
    scores = feed["image"].reshape(BATCH, -1) @ feed["ip.weight"].T + feed["ip.bias"]
    expected = (scores**2).sum() / BATCH
    assert outputs["size.loss"] == pytest.approx(expected, rel=1e-6)
    assert outputs["total"] == pytest.approx(outputs["loss"] + 0.25 * expected, rel=1e-6)
    assert kinds(artifact)["size.loss"] == "loss"


def test_a_layer_that_is_only_minimised_is_no_output() -> None:
    squares = {"name": "size", "type": "Power", "power": 2.0, "loss_weight": 0.25, "bottom": "ip"}
    artifact = compiled([IP, LOSS, squares])
    assert [y.name for y in artifact.programs["infer"].graph.outputs] == ["ip"]
    assert not artifact.warnings


def test_a_minimised_layer_that_others_read_stays_what_it_is() -> None:
    artifact = compiled([{**IP, "loss_weight": 0.1}, LOSS])
    assert [y.name for y in artifact.programs["infer"].graph.outputs] == ["ip"]
    _, outputs = run(artifact, "eval")
    assert outputs["ip.loss"] == pytest.approx(outputs["ip"].sum() / BATCH, rel=1e-5)
    assert outputs["ip.loss.weight"] == BATCH


def test_several_tops_are_weighed_together() -> None:
    cut = {"name": "cut", "type": "Slice", "top": ["a", "b"], "slice_point": 1, "bottom": "ip", "loss_weight": 2.0}
    _, outputs = run(compiled([IP, LOSS, cut]), "train")
    assert outputs["total"] == pytest.approx(outputs["loss"] + 2 * outputs["cut.loss"], rel=1e-6)


def test_a_weight_alone_is_an_objective() -> None:
    artifact = compiled([{**IP, "loss_weight": 1.0}])
    feed, outputs = run(artifact, "train")
    gradient = feed["image"].reshape(BATCH, -1).mean(0)
    np.testing.assert_allclose(outputs["ip.weight/velocity.next"], np.tile(gradient, (3, 1)), rtol=1e-5)
    assert [y.name for y in artifact.programs["infer"].graph.outputs] == ["ip"]


def test_a_metric_has_no_weight() -> None:
    accuracy = {"name": "a", "type": "Accuracy", "bottom": ["ip", "label"], "loss_weight": 1.0}
    assert "is a metric, which is never minimised" in refused([IP, LOSS, accuracy])[0]
    assert "loss_weight: must be at least 0" in refused([{**IP, "loss_weight": -1.0}, LOSS])[0]


# -------------------------------------------------------------------------------------------------- penalties


def test_penalties_are_part_of_the_objective() -> None:
    artifact = compiled([{**IP, "param": [{"l1": 0.5, "l2": 0.25}]}, LOSS])
    plain = compiled([IP, LOSS])
    feed, outputs = run(artifact, "train")
    _, without = run(plain, "train")
    w = feed["ip.weight"].astype(np.float64)
    expected = 0.5 * np.abs(w).sum() + 0.25 * (w**2).sum()
    assert outputs["ip.penalty"] == pytest.approx(expected, rel=1e-6)
    assert outputs["total"] == pytest.approx(outputs["loss"] + expected, rel=1e-6)
    pull = outputs["ip.weight/velocity.next"] - without["ip.weight/velocity.next"]
    np.testing.assert_allclose(pull, 0.5 * np.sign(w) + 0.5 * w, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(outputs["ip.bias/velocity.next"], without["ip.bias/velocity.next"])
    assert kinds(artifact)["ip.penalty"] == "penalty"
    assert "ip.penalty" in {y.name for y in artifact.programs["eval"].graph.outputs}


# -------------------------------------------------------------------------------------------- shared parameters

SHARED: list[dict[str, Any]] = [
    {"name": "a", "type": "InnerProduct", "num_output": 16, "param": [{"name": "w"}, {"name": "b"}]},
    {"name": "t", "type": "TanH"},
    {"name": "c", "type": "InnerProduct", "num_output": 16, "param": [{"name": "w"}]},
    {**IP, "bottom": "c"},
    LOSS,
]


def test_gradients_of_a_shared_parameter_add_up() -> None:
    artifact = compiled(SHARED)
    names = [tensor.name for tensor in artifact.state if tensor.role == "parameter"]
    assert names == ["w", "b", "c.bias", "ip.weight", "ip.bias"]
    feed, outputs = run(artifact, "train")
    t = {name: torch.tensor(feed[name], dtype=torch.float64, requires_grad=True) for name in names}
    x = torch.tensor(feed["image"].reshape(BATCH, -1), dtype=torch.float64)
    y = F.linear(torch.tanh(F.linear(x, t["w"], t["b"])), t["w"], t["c.bias"])
    loss = F.cross_entropy(F.linear(y, t["ip.weight"], t["ip.bias"]), torch.tensor(feed["label"].astype(np.int64)))
    for name, gradient in zip(names, torch.autograd.grad(loss, list(t.values())), strict=True):
        actual = outputs[f"{name}/velocity.next"]
        np.testing.assert_allclose(actual, gradient.numpy(), rtol=1e-4, atol=1e-7, err_msg=name)
        np.testing.assert_allclose(outputs[f"{name}.next"], feed[name] - actual, rtol=1e-6)


def test_a_penalty_of_a_shared_parameter_counts_once() -> None:
    layers = [{**SHARED[0], "param": [{"name": "w", "l2": 0.5}]}, *SHARED[1:]]
    feed, outputs = run(compiled(layers), "train")
    assert outputs["a.penalty"] == pytest.approx(0.5 * (feed["w"].astype(np.float64) ** 2).sum(), rel=1e-5)
    assert "c.penalty" not in outputs


def test_a_shared_parameter_starts_as_its_name_and_first_layer_say() -> None:
    swapped = [{**SHARED[0], "name": "other", "weight_filler": {"type": "constant", "value": 0.5}}, *SHARED[1:]]
    state = compiled(swapped).initial_state()
    assert (state["w"] == 0.5).all()
    np.testing.assert_array_equal(compiled(SHARED).initial_state()["b"], state["b"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_output": 5}, 'its weight 5x16 shares the name "w" with one of a, 16x16'),
        ({"param": [{"name": "w", "lr_mult": 2.0}]}, 'param: lr_mult 2 of "w" is 1 in a'),
        ({"param": [{"name": "t"}]}, 'the name "t" is taken already'),
        ({"param": [{"name": "image"}]}, 'the name "image" is taken already'),
        ({"param": [{"name": "total"}]}, '"total" is a name that every step uses'),
        ({"param": [{"name": "w.x"}]}, "is not a valid name"),
        ({"name": "w"}, 'the name "w" is taken already'),
        ({"bottom": "b"}, '"b" is a parameter; name the layer that it belongs to'),
    ],
)
def test_what_cannot_be_shared(changes: dict[str, Any], sentence: str) -> None:
    layers = [*SHARED[:2], {**SHARED[2], **changes}, *SHARED[3:]]
    assert any(sentence in message for message in refused(layers)), refused(layers)


def test_a_name_for_one_parameter_alone() -> None:
    artifact = compiled([{**IP, "param": [{"name": "scores/weight"}]}, LOSS])
    assert "scores/weight" in artifact.initial_state()


# ------------------------------------------------------------------------------------------------------ fuse


def side(number: int, **fields: Any) -> dict[str, Any]:
    scores = {"name": f"s{number}", "type": "InnerProduct", "num_output": 3}
    return {"layers": [scores, {"name": f"l{number}", "type": "SoftmaxWithLoss"}], **fields}


TWO_SIDES: list[dict[str, Any]] = [
    {"name": "one", "type": "InnerProduct", "num_output": 8, "side": side(1)},
    {"name": "relu", "type": "ReLU"},
    {"name": "two", "type": "InnerProduct", "num_output": 8, "side": side(2, loss_weight=0.5)},
]
HEAD: dict[str, Any] = {
    "layers": [
        {"name": "fuse", "type": "WeightedSum"},
        {"name": "fuse_loss", "type": "SoftmaxWithLoss"},
        {"name": "fuse_accuracy", "type": "Accuracy", "bottom": ["fuse", "label"]},
    ]
}


def test_a_head_fuses_the_scores_of_all_sides() -> None:
    artifact = compiled(TWO_SIDES, fuse=HEAD)
    feed, outputs = run(artifact, "eval")
    expected = {"total": "total", "l1": "side_loss", "l2": "side_loss", "fuse_loss": "fuse_loss"}
    assert kinds(artifact) == expected | {"fuse_accuracy": "accuracy", "lr": "rate"}
    x = torch.tensor(feed["image"].reshape(BATCH, -1))
    t = {name: torch.tensor(value) for name, value in feed.items()}
    one = F.linear(x, t["one.weight"], t["one.bias"])
    two = F.linear(torch.relu(one), t["two.weight"], t["two.bias"])
    scores = [F.linear(y, t[f"s{n}.weight"], t[f"s{n}.bias"]) for n, y in ((1, one), (2, two))]
    np.testing.assert_array_equal(feed["fuse.weight"], np.array([0.5, 0.5], np.float32))
    np.testing.assert_allclose(outputs["fuse"], (scores[0] + scores[1]) / 2, rtol=1e-4, atol=1e-5)
    labels = t["label"].long()
    losses = {"l1": F.cross_entropy(scores[0], labels), "l2": F.cross_entropy(scores[1], labels)}
    losses["fuse_loss"] = F.cross_entropy((scores[0] + scores[1]) / 2, labels)
    for name, value in losses.items():
        assert outputs[name] == pytest.approx(value.item(), rel=1e-5)
    total = losses["l1"] + 0.5 * losses["l2"] + losses["fuse_loss"]
    assert outputs["total"] == pytest.approx(total.item(), rel=1e-5)


def test_inference_keeps_what_the_head_reads() -> None:
    artifact = compiled(TWO_SIDES, fuse=HEAD)
    infer = artifact.programs["infer"].graph
    assert [y.name for y in infer.outputs] == ["fuse"]
    assert artifact.programs["infer"].outputs["fuse"] == {"role": "output", "activation": "logits", "label": "label"}
    feed, expected = run(artifact, "eval")
    folded = ort_runner(artifact.models()["fold"])(feed)
    parameters = {artifact.programs["fold"].outputs[name]["feeds"]: value for name, value in folded.items()}
    outputs = ort_runner(artifact.models()["infer"])({**parameters, "image": feed["image"]})
    np.testing.assert_allclose(outputs["fuse"], expected["fuse"], rtol=1e-5, atol=1e-6)
    training_only = {node.metadata_props["netc.layer"] for node in infer} & {"l1", "l2", "fuse_loss"}
    assert not training_only


def test_a_head_beside_a_main_loss() -> None:
    layers = [*TWO_SIDES, {**IP, "bottom": "two"}, LOSS]
    artifact = compiled(layers, fuse={**HEAD, "loss_weight": 0.25})
    _, outputs = run(artifact, "train")
    weighed = outputs["loss"] + outputs["l1"] + 0.5 * outputs["l2"] + 0.25 * outputs["fuse_loss"]
    assert outputs["total"] == pytest.approx(weighed, rel=1e-6)
    assert [y.name for y in artifact.programs["infer"].graph.outputs] == ["ip", "fuse"]


def test_a_head_may_name_what_it_reads() -> None:
    head = [{"name": "both", "type": "Concat", "bottom": ["s2", "one"]}, {"type": "InnerProduct", "num_output": 3}]
    artifact = compiled(TWO_SIDES, fuse={"layers": [*head, {"name": "f", "type": "SoftmaxWithLoss"}]})
    assert [y.name for y in artifact.programs["infer"].graph.outputs] == ["innerproduct1"]
    kept = {node.metadata_props["netc.layer"] for node in artifact.programs["infer"].graph}
    assert "s2" in kept
    assert "s1" not in kept


def test_the_sides_of_blocks_are_fused() -> None:
    scored = [{"name": "scores", "type": "InnerProduct", "num_output": 3}, {"name": "loss", "type": "SoftmaxWithLoss"}]
    stage = [{"name": "ip", "type": "InnerProduct", "num_output": 8, "side": {"layers": scored}}, {"type": "TanH"}]
    refine = {"layers": [{"name": "ip", "type": "InnerProduct", "num_output": 3}]}
    layers = [{"name": "stage", "block": "stage", "repeat": 3}]
    head = [HEAD["layers"][0], {"name": "refine", "block": "refine"}, HEAD["layers"][1]]
    artifact = compiled(layers, blocks={"stage": {"layers": stage}, "refine": refine}, fuse={"layers": head})
    sides = [name for name, kind in kinds(artifact).items() if kind == "side_loss"]
    assert sides == ["stage/1/loss", "stage/2/loss", "stage/3/loss"]
    assert artifact.initial_state()["fuse.weight"].shape == (3,)
    assert [y.name for y in artifact.programs["infer"].graph.outputs] == ["stage", "refine"]


@pytest.mark.parametrize(
    ("layers", "fuse", "sentence"),
    [
        ([IP, LOSS], HEAD, "fuse: needs at least 2 sides that end in a loss in the train phase, got 0"),
        ([TWO_SIDES[0], {**IP, "bottom": "one"}, LOSS], HEAD, "got 1"),
        (TWO_SIDES, {"layers": [{"name": "fuse", "type": "WeightedSum"}]}, "fuse: the head has no loss"),
        (TWO_SIDES, {"layers": [{"type": "ReLU"}, HEAD["layers"][1]]}, "ReLU takes one bottom, got 2"),
        (TWO_SIDES, {"layers": [{**IP, "side": side(3), "bottom": "one"}, LOSS]}, "the fused head has no sides"),
        (TWO_SIDES, {}, 'the field "layers" is required'),
        (TWO_SIDES, {**HEAD, "weight": 1}, 'has no field "weight"'),
        (TWO_SIDES, 5, "fuse"),
    ],
)
def test_heads_that_cannot_be(layers: list[dict[str, Any]], fuse: Any, sentence: str) -> None:
    messages = refused(layers, fuse=fuse)
    print(messages)
    assert any(sentence in message for message in messages), messages


# ------------------------------------------------------------------------------------------- labels and statistics


def test_what_all_ignore_need_be_no_class() -> None:
    """The manifest tells the driver which labels count nothing; one reader that counts them is enough to forbid it."""
    inputs = {"image": {"shape": [3, 6, 5]}, "label": {"classes": 3, "shape": [6, 5]}}
    scores = {"name": "ip", "type": "Convolution", "num_output": 3, "kernel_size": 1}
    loss = {**LOSS, "ignore_label": 255}
    accuracy = {"name": "a", "type": "Accuracy", "bottom": ["ip", "label"]}
    everywhere = compiled([scores, loss, {**accuracy, "ignore_label": 255}], inputs)
    entry = everywhere.programs["eval"].inputs["label"]
    assert entry == {"role": "batch", "field": "label", "classes": 3, "ignored": [255]}
    assert everywhere.programs["infer"].outputs["ip"]["ignored"] == [255]
    counting = compiled([scores, loss, accuracy], inputs)
    assert "ignored" not in counting.programs["train"].inputs["label"]
    (warning,) = counting.warnings
    assert "a: counts the label 255, which is no class and loss ignores; give it ignore_label: 255" in str(warning)
    (label,) = [x for x in everywhere.programs["train"].graph.inputs if x.name == "label"]
    assert list(label.shape or ()) == [BATCH, 6, 5]


def test_population_statistics_have_a_program_of_their_own() -> None:
    norm = {"name": "bn", "type": "BatchNorm", "statistics": "population", "bottom": "image"}
    moving = {"name": "other", "type": "BatchNorm"}
    artifact = compiled([norm, moving, IP, LOSS])
    assert artifact.manifest()["population_batches"] == 100
    feed, outputs = run(artifact, "population")
    x = feed["image"].astype(np.float64)
    assert set(outputs) == {"bn.running_mean.batch", "bn.running_var.batch"}
    np.testing.assert_allclose(outputs["bn.running_mean.batch"], [x.mean()], rtol=1e-5)
    np.testing.assert_allclose(outputs["bn.running_var.batch"], [x.var(ddof=1)], rtol=1e-5)
    roles = artifact.programs["population"].outputs
    assert roles["bn.running_var.batch"] == {"role": "statistic", "feeds": "bn.running_var"}
    assert "population" not in compiled([moving, IP, LOSS]).programs
    both = {**norm, "use_global_stats": True}
    assert "remove one of them" in refused([both, IP, LOSS])[0]


def test_metrics_of_evaluation_alone_are_declared() -> None:
    accuracy = {"name": "a", "type": "Accuracy", "bottom": ["ip", "label"], "include": {"phase": "test"}}
    matrix = {"name": "m", "type": "ConfusionMatrix", "bottom": ["ip", "label"]}
    artifact = compiled([IP, LOSS, accuracy, matrix])
    expected = {"total": "total", "loss": "loss", "lr": "rate", "a": "accuracy", "m": "confusion_matrix"}
    assert kinds(artifact) == expected
    (entry,) = [y for y in artifact.manifest()["graphs"]["eval"]["outputs"] if y["name"] == "m"]
    assert entry == {"name": "m", "dtype": "int64", "shape": [3, 3], "role": "count"}
