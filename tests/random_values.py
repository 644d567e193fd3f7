"""The numbers of random networks: a pure function of a seed and a tensor's name."""

import math
import zlib
from collections.abc import Sequence

import numpy as np

from tests.torch_layers import Moment

VOID = 255  # a label that is no class, in inputs called void...
PLANNED = 83  # updates of every run


def drawn(seed: int, name: str, shape: Sequence[int], classes: int | None = None) -> np.ndarray:
    """Return the numbers of a tensor, which float32 holds exactly; the begin of an input's name tells its domain."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if classes is not None:
        labels = rng.integers(0, classes, shape)
        return np.where(rng.random(shape) < 0.3, VOID, labels) if name.startswith("void") else labels
    if name.startswith(("binary", "similar")):
        return rng.integers(0, 2, shape).astype(np.float64)
    if name.startswith("tokens"):
        return rng.integers(0, 6, shape) + 0.25
    if name.endswith("running_var"):
        values = rng.uniform(0.5, 2.0, shape)
    elif name.startswith("unit"):
        values = rng.uniform(0.05, 0.95, shape)
    else:  # weights such that the sum over the inputs keeps the size of one
        is_weight = name.endswith(".weight") or name.startswith("shared")
        values = rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]) if is_weight else 1)
    return np.asarray(values, np.float32).astype(np.float64)


def moment_of(seed: int) -> Moment:
    """Return when in its run a network is looked at; a few runs go on beyond the plan."""
    rng = np.random.default_rng([seed, 1])
    return Moment(int(rng.integers(0, PLANNED + 10)), PLANNED, int(rng.integers(0, 1000)))
