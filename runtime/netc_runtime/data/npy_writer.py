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

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: Any) -> None:
        self._path, self._shape, self._dtype = path, shape, np.dtype(dtype)
        self._file: IO[bytes] = path.open("wb")
        self.count = 0
        self._head()

    def add(self, rows: Array) -> None:
        """Append rows [n, *shape]."""
        self._file.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self.count += len(rows)

    def close(self) -> None:
        """Write how many rows there are."""
        self._file.seek(0)
        self._head()
        self._file.close()

    def _head(self) -> None:
        # The header is padded to the same length for any number of rows: numpy leaves room for the first axis.
        shape = (self.count, *self._shape)
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
