"""Rows for the differentiation rules: operators with attributes, shapes, domains and their oracle."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder
from tests.cases.elementwise_primitives import ELEMENTWISE
from tests.cases.linear_primitives import LINEAR
from tests.cases.primitive_row import Primitive, ints
from tests.cases.structure_primitives import STRUCTURE
from tests.cases.window_primitives import WINDOWS

__all__ = ["NO_GRADIENT", "PRIMITIVES", "REFUSED", "Primitive"]

PRIMITIVES: list[Primitive] = [*ELEMENTWISE, *LINEAR, *WINDOWS, *STRUCTURE]

# Operators through which no gradient flows: how a value depends on x through them, and through them alone.
NO_GRADIENT: dict[str, Callable[[GraphBuilder, ir.Value], ir.Value]] = {
    "ArgMax": lambda g, x: g.ArgMax(x, axis=1),
    "Equal": lambda g, x: g.Equal(x, 0.5),
    "Floor": lambda g, x: g.Floor(x),
    "Greater": lambda g, x: g.Greater(x, 0.0),
    "GreaterOrEqual": lambda g, x: g.GreaterOrEqual(x, 0.0),
    "Less": lambda g, x: g.Less(x, 0.0),
    "LessOrEqual": lambda g, x: g.LessOrEqual(x, 0.0),
    "Not": lambda g, x: g.Not(g.Cast(x, to=ir.DataType.BOOL)),
    "Sign": lambda g, x: g.Sign(x),
    "Cast": lambda g, x: g.Cast(x, to=ir.DataType.INT64),
}

# Uses that a rule refuses rather than differentiate wrongly, with a word of the refusal.
REFUSED: list[tuple[str, str, Callable[[GraphBuilder, ir.Value], ir.Value]]] = [
    ("operator without a rule", "no differentiation rule", lambda g, x: g.Sin(x)),
    ("Conv auto_pad", "auto_pad", lambda g, x: g.Conv(x, np.ones((1, 2, 2, 2)), auto_pad="SAME_UPPER")),
    ("AveragePool auto_pad", "auto_pad", lambda g, x: g.AveragePool(x, kernel_shape=[2, 2], auto_pad="SAME_UPPER")),
    ("AveragePool ceil", "ceil_mode", lambda g, x: g.AveragePool(x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)),
    ("MaxPool column-major", "storage_order", lambda g, x: g.MaxPool(x, kernel_shape=[2, 2], storage_order=1)),
    ("MatMul of vectors", "vectors", lambda g, x: g.MatMul(x, np.ones(5))),
    ("Slice with steps", "steps", lambda g, x: g.Slice(x, ints(0), ints(4), ints(2), ints(2))),
    ("Pad of some axes", "padding of all axes", lambda g, x: g.Pad(x, ints(1, 1), None, ints(2))),
    ("Pad negative", "negative padding", lambda g, x: g.Pad(x, ints(0, 0, -1, 0, 0, 0, 0, 0))),
    (
        "ConvTranspose output_shape",
        "output_shape",
        lambda g, x: g.ConvTranspose(x, np.ones((2, 1, 2, 2)), strides=[2, 2], output_shape=[9, 10]),
    ),
]
