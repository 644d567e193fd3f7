"""Gradients of operators that order, join, cut, surround or choose elements."""

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, constant_value, shape_of


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def static_input(site: Site, index: int) -> list[int]:
    """Return the numbers of an input that has to be a constant, such as the axes of a reduction."""
    value = site.given(index)
    array = constant_value(value) if value is not None else None
    if array is None:
        raise AssertionError(f"{site.node.name}: only constant axes, pads and bounds can be differentiated")
    return [int(number) for number in array.reshape(-1)]


def transpose_dx(g: GraphBuilder, site: Site, dy: ir.Value) -> ir.Value:
    """Put the axes back into their order."""
    rank = len(shape_of(dy))
    perm = site.attribute("perm") or list(range(rank))[::-1]
    return g.Transpose(dy, perm=[perm.index(i) for i in range(rank)])


def concat_dx(g: GraphBuilder, site: Site, dy: ir.Value) -> ir.Value:
    """Cut out the part of dy that came from this input."""
    axis = site.attribute("axis") % len(shape_of(dy))
    sizes = [int(shape_of(x)[axis]) for x in site.x]
    start = sum(sizes[: site.index])
    return g.Slice(dy, _ints(start), _ints(start + sizes[site.index]), _ints(axis))


def slice_dx(g: GraphBuilder, site: Site, dy: ir.Value) -> ir.Value:
    """Surround dy with zeros where x was cut off."""
    shape = [int(d) for d in shape_of(site.x[0])]
    starts, ends = static_input(site, 1), static_input(site, 2)
    axes = static_input(site, 3) if site.given(3) is not None else list(range(len(starts)))
    if site.given(4) is not None and set(static_input(site, 4)) != {1}:
        raise AssertionError(f"{site.node.name}: Slice with steps has no differentiation rule")
    before, after = [0] * len(shape), [0] * len(shape)
    for axis, start, end in zip((a % len(shape) for a in axes), starts, ends, strict=True):
        low, high, _ = slice(start, end).indices(shape[axis])
        before[axis], after[axis] = low, shape[axis] - high
    return g.Pad(dy, _ints(*before, *after))


def pad_dx(g: GraphBuilder, site: Site, dy: ir.Value) -> ir.Value:
    """Cut off what was added, and add what lies there to the elements that it repeats.

    Padding one axis after the other gives the same as all at once, so that axes are folded back one by one.
    """
    if site.given(3) is not None:
        raise AssertionError(f"{site.node.name}: only padding of all axes has a differentiation rule")
    shape, widths = [int(d) for d in shape_of(site.x[0])], static_input(site, 1)
    if min(widths) < 0:
        raise AssertionError(f"{site.node.name}: negative padding has no differentiation rule")
    before, after, axes = widths[: len(shape)], widths[len(shape) :], _ints(*range(len(shape)))
    if site.attribute("mode") in (b"constant", "constant"):
        return g.Slice(dy, _ints(*before), _ints(*(b + n for b, n in zip(before, shape, strict=True))), axes)
    fold = {"edge": _fold_edge, "reflect": _fold_reflection}[site.attribute("mode")]
    for axis, (n, b, a) in enumerate(zip(shape, before, after, strict=True)):
        if b or a:
            dy = fold(g, dy, axis, n, b, a)
    return dy


def _cut(g: GraphBuilder, v: ir.Value, axis: int, start: int, end: int) -> ir.Value:
    return g.Slice(v, _ints(start), _ints(end), _ints(axis))


def _add_at(g: GraphBuilder, v: ir.Value, strip: ir.Value, axis: int, start: int) -> ir.Value:
    """Add a narrower strip to v, from `start` on."""
    shape = [int(n) for n in shape_of(v)]
    before, after = [0] * len(shape), [0] * len(shape)
    before[axis], after[axis] = start, shape[axis] - start - int(shape_of(strip)[axis])
    return v + g.Pad(strip, _ints(*before, *after))


def _fold_edge(g: GraphBuilder, dy: ir.Value, axis: int, n: int, before: int, after: int) -> ir.Value:
    """Return the cotangent of n elements whose first and last were repeated."""
    dx = _cut(g, dy, axis, before, before + n)
    for width, start, place in ((before, 0, 0), (after, before + n, n - 1)):
        if width:
            dx = _add_at(g, dx, g.ReduceSum(_cut(g, dy, axis, start, start + width), _ints(axis)), axis, place)
    return dx


def _fold_reflection(g: GraphBuilder, dy: ir.Value, axis: int, n: int, before: int, after: int) -> ir.Value:
    """Return the cotangent of n elements that were mirrored at the first and at the last."""
    dx = _cut(g, dy, axis, before, before + n)
    for width, start, place in ((before, 0, 1), (after, before + n, n - 1 - after)):
        if width:
            strip = _cut(g, dy, axis, start, start + width)
            # The whole strip backwards; an end this far before the front includes the first element.
            mirrored = g.Slice(strip, _ints(-1), _ints(-width - 1), _ints(axis), _ints(-1))
            dx = _add_at(g, dx, mirrored, axis, place)
    return dx


def top_k_dx(g: GraphBuilder, site: Site, dy: ir.Value) -> ir.Value:
    """Send dy to the places that the values came from; each occurs once, so that nothing has to be added."""
    shape = [int(n) for n in shape_of(site.x[0])]
    zeros = g.ConstantOfShape(
        g.constant(np.array(shape, np.int64)), value=ir.tensor(np.zeros(1, (dy.dtype or g.dtype).numpy()))
    )
    return g.ScatterElements(zeros, g.widen(site.node, 2)[1], dy, axis=site.attribute("axis"))
