"""Rows for Pooling, SPP and Upsample."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from tests.cases.domains import Domain, Shape, Tensor, Tensors, normal, separated, ties
from tests.cases.layers import LayerCase, Misfit, layer


def pooling(
    about: str,
    fields: dict[str, Any],
    top: Shape,
    x: Shape = (2, 6, 5),
    domain: Domain = separated,
    **torch_fields: Any,
) -> LayerCase:
    """Return a row of Pooling; PyTorch rounds up and divides as Caffe does."""
    kind = "avg" if fields.get("pool") == "average" else "max"
    function: Callable[..., Tensor] = getattr(F, f"{kind}_pool{len(x) - 1}d")
    return layer(
        about,
        {"type": "Pooling", **fields},
        top,
        lambda t, train: function(t["image"], **{"ceil_mode": True, **torch_fields}),
        {"image": x},
        domains={"image": domain},
        smooth=domain is not ties,
    )


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


# In one, two and three dimensions; of lists each takes as many numbers as it has axes.
GEOMETRIES: dict[str, dict[str, Any]] = {
    "overlapping, padded, ceil": {"kernel_size": 3, "stride": 2, "pad": 1},
    "overlapping, floor": {"kernel_size": 3, "stride": 2, "round_mode": "floor"},
    "unequal axes": {"kernel_size": [3, 2, 2], "stride": [2, 1, 2], "pad": [0, 1, 1]},
    "unequal axes, floor": {"kernel_size": [2, 3, 2], "stride": [2, 2, 1], "pad": [1, 1, 0], "round_mode": "floor"},
}


def pooling_in_all_dimensions(pool: str, domain: Domain) -> list[LayerCase]:
    """Return the rows of all geometries."""
    rows = []
    for about, geometry in GEOMETRIES.items():
        for axes, x in enumerate(((2, 8), (2, 8, 7), (2, 6, 5, 4)), start=1):
            fields = {k: v[:axes] if isinstance(v, list) else v for k, v in geometry.items()}
            ceil = fields.get("round_mode") != "floor"
            numbers = [v if isinstance(v, list) else [v] * axes for k, v in fields.items() if k != "round_mode"]
            # The windows, of which the last is left out if it begins behind the plane.
            each = list(zip(x[1:], *numbers, *([] if "pad" in fields else [[0] * axes]), strict=True))
            top = [(n + 2 * p - k + (s - 1 if ceil else 0)) // s + 1 for n, k, s, p in each]
            top = [o - 1 if p and (o - 1) * s >= n + p else o for o, (n, _, s, p) in zip(top, each, strict=True)]
            kernel, stride, padding = (tuple(int(one[i]) for one in each) for i in (1, 2, 3))
            rows.append(
                pooling(
                    f"{pool} {about}, {axes}-D{', ties' if domain is ties else ''}",
                    {"pool": pool, **fields},
                    (2, *top),
                    x,
                    domain,
                    kernel_size=kernel,
                    stride=stride,
                    padding=padding,
                    ceil_mode=ceil,
                )
            )
    return rows


def global_pooling(pool: str, x: Shape) -> LayerCase:
    """Return a row of Pooling over whole planes."""
    axes = tuple(range(2, len(x) + 1))

    def oracle(t: Tensors, train: bool) -> Tensor:
        return t["image"].amax(axes, keepdim=True) if pool == "max" else t["image"].mean(axes, keepdim=True)

    declared = {"type": "Pooling", "pool": pool, "global_pooling": True}
    top = (2, *[1] * len(axes))
    return layer(f"{pool} global, {len(axes)}-D", declared, top, oracle, {"image": x}, domains={"image": separated})


POOLING_CASES: list[LayerCase] = [
    *pooling_in_all_dimensions("max", separated),
    *pooling_in_all_dimensions("max", ties),
    *pooling_in_all_dimensions("average", normal),
    *(global_pooling(pool, x) for pool in ("max", "average") for x in ((2, 3), (2, 6, 5), (2, 3, 4, 2))),
    pooling("max", {"kernel_size": 2, "stride": 2}, (2, 3, 3), kernel_size=2, stride=2),
    pooling("max overlapping ceil", {"kernel_size": 3, "stride": 2}, (2, 3, 2), kernel_size=3, stride=2),
    pooling(
        "max overlapping floor",
        {"kernel_size": 3, "stride": 2, "round_mode": "floor"},
        (2, 2, 2),
        kernel_size=3,
        stride=2,
        ceil_mode=False,
    ),
    pooling("max padded", {"kernel_size": 3, "stride": 2, "pad": 1}, (2, 4, 3), kernel_size=3, stride=2, padding=1),
    pooling(
        "max padded, last window outside",
        {"kernel_size": 2, "stride": 2, "pad": 1},
        (2, 4, 3),
        kernel_size=2,
        stride=2,
        padding=1,
    ),
    pooling("max stride beyond kernel", {"kernel_size": 2, "stride": 3}, (2, 3, 3), (2, 7, 8), kernel_size=2, stride=3),
    pooling("max ties", {"kernel_size": 3, "stride": 2}, (2, 3, 2), domain=ties, kernel_size=3, stride=2),
    pooling("max 1-D", {"kernel_size": 3, "stride": 2}, (2, 4), x=(2, 8), kernel_size=3, stride=2),
    pooling("max 3-D", {"kernel_size": 2, "stride": 2}, (2, 2, 2, 2), x=(2, 4, 3, 3), kernel_size=2, stride=2),
    pooling(
        "average",
        {"pool": "average", "kernel_size": 2, "stride": 2, "round_mode": "floor"},
        (2, 3, 2),
        kernel_size=2,
        stride=2,
        ceil_mode=False,
    ),
    pooling(
        "average overlapping ceil",
        {"pool": "average", "kernel_size": 3, "stride": 2},
        (2, 3, 2),
        kernel_size=3,
        stride=2,
    ),
    pooling(
        "average padded ceil",
        {"pool": "average", "kernel_size": 3, "stride": 2, "pad": 1},
        (2, 4, 3),
        kernel_size=3,
        stride=2,
        padding=1,
    ),
    pooling(
        "average padded floor",
        {"pool": "average", "kernel_size": [3, 2], "stride": [2, 3], "pad": [1, 1], "round_mode": "floor"},
        (2, 3, 2),
        kernel_size=(3, 2),
        stride=(2, 3),
        padding=(1, 1),
        ceil_mode=False,
    ),
    pooling(
        "average padded, last window outside",
        {"pool": "average", "kernel_size": 2, "stride": 2, "pad": 1},
        (2, 4, 3),
        kernel_size=2,
        stride=2,
        padding=1,
    ),
    spp("one level", 1, (2, 4, 5), (2,)),
    spp("three levels, even", 3, (2, 8, 4), (42,)),
    spp("three levels, padded", 3, (2, 7, 11), (42,)),
    spp("1-D", 2, (2, 5), (6,)),
    spp("3-D", 2, (2, 3, 4, 2), (18,)),
    spp("average 1-D", 3, (2, 7), (14,), "average"),
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
POOLING_MISFITS: list[Misfit] = [
    ({"type": "Pooling"}, {"image": (2, 6, 5)}, "needs kernel_size"),
    ({"type": "Pooling", "kernel_size": 7}, {"image": (2, 6, 5)}, "kernel_size 7"),
    ({"type": "Pooling", "kernel_size": 2, "pad": 2}, {"image": (2, 6, 5)}, "pad 2"),
    ({"type": "Pooling", "kernel_size": 1, "stride": 4}, {"image": (2, 6, 6)}, "round_mode: floor"),
    ({"type": "Pooling", "global_pooling": True, "stride": 2}, {"image": (2, 6, 5)}, "remove stride"),
    ({"type": "Pooling", "kernel_size": 2, "stride": [1, 2, 3]}, PLANES, "stride: needs 1 or 2"),
    ({"type": "Pooling", "kernel_size": 2**20, "pad": 2**19}, PLANES, "larger than 2,147,483,647 numbers"),
    ({"type": "Pooling", "global_pooling": True, "kernel_size": 2}, PLANES, "remove kernel_size"),
    ({"type": "SPP", "pyramid_height": 4}, PLANES, "pyramid_height 4"),
    ({"type": "Upsample", "scale": 2**15}, PLANES, "scale 32768"),
    ({"type": "Upsample", "scale": [1, 2, 3]}, PLANES, "scale: needs 1 or 2"),
]
