"""Rows for the activations and the layers that compute element by element."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from tests.cases.domains import BATCH, Domain, Shape, crossing, normal, positive, separated
from tests.cases.layers import LayerCase, Misfit, layer

WHOLE: Shape = (2, 6, 5)


def wide(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return distinct values far to both sides of 0, 0.06 or more apart, with the kinks -3, 0 and 3 in between."""
    return 3.0 * separated(rng, shape)


def activation(
    about: str, declared: dict[str, Any], oracle: Any, domain: Domain = normal, smooth: bool = True
) -> LayerCase:
    """Return the row of a layer without parameters, whose top has the shape of its bottom."""
    return layer(
        about,
        declared,
        WHOLE,
        lambda t, train: oracle(t["image"]),
        domains={"image": domain},
        smooth=smooth,
    )


ACTIVATION_CASES: list[LayerCase] = [
    activation("leaky", {"type": "ReLU", "negative_slope": 0.1}, lambda x: F.leaky_relu(x, 0.1), separated),
    activation(
        "leaky, at zero",
        {"type": "ReLU", "negative_slope": 0.1},
        lambda x: F.leaky_relu(x, 0.1),
        crossing,
        smooth=False,
    ),
    layer(
        "",
        {"type": "PReLU"},
        WHOLE,
        lambda t, train: F.prelu(t["image"], t["it.weight"]),
        domains={"image": separated},
    ),
    layer(
        "at zero",
        {"type": "PReLU"},
        WHOLE,
        lambda t, train: F.prelu(t["image"], t["it.weight"]),
        domains={"image": crossing},
        smooth=False,
    ),
    layer(
        "channel_shared",
        {"type": "PReLU", "channel_shared": True},
        WHOLE,
        lambda t, train: F.prelu(t["image"], t["it.weight"]),
        domains={"image": separated},
    ),
    layer(
        "of a vector",
        {"type": "PReLU"},
        (7,),
        lambda t, train: F.prelu(t["image"], t["it.weight"]),
        {"image": (7,)},
        domains={"image": separated},
    ),
    activation("", {"type": "ELU"}, F.elu, separated),
    activation("alpha", {"type": "ELU", "alpha": 0.5}, lambda x: F.elu(x, 0.5), separated),
    activation("", {"type": "SELU"}, F.selu, separated),
    activation("", {"type": "GELU"}, F.gelu),
    activation("tanh", {"type": "GELU", "approximate": "tanh"}, lambda x: F.gelu(x, approximate="tanh")),
    activation("", {"type": "Swish"}, F.silu),
    activation("beta", {"type": "Swish", "beta": 1.5}, lambda x: x * torch.sigmoid(1.5 * x)),
    activation("", {"type": "HardSwish"}, F.hardswish, wide),
    activation("", {"type": "Mish"}, F.mish),
    activation("", {"type": "Softplus"}, F.softplus, wide),
    activation("", {"type": "BNLL"}, F.softplus, wide),
    layer(
        "",
        {"type": "Maxout", "num_pieces": 3},
        (2, 2, 3),
        lambda t, train: t["image"].reshape(BATCH, 2, 3, 2, 3).amax(2),
        {"image": (6, 2, 3)},
        domains={"image": separated},
    ),
    layer(
        "of a vector",
        {"type": "Maxout"},
        (3,),
        lambda t, train: t["image"].reshape(BATCH, 3, 2).amax(2),
        {"image": (6,)},
        domains={"image": separated},
    ),
    activation("channels", {"type": "LogSoftmax"}, lambda x: torch.log_softmax(x, 1)),
    activation("last axis", {"type": "LogSoftmax", "axis": -1}, lambda x: torch.log_softmax(x, 3)),
    activation("middle axis from the end", {"type": "LogSoftmax", "axis": -2}, lambda x: torch.log_softmax(x, 2)),
    activation("middle axis from the end", {"type": "Softmax", "axis": -2}, lambda x: torch.softmax(x, 2)),
    activation("", {"type": "AbsVal"}, torch.abs, separated),
    activation("at zero", {"type": "AbsVal"}, torch.abs, crossing, smooth=False),
    activation("", {"type": "Power"}, torch.clone),
    activation("scaled and shifted", {"type": "Power", "scale": -2.0, "shift": 0.5}, lambda x: 0.5 - 2.0 * x),
    activation("squared", {"type": "Power", "power": 2, "shift": 1}, lambda x: (1 + x) ** 2),
    activation("cubed", {"type": "Power", "power": 3, "scale": 0.5}, lambda x: (0.5 * x) ** 3),
    activation(
        "root", {"type": "Power", "power": 0.5, "scale": 2, "shift": 0.25}, lambda x: (0.25 + 2 * x).sqrt(), positive
    ),
    activation("inverse", {"type": "Power", "power": -1.5}, lambda x: x**-1.5, positive),
    activation("power 0", {"type": "Power", "power": 0}, lambda x: 0 * x + 1, crossing),
    activation("", {"type": "Exp"}, torch.exp),
    activation("base", {"type": "Exp", "base": 2, "scale": 0.5, "shift": 1}, lambda x: 2 ** (1 + 0.5 * x)),
    activation("", {"type": "Log"}, torch.log, positive),
    activation(
        "base", {"type": "Log", "base": 10, "scale": 2, "shift": 0.5}, lambda x: torch.log10(0.5 + 2 * x), positive
    ),
    activation("", {"type": "Clip", "min": -0.5, "max": 0.7}, lambda x: x.clamp(-0.5, 0.7), separated),
    activation(
        "at the bounds", {"type": "Clip", "min": -1, "max": 1}, lambda x: x.clamp(-1, 1), crossing, smooth=False
    ),
    # Beside the threshold, through which no gradient passes, stands a way that lets it pass.
    LayerCase(
        "Threshold",
        "",
        [
            {"name": "hard", "type": "Threshold", "threshold": 0.5, "bottom": "image"},
            {"name": "it", "type": "Eltwise", "bottom": ["hard", "image"]},
        ],
        {"image": WHOLE},
        WHOLE,
        lambda t, train: (t["image"] > 0.5).to(t["image"].dtype) + t["image"],
        domains={"image": separated},
    ),
    LayerCase(
        "Threshold",
        "at the threshold",
        [
            {"name": "hard", "type": "Threshold", "bottom": "image"},
            {"name": "it", "type": "Eltwise", "bottom": ["hard", "image"]},
        ],
        {"image": WHOLE},
        WHOLE,
        lambda t, train: (t["image"] > 0).to(t["image"].dtype) + t["image"],
        domains={"image": crossing},
        smooth=False,
    ),
]

ACTIVATION_MISFITS: list[Misfit] = [
    ({"type": "Softmax", "axis": 0}, {"image": (4,)}, "axis 0"),
    ({"type": "Softmax", "axis": 2}, {"image": (4,)}, "axis 2"),
    ({"type": "Maxout", "num_pieces": 4}, {"image": (6, 2)}, "num_pieces 4 does not divide"),
    ({"type": "LogSoftmax", "axis": 0}, {"image": (4,)}, "axis 0"),
    ({"type": "LogSoftmax", "axis": -2}, {"image": (4,)}, "axis -2"),
    ({"type": "Clip", "min": 1, "max": 0}, {"image": (4,)}, "min 1 is larger than max 0"),
    ({"type": "Log", "base": 1}, {"image": (4,)}, "no power of 1"),
    ({"type": "Exp", "base": 0}, {"image": (4,)}, "base"),
]
