"""The one table of cases: rows for primitives, layers, fillers, policies, schedules and solvers.

A row says how to build, the shapes and the domain of its inputs, and its oracle: PyTorch in float64, or numpy; geometry
that matters has rows of its own. What a row drives stands in test_vjp, test_layers, test_fillers and test_solver, where
a member of a family without a row fails.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from netc.graph import GraphBuilder
from tests.numpy_rng import keep_mask

Shape = tuple[int, ...]
Domain = Callable[[np.random.Generator, Shape], np.ndarray]
Tensor = torch.Tensor
Tensors = dict[str, Tensor]

BATCH = 3  # of every layer's row
SEED, STEP = 77, 5  # what rows with randomness draw from


# -- domains ---------------------------------------------------------------------------------------------


def normal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw from N(0, 1)."""
    return rng.standard_normal(shape)


def positive(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw from [0.5, 2): far from the poles of log, sqrt and division."""
    return rng.uniform(0.5, 2.0, shape)


def separated(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return distinct values 0.02 or more apart and 0.01 or more from 0: kinks are farther away than any step."""
    count = math.prod(shape)
    return rng.permutation((np.arange(count) - count // 2 + 0.5) * 0.02).reshape(shape)


def ties(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw whole numbers with many repetitions, as behind a ReLU."""
    return np.maximum(rng.integers(-2, 3, shape), 0).astype(np.float64)


def whole(low: int, high: int) -> Domain:
    """Return a domain of whole numbers in [low, high)."""
    return lambda rng, shape: rng.integers(low, high, shape)


def coin(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw booleans."""
    return rng.integers(0, 2, shape).astype(bool)


# -- primitives ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arg:
    """An input of a row; `wrt` says whether the row differentiates by it."""

    shape: Shape
    domain: Domain = normal
    wrt: bool = True

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Return float64 values that float32 holds exactly, so that both precisions see the same input."""
        value = self.domain(rng, self.shape)
        return value if value.dtype.kind != "f" else value.astype(np.float32).astype(np.float64)


@dataclass(frozen=True)
class Primitive:
    """One use of an operator: what to build of the inputs, and the same in PyTorch."""

    op: str
    about: str
    build: Callable[..., ir.Value]
    args: tuple[Arg, ...]
    oracle: Callable[..., Tensor]
    smooth: bool = True  # False: at a kink on purpose, where central differences mean nothing

    @property
    def id(self) -> str:
        """Return the name of the test."""
        return f"{self.op}-{self.about}" if self.about else self.op


def args(*shapes: Shape, domain: Domain = normal) -> tuple[Arg, ...]:
    """Return differentiable inputs of one domain."""
    return tuple(Arg(shape, domain) for shape in shapes)


def ints(*values: int) -> np.ndarray:
    """Return a constant operand such as axes."""
    return np.array(values, np.int64)


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


def conv(about: str, x: Shape, w: Shape, group: int = 1, bias: bool = True, **geometry: Sequence[int]) -> Primitive:
    """Return a row of Conv; pads are given as all begins, then all ends."""
    axes = len(x) - 2
    pads = geometry.get("pads") or [0] * (2 * axes)
    function: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]

    def oracle(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        # F.pad takes the last axis first, so that asymmetric padding is the oracle's own business.
        widths = [n for i in reversed(range(axes)) for n in (pads[i], pads[i + axes])]
        return function(
            F.pad(x, widths),
            w,
            b,
            stride=tuple(geometry.get("strides", [1] * axes)),
            dilation=tuple(geometry.get("dilations", [1] * axes)),
            groups=group,
        )

    shapes = [x, w, (w[0],)] if bias else [x, w]
    return Primitive("Conv", about, lambda g, *v: g.Conv(*v, group=group, **geometry), args(*shapes), oracle)


def transposed(
    about: str, x: Shape, w: Shape, group: int = 1, bias: bool = True, **geometry: Sequence[int]
) -> Primitive:
    """Return a row of ConvTranspose; pads are symmetric, as PyTorch has them."""
    axes = len(x) - 2
    function: Callable[..., Tensor] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]

    def oracle(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return function(
            x,
            w,
            b,
            stride=tuple(geometry.get("strides", [1] * axes)),
            padding=tuple(geometry.get("pads", [0] * axes)[:axes]),
            output_padding=tuple(geometry.get("output_padding", [0] * axes)),
            dilation=tuple(geometry.get("dilations", [1] * axes)),
            groups=group,
        )

    shapes = [x, w, (w[1] * group,)] if bias else [x, w]
    return Primitive(
        "ConvTranspose", about, lambda g, *v: g.ConvTranspose(*v, group=group, **geometry), args(*shapes), oracle
    )


def max_pool(about: str, x: Shape, kernel: Sequence[int], domain: Domain = separated, **geometry: Any) -> Primitive:
    """Return a row of MaxPool."""
    axes = len(kernel)
    function: Callable[..., Tensor] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[axes - 1]
    pads = geometry.get("pads") or [0] * (2 * axes)

    def oracle(x: Tensor) -> Tensor:
        widths = [n for i in reversed(range(axes)) for n in (pads[i], pads[i + axes])]
        return function(
            F.pad(x, widths, value=-math.inf),
            tuple(kernel),
            tuple(geometry.get("strides", [1] * axes)),
            dilation=tuple(geometry.get("dilations", [1] * axes)),
            ceil_mode=bool(geometry.get("ceil_mode", 0)),
        )

    return Primitive(
        "MaxPool",
        about,
        lambda g, x: g.MaxPool(x, kernel_shape=kernel, **geometry),
        args(x, domain=domain),
        oracle,
        smooth=domain is not ties,
    )


def average_pool(about: str, x: Shape, kernel: Sequence[int], **geometry: Any) -> Primitive:
    """Return a row of AveragePool: in PyTorch the sum over each window, divided by its number of counted cells."""
    axes = len(kernel)
    function: Callable[..., Tensor] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[axes - 1]
    pads = geometry.get("pads") or [0] * (2 * axes)
    strides = tuple(geometry.get("strides", [1] * axes))
    widths = [n for i in reversed(range(axes)) for n in (pads[i], pads[i + axes])]

    def oracle(x: Tensor) -> Tensor:
        inside = F.pad(torch.ones_like(x), widths, value=float(geometry.get("count_include_pad", 0)))
        return function(F.pad(x, widths), tuple(kernel), strides) / function(inside, tuple(kernel), strides)

    return Primitive(
        "AveragePool", about, lambda g, x: g.AveragePool(x, kernel_shape=kernel, **geometry), args(x), oracle
    )


def batch_norm(about: str, shape: Shape, training: bool) -> Primitive:
    """Return a row of BatchNormalization: x, scale, bias, mean and variance."""
    channel = (shape[1],)
    statistics = Arg(channel, wrt=False), Arg(channel, positive, wrt=False)

    def build(g: GraphBuilder, *v: ir.Value) -> ir.Value:
        if not training:
            return g.BatchNormalization(*v, epsilon=1e-3)
        return g.ops("BatchNormalization", *v, num_outputs=3, training_mode=1, momentum=0.0, epsilon=1e-3)[0]

    def oracle(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        return F.batch_norm(x, mean.clone(), var.clone(), scale, bias, training=training, eps=1e-3)

    about = f"{about}, {'training' if training else 'inference'}"
    return Primitive("BatchNormalization", about, build, (*args(shape, channel, channel), *statistics), oracle)


def gemm(about: str, a: Shape, b: Shape, c: Shape | None, **attributes: Any) -> Primitive:
    """Return a row of Gemm."""

    def oracle(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = a.T if attributes.get("transA") else a, b.T if attributes.get("transB") else b
        alpha, beta = float(attributes.get("alpha", 1.0)), float(attributes.get("beta", 1.0))
        return alpha * (a @ b) if c is None else alpha * (a @ b) + beta * c

    shapes = [a, b] if c is None else [a, b, c]
    return Primitive("Gemm", about, lambda g, *v: g.Gemm(*v, **attributes), args(*shapes), oracle)


def reductions(op: str, domain: Domain, oracle: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> list[Primitive]:
    """Return the rows of a reduction: over some axes, negative axes, all axes, with and without kept ones."""
    choices: dict[str, tuple[tuple[int, ...] | None, int]] = {
        "one axis": ((1,), 1),
        "dropped axis": ((1,), 0),
        "negative axes": ((-1, 0), 0),
        "unsorted kept axes": ((2, 0), 1),
        "all axes": (None, 0),
    }
    return [
        Primitive(
            op,
            about,
            lambda g, x, axes=axes, keep=keep: g.op(op, x, None if axes is None else ints(*axes), keepdims=keep),
            args((2, 3, 4), domain=domain),
            lambda x, axes=axes, keep=keep: oracle(x, (0, 1, 2) if axes is None else axes, bool(keep)),
        )
        for about, (axes, keep) in choices.items()
    ]


PRIMITIVES: list[Primitive] = [
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
    one("Erf", normal, torch.erf),
    one("Exp", normal, torch.exp),
    one("Identity", normal, torch.clone),
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
    # linear algebra
    conv("plain", (2, 3, 6, 5), (4, 3, 3, 2)),
    conv("no bias", (2, 3, 6, 5), (4, 3, 3, 2), bias=False),
    conv("padded", (2, 3, 5, 5), (4, 3, 3, 3), pads=[1, 2, 1, 2]),
    conv("padded unevenly", (2, 2, 5, 4), (3, 2, 3, 2), pads=[0, 1, 2, 0]),
    conv("strided", (2, 2, 7, 7), (3, 2, 3, 3), strides=[2, 2]),
    conv("strided, last rows unreached", (2, 2, 8, 9), (3, 2, 3, 2), strides=[2, 3]),
    conv("stride beyond kernel", (2, 2, 8, 9), (3, 2, 1, 2), strides=[3, 4]),
    conv("dilated", (2, 2, 8, 7), (3, 2, 3, 2), dilations=[2, 3]),
    conv(
        "dilated, strided, padded, unreached",
        (2, 2, 9, 8),
        (3, 2, 3, 2),
        dilations=[2, 2],
        strides=[3, 2],
        pads=[1, 1, 1, 2],
    ),
    conv("grouped", (2, 4, 6, 6), (6, 2, 3, 3), group=2, pads=[1, 1, 1, 1]),
    conv("grouped, strided, unreached", (3, 6, 6, 7), (3, 2, 3, 3), group=3, strides=[2, 3]),
    conv("depthwise", (2, 4, 5, 5), (4, 1, 3, 3), group=4),
    conv("one by one", (2, 3, 4, 4), (5, 3, 1, 1)),
    conv("one by one, strided", (2, 3, 4, 4), (5, 3, 1, 1), strides=[2, 2]),
    conv("whole plane", (2, 3, 4, 4), (5, 3, 4, 4)),
    conv("1-D", (2, 3, 9), (4, 3, 3), strides=[2], pads=[1, 0]),
    conv("1-D grouped", (2, 4, 9), (4, 2, 3), group=2, dilations=[2]),
    conv("3-D", (2, 2, 4, 5, 4), (3, 2, 2, 3, 2), strides=[1, 2, 2], pads=[1, 0, 0, 0, 1, 0]),
    conv("3-D grouped", (1, 4, 4, 4, 5), (4, 2, 2, 2, 2), group=2, strides=[2, 2, 2]),
    transposed("plain", (2, 3, 4, 3), (3, 4, 3, 2)),
    transposed("no bias", (2, 3, 4, 3), (3, 4, 3, 2), bias=False),
    transposed("strided", (2, 3, 4, 3), (3, 2, 3, 3), strides=[2, 2]),
    transposed(
        "strided, padded, with output padding",
        (2, 3, 4, 3),
        (3, 2, 3, 3),
        strides=[2, 3],
        pads=[1, 1, 1, 1],
        output_padding=[1, 2],
    ),
    transposed("dilated", (2, 2, 4, 4), (2, 3, 3, 2), dilations=[2, 2]),
    transposed("grouped", (2, 4, 4, 3), (4, 3, 3, 3), group=2, strides=[2, 2], pads=[1, 1, 1, 1]),
    transposed("1-D", (2, 3, 5), (3, 2, 3), strides=[2]),
    transposed("3-D", (1, 2, 3, 3, 2), (2, 2, 2, 2, 2), strides=[2, 1, 1]),
    *(
        gemm(
            f"{'A^T' if ta else 'A'} {'B^T' if tb else 'B'}",
            (3, 2) if ta else (2, 3),
            (4, 3) if tb else (3, 4),
            (4,),
            transA=ta,
            transB=tb,
            alpha=0.5,
            beta=-2.0,
        )
        for ta in (0, 1)
        for tb in (0, 1)
    ),
    gemm("no bias", (2, 3), (3, 4), None),
    gemm("full bias", (2, 3), (3, 4), (2, 4)),
    gemm("column bias", (2, 3), (3, 4), (2, 1)),
    gemm("scalar bias", (2, 3), (3, 4), ()),
    *(
        Primitive("MatMul", about, lambda g, a, b: g.MatMul(a, b), args(*shapes), torch.matmul)
        for about, shapes in {
            "matrices": ((2, 3), (3, 4)),
            "batches": ((5, 2, 3), (5, 3, 4)),
            "left broadcasts": ((2, 3), (5, 3, 4)),
            "both broadcast": ((2, 1, 2, 3), (3, 3, 4)),
        }.items()
    ),
    # pooling, normalization
    average_pool("apart", (2, 3, 4, 6), [2, 2], strides=[2, 2]),
    average_pool("overlapping", (2, 3, 6, 5), [3, 2], strides=[1, 1]),
    average_pool("last rows unreached", (2, 2, 6, 8), [3, 2], strides=[2, 3]),
    average_pool("padded, padding not counted", (2, 2, 5, 6), [3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    average_pool(
        "padded, padding counted", (2, 2, 5, 6), [3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1
    ),
    average_pool("padded at the ends", (2, 2, 6, 6), [3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
    average_pool("1-D", (2, 3, 7), [3], strides=[2]),
    average_pool("3-D", (1, 2, 4, 4, 5), [2, 2, 3], strides=[2, 1, 2]),
    Primitive(
        "GlobalAveragePool",
        "",
        lambda g, x: g.GlobalAveragePool(x),
        args((2, 3, 4, 5)),
        lambda x: x.mean((2, 3), keepdim=True),
    ),
    Primitive(
        "GlobalAveragePool",
        "1-D",
        lambda g, x: g.GlobalAveragePool(x),
        args((2, 3, 4)),
        lambda x: x.mean(2, keepdim=True),
    ),
    max_pool("apart", (2, 3, 4, 6), [2, 2], strides=[2, 2]),
    max_pool("overlapping", (2, 3, 7, 7), [3, 3], strides=[2, 2]),
    max_pool("overlapping densely", (2, 2, 5, 6), [3, 2], strides=[1, 1]),
    max_pool("overlapping along one axis", (2, 2, 6, 6), [2, 3], strides=[2, 2]),
    max_pool("last rows unreached", (2, 2, 8, 8), [2, 2], strides=[3, 3]),
    max_pool("padded", (2, 3, 5, 5), [3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    max_pool("padded at the ends", (2, 2, 6, 6), [3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
    max_pool("ceil", (2, 2, 6, 7), [3, 2], strides=[2, 2], ceil_mode=1),
    max_pool("dilated", (2, 2, 7, 7), [3, 2], strides=[3, 1], dilations=[2, 3]),
    max_pool("dilated, windows interleave", (2, 2, 8, 8), [2, 2], strides=[2, 2], dilations=[2, 2]),
    max_pool("ties", (2, 3, 7, 7), [3, 3], ties, strides=[2, 2], pads=[1, 1, 1, 1]),
    max_pool("ties, apart", (2, 3, 6, 6), [2, 2], ties, strides=[2, 2]),
    max_pool("ties, apart, larger", (2, 3, 9, 8), [3, 4], ties, strides=[3, 4]),
    max_pool("ties, apart, unreached", (2, 3, 7, 8), [2, 3], ties, strides=[2, 3]),
    max_pool("ties, apart, padded", (2, 3, 6, 7), [2, 3], ties, strides=[2, 3], pads=[1, 1, 1, 1]),
    max_pool("1-D", (2, 3, 9), [3], strides=[2]),
    max_pool("1-D, apart", (2, 3, 8), [2], ties, strides=[2]),
    max_pool("3-D, apart", (1, 2, 4, 4, 6), [2, 2, 3], ties, strides=[2, 2, 3]),
    max_pool("3-D", (1, 2, 5, 5, 4), [3, 2, 2], strides=[2, 2, 1]),
    *(
        batch_norm(about, shape, mode)
        for about, shape in {"4-D": (3, 2, 4, 3), "2-D": (6, 3), "3-D": (3, 2, 4)}.items()
        for mode in (True, False)
    ),
    *(
        Primitive(
            op,
            f"axis {axis}",
            lambda g, x, op=op, axis=axis: g.op(op, x, axis=axis),
            args((2, 4, 3)),
            lambda x, f=f, axis=axis: f(x, axis),
        )
        for op, f in (("Softmax", torch.softmax), ("LogSoftmax", torch.log_softmax))
        for axis in (1, -1)
    ),
    # reductions
    *reductions("ReduceSum", normal, lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    *reductions("ReduceMean", normal, lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    *reductions("ReduceMax", separated, lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    *reductions("ReduceMin", separated, lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    *(
        Primitive(
            op,
            "no axes: noop",
            lambda g, x, op=op: g.op(op, x, noop_with_empty_axes=1, keepdims=0),
            args((2, 3)),
            torch.clone,
        )
        for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin")
    ),
    *(
        Primitive(
            op,
            "ties",
            lambda g, x, op=op: g.op(op, x, ints(1), keepdims=0),
            args((5, 6), domain=ties),
            lambda x, f=f: f(x, 1),
            smooth=False,
        )
        for op, f in (("ReduceMax", torch.amax), ("ReduceMin", torch.amin))
    ),
    # structure
    Primitive(
        "Concat", "", lambda g, *v: g.Concat(*v, axis=1), args((2, 3), (2, 1), (2, 4)), lambda *v: torch.cat(v, 1)
    ),
    Primitive(
        "Concat",
        "negative axis",
        lambda g, *v: g.Concat(*v, axis=-2),
        args((2, 3, 4), (2, 1, 4)),
        lambda *v: torch.cat(v, 1),
    ),
    Primitive(
        "Concat", "one value twice", lambda g, x: g.Concat(x, x, axis=0), args((2, 3)), lambda x: torch.cat([x, x])
    ),
    Primitive("Expand", "ones", lambda g, x: g.Expand(x, ints(2, 3, 4)), args((2, 1, 4)), lambda x: x.expand(2, 3, 4)),
    Primitive("Expand", "rank", lambda g, x: g.Expand(x, ints(2, 3, 4)), args((3, 1)), lambda x: x.expand(2, 3, 4)),
    Primitive(
        "Expand", "narrower shape", lambda g, x: g.Expand(x, ints(1, 4)), args((2, 3, 1)), lambda x: x.expand(2, 3, 4)
    ),
    Primitive("Flatten", "", lambda g, x: g.Flatten(x, axis=2), args((2, 3, 4)), lambda x: x.reshape(6, 4)),
    Primitive(
        "Flatten", "negative axis", lambda g, x: g.Flatten(x, axis=-2), args((2, 3, 4)), lambda x: x.reshape(2, 12)
    ),
    Primitive("Pad", "", lambda g, x: g.Pad(x, ints(0, 1, 2, 3)), args((2, 3)), lambda x: F.pad(x, (1, 3, 0, 2))),
    Primitive(
        "Pad",
        "value",
        lambda g, x: g.Pad(x, ints(1, 0, 0, 2), 1.5),
        args((2, 3)),
        lambda x: F.pad(x, (0, 2, 1, 0), value=1.5),
    ),
    Primitive("Reshape", "", lambda g, x: g.Reshape(x, ints(4, -1)), args((2, 3, 2)), lambda x: x.reshape(4, 3)),
    Primitive("Slice", "", lambda g, x: g.Slice(x, ints(1), ints(3), ints(1)), args((2, 4)), lambda x: x[:, 1:3]),
    Primitive(
        "Slice", "without axes", lambda g, x: g.Slice(x, ints(0, 1), ints(1, 9)), args((2, 4, 2)), lambda x: x[:1, 1:]
    ),
    Primitive(
        "Slice",
        "from the end",
        lambda g, x: g.Slice(x, ints(-3), ints(-1), ints(-1)),
        args((2, 4)),
        lambda x: x[:, -3:-1],
    ),
    Primitive("Squeeze", "", lambda g, x: g.Squeeze(x, ints(1)), args((2, 1, 3)), lambda x: x.squeeze(1)),
    Primitive("Squeeze", "all", lambda g, x: g.Squeeze(x), args((1, 2, 1, 3)), torch.squeeze),
    Primitive(
        "Transpose", "", lambda g, x: g.Transpose(x, perm=[1, 2, 0]), args((2, 3, 4)), lambda x: x.permute(1, 2, 0)
    ),
    Primitive("Transpose", "reversed", lambda g, x: g.Transpose(x), args((2, 3, 4)), lambda x: x.permute(2, 1, 0)),
    Primitive("Unsqueeze", "", lambda g, x: g.Unsqueeze(x, ints(0, -1)), args((2, 3)), lambda x: x[None, ..., None]),
]

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
    ("Pad reflect", "constant padding", lambda g, x: g.Pad(x, ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect")),
    ("Pad negative", "negative padding", lambda g, x: g.Pad(x, ints(0, 0, -1, 0, 0, 0, 0, 0))),
    (
        "ConvTranspose output_shape",
        "output_shape",
        lambda g, x: g.ConvTranspose(x, np.ones((2, 1, 2, 2)), strides=[2, 2], output_shape=[9, 10]),
    ),
]


# -- layers ----------------------------------------------------------------------------------------------

Oracle = Callable[[Tensors, bool], Tensor]


@dataclass(frozen=True)
class LayerCase:
    """The last of `layers` under test: `inputs` by sample shape (an int: a label of so many classes).

    The oracle maps inputs and state, and whether it is the train phase, to the layer's top, loss or metric. `top` is
    the shape of a sample of the top, None for a loss or metric. The oracle of statistics gives their next values.
    """

    type: str
    about: str
    layers: list[dict[str, Any]]
    inputs: dict[str, Shape | int]
    top: Shape | None
    oracle: Oracle
    statistics: Callable[[Tensors], Tensors] | None = None
    domains: Mapping[str, Domain] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    smooth: bool = True

    @property
    def id(self) -> str:
        """Return the name of the test."""
        return f"{self.type}-{self.about}" if self.about else self.type


IMAGE: dict[str, Shape | int] = {"image": (2, 6, 5)}
SCORES: dict[str, Shape | int] = {"image": (4,), "label": 4}


def layer(
    about: str,
    declared: dict[str, Any],
    top: Shape,
    oracle: Oracle,
    inputs: Mapping[str, Shape | int] = IMAGE,
    **more: Any,
) -> LayerCase:
    """Return the row of one layer with a top, called `it`."""
    return LayerCase(declared["type"], about, [{"name": "it", **declared}], dict(inputs), top, oracle, **more)


def convolution(about: str, fields: dict[str, Any], top: Shape, x: Shape = (2, 6, 5), **geometry: Any) -> LayerCase:
    """Return a row of Convolution."""
    function: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[len(x) - 2]
    return layer(
        about,
        {"type": "Convolution", **fields},
        top,
        lambda t, train: function(t["image"], t["it.weight"], t.get("it.bias"), **geometry),
        {"image": x},
    )


def pooling(
    about: str,
    fields: dict[str, Any],
    top: Shape,
    x: Shape = (2, 6, 5),
    domain: Domain = separated,
    **torch_fields: Any,
) -> LayerCase:
    """Return a row of Pooling; PyTorch rounds up and divides as Caffe does."""
    kind = "avg" if fields.get("pool") == "average" else "max"
    function: Callable[..., Tensor] = getattr(F, f"{kind}_pool{len(x) - 1}d")
    return layer(
        about,
        {"type": "Pooling", **fields},
        top,
        lambda t, train: function(t["image"], **{"ceil_mode": True, **torch_fields}),
        {"image": x},
        domains={"image": domain},
        smooth=domain is not ties,
    )


def _batch_norm(t: Tensors, train: bool, eps: float = 1e-5) -> Tensor:
    mean, var = t["it.running_mean"].clone(), t["it.running_var"].clone()
    return F.batch_norm(t["image"], mean, var, t["it.weight"], t["it.bias"], training=train, eps=eps)


def running(fraction: float) -> Callable[[Tensors], Tensors]:
    """Return the oracle of BatchNorm's running values: design section 5, with the unbiased variance m / (m - 1)."""

    def oracle(t: Tensors) -> Tensors:
        x = t["image"].transpose(0, 1).flatten(1)
        batch = {"it.running_mean": x.mean(1), "it.running_var": x.var(1, unbiased=True)}
        return {name: fraction * t[name] + (1 - fraction) * value for name, value in batch.items()}

    return oracle


def dropout(about: str, shape: Shape, ratio: float | None) -> LayerCase:
    """Return a row of Dropout: inverted, with the masks of the numpy twin of the hash."""
    given = {} if ratio is None else {"dropout_ratio": ratio}

    def oracle(t: Tensors, train: bool) -> Tensor:
        p = 0.5 if ratio is None else ratio
        mask = torch.from_numpy(keep_mask(SEED, STEP, "it", (BATCH, *shape), p))
        return t["image"] * mask / (1 - p) if train else t["image"]

    return layer(about, {"type": "Dropout", **given}, shape, oracle, {"image": shape})


def _nan_scores(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return scores of which one sample is NaN altogether and one in its first class."""
    scores = separated(rng, shape)
    scores[0], scores[1, 0] = np.nan, np.nan
    return scores


def accuracy(about: str, top_k: int, domain: Domain) -> LayerCase:
    """Return a row of Accuracy: fewer than k other scores reach the own; ties lose, and any NaN."""

    def oracle(t: Tensors, train: bool) -> Tensor:
        scores, label = t["image"].detach().numpy(), t["label"].numpy()
        hits = []
        for row, k in zip(scores, label, strict=True):
            rivals = sum(bool(other >= row[k]) for i, other in enumerate(row) if i != k)
            hits.append(not np.isnan(row).any() and rivals < top_k)
        return torch.tensor(np.mean(hits))

    tested = {"name": "it", "type": "Accuracy", "top_k": top_k}
    return LayerCase("Accuracy", about, [tested], SCORES, None, oracle, domains={"image": domain}, smooth=False)


LAYER_CASES: list[LayerCase] = [
    convolution("", {"num_output": 4, "kernel_size": 3}, (4, 4, 3)),
    convolution(
        "strided, padded, unreached",
        {"num_output": 4, "kernel_size": [3, 2], "stride": [2, 2], "pad": [1, 0]},
        (4, 3, 2),
        stride=(2, 2),
        padding=(1, 0),
    ),
    convolution("dilated", {"num_output": 3, "kernel_size": 2, "dilation": [3, 2]}, (3, 3, 3), dilation=(3, 2)),
    convolution(
        "grouped, no bias", {"num_output": 4, "kernel_size": 3, "group": 2, "bias_term": False}, (4, 4, 3), groups=2
    ),
    convolution("1-D", {"num_output": 4, "kernel_size": 3, "stride": 2}, (4, 3), x=(2, 7), stride=2),
    convolution("3-D", {"num_output": 3, "kernel_size": 2}, (3, 2, 3, 2), x=(2, 3, 4, 3)),
    layer(
        "",
        {"type": "InnerProduct", "num_output": 5},
        (5,),
        lambda t, train: F.linear(t["image"].flatten(1), t["it.weight"], t["it.bias"]),
    ),
    layer(
        "of a vector, no bias",
        {"type": "InnerProduct", "num_output": 5, "bias_term": False},
        (5,),
        lambda t, train: F.linear(t["image"], t["it.weight"]),
        {"image": (7,)},
    ),
    pooling("max", {"kernel_size": 2, "stride": 2}, (2, 3, 3), kernel_size=2, stride=2),
    pooling("max overlapping ceil", {"kernel_size": 3, "stride": 2}, (2, 3, 2), kernel_size=3, stride=2),
    pooling(
        "max overlapping floor",
        {"kernel_size": 3, "stride": 2, "round_mode": "floor"},
        (2, 2, 2),
        kernel_size=3,
        stride=2,
        ceil_mode=False,
    ),
    pooling("max padded", {"kernel_size": 3, "stride": 2, "pad": 1}, (2, 4, 3), kernel_size=3, stride=2, padding=1),
    pooling(
        "max padded, last window outside",
        {"kernel_size": 2, "stride": 2, "pad": 1},
        (2, 4, 3),
        kernel_size=2,
        stride=2,
        padding=1,
    ),
    pooling("max stride beyond kernel", {"kernel_size": 2, "stride": 3}, (2, 3, 3), (2, 7, 8), kernel_size=2, stride=3),
    pooling("max ties", {"kernel_size": 3, "stride": 2}, (2, 3, 2), domain=ties, kernel_size=3, stride=2),
    pooling("max 1-D", {"kernel_size": 3, "stride": 2}, (2, 4), x=(2, 8), kernel_size=3, stride=2),
    pooling("max 3-D", {"kernel_size": 2, "stride": 2}, (2, 2, 2, 2), x=(2, 4, 3, 3), kernel_size=2, stride=2),
    pooling(
        "average",
        {"pool": "average", "kernel_size": 2, "stride": 2, "round_mode": "floor"},
        (2, 3, 2),
        kernel_size=2,
        stride=2,
        ceil_mode=False,
    ),
    pooling(
        "average overlapping ceil",
        {"pool": "average", "kernel_size": 3, "stride": 2},
        (2, 3, 2),
        kernel_size=3,
        stride=2,
    ),
    pooling(
        "average padded ceil",
        {"pool": "average", "kernel_size": 3, "stride": 2, "pad": 1},
        (2, 4, 3),
        kernel_size=3,
        stride=2,
        padding=1,
    ),
    pooling(
        "average padded floor",
        {"pool": "average", "kernel_size": [3, 2], "stride": [2, 3], "pad": [1, 1], "round_mode": "floor"},
        (2, 3, 2),
        kernel_size=(3, 2),
        stride=(2, 3),
        padding=(1, 1),
        ceil_mode=False,
    ),
    pooling(
        "average padded, last window outside",
        {"pool": "average", "kernel_size": 2, "stride": 2, "pad": 1},
        (2, 4, 3),
        kernel_size=2,
        stride=2,
        padding=1,
    ),
    layer(
        "average global",
        {"type": "Pooling", "pool": "average", "global_pooling": True},
        (2, 1, 1),
        lambda t, train: t["image"].mean((2, 3), keepdim=True),
    ),
    layer(
        "max global",
        {"type": "Pooling", "global_pooling": True},
        (2, 1, 1),
        lambda t, train: t["image"].amax((2, 3), keepdim=True),
        domains={"image": separated},
    ),
    layer("", {"type": "ReLU"}, (2, 6, 5), lambda t, train: torch.relu(t["image"]), domains={"image": separated}),
    layer(
        "at zero",
        {"type": "ReLU"},
        (2, 6, 5),
        lambda t, train: torch.relu(t["image"]),
        domains={"image": ties},
        smooth=False,
    ),
    layer("", {"type": "Sigmoid"}, (2, 6, 5), lambda t, train: torch.sigmoid(t["image"])),
    layer("", {"type": "TanH"}, (2, 6, 5), lambda t, train: torch.tanh(t["image"])),
    layer("channels", {"type": "Softmax"}, (2, 6, 5), lambda t, train: torch.softmax(t["image"], 1)),
    layer("last axis", {"type": "Softmax", "axis": -1}, (2, 6, 5), lambda t, train: torch.softmax(t["image"], 3)),
    layer("4-D", {"type": "BatchNorm"}, (2, 6, 5), _batch_norm, statistics=running(0.9)),
    layer(
        "2-D, other fraction and eps",
        {"type": "BatchNorm", "moving_average_fraction": 0.5, "eps": 0.01},
        (4,),
        lambda t, train: _batch_norm(t, train, 0.01),
        {"image": (4,)},
        statistics=running(0.5),
    ),
    dropout("", (4, 5, 5), None),
    dropout("of a vector, rare", (40,), 0.1),
    dropout("frequent", (40,), 0.9),
    dropout("ratio 0", (5,), 0.0),
    layer(
        "",
        {"type": "Eltwise", "bottom": ["image", "b", "image"]},
        (2, 3),
        lambda t, train: 2 * t["image"] + t["b"],
        {"image": (2, 3), "b": (2, 3)},
    ),
    layer(
        "channels",
        {"type": "Concat", "bottom": ["image", "b"]},
        (5, 3),
        lambda t, train: torch.cat([t["image"], t["b"]], 1),
        {"image": (2, 3), "b": (3, 3)},
    ),
    layer(
        "last axis",
        {"type": "Concat", "bottom": ["image", "b"], "axis": -1},
        (2, 7),
        lambda t, train: torch.cat([t["image"], t["b"]], 2),
        {"image": (2, 3), "b": (2, 4)},
    ),
    layer("", {"type": "Flatten"}, (60,), lambda t, train: t["image"].flatten(1)),
    LayerCase(
        "SoftmaxWithLoss",
        "",
        [{"name": "it", "type": "SoftmaxWithLoss"}],
        SCORES,
        None,
        lambda t, train: F.cross_entropy(t["image"], t["label"]),
    ),
    LayerCase(
        "SoftmaxWithLoss",
        "large scores",
        [{"name": "it", "type": "SoftmaxWithLoss"}],
        SCORES,
        None,
        lambda t, train: F.cross_entropy(t["image"], t["label"]),
        domains={"image": lambda rng, shape: 1000 * separated(rng, shape)},
    ),
    LayerCase(
        "EuclideanLoss",
        "",
        [{"name": "it", "type": "EuclideanLoss", "bottom": ["image", "b"]}],
        {"image": (2, 3), "b": (2, 3)},
        None,
        lambda t, train: ((t["image"] - t["b"]) ** 2).sum() / (2 * BATCH),
    ),
    LayerCase(
        "EuclideanLoss",
        "other shape, same size",
        [{"name": "it", "type": "EuclideanLoss", "bottom": ["image", "b"]}],
        {"image": (6, 1, 1), "b": (6,)},
        None,
        lambda t, train: ((t["image"].flatten(1) - t["b"]) ** 2).sum() / (2 * BATCH),
    ),
    accuracy("", 1, separated),
    accuracy("top 2", 2, separated),
    accuracy("ties", 1, ties),
    accuracy("ties, top 2", 2, ties),
    accuracy("NaN", 1, _nan_scores),
    # The network around the layers: preprocessing, layers in a row, a skip.
    layer(
        "preprocessed",
        {"type": "Flatten"},
        (60,),
        lambda t, train: ((t["image"] - torch.tensor([0.5, -1.0]).reshape(2, 1, 1)) * 0.25).flatten(1),
        data={"mean": [0.5, -1.0], "scale": 0.25},
    ),
    LayerCase(
        "Eltwise",
        "skip",
        [
            {"name": "conv", "type": "Convolution", "num_output": 2, "kernel_size": 3, "pad": 1, "bias_term": False},
            {"name": "bn", "type": "BatchNorm"},
            {"name": "it", "type": "Eltwise", "bottom": ["bn", "image"]},
        ],
        {"image": (2, 4, 4)},
        (2, 4, 4),
        lambda t, train: (
            F.batch_norm(
                F.conv2d(t["image"], t["conv.weight"], padding=1),
                t["bn.running_mean"].clone(),
                t["bn.running_var"].clone(),
                t["bn.weight"],
                t["bn.bias"],
                training=train,
            )
            + t["image"]
        ),
    ),
]


# -- fillers ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FillerCase:
    """A filler as the user writes it, a large shape, and the distribution function of its values."""

    given: dict[str, Any]
    shape: Shape
    mean: float
    std: float
    cumulative: Callable[[np.ndarray], np.ndarray] | None  # None: a constant

    @property
    def id(self) -> str:
        """Return the name of the test."""
        return "-".join(str(value) for value in self.given.values())


def _uniform(given: dict[str, Any], shape: Shape, low: float, high: float) -> FillerCase:
    width = high - low
    return FillerCase(given, shape, (low + high) / 2, width / 12**0.5, lambda x: np.clip((x - low) / width, 0.0, 1.0))


def _gaussian(given: dict[str, Any], shape: Shape, mean: float, std: float) -> FillerCase:
    erf = np.vectorize(math.erf)
    return FillerCase(given, shape, mean, std, lambda x: (1 + erf((x - mean) / (std * 2**0.5))) / 2)


WEIGHT = (64, 32, 5, 5)  # fan_in 800, fan_out 1600
FANS = {"fan_in": 800.0, "fan_out": 1600.0, "average": 1200.0}

FILLER_CASES: list[FillerCase] = [
    FillerCase({"type": "constant"}, (3, 4), 0.0, 0.0, None),
    FillerCase({"type": "constant", "value": 0.2}, (3, 4), 0.2, 0.0, None),
    _uniform({"type": "uniform"}, WEIGHT, 0.0, 1.0),
    _uniform({"type": "uniform", "min": -0.5, "max": 0.25}, WEIGHT, -0.5, 0.25),
    _gaussian({"type": "gaussian"}, WEIGHT, 0.0, 1.0),
    _gaussian({"type": "gaussian", "mean": 3.0, "std": 0.05}, WEIGHT, 3.0, 0.05),
    _uniform({"type": "xavier"}, WEIGHT, -((3 / 800) ** 0.5), (3 / 800) ** 0.5),
    _gaussian({"type": "msra"}, WEIGHT, 0.0, (2 / 800) ** 0.5),
    *(
        _uniform({"type": "xavier", "variance_norm": norm}, WEIGHT, -((3 / fan) ** 0.5), (3 / fan) ** 0.5)
        for norm, fan in FANS.items()
    ),
    *(_gaussian({"type": "msra", "variance_norm": norm}, WEIGHT, 0.0, (2 / fan) ** 0.5) for norm, fan in FANS.items()),
    _uniform({"type": "xavier", "variance_norm": "fan_out"}, (50_000,), -((3 / 50_000) ** 0.5), (3 / 50_000) ** 0.5),
]


# -- policies, schedules, solvers ------------------------------------------------------------------------


@dataclass(frozen=True)
class CurveCase:
    """A learning-rate policy or loss-weight schedule, and its formula in Python's float64."""

    given: dict[str, Any]
    formula: Callable[[float], float]

    @property
    def id(self) -> str:
        """Return the name of the test."""
        return "-".join(str(value) for value in self.given.values())


# Of the number of completed updates, for base_lr 0.1.
POLICY_CASES: list[CurveCase] = [
    CurveCase({"type": "fixed"}, lambda it: 0.1),
    CurveCase({"type": "step", "gamma": 0.5, "stepsize": 10}, lambda it: 0.1 * 0.5 ** (it // 10)),
    CurveCase({"type": "step", "gamma": 0.9, "stepsize": 1}, lambda it: 0.1 * 0.9**it),
    CurveCase({"type": "inv", "gamma": 0.0001, "power": 0.75}, lambda it: 0.1 * (1 + 0.0001 * it) ** -0.75),
    CurveCase({"type": "inv", "gamma": 0.3, "power": 2.0}, lambda it: 0.1 * (1 + 0.3 * it) ** -2.0),
]

# Of the fraction of the planned updates that is done.
SCHEDULE_CASES: list[CurveCase] = [
    CurveCase({"policy": "constant", "start": 0.3}, lambda t: 0.3),
    CurveCase({"policy": "linear", "start": 0.3, "end": 0.0, "until": 0.8}, lambda t: max(0.3 * (1 - t / 0.8), 0.0)),
    CurveCase({"policy": "linear", "start": 0.1, "end": 0.5}, lambda t: 0.1 + 0.4 * min(t, 1.0)),
]

# Of a parameter, its gradient (decay included), the rate, the completed updates and the memory, which it changes.
Twin = Callable[[np.ndarray, np.ndarray, float, int, dict[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class SolverCase:
    """A solver as the user writes it, and one update in float64 numpy, from design.md section 5."""

    given: dict[str, Any]
    twin: Twin
    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None = None  # where PyTorch has the same form
    policy: Callable[[int], float] = lambda it: 1.0  # of the rate, relative to base_lr

    @property
    def id(self) -> str:
        """Return the name of the test."""
        return "-".join(str(value) for value in self.given.values())


def sgd(momentum: float) -> Twin:
    """v <- mu v + l g; w <- w - v."""

    def twin(w: np.ndarray, dw: np.ndarray, lr: float, it: int, memory: dict[str, np.ndarray]) -> np.ndarray:
        memory["v"] = momentum * memory.get("v", np.zeros_like(w)) + lr * dw
        new: np.ndarray = w - memory["v"]
        return new

    return twin


def adam(beta1: float, beta2: float, eps: float) -> Twin:
    """Moments s and r with bias correction; w <- w - l s^ / (sqrt(r^) + eps)."""

    def twin(w: np.ndarray, dw: np.ndarray, lr: float, it: int, memory: dict[str, np.ndarray]) -> np.ndarray:
        zero = np.zeros_like(w)
        memory["s"] = beta1 * memory.get("s", zero) + (1 - beta1) * dw
        memory["r"] = beta2 * memory.get("r", zero) + (1 - beta2) * dw**2
        s, r = memory["s"] / (1 - beta1 ** (it + 1)), memory["r"] / (1 - beta2 ** (it + 1))
        new: np.ndarray = w - lr * s / (np.sqrt(r) + eps)
        return new

    return twin


DECAYED = {"base_lr": 0.05, "weight_decay": 0.03}
STEPPED = {"type": "step", "gamma": 0.5, "stepsize": 7}

SOLVER_CASES: list[SolverCase] = [
    SolverCase({"type": "SGD", "base_lr": 0.1}, sgd(0.0), lambda w: torch.optim.SGD(w, lr=0.1)),
    SolverCase({"type": "SGD", **DECAYED}, sgd(0.0), lambda w: torch.optim.SGD(w, lr=0.05, weight_decay=0.03)),
    # With a constant rate Caffe's form equals PyTorch's.
    SolverCase(
        {"type": "SGD", "momentum": 0.9, **DECAYED},
        sgd(0.9),
        lambda w: torch.optim.SGD(w, lr=0.05, momentum=0.9, weight_decay=0.03),
    ),
    SolverCase(
        {"type": "SGD", "momentum": 0.9, **DECAYED, "lr_policy": STEPPED}, sgd(0.9), policy=lambda it: 0.5 ** (it // 7)
    ),
    SolverCase({"type": "Adam", "base_lr": 0.01}, adam(0.9, 0.999, 1e-8), lambda w: torch.optim.Adam(w, lr=0.01)),
    SolverCase(
        {"type": "Adam", "beta1": 0.5, "beta2": 0.9, "eps": 0.1, **DECAYED},
        adam(0.5, 0.9, 0.1),
        lambda w: torch.optim.Adam(w, lr=0.05, betas=(0.5, 0.9), eps=0.1, weight_decay=0.03),
    ),
    SolverCase(
        {"type": "Adam", **DECAYED, "lr_policy": STEPPED}, adam(0.9, 0.999, 1e-8), policy=lambda it: 0.5 ** (it // 7)
    ),
]
