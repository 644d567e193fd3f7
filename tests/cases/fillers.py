"""Rows for the fillers: ranges and moments by their formula."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tests.cases.domains import Shape


@dataclass(frozen=True)
class FillerCase:
    """A filler as the user writes it, a large shape, and the distribution function of its values."""

    given: dict[str, Any]
    shape: Shape
    mean: float
    std: float
    cumulative: Callable[[np.ndarray], np.ndarray] | None  # None: a constant

    @property
    def id(self) -> str:
        """Return the name of the test."""
        return "-".join(str(value) for value in self.given.values())


def _uniform(given: dict[str, Any], shape: Shape, low: float, high: float) -> FillerCase:
    width = high - low
    return FillerCase(given, shape, (low + high) / 2, width / 12**0.5, lambda x: np.clip((x - low) / width, 0.0, 1.0))


def _gaussian(given: dict[str, Any], shape: Shape, mean: float, std: float) -> FillerCase:
    erf = np.vectorize(math.erf)
    return FillerCase(given, shape, mean, std, lambda x: (1 + erf((x - mean) / (std * 2**0.5))) / 2)


WEIGHT = (64, 32, 5, 5)  # fan_in 800, fan_out 1600
FANS = {"fan_in": 800.0, "fan_out": 1600.0, "average": 1200.0}

FILLER_CASES: list[FillerCase] = [
    FillerCase({"type": "constant"}, (3, 4), 0.0, 0.0, None),
    FillerCase({"type": "constant", "value": 0.2}, (3, 4), 0.2, 0.0, None),
    _uniform({"type": "uniform"}, WEIGHT, 0.0, 1.0),
    _uniform({"type": "uniform", "min": -0.5, "max": 0.25}, WEIGHT, -0.5, 0.25),
    _gaussian({"type": "gaussian"}, WEIGHT, 0.0, 1.0),
    _gaussian({"type": "gaussian", "mean": 3.0, "std": 0.05}, WEIGHT, 3.0, 0.05),
    _uniform({"type": "xavier"}, WEIGHT, -((3 / 800) ** 0.5), (3 / 800) ** 0.5),
    _gaussian({"type": "msra"}, WEIGHT, 0.0, (2 / 800) ** 0.5),
    *(
        _uniform({"type": "xavier", "variance_norm": norm}, WEIGHT, -((3 / fan) ** 0.5), (3 / fan) ** 0.5)
        for norm, fan in FANS.items()
    ),
    *(_gaussian({"type": "msra", "variance_norm": norm}, WEIGHT, 0.0, (2 / fan) ** 0.5) for norm, fan in FANS.items()),
    _uniform({"type": "xavier", "variance_norm": "fan_out"}, (50_000,), -((3 / 50_000) ** 0.5), (3 / 50_000) ** 0.5),
]


@dataclass(frozen=True)
class FormulaCase:
    """A filler whose values hang together, and what its formula makes of uniform draws from [0, 1) of its shape."""

    given: dict[str, Any]
    shape: Shape
    holds: Callable[[np.ndarray, np.ndarray], bool]

    @property
    def id(self) -> str:
        """Return the name of the test."""
        return f"{'-'.join(str(value) for value in self.given.values())}-{'x'.join(map(str, self.shape))}"


def _interpolates(factor: int) -> Callable[[np.ndarray, np.ndarray], bool]:
    """Return whether a depthwise transposed convolution upsamples as PyTorch does, away from the border."""

    def holds(w: np.ndarray, uniform: np.ndarray) -> bool:
        axes = w.ndim - 2
        x = torch.from_numpy(np.random.default_rng(1).standard_normal((1, w.shape[0], *[5] * axes)))
        function: Callable[..., torch.Tensor] = getattr(torch.nn.functional, f"conv_transpose{axes}d")
        y = function(x, torch.from_numpy(w), stride=factor, padding=factor // 2, groups=w.shape[0])
        mode = ("linear", "bilinear", "trilinear")[axes - 1]
        expected = torch.nn.functional.interpolate(x, scale_factor=float(factor), mode=mode, align_corners=False)
        inside = torch.nn.functional.pad(torch.ones([3] * axes), [1] * (2 * axes)).bool()
        for axis in range(axes):
            inside = inside.repeat_interleave(factor, axis)
        return bool(((y - expected)[:, :, inside].abs() < 1e-12).all())

    return holds


def _orthogonal(gain: float) -> Callable[[np.ndarray, np.ndarray], bool]:
    def holds(w: np.ndarray, uniform: np.ndarray) -> bool:
        matrix = w.reshape(len(w), -1)
        product = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
        return bool(np.allclose(product, gain**2 * np.eye(len(product)), rtol=0.0, atol=1e-12))

    return holds


def _shares(w: np.ndarray, uniform: np.ndarray) -> bool:
    return bool(np.allclose(w, uniform / uniform.sum(tuple(range(1, w.ndim)), keepdims=True), rtol=1e-12, atol=0.0))


def _passes(w: np.ndarray, uniform: np.ndarray) -> bool:
    """Whether a layer with these weights gives its first inputs unchanged, and 0 for outputs beyond them."""
    axes, (outs, ins) = w.ndim - 2, w.shape[:2]
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((2, ins, *[5] * axes)))
    if not axes:
        y = x @ torch.from_numpy(w).T
    else:
        function: Callable[..., torch.Tensor] = getattr(torch.nn.functional, f"conv{axes}d")
        y = function(x, torch.from_numpy(w), padding=[k // 2 for k in w.shape[2:]])
    both = min(outs, ins)
    return bool(torch.equal(y[:, :both], x[:, :both]) and not y[:, both:].any())


FORMULA_CASES: list[FormulaCase] = [
    FormulaCase({"type": "positive_unitball"}, (6, 40), _shares),
    FormulaCase({"type": "positive_unitball"}, (4, 3, 5, 5), _shares),
    FormulaCase({"type": "bilinear"}, (3, 1, 4), _interpolates(2)),
    FormulaCase({"type": "bilinear"}, (3, 1, 4, 4), _interpolates(2)),
    FormulaCase({"type": "bilinear"}, (2, 1, 5, 5), _interpolates(3)),
    FormulaCase({"type": "bilinear"}, (2, 1, 8, 8), _interpolates(4)),
    FormulaCase({"type": "bilinear"}, (2, 1, 4, 4, 4), _interpolates(2)),
    FormulaCase({"type": "orthogonal"}, (20, 20), _orthogonal(1.0)),
    FormulaCase({"type": "orthogonal"}, (30, 7), _orthogonal(1.0)),
    FormulaCase({"type": "orthogonal", "gain": 2.0}, (8, 4, 3, 3), _orthogonal(2.0)),
    FormulaCase({"type": "identity"}, (4, 4), _passes),
    FormulaCase({"type": "identity"}, (3, 5), _passes),
    FormulaCase({"type": "identity"}, (6, 4, 3, 5), _passes),
]
