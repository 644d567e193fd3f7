"""The compiler on one page: spec to artifact, one arrow a line."""

import contextlib
import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from netc.autocast import autocast
from netc.emit import Artifact, Entry, Program, monitor_graph, train_graphs
from netc.errors import Diagnostic, SpecError, did_you_mean
from netc.graph.verify import verify
from netc.graph.webgpu import missing_kernel
from netc.layers.base import Phase
from netc.layers.context import DRAW
from netc.monitor import append_statistics
from netc.network import Count, Network, Term, lower, lower_inputs
from netc.phases import specs_of_phases
from netc.programs import batch_entries, output_entries, pack_state, program, use_averages, used
from netc.rewrite.fold import fold_batch_normalization, split
from netc.rewrite.lowerings import Lowerings
from netc.rewrite.passes import Platform, Target, clean, end, optimize_step
from netc.rewrite.recompute import recompute
from netc.solver.policies import Plateau
from netc.solver.step import Step, append_update
from netc.spec.load import Loaded
from netc.transfer import glob_mistakes

FLOAT = ir.DataType.FLOAT


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Spare Python the search for cycles to free: a graph is full of them, and they live until the end."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_collector_paused()
def build(
    loaded: Loaded,
    target: Target = "cpu",
    dtype: ir.DataType = FLOAT,
    lowerings: Lowerings | None = None,
    packs: bool = True,
) -> Artifact:
    """Compile a spec.

    Args:
        loaded: a validated spec.
        target: the engine that lowerings are chosen for. The graphs are plain ONNX whatever it is, but a step for `cpu`
            may hold BatchNormalization in training mode, which only CPUs run.
        dtype: the floating-point type; tests build in DOUBLE.
        lowerings: which lowering each place takes, where it is not the usual one.
        packs: whether programs for a browser take their state in flat buffers; tests compare with those that do not.

    Raises:
        SpecError: with all mistakes of the spec.
    """
    platform = Platform(target, dtype, lowerings or Lowerings())
    lowered = lower_phases(loaded, dtype)
    last = lowered.specs[-1]
    training, testing = lowered.training[-1], lowered.testing
    training.warnings += _slow_precision(loaded, target)
    inference = lower(last, "test", None, objectives=False, dtype=dtype)
    state = training.net.state | testing.net.state
    programs = {"eval": eval_program(last, testing, platform), **inference_programs(last, inference, platform)}
    steps = step_programs(lowered, platform)
    for network in reversed(lowered.training):
        state |= network.net.state
    if training.net.batch_statistics:
        programs["population"] = population_program(last, platform)
    if any(placed.layer.drops for placed in inference.placed):
        sampling = lower(last, "test", last.spec.data.batch_size, objectives=False, dtype=dtype, sampled=True)
        sample = sample_program(last, sampling, platform)
        if DRAW in (value.name for value in sample.graph.inputs):  # else no mask reaches an output
            programs["sample"] = sample
            state |= {name: tensor for name, tensor in sampling.net.state.items() if name not in state}
    if training.augmented:
        programs["augment"] = augment_program(last, platform)
    averages = {tensor.filled_as: name for name, tensor in state.items() if tensor.role == "average"}
    for other in programs.values():
        use_averages(other, averages)
    packed = pack_state(steps | programs, state.values()) if target == "web" and packs else []
    training.warnings += _missing_kernels(loaded, steps | programs) if target == "web" else []
    return Artifact(
        loaded.spec,
        target,
        steps | programs,
        list(state.values()),
        metric_entries(training, testing),
        training,
        [buffer.as_dict() for buffer in packed],
    )


@dataclass(frozen=True)
class Lowered:
    """A spec, lowered: what each phase of training trains by and its network, and the network of evaluation."""

    specs: list[Loaded]
    training: list[Network]
    testing: Network


@_collector_paused()
def lower_phases(loaded: Loaded, dtype: ir.DataType = FLOAT) -> Lowered:
    """Lower for every phase of training and for evaluation, which measures what the last one minimises.

    Raises:
        SpecError: with the mistakes of all, or a layer whose parameters differ between training and evaluation.
    """
    specs = specs_of_phases(loaded)
    networks: list[Network] = []
    mistakes: list[Diagnostic] = []
    phases: list[tuple[Loaded, Phase, int | None]] = [(specs[-1], "test", None)]
    phases[:0] = [(spec, "train", loaded.spec.data.batch_size) for spec in specs]
    for spec, phase, batch_size in phases:
        try:
            networks.append(lower(spec, phase, batch_size, dtype=dtype))
        except SpecError as error:
            known = {mistake.position for mistake in mistakes}  # the same mistake reads differently for one sample
            mistakes += [mistake for mistake in error.diagnostics if mistake.position not in known]
    if mistakes:
        raise SpecError(mistakes)
    *training, testing = networks
    _check_parameters(loaded, training[-1], testing)
    for spec, network in zip(specs, training, strict=True):
        mistakes += glob_mistakes(spec, (testing.net.state | network.net.state).values())
    if mistakes:
        raise SpecError(mistakes)
    if loaded.spec.solver.precision == "mixed":
        for network in training:
            autocast(network)
            verify(network.net.g.graph, "autocast")
    return Lowered(specs, training, testing)


def _check_parameters(loaded: Loaded, training: Network, testing: Network) -> None:
    """Refuse a network without parameters, or with parameters that differ between training and evaluation."""
    if not any(tensor.role == "parameter" for tensor in training.net.state.values()):
        message = "no layer has a parameter, so there is nothing to train; add one, such as an InnerProduct"
        raise SpecError([loaded.at(("layers",), message, key=True)])
    compare_phases(loaded, training, testing)
    said = set(map(str, training.warnings))
    training.warnings += [warning for warning in testing.warnings if str(warning) not in said]
    require_monitor(loaded, testing)
    _check_early_stopping(loaded, training, testing)


def _slow_precision(loaded: Loaded, target: Target) -> list[Diagnostic]:
    """Return a warning where float16 costs time instead of saving it."""
    if loaded.spec.solver.precision == "float32" or target not in ("cpu", "openvino"):
        return []
    message = (
        f"precision: mixed saves time on GPUs alone; what is compiled for {target} computes float16 by way of float32, "
        "which is no faster; remove it, or train on cuda"
    )
    return [loaded.at(("solver", "precision"), message)]


def _missing_kernels(loaded: Loaded, programs: Mapping[str, Program]) -> list[Diagnostic]:
    """Return a warning that names what WebGPU has no kernel for, and the layers; `fold` runs once, on any engine."""
    found: dict[str, dict[str, None]] = {}
    for name, built in programs.items():
        for node in built.graph if name != "fold" else ():
            missing = missing_kernel(node)
            if missing is not None:
                found.setdefault(missing, {})[node.metadata_props["netc.layer"]] = None
    if not found:
        return []
    listed = "; ".join(f"{missing} ({', '.join(layers)})" for missing, layers in sorted(found.items()))
    message = (
        f"WebGPU has no kernel for {listed}: in a browser these nodes run on the WebAssembly provider, to which what "
        "they read is copied in every step; train on WebAssembly alone, or use other layers"
    )
    return [loaded.at(("layers",), message, key=True)]


def compare_phases(loaded: Loaded, training: Network, testing: Network) -> None:
    """Refuse what one name means in one phase and not in the other; warn of what only evaluation learns of.

    Raises:
        SpecError: a layer whose parameters, or a loss or metric whose kind, differ between the phases.
    """
    places = {placed.layer.name: placed.path for placed in testing.placed}
    mistakes: list[Diagnostic] = []
    for name, tensor in testing.net.state.items():
        layer, suffix = tensor.layer, name.rsplit(".", 1)[-1]
        other = training.net.state.get(name)
        if other is None and tensor.role == "parameter":
            message = f"{layer}: its {suffix} has no part in the train phase, so that it stays as it is drawn"
            training.warnings.append(loaded.at(places[layer], message))
        elif other is not None and other.shape != tensor.shape and not mistakes:  # later layers only follow
            message = (
                f"{layer}: its {suffix} has the shape {list(tensor.shape)} in the test phase and "
                f"{list(other.shape)} in the train phase; both phases must use the same parameters"
            )
            mistakes.append(loaded.at(places[layer], message))
    kinds = {term.name: term.kind for term in training.terms}
    measured: list[Term | Count] = [*testing.terms, *testing.counts]
    for tested in measured:
        if tested.layer is not None and kinds.get(tested.name, tested.kind) != tested.kind:
            message = f"{tested.name}: is a {kinds[tested.name]} while training and a {tested.kind} while testing"
            mistakes.append(loaded.at(places[tested.layer], f"{message}; give one of them another name"))
    if mistakes:
        raise SpecError(mistakes)


def _check_early_stopping(loaded: Loaded, training: Network, testing: Network) -> None:
    """Raise SpecError for a metric that evaluation does not have, or a best checkpoint without its statistics."""
    early = loaded.spec.run.early_stopping
    if early is None:
        return
    place = ("run", "early_stopping")
    measured = {term.name for term in testing.terms} | {count.name for count in testing.counts}
    if early.monitor is not None and early.monitor not in measured:
        message = f'monitor: evaluation has no metric "{early.monitor}"{did_you_mean(early.monitor, measured)}'
        raise SpecError([loaded.at((*place, "monitor"), message)])
    if early.restore_best and training.net.batch_statistics:
        message = (
            "restore_best: population statistics are collected once, for the last checkpoint, so that the best one has "
            "none; set restore_best: false, or statistics: moving_average of BatchNorm"
        )
        raise SpecError([loaded.at((*place, "restore_best"), message)])


@_collector_paused()
def step_programs(lowered: Lowered, platform: Platform) -> dict[str, Program]:
    """Return the training program of every phase and, if the run is monitored, those that monitor them."""
    programs: dict[str, Program] = {}
    names = train_graphs(len(lowered.specs))
    for name, loaded, network in zip(names, lowered.specs, lowered.training, strict=True):
        graph = network.net.g.graph
        verify(graph, "lowering the layers")
        step = append_update(network.net, loaded.spec.solver, network.terms[0].mean.value)
        verify(graph, "differentiation and update")
        programs[name] = train_program(loaded, network, step, platform)
        network.warnings += idle_checkpoints(loaded, network, programs[name].graph)
        if loaded.spec.run.monitor_every is not None:
            graph.outputs.clear()
            outputs = append_statistics(network, step)
            verify(graph, "the statistics of a step")
            programs[monitor_graph(name)] = program(loaded, network, step_graph(network, step, platform), outputs)
    return programs


def train_program(loaded: Loaded, network: Network, step: Step, platform: Platform) -> Program:
    """Return (state, batch) -> (next state, metrics)."""
    net, outputs = network.net, dict[str, Entry]()
    for name, value in net.updates.items():
        net.g.output(f"{name}.next", value)
        outputs[f"{name}.next"] = {"role": "next", "feeds": name}
    for term in network.terms:
        net.g.output(term.name, term.mean.value)
        outputs[term.name] = {"role": "metric"}
    net.g.output("lr", step.rate)
    outputs["lr"] = {"role": "metric"}
    return program(loaded, network, step_graph(network, step, platform), outputs)


def step_graph(network: Network, step: Step, platform: Platform) -> ir.Graph:
    """Return the graph of a step that computes again what its checkpoints do not keep, made for a platform."""
    graph = network.net.g.graph
    checkpoints = {p.layer.name: tuple(p.layer.checkpoint) for p in network.placed if not p.is_objective}
    if any(checkpoints.values()):
        graph = recompute(graph, checkpoints, step.cotangents, platform.dtype)
        verify(graph, "recomputation")
    return optimize_step(graph, platform)


def idle_checkpoints(loaded: Loaded, network: Network, graph: ir.Graph) -> list[Diagnostic]:
    """Return a warning for each checkpoint of which the step, as it was made, computes nothing again."""
    nodes = [node.metadata_props for node in graph]
    again = {origin["netc.layer"] for origin in nodes if origin.get("netc.part") == "recompute"}
    places = {name: placed.path for placed in reversed(network.placed) for name in placed.layer.checkpoint}
    busy = {name for placed in network.placed if placed.layer.name in again for name in placed.layer.checkpoint}
    message = "has no effect: the backward pass reads nothing of it that it would have to compute again; remove it"
    idle = [name for name in reversed(places) if name not in busy]
    return [loaded.at((*places[name], "checkpoint"), f'checkpoint "{name}" {message}', key=True) for name in idle]


def population_program(loaded: Loaded, platform: Platform) -> Program:
    """Return (state, batch) -> the statistics of this batch whose averages replace those of the state after training.

    Batches are normalised as in training (Ioffe & Szegedy, 2015, Algorithm 2).
    """
    network = lower(loaded, "train", loaded.spec.data.batch_size, dtype=platform.dtype)
    net, outputs = network.net, dict[str, Entry]()
    for name, value in net.batch_statistics.items():
        net.g.output(f"{name}.batch", value)
        outputs[f"{name}.batch"] = {"role": "statistic", "feeds": name}
    return program(loaded, network, optimize_step(net.g.graph, platform), outputs)


def sample_program(loaded: Loaded, network: Network, platform: Platform) -> Program:
    """Return (state, batch, draw) -> outputs of the network in test mode, but with masks of dropout.

    Their mean and deviation over many draws say how sure the network is (Gal & Ghahramani, 2016). Masks are drawn as in
    training, with the number `draw` in the place of the step; they differ between the places of a batch, whose size is
    fixed for that.
    """
    outputs = output_entries(network)
    verify(network.net.g.graph, "lowering the layers for sampling")
    sample = program(loaded, network, optimize_step(network.net.g.graph, platform), outputs)
    sample.inputs = {**sample.inputs, DRAW: {"role": "draw"}}
    return sample


def augment_program(loaded: Loaded, platform: Platform) -> Program:
    """Return (state, batch, draw) -> raw values of a training batch after augmentation.

    They are those that the step takes whose number stands in the place of `draw`.
    """
    network = lower_inputs(loaded, loaded.spec.data.batch_size, platform.dtype)
    outputs: dict[str, Entry] = {}
    for name, value in network.augmented.items():
        network.net.g.output(f"{name}.augmented", value)
        outputs[f"{name}.augmented"] = {"role": "augmented", "feeds": name}
    verify(network.net.g.graph, "lowering the augmentation")
    augmented = program(loaded, network, optimize_step(network.net.g.graph, platform), outputs)
    augmented.inputs = {**augmented.inputs, DRAW: {"role": "draw"}}
    return augmented


def eval_program(loaded: Loaded, network: Network, platform: Platform) -> Program:
    """Return (state, batch) -> outputs, metrics and the weights of the metrics."""
    net = network.net
    outputs = output_entries(network)
    for term in network.terms:
        net.g.output(term.name, term.mean.value)
        net.g.output(f"{term.name}.weight", term.mean.weight)
        outputs[term.name] = {"role": "metric", "weight": f"{term.name}.weight"}
        outputs[f"{term.name}.weight"] = {"role": "weight"}
    for count in network.counts:
        net.g.output(count.name, count.matrix)
        outputs[count.name] = {"role": "count"}
    verify(net.g.graph, "lowering the layers for evaluation")
    return program(loaded, network, end(net.g.graph, platform), outputs)


def inference_programs(loaded: Loaded, network: Network, platform: Platform) -> dict[str, Program]:
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
    infer = Program(end(halves.infer.graph, platform), parameters | batch_entries(loaded, network), outputs)
    return {"fold": used(fold), "infer": used(infer)}


def require_monitor(loaded: Loaded, testing: Network) -> None:
    """Refuse a plateau that watches what evaluation does not measure."""
    policy = loaded.spec.solver.lr_policy
    metrics: list[Term | Count] = [*testing.terms, *testing.counts]
    measured = [metric.name for metric in metrics]
    if isinstance(policy, Plateau) and policy.monitor not in measured:
        message = f'evaluation has no metric "{policy.monitor}"{did_you_mean(policy.monitor, measured)}'
        raise SpecError([loaded.at(("solver", "lr_policy", "monitor"), message)])


def metric_entries(training: Network, testing: Network) -> list[Entry]:
    """Return the manifest's list of metrics: those of training, the rate, and those of evaluation alone."""
    entries: list[Entry] = [{"name": t.name, "kind": t.kind, "layer": t.layer} for t in training.terms]
    entries.append({"name": "lr", "kind": "rate", "layer": None})
    known = {entry["name"] for entry in entries}
    tested: list[Term | Count] = [*testing.terms, *testing.counts]
    return entries + [{"name": t.name, "kind": t.kind, "layer": t.layer} for t in tested if t.name not in known]
