"""BatchNormalization in training mode: what engines that refuse the operator run instead, and what the CPU runs.

CUDA and WebGPU refuse it. `expand` puts operators in its place that run everywhere, with two-pass statistics (the
one-pass form E[x^2] - E[x]^2 loses 2e-4 in float32):
    mean = E[x]    c = x - mean    var = E[c^2]    y = scale * c / sqrt(var + eps) + bias
The last formula is the operator in inference mode fed with the statistics of the batch: one fused pass.

A channel has the same statistics wherever it is joined to others, so that those of a Concat are the Concat of those of
its parts. In a DenseNet, whose every layer normalizes all that came before it, each channel is summed once that way and
not once a layer: the number of sums grows with the depth, not with its square.

ONNX Runtime's CPU provider has the operator, and `keep` leaves it there: x is read twice and y written once, where the
expansion writes c and its squares to memory too, which costs 3 to 4 times as much. With momentum 0 the running values
that go in do not count. That kernel writes the new running values into the memory of the old ones, whoever else
reads those: each node needs a pair of its own. 0 * scale and 0 * bias are one for each layer.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, shape_of
from netc.rewrite.replay import Inputs


def keep(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Give a node in training mode running values of its own; decline one whose scale or bias others read too."""
    if not site.attribute("training_mode") or any(_readers(value) > 1 for value in site.x[1:3]):
        return None
    _require_batch_statistics(site)
    x, scale, bias = (value for value in inputs[:3] if value is not None)
    return g.ops("BatchNormalization", x, scale, bias, scale * 0.0, bias * 0.0, num_outputs=3, **site.attributes())


def _readers(value: ir.Value) -> int:
    """Return how many normalizations read a value; two for a constant, which equal ones share."""
    if value.is_initializer():
        return 2
    return sum(use.node.op_type == "BatchNormalization" for use in value.uses())


def _require_batch_statistics(site: Site) -> None:
    if site.attribute("momentum") != 0:
        raise AssertionError(f"{site.node.name}: only momentum 0 gives the statistics of the batch")


def expand(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Replace a node in training mode; keep one in inference mode."""
    if not site.attribute("training_mode"):
        return None
    _require_batch_statistics(site)
    x, scale, bias = (value for value in inputs[:3] if value is not None)
    mean, var = _statistics(g, x)
    return g.BatchNormalization(x, scale, bias, mean, var, epsilon=site.attribute("epsilon")), mean, var


def _statistics(g: GraphBuilder, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return mean and variance [C] of each channel, those of joined channels from what was joined."""
    joint = x.producer()
    if joint is not None and joint.op_type == "Concat" and Site(joint).attribute("axis") == 1:
        means, variances = zip(*(_statistics(g, part) for part in Site(joint).x), strict=True)
        return g.Concat(*means, axis=0), g.Concat(*variances, axis=0)
    rank = len(shape_of(x))
    axes = np.array([0, *range(2, rank)], np.int64)
    mean = g.ReduceMean(x, axes, keepdims=0)
    # With as many axes as x: OpenVINO keeps channels last in memory only then.
    planes = np.array([1, -1] + [1] * (rank - 2), np.int64)
    centred = x - (g.Reshape(mean, planes) if rank > 2 else mean)
    return mean, g.ReduceMean(centred * centred, axes, keepdims=0)
