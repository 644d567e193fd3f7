"""Mean and standard deviation of the training split, which programs normalize with where the spec says `computed`."""

import math

import numpy as np

from netc_runtime.arrays import Array
from netc_runtime.artifact import Artifact
from netc_runtime.data.base import Split

ROLES = ("data_mean", "data_std")
_CHUNK_VALUES = 1 << 22  # values that are in memory as float64 at once


def data_statistics(artifact: Artifact, split: Split) -> dict[str, Array]:
    """Return the state that a training split fills: `INPUT.mean` and `INPUT.std`, one number a channel.

    The deviation divides by the number of values; a channel that has one value only has the deviation 1.
    """
    wanted = [spec for spec in artifact.state if spec.role in ROLES]
    fields = {spec.name: spec.field or spec.name for spec in artifact.graph("train").inputs_of("batch")}
    known: dict[str, tuple[Array, Array]] = {}
    found: dict[str, Array] = {}
    for spec in wanted:
        name = spec.name.rpartition(".")[0]
        if name not in known:
            known[name] = channel_moments(split[fields[name]])
        mean, std = known[name]
        found[spec.name] = (mean if spec.role == "data_mean" else std).astype(spec.dtype)
    return found


def channel_moments(values: Array) -> tuple[Array, Array]:
    """Return mean and standard deviation of each channel of `values` [n, C, ...], in float64.

    Chunks are read once and their moments combined (Chan, Golub & LeVeque, 1983), so that data may be larger than
    memory and no large squares are subtracted.
    """
    channels = values.shape[1]
    size = max(_CHUNK_VALUES // max(math.prod(values.shape[1:]), 1), 1)
    count, mean, squares = 0, np.zeros(channels), np.zeros(channels)
    for start in range(0, len(values), size):
        chunk = np.asarray(values[start : start + size], np.float64)
        chunk = np.moveaxis(chunk, 1, 0).reshape(channels, -1)
        own, added = chunk.mean(axis=1), chunk.shape[1]
        away = own - mean
        squares += np.square(chunk - own[:, np.newaxis]).sum(axis=1) + away**2 * (count * added / (count + added))
        count += added
        mean += away * (added / count)
    std = np.sqrt(squares / count)
    return mean, np.where(std > 0.0, std, 1.0)
