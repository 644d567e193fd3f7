"""The order in which OpenVINO executes a step: what the last layers change first.

OpenVINO executes what the first output needs, depth first, then what the second one needs besides, and so on. In the
order of the layers, the first weight to change asks for the whole backward pass, and the gradients of all activations
wait in memory until the gradients of the weights are computed from them. With the outputs turned round each weight is
changed as soon as its gradient can be had. Measured: 0.9 of the memory of a step for VGG, 0.93 for ResNet-20.

Numbers that many updates read stand in the way, such as the learning rate: OpenVINO fuses the operator that computes
one with the first update that reads it, after which every update waits for that one. A change of shape between them,
from a number to one element, is not fused. Solvers whose updates depend on all gradients at once wait all the same
(clip_norm), and so does LARS, whose numbers differ for each weight.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, shape_of
from netc.rewrite.replay import Inputs, ReplayRule


def last_first(graph: ir.Graph) -> ir.Graph:
    """Turn the outputs of a graph round."""
    graph.outputs[:] = list(reversed(graph.outputs))
    return graph


def part_from_number(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite a product or quotient of a tensor and a number that is computed."""
    numbers = [value.producer() is not None and not shape_of(value) for value in site.x]
    if not any(numbers) or not shape_of(site.y):
        return None
    one = np.array([1], np.int64)
    parted = (g.Reshape(x, one) if is_number else x for x, is_number in zip(inputs, numbers, strict=True))
    return (g.op(site.node.op_type, *parted),)


RULES: dict[str, Sequence[ReplayRule]] = dict.fromkeys(("Mul", "Div"), (part_from_number,))
