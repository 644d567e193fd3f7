"""Where the elements of a plane lie in an earlier plane, for layers that align two of them (FCN, HED).

Along each spatial axis a layer maps the position x in its bottom to a * x + b in its top. A window is at its centre:
a convolution or pooling of kernel k, stride s, pad p and dilation d has a = 1 / s and b = (p - d (k - 1) / 2) / s, and
a transposed convolution the inverse. Maps of layers in a row compose; they are exact fractions.
"""

import collections
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import onnx_ir as ir

from netc.graph import Site, constant_value, shape_of

_WINDOWS = ("Conv", "MaxPool", "AveragePool")
_MIXES = ("MatMul", "Gemm", "Reshape", "Gather")  # what may keep the size of a plane and moves its elements


@dataclass(frozen=True)
class AxisMap:
    """The position a * x + b along one axis."""

    scale: Fraction = Fraction(1)
    shift: Fraction = Fraction(0)

    def after(self, inner: "AxisMap") -> "AxisMap":
        """Return the map that applies `inner` first."""
        return AxisMap(self.scale * inner.scale, self.scale * inner.shift + self.shift)


Map = tuple[AxisMap, ...]


def offsets_between(source: ir.Value, reference: ir.Value) -> tuple[list[Fraction], list[Fraction]] | None:
    """Compare two planes by way of their nearest common ancestor.

    Returns:
        For each spatial axis the position in `source` of the first element of `reference`, and how many elements of
        `source` lie in the place of one of `reference`. None where they have no common ancestor that every layer
        between maps position by position.
    """
    ancestors = _maps_from_ancestors(reference)
    for value, ours in _maps_from_ancestors(source).items():
        if value in ancestors:
            theirs = ancestors[value]
            ratios = [a.scale / b.scale for a, b in zip(ours, theirs, strict=True)]
            # The ancestor's position of the reference's element 0 is -shift / scale.
            starts = [a.shift - a.scale * b.shift / b.scale for a, b in zip(ours, theirs, strict=True)]
            return starts, ratios
    return None


def _maps_from_ancestors(value: ir.Value) -> Mapping[ir.Value, Map]:
    """Return the maps to `value` from itself and from every value that it is computed from, nearest first."""
    found: dict[ir.Value, Map] = {value: (AxisMap(),) * (len(shape_of(value)) - 2)}
    queue = collections.deque([value])
    while queue:
        each = queue.popleft()
        node = each.producer()
        if node is None:
            continue
        for index, x in enumerate(node.inputs):
            inner = None if x is None or x in found else _map_of(node, index)
            if x is not None and inner is not None:
                found[x] = tuple(outer.after(one) for outer, one in zip(found[each], inner, strict=True))
                queue.append(x)
    return found


def _map_of(node: ir.Node, index: int) -> Map | None:
    """Return the map from an input of a node to its output; None where positions do not correspond."""
    site, y = Site(node), node.outputs[0]
    x = node.inputs[index]
    if x is None or len(shape_of(x)) != len(shape_of(y)) or len(shape_of(x)) < 3:
        return None
    axes = len(shape_of(x)) - 2
    if node.op_type in (*_WINDOWS, "ConvTranspose"):
        return tuple(_windows(site, axes)) if index == 0 else None
    if node.op_type == "Pad" and index == 0:
        widths = constant_value(site.x[1])
        return None if widths is None else tuple(AxisMap(shift=Fraction(int(n))) for n in widths[2 : 2 + axes])
    if node.op_type == "Slice" and index == 0:
        return _slice(site, axes)
    moves = node.op_type == "Transpose" and list(site.attribute("perm"))[2:] != list(range(2, 2 + axes))
    if moves or node.op_type in _MIXES:
        return None
    # Whatever else keeps the size of the plane works element by element, or mixes channels.
    return (AxisMap(),) * axes if shape_of(x)[2:] == shape_of(y)[2:] else None


def _windows(site: Site, axes: int) -> Iterator[AxisMap]:
    """Yield the map of a convolution, pooling or transposed convolution for each axis."""
    given = {name: attribute.value for name, attribute in site.node.attributes.items()}
    ones, zeros = (1,) * axes, (0,) * axes
    strides, dilations = given.get("strides", ones), given.get("dilations", ones)
    for k, s, d, p in zip(given["kernel_shape"], strides, dilations, given.get("pads", zeros)[:axes], strict=True):
        centre = Fraction(d * (k - 1), 2) - p
        if site.node.op_type == "ConvTranspose":
            yield AxisMap(Fraction(s), centre)
        else:
            yield AxisMap(Fraction(1, s), -centre / s)


def _slice(site: Site, axes: int) -> Map | None:
    starts, along = constant_value(site.x[1]), constant_value(site.x[3])
    if starts is None or along is None or len(site.x) > 4:
        return None
    first = {int(axis): int(start) for axis, start in zip(along, starts, strict=True)}
    return tuple(AxisMap(shift=Fraction(-first.get(2 + axis, 0))) for axis in range(axes))
