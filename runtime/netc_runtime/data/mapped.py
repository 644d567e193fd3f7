"""Arrays that lie in files: told apart from those in memory, and read without keeping the file in memory.

What is touched of a mapped file counts as the process's memory until the system takes it back, and with the large pages
of modern file systems one batch of random samples may touch the whole file. So samples of large arrays are read from
the file instead.
"""

import os
import sys
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from netc_runtime.arrays import Array
from netc_runtime.errors import DamagedFileError
from netc_runtime.files import storage_errors

Indices: TypeAlias = npt.NDArray[np.intp]
"""Which samples of a split a batch is made of."""

KEPT = 256 << 20
"""Bytes of a mapped array up to which all of it may come to lie in memory."""


def is_in_memory(array: Array) -> bool:
    """Return whether an array is an array, and no view of a mapped file."""
    return isinstance(array, np.ndarray) and _mapping(array) is None


def is_small(array: Array) -> bool:
    """Return whether using an array takes no memory worth mentioning beyond what it takes already."""
    return isinstance(array, np.ndarray) and (_mapping(array) is None or array.nbytes <= KEPT)


def samples(array: Array, indices: Indices | slice) -> Array:
    """Return the samples at `indices`, or of a slice without a step, in the dtype of the data.

    The result is a view where that takes no memory. Raises DriverError if a large file can no longer be read.
    """
    if sys.platform == "win32" or is_small(array) or not isinstance(array, np.ndarray):
        return array[indices]
    mapping = _mapping(array)
    if mapping is None or mapping.filename is None or not array[:1].flags.c_contiguous:
        return array[indices]
    first = mapping.offset + array.ctypes.data - mapping.ctypes.data
    path, step = Path(mapping.filename), array.strides[0]
    if isinstance(indices, slice):
        start, stop, _ = indices.indices(len(array))
        if not array.flags.c_contiguous or stop <= start:
            return array[indices]
        found = np.empty((stop - start, *array.shape[1:]), array.dtype)
        _read(path, [(found.reshape(1, -1).view(np.uint8)[0], first + start * step)])
        return found
    found = np.empty((len(indices), *array.shape[1:]), array.dtype)
    rows = found.reshape(len(found), -1).view(np.uint8)
    # In the order of the file, which spares a disk some of its way.
    _read(path, [(rows[place], first + int(indices[place]) * step) for place in np.argsort(indices)])
    return found


def _read(path: Path, wanted: list[tuple[npt.NDArray[np.uint8], int]]) -> None:
    """Fill arrays with the bytes of a file from an offset on."""
    assert sys.platform != "win32"
    with storage_errors("read", path), path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        for target, offset in wanted:
            rest = target.data
            while rest:
                count = os.preadv(descriptor, [rest], offset)
                if count == 0:
                    raise DamagedFileError(f"{path} has become shorter while it was read; restore it")
                rest, offset = rest[count:], offset + count


def _mapping(array: Array) -> np.memmap[Any, Any] | None:
    """Return the mapped array that an array is a view of, itself perhaps; None if it lies in memory."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array if isinstance(array, np.memmap) else None
