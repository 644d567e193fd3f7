"""Operators without a WebGPU kernel, by those that have one (netc/graph/webgpu.py has the list).

    And(a, b) = (a ? b : 0) > 0         Or(a, b) = (a ? 1 : b) > 0          since Where chooses numbers alone
    Max(a, b) = a <= b ? b : a          Min(a, b) = a >= b ? b : a          with a NaN in either kept
    Sum(a, b, c) = (a + b) + c          Sign(x) = (x > 0) - (x < 0)
    LogSoftmax(x) = d - log(sum(exp(d)))    with d = x - max(x), so that no exponential overflows
    Softplus(x) = relu(x) + log(1 + exp(-|x|))
    ConstantOfShape(s) = Expand(c, s)   Identity(x) = x * 1, or x + 0 for integers
    Concat of more tensors than a shader may bind = Concat of several Concat
    Slice of a vector of uint32 = Gather of the same places, since Slice has a kernel for other numbers alone

Exact but for LogSoftmax and Softplus, which are equal to rounding: of a very negative x, Softplus loses what is below
6e-8. Reason: a node without a kernel runs on the WebAssembly provider in the middle of a step, and what it reads and
writes is copied from and to the GPU, which takes longer than all of a small network.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, constant_value, shape_of
from netc.graph.webgpu import MAX_TENSORS
from netc.rewrite.replay import Inputs, Rules


def both(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value]:
    """Rewrite And."""
    a, b = _given(inputs)
    return (g.Greater(g.Where(a, g.Cast(b, to=g.dtype), g.constant(0.0)), 0.0),)


def either(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value]:
    """Rewrite Or."""
    a, b = _given(inputs)
    return (g.Greater(g.Where(a, g.constant(1.0), g.Cast(b, to=g.dtype)), 0.0),)


def largest(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value]:
    """Rewrite Max."""
    return (_extreme(g, "LessOrEqual", inputs),)


def smallest(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value]:
    """Rewrite Min."""
    return (_extreme(g, "GreaterOrEqual", inputs),)


def total(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value]:
    """Rewrite Sum, which adds from left to right."""
    first, *others = _given(inputs)
    for other in others:
        first = first + other
    return (first,)


def sign(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value]:
    """Rewrite Sign; that of a NaN is 0."""
    (x,) = _given(inputs)
    return (g.Cast(g.Greater(x, 0), to=x.dtype) - g.Cast(g.Less(x, 0), to=x.dtype),)


def log_softmax(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value]:
    """Rewrite LogSoftmax."""
    (x,) = _given(inputs)
    axes = np.array([site.attribute("axis")], np.int64)
    below = x - g.ReduceMax(x, axes, keepdims=1)
    return (below - g.Log(g.ReduceSum(g.Exp(below), axes, keepdims=1)),)


def softplus(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value]:
    """Rewrite Softplus."""
    (x,) = _given(inputs)
    return (g.Relu(x) + g.Log(g.Exp(-g.Abs(x)) + 1.0),)


def filled(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value]:
    """Rewrite ConstantOfShape."""
    given = site.node.attributes.get("value")
    value = np.float32(0.0) if given is None else given.as_tensor().numpy().reshape(())
    return (g.Expand(g.constant(value), *_given(inputs)),)


def copy(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite Identity of a number."""
    (x,) = _given(inputs)
    if x.dtype is None or x.dtype == ir.DataType.BOOL:
        return None
    return (x * 1.0 if x.dtype.is_floating_point() else x + 0,)


def joined(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite Concat of more tensors than one shader may bind."""
    if len(inputs) < MAX_TENSORS:
        return None
    return (concatenated(g, _given(inputs), site.attribute("axis")),)


def picked(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite the Slice of a vector of random bits."""
    x, *given = _given(inputs)
    bounds = [constant_value(value) for value in given]
    if x.dtype != ir.DataType.UINT32 or len(shape_of(x)) != 1 or len(bounds) not in (2, 3):
        return None
    if bounds[0] is None or bounds[1] is None:
        return None
    places = np.arange(int(str(shape_of(x)[0])))[int(bounds[0].item()) : int(bounds[1].item())]
    return (g.Gather(x, g.constant(places.astype(np.int32)), axis=0),)


def concatenated(g: GraphBuilder, values: Sequence[ir.Value], axis: int) -> ir.Value:
    """Return the concatenation of at least one value, by nodes that one shader can execute each."""
    if len(values) == 1:
        return values[0]
    each = MAX_TENSORS - 1  # and the output
    parts = [values[start : start + each] for start in range(0, len(values), each)]
    if len(parts) == 1:
        return g.Concat(*values, axis=axis)
    return concatenated(g, [concatenated(g, part, axis) for part in parts], axis)


def _extreme(g: GraphBuilder, comparison: str, inputs: Inputs) -> ir.Value:
    """Return the last of the values that `comparison` holds from one to the next, a NaN if one is."""
    first, *others = _given(inputs)
    for other in others:
        a, b = (other, first) if constant_value(first) is not None else (first, other)  # a NaN in `a` is kept anyway
        known = constant_value(b)
        first = g.Where(g.op(comparison, a, b), b, a)
        is_number = known is not None and not np.isnan(known).any()
        if not is_number and b.dtype is not None and b.dtype.is_floating_point():
            first = g.Where(g.Equal(b, b), first, b)
    return first


def _given(inputs: Inputs) -> list[ir.Value]:
    return [x for x in inputs if x is not None]


RULES: Rules = {
    "And": (both,),
    "Concat": (joined,),
    "ConstantOfShape": (filled,),
    "LogSoftmax": (log_softmax,),
    "Max": (largest,),
    "Min": (smallest,),
    "Or": (either,),
    "Sign": (sign,),
    "Slice": (picked,),
    "Softplus": (softplus,),
    "Sum": (total,),
}
COPIES: Rules = {"Identity": (copy,)}
"""For the end, since cleaning makes copies where two outputs compute the same."""
