"""What of an augmentation does not fit, and where the mistake is."""

# ruff: noqa: E501 (a row is a line, and messages are whole sentences)

from collections.abc import Sequence
from typing import Any

import pytest

from netc.build import lower_phases
from netc.errors import SpecError
from netc.spec.load import load
from netc.spec.text import parse_tree
from tests.augmentation import DENSE, DENSE_LAYERS, LAYERS, SHAPE, compiled

MISTAKES = [
    (["Hue"], SHAPE, {}, 'Hue: the field "shift" is required'),
    (
        [{"type": "Hue", "shift": 0.1}],
        (1, 6, 7),
        {},
        "Hue: needs 3 channels, red, green and blue, and the image has 1; remove it",
    ),
    (
        ["Invert"],
        SHAPE,
        {"range": None},
        "Invert: needs the range of raw values; give data.range, such as range: [0, 255]",
    ),
    (
        [{"type": "PadCrop", "pad": 6}],
        SHAPE,
        {},
        "PadCrop: pad: 6 is not less than the 6 pixels of that side; lower it",
    ),
    ([{"type": "PadCrop", "pad": -1}], SHAPE, {}, "pad: must be at least 0, got -1"),
    ([{"type": "Cutout", "size": 13}], SHAPE, {}, "Cutout: size: 13 is more than twice the 6 pixels of that side"),
    (
        ["Mixup", "Invert"],
        SHAPE,
        {},
        "Mixup: mixes whole samples, so that it stands behind all other operations; move it to the end",
    ),
    (
        ["Mixup"],
        SHAPE,
        {"batch_size": 1},
        "Mixup: mixes samples of a batch, which has only one; give data.batch_size 2 or more",
    ),
    (
        [{"type": "PadCrop", "pad": 1, "border": "edge"}, {"type": "Affine", "rotation": 5}],
        SHAPE,
        {},
        "PadCrop: its border, edge with fill 0, is another one than that of the operation behind it, and both are one resampling; give them the same border and fill",
    ),
    ([{"type": "Affine", "scale": 1.0}], SHAPE, {}, "scale: must stay above 0, got 0 as its smallest"),
    (
        [{"type": "Affine", "rotation": [5, 1]}],
        SHAPE,
        {},
        "rotation: expected a number of at least 0, or [low, high], got a list of 2",
    ),
    (["HorizontalFlop"], SHAPE, {}, 'unknown augmentation type "HorizontalFlop"; did you mean "HorizontalFlip"?'),
    (
        ["HorizontalFlip"],
        (42,),
        {},
        'augment: works on images [channels, height, width], and "image" has 1 axes; remove it',
    ),
    ([], SHAPE, {"std": 0}, "std: must be greater than 0, got 0"),
    ([], SHAPE, {"std": [1, 2]}, "std has 2 values, but image has 3 channels; give one number, or one a channel"),
    ([], SHAPE, {"range": [1, 1]}, "range: the lowest value, 1, is not below the highest, 1"),
]


@pytest.mark.parametrize(("operations", "shape", "data", "message"), MISTAKES, ids=[row[-1][:40] for row in MISTAKES])
def test_what_does_not_fit_is_said(
    operations: list[Any], shape: Sequence[int], data: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        compiled(operations, shape=shape, data=data)
    assert message in [diagnostic.message for diagnostic in caught.value.diagnostics]


PLACED = """\
netc: 1
name: placed
inputs:
  image: {shape: [3, 6, 7]}
  label: {classes: 4}
  edge: {shape: [1, 3, 7]}
data:
  source: digits
  augment:
    - {type: Cutout, size: 1}
    - OPERATION
layers:
  - {name: ip, type: InnerProduct, num_output: 4, bottom: image}
  - {name: loss, type: SoftmaxWithLoss, bottom: [ip, label]}
solver: {type: SGD, base_lr: 0.1, max_epochs: 1}
"""


@pytest.mark.parametrize(
    ("before", "wrong", "behind"),
    [
        ("{type: PadCrop, pad: ", "-1", "}"),
        ("{type: PadCrop, pad: ", "[1, -1]", "}"),
        ("{type: PadCrop, pad: ", "6", "}"),
        ("{type: PadCrop, pad: 1, border: ", "no", "}"),
        ("{type: PadCrop, pad: 1, ", "fil", ": 3}"),
        ("{type: PadCrop, pad: 1, border: ", "edge", "}\n    - {type: PadCrop, pad: 1}"),
        ("{type: PadCrop, pad: 1, fill: ", "3", "}\n    - {type: PadCrop, pad: 1}"),
        ("", "{type: PadCrop, pad: 1}", "\n    - {type: PadCrop, pad: 1, fill: 3}"),
        ("{type: RandomResizedCrop, area: ", "[0.9, 0.1]", "}"),
        ("{type: RandomResizedCrop, ratio: ", "[2.0, 1.0]", "}"),
        ("{type: Affine, rotation: ", "-5", "}"),
        ("{type: Affine, rotation: 5, scale: ", "1.0", "}"),
        ("{type: Affine, rotation: 5, shear: ", "[0, 90]", "}"),
        ("{type: ElasticDistortion, sigma: ", "0.0", "}"),
        ("{type: GaussianBlur, sigma: ", "0.01", "}"),
        ("{type: GaussianBlur, sigma: ", "[0.01, 1]", "}"),
        ("{type: Cutout, size: ", "[1, 15]", "}"),
        ("{type: Hue, shift: ", "x", "}"),
        ("{type: ", "Flip", "}"),
        ("", "VerticalFlip", ""),  # which moves the image, and not the edges
    ],
)
def test_a_mistake_stands_at_its_field(before: str, wrong: str, behind: str) -> None:
    text = PLACED.replace("OPERATION", f"{before}{wrong}{behind}")
    if wrong != "VerticalFlip":
        text = text.replace("  edge: {shape: [1, 3, 7]}\n", "")
    with pytest.raises(SpecError) as caught:
        lower_phases(load(parse_tree(text, "placed.yaml")))
    (mistake,) = caught.value.diagnostics
    lines = text[: text.index(f"- {before}{wrong}") + 2 + len(before)].splitlines()
    assert (mistake.position.line, mistake.position.column) == (len(lines), len(lines[-1]) + 1), mistake


def test_the_range_of_the_data_stands_where_it_is_wrong() -> None:
    text = PLACED.replace(
        "  augment:\n    - {type: Cutout, size: 1}\n    - OPERATION\n", "  batch_size: 4\n  range: [2, 1]\n"
    )
    with pytest.raises(SpecError) as caught:
        lower_phases(load(parse_tree(text, "placed.yaml")))
    assert str(caught.value) == "placed.yaml:10:10: range: the lowest value, 2, is not below the highest, 1"


def test_dense_targets_have_the_size_of_the_image() -> None:
    inputs = {**DENSE, "edge": {"shape": [1, 3, 7]}}
    message = 'VerticalFlip: moves the 6x7 places of "image", and "edge" has 3x7; give both one size, or remove it'
    layers = [*DENSE_LAYERS[:2], {**DENSE_LAYERS[2], "stride": [2, 1]}, DENSE_LAYERS[3]]
    with pytest.raises(SpecError) as caught:
        compiled(["VerticalFlip"], inputs=inputs, layers=layers)
    assert message in [diagnostic.message for diagnostic in caught.value.diagnostics]
    compiled(["Invert"], inputs=inputs, layers=layers)


def test_labels_that_are_mixed_are_read_by_losses_alone() -> None:
    layers = [{"name": "copies", "type": "Split", "bottom": "label", "top": ["a", "b"]}, *LAYERS]
    layers[2] = {**LAYERS[1], "bottom": ["ip", "a"]}
    with pytest.raises(SpecError, match="copies"):
        compiled(["CutMix"], layers=layers)
