"""Rows for the layers that join, cut, order and reduce."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from tests.cases.domains import Shape, Tensor, normal, separated, ties
from tests.cases.layers import LayerCase, Oracle, layer

PAIR: dict[str, Shape | int] = {"image": (2, 3), "b": (2, 3)}


def several(type_: str, about: str, layers: list[dict[str, Any]], x: Shape, top: Shape, oracle: Oracle) -> LayerCase:
    """Return a row of several layers, of which one is under test."""
    return LayerCase(type_, about, layers, {"image": x}, top, oracle)


def eltwise(about: str, fields: dict[str, Any], oracle: Oracle, smooth: bool = True) -> LayerCase:
    """Return a row of Eltwise."""
    return layer(
        about,
        {"type": "Eltwise", "bottom": ["image", "b"], **fields},
        (2, 3),
        oracle,
        PAIR,
        domains=dict.fromkeys(PAIR, normal if smooth else ties),
        smooth=smooth,
    )


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, :2], x[:, 2:]


def reduced(f: Callable[[Tensor], Tensor], axis: int) -> Oracle:
    """Return the oracle of Reduction with coeff 0.5."""
    return lambda t, train: 0.5 * f(t["image"].flatten(axis))


def arg_max(axis: int) -> Oracle:
    """Return the oracle of ArgMax before what it reads."""
    return lambda t, train: torch.cat([t["image"].argmax(axis, keepdim=True), t["image"]], axis)


STRUCTURE_CASES: list[LayerCase] = [
    eltwise("coeff", {"coeff": [1.0, -0.5]}, lambda t, train: t["image"] - 0.5 * t["b"]),
    eltwise("product", {"operation": "prod"}, lambda t, train: t["image"] * t["b"]),
    eltwise(
        "product, one twice",
        {"operation": "prod", "bottom": ["image", "b", "image"]},
        lambda t, train: t["image"] ** 2 * t["b"],
    ),
    eltwise("maximum", {"operation": "max"}, lambda t, train: torch.maximum(t["image"], t["b"])),
    eltwise("maximum, ties", {"operation": "max"}, lambda t, train: torch.maximum(t["image"], t["b"]), smooth=False),
    layer("", {"type": "Reshape", "shape": [-1, 0, 2]}, (5, 6, 2), lambda t, train: t["image"].reshape(-1, 5, 6, 2)),
    layer(
        "sizes alone", {"type": "Reshape", "shape": [10, 6]}, (10, 6), lambda t, train: t["image"].reshape(-1, 10, 6)
    ),
    layer("to a vector", {"type": "Reshape", "shape": -1}, (60,), lambda t, train: t["image"].flatten(1)),
    layer("", {"type": "Permute", "order": [0, 2, 3, 1]}, (6, 5, 2), lambda t, train: t["image"].permute(0, 2, 3, 1)),
    layer(
        "first axes", {"type": "Permute", "order": [0, 3]}, (5, 2, 6), lambda t, train: t["image"].permute(0, 3, 1, 2)
    ),
    layer("", {"type": "Pad", "pad": 2}, (2, 10, 9), lambda t, train: F.pad(t["image"], (2, 2, 2, 2))),
    layer(
        "one axis, value",
        {"type": "Pad", "pad": [1, 0], "value": -1.5},
        (2, 8, 5),
        lambda t, train: F.pad(t["image"], (0, 0, 1, 1), value=-1.5),
    ),
    layer("1-D", {"type": "Pad", "pad": 1}, (2, 6), lambda t, train: F.pad(t["image"], (1, 1)), {"image": (2, 4)}),
    layer("", {"type": "Tile", "tiles": 3}, (6, 6, 5), lambda t, train: t["image"].tile(1, 3, 1, 1)),
    layer(
        "last axis", {"type": "Tile", "tiles": 2, "axis": -1}, (2, 6, 10), lambda t, train: t["image"].tile(1, 1, 1, 2)
    ),
    *(
        layer(
            f"{operation}, axis {axis}",
            {"type": "Reduction", "operation": operation, "axis": axis, "coeff": 0.5},
            (2, 6, 5)[: axis % 4 - 1],
            reduced(f, axis % 4),
            domains={"image": separated},
        )
        for operation, f in {
            "sum": lambda x: x.sum(-1),
            "asum": lambda x: x.abs().sum(-1),
            "sumsq": lambda x: (x**2).sum(-1),
            "mean": lambda x: x.mean(-1),
        }.items()
        for axis in (2, -1)
    ),
    several(
        "Reduction",
        "of whole samples",
        [{"type": "Reduction", "operation": "sumsq"}, {"name": "it", "type": "Reshape", "shape": [1]}],
        (2, 3, 2),
        (1,),
        lambda t, train: (t["image"] ** 2).sum((1, 2, 3))[:, None],
    ),
    *(
        LayerCase(
            "ArgMax",
            about,
            [
                {"name": "a", "type": "ArgMax", "axis": axis},
                {"name": "it", "type": "Concat", "axis": axis, "bottom": ["a", "image"]},
            ],
            {"image": (2, 3, 4)},
            top,
            arg_max(axis),
            domains={"image": separated},
        )
        for about, axis, top in (("channels", 1, (3, 3, 4)), ("last axis", -1, (2, 3, 5)))
    ),
    layer("", {"type": "Split"}, (2, 6, 5), lambda t, train: 1.0 * t["image"]),
    several(
        "Silence",
        "between two layers",
        [
            {"name": "a", "type": "TanH"},
            {"type": "Silence", "bottom": ["a", "image"]},
            {"name": "it", "type": "Sigmoid"},
        ],
        (2, 3),
        (2, 3),
        lambda t, train: torch.sigmoid(torch.tanh(t["image"])),
    ),
    *(
        LayerCase(
            "Crop",
            about,
            [
                {"name": "c", "type": "Crop", "bottom": ["image", "b"], **fields},
                {"name": "it", "type": "Eltwise", "bottom": ["c", "b"]},
            ],
            {"image": (3, 6, 5), "b": b},
            b,
            oracle,
        )
        for about, fields, b, oracle in (
            ("from the corner", {}, (3, 2, 4), lambda t, train: t["image"][:, :, :2, :4] + t["b"]),
            ("offsets", {"offset": [3, 1]}, (3, 2, 4), lambda t, train: t["image"][:, :, 3:5, 1:5] + t["b"]),
            ("channels", {"axis": 1, "offset": 1}, (2, 3, 3), lambda t, train: t["image"][:, 1:3, 1:4, 1:4] + t["b"]),
            ("last axis", {"axis": -1, "offset": 2}, (3, 6, 3), lambda t, train: t["image"][:, :, :, 2:] + t["b"]),
        )
    ),
    several(
        "Slice",
        "halves, each read by others",
        [
            {"name": "s", "type": "Slice", "top": ["left", "right"]},
            {"name": "t", "type": "TanH", "bottom": "left"},
            {"name": "it", "type": "Eltwise", "operation": "prod", "bottom": ["t", "right", "left"]},
        ],
        (4, 3),
        (2, 3),
        lambda t, train: torch.tanh(_halves(t["image"])[0]) * _halves(t["image"])[0] * _halves(t["image"])[1],
    ),
    several(
        "Slice",
        "points, last axis",
        [
            {"name": "s", "type": "Slice", "top": ["first", "it", "last"], "axis": -1, "slice_point": [1, 4]},
            {"type": "Silence", "bottom": ["first", "last"]},
        ],
        (4, 5),
        (4, 3),
        lambda t, train: t["image"][:, :, 1:4],
    ),
]

PLANES: dict[str, Any] = {"image": (4, 6, 5)}
TWO: dict[str, Any] = {"image": (4, 6, 5), "b": (4, 6, 6)}
SAME: dict[str, Any] = {"image": (4,), "b": (4,)}
# As in test_layers: layers that do not fit their bottoms, and a word of what is said.
STRUCTURE_MISFITS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"type": "Eltwise", "bottom": ["image", "b"], "coeff": [1.0]}, SAME, "coeff: needs 2 numbers"),
    ({"type": "Eltwise", "bottom": ["image", "b"], "coeff": [1.0, 2.0], "operation": "max"}, SAME, "weighs a sum"),
    ({"type": "Reshape", "shape": [-1, -1]}, PLANES, "at most one -1"),
    ({"type": "Reshape", "shape": [2, 2, 30, 0]}, PLANES, "copies an axis"),
    ({"type": "Reshape", "shape": [7, -1]}, PLANES, "120 values"),
    ({"type": "Reshape", "shape": [4, 6]}, PLANES, "120 values"),
    ({"type": "Permute", "order": [1, 0]}, PLANES, "batch stays first"),
    ({"type": "Permute", "order": [0, 2, 2]}, PLANES, "once each"),
    ({"type": "Permute", "order": [0, 4]}, PLANES, "once each"),
    ({"type": "Pad", "pad": -1}, PLANES, "pad: must be at least 0"),
    ({"type": "Pad", "pad": 2**17}, PLANES, "pad 131072"),
    ({"type": "Tile", "tiles": 2**28}, PLANES, "tiles 268435456"),
    ({"type": "Tile", "tiles": 2, "axis": 0}, PLANES, "axis 0"),
    ({"type": "Reduction", "axis": 0}, PLANES, "axis 0"),
    ({"type": "ArgMax", "axis": 4}, PLANES, "axis 4"),
    ({"type": "Crop", "bottom": ["image", "b"]}, TWO, "reach outside"),
    ({"type": "Crop", "bottom": ["b", "image"], "offset": 1}, TWO, "reach outside"),
    ({"type": "Crop", "bottom": ["b", "image"], "offset": [0, 0, 0]}, TWO, "needs 1 or 2 numbers"),
    ({"type": "Crop", "bottom": ["image", "b"]}, {"image": (4, 6, 5), "b": (4,)}, "different numbers of axes"),
    ({"type": "Slice", "top": ["a", "b", "c"]}, PLANES, "3 equal tops"),
    ({"type": "Slice", "top": ["a", "b"], "slice_point": [1, 2]}, PLANES, "2 tops need 1 cut, got 2"),
    ({"type": "Slice", "top": ["a", "b", "c"], "slice_point": [2, 2]}, PLANES, "must rise between 0 and 4"),
    ({"type": "Slice", "top": ["a", "b"], "slice_point": 4}, PLANES, "must rise between 0 and 4"),
    ({"type": "Slice", "top": ["a"]}, PLANES, "needs at least 2 entries"),
    ({"type": "Slice", "top": ["a", "a"]}, PLANES, '"a" is taken already'),
    ({"type": "Slice", "top": ["image", "b"]}, PLANES, '"image" is taken already'),
    ({"type": "Slice", "top": ["it", "b"]}, PLANES, '"it" is taken already'),
    ({"type": "Slice", "top": ["total", "b"]}, PLANES, "rename this top"),
    ({"type": "Slice", "top": ["a b", "c"]}, PLANES, "not a valid name"),
    ({"type": "TanH", "top": "a"}, PLANES, "called like the layer"),
    *(({"type": name}, PLANES, f"{name} .* depends on the data") for name in ("Filter", "BatchReindex")),
]
# Registered for the sake of their message.
REFUSED_LAYERS = {"Filter", "BatchReindex"}
