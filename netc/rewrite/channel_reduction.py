"""Sums and means over samples and planes in two steps.

    ReduceSum over N, H, W = ReduceSum over N of (ReduceSum over H, W)

and the same for means, all of whose parts have one size. These are the statistics of batch normalization and the
gradients of biases. Reason: ONNX Runtime's CUDA provider has kernels of its own for reductions over the last axes and
over the first ones; what keeps an axis in the middle goes through cuDNN's general reduction.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, constant_value, shape_of
from netc.rewrite.replay import Inputs


def in_two_steps(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite a ReduceSum or ReduceMean over all axes but the second."""
    x = inputs[0]
    if x is None or len(site.x) < 2 or site.attribute("keepdims"):
        return None
    axes, rank = constant_value(site.x[1]), len(shape_of(x))
    if axes is None or rank < 3 or sorted(axes.tolist()) != [0, *range(2, rank)]:
        return None
    planes = g.op(site.node.op_type, x, np.arange(2, rank, dtype=np.int64), keepdims=0)
    return (g.op(site.node.op_type, planes, np.array([0], np.int64), keepdims=0),)
