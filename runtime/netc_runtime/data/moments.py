"""Mean, standard deviation and range of the values of a field, which may be larger than memory."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from netc_runtime.arrays import Array
from netc_runtime.data.base import Samples

_CHUNK_VALUES = 1 << 22  # values that are in memory as float64 at once

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """What the values of each channel have in common, [C] each; the deviation divides by the number of values."""

    mean: Vector
    std: Vector
    least: Vector
    largest: Vector


def channel_moments(values: Samples) -> Moments:
    """Return the moments of each channel of `values` [n, C, ...], in float64.

    Chunks are read once and their moments combined (Chan, Golub & LeVeque, 1983), so that no large squares are
    subtracted.
    """
    channels = values.shape[1]
    count, mean, squares = 0, np.zeros(channels), np.zeros(channels)
    least, largest = np.full(channels, np.inf), np.full(channels, -np.inf)
    for part in parts(values):
        chunk = np.moveaxis(part.astype(np.float64), 1, 0).reshape(channels, -1)
        own, added = chunk.mean(axis=1), chunk.shape[1]
        away = own - mean
        squares += np.square(chunk - own[:, np.newaxis]).sum(axis=1) + away**2 * (count * added / (count + added))
        count += added
        mean += away * (added / count)
        least, largest = np.minimum(least, chunk.min(axis=1)), np.maximum(largest, chunk.max(axis=1))
    return Moments(mean, np.sqrt(squares / count), least, largest)


def parts(field: Samples) -> Iterator[Array]:
    """Yield all samples in order, as many at once as memory has room for."""
    size = max(_CHUNK_VALUES // max(math.prod(field.shape[1:]), 1), 1)
    for start in range(0, len(field), size):
        yield np.asarray(field[start : start + size])
