"""The command that chooses lowerings by measuring them: tune."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netc.commands.common import (
    BatchOption,
    Device,
    JsonOption,
    SetOption,
    ThreadsOption,
    compile_spec,
    drive,
    print_json,
    target_for,
)
from netc.errors import UsageError

if TYPE_CHECKING:
    from netc.emit import Artifact
    from netc.rewrite.passes import Target
    from netc.tuning import Choice, Times
    from netc_runtime.session import Host

STEPS = 4  # of each alternative, twice; the least time counts, since other work on the machine only adds to it


def tune(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="A YAML file, or the name of a spec of the zoo.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder to write; default build/NAME.")] = None,
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="Steps to time of each alternative, twice.")] = STEPS,
    device: Annotated[
        Device, typer.Option("--device", "--provider", help="Engine to tune for, on the CPU: cpu or openvino.")
    ] = Device.CPU,
    threads: ThreadsOption = None,
    batch_size: BatchOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compile a spec with the lowerings that are fastest on this machine's CPU; results stay equal to rounding.

    Every alternative is compiled and timed, which takes as long as some dozens of training steps, or minutes for large
    networks. Use it on a machine that does nothing else.

    Example: netc tune resnet20_cifar -o build/resnet20_cifar --provider openvino
    """
    from netc.arguments import spec_overrides
    from netc.emit import write

    found = tuned(spec, spec_overrides(overrides, batch_size), host_to_tune(device, threads), steps)
    artifact = found.artifact
    folder = out or Path("build") / artifact.spec.name
    write(artifact, folder)
    if as_json:
        choices = [vars(choice) for choice in found.choices]
        clock = {"usual_ms": found.usual_ms, "tuned_ms": found.tuned_ms}
        print_json({"out": folder, "tuning": artifact.tuning, **clock, "choices": choices})
        return
    changed = [choice for choice in found.choices if choice.rule is not None]
    for choice in changed:
        gain = f"{choice.usual_ms:.2f} to {choice.chosen_ms:.2f} ms in {choice.layers} layers"
        print(f"{choice.signature}: {choice.rule}, {gain}")
    print(f"{found.sentence}; compiled to {folder}")


@dataclass(frozen=True)
class Tuned:
    """A spec compiled with the lowerings that are fastest; a step of the usual one and of this one in milliseconds."""

    artifact: "Artifact"
    choices: "list[Choice]"
    usual_ms: float
    tuned_ms: float

    @property
    def sentence(self) -> str:
        """What came of it, for people."""
        kept = len(self.artifact.tuning["lowerings"]) if self.artifact.tuning else 0
        clock = f", a step {self.tuned_ms:.2f} ms instead of {self.usual_ms:.2f} ms" if kept else ""
        return f"tuned {self.artifact.spec.name}: {kept} of {len(self.choices)} places take another lowering{clock}"


def host_to_tune(device: Device, threads: int | None) -> "Host":
    """Return where alternatives are timed; raises UsageError for what is not the CPU."""
    from netc_runtime.session import Host

    target = drive(partial(target_for, device))
    if target == "cuda":
        raise UsageError(
            "lowerings are chosen by the times of kernels, which are measured on the CPU alone; use --device cpu or "
            "openvino, or do not tune"
        )
    return Host(target, threads)


def tuned(spec: str, options: Sequence[str], host: "Host", steps: int = STEPS, need_data: bool = False) -> Tuned:
    """Compile a spec with the lowerings that are fastest on a host of `host_to_tune`.

    Where whole steps of what was chosen are not faster than those of the usual lowerings, these are kept.
    """
    from netc.emit import write
    from netc.rewrite.lowerings import Lowerings
    from netc.rewrite.passes import alternatives
    from netc.tuning import choose
    from netc_runtime.engines import require_engine

    engine = drive(partial(require_engine, host.device))
    target: Target = "openvino" if host.device == "openvino" else "cpu"
    usual = Lowerings()
    artifact = compile_spec(spec, options, target, need_data, usual)
    operators = {signature.split("(")[0] for signature in usual.applied}
    variants = {(op, rule): Lowerings(everywhere=(op, rule)) for op, rule in alternatives(target) if op in operators}
    times: dict[tuple[str, str] | None, Times] = {}
    with tempfile.TemporaryDirectory(prefix="netc-") as scratch:
        folders: dict[tuple[str, str] | None, Path] = {None: Path(scratch) / "usual"}
        write(artifact, folders[None])
        for number, (variant, lowerings) in enumerate(variants.items()):
            folders[variant] = Path(scratch) / str(number)
            write(compile_spec(spec, options, target, need_data, lowerings, says=False), folders[variant])
        order = list(folders.items())
        for key, folder in [*order, *reversed(order)]:  # so that a machine that slows down is fair to all
            found: Times = drive(partial(_layer_times, folder, host, steps))
            known = times.get(key, found)
            times[key] = {layer: min(ms, known.get(layer, ms)) for layer, ms in found.items()}
        choices = choose(times[None], {key: value for key, value in times.items() if key}, usual.applied)
        chosen = {choice.signature: choice.rule for choice in choices if choice.rule is not None}
        tuning: dict[str, Any] = {"engine": engine, "threads": host.thread_count, "lowerings": chosen}
        best = compile_spec(spec, options, target, need_data, Lowerings(chosen), tuning, says=False)
        write(best, Path(scratch) / "best")
        pair = [folders[None], Path(scratch) / "best"]
        usual_ms, tuned_ms = drive(partial(_step_times, pair, host, 4 * steps)) if chosen else (0.0, 0.0)
    if chosen and tuned_ms >= usual_ms:
        return Tuned(artifact, choices, usual_ms, tuned_ms)
    return Tuned(best, choices, usual_ms, tuned_ms)


def _step_times(folders: Sequence[Path], host: "Host", steps: int) -> list[float]:
    from netc_runtime.artifact import Artifact
    from netc_runtime.timing import step_times

    return step_times([Artifact.load(folder) for folder in folders], host, steps)


def _layer_times(folder: Path, host: "Host", steps: int) -> "Times":
    from netc_runtime.artifact import Artifact
    from netc_runtime.timing import layer_times

    return layer_times(Artifact.load(folder), host, steps)
