"""Statistics of a step: what the layers compute, what gradients reach them, and how far their parameters move.

They are read off the graph of a training step, so that they are those of the very step that the training program would
make, with its dropout masks and batch statistics. Each is one number; nothing but reductions is added to the graph.
"""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from netc.graph import GraphBuilder, Origin, shape_of
from netc.network import Network
from netc.solver.step import Step


def append_statistics(network: Network, step: Step) -> dict[str, dict[str, Any]]:
    """Append the statistics to the graph of a step, as its outputs, and return what the manifest says of each.

    Of the top of each layer, wherever it stands:

    - `mean_abs_activation`, the mean of its magnitudes;
    - `mean_abs_gradient`, the same of the gradient of the objective with respect to it, unless training needs none;
    - `zero_fraction` and `dead_fraction`, where a unit may be dead: the share of zeros among its values, and the share
      of its units (channels, shared by all places) that are 0 throughout the batch.

    Of each learned parameter:

    - `gradient_norm`, the L2 norm of its gradient, before clipping and decay;
    - `update_ratio`, the L2 norm of its change in this step relative to its own; not finite where all of it is 0.
    """
    net, g = network.net, network.net.g
    entries: dict[str, dict[str, Any]] = {}

    def give(layer: str, tensor: str, statistics: Mapping[str, ir.Value]) -> None:
        for quantity, value in statistics.items():
            name = f"{tensor}/monitor/{quantity}"
            g.output(name, value)
            entries[name] = {"role": "monitor", "layer": layer, "tensor": tensor, "quantity": quantity}

    for layer in (placed.layer for placed in network.placed):
        for top in layer.tops:
            y = network.tops.get(top)
            if y is None or y.dtype != g.dtype:
                continue  # losses and metrics have no top, and labels that pass a layer no magnitude
            with g.origin(Origin(layer.name, "monitor")):
                give(layer.name, top, _of_top(g, y, step.cotangents.get(y), layer.has_dead_zone))
    for name, dw in step.gradients.items():
        layer_name = net.state[name].layer
        with g.origin(Origin(layer_name, "monitor")):
            give(layer_name, name, _of_parameter(g, net.inputs[name], dw, net.updates[name]))
    return entries


def _of_top(g: GraphBuilder, y: ir.Value, dy: ir.Value | None, may_be_dead: bool) -> dict[str, ir.Value]:
    found = {"mean_abs_activation": _mean_abs(g, y)}
    if dy is not None:
        found["mean_abs_gradient"] = _mean_abs(g, dy)
    if may_be_dead:
        with g.arithmetic():
            found["zero_fraction"] = 1.0 - _mean_abs(g, g.Sign(y))
        places = [axis for axis in range(len(shape_of(y))) if axis != 1]
        of_units = g.ReduceSum(g.Abs(y), places, keepdims=0)
        found["dead_fraction"] = g.ReduceMean(g.Cast(g.Equal(of_units, 0.0), to=g.dtype), keepdims=0)
    return found


def _of_parameter(g: GraphBuilder, w: ir.Value, dw: ir.Value, new: ir.Value) -> dict[str, ir.Value]:
    with g.arithmetic():
        ratio = g.ReduceL2(new - w, keepdims=0) / g.ReduceL2(w, keepdims=0)
    return {"gradient_norm": g.ReduceL2(dw, keepdims=0), "update_ratio": ratio}


def _mean_abs(g: GraphBuilder, x: ir.Value) -> ir.Value:
    """Return the mean magnitude: first of each sample, because one sum over millions of values rounds too often."""
    of_samples = (
        g.ReduceMean(g.Abs(x), list(range(1, len(shape_of(x)))), keepdims=0) if len(shape_of(x)) > 1 else g.Abs(x)
    )
    return g.ReduceMean(of_samples, keepdims=0)
