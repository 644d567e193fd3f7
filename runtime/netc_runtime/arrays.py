"""The one name for arrays, and the element types that an artifact may use."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

# Names as in manifest.json; the value is the name that safetensors uses.
SAFETENSORS_DTYPES = {
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "bool": "BOOL",
}


def first_bad_sample(array: Array) -> int | None:
    """Return the first index along axis 0 that holds a non-finite value, or None; integers are always finite."""
    if not np.issubdtype(array.dtype, np.floating):
        return None
    finite = np.isfinite(array)
    if finite.all():
        return None
    return int(np.argmin(finite.reshape(len(array), -1).all(axis=1)))


def shape_text(shape: tuple[int | str, ...]) -> str:
    """Return a shape as specs write it: `[1, 28, 28]`."""
    return f"[{', '.join(map(str, shape))}]"
