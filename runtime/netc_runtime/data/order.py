"""Orders of samples as pure functions: the same on every machine and with every version of numpy."""

import numpy as np
import numpy.typing as npt


def permutation(seed: int, epoch: int, count: int) -> npt.NDArray[np.intp]:
    """Return a permutation of `count` samples that depends on (seed, epoch) alone.

    Raw bits of Philox are specified by its paper and never change, unlike numpy's own shuffles.
    """
    bits = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(count)
    return np.argsort(bits, kind="stable")
