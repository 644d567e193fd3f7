"""Rows for the rules of pooling and normalization."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from netc.graph import GraphBuilder
from tests.cases.domains import Domain, Shape, Tensor, positive, separated, ties
from tests.cases.primitive_row import Arg, Primitive, args


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


WINDOWS: list[Primitive] = [
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
]
