"""Where the numbers of a case come from, and the words that all tables share."""

import math
from collections.abc import Callable

import numpy as np
import torch

Shape = tuple[int, ...]
Domain = Callable[[np.random.Generator, Shape], np.ndarray]
Tensor = torch.Tensor
Tensors = dict[str, Tensor]

BATCH = 3  # of every layer's row
SEED, STEP = 77, 5  # what rows with randomness draw from


def normal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw from N(0, 1)."""
    return rng.standard_normal(shape)


def positive(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw from [0.5, 2): far from the poles of log, sqrt and division."""
    return rng.uniform(0.5, 2.0, shape)


def separated(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return distinct values 0.02 or more apart and 0.01 or more from 0: kinks are farther away than any step."""
    count = math.prod(shape)
    return rng.permutation((np.arange(count) - count // 2 + 0.5) * 0.02).reshape(shape)


def ties(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw whole numbers with many repetitions, as behind a ReLU."""
    return np.maximum(rng.integers(-2, 3, shape), 0).astype(np.float64)


def crossing(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw from -1, 0 and 1: both sides of a kink at 0, and the kink."""
    return rng.integers(-1, 2, shape).astype(np.float64)


def whole(low: int, high: int) -> Domain:
    """Return a domain of whole numbers in [low, high)."""
    return lambda rng, shape: rng.integers(low, high, shape)


def coin(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw booleans."""
    return rng.integers(0, 2, shape).astype(bool)
