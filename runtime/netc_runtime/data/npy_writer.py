"""Writing .npy files row by row, without a mapping: a full disk is then an error and not a signal."""

from pathlib import Path
from typing import IO, Any

import numpy as np

from netc_runtime.arrays import Array


def begin(path: Path, shape: tuple[int, ...], dtype: Any) -> int:
    """Write the header of an array whose rows follow, and return its length in bytes."""
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        return file.tell()


class RowWriter:
    """An array of rows of one shape and dtype in a file, whose number need not be known before the last."""

    def __init__(self, file: IO[bytes], shape: tuple[int, ...], dtype: Any) -> None:
        self._file, self.shape, self.dtype = file, shape, np.dtype(dtype)
        self._count = 0
        self._head()

    def add(self, row: Array) -> None:
        """Append a row."""
        self._file.write(np.ascontiguousarray(row, self.dtype).tobytes())
        self._count += 1

    def finish(self) -> None:
        """Write how many rows there are."""
        self._file.seek(0)
        self._head()

    def _head(self) -> None:
        # numpy pads headers, so that this one keeps its length for any number of rows.
        shape = (self._count, *self.shape)
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
