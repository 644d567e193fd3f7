"""Whole specs with something unusual: what the compiler makes of them, and what it refuses or warns of."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from netc.build import build
from netc.emit import Artifact, write
from netc.errors import SpecError
from netc.spec.load import load
from netc.spec.text import parse_tree
from netc_runtime.artifact import Artifact as ArtifactOnDisk
from netc_runtime.export import fold
from netc_runtime.session import Host

HEAD = """
netc: 1
name: net
inputs: {INPUTS}
data: {source: digits, scale: 0.0625, batch_size: 4}
solver: {type: SGD, base_lr: 0.1, momentum: 0.9, weight_decay: 0.1, max_epochs: 1}
layers:
"""
INPUTS = "{image: {shape: [1, 4, 4]}, label: {classes: 3}}"
LOSS = "  - {name: loss, type: SoftmaxWithLoss, bottom: [ip, label]}\n"
IP = "  - {name: ip, type: InnerProduct, num_output: 3}\n"


def compiled(layers: str, inputs: str = INPUTS) -> Artifact:
    return build(load(parse_tree(HEAD.replace("{INPUTS}", inputs) + layers, "net.yaml")))


def refused(layers: str, inputs: str = INPUTS) -> list[str]:
    with pytest.raises(SpecError) as caught:
        compiled(layers, inputs)
    return [diagnostic.message for diagnostic in caught.value.diagnostics]


def kinds(artifact: Artifact) -> dict[str, str]:
    return {metric["name"]: metric["kind"] for metric in artifact.metrics}


def train(artifact: Artifact, steps: int = 1) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Run steps on noise; return the last outputs and the state."""
    session = ort.InferenceSession(artifact.models()["train"].SerializeToString(), providers=["CPUExecutionProvider"])
    names = [y.name for y in session.get_outputs()]
    rng = np.random.default_rng(3)
    feed: dict[str, np.ndarray] = dict(artifact.initial_state())
    for x in session.get_inputs():
        if x.name not in feed:
            integers = "int32" in x.type
            feed[x.name] = rng.integers(0, 3, x.shape).astype(np.int32) if integers else rng.normal(size=x.shape)
            feed[x.name] = feed[x.name] if integers else feed[x.name].astype(np.float32)
    wanted = {x.name for x in session.get_inputs()}
    results: dict[str, np.ndarray] = {}
    for _ in range(steps):
        results = dict(zip(names, session.run(names, {k: v for k, v in feed.items() if k in wanted}), strict=True))
        feed |= {name[: -len(".next")]: value for name, value in results.items() if name.endswith(".next")}
    return results, feed


def test_a_metric_of_a_side_is_not_a_metric_of_the_network() -> None:
    side = """  - name: flat
    type: Flatten
    side:
      layers:
        - {name: ip_s, type: InnerProduct, num_output: 3}
        - {name: acc_s, type: Accuracy, bottom: [ip_s, label]}
        - {name: loss_s, type: SoftmaxWithLoss, bottom: [ip_s, label]}
"""
    artifact = compiled(side + IP + LOSS + "  - {name: acc, type: Accuracy, bottom: [ip, label]}\n")
    expected = {"acc_s": "side_accuracy", "loss_s": "side_loss", "acc": "accuracy", "loss": "loss", "total": "total"}
    assert kinds(artifact) == expected | {"lr": "rate"}


def test_a_loss_of_weight_zero_is_only_watched() -> None:
    other = "  - {name: odd, type: InnerProduct, bottom: image, num_output: 3}\n"
    watched = "  - {name: e, type: SoftmaxWithLoss, bottom: [odd, label], loss_weight: 0}\n"
    artifact = compiled(IP + LOSS + other + watched)
    results, state = train(artifact)
    assert results["total"] == results["loss"] != results["e"]
    np.testing.assert_array_equal(state["odd.weight"], artifact.initial_state()["odd.weight"])
    assert "every loss has the weight 0" in refused(IP + LOSS.replace("]}", "], loss_weight: 0}"))[0]


@pytest.mark.parametrize("threshold", [0.0, 0.5, 100.0])
def test_a_side_pulls_only_above_its_threshold(threshold: float) -> None:
    side = f"""  - name: flat
    type: Flatten
    side:
      loss_weight: 0.5
      threshold: {threshold}
      layers:
        - {{name: ip_s, type: InnerProduct, num_output: 3}}
        - {{name: loss_s, type: SoftmaxWithLoss}}
"""
    artifact = compiled(side + IP + LOSS)
    results, state = train(artifact)
    assert results["loss_s"] > 0.5, "the side's own metric is the whole loss"
    pull = 0.5 * max(0.0, float(results["loss_s"]) - threshold)
    assert float(results["total"]) == pytest.approx(float(results["loss"]) + pull, rel=1e-6)
    still = artifact.initial_state()["ip_s.bias"]
    assert np.array_equal(state["ip_s.bias"], still) == (threshold == 100.0)


def test_phases_must_agree_on_parameters() -> None:
    both = "".join(
        f"  - {{name: a, type: InnerProduct, num_output: {n}, include: {{phase: {phase}}}}}\n"
        for n, phase in ((5, "train"), (6, "test"))
    )
    (message,) = refused(both + IP + LOSS)
    assert message == (
        "a: its weight has the shape [6, 16] in the test phase and [5, 16] in the train phase; "
        "both phases must use the same parameters"
    )


def test_mistakes_of_both_phases_are_shown_together() -> None:
    pools = "".join(
        f"  - {{name: {name}, type: Pooling, kernel_size: 9, include: {{phase: {phase}}}}}\n"
        for name, phase in (("p", "train"), ("q", "test"))
    )
    assert [message.split(":")[0] for message in refused(pools + IP + LOSS)] == ["p", "q"]


@pytest.mark.parametrize(
    ("inputs", "fields"),
    [
        ("{pixels: {shape: [16]}, digit: {classes: 3}}", {"pixels": "image", "digit": "label"}),
        ("{target: {shape: [16]}, image: {shape: [16]}, label: {classes: 3}}", {"target": "target", "image": "image"}),
        ("{coarse: {classes: 3}, image: {shape: [16]}, label: {classes: 3}}", {"coarse": "coarse", "label": "label"}),
        ("{a: {shape: [16]}, b: {shape: [16]}, label: {classes: 3}}", {"a": "image", "b": "b"}),
    ],
)
def test_no_two_inputs_are_fed_the_same_array(inputs: str, fields: dict[str, str]) -> None:
    names = [part.split(":")[0].strip("{ ") for part in inputs.split("}, ")]
    numbers = [name for name in names if name not in ("label", "digit", "coarse")]
    labels = [name for name in names if name not in numbers]
    mix = f"  - {{name: all, type: Concat, bottom: [{', '.join(numbers)}]}}\n" if len(numbers) > 1 else ""
    losses = "".join(f"  - {{type: SoftmaxWithLoss, bottom: [ip, {name}]}}\n" for name in labels)
    artifact = compiled(mix + IP + losses, inputs)
    found = {name: entry["field"] for name, entry in artifact.programs["train"].inputs.items() if "field" in entry}
    assert found | fields == found
    assert len(set(found.values())) == len(found)


def test_which_output_scores_classes() -> None:
    artifact = compiled(IP + LOSS + "  - {name: prob, type: Softmax, bottom: ip}\n")
    assert artifact.programs["infer"].outputs["prob"] == {"role": "output", "activation": None, "label": "label"}
    assert compiled(IP + LOSS).programs["infer"].outputs["ip"]["label"] == "label"
    decoder = "  - {name: out, type: InnerProduct, num_output: 16}\n"
    autoencoder = compiled(decoder + "  - {type: EuclideanLoss, bottom: [out, image]}\n")
    assert autoencoder.programs["infer"].outputs["out"] == {"role": "output", "activation": None, "label": None}


def test_warnings() -> None:
    assert compiled(IP + LOSS).warnings == []
    softmax = IP + "  - {name: prob, type: Softmax}\n" + LOSS.replace("ip", "prob")
    (warning,) = compiled(softmax).warnings
    assert str(warning) == 'net.yaml:10:5: loss: SoftmaxWithLoss applies a softmax itself; give it "ip"'
    sigmoid = "  - {name: p, type: Sigmoid}\n  - {name: e, type: DiceLoss, bottom: [p, target]}\n"
    (warning,) = compiled(IP + sigmoid, INPUTS.replace("}}", "}, target: {shape: [3]}}")).warnings
    assert warning.message == 'e: DiceLoss applies a sigmoid itself; give it "ip"'
    unread = IP + LOSS + "  - {name: extra, type: InnerProduct, bottom: image, num_output: 2}\n"
    (warning,) = compiled(unread).warnings
    assert warning.message == "extra: no layer reads its top, so it is one more output of the model"
    zero = IP.replace("3}", "3, weight_filler: constant}") + LOSS
    (warning,) = compiled(zero).warnings
    assert warning.message.startswith("ip: all weights start at 0")


def test_nothing_to_train() -> None:
    loss = "  - {name: loss, type: EuclideanLoss, bottom: [flat, image]}\n"
    (message,) = refused("  - {name: flat, type: Flatten}\n" + loss)
    assert message == "no layer has a parameter, so there is nothing to train; add one, such as an InnerProduct"


def test_a_convolution_that_sees_only_its_padding() -> None:
    conv = "  - {name: c, type: Convolution, num_output: 2, kernel_size: 1, pad: 2, stride: 9}\n"
    (message,) = refused(conv + IP + LOSS)
    assert message == "c: with pad 2 and stride 9 no window meets the input 1x4x4; lower pad"
    # A padding wider than the kernel is fine as long as some window reaches the image, as in HED.
    results, _ = train(compiled(conv.replace("pad: 2, stride: 9", "pad: 5, stride: 2") + IP + LOSS), steps=2)
    assert np.isfinite(results["total"])


def test_an_unnamed_layer_is_not_called_like_an_input() -> None:
    artifact = compiled(IP + "  - {type: ReLU, bottom: relu1}\n" + LOSS, INPUTS.replace("image", "relu1"))
    assert [placed.layer.name for placed in artifact.network.placed] == ["ip", "relu2", "loss"]


def test_numbers_of_bottoms_are_named() -> None:
    scale = "  - {name: s, type: Scale, bottom: [image, image, image]}\n"
    assert refused(scale + IP + LOSS) == ["s: Scale takes 1 to 2 bottoms, got 3"]
    join = "  - {name: s, type: Concat, bottom: image}\n"
    assert refused(join + IP + LOSS) == ["s: Concat takes at least 2 bottoms, got 1"]


def test_inference_without_parameters_has_nothing_to_fold(tmp_path: Path) -> None:
    inner = "{name: s, type: InnerProduct, num_output: 3}, {name: l, type: SoftmaxWithLoss}"
    side = f"  - {{name: flat, type: Flatten, side: {{layers: [{inner}]}}}}\n"
    cut = "  - {name: a, type: Slice, top: [x, y], slice_point: 3}\n  - {type: Silence, bottom: y}\n"
    loss = "  - {name: loss, type: SoftmaxWithLoss, bottom: [x, label]}\n"
    artifact = compiled(side + cut + loss)
    write(artifact, tmp_path / "artifact")
    assert fold(ArtifactOnDisk.load(tmp_path / "artifact"), artifact.initial_state(), Host("cpu", 1)) == {}


# --------------------------------------------------------------------------------------------- names and phases


def test_a_name_below_a_shared_parameter_could_be_its_memory() -> None:
    shared = "  - {name: a, type: InnerProduct, num_output: 16, bias_term: false, param: [{name: w/velocity}]}\n"
    other = "  - {name: b, type: InnerProduct, num_output: 16, bias_term: false, param: [{name: w}]}\n"
    assert refused(shared + other + IP + LOSS) == [
        '"w/velocity" could be the solver\'s memory of the parameter "w"; rename one of them'
    ]


def test_a_model_needs_an_output() -> None:
    (message,) = refused(IP + LOSS + "  - {type: Silence, bottom: ip}\n")
    assert message.startswith("the model has no output: Silence reads whatever no layer continues from")


def test_one_name_is_one_kind_in_both_phases() -> None:
    both = "".join(
        f"  - {{name: m, type: {kind}, bottom: [ip, label], include: {{phase: {phase}}}}}\n"
        for kind, phase in (("Accuracy", "train"), ("MeanIoU", "test"))
    )
    (message,) = refused(IP + LOSS + both)
    assert message == "m: is a accuracy while training and a mean_iou while testing; give one of them another name"


def test_what_only_testing_has_is_warned_of() -> None:
    layer = "  - {name: t, type: InnerProduct, num_output: 16, include: {phase: test}}\n"
    warnings = [warning.message for warning in compiled(layer + IP + LOSS).warnings]
    assert warnings == [
        "t: its weight has no part in the train phase, so that it stays as it is drawn",
        "t: its bias has no part in the train phase, so that it stays as it is drawn",
    ]
    softmax = "  - {name: p, type: Softmax, bottom: ip}\n  - {name: e, type: SoftmaxWithLoss, include: {phase: test}}\n"
    assert any("e: SoftmaxWithLoss applies a softmax itself" in str(w) for w in compiled(IP + LOSS + softmax).warnings)


def test_a_metric_that_counts_is_none_of_training() -> None:
    metric = "  - {name: m, type: MeanIoU, bottom: [ip, label], include: {phase: train}}\n"
    assert refused(IP + LOSS + metric) == ["m: MeanIoU is made of a whole test split; remove its include"]


def test_a_side_whose_loss_is_of_another_phase() -> None:
    loss = "{name: l, type: SoftmaxWithLoss, include: {phase: train}}"
    side = f"  - {{name: h, type: InnerProduct, num_output: 3, side: {{layers: [{loss}]}}}}\n"
    assert refused(side + IP + LOSS) == ["the side of h has no loss in the test phase; remove the include of l"]


def test_the_total_of_one_loss_is_that_loss_over_a_split() -> None:
    artifact = compiled(IP + LOSS.replace("}", ", ignore_label: 2}"))
    model = artifact.models()["eval"]
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(5)
    feed = {name: value for name, value in artifact.initial_state().items() if name in ("ip.weight", "ip.bias")}
    feed["image"] = rng.normal(size=(4, 1, 4, 4)).astype(np.float32)
    for labels in ([0, 1, 2, 2], [2, 2, 2, 2]):
        outputs = session.run(["total.weight", "loss.weight"], {**feed, "label": np.array(labels, np.int32)})
        assert float(outputs[0]) == float(outputs[1]) == labels.count(0) + labels.count(1)


def test_a_target_of_a_loss_is_no_output() -> None:
    code = "  - {name: code, type: InnerProduct, num_output: 4}\n  - {name: d, type: InnerProduct, num_output: 16}\n"
    flat = "  - {name: flat, type: Flatten, bottom: image}\n"
    artifact = compiled(code + flat + "  - {name: e, type: EuclideanLoss, bottom: [d, flat]}\n")
    assert [y.name for y in artifact.programs["infer"].graph.outputs] == ["d"]
