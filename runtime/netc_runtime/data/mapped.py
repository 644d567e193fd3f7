"""Arrays that lie in mapped files: told apart from those in memory, and read without keeping the files in memory.

What is touched of a mapped file counts as memory of the process until the system takes it back. With the large pages of
modern file systems, a few batches of random samples may touch all of a file.
"""

import mmap
import sys
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from netc_runtime.arrays import Array

Indices: TypeAlias = npt.NDArray[np.intp]
"""Which samples of a split a batch is made of."""

KEPT = 256 << 20
"""Bytes of a mapped array up to which all of it may come to lie in memory."""


def is_in_memory(array: object) -> bool:
    """Return whether something is an array, and no view of a mapped file."""
    return isinstance(array, np.ndarray) and _mapping(array) is None


def samples(array: Array, which: Indices | slice) -> Array:
    """Return the samples at indices or of a slice, in the dtype of the data; a large mapped file leaves memory again.

    What a slice gives is a view, unless its file is to leave memory.
    """
    mapping = _mapping(array) if array.nbytes > KEPT else None
    if mapping is None:
        return array[which]
    found = array[which].copy() if isinstance(which, slice) else array[which]
    if sys.platform == "linux" and not array.flags.writeable:  # where this means that the pages are read again
        mapping.madvise(mmap.MADV_DONTNEED)
    return found


def _mapping(array: object) -> mmap.mmap | None:
    """Return the mapped file that an array is a view of."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array if isinstance(array, mmap.mmap) else None
