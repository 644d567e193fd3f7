"""What a lowered spec is refused for, or warned of: phases that disagree, metrics that do not exist, waste."""

from collections.abc import Mapping

import onnx_ir as ir

from netc.emit import Program
from netc.errors import Diagnostic, SpecError, did_you_mean
from netc.graph.webgpu import missing_kernel
from netc.network import Count, Network, Term
from netc.rewrite.passes import Target
from netc.solver.policies import Plateau
from netc.spec.load import Loaded


def check_parameters(loaded: Loaded, training: Network, testing: Network) -> None:
    """Refuse a network without parameters, or with parameters that differ between training and evaluation."""
    if not any(tensor.role == "parameter" for tensor in training.net.state.values()):
        message = "no layer has a parameter, so there is nothing to train; add one, such as an InnerProduct"
        raise SpecError([loaded.at(("layers",), message, key=True)])
    compare_phases(loaded, training, testing)
    said = set(map(str, training.warnings))
    training.warnings += [warning for warning in testing.warnings if str(warning) not in said]
    require_monitor(loaded, testing)
    _check_early_stopping(loaded, training, testing)


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


def require_monitor(loaded: Loaded, testing: Network) -> None:
    """Refuse a plateau that watches what evaluation does not measure."""
    policy = loaded.spec.solver.lr_policy
    metrics: list[Term | Count] = [*testing.terms, *testing.counts]
    measured = [metric.name for metric in metrics]
    if isinstance(policy, Plateau) and policy.monitor not in measured:
        message = f'evaluation has no metric "{policy.monitor}"{did_you_mean(policy.monitor, measured)}'
        raise SpecError([loaded.at(("solver", "lr_policy", "monitor"), message)])


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


def slow_precision(loaded: Loaded, target: Target) -> list[Diagnostic]:
    """Return a warning where float16 costs time instead of saving it."""
    if loaded.spec.solver.precision == "float32" or target not in ("cpu", "openvino"):
        return []
    message = (
        f"precision: mixed saves time on GPUs alone; what is compiled for {target} computes float16 by way of float32, "
        "which is no faster; remove it, or train on cuda"
    )
    return [loaded.at(("solver", "precision"), message)]


def missing_kernels(loaded: Loaded, programs: Mapping[str, Program]) -> list[Diagnostic]:
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


def idle_checkpoints(loaded: Loaded, network: Network, graph: ir.Graph) -> list[Diagnostic]:
    """Return a warning for each checkpoint of which the step, as it was made, computes nothing again."""
    nodes = [node.metadata_props for node in graph]
    again = {origin["netc.layer"] for origin in nodes if origin.get("netc.part") == "recompute"}
    places = {name: placed.path for placed in reversed(network.placed) for name in placed.layer.checkpoint}
    busy = {name for placed in network.placed if placed.layer.name in again for name in placed.layer.checkpoint}
    message = "has no effect: the backward pass reads nothing of it that it would have to compute again; remove it"
    idle = [name for name in reversed(places) if name not in busy]
    return [loaded.at((*places[name], "checkpoint"), f'checkpoint "{name}" {message}', key=True) for name in idle]
