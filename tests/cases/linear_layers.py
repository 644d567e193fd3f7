"""Rows for InnerProduct and Embed."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from tests.cases.domains import Shape, Tensor, Tensors
from tests.cases.layers import LayerCase, Misfit, layer


def inner_product(about: str, fields: dict[str, Any], top: Shape, x: Shape = (3, 4, 5), axis: int = 1) -> LayerCase:
    """Return a row of InnerProduct."""

    def oracle(t: Tensors, train: bool) -> Tensor:
        weight = t["it.weight"].T if fields.get("transpose") else t["it.weight"]
        return F.linear(t["image"].flatten(axis), weight, t.get("it.bias"))

    return layer(about, {"type": "InnerProduct", "num_output": 6, **fields}, top, oracle, {"image": x})


def _fractions(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw numbers that are cut off to 0 ... 6, away from where they jump."""
    return rng.integers(0, 7, shape) + 0.25


LINEAR_CASES: list[LayerCase] = [
    layer(
        "",
        {"type": "InnerProduct", "num_output": 5},
        (5,),
        lambda t, train: F.linear(t["image"].flatten(1), t["it.weight"], t["it.bias"]),
    ),
    layer(
        "of a vector, no bias",
        {"type": "InnerProduct", "num_output": 5, "bias_term": False},
        (5,),
        lambda t, train: F.linear(t["image"], t["it.weight"]),
        {"image": (7,)},
    ),
    inner_product("transposed", {"transpose": True}, (6,)),
    inner_product("transposed, no bias", {"transpose": True, "bias_term": False}, (6,), (7,)),
    inner_product("axis 2", {"axis": 2}, (3, 6), axis=2),
    inner_product("last axis, transposed", {"axis": -1, "transpose": True}, (3, 4, 6), axis=3),
    inner_product("middle axis from the end", {"axis": -2}, (3, 6), axis=2),
    inner_product("first axis from the end", {"axis": -3, "bias_term": False}, (6,), axis=1),
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
]

PLANES: dict[str, Any] = {"image": (4, 6, 5)}
LINEAR_MISFITS: list[Misfit] = [
    ({"type": "InnerProduct", "num_output": 4, "axis": 4}, PLANES, "axis 4"),
    ({"type": "InnerProduct", "num_output": 4, "axis": -4}, PLANES, "axis -4"),
    ({"type": "InnerProduct", "num_output": 4, "weight_filler": "bilinear"}, PLANES, "filler bilinear needs 3 axes"),
    ({"type": "InnerProduct", "num_output": 4, "bias_filler": "identity"}, PLANES, "filler identity needs 2 axes"),
    ({"type": "Embed", "num_output": 4, "input_dim": 2**26}, PLANES, "input_dim 67,108,864"),
]
