"""Gradient of BatchNormalization, in training mode (Ioffe & Szegedy, section 3) and with given statistics.

With c = x - mean, r = 1/sqrt(var + eps), m averaged elements a channel:
    dbias = sum dy        dscale = r * sum(dy * c)
    dx = scale * r * (dy - dbias/m - c * r^2 * sum(dy * c)/m)    (training: mean and var depend on x)
    dx = scale * r * dy                                         (statistics given)
The rules for the three inputs repeat sums that common subexpression elimination merges.
"""

import math

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, shape_of


def _channels(g: GraphBuilder, v: ir.Value, like: ir.Value) -> ir.Value:
    """View a vector [C] as [1, C, 1, 1, ...], which broadcasts over the planes of `like`.

    With as many axes as `like`, since OpenVINO keeps channels last in memory only then.
    """
    rank = len(shape_of(like))
    return g.Reshape(v, np.array([1, -1] + [1] * (rank - 2), np.int64)) if rank > 2 else v


def _sum(g: GraphBuilder, v: ir.Value) -> ir.Value:
    """Sum over all axes but the channels: [C]."""
    axes = [0, *range(2, len(shape_of(v)))]
    return g.ReduceSum(v, np.array(axes, np.int64), keepdims=0)


def _statistics(site: Site) -> tuple[ir.Value, ir.Value]:
    """Return mean and variance [C] that the node normalises with."""
    if site.attribute("training_mode"):
        if site.attribute("momentum") != 0:
            raise AssertionError(f"{site.node.name}: only momentum 0 gives the statistics of the batch")
        return site.node.outputs[1], site.node.outputs[2]
    return site.x[3], site.x[4]


def _inverse_deviation(g: GraphBuilder, site: Site) -> ir.Value:
    """Return 1/sqrt(var + eps), [C]."""
    return g.Reciprocal(g.Sqrt(_statistics(site)[1] + float(site.attribute("epsilon"))))


def _centred(g: GraphBuilder, site: Site) -> ir.Value:
    return site.x[0] - _channels(g, _statistics(site)[0], site.x[0])


def batch_normalization_dx(g: GraphBuilder, site: Site, dy: ir.Value) -> ir.Value:
    """Rule for the input."""
    x, scale, r = site.x[0], site.x[1], _inverse_deviation(g, site)
    a = scale * r
    if not site.attribute("training_mode"):
        return dy * _channels(g, a, x)
    shape = [int(n) for n in shape_of(x)]
    m = float(math.prod(shape) // shape[1])
    c = _centred(g, site)
    b = -(a * r * r * _sum(g, dy * c)) / m
    shift = -(a * _sum(g, dy)) / m
    return dy * _channels(g, a, x) + (c * _channels(g, b, x) + _channels(g, shift, x))


def batch_normalization_dscale(g: GraphBuilder, site: Site, dy: ir.Value) -> ir.Value:
    """Rule for the scale (gamma)."""
    return _inverse_deviation(g, site) * _sum(g, dy * _centred(g, site))


def batch_normalization_dbias(g: GraphBuilder, site: Site, dy: ir.Value) -> ir.Value:
    """Rule for the bias (beta)."""
    return _sum(g, dy)
