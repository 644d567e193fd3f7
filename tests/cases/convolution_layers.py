"""Rows for Convolution and Deconvolution."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from tests.cases.domains import Shape, Tensor
from tests.cases.layers import LayerCase, Misfit, layer


def convolution(about: str, fields: dict[str, Any], top: Shape, x: Shape = (2, 6, 5), **geometry: Any) -> LayerCase:
    """Return a row of Convolution."""
    function: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[len(x) - 2]
    return layer(
        about,
        {"type": "Convolution", **fields},
        top,
        lambda t, train: function(t["image"], t["it.weight"], t.get("it.bias"), **geometry),
        {"image": x},
    )


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


def _read_thrice(a: Tensor, weight: Tensor) -> Tensor:
    return a + F.conv2d(a, weight) + torch.tanh(a)


# In one, two and three dimensions; of lists each takes as many numbers as it has axes.
GEOMETRIES: dict[str, dict[str, Any]] = {
    "overlapping, padded": {"kernel_size": 3, "stride": 2, "pad": 1},
    "dilated, padded": {"kernel_size": 2, "dilation": 2, "pad": 1},
    "grouped": {"kernel_size": 2, "stride": 2, "group": 2},
    "depthwise, two outputs a channel": {"kernel_size": 3, "stride": 2, "pad": 1, "group": 4, "num_output": 8},
    "unequal axes": {"kernel_size": [3, 2, 1], "stride": [1, 2, 2], "pad": [2, 0, 1]},
    "all at once": {
        "kernel_size": [3, 2, 2],
        "stride": [2, 3, 1],
        "pad": [1, 0, 2],
        "dilation": [2, 1, 2],
        "group": 2,
        "bias_term": False,
    },
}
TORCH_FIELDS = {"stride": "stride", "pad": "padding", "dilation": "dilation", "group": "groups"}


def in_all_dimensions(
    row: Callable[..., LayerCase], x: Shape, size: Callable[[int, int, int, int, int], int]
) -> list[LayerCase]:
    """Return the rows of all geometries; `size` maps n, kernel, stride, pad and dilation to the size of the output."""
    rows = []
    for about, geometry in GEOMETRIES.items():
        for axes in (1, 2, 3):
            taken = {k: v[:axes] if isinstance(v, list) else v for k, v in geometry.items()}
            fields = {"num_output": 6, **taken}
            numbers = [fields.get(k, n) for k, n in (("kernel_size", 1), ("stride", 1), ("pad", 0), ("dilation", 1))]
            each = [n if isinstance(n, list) else [n] * axes for n in numbers]
            top = (fields["num_output"], *(size(*one) for one in zip(x[1 : 1 + axes], *each, strict=True)))
            given = {theirs: fields[ours] for ours, theirs in TORCH_FIELDS.items() if ours in fields}
            rows.append(row(f"{about}, {axes}-D", fields, top, x=x[: 1 + axes], **given))
    return rows


CONVOLUTION_CASES: list[LayerCase] = [
    *in_all_dimensions(convolution, (4, 7, 6, 4), lambda n, k, s, p, d: (n + 2 * p - d * (k - 1) - 1) // s + 1),
    *in_all_dimensions(deconvolution, (4, 4, 3, 3), lambda n, k, s, p, d: s * (n - 1) + d * (k - 1) + 1 - 2 * p),
    LayerCase(
        "Convolution",
        "read by three layers",
        [
            {"name": "a", "type": "Convolution", "num_output": 3, "kernel_size": 3, "pad": 1, "bias_term": False},
            {"name": "b", "type": "Convolution", "num_output": 3, "kernel_size": 1, "bias_term": False, "bottom": "a"},
            {"name": "c", "type": "TanH", "bottom": "a"},
            {"name": "it", "type": "Eltwise", "bottom": ["a", "b", "c"]},
        ],
        {"image": (2, 4, 3)},
        (3, 4, 3),
        lambda t, train: _read_thrice(F.conv2d(t["image"], t["a.weight"], padding=1), t["b.weight"]),
    ),
    convolution("", {"num_output": 4, "kernel_size": 3}, (4, 4, 3)),
    convolution(
        "strided, padded, unreached",
        {"num_output": 4, "kernel_size": [3, 2], "stride": [2, 2], "pad": [1, 0]},
        (4, 3, 2),
        stride=(2, 2),
        padding=(1, 0),
    ),
    convolution("dilated", {"num_output": 3, "kernel_size": 2, "dilation": [3, 2]}, (3, 3, 3), dilation=(3, 2)),
    convolution(
        "grouped, no bias", {"num_output": 4, "kernel_size": 3, "group": 2, "bias_term": False}, (4, 4, 3), groups=2
    ),
    convolution("1-D", {"num_output": 4, "kernel_size": 3, "stride": 2}, (4, 3), x=(2, 7), stride=2),
    convolution("3-D", {"num_output": 3, "kernel_size": 2}, (3, 2, 3, 2), x=(2, 3, 4, 3)),
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
]

PLANES: dict[str, Any] = {"image": (2, 6, 5)}
CONVOLUTION = {"type": "Convolution", "num_output": 4, "kernel_size": 3}
DECONVOLUTION = {**CONVOLUTION, "type": "Deconvolution"}
CONVOLUTION_MISFITS: list[Misfit] = [
    ({**CONVOLUTION, "kernel_size": 7}, PLANES, "kernel_size 7"),
    ({**CONVOLUTION, "dilation": 3}, PLANES, "reach 7"),
    ({**CONVOLUTION, "group": 4}, PLANES, "group 4"),
    ({**CONVOLUTION, "group": 3}, {"image": (3, 6, 5)}, "group 3"),
    ({**CONVOLUTION, "stride": [1, 2, 3]}, PLANES, "stride: needs 1 or 2"),
    ({**CONVOLUTION, "stride": 0}, PLANES, "stride: must be"),
    ({**CONVOLUTION, "kernel_size": 1, "pad": 9, "stride": 50}, PLANES, "no window meets"),
    ({**CONVOLUTION, "pad": [1, 2, 3]}, PLANES, "pad: needs 1 or 2"),
    (CONVOLUTION, {"image": (4,)}, "spatial axes"),
    ({**CONVOLUTION, "param": [{}, {}, {}]}, PLANES, "param: 3 entries"),
    ({**DECONVOLUTION, "pad": 4}, {"image": (4, 6, 5)}, "pad 4 cuts off"),
    ({**DECONVOLUTION, "group": 3}, {"image": (4, 6, 5)}, "group 3"),
    ({**DECONVOLUTION, "stride": 2**20}, {"image": (4, 6, 5)}, "lower stride"),
    (DECONVOLUTION, {"image": (4,)}, "spatial axes"),
]
