"""Crop with `offset: auto`: the offsets of HED, and what cannot be aligned."""

from typing import Any

import pytest

from netc.errors import SpecError
from netc.graph import constant_value
from netc.network import Network
from tests.test_layers import lowered


def conv(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "type": "Convolution", "num_output": 2, "kernel_size": 3, "pad": 1, **fields}


def cut(*layers: dict[str, Any], reference: str = "image") -> Network:
    """Lower layers, then a Crop of the last of them."""
    crop = {"name": "it", "type": "Crop", "bottom": [layers[-1]["name"], reference], "offset": "auto"}
    end: list[dict[str, Any]] = [{"type": "InnerProduct", "num_output": 4}, {"type": "SoftmaxWithLoss"}]
    return lowered([*layers, crop, *end], {"image": (1, 64, 48), "label": 4}, "test", batch=1)


def offsets(network: Network) -> list[int]:
    node = network.tops["it"].producer()
    assert node is not None
    assert node.inputs[1] is not None
    starts = constant_value(node.inputs[1])
    assert starts is not None
    return [int(n) for n in starts]


# The five sides of HED: VGG-16 with pad 35 in front, every side enlarged by a deconvolution of kernel 2s and stride s.
DEPTHS = (2, 2, 3, 3, 3)
EXPECTED = (34, 35, 36, 38, 42)


@pytest.mark.parametrize("side", range(5))
def test_offsets_of_hed(side: int) -> None:
    layers: list[dict[str, Any]] = []
    for stage, depth in enumerate(DEPTHS[: side + 1]):
        if stage:
            layers.append({"name": f"pool{stage}", "type": "Pooling", "kernel_size": 2, "stride": 2})
        for number in range(depth):
            pad = 35 if not layers else 1
            layers += [conv(f"conv{stage}_{number}", pad=pad), {"name": f"relu{stage}_{number}", "type": "ReLU"}]
    layers.append(conv("score", num_output=1, kernel_size=1, pad=0))
    if side:
        scale = 2**side
        layers.append(
            {"name": "up", "type": "Deconvolution", "num_output": 1, "kernel_size": 2 * scale, "stride": scale}
        )
    assert offsets(cut(*layers)) == [EXPECTED[side]] * 2


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([conv("a", pad=3)], [2, 2]),
        ([conv("a", dilation=2, pad=[4, 5])], [2, 3]),
        ([{"name": "a", "type": "Pad", "pad": [3, 1]}], [3, 1]),
        ([{"name": "a", "type": "Pad", "pad": 4}, conv("b", pad=0)], [3, 3]),
        (
            [
                {"name": "wide", "type": "Pad", "pad": 6},
                conv("a", pad=8, bottom="image"),
                {"name": "b", "type": "Crop", "bottom": ["a", "wide"], "offset": [0, 1]},
            ],
            [7, 6],
        ),
        ([conv("a", pad=2), {"name": "b", "type": "BatchNorm"}, {"name": "c", "type": "ReLU"}], [1, 1]),
    ],
)
def test_offsets(layers: list[dict[str, Any]], expected: list[int]) -> None:
    assert offsets(cut(*layers)) == expected


def test_the_nearest_common_ancestor_counts() -> None:
    network = cut(conv("a", pad=5), conv("b", pad=2), reference="a")
    assert offsets(network) == [1, 1]


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ([conv("a", stride=2)], "1/2 elements of the first lie in the place of one of the second"),
        ([conv("a", kernel_size=4, pad=4)], "between two elements"),
        (
            [{"name": "flat", "type": "Flatten"}, {"name": "a", "type": "Reshape", "shape": [3, 32, 32]}],
            "finds no layer or input that both bottoms come from",
        ),
        ([conv("a", pad=0)], "reach outside"),
        ([{"name": "a", "type": "InnerProduct", "axis": 3, "num_output": 48}], "finds no layer or input"),
    ],
)
def test_what_cannot_be_aligned(layers: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        cut(*layers)


@pytest.mark.parametrize(("offset", "sentence"), [("center", "offset"), ([1.5], "offset"), (True, "offset")])
def test_an_offset_is_a_number_or_auto(offset: object, sentence: str) -> None:
    layers: list[dict[str, Any]] = [
        conv("a", pad=3),
        {"name": "it", "type": "Crop", "bottom": ["a", "image"], "offset": offset},
        {"type": "InnerProduct", "num_output": 4},
        {"type": "SoftmaxWithLoss"},
    ]
    with pytest.raises(SpecError, match=sentence) as caught:
        lowered(layers, {"image": (1, 64, 48), "label": 4}, "train")
    print(caught.value)
