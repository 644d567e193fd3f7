"""The compiler on one page: spec to artifact, one arrow a line."""

import contextlib
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from netc.autocast import autocast
from netc.checks import check_parameters, idle_checkpoints, missing_kernels, slow_precision
from netc.emit import Artifact, Entry, Inference, Program, monitor_graph, train_graphs
from netc.errors import Diagnostic, SpecError
from netc.graph.verify import verify
from netc.layers.base import Phase
from netc.layers.context import DRAW
from netc.monitor import append_statistics
from netc.network import Count, Network, Term, lower, lower_inputs
from netc.phases import specs_of_phases
from netc.programs import averages_of, batch_entries, output_entries, pack_state, program, use_averages, used
from netc.rewrite.depth_first import last_first
from netc.rewrite.fold import fold_batch_normalization
from netc.rewrite.lowerings import Lowerings
from netc.rewrite.passes import Platform, Target, clean, end, optimize_step
from netc.rewrite.recompute import recompute
from netc.rewrite.split import split
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
    training.warnings += slow_precision(loaded, target)
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
    averages = averages_of(state.values())
    for other in programs.values():
        use_averages(other, averages)
    packed = pack_state(steps | programs, state.values()) if target == "web" and packs else []
    training.warnings += missing_kernels(loaded, steps | programs) if target == "web" else []
    return Artifact(
        loaded.spec,
        target,
        steps | programs,
        list(state.values()),
        metric_entries(training, testing),
        training,
        [buffer.as_dict() for buffer in packed],
    )


@_collector_paused()
def build_inference(loaded: Loaded, keep_sides: Sequence[str] = (), target: Target = "cpu") -> Inference:
    """Compile what inference needs of a spec, `fold` and `infer`, in a fraction of the time of `build`.

    With sides there is `eval` too, which returns their scores as well, to compare with.

    Args:
        loaded: a validated spec, such as the resolved one of a run.
        keep_sides: sides whose scores `infer` returns too, each called like the layer that it branches off from, like
            its loss, like its scores, or like a block around it.
        target: the engine of the artifact that the state is from.

    Raises:
        SpecError: with the mistakes of the spec that show in inference.
        UsageError: there is no side of one of these names.
    """
    platform = Platform(target)
    network = lower(loaded, "test", None, objectives=False, keep_sides=keep_sides)
    programs = inference_programs(loaded, network, platform)
    if keep_sides:
        programs["eval"] = eval_program(loaded, lower(loaded, "test", None, keep_sides=keep_sides), platform)
    if loaded.spec.solver.weight_average is not None:
        lowered = lower_phases(loaded)
        for spec, trained in zip(lowered.specs, lowered.training, strict=True):  # what an update averages, it declares
            append_update(trained.net, spec.spec.solver, trained.terms[0].mean.value)
            for each in programs.values():
                use_averages(each, averages_of(trained.net.state.values()))
    return Inference(loaded.spec, target, programs)


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
    check_parameters(loaded, training[-1], testing)
    for spec, network in zip(specs, training, strict=True):
        mistakes += glob_mistakes(spec, (testing.net.state | network.net.state).values())
    if mistakes:
        raise SpecError(mistakes)
    if loaded.spec.solver.precision == "mixed":
        for network in training:
            autocast(network)
            verify(network.net.g.graph, "autocast")
    return Lowered(specs, training, testing)


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
    graph = step_graph(network, step, platform)
    return program(loaded, network, last_first(graph) if platform.target == "openvino" else graph, outputs)


def step_graph(network: Network, step: Step, platform: Platform) -> ir.Graph:
    """Return the graph of a step that computes again what its checkpoints do not keep, made for a platform."""
    graph = network.net.g.graph
    checkpoints = {p.layer.name: tuple(p.layer.checkpoint) for p in network.placed if not p.is_objective}
    if any(checkpoints.values()):
        graph = recompute(graph, checkpoints, step.cotangents, platform.dtype)
        verify(graph, "recomputation")
    return optimize_step(graph, platform)


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
    folded = clean(fold_batch_normalization(net.g.graph, net.state).graph)
    halves = split(folded, set(net.state))
    fold = Program(
        clean(halves.fold.graph),
        {name: {"role": "state"} for name in net.state},
        {name: {"role": "parameter", "feeds": fed} for name, fed in halves.feeds.items()},
    )
    parameters: dict[str, Entry] = {name: {"role": "parameter"} for name in halves.feeds.values()}
    infer = Program(end(halves.infer.graph, platform), parameters | batch_entries(loaded, network), outputs)
    return {"fold": used(fold), "infer": used(infer)}


def metric_entries(training: Network, testing: Network) -> list[Entry]:
    """Return the manifest's list of metrics: those of training, the rate, and those of evaluation alone."""
    entries: list[Entry] = [{"name": t.name, "kind": t.kind, "layer": t.layer} for t in training.terms]
    entries.append({"name": "lr", "kind": "rate", "layer": None})
    known = {entry["name"] for entry in entries}
    tested: list[Term | Count] = [*testing.terms, *testing.counts]
    return entries + [{"name": t.name, "kind": t.kind, "layer": t.layer} for t in tested if t.name not in known]
