"""Rows for what deep supervision adds: sums of scores, planes cut to an earlier one, statistics of the population."""

from typing import Any

import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from tests.cases.layers import Kind, LayerCase, layer, running

TRIPLE: dict[str, Kind] = {"image": (2, 3), "b": (2, 3), "c": (2, 3)}
PLANE: dict[str, Kind] = {"image": (1, 9, 8)}

# A plane at half the resolution, up again, and cut to where its ancestor lies. x becomes x + 4 behind pad 5 and kernel
# 3, (x + 3.5) / 2 behind the pooling, and x + 5 behind kernel 4 and stride 2.
ALIGNED: list[dict[str, Any]] = [
    {"name": "conv", "type": "Convolution", "num_output": 2, "kernel_size": 3, "pad": 5, "bottom": "image"},
    {"name": "pool", "type": "Pooling", "pool": "average", "kernel_size": 2, "stride": 2},
    {"name": "up", "type": "Deconvolution", "num_output": 1, "kernel_size": 4, "stride": 2},
    {"name": "it", "type": "Crop", "bottom": ["up", "image"], "offset": "auto"},
]

BRANCH_CASES: list[LayerCase] = [
    layer(
        "",
        {"type": "WeightedSum", "bottom": ["image", "b", "c"]},
        (2, 3),
        lambda t, train: sum(w * t[name] for w, name in zip(t["it.weight"], TRIPLE, strict=True)),
        TRIPLE,
    ),
    layer(
        "one bottom",
        {"type": "WeightedSum", "weight_filler": {"type": "constant", "value": 2.0}},
        (2, 3),
        lambda t, train: t["it.weight"] * t["image"],
        {"image": (2, 3)},
    ),
    LayerCase(
        "Crop",
        "auto",
        ALIGNED,
        PLANE,
        (1, 9, 8),
        lambda t, train: F.conv_transpose2d(
            F.avg_pool2d(F.conv2d(t["image"], t["conv.weight"], t["conv.bias"], padding=5), 2, 2, ceil_mode=True),
            t["up.weight"],
            t["up.bias"],
            stride=2,
        )[:, :, 5:14, 5:13],
    ),
    layer(
        "population",
        {"type": "BatchNorm", "statistics": "population"},
        (2, 6, 5),
        lambda t, train: F.batch_norm(
            t["image"],
            t["it.running_mean"].clone(),
            t["it.running_var"].clone(),
            t["it.weight"],
            t["it.bias"],
            training=train,
        ),
        statistics=running(0.9),
    ),
]
