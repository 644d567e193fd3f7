"""The algebra of folding: affine maps of channels, and how the weights of a linear node take them in.

An affine map is y[n, c, ...] = s[c] x[n, c, ...] + t[c].
    BatchNormalization:  s = scale / sqrt(var + eps), t = bias - s mean
    two in a row:        s2 (s1 x + t1) + t2 = (s2 s1) x + (s2 t1 + t2)
A linear node is y[o] = b[o] + sum over c and k of w[o, c, k] x[c, k], with c the input channels of the group of o and k
the places under its kernel; behind a Flatten these are the places of a plane, all of which a Gemm reads.
    s y + t is linear with           w'[o, c, k] = s[o] w[o, c, k], b'[o] = s[o] b[o] + t[o]
    the same node of s x + t with    w'[o, c, k] = w[o, c, k] s[c], b'[o] = b[o] + sum over c and k of w[o, c, k] t[c]
The last sum is right only where every y[o] adds all k: not where x is padded with zeros, which t does not reach.
Everything is computed in double precision and rounded once.
"""

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, shape_of

DOUBLE = ir.DataType.DOUBLE
LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Affine:
    """An affine map of channels in double precision, [C] or [1] each; None stands for the factor 1 and the shift 0."""

    scale: ir.Value | None = None
    shift: ir.Value | None = None

    def then(self, g: GraphBuilder, later: "Affine") -> "Affine":
        """Return the map that applies `later` to what this one gives."""
        scale = _joined(g, "Mul", self.scale, later.scale)
        shift = None if self.shift is None else _joined(g, "Mul", self.shift, later.scale)
        return Affine(scale, _joined(g, "Add", shift, later.shift))

    def part(self, g: GraphBuilder, start: int, stop: int) -> "Affine":
        """Return the map of the channels from `start` to before `stop`."""
        return Affine(_part(g, self.scale, start, stop), _part(g, self.shift, start, stop))


@dataclass(frozen=True)
class View:
    """A weight seen as four axes, the groups first: its shape, and which axis counts what."""

    shape: tuple[int, int, int, int]
    outputs: int
    inputs: int
    places: int

    @classmethod
    def of(cls, node: ir.Node, channels: int) -> "View":
        """Return the view of the weight of a linear node whose input had so many channels, before a Flatten if any."""
        site = Site(node)
        size = [int(n) for n in shape_of(site.x[1])]
        if node.op_type in ("Conv", "ConvTranspose"):
            group = int(site.attribute("group"))
            shape = (group, size[0] // group, size[1], math.prod(size[2:]))
            return cls(shape, 1, 2, 3) if node.op_type == "Conv" else cls(shape, 2, 1, 3)
        if node.op_type == "Gemm" and site.attribute("transB"):
            return cls((1, size[0], channels, size[1] // channels), 1, 2, 3)
        return cls((1, channels, size[0] // channels, size[1]), 3, 1, 2)

    def along(self, g: GraphBuilder, v: ir.Value, axis: int) -> ir.Value:
        """View a vector [1], or [groups * n] with the size n of an axis, so that it lies along groups and that axis."""
        if shape_of(v) == [1]:
            return v
        shape = [1, 1, 1, 1]
        shape[0], shape[axis] = self.shape[0], self.shape[axis]
        return g.Reshape(v, np.array(shape, np.int64))


def of_batch_normalization(g: GraphBuilder, site: Site, statistics: list[ir.Value]) -> Affine:
    """Return the map of a BatchNormalization with given statistics: scale, bias, mean and variance [C] each."""
    scale, bias, mean, var = (g.Cast(value, to=DOUBLE) for value in statistics)
    with g.arithmetic():
        s = scale / g.Sqrt(var + float(site.attribute("epsilon")))
        return Affine(s, bias - s * mean)


def vector(g: GraphBuilder, v: ir.Value) -> ir.Value:
    """View an operand that lies along the channels as [C] or [1], in double precision."""
    return g.Cast(v if len(shape_of(v)) == 1 else g.Reshape(v, np.array([-1], np.int64)), to=DOUBLE)


def absorbed(
    g: GraphBuilder, view: View, w: ir.Value, b: ir.Value | None, before: Affine, after: Affine
) -> tuple[ir.Value, ir.Value | None]:
    """Return weight and bias [outputs] of the node that maps its input by `before` and its output by `after` itself."""
    whole = g.Reshape(g.Cast(w, to=DOUBLE), np.array(view.shape, np.int64))
    bias = None if b is None else g.Cast(b, to=DOUBLE)
    with g.arithmetic():
        if before.shift is not None:
            shifts = whole * view.along(g, before.shift, view.inputs)
            axes = np.array(sorted((view.inputs, view.places)), np.int64)
            bias = _joined(g, "Add", bias, g.Reshape(g.ReduceSum(shifts, axes, keepdims=0), np.array([-1], np.int64)))
        if before.scale is not None:
            whole = whole * view.along(g, before.scale, view.inputs)
        if after.scale is not None:
            whole = whole * view.along(g, after.scale, view.outputs)
    bias = Affine(shift=bias).then(g, after).shift
    if bias is not None:
        outputs = view.shape[0] * view.shape[view.outputs]
        if shape_of(bias) != [outputs]:
            bias = g.Expand(bias, np.array([outputs], np.int64))
        bias = g.Cast(bias, to=w.dtype)
    return g.Cast(g.Reshape(whole, np.array(shape_of(w), np.int64)), to=w.dtype), bias


def _joined(g: GraphBuilder, op_type: str, a: ir.Value | None, b: ir.Value | None) -> ir.Value | None:
    """Return the product or sum of two vectors, of which one that is None changes nothing."""
    return (b if a is None else a) if a is None or b is None else g.op(op_type, a, b)


def _part(g: GraphBuilder, v: ir.Value | None, start: int, stop: int) -> ir.Value | None:
    if v is None or shape_of(v) == [1] or shape_of(v) == [stop - start]:
        return v
    return g.Slice(v, *(np.array([n], np.int64) for n in (start, stop, 0)))
