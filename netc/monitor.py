"""Statistics of a step: what the layers compute, what gradients reach them, and how far their parameters move.

They are read off the graph of a training step, so that they are those of the very step that the training program would
make, with its dropout masks and batch statistics. Each is one number; nothing but reductions is added to the graph.
"""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from netc.graph import GraphBuilder, Origin, shape_of
from netc.layers.base import Layer
from netc.network import Network
from netc.solver.step import Step

QUANTITIES = (
    "mean_abs_activation",
    "zero_fraction",
    "dead_fraction",
    "mean_abs_gradient",
    "gradient_norm",
    "update_ratio",
)


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
    values: dict[str, ir.Value] = {}

    def give(layer: Layer, tensor: str, statistics: Mapping[str, ir.Value]) -> None:
        for quantity, value in statistics.items():
            name = f"{tensor}/monitor/{quantity}"
            values[name] = value
            entries[name] = {"role": "monitor", "layer": layer.name, "tensor": tensor, "quantity": quantity}

    layers = [placed.layer for placed in network.placed]
    # ONNX Runtime computes the last of the results first, and keeps what others need: in this order, the reverse of
    # that of the step, it can drop each activation and gradient as early as while training.
    for layer in layers:
        with g.origin(Origin(layer.name, "monitor")):
            for name in [name for name in step.gradients if net.state[name].layer == layer.name]:
                give(layer, name, _of_parameter(g, net.inputs[name], step.gradients[name], net.updates[name]))
            for top, y in _tops(network, layer):
                if y in step.cotangents:
                    size = _mean_abs(g, step.cotangents[y])
                    given = size if step.loss_scale is None else g.Div(size, step.loss_scale)
                    give(layer, top, {"mean_abs_gradient": given})
    for layer in reversed(layers):
        with g.origin(Origin(layer.name, "monitor")):
            for top, y in _tops(network, layer):
                give(layer, top, _of_activation(g, y, layer.has_dead_zone))
    places = {layer.name: index for index, layer in enumerate(layers)}
    order = {name: (places[entry["layer"]], QUANTITIES.index(entry["quantity"])) for name, entry in entries.items()}
    ordered = sorted(entries, key=order.__getitem__)
    for name in ordered:
        g.output(name, values[name])
    return {name: entries[name] for name in ordered}


def _tops(network: Network, layer: Layer) -> list[tuple[str, ir.Value]]:
    """Return the tops of a layer that are numbers: losses and metrics have none, and labels may pass a layer."""
    found = [(top, network.tops[top]) for top in layer.tops if top in network.tops]
    return [(top, y) for top, y in found if y.dtype is not None and y.dtype.is_floating_point()]


def _of_parameter(g: GraphBuilder, w: ir.Value, dw: ir.Value, new: ir.Value) -> dict[str, ir.Value]:
    with g.arithmetic():
        ratio = g.ReduceL2(new - w, keepdims=0) / g.ReduceL2(w, keepdims=0)
    return {"gradient_norm": g.ReduceL2(dw, keepdims=0), "update_ratio": ratio}


def _of_activation(g: GraphBuilder, y: ir.Value, may_be_dead: bool) -> dict[str, ir.Value]:
    found = {"mean_abs_activation": _mean_abs(g, y)}
    if may_be_dead:
        active = g.Cast(g.Not(g.Equal(y, 0.0)), to=g.dtype)
        batch_and_places = [axis for axis in range(len(shape_of(y))) if axis != 1]
        ever_active = g.ReduceMax(active, batch_and_places, keepdims=0)
        with g.arithmetic():
            found["zero_fraction"] = 1.0 - _mean(g, active)
            found["dead_fraction"] = 1.0 - g.ReduceMean(ever_active, keepdims=0)
    return found


def _mean_abs(g: GraphBuilder, x: ir.Value) -> ir.Value:
    return _mean(g, g.Abs(x if x.dtype == g.dtype else g.Cast(x, to=g.dtype)))


def _mean(g: GraphBuilder, x: ir.Value) -> ir.Value:
    """Return the mean over all elements: first over each sample's, as one sum over millions would lose digits."""
    of_sample = list(range(1, len(shape_of(x))))
    return g.ReduceMean(g.ReduceMean(x, of_sample, keepdims=0) if of_sample else x, keepdims=0)
