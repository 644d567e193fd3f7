"""The differentiation rules: one table, one entry an operator, one expression an input.

Vocabulary: `g` graph, `n` the node's site with inputs `n.x`, output `n.y` and `n.attribute(...)`, `dy` cotangent of y.
A rule may return a value of the broadcast shape; the engine sums the repeated axes away.
Rules longer than an expression live in the module of their family.
"""

import numpy as np
import onnx_ir as ir

from netc.grad.convolution import conv_db, conv_dw, conv_dx, conv_transpose_dw, conv_transpose_dx
from netc.grad.engine import NOT_DIFFERENTIABLE, Table
from netc.grad.normalization import (
    batch_normalization_dbias,
    batch_normalization_dscale,
    batch_normalization_dx,
)
from netc.grad.pooling import average_pool_dx, global_average_pool_dx, max_pool_dx
from netc.grad.structure import concat_dx, pad_dx, slice_dx, static_input, top_k_dx, transpose_dx
from netc.graph import GraphBuilder, Site, shape_of


def _ints(values: object) -> np.ndarray:
    return np.array(values, np.int64)


def _like(g: GraphBuilder, dy: ir.Value, x: ir.Value) -> ir.Value:
    """Give dy the shape of x, of equal size."""
    return g.Reshape(dy, _ints(shape_of(x)))


def _mask(g: GraphBuilder, condition: ir.Value, like: ir.Value) -> ir.Value:
    return g.Cast(condition, to=like.dtype)


# -- reductions ------------------------------------------------------------------------------------------


def _reduced_axes(n: Site) -> list[int]:
    rank = len(shape_of(n.x[0]))
    axes = static_input(n, 1) if n.given(1) is not None else []
    if not axes and not n.attribute("noop_with_empty_axes"):
        return list(range(rank))
    return sorted(axis % rank for axis in axes)


def _keep(g: GraphBuilder, n: Site, v: ir.Value) -> ir.Value:
    """View a reduced value with its reduced axes kept as 1, so that it broadcasts over x."""
    if n.attribute("keepdims"):
        return v
    axes = _reduced_axes(n)
    return g.Reshape(v, _ints([1 if i in axes else d for i, d in enumerate(shape_of(n.x[0]))]))


def _spread(g: GraphBuilder, n: Site, dy: ir.Value) -> ir.Value:
    return g.Expand(_keep(g, n, dy), _ints(shape_of(n.x[0])))


def _mean_dx(g: GraphBuilder, n: Site, dy: ir.Value) -> ir.Value:
    shape = shape_of(n.x[0])
    count = int(np.prod([int(shape[axis]) for axis in _reduced_axes(n)]))
    return _spread(g, n, dy * (1.0 / count))


def _extreme_dx(g: GraphBuilder, n: Site, dy: ir.Value) -> ir.Value:
    """Gradient of ReduceMax and ReduceMin: equal extremes share dy equally."""
    hit = _mask(g, g.Equal(n.x[0], _keep(g, n, n.y)), dy)
    count = g.ReduceSum(hit, _ints(_reduced_axes(n)), keepdims=1, noop_with_empty_axes=1)
    return hit * (_keep(g, n, dy) / count)


# -- elementwise -----------------------------------------------------------------------------------------


def _choice_dx(g: GraphBuilder, n: Site, dy: ir.Value) -> ir.Value:
    """Gradient of Max and Min: equal extremes share dy equally (the mean of the one-sided derivatives)."""
    hits = [_mask(g, g.Equal(x, n.y), dy) for x in n.x]
    return dy * (hits[n.index] / (g.Sum(*hits) if len(hits) > 1 else hits[0]))


def _clip_dx(g: GraphBuilder, n: Site, dy: ir.Value) -> ir.Value:
    """Gradient 1 on the closed interval."""
    low, high = n.given(1), n.given(2)
    if low is not None:
        dy = dy * _mask(g, g.GreaterOrEqual(n.x[0], low), dy)
    return dy * _mask(g, g.LessOrEqual(n.x[0], high), dy) if high is not None else dy


def _pow_dx(g: GraphBuilder, n: Site, dy: ir.Value) -> ir.Value:
    x, p = n.x
    return dy * p * g.Pow(x, p - 1.0)


def _held(n: Site, name: str) -> float:
    """Return a float attribute as the graph holds it, in 32 bits."""
    return float(np.float32(n.attribute(name)))


def _elu_dx(g: GraphBuilder, n: Site, dy: ir.Value) -> ir.Value:
    """Gradient alpha exp(x) = y + alpha where x <= 0; at 0 it is alpha."""
    return g.Where(g.Greater(n.x[0], 0.0), dy, dy * (n.y + _held(n, "alpha")))


def _leaky_relu_dx(g: GraphBuilder, n: Site, dy: ir.Value) -> ir.Value:
    """Gradient alpha where x <= 0."""
    return g.Where(g.Greater(n.x[0], 0.0), dy, dy * _held(n, "alpha"))


# -- linear algebra --------------------------------------------------------------------------------------


def _swap(g: GraphBuilder, v: ir.Value) -> ir.Value:
    rank = len(shape_of(v))
    return g.Transpose(v, perm=[*range(rank - 2), rank - 1, rank - 2])


def _matrices(n: Site) -> tuple[ir.Value, ir.Value]:
    a, b = n.x
    if min(len(shape_of(a)), len(shape_of(b))) < 2:
        raise AssertionError(f"{n.node.name}: MatMul of vectors has no differentiation rule")
    return a, b


def _matmul_db(g: GraphBuilder, n: Site, dy: ir.Value) -> ir.Value:
    """One matrix that serves a whole batch takes one product, not one a member and their sum."""
    a, b = _matrices(n)
    if len(shape_of(b)) > 2 or len(shape_of(a)) == 2:
        return g.MatMul(_swap(g, a), dy)
    rows = [g.Reshape(v, _ints([-1, shape_of(v)[-1]])) for v in (a, dy)]
    return g.Gemm(*rows, transA=1)


def _gemm_da(g: GraphBuilder, n: Site, dy: ir.Value) -> ir.Value:
    ta, tb = n.attribute("transA"), n.attribute("transB")
    alpha = n.attribute("alpha")
    if ta:
        return g.Gemm(n.x[1], dy, alpha=alpha, transA=tb, transB=1)
    return g.Gemm(dy, n.x[1], alpha=alpha, transB=1 - tb)


def _gemm_db(g: GraphBuilder, n: Site, dy: ir.Value) -> ir.Value:
    ta, tb = n.attribute("transA"), n.attribute("transB")
    alpha = n.attribute("alpha")
    if tb:
        return g.Gemm(dy, n.x[0], alpha=alpha, transA=1, transB=ta)
    return g.Gemm(n.x[0], dy, alpha=alpha, transA=1 - ta)


def _gemm_dc(g: GraphBuilder, n: Site, dy: ir.Value) -> ir.Value:
    beta = n.attribute("beta")
    return dy if beta == 1.0 else dy * beta


# -- softmax ---------------------------------------------------------------------------------------------


def _softmax_dx(g: GraphBuilder, n: Site, dy: ir.Value) -> ir.Value:
    return n.y * (dy - g.ReduceSum(dy * n.y, _ints([n.attribute("axis")]), keepdims=1))


def _log_softmax_dx(g: GraphBuilder, n: Site, dy: ir.Value) -> ir.Value:
    return dy - g.Exp(n.y) * g.ReduceSum(dy, _ints([n.attribute("axis")]), keepdims=1)


VJP: Table = {
    # elementwise, one input
    "Abs": (lambda g, n, dy: dy * g.Sign(n.x[0]),),
    "Cast": (lambda g, n, dy: g.Cast(dy, to=n.x[0].dtype),),
    "Clip": (_clip_dx, None, None),
    "Elu": (_elu_dx,),
    "Erf": (lambda g, n, dy: dy * (2 / np.pi**0.5) * g.Exp(-(n.x[0] * n.x[0])),),
    "Exp": (lambda g, n, dy: dy * n.y,),
    "Identity": (lambda g, n, dy: dy,),
    "LeakyRelu": (_leaky_relu_dx,),
    "Log": (lambda g, n, dy: dy / n.x[0],),
    "Neg": (lambda g, n, dy: -dy,),
    "Reciprocal": (lambda g, n, dy: -(dy * n.y * n.y),),
    # On the output, so that runtimes can still fuse a convolution with its activation.
    "Relu": (lambda g, n, dy: dy * _mask(g, g.Greater(n.y, 0.0), dy),),
    "Sigmoid": (lambda g, n, dy: dy * (n.y * (1.0 - n.y)),),
    "Softplus": (lambda g, n, dy: dy * g.Sigmoid(n.x[0]),),
    "Sqrt": (lambda g, n, dy: dy / (n.y * 2.0),),
    "Tanh": (lambda g, n, dy: dy * (1.0 - n.y * n.y),),
    # elementwise, several inputs
    "Add": (lambda g, n, dy: dy, lambda g, n, dy: dy),
    "Sub": (lambda g, n, dy: dy, lambda g, n, dy: -dy),
    "Mul": (lambda g, n, dy: dy * n.x[1], lambda g, n, dy: dy * n.x[0]),
    "Div": (lambda g, n, dy: dy / n.x[1], lambda g, n, dy: -(dy * n.y / n.x[1])),
    "Pow": (_pow_dx, lambda g, n, dy: dy * n.y * g.Log(n.x[0])),
    "Max": (_choice_dx,),
    "Min": (_choice_dx,),
    "Sum": (lambda g, n, dy: dy,),
    "Where": (
        None,
        lambda g, n, dy: g.Where(n.x[0], dy, g.constant(0.0, dy.dtype)),
        lambda g, n, dy: g.Where(n.x[0], g.constant(0.0, dy.dtype), dy),
    ),
    # linear algebra
    "Conv": (conv_dx, conv_dw, conv_db),
    "ConvTranspose": (conv_transpose_dx, conv_transpose_dw, conv_db),
    "Gemm": (_gemm_da, _gemm_db, _gemm_dc),
    "MatMul": (
        lambda g, n, dy: g.MatMul(dy, _swap(g, _matrices(n)[1])),
        _matmul_db,
    ),
    # pooling, normalization
    "AveragePool": (average_pool_dx,),
    "GlobalAveragePool": (global_average_pool_dx,),
    "MaxPool": (max_pool_dx,),
    "BatchNormalization": (
        batch_normalization_dx,
        batch_normalization_dscale,
        batch_normalization_dbias,
        None,
        None,
    ),
    "LogSoftmax": (_log_softmax_dx,),
    "Softmax": (_softmax_dx,),
    # reductions
    "ReduceMax": (_extreme_dx, None),
    "ReduceMean": (_mean_dx, None),
    "ReduceMin": (_extreme_dx, None),
    "ReduceSum": (_spread, None),
    # structure
    "Concat": (concat_dx,),
    "Expand": (lambda g, n, dy: dy, None),
    "Flatten": (lambda g, n, dy: _like(g, dy, n.x[0]),),
    "Pad": (pad_dx, None, None),
    "Reshape": (lambda g, n, dy: _like(g, dy, n.x[0]), None),
    "Slice": (slice_dx, None),
    "Squeeze": (lambda g, n, dy: _like(g, dy, n.x[0]), None),
    "TopK": (top_k_dx, None),
    "Transpose": (transpose_dx,),
    "Unsqueeze": (lambda g, n, dy: _like(g, dy, n.x[0]), None),
    # no gradient: piecewise constant, or indices
    "ArgMax": NOT_DIFFERENTIABLE,
    "Equal": NOT_DIFFERENTIABLE,
    "Floor": NOT_DIFFERENTIABLE,
    "Greater": NOT_DIFFERENTIABLE,
    "GreaterOrEqual": NOT_DIFFERENTIABLE,
    "Less": NOT_DIFFERENTIABLE,
    "LessOrEqual": NOT_DIFFERENTIABLE,
    "Not": NOT_DIFFERENTIABLE,
    "Sign": NOT_DIFFERENTIABLE,
}
