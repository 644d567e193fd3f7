"""The compiler on one page: spec to artifact, one arrow a line."""

import onnx_ir as ir

from netc.emit import Artifact, Entry, Program
from netc.errors import Diagnostic, SpecError
from netc.graph.verify import verify
from netc.layers.base import Phase
from netc.layers.context import Context
from netc.network import Network, lower
from netc.rewrite.fold import fold_batch_normalization, split
from netc.rewrite.passes import Target, clean, optimize_step
from netc.solver.step import append_update
from netc.spec.load import Loaded

FLOAT = ir.DataType.FLOAT


def build(loaded: Loaded, target: Target = "cpu", dtype: ir.DataType = FLOAT) -> Artifact:
    """Compile a spec.

    Args:
        loaded: a validated spec.
        target: the engine that lowerings are chosen for; the graphs run on every one.
        dtype: the floating-point type; tests build in DOUBLE.

    Raises:
        SpecError: with all mistakes of the spec.
    """
    training, testing = lower_phases(loaded, dtype)
    inference = lower(loaded, "test", None, objectives=False, dtype=dtype)
    state = training.net.state | testing.net.state
    train = train_program(loaded, training, target, dtype)
    state |= training.net.state
    programs = {"train": train, "eval": eval_program(loaded, testing), **inference_programs(loaded, inference)}
    return Artifact(loaded.spec, target, programs, list(state.values()), metric_entries(training), training)


def lower_phases(loaded: Loaded, dtype: ir.DataType) -> tuple[Network, Network]:
    """Lower for training and for evaluation.

    Raises:
        SpecError: with the mistakes of both phases, or a layer whose parameters differ between them.
    """
    networks: list[Network] = []
    mistakes: list[Diagnostic] = []
    phases: tuple[tuple[Phase, int | None], ...] = (("train", loaded.spec.data.batch_size), ("test", None))
    for phase, batch_size in phases:
        try:
            networks.append(lower(loaded, phase, batch_size, dtype=dtype))
        except SpecError as error:
            known = {mistake.position for mistake in mistakes}  # the same mistake reads differently for one sample
            mistakes += [mistake for mistake in error.diagnostics if mistake.position not in known]
    if mistakes:
        raise SpecError(mistakes)
    training, testing = networks
    if not any(tensor.role == "parameter" for tensor in training.net.state.values()):
        message = "no layer has a parameter, so there is nothing to train; add one, such as an InnerProduct"
        raise SpecError([loaded.at(("layers",), message, key=True)])
    for name, tensor in testing.net.state.items():
        other = training.net.state.get(name, tensor)
        if other.shape != tensor.shape:
            layer = name.rsplit(".", 1)[0]
            place = next(placed.path for placed in testing.placed if placed.layer.name == layer)
            message = (
                f"{layer}: its {name.rsplit('.', 1)[1]} has the shape {list(tensor.shape)} in the test phase and "
                f"{list(other.shape)} in the train phase; both phases must use the same parameters"
            )
            raise SpecError([loaded.at(place, message)])
    return training, testing


def train_program(loaded: Loaded, network: Network, target: Target, dtype: ir.DataType) -> Program:
    """Return (state, batch) -> (next state, metrics)."""
    net = network.net
    verify(net.g.graph, "lowering the layers")
    rate = append_update(net, loaded.spec.solver, network.terms[0].mean.value)
    verify(net.g.graph, "differentiation and update")
    outputs: dict[str, Entry] = {}
    for name, value in net.updates.items():
        net.g.output(f"{name}.next", value)
        outputs[f"{name}.next"] = {"role": "next", "feeds": name}
    for term in network.terms:
        net.g.output(term.name, term.mean.value)
        outputs[term.name] = {"role": "metric"}
    net.g.output("lr", rate)
    outputs["lr"] = {"role": "metric"}
    return program(loaded, net, optimize_step(net.g.graph, target, dtype), outputs)


def eval_program(loaded: Loaded, network: Network) -> Program:
    """Return (state, batch) -> outputs, metrics and the weights of the metrics."""
    net = network.net
    outputs = output_entries(network)
    for term in network.terms:
        net.g.output(term.name, term.mean.value)
        net.g.output(f"{term.name}.weight", term.mean.weight)
        outputs[term.name] = {"role": "metric", "weight": f"{term.name}.weight"}
        outputs[f"{term.name}.weight"] = {"role": "weight"}
    verify(net.g.graph, "lowering the layers for evaluation")
    return program(loaded, net, clean(net.g.graph), outputs)


def inference_programs(loaded: Loaded, network: Network) -> dict[str, Program]:
    """Return (state) -> inference parameters, and (inference parameters, batch) -> outputs."""
    net = network.net
    outputs = output_entries(network)
    verify(net.g.graph, "lowering the layers for inference")
    folded = clean(fold_batch_normalization(net.g.graph).graph)
    halves = split(folded, set(net.state))
    fold = Program(
        clean(halves.fold.graph),
        {name: {"role": "state"} for name in net.state},
        {name: {"role": "parameter", "feeds": fed} for name, fed in halves.feeds.items()},
    )
    parameters: dict[str, Entry] = {name: {"role": "parameter"} for name in halves.feeds.values()}
    infer = Program(clean(halves.infer.graph), parameters | batch_entries(loaded), outputs)
    return {"fold": used(fold), "infer": used(infer)}


def output_entries(network: Network) -> dict[str, Entry]:
    """Declare the network's outputs in its graph and say what they are."""
    for output in network.outputs:
        network.net.g.output(output.name, output.value)
    return {
        output.name: {"role": "output", "activation": output.activation, "label": output.label}
        for output in network.outputs
    }


def batch_entries(loaded: Loaded) -> dict[str, Entry]:
    """Return what the manifest says of each batch input: which array of a data source feeds it."""
    entries: dict[str, Entry] = {}
    claimed = {"image", "label"} & loaded.spec.inputs.keys()
    for name, declared in loaded.spec.inputs.items():
        kind = "label" if declared.classes is not None else "image"
        field = name if kind in claimed else kind
        claimed.add(field)
        entries[name] = {"role": "batch", "field": field}
        if declared.classes is not None:
            entries[name]["classes"] = declared.classes
    return entries


def program(loaded: Loaded, net: Context, graph: ir.Graph, outputs: dict[str, Entry]) -> Program:
    """Return a program that reads state and batch, without the inputs that it does not use."""
    state: dict[str, Entry] = {name: {"role": "state"} for name in net.state}
    return used(Program(graph, state | batch_entries(loaded), outputs))


def used(program: Program) -> Program:
    """Drop the inputs that nobody reads."""
    for value in list(program.graph.inputs):
        if not value.uses() and not value.is_graph_output():
            program.graph.inputs.remove(value)
    return program


def metric_entries(network: Network) -> list[Entry]:
    """Return the manifest's list of metrics."""
    entries = [{"name": t.name, "kind": t.kind, "layer": None if t.kind == "total" else t.name} for t in network.terms]
    return [*entries, {"name": "lr", "kind": "rate", "layer": None}]
