"""Expand BatchNormalization in training mode, which CUDA and WebGPU refuse, into operators that run everywhere.

Two-pass statistics (the one-pass form E[x^2] - E[x]^2 loses 2e-4 in float32):
    mean = E[x]    c = x - mean    var = E[c^2]    y = scale * c / sqrt(var + eps) + bias
The last formula is the operator in inference mode fed with the statistics of the batch: one fused pass.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, shape_of
from netc.rewrite.replay import Inputs


def expand(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Replace a node in training mode; keep one in inference mode."""
    if not site.attribute("training_mode"):
        return None
    if site.attribute("momentum") != 0:
        raise AssertionError(f"{site.node.name}: only momentum 0 gives the statistics of the batch")
    x, scale, bias = (value for value in inputs[:3] if value is not None)
    rank = len(shape_of(x))
    axes = np.array([0, *range(2, rank)], np.int64)
    mean = g.ReduceMean(x, axes, keepdims=0)
    planes = np.array([-1] + [1] * (rank - 2), np.int64)
    centred = x - (g.Reshape(mean, planes) if rank > 2 else mean)
    var = g.ReduceMean(centred * centred, axes, keepdims=0)
    y = g.BatchNormalization(x, scale, bias, mean, var, epsilon=site.attribute("epsilon"))
    return y, mean, var
