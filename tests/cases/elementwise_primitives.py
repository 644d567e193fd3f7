"""Rows for the rules of operators that work element by element."""

from collections.abc import Callable

import onnx_ir as ir
import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from tests.cases.domains import Domain, Shape, Tensor, coin, crossing, normal, positive, separated, ties
from tests.cases.primitive_row import Arg, Primitive, args


def one(op: str, domain: Domain, oracle: Callable[[Tensor], Tensor]) -> Primitive:
    """Return the row of an elementwise operator of one input."""
    return Primitive(op, "", lambda g, x: g.op(op, x), args((3, 5), domain=domain), oracle)


def two(op: str, domain: Domain, oracle: Callable[[Tensor, Tensor], Tensor]) -> list[Primitive]:
    """Return the rows of an elementwise operator of two inputs, with every kind of broadcasting."""
    shapes: dict[str, tuple[Shape, Shape]] = {
        "same": ((3, 4), (3, 4)),
        "left broadcasts": ((1, 4), (3, 4)),
        "right broadcasts": ((3, 4), (3, 1)),
        "both broadcast": ((3, 1, 2), (1, 4, 2)),
        "lower rank": ((4,), (2, 3, 4)),
        "lower rank and ones": ((2, 3, 4), (1, 1)),
        "scalar": ((2, 3), ()),
    }
    return [
        Primitive(op, about, lambda g, x, y: g.op(op, x, y), args(*pair, domain=domain), oracle)
        for about, pair in shapes.items()
    ]


ELEMENTWISE: list[Primitive] = [
    # elementwise, one input
    one("Abs", separated, torch.abs),
    Primitive(
        "Cast",
        "to double and back",
        lambda g, x: g.Cast(g.Exp(g.Cast(x, to=ir.DataType.DOUBLE)), to=g.dtype),
        args((3, 4)),
        torch.exp,
    ),
    Primitive(
        "Clip",
        "both",
        lambda g, x: g.Clip(x, -0.2, 0.14),
        args((5, 6), domain=separated),
        lambda x: x.clamp(-0.2, 0.14),
    ),
    Primitive("Clip", "low", lambda g, x: g.Clip(x, 0.0), args((5, 6), domain=separated), lambda x: x.clamp(min=0.0)),
    Primitive(
        "Clip", "high", lambda g, x: g.Clip(x, None, 0.1), args((5, 6), domain=separated), lambda x: x.clamp(max=0.1)
    ),
    Primitive(
        "Clip",
        "at the bounds",
        lambda g, x: g.Clip(x, 0.0, 1.0),
        args((5, 6), domain=ties),
        lambda x: x.clamp(0.0, 1.0),
        smooth=False,
    ),
    one("Elu", separated, F.elu),
    Primitive(
        "Elu",
        "alpha, at zero",
        lambda g, x: g.Elu(x, alpha=0.3),
        args((5, 6), domain=crossing),
        lambda x: F.elu(x, 0.3),
        smooth=False,
    ),
    one("Erf", normal, torch.erf),
    one("Exp", normal, torch.exp),
    one("Identity", normal, torch.clone),
    one("LeakyRelu", separated, F.leaky_relu),
    Primitive(
        "LeakyRelu",
        "slope, at zero",
        lambda g, x: g.LeakyRelu(x, alpha=-0.25),
        args((5, 6), domain=crossing),
        lambda x: F.leaky_relu(x, -0.25),
        smooth=False,
    ),
    one("Log", positive, torch.log),
    one("Neg", normal, torch.neg),
    one("Reciprocal", positive, torch.reciprocal),
    one("Relu", separated, torch.relu),
    Primitive("Relu", "at zero", lambda g, x: g.Relu(x), args((5, 6), domain=ties), torch.relu, smooth=False),
    one("Sigmoid", normal, torch.sigmoid),
    one("Softplus", normal, F.softplus),
    one("Sqrt", positive, torch.sqrt),
    one("Tanh", normal, torch.tanh),
    # elementwise, several inputs
    *two("Add", normal, torch.add),
    *two("Sub", normal, torch.sub),
    *two("Mul", normal, torch.mul),
    *two("Div", positive, torch.div),
    *two("Pow", positive, torch.pow),
    *two("Max", normal, torch.maximum),
    *two("Min", normal, torch.minimum),
    *two("Sum", normal, torch.add),
    Primitive("Mul", "two readers: a square", lambda g, x: g.Mul(x, x), args((3, 4)), torch.square),
    Primitive(
        "Add",
        "three readers",
        lambda g, x: g.Add(g.Tanh(x), g.Mul(g.Exp(x), x)),
        args((3, 4)),
        lambda x: torch.tanh(x) + torch.exp(x) * x,
    ),
    Primitive("Pow", "constant exponent", lambda g, x: g.Pow(x, 3.0), args((3, 4)), lambda x: x**3),
    *(
        Primitive(op, "three inputs", lambda g, *v, op=op: g.op(op, *v), args((3, 1), (1, 4), (4,)), oracle)
        for op, oracle in (
            ("Max", lambda a, b, c: torch.maximum(torch.maximum(a, b), c)),
            ("Min", lambda a, b, c: torch.minimum(torch.minimum(a, b), c)),
            ("Sum", lambda a, b, c: a + b + c),
        )
    ),
    Primitive("Max", "one input", lambda g, x: g.Max(x), args((3, 4)), torch.clone),
    Primitive(
        "Max", "ties", lambda g, x, y: g.Max(x, y), args((5, 6), (5, 6), domain=ties), torch.maximum, smooth=False
    ),
    Primitive("Min", "ties", lambda g, x, y: g.Min(x, y), args((5, 6), (6,), domain=ties), torch.minimum, smooth=False),
    *(
        Primitive(
            "Where",
            about,
            lambda g, c, x, y: g.Where(c, x, y),
            (Arg(shapes[0], coin, wrt=False), *args(*shapes[1:])),
            torch.where,
        )
        for about, shapes in {
            "same": ((3, 4), (3, 4), (3, 4)),
            "condition broadcasts": ((3, 1), (3, 4), (3, 4)),
            "values broadcast": ((2, 3, 4), (4,), (3, 1)),
            "scalar": ((3, 4), (), (3, 4)),
        }.items()
    ),
]
