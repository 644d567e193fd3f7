"""Arrays of .npy files that somebody else wrote."""

import tokenize
from pathlib import Path
from typing import Any

import numpy as np

from netc_runtime.errors import DamagedFileError, DriverError
from netc_runtime.files import storage_errors

# What numpy raises for headers that somebody made up: they are Python literals of any kind.
HEADER_ERRORS = (
    ValueError,
    ArithmeticError,  # an axis beyond any integer, or a product of axes
    TypeError,
    SyntaxError,
    EOFError,
    MemoryError,
    RecursionError,
    tokenize.TokenError,
)


def map_array(path: Path) -> np.memmap[Any, np.dtype[Any]]:
    """Return the array of real numbers in a .npy file, mapped into memory and not writable.

    Raises DriverError: 1 for values of another kind, or (DamagedFileError) for a file that is no such array, and what
    the storage gives.
    """
    try:
        # Mapped, so that a header claiming more than the file holds fails instead of allocating; and unlike np.load
        # this reads arrays alone, never archives or pickles.
        with storage_errors("read", path), np.errstate(all="raise"):
            array = np.lib.format.open_memmap(path, mode="r")
    except HEADER_ERRORS as error:
        if "Python objects" in str(error):
            raise DriverError(f"{path} holds Python objects; real numbers are needed") from error
        raise DamagedFileError(f"{path} is not an array that numpy can read: {error}") from error
    if array.dtype.kind not in "fiub":
        raise DriverError(f"{path} holds {array.dtype} values; real numbers are needed")
    return array
