"""Mean and standard deviation of the training split, which programs normalize with where the spec says `computed`."""

import numpy as np

from netc_runtime.arrays import Array
from netc_runtime.artifact import Artifact
from netc_runtime.data.base import Split
from netc_runtime.data.moments import channel_moments

ROLES = ("data_mean", "data_std")


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
            moments = channel_moments(split[fields[name]])
            known[name] = moments.mean, np.where(moments.std > 0.0, moments.std, 1.0)
        mean, std = known[name]
        found[spec.name] = (mean if spec.role == "data_mean" else std).astype(spec.dtype)
    return found
