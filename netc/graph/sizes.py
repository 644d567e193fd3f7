"""How much memory a value takes."""

from math import prod

import onnx_ir as ir

from netc.graph.builder import shape_of

# Operators whose output is, in memory, their first input.
VIEWS = {"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}


def size(value: ir.Value) -> int:
    """Return the bytes of a value of static shape."""
    return prod(int(n) for n in shape_of(value)) * (value.dtype or ir.DataType.FLOAT).numpy().itemsize
