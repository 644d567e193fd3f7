"""What the commands share: their options, how they compile a spec, print and fail."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from netc.errors import Diagnostic, SpecError

if TYPE_CHECKING:
    from netc.emit import Artifact
    from netc.rewrite.lowerings import Lowerings
    from netc.spec.load import Loaded
    from netc.summary import Summary

Compiled = TypeVar("Compiled")


class Target(StrEnum):
    """Engines that lowerings can be chosen for."""

    CPU = "cpu"
    CUDA = "cuda"
    WEB = "web"
    OPENVINO = "openvino"


class Device(StrEnum):
    """Where to run."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    OPENVINO = "openvino"


SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help="A YAML file, or the name of a spec of the zoo.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the spec, such as solver.base_lr=0.1."),
]
DataSetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override which data to take, such as data.path=FOLDER."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
DeviceOption = Annotated[
    Device,
    typer.Option("--device", "--provider", help="cpu and cuda run on ONNX Runtime; auto takes CUDA where it works."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Threads of the CPU's operators; default one for each CPU that this process may use."),
]
Tf32Option = Annotated[
    bool, typer.Option("--tf32/--no-tf32", help="On CUDA, round the inputs of products to 10 bits, which is faster.")
]
CudaGraphOption = Annotated[
    bool, typer.Option("--cuda-graph/--no-cuda-graph", help="On CUDA, launch a captured step instead of its kernels.")
]
BatchOption = Annotated[int | None, typer.Option(min=1, metavar="N", help="Override data.batch_size.")]
CheckpointOption = Annotated[str, typer.Option(help="last, best, or the path of a checkpoint.")]


def fail(message: str, code: int) -> NoReturn:
    """Say on stderr what is wrong, and end with an exit code."""
    for line in message.splitlines() or [""]:
        print(f"error: {line}", file=sys.stderr)
    raise SystemExit(code)


def drive(command: Callable[[], Any]) -> Any:
    """Run a command of the driver, whose errors become errors of the command line."""
    from netc_runtime.errors import DriverError

    try:
        return command()
    except DriverError as error:
        fail(str(error), int(error.exit_code))


def print_json(value: Any) -> None:
    """Print what a program asked for with `--json`."""
    print(json.dumps(value, indent=1, default=str))


def warn(message: str) -> None:
    """Say on stderr what is doubtful."""
    print(f"warning: {message}", file=sys.stderr)


def compile_spec(
    spec: str,
    overrides: Sequence[str],
    target: str = "cpu",
    need_data: bool = True,
    lowerings: "Lowerings | None" = None,
    tuning: dict[str, Any] | None = None,
    says: bool = True,
) -> "Artifact":
    """Compile a spec; mistakes in the network and in its data section are reported together.

    `lowerings` are those of places that take another one than usual, and `tuning` what the manifest says of them. It
    says the warnings of the spec, unless it should not.
    """
    from netc.arguments import read_spec
    from netc.build import build

    loaded = read_spec(spec, overrides)
    artifact = _with_data_problems(
        loaded,
        need_data,
        lambda: build(loaded, target, lowerings=lowerings),  # type: ignore[arg-type]
    )
    for warning in artifact.warnings if says else ():
        warn(str(warning))
    artifact.tuning = tuning
    return artifact


def target_for(device: Device) -> str:
    """Return the engine that a device means; auto is CUDA where a driver and a runtime for it are installed."""
    from netc_runtime.engines import cpu_device

    if device is Device.OPENVINO or (device is Device.AUTO and cpu_device() == "openvino"):
        return "openvino"
    from netc_runtime.onnxruntime_program import import_onnxruntime

    offered = "CUDAExecutionProvider" in import_onnxruntime().get_available_providers()
    wanted = device is Device.CUDA or (device is Device.AUTO and offered and shutil.which("nvidia-smi") is not None)
    return "cuda" if wanted else "cpu"


def artifact_folder(
    spec: str, options: Sequence[str], scratch: Path, device: Device, like: Path | None = None, need_data: bool = True
) -> tuple[Path, str]:
    """Return a compiled folder for SPEC, which may be one already, and the name for its run.

    It is compiled as the artifact `like` was, or else for `device`: other lowerings round differently.
    """
    from netc.arguments import target_of, tuning_of
    from netc.emit import write
    from netc.rewrite.lowerings import Lowerings

    given = Path(spec)
    if (given / "manifest.json").is_file() and not options:
        return given, given.resolve().name
    like = like or given
    target, tuning = target_of(like) or target_for(device), tuning_of(like)
    lowerings = Lowerings(tuning["lowerings"]) if tuning else None
    artifact = compile_spec(spec, options, target, need_data, lowerings, tuning)
    write(artifact, scratch / "artifact")
    return scratch / "artifact", artifact.spec.name


def summarize_spec(spec: str, overrides: Sequence[str], memory: bool = False) -> "Summary":
    """Report every mistake that compiling reports, without building programs, and return the table of the spec.

    With `memory`, build the training programs and say what the step of the largest holds.
    """
    from netc.arguments import read_spec
    from netc.build import lower_phases, step_programs
    from netc.emit import train_graphs
    from netc.memory import step_memory
    from netc.rewrite.passes import Platform
    from netc.summary import summarize

    loaded = read_spec(spec, overrides)
    lowered = _with_data_problems(loaded, False, lambda: lower_phases(loaded))
    for warning in [*lowered.training[-1].warnings, *_missing_data(loaded)]:
        warn(str(warning))
    summary = summarize(lowered)
    if not memory:
        return summary
    programs = step_programs(lowered, Platform("cpu"))
    steps = [step_memory(programs[name]) for name in train_graphs(len(lowered.specs))]
    return replace(summary, step_memory=max(steps, key=lambda step: step.total))


def data_of_spec(spec: str, overrides: Sequence[str]) -> tuple[str, dict[str, Any], tuple[int, int] | None]:
    """Return the name of a spec, its data section, which can be opened, and the size of the images that it takes.

    Raises SpecError with every mistake.
    """
    from netc.arguments import read_spec
    from netc.inputs import image_size

    loaded = read_spec(spec, overrides)
    if problems := [*loaded.diagnostics, *_data_mistakes(loaded), *_missing_data(loaded)]:
        raise SpecError(problems)
    return loaded.spec.name, loaded.spec.data.model_dump(), image_size(loaded.spec.inputs)


def _with_data_problems(loaded: "Loaded", need_data: bool, compile_: Callable[[], Compiled]) -> Compiled:
    """Report the mistakes of the data section with those of the network, and missing data if it is needed here."""
    problems = _data_mistakes(loaded) + (_missing_data(loaded) if need_data else [])
    try:
        result = compile_()
    except SpecError as error:
        raise SpecError([*error.diagnostics, *problems]) from None
    if problems:
        raise SpecError(problems)
    return result


def _data_mistakes(loaded: "Loaded") -> list[Diagnostic]:
    """Let the driver's data sources check their options."""
    from netc_runtime.data import check_options

    data = _data_section(loaded)
    return [] if data is None else _located(loaded, check_options(data))


def _missing_data(loaded: "Loaded") -> list[Diagnostic]:
    """Let the driver's data sources say what of the data is not on this machine."""
    from netc_runtime.data import missing_data

    data = _data_section(loaded)
    return [] if data is None else _located(loaded, missing_data(data))


def _data_section(loaded: "Loaded") -> dict[str, Any] | None:
    """Return the data section, None if it has been reported as wrong already."""
    if any(str(d.position) == str(loaded.tree.position(("data",))) for d in loaded.diagnostics):
        return None
    data = loaded.spec.data.model_dump()
    return None if data["source"] == "unknown" and loaded.diagnostics else data


def _located(loaded: "Loaded", problems: Sequence[tuple[tuple[str, ...], str]]) -> list[Diagnostic]:
    return [
        loaded.at(("data", *path), sentence, key=sentence.startswith("unknown option")) for path, sentence in problems
    ]
