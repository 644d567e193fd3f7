"""Rows for the layers that join, cut, order and reduce."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from tests.cases.domains import Domain, Shape, Tensor, normal, separated, ties
from tests.cases.layers import LayerCase, Misfit, Oracle, layer

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


def largest(x: Tensor, k: int, axis: int, values: bool) -> Tensor:
    """Return the k largest along an axis or their places, the first of equal ones first."""
    value, place = x.sort(dim=axis, descending=True, stable=True)
    return (value if values else place).narrow(axis, 0, k)


def places(about: str, fields: dict[str, Any], k: int, axis: int, top: Shape, domain: Domain = separated) -> LayerCase:
    """Return a row of ArgMax, beside what it reads: through places no gradient passes."""
    return LayerCase(
        "ArgMax",
        about,
        [
            {"name": "a", "type": "ArgMax", **fields},
            {"name": "it", "type": "Concat", "axis": axis, "bottom": ["a", "image"]},
        ],
        {"image": (2, 3, 4)},
        top,
        lambda t, train: torch.cat([largest(t["image"], k, axis, False), t["image"]], axis),
        domains={"image": domain},
        smooth=domain is not ties,
    )


def values(
    about: str, fields: dict[str, Any], top: Shape, oracle: Callable[[Tensor], Tensor], **more: Any
) -> LayerCase:
    """Return a row of ArgMax with values, through which a gradient passes."""
    return layer(
        about,
        {"type": "ArgMax", "out_max_val": True, **fields},
        top,
        lambda t, train: oracle(t["image"]),
        {"image": (2, 3, 4)},
        **{"domains": {"image": separated}, **more},
    )


def both(x: Tensor, k: int) -> Tensor:
    """Return places and values of whole samples."""
    return torch.stack([largest(x.flatten(1), k, 1, values) for values in (False, True)], 1)


def pad(
    about: str,
    fields: dict[str, Any],
    widths: tuple[int, ...],
    top: Shape,
    x: Shape = (2, 4, 3),
    mode: str = "constant",
) -> LayerCase:
    """Return a row of Pad; `widths` are PyTorch's, the last axis first."""
    theirs = {"edge": "replicate"}.get(mode, mode)
    declared = {"type": "Pad", "mode": mode, **fields}
    return layer(about, declared, top, lambda t, train: F.pad(t["image"], widths, theirs), {"image": x})


def reshaped(top: Shape) -> Oracle:
    """Return the oracle of a layer that gives samples another shape."""
    return lambda t, train: t["image"].reshape(-1, *top)


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
    *(
        layer(about, {"type": "Reshape", **fields}, top, reshaped(top))
        for about, fields, top in (
            ("from axis 2", {"shape": [-1], "axis": 2}, (2, 30)),
            ("from axis 2, copied", {"shape": [0, 1], "axis": 2, "num_axes": 1}, (2, 6, 1, 5)),
            ("one axis", {"shape": [3, -1], "axis": 2, "num_axes": 1}, (2, 3, 2, 5)),
            ("one axis from the end", {"shape": [-1, 3], "axis": -3, "num_axes": 1}, (2, 2, 3, 5)),
            ("inserted", {"shape": [1, 1], "axis": 2, "num_axes": 0}, (2, 1, 1, 6, 5)),
            ("appended", {"shape": 1, "axis": -1, "num_axes": 0}, (2, 6, 5, 1)),
        )
    ),
    *(
        layer(about, {"type": "Flatten", **fields}, top, reshaped(top))
        for about, fields, top in (
            ("from axis 2", {"axis": 2}, (2, 30)),
            ("from the end", {"axis": -2}, (2, 30)),
            ("up to axis 2", {"end_axis": 2}, (12, 5)),
            ("up to the last but one", {"end_axis": -2}, (12, 5)),
            ("one axis", {"axis": 2, "end_axis": 2}, (2, 6, 5)),
        )
    ),
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
    pad("ends", {"pad": [1, 0], "pad_end": [0, 2]}, (0, 2, 1, 0), (2, 5, 5)),
    pad("ends alone", {"pad": 0, "pad_end": 1}, (0, 1, 0, 1), (2, 5, 4)),
    pad("edge", {"pad": 2}, (2, 2, 2, 2), (2, 8, 7), mode="edge"),
    pad("edge, beyond the size", {"pad": [5, 0], "pad_end": [0, 4]}, (0, 4, 5, 0), (2, 9, 7), mode="edge"),
    pad("edge 1-D", {"pad": 1, "pad_end": 3}, (1, 3), (2, 8), (2, 4), mode="edge"),
    pad(
        "edge 3-D",
        {"pad": [1, 0, 2], "pad_end": [0, 1, 1]},
        (2, 1, 0, 1, 1, 0),
        (2, 3, 4, 5),
        (2, 2, 3, 2),
        mode="edge",
    ),
    pad("reflect", {"pad": 2}, (2, 2, 2, 2), (2, 8, 7), mode="reflect"),
    pad("reflect, ends", {"pad": [3, 0], "pad_end": [1, 2]}, (0, 2, 3, 1), (2, 8, 5), mode="reflect"),
    pad("reflect 1-D", {"pad": 1, "pad_end": 3}, (1, 3), (2, 8), (2, 4), mode="reflect"),
    pad(
        "reflect 3-D",
        {"pad": [1, 0, 2], "pad_end": [0, 1, 1]},
        (2, 1, 0, 1, 1, 0),
        (2, 3, 4, 6),
        (2, 2, 3, 3),
        mode="reflect",
    ),
    layer("", {"type": "Tile", "tiles": 3}, (6, 6, 5), lambda t, train: t["image"].tile(1, 3, 1, 1)),
    layer(
        "last axis", {"type": "Tile", "tiles": 2, "axis": -1}, (2, 6, 10), lambda t, train: t["image"].tile(1, 1, 1, 2)
    ),
    layer(
        "middle axis from the end",
        {"type": "Tile", "tiles": 2, "axis": -2},
        (2, 12, 5),
        lambda t, train: t["image"].tile(1, 1, 2, 1),
    ),
    layer(
        "middle axis from the end",
        {"type": "Concat", "bottom": ["image", "b"], "axis": -2},
        (2, 5, 4),
        lambda t, train: torch.cat([t["image"], t["b"]], 2),
        {"image": (2, 3, 4), "b": (2, 2, 4)},
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
        for axis in (2, -1, -2)
    ),
    several(
        "Reduction",
        "of whole samples",
        [{"type": "Reduction", "operation": "sumsq"}, {"name": "it", "type": "Reshape", "shape": [1]}],
        (2, 3, 2),
        (1,),
        lambda t, train: (t["image"] ** 2).sum((1, 2, 3))[:, None],
    ),
    places("channels", {}, 1, 1, (3, 3, 4)),
    places("last axis", {"axis": -1}, 1, -1, (2, 3, 5)),
    places("middle axis from the end", {"axis": -2}, 1, -2, (2, 4, 4)),
    places("two of the last axis", {"axis": 3, "top_k": 2}, 2, 3, (2, 3, 6)),
    places("all of the channels", {"top_k": 2}, 2, 1, (4, 3, 4)),
    places("ties", {"axis": -1}, 1, -1, (2, 3, 5), ties),
    places("two of the last axis, ties", {"axis": -1, "top_k": 2}, 2, -1, (2, 3, 6), ties),
    values("values", {}, (1, 3, 4), lambda x: largest(x, 1, 1, True)),
    values("values, two of the last axis", {"axis": -1, "top_k": 2}, (2, 3, 2), lambda x: largest(x, 2, 3, True)),
    values("values, two of a middle axis", {"axis": -2, "top_k": 2}, (2, 2, 4), lambda x: largest(x, 2, 2, True)),
    values(
        "values, ties",
        {"axis": -1, "top_k": 2},
        (2, 3, 2),
        lambda x: largest(x, 2, 3, True),
        domains={"image": ties},
        smooth=False,
    ),
    values("whole samples, places and values", {"axis": None}, (2, 1), lambda x: both(x, 1)),
    values("whole samples, five places and values", {"axis": None, "top_k": 5}, (2, 5), lambda x: both(x, 5)),
    LayerCase(
        "ArgMax",
        "whole samples, places",
        [
            {"name": "a", "type": "ArgMax", "axis": None, "top_k": 3, "bottom": "image"},
            {"name": "it", "type": "Concat", "bottom": ["a", "image"]},
        ],
        {"image": (2, 3)},
        (3, 3),
        lambda t, train: torch.cat([both(t["image"], 3)[:, :1], t["image"]], 1),
        domains={"image": separated},
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
        "middle axis from the end",
        [
            {"name": "s", "type": "Slice", "top": ["first", "second"], "axis": -2},
            {"name": "it", "type": "Eltwise", "operation": "prod", "bottom": ["second", "first"]},
        ],
        (2, 4, 3),
        (2, 2, 3),
        lambda t, train: t["image"][:, :, :2] * t["image"][:, :, 2:],
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
STRUCTURE_MISFITS: list[Misfit] = [
    ({"type": "Concat", "axis": -3, "bottom": ["image", "b"]}, {"image": (4,), "b": (4,)}, "axis -3"),
    ({"type": "Concat", "bottom": ["image", "b"]}, {"image": (4, 2), "b": (4, 3)}, "4x2, 4x3"),
    ({"type": "Concat", "bottom": ["image", "b"]}, {"image": (4, 2), "b": (4,)}, "4x2, 4"),
    ({"type": "Eltwise", "bottom": ["image", "b"]}, {"image": (4, 2), "b": (4, 3)}, "4x2, 4x3"),
    ({"type": "Eltwise", "bottom": ["image", "b"], "coeff": [1.0]}, SAME, "coeff: needs 2 numbers"),
    ({"type": "Eltwise", "bottom": ["image", "b"], "coeff": [1.0, 2.0], "operation": "max"}, SAME, "weighs a sum"),
    ({"type": "Reshape", "shape": [-1, -1]}, PLANES, "at most one -1"),
    ({"type": "Reshape", "shape": [2, 2, 30, 0]}, PLANES, "copies an axis"),
    ({"type": "Reshape", "shape": [7, -1]}, PLANES, "120 values"),
    ({"type": "Reshape", "shape": [4, 6]}, PLANES, "120 values"),
    ({"type": "Reshape", "shape": 1, "axis": 0}, PLANES, "axis 0 is no place"),
    ({"type": "Reshape", "shape": 1, "axis": 5}, PLANES, "axis 5 is no place"),
    ({"type": "Reshape", "shape": 1, "axis": -4}, {"image": (4, 6)}, "axis -4 is no place"),
    ({"type": "Reshape", "shape": 1, "axis": 2, "num_axes": 3}, PLANES, "num_axes 3 from axis 2"),
    ({"type": "Reshape", "shape": [4, 2], "axis": 2, "num_axes": 1}, PLANES, "6 values of the axes .*, 6;"),
    ({"type": "Reshape", "shape": 2, "axis": -1, "num_axes": 0}, PLANES, "1 values of the axes .*, none;"),
    ({"type": "Reshape", "shape": [1, 0], "axis": 3, "num_axes": 1}, PLANES, "copies an axis"),
    ({"type": "Flatten", "axis": 0}, PLANES, "axis 0 is not an axis"),
    ({"type": "Flatten", "end_axis": 4}, PLANES, "end_axis 4 is not an axis"),
    ({"type": "Flatten", "axis": 3, "end_axis": -2}, PLANES, "axis 3 .* lies behind end_axis -2"),
    ({"type": "Permute", "order": [1, 0]}, PLANES, "batch stays first"),
    ({"type": "Permute", "order": [0, 2, 2]}, PLANES, "once each"),
    ({"type": "Permute", "order": [0, 4]}, PLANES, "once each"),
    ({"type": "Pad", "pad": -1}, PLANES, "pad: must be at least 0"),
    ({"type": "Pad", "pad": 2**17}, PLANES, "pad 131072"),
    ({"type": "Pad", "pad": 0, "pad_end": 2**17}, PLANES, "pad 131072"),
    ({"type": "Pad", "pad": 0, "pad_end": -1}, PLANES, "pad_end: must be at least 0"),
    ({"type": "Pad", "pad": 0, "pad_end": [1, 2, 3]}, PLANES, "pad_end: needs 1 or 2"),
    ({"type": "Pad", "pad": 1, "mode": "edge", "value": 1.0}, PLANES, "remove value"),
    ({"type": "Pad", "pad": [1, 5], "mode": "reflect"}, PLANES, "pad 5 must be smaller than the size 5"),
    ({"type": "Pad", "pad": 0, "pad_end": [6, 0], "mode": "reflect"}, PLANES, "pad_end 6 must be smaller"),
    ({"type": "Tile", "tiles": 2**28}, PLANES, "tiles 268435456"),
    ({"type": "Tile", "tiles": 2, "axis": 0}, PLANES, "axis 0"),
    ({"type": "Reduction", "axis": 0}, PLANES, "axis 0"),
    ({"type": "ArgMax", "axis": 4}, PLANES, "axis 4"),
    ({"type": "ArgMax", "top_k": 5}, PLANES, "top_k 5 is more than the 4"),
    ({"type": "ArgMax", "top_k": 121, "axis": None}, PLANES, "top_k 121 is more than the 120"),
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
    # What is refused is not offered either.
    ({"type": "Filte"}, PLANES, 'unknown layer type "Filte"; did you mean "Tile"'),
]
