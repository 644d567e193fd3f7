"""Rows for the layers that normalise, scale and shift, and for those that disturb training on purpose."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from tests.cases.domains import BATCH, SEED, STEP, Domain, Shape, Tensor, Tensors, normal
from tests.cases.layers import LayerCase, Misfit, layer, running
from tests.numpy_rng import keep_mask, random_bits

WHOLE: Shape = (2, 6, 5)


def mask(kept: Shape, ratio: float) -> Tensor:
    """Return the mask of the layer `it`."""
    return torch.from_numpy(keep_mask(SEED, STEP, "it", (BATCH, *kept), ratio))


def noise(shape: Shape) -> Tensor:
    """Return N(0, 1) of the layer `it`, by Box & Muller from the numpy twin of the hash."""
    u, v = (((random_bits(SEED, STEP, name, (BATCH, *shape)) >> 16) + 0.5) / 65536.0 for name in ("it", "it.angle"))
    return torch.from_numpy(np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v))


def _dropped_classically(t: Tensors, train: bool) -> Tensor:
    return t["image"] * (mask(WHOLE, 0.3) if train else 0.7)


def _frozen(t: Tensors, train: bool) -> Tensor:
    return F.batch_norm(t["image"], t["it.running_mean"], t["it.running_var"], t["it.weight"], t["it.bias"])


def _plain_batch_norm(t: Tensors, train: bool) -> Tensor:
    return F.batch_norm(t["image"], t["it.running_mean"].clone(), t["it.running_var"].clone(), training=train)


def _unchanged(t: Tensors) -> Tensors:
    return {name: t[name] for name in ("it.running_mean", "it.running_var")}


def mvn(about: str, fields: dict[str, Any], axes: tuple[int, ...], domain: Domain = normal) -> LayerCase:
    """Return a row of MVN: eps stands outside of the root."""

    def oracle(t: Tensors, train: bool) -> Tensor:
        centred = t["image"] - t["image"].mean(axes, keepdim=True)
        if fields.get("normalize_variance") is False:
            return centred
        # The root of 0 has a slope without bound, the one of 1e-30 has none that shows.
        return centred / (((centred**2).mean(axes, keepdim=True) + 1e-30).sqrt() + fields.get("eps", 1e-9))

    return layer(about, {"type": "MVN", **fields}, WHOLE, oracle, domains={"image": domain}, smooth=domain is normal)


def by_second(type_: str, about: str, v: Shape, axis: int, seen: Shape) -> LayerCase:
    """Return a row of Scale or Bias with a second bottom v, which PyTorch broadcasts in the shape `seen`."""
    operation: Callable[..., Tensor] = torch.mul if type_ == "Scale" else torch.add
    declared = {"type": type_, "bottom": ["image", "v"], "axis": axis}
    inputs = {"image": WHOLE, "v": v}
    return layer(
        f"second bottom, {about}",
        declared,
        WHOLE,
        lambda t, train: operation(t["image"], t["v"].reshape(BATCH, *seen)),
        inputs,
    )


def _excited(t: Tensors) -> Tensor:
    return F.conv2d(t["image"].mean((2, 3), keepdim=True), t["excite.weight"], t["excite.bias"])


def one_plane_constant(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return N(0, 1) but for the first channel, which is 0 as behind a dead ReLU."""
    x = normal(rng, shape)
    x[:, 0] = 0.0
    return x


def within(x: Tensor, size: int, alpha: float, beta: float) -> Tensor:
    """Return LRN within channels, in two dimensions."""
    mean = F.avg_pool2d(x * x, size, 1, size // 2)
    return x * (1 + alpha * mean) ** -beta


NORMALIZATION_CASES: list[LayerCase] = [
    layer("scaled at test", {"type": "Dropout", "dropout_ratio": 0.3, "scale_at": "test"}, WHOLE, _dropped_classically),
    layer(
        "whole channels",
        {"type": "Dropout", "whole_channel": True},
        (8, 3, 2),
        lambda t, train: t["image"] * mask((8, 1, 1), 0.5) * 2.0 if train else t["image"],
        {"image": (8, 3, 2)},
    ),
    layer(
        "",
        {"type": "StochasticDepth", "drop_ratio": 0.4},
        WHOLE,
        lambda t, train: t["image"] * mask((1, 1, 1), 0.4) / 0.6 if train else t["image"],
    ),
    layer("ratio 0", {"type": "StochasticDepth", "drop_ratio": 0}, WHOLE, lambda t, train: t["image"].clone()),
    layer(
        "",
        {"type": "GaussianNoise", "std": 0.5},
        WHOLE,
        lambda t, train: t["image"] + 0.5 * noise(WHOLE) if train else t["image"],
    ),
    layer("frozen", {"type": "BatchNorm", "use_global_stats": True}, WHOLE, _frozen, statistics=_unchanged),
    layer(
        "without affine",
        {"type": "BatchNorm", "affine": False},
        WHOLE,
        _plain_batch_norm,
        statistics=running(0.9),
    ),
    layer(
        "",
        {"type": "LayerNorm"},
        WHOLE,
        lambda t, train: F.layer_norm(t["image"], WHOLE, t["it.weight"], t["it.bias"]),
    ),
    layer(
        "last axis, other eps",
        {"type": "LayerNorm", "axis": -1, "eps": 0.01},
        WHOLE,
        lambda t, train: F.layer_norm(t["image"], WHOLE[2:], t["it.weight"], t["it.bias"], 0.01),
    ),
    layer(
        "middle axis, without affine",
        {"type": "LayerNorm", "axis": 2, "affine": False},
        WHOLE,
        lambda t, train: F.layer_norm(t["image"], WHOLE[1:]),
    ),
    layer(
        "",
        {"type": "GroupNorm", "num_groups": 3},
        (6, 3, 2),
        lambda t, train: F.group_norm(t["image"], 3, t["it.weight"], t["it.bias"]),
        {"image": (6, 3, 2)},
    ),
    layer(
        "of a vector, without affine",
        {"type": "GroupNorm", "num_groups": 2, "affine": False},
        (6,),
        lambda t, train: F.group_norm(t["image"], 2),
        {"image": (6,)},
    ),
    layer(
        "",
        {"type": "InstanceNorm"},
        WHOLE,
        lambda t, train: F.instance_norm(t["image"], weight=t["it.weight"], bias=t["it.bias"]),
    ),
    layer(
        "1-D, without affine",
        {"type": "InstanceNorm", "affine": False},
        (3, 7),
        lambda t, train: F.instance_norm(t["image"]),
        {"image": (3, 7)},
    ),
    mvn("", {}, (2, 3)),
    mvn("across channels, other eps", {"across_channels": True, "eps": 0.1}, (1, 2, 3)),
    mvn("of a constant plane", {"eps": 0.1}, (2, 3), one_plane_constant),
    mvn("mean alone", {"normalize_variance": False}, (2, 3)),
    layer(
        "",
        {"type": "LRN", "alpha": 0.5},
        (7, 3, 2),
        lambda t, train: F.local_response_norm(t["image"], 5, 0.5, 0.75, 1.0),
        {"image": (7, 3, 2)},
    ),
    layer(
        "k, beta, few channels",
        {"type": "LRN", "local_size": 3, "alpha": 2, "beta": 0.5, "k": 2},
        WHOLE,
        lambda t, train: F.local_response_norm(t["image"], 3, 2.0, 0.5, 2.0),
    ),
    layer(
        "of a vector",
        {"type": "LRN", "local_size": 3},
        (6,),
        lambda t, train: F.local_response_norm(t["image"][..., None], 3, 1.0, 0.75, 1.0)[..., 0],
        {"image": (6,)},
    ),
    layer(
        "within channels",
        {"type": "LRN", "local_size": 3, "alpha": 2, "norm_region": "within_channel"},
        WHOLE,
        lambda t, train: within(t["image"], 3, 2.0, 0.75),
    ),
    layer(
        "wider than the channels",
        {"type": "LRN", "local_size": 7, "alpha": 2},
        WHOLE,
        lambda t, train: F.local_response_norm(t["image"], 7, 2.0, 0.75, 1.0),
    ),
    layer(
        "within channels, wider than the plane",
        {"type": "LRN", "local_size": 13, "alpha": 2, "norm_region": "within_channel"},
        WHOLE,
        lambda t, train: within(t["image"], 13, 2.0, 0.75),
    ),
    layer("", {"type": "Scale"}, WHOLE, lambda t, train: t["image"] * t["it.weight"].reshape(2, 1, 1)),
    layer(
        "two axes, bias",
        {"type": "Scale", "axis": 1, "num_axes": 2, "bias_term": True},
        WHOLE,
        lambda t, train: t["image"] * t["it.weight"][..., None] + t["it.bias"][..., None],
    ),
    layer(
        "one number",
        {"type": "Scale", "num_axes": 0, "bias_term": True},
        WHOLE,
        lambda t, train: t["image"] * t["it.weight"] + t["it.bias"],
    ),
    layer(
        "all axes from the second on",
        {"type": "Scale", "axis": 2, "num_axes": -1},
        WHOLE,
        lambda t, train: t["image"] * t["it.weight"],
    ),
    layer(
        "last axes",
        {"type": "Scale", "axis": -2, "num_axes": 2, "bias_term": True},
        WHOLE,
        lambda t, train: t["image"] * t["it.weight"] + t["it.bias"],
    ),
    *(
        by_second(type_, *given)
        for type_ in ("Scale", "Bias")
        for given in (
            ("one number a channel", (2,), 1, (2, 1, 1)),
            ("axes of size 1 behind", (2, 1, 1), 1, (2, 1, 1)),
            ("more axes than the first", (2, 6, 5, 1), 1, WHOLE),
            ("one map for all channels", (1, 6, 5), 1, (1, 6, 5)),
            ("one number a sample", (1,), 1, (1, 1, 1)),
            ("middle axis", (6,), 2, (1, 6, 1)),
            ("last axis", (5,), -1, (1, 1, 5)),
        )
    ),
    layer(
        "second bottom, bias",
        {"type": "Scale", "bottom": ["image", "v"], "bias_term": True},
        WHOLE,
        lambda t, train: t["image"] * t["v"][..., None] + t["it.bias"][..., None],
        {"image": WHOLE, "v": (2, 6)},
    ),
    layer(
        "second bottom, one number a sample, bias",
        {"type": "Scale", "bottom": ["image", "v"], "bias_term": True},
        WHOLE,
        lambda t, train: t["image"] * t["v"][..., None, None] + t["it.bias"],
        {"image": WHOLE, "v": (1,)},
    ),
    layer(
        "by itself", {"type": "Scale", "bottom": ["image", "image"]}, WHOLE, lambda t, train: t["image"] * t["image"]
    ),
    LayerCase(
        "Scale",
        "squeeze and excitation",
        [
            {"name": "squeeze", "type": "Pooling", "pool": "average", "global_pooling": True},
            {"name": "excite", "type": "Convolution", "num_output": 2, "kernel_size": 1},
            {"name": "gate", "type": "Sigmoid"},
            {"name": "it", "type": "Scale", "bottom": ["image", "gate"]},
        ],
        {"image": WHOLE},
        WHOLE,
        lambda t, train: t["image"] * torch.sigmoid(_excited(t)),
    ),
    layer("", {"type": "Bias"}, WHOLE, lambda t, train: t["image"] + t["it.bias"].reshape(2, 1, 1)),
    layer(
        "last axis",
        {"type": "Bias", "axis": -1},
        WHOLE,
        lambda t, train: t["image"] + t["it.bias"],
    ),
    layer("one number", {"type": "Bias", "num_axes": 0}, WHOLE, lambda t, train: t["image"] + t["it.bias"]),
]

BY_SECOND: dict[str, Any] = {"type": "Scale", "bottom": ["image", "v"]}
NORMALIZATION_MISFITS: list[Misfit] = [
    ({"type": "LayerNorm", "axis": 0}, {"image": (4,)}, "axis 0"),
    ({"type": "GroupNorm", "num_groups": 4}, {"image": (6, 2)}, "num_groups 4 does not divide"),
    ({"type": "GroupNorm", "num_groups": 6}, {"image": (6,)}, "fewer num_groups"),
    ({"type": "InstanceNorm"}, {"image": (6,)}, "use LayerNorm"),
    ({"type": "InstanceNorm"}, {"image": (6, 1, 1)}, "use LayerNorm"),
    ({"type": "MVN"}, {"image": (6,)}, "use LayerNorm"),
    ({"type": "LRN", "local_size": 4}, {"image": (6, 2)}, "local_size 4 has no middle"),
    ({"type": "LRN", "k": 2, "norm_region": "within_channel"}, {"image": (6, 2)}, "remove k"),
    ({"type": "LRN", "norm_region": "within_channel"}, {"image": (6,)}, "spatial axes"),
    ({"type": "Scale", "num_axes": 2}, {"image": (6,)}, "num_axes 2 from axis 1"),
    ({"type": "Bias", "axis": 2}, {"image": (6,)}, "axis 2"),
    (BY_SECOND, {"image": (6, 5), "v": (5,)}, "5 a sample, does not lie along .* first, 6x5, from axis 1"),
    (BY_SECOND, {"image": (6, 5), "v": (6, 2)}, "6x2 a sample, does not lie along"),
    (BY_SECOND, {"image": (6,), "v": (6, 5)}, "6x5 a sample, does not lie along"),
    ({**BY_SECOND, "axis": -1}, {"image": (6, 5), "v": (6,)}, "from axis -1"),
    ({**BY_SECOND, "axis": 3}, {"image": (6, 5), "v": (6,)}, "axis 3"),
    ({**BY_SECOND, "num_axes": -1}, {"image": (6,), "v": (6,)}, "remove num_axes"),
    ({**BY_SECOND, "weight_filler": "xavier"}, {"image": (6,), "v": (6,)}, "remove weight_filler"),
    ({**BY_SECOND, "type": "Bias", "num_axes": 0}, {"image": (6,), "v": (6,)}, "remove num_axes"),
    ({**BY_SECOND, "type": "Bias", "bias_filler": "uniform"}, {"image": (6,), "v": (6,)}, "remove bias_filler"),
    ({"type": "Dropout", "whole_channel": True}, {"image": (6,)}, "whole_channel needs axes"),
]
