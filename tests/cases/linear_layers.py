"""Rows for Deconvolution, InnerProduct along other axes, Embed, SPP and Upsample."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from tests.cases.domains import Shape, Tensor, Tensors, normal, separated
from tests.cases.layers import LayerCase, layer


def deconvolution(about: str, fields: dict[str, Any], top: Shape, x: Shape = (4, 4, 3), **geometry: Any) -> LayerCase:
    """Return a row of Deconvolution."""
    function: Callable[..., Tensor] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(x) - 2]
    return layer(
        about,
        {"type": "Deconvolution", **fields},
        top,
        lambda t, train: function(t["image"], t["it.weight"], t.get("it.bias"), **geometry),
        {"image": x},
    )


def inner_product(about: str, fields: dict[str, Any], top: Shape, x: Shape = (3, 4, 5), axis: int = 1) -> LayerCase:
    """Return a row of InnerProduct."""

    def oracle(t: Tensors, train: bool) -> Tensor:
        weight = t["it.weight"].T if fields.get("transpose") else t["it.weight"]
        return F.linear(t["image"].flatten(axis), weight, t.get("it.bias"))

    return layer(about, {"type": "InnerProduct", "num_output": 6, **fields}, top, oracle, {"image": x})


def spp(about: str, height: int, x: Shape, top: Shape, pool: str = "max") -> LayerCase:
    """Return a row of SPP."""

    def oracle(t: Tensors, train: bool) -> Tensor:
        levels = []
        for bins in (2**level for level in range(height)):
            size = t["image"].shape[2:]
            kernel = [-(-n // bins) for n in size]
            # By cells: pad both sides, cut what Caffe's clipping of the output leaves out.
            pad = [(k * bins - n + 1) // 2 for k, n in zip(kernel, size, strict=True)]
            ends = [k * bins - n - p for k, n, p in zip(kernel, size, pad, strict=True)]
            widths = [w for p, e in zip(reversed(pad), reversed(ends), strict=True) for w in (p, e)]
            cells = F.pad(t["image"], widths, value=-torch.inf if pool == "max" else 0.0)
            for axis, k in enumerate(kernel, start=2):
                at = 2 * axis - 2
                cells = cells.reshape(*cells.shape[:at], bins, k, *cells.shape[at + 1 :])
            inside = list(range(3, cells.ndim, 2))
            average = cells.sum(inside) / _counts(kernel, bins, pad, list(size))
            levels.append((cells.amax(inside) if pool == "max" else average).flatten(1))
        return torch.cat(levels, 1)

    declared = {"type": "SPP", "pyramid_height": height, "pool": pool}
    return layer(about, declared, top, oracle, {"image": x}, domains={"image": separated if pool == "max" else normal})


def _counts(kernel: list[int], bins: int, pad: list[int], size: list[int]) -> Tensor:
    """Return the cells that each window's average divides by: padding counts, what lies beyond it does not."""
    counts = torch.ones(())
    for k, p, n in zip(kernel, pad, size, strict=True):
        ends = torch.clamp(torch.arange(1, bins + 1) * k - p, max=n + p)
        counts = counts[..., None] * (ends - (torch.arange(bins) * k - p))
    return counts


def upsample(about: str, fields: dict[str, Any], top: Shape, x: Shape = (2, 3, 4)) -> LayerCase:
    """Return a row of Upsample."""
    scale = fields["scale"] if isinstance(fields["scale"], list) else [fields["scale"]] * (len(x) - 1)
    linear = ("linear", "bilinear", "trilinear")[len(x) - 2]
    how = {"mode": linear, "align_corners": False} if fields.get("mode") == "bilinear" else {"mode": "nearest"}
    return layer(
        about,
        {"type": "Upsample", **fields},
        top,
        lambda t, train: F.interpolate(t["image"], scale_factor=[float(s) for s in scale], **how),
        {"image": x},
    )


def _fractions(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw numbers that are cut off to 0 ... 6, away from where they jump."""
    return rng.integers(0, 7, shape) + 0.25


LINEAR_CASES: list[LayerCase] = [
    deconvolution("", {"num_output": 3, "kernel_size": 3}, (3, 6, 5)),
    deconvolution(
        "strided, padded",
        {"num_output": 3, "kernel_size": [4, 3], "stride": [2, 3], "pad": [1, 0]},
        (3, 8, 9),
        stride=(2, 3),
        padding=(1, 0),
    ),
    deconvolution(
        "dilated, strided",
        {"num_output": 3, "kernel_size": 2, "stride": 2, "dilation": [3, 2]},
        (3, 10, 7),
        stride=2,
        dilation=(3, 2),
    ),
    deconvolution(
        "grouped, no bias",
        {"num_output": 6, "kernel_size": 3, "stride": 2, "pad": 1, "group": 2, "bias_term": False},
        (6, 7, 5),
        stride=2,
        padding=1,
        groups=2,
    ),
    deconvolution(
        "depthwise",
        {"num_output": 4, "kernel_size": 4, "stride": 2, "pad": 1, "group": 4, "weight_filler": "bilinear"},
        (4, 8, 6),
        stride=2,
        padding=1,
        groups=4,
    ),
    deconvolution("stride beyond kernel", {"num_output": 2, "kernel_size": 1, "stride": 2}, (2, 7, 5), stride=2),
    deconvolution("pad beyond kernel", {"num_output": 2, "kernel_size": 2, "pad": [1, 0]}, (2, 3, 4), padding=(1, 0)),
    deconvolution("1-D", {"num_output": 3, "kernel_size": 3, "stride": 2}, (3, 9), x=(2, 4), stride=2),
    deconvolution("3-D", {"num_output": 2, "kernel_size": 2, "stride": 2}, (2, 4, 6, 4), x=(3, 2, 3, 2), stride=2),
    inner_product("transposed", {"transpose": True}, (6,)),
    inner_product("transposed, no bias", {"transpose": True, "bias_term": False}, (6,), (7,)),
    inner_product("axis 2", {"axis": 2}, (3, 6), axis=2),
    inner_product("last axis, transposed", {"axis": -1, "transpose": True}, (3, 4, 6), axis=3),
    inner_product("axis 2, no bias", {"axis": 2, "bias_term": False}, (3, 6), (3, 5), axis=2),
    layer(
        "of labels",
        {"type": "Embed", "num_output": 3, "input_dim": 5, "bottom": "image"},
        (3,),
        lambda t, train: t["it.weight"][t["image"].long()] + t["it.bias"],
        {"image": 5},
    ),
    LayerCase(
        "Embed",
        "of a sequence, no bias, beside what it reads",
        [
            {"name": "e", "type": "Embed", "num_output": 3, "input_dim": 7, "bias_term": False},
            {"name": "r", "type": "Reshape", "shape": [4, 1], "bottom": "image"},
            {"name": "it", "type": "Concat", "axis": -1, "bottom": ["e", "r"]},
        ],
        {"image": (4,)},
        (4, 4),
        lambda t, train: torch.cat([t["e.weight"][t["image"].detach().long()], t["image"][..., None]], 2),
        domains={"image": _fractions},
    ),
    spp("one level", 1, (2, 4, 5), (2,)),
    spp("three levels, even", 3, (2, 8, 4), (42,)),
    spp("three levels, padded", 3, (2, 7, 11), (42,)),
    spp("average", 3, (2, 7, 11), (42,), "average"),
    upsample("nearest", {"scale": 2}, (2, 6, 8)),
    upsample("nearest, two factors", {"scale": [3, 1]}, (2, 9, 4)),
    upsample("nearest 1-D", {"scale": 3}, (2, 12), (2, 4)),
    upsample("nearest 3-D", {"scale": [2, 1, 2]}, (2, 4, 3, 4), (2, 2, 3, 2)),
    upsample("bilinear", {"scale": 2, "mode": "bilinear"}, (2, 6, 8)),
    upsample("bilinear, odd and large factors", {"scale": [3, 4], "mode": "bilinear"}, (2, 9, 16)),
    upsample("bilinear, factor 1, one element", {"scale": [1, 5], "mode": "bilinear"}, (2, 3, 5), (2, 3, 1)),
    upsample("bilinear 1-D", {"scale": 4, "mode": "bilinear"}, (2, 20), (2, 5)),
    upsample("bilinear 3-D", {"scale": [2, 3, 1], "mode": "bilinear"}, (2, 4, 9, 2), (2, 2, 3, 2)),
]

PLANES: dict[str, Any] = {"image": (4, 6, 5)}
DECONVOLUTION = {"type": "Deconvolution", "num_output": 4, "kernel_size": 3}
# As in test_layers: layers that do not fit their bottoms, and a word of what is said.
LINEAR_MISFITS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({**DECONVOLUTION, "pad": 4}, PLANES, "pad 4 cuts off"),
    ({**DECONVOLUTION, "group": 3}, PLANES, "group 3"),
    ({**DECONVOLUTION, "stride": 2**20}, PLANES, "lower stride"),
    (DECONVOLUTION, {"image": (4,)}, "spatial axes"),
    ({"type": "InnerProduct", "num_output": 4, "axis": 4}, PLANES, "axis 4"),
    ({"type": "InnerProduct", "num_output": 4, "weight_filler": "bilinear"}, PLANES, "filler bilinear needs 3 axes"),
    ({"type": "InnerProduct", "num_output": 4, "bias_filler": "identity"}, PLANES, "filler identity needs 2 axes"),
    ({"type": "Embed", "num_output": 4, "input_dim": 2**26}, PLANES, "input_dim 67,108,864"),
    ({"type": "SPP", "pyramid_height": 4}, PLANES, "pyramid_height 4"),
    ({"type": "Upsample", "scale": 2**15}, PLANES, "scale 32768"),
    ({"type": "Upsample", "scale": [1, 2, 3]}, PLANES, "scale: needs 1 or 2"),
]
