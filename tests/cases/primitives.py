"""Rows for the differentiation rules: operators with attributes, shapes, domains and their oracle."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from netc.graph import GraphBuilder
from tests.cases.domains import Domain, Shape, Tensor, coin, crossing, normal, positive, separated, ties


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
            "right is one matrix": ((5, 2, 3), (3, 4)),
            "right is one matrix, two batch axes": ((2, 5, 2, 3), (3, 4)),
            "right broadcasts": ((5, 2, 3), (1, 3, 4)),
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
