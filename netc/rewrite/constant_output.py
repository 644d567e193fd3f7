"""Outputs that are constants, such as a fixed learning rate, computed from an input nevertheless.

    y = c   becomes   y = c + 0 * t, where t is the number of the step

Reason: ONNX Runtime copies a constant from the host to the output at the end of each run, and no copy that waits may
happen while a CUDA graph is captured, so that the whole step would be refused. t is an integer, so 0 * t is 0.
"""

from collections.abc import Sequence

import onnx_ir as ir

from netc.graph import GraphBuilder, Site, constant_value, shape_of
from netc.rewrite.replay import Inputs


def compute(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite the copy that makes a constant an output; it needs an integer scalar among the inputs of the graph."""
    c = inputs[0]
    if c is None or constant_value(c) is None or not site.y.is_graph_output():
        return None
    counts = [value for value in g.graph.inputs if value.dtype == ir.DataType.INT64 and not shape_of(value)]
    if not counts or c.dtype is None:
        return None
    return (c + g.Cast(counts[0], to=c.dtype) * g.constant(0, c.dtype),)
