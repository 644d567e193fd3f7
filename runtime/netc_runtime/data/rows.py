"""Samples that stay in their file: read as they are asked for, chosen and resized without reading the rest."""

from collections.abc import Callable
from typing import Any

import numpy as np

from netc_runtime.arrays import Array
from netc_runtime.data.base import Samples
from netc_runtime.data.mapped import KEPT, Indices, samples

# Pages of a mapped file count as memory of the process until they are given back, and the system maps large neighbours
# of a page with it: so many bytes for a sample that lies alone, at most so many in all.
_NEIGHBOURS = 2 << 20
_HELD = 128 << 20
_CHUNK_BYTES = 64 << 20  # what is read at once where all samples are wanted


class Rows:
    """Samples [n, ...] of a dtype that a function reads, given their indices: `Samples` without an array."""

    def __init__(self, read: Callable[[Indices], Array], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._read = read
        self.shape = shape
        self.dtype = dtype

    @property
    def ndim(self) -> int:
        """Number of axes, with that of the samples."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of all samples in memory."""
        return int(np.prod(self.shape, dtype=np.float64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any, /) -> Any:
        if isinstance(key, int | np.integer):
            return self._read(self._checked(np.array([key])))[0]
        if isinstance(key, slice):
            return self._read(np.arange(*key.indices(len(self))))
        indices = np.asarray(key)
        return self._read(np.flatnonzero(indices) if indices.dtype == np.bool_ else self._checked(indices))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        result = np.empty(self.shape, dtype or self.dtype)
        size = max(_CHUNK_BYTES * len(self) // max(self.nbytes, 1), 1)
        for start in range(0, len(self), size):
            result[start : start + size] = self[start : start + size]
        return result

    def _checked(self, indices: Array) -> Indices:
        if indices.size and not (-len(self) <= indices.min() and indices.max() < len(self)):
            raise IndexError(f"samples are 0 to {len(self) - 1}")
        return np.where(indices < 0, indices + len(self), indices).astype(np.intp)


def mapped(array: "np.memmap[Any, np.dtype[Any]]") -> Samples:
    """Return the samples of a mapped file: the array itself if it is small, else read without being kept in memory."""
    if array.nbytes <= KEPT:
        return array
    sample = array.nbytes // len(array)

    def read(indices: Indices) -> Array:
        result = np.empty((len(indices), *array.shape[1:]), array.dtype)
        follow = bool((np.diff(indices) == 1).all())
        size = max(_HELD // (sample if follow else sample + _NEIGHBOURS), 1)
        for start in range(0, len(indices), size):
            wanted = indices[start : start + size]
            result[start : start + size] = samples(array, slice(wanted[0], wanted[-1] + 1) if follow else wanted)
        return result

    return Rows(read, array.shape, array.dtype)


def select(field: Samples, indices: Indices) -> Samples:
    """Return some of the samples, in the order of `indices`: a copy of an array, else a view."""
    if isinstance(field, np.ndarray):
        chosen: Array = np.asarray(field)[indices]
        return chosen
    return Rows(lambda wanted: field[indices[wanted]], (len(indices), *field.shape[1:]), field.dtype)


def changed(field: Samples, change: Callable[[Array], Array]) -> Samples:
    """Return samples with a function applied to them as they are read; it keeps their number."""
    first = change(field[:1])
    return Rows(lambda wanted: change(field[wanted]), (len(field), *first.shape[1:]), first.dtype)
