"""Rows for the fillers: ranges and moments by their formula."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

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
