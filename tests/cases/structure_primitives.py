"""Rows for the rules of reductions, and of operators that order, join, cut, surround or choose elements."""

from collections.abc import Callable

import onnx_ir as ir
import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from netc.graph import GraphBuilder
from tests.cases.domains import Domain, Shape, Tensor, normal, separated, ties
from tests.cases.primitive_row import Primitive, args, ints


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


def pads(mode: str, torch_mode: str) -> list[Primitive]:
    """Return the rows of a mode of Pad that repeats elements; up to every element, and on one side alone."""
    choices: dict[str, tuple[Shape, tuple[int, ...], tuple[int, ...]]] = {
        "one axis": ((2, 3, 5), (2,), (2,)),
        "unequal": ((2, 3, 5), (1,), (3,)),
        "one side": ((2, 3, 5), (0,), (4,)),
        "other side": ((2, 3, 5), (4,), (0,)),
        "two axes": ((2, 1, 4, 3), (1, 2), (3, 0)),
        "three axes": ((1, 2, 2, 3, 4), (1, 0, 2), (1, 2, 1)),
    }
    return [
        Primitive(
            "Pad",
            f"{mode}, {about}",
            lambda g, x, before=before, after=after: g.Pad(x, ints(0, 0, *before, 0, 0, *after), mode=mode),
            args(shape),
            # F.pad takes the last axis first.
            lambda x, before=before, after=after: F.pad(
                x, [n for pair in list(zip(before, after, strict=True))[::-1] for n in pair], torch_mode
            ),
        )
        for about, (shape, before, after) in choices.items()
    ]


def _values_and_places(g: GraphBuilder, x: ir.Value) -> ir.Value:
    """The places are whole numbers, through which nothing flows."""
    values, places = g.ops("TopK", x, ints(3), num_outputs=2, axis=1)
    return g.Add(values, g.Cast(places, to=g.dtype))


STRUCTURE: list[Primitive] = [
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
    *pads("edge", "replicate"),
    *pads("reflect", "reflect"),
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
    *(
        Primitive(
            "TopK",
            about,
            lambda g, x, k=k, axis=axis, more=more: g.ops("TopK", x, ints(k), num_outputs=2, axis=axis, **more)[0],
            args((2, 4, 3), domain=separated),
            lambda x, k=k, axis=axis, more=more: x.topk(k, axis, largest=bool(more.get("largest", 1)))[0],
        )
        for about, k, axis, more in (
            ("last axis", 2, -1, {}),
            ("one of a middle axis", 1, 1, {}),
            ("all", 4, 1, {}),
            ("smallest, batch axis", 1, 0, {"largest": 0}),
        )
    ),
    Primitive(
        "TopK",
        "beside its places",
        _values_and_places,
        args((2, 5), domain=separated),
        lambda x: x.topk(3, 1)[0] + x.topk(3, 1)[1],
    ),
    Primitive(
        "Transpose", "", lambda g, x: g.Transpose(x, perm=[1, 2, 0]), args((2, 3, 4)), lambda x: x.permute(1, 2, 0)
    ),
    Primitive("Transpose", "reversed", lambda g, x: g.Transpose(x), args((2, 3, 4)), lambda x: x.permute(2, 1, 0)),
    Primitive("Unsqueeze", "", lambda g, x: g.Unsqueeze(x, ints(0, -1)), args((2, 3)), lambda x: x[None, ..., None]),
]
