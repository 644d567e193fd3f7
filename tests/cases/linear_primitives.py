"""Rows for the rules of convolutions and products of matrices."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from tests.cases.domains import Shape, Tensor
from tests.cases.primitive_row import Primitive, args


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


def gemm(about: str, a: Shape, b: Shape, c: Shape | None, **attributes: Any) -> Primitive:
    """Return a row of Gemm."""

    def oracle(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = a.T if attributes.get("transA") else a, b.T if attributes.get("transB") else b
        alpha, beta = float(attributes.get("alpha", 1.0)), float(attributes.get("beta", 1.0))
        return alpha * (a @ b) if c is None else alpha * (a @ b) + beta * c

    shapes = [a, b] if c is None else [a, b, c]
    return Primitive("Gemm", about, lambda g, *v: g.Gemm(*v, **attributes), args(*shapes), oracle)


LINEAR: list[Primitive] = [
    conv("plain", (2, 3, 6, 5), (4, 3, 3, 2)),
    conv("no bias", (2, 3, 6, 5), (4, 3, 3, 2), bias=False),
    conv("padded", (2, 3, 5, 5), (4, 3, 3, 3), pads=[1, 2, 1, 2]),
    conv("padded unevenly", (2, 2, 5, 4), (3, 2, 3, 2), pads=[0, 1, 2, 0]),
    conv("strided", (2, 2, 7, 7), (3, 2, 3, 3), strides=[2, 2]),
    conv("strided, last rows unreached", (2, 2, 8, 9), (3, 2, 3, 2), strides=[2, 3]),
    conv("many samples, strided and padded", (8, 2, 6, 5), (3, 2, 3, 2), strides=[2, 1], pads=[1, 0, 0, 1]),
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
]
