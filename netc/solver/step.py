"""One optimizer step: gradients of the objective, weight decay, rate, update rule, step counter."""

import onnx_ir as ir

from netc.grad.engine import gradients
from netc.grad.table import VJP
from netc.graph import Origin
from netc.layers.context import Context
from netc.solver.rules import Solver


def append_update(net: Context, solver: Solver, objective: ir.Value) -> ir.Value:
    """Append the update of every parameter to the graph, into `net.updates`.

    Parameters with `lr_mult: 0`, and those that the objective does not depend on, keep their values and cost nothing.

    Args:
        net: the network, lowered in the train phase.
        solver: rate, decay and rule.
        objective: the scalar to minimise.

    Returns:
        The learning rate of this step before any `lr_mult`, a scalar.
    """
    g, it = net.g, net.iteration()
    learned = [t for t in net.state.values() if t.role == "parameter" and t.lr_mult > 0]
    derivatives = gradients(g, VJP, objective, [net.inputs[t.name] for t in learned])
    with g.origin(Origin("solver", "update")), g.arithmetic():
        rate = solver.lr_policy.rate(g, solver.base_lr, it)
        net.updates["step"] = net.step() + 1
    for tensor in learned:
        w = net.inputs[tensor.name]
        dw = derivatives.get(w)
        if dw is None:
            continue
        with g.origin(Origin(tensor.layer, "update")), g.arithmetic():
            decay = solver.weight_decay * tensor.decay_mult
            lr = rate * tensor.lr_mult if tensor.lr_mult != 1.0 else rate
            slots = [net.slot(tensor, slot) for slot in solver.slots]
            new, new_slots = solver.update(g, w, dw + w * decay if decay else dw, lr, it, slots)
            net.updates[tensor.name] = new
            for slot, value in zip(solver.slots, new_slots, strict=True):
                net.updates[f"{tensor.name}/{slot}"] = value
    return rate
