"""Layers with several tops, or none: what they are called, who may read them, and what the model then gives out."""

from typing import Any

import numpy as np
import pytest

from netc.errors import SpecError
from tests.oracle import Arrays, ort_runner, to_model
from tests.test_layers import lowered

IMAGE: dict[str, Any] = {"image": (4, 3), "label": 4}
SLICE: dict[str, Any] = {"name": "s", "type": "Slice", "top": ["a", "b"]}
END: list[dict[str, Any]] = [
    {"name": "ip", "type": "InnerProduct", "num_output": 4, "bottom": "a"},
    {"name": "loss", "type": "SoftmaxWithLoss"},
]
SILENCE: dict[str, Any] = {"type": "Silence", "bottom": "b"}


def test_a_top_that_nobody_reads_is_an_output_and_warned_of() -> None:
    network = lowered([SLICE, *END], IMAGE, "test", batch=None, objectives=False)
    assert [output.name for output in network.outputs] == ["b", "ip"]
    assert any("no layer reads its top b" in str(warning) for warning in network.warnings)


def test_silence_keeps_a_top_from_being_an_output() -> None:
    network = lowered([SLICE, SILENCE, *END], IMAGE, "test", batch=None, objectives=False)
    assert [output.name for output in network.outputs] == ["ip"]
    assert not network.warnings


def test_a_label_that_a_loss_compares_with_a_top_is_known() -> None:
    layers: list[dict[str, Any]] = [
        {"name": "ip", "type": "InnerProduct", "num_output": 8},
        {**SLICE, "slice_point": 4},
        SILENCE,
        {"name": "loss", "type": "SoftmaxWithLoss", "bottom": ["a", "label"]},
    ]
    (output,) = lowered(layers, IMAGE, "test").outputs
    assert (output.name, output.activation, output.label) == ("a", "logits", "label")


def test_a_rectifier_behind_any_top_counts() -> None:
    layers: list[dict[str, Any]] = [
        {"name": "first", "type": "InnerProduct", "num_output": 8},
        SLICE,
        SILENCE,
        {"name": "r", "type": "ReLU", "bottom": "a"},
        {"name": "ip", "type": "InnerProduct", "num_output": 4},
        {"name": "loss", "type": "SoftmaxWithLoss"},
    ]
    assert lowered(layers, IMAGE, "train").net.state["first.weight"].filler.type == "msra"


# Every layer that views, cuts or repeats, in a row: all of them must leave a batch of any size alone.
ROW: list[dict[str, Any]] = [
    {"name": "up", "type": "Upsample", "scale": 2, "bottom": "planes"},
    {"type": "Upsample", "scale": [2, 1], "mode": "bilinear"},
    {"type": "Deconvolution", "num_output": 4, "kernel_size": 2, "stride": 2},
    {"type": "Pad", "pad": 1},
    {"name": "crop", "type": "Crop", "bottom": ["pad1", "up"], "offset": 1},
    {"type": "SPP", "pyramid_height": 2},
    {"type": "Reshape", "shape": [4, -1]},
    {"type": "InnerProduct", "num_output": 6, "axis": 2},
    {"type": "Permute", "order": [0, 2, 1]},
    {"type": "Tile", "tiles": 2},
    {"name": "s", "type": "Slice", "top": ["a", "b"]},
    {"name": "join", "type": "Concat", "bottom": ["b", "a"], "axis": -1},
    {"name": "at", "type": "ArgMax", "axis": 2},
    {"type": "Reshape", "shape": -1},
    {"type": "Embed", "num_output": 2, "input_dim": 8},
    {"type": "Reduction", "axis": -1, "operation": "mean"},
    {"name": "ip", "type": "InnerProduct", "num_output": 4},
    {"name": "loss", "type": "SoftmaxWithLoss"},
]


@pytest.mark.parametrize("batch", [1, 5])
def test_a_batch_of_any_size_passes(batch: int) -> None:
    network = lowered(ROW, {"planes": (2, 4, 4), "label": 4}, "test", batch=None, objectives=False)
    (output,) = network.outputs
    network.net.g.output("y", network.tops["ip"])
    rng = np.random.default_rng(4)
    feed: Arrays = {
        name: rng.normal(size=[int(str(n)) for n in x.shape or ()]) for name, x in network.net.inputs.items()
    }
    feed |= {"planes": rng.normal(size=(batch, 2, 4, 4)), "label": np.zeros(batch)}
    run = ort_runner(to_model(network.net.g.graph, emitted=False))
    whole = run(feed)["y"]
    assert whole.shape == (batch, 4)
    assert [str(n) for n in output.value.shape or ()] == ["N", "4"]
    for index in range(batch):
        single = run({**feed, "planes": feed["planes"][index : index + 1], "label": np.zeros(1)})["y"]
        np.testing.assert_allclose(whole[index : index + 1], single, rtol=1e-5, atol=1e-6)


MISTAKES: list[tuple[str, list[dict[str, Any]], str]] = [
    ("the layer's name", [SLICE, {"type": "TanH", "bottom": "s"}, *END], 'tanh1: "s" has several tops; name one: a, b'),
    ("the layer above", [SLICE, {"type": "TanH"}, *END], 'tanh1: "s" has several tops; name one: a, b'),
    ("unknown top", [SLICE, {"type": "TanH", "bottom": "c"}, *END], 'unknown bottom "c"'),
    ("top of Silence", [SLICE, {**SILENCE, "name": "q"}, {"type": "TanH", "bottom": "q"}, *END], '"q" has no top'),
    ("name taken below", [SLICE, *END, {"name": "b", "type": "TanH", "bottom": "a"}], 'the name "b" is taken already'),
    ("own name", [{**SLICE, "top": ["a", "s"]}, *END], 'the name "s" is taken already'),
    ("below", [{"type": "TanH", "bottom": "b"}, SLICE, *END], '"b" stands below this layer'),
]


@pytest.mark.parametrize(("layers", "sentence"), [case[1:] for case in MISTAKES], ids=[case[0] for case in MISTAKES])
def test_a_mistake_with_tops_is_reported_once(layers: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        lowered(layers, IMAGE, "train")
    (diagnostic,) = caught.value.diagnostics
    assert sentence in str(diagnostic)
