"""One optimizer step: gradients of the objective, clipping, weight decay, rate, update rule, averages, step counter."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from netc.grad.engine import cotangents_of
from netc.grad.table import VJP
from netc.graph import GraphBuilder, Origin
from netc.layers.context import Context, StateTensor
from netc.solver.accumulation import Accumulation
from netc.solver.loss_scale import LossScale
from netc.solver.policies import DOUBLE, Clock
from netc.solver.rules import Solver

# The share that averages of weights keep grows from 0 as t / (t + AVERAGED_SOON), t the completed updates, until it
# reaches what the user asks for: the first weights, which are random, leave no trace (the docstring of Solver).
AVERAGED_SOON = 10.0


@dataclass(frozen=True)
class Step:
    """What an update was made from.

    Attributes:
        rate: the learning rate of this step before any `lr_mult`, a scalar.
        gradients: by name of the parameter, the mean gradient of the batches of the update, not clipped yet.
        cotangents: gradients of this batch's objective by the values that it was computed from, as far as the
            gradients of parameters need them.
        loss_scale: what `cotangents` are multiplied by, a scalar; None: nothing.
    """

    rate: ir.Value
    gradients: Mapping[str, ir.Value]
    cotangents: Mapping[ir.Value, ir.Value]
    loss_scale: ir.Value | None = None


def append_update(net: Context, solver: Solver, objective: ir.Value) -> Step:
    """Append the update of every parameter to the graph, into `net.updates`.

    Parameters with `lr_mult: 0`, and those that the objective does not depend on, keep their values and cost nothing.

    Args:
        net: the network, lowered in the train phase.
        solver: rate, decay and rule.
        objective: the scalar to minimise.
    """
    g, it = net.g, net.iteration()
    learned = [t for t in net.state.values() if t.role == "parameter" and t.lr_mult > 0]
    scaling = LossScale(net) if solver.precision == "mixed" else None
    scaled = objective if scaling is None else scaling.scaled(objective)
    cotangents = cotangents_of(g, VJP, scaled, [net.inputs[t.name] for t in learned])
    accumulation = Accumulation(net, solver.iter_size)
    with g.origin(Origin("solver", "update")), g.arithmetic():
        rate = solver.lr_policy.rate(Clock(g, it, net.planned_updates, net.lr_scale), solver.base_lr)
        net.updates["step"] = accumulation.select(net.step() + 1, net.step())
    found = [(tensor, cotangents.get(net.inputs[tensor.name])) for tensor in learned]
    gradients = [(tensor, dw) for tensor, dw in found if dw is not None]
    if scaling is not None:
        gradients = [(tensor, scaling.unscaled(dw, tensor.layer)) for tensor, dw in gradients]
    means = [(tensor, accumulation.mean(tensor, dw)) for tensor, dw in gradients]
    taken = accumulation.last
    if scaling is not None and means:
        applied, after = scaling.judge([dw for _, dw in means])
        it = scaling.applied_before(it)
        with g.origin(Origin("solver", "update")):
            taken = applied if taken is None else g.And(taken, applied)
            for name, value in after.items():
                net.updates[name] = accumulation.select(value, net.inputs[name])

    def select(new: ir.Value, old: ir.Value) -> ir.Value:
        return new if taken is None else g.Where(taken, new, old)

    for tensor, dw in _clipped(g, solver, means):
        w = net.inputs[tensor.name]
        with g.origin(Origin(tensor.layer, "update")), g.arithmetic():
            slots = [net.slot(tensor, slot) for slot in solver.slots]
            new, new_slots = _updated(g, solver, tensor, w, dw, rate, it, slots)
            net.updates[tensor.name] = select(new, w)
            for slot, old, value in zip(solver.slots, slots, new_slots, strict=True):
                net.updates[f"{tensor.name}/{slot}"] = select(value, old)
            if solver.weight_average is not None:
                average = net.average_of(tensor)
                kept = _kept_share(g, solver.weight_average, it)
                net.updates[str(average.name)] = select(average * kept + new * (1.0 - kept), average)
    scale = None if scaling is None else scaling.value
    return Step(rate, {tensor.name: dw for tensor, dw in means}, cotangents, scale)


def _clipped(
    g: GraphBuilder, solver: Solver, gradients: list[tuple[StateTensor, ir.Value]]
) -> list[tuple[StateTensor, ir.Value]]:
    """Clip gradients by value, then by the norm of all of them together; a shared parameter has one gradient."""
    if solver.clip_value is not None:
        limits = g.constant(-solver.clip_value), g.constant(solver.clip_value)
        gradients = [(tensor, _at(g, tensor, "Clip", dw, *limits)) for tensor, dw in gradients]
    if solver.clip_norm is not None and gradients:
        squares = [_at(g, tensor, "ReduceSum", _at(g, tensor, "Mul", dw, dw), keepdims=0) for tensor, dw in gradients]
        with g.origin(Origin("solver", "update")), g.arithmetic():
            norm = g.Sqrt(functools.reduce(g.Add, squares))
            # At most 1, and without a quotient by 0 where all gradients are 0.
            factor = solver.clip_norm / g.Max(norm, solver.clip_norm)
        gradients = [(tensor, _at(g, tensor, "Mul", dw, factor)) for tensor, dw in gradients]
    return gradients


def _at(g: GraphBuilder, tensor: StateTensor, op_type: str, *x: ir.Value, **attributes: int) -> ir.Value:
    """Append a node to the update of a parameter."""
    with g.origin(Origin(tensor.layer, "update")):
        return g.op(op_type, *x, **attributes)


def _updated(
    g: GraphBuilder,
    solver: Solver,
    tensor: StateTensor,
    w: ir.Value,
    dw: ir.Value,
    rate: ir.Value,
    it: ir.Value,
    slots: list[ir.Value],
) -> tuple[ir.Value, list[ir.Value]]:
    """Return a parameter after the step, and the solver's memory of it."""
    exempt = not (solver.decay_bias_and_norm or tensor.is_weight)
    strength = 0.0 if exempt else solver.weight_decay * tensor.decay_mult
    with g.arithmetic():
        decay = None if not strength else (w if solver.regularization == "L2" else g.Sign(w)) * strength
        lr = rate * tensor.lr_mult if tensor.lr_mult != 1.0 else rate
        coupled = None if solver.decoupled_decay else decay
        adapted = lr if exempt else solver.adapted(g, w, dw, coupled, lr)
        if coupled is not None:
            dw = dw + coupled
        elif decay is not None:
            w = w - decay * lr
    return solver.update(g, w, dw, adapted, it, slots)


def _kept_share(g: GraphBuilder, share: float, it: ir.Value) -> ir.Value:
    """Return what an average keeps in this update."""
    with g.arithmetic():
        t = g.Cast(it, to=DOUBLE)
        return g.Cast(g.Min(t / (t + AVERAGED_SOON), share), to=g.dtype)
