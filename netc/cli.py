"""The command line: a thin shell around compiler and driver.

Imports of both stay inside the commands, so that `netc --help` answers at once and compiling needs no ONNX Runtime.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from netc import __version__
from netc.errors import Diagnostic, EnvironmentProblem, NetcError, SpecError, UsageError

if TYPE_CHECKING:
    from netc.emit import Artifact
    from netc.spec.load import Loaded

app = typer.Typer(
    name="netc",
    help="Compile a neural network declared in YAML into ONNX programs that train it; train, evaluate and export it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Target(StrEnum):
    """Engines that lowerings can be chosen for."""

    CPU = "cpu"
    CUDA = "cuda"
    WEB = "web"


class Device(StrEnum):
    """Where to run."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help="A YAML file, or the name of a spec of the zoo.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the spec, such as solver.base_lr=0.1."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
DeviceOption = Annotated[Device, typer.Option(help="auto takes CUDA where it works.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads of the CPU's operators; default one a core.")]
BatchOption = Annotated[int | None, typer.Option(min=1, metavar="N", help="Override data.batch_size.")]
CheckpointOption = Annotated[str, typer.Option(help="last, best, or the path of a checkpoint.")]


def main() -> None:
    """Run the command line; every foreseen error ends in one sentence and its exit code."""
    try:
        app(prog_name="netc")
    except NetcError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:  # of a path that not even its existence can be asked of
        path = str(error.filename)
        path = path if len(path) <= 100 else f"{path[:40]}... ({len(path)} characters)"
        _fail(f"cannot access {path}: {error.strerror}; check the path", EnvironmentProblem.exit_code)
    except MemoryError:
        _fail("there is not enough memory for this network; make it smaller", EnvironmentProblem.exit_code)


def _fail(message: str, code: int) -> NoReturn:
    for line in message.splitlines() or [""]:
        print(f"error: {line}", file=sys.stderr)
    raise SystemExit(code)


def _driver(command: Callable[[], Any]) -> Any:
    """Run a command of the driver, whose errors become errors of the command line."""
    from netc_runtime.errors import DriverError

    try:
        return command()
    except DriverError as error:
        _fail(str(error), int(error.exit_code))


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"netc {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""


# -- spec to artifact --------------------------------------------------------------------------------------


def _compile(spec: str, overrides: Sequence[str], target: str = "cpu", need_data: bool = True) -> "Artifact":
    """Compile a spec; mistakes in the network and in its data section are reported together."""
    from netc.arguments import read_spec
    from netc.build import build

    loaded = read_spec(spec, overrides)
    problems = _data_problems(loaded, need_data)
    try:
        artifact = build(loaded, target)  # type: ignore[arg-type]
    except SpecError as error:
        raise SpecError([*error.diagnostics, *problems]) from None
    if problems:
        raise SpecError(problems)
    for warning in artifact.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return artifact


def _data_problems(loaded: "Loaded", need_data: bool) -> list[Diagnostic]:
    """Let the driver's data sources check their options; without `need_data`, files may be elsewhere."""
    from netc_runtime.data import check_options

    if any(str(d.position) == str(loaded.tree.position(("data",))) for d in loaded.diagnostics):
        return []
    data = loaded.spec.data.model_dump()
    if data["source"] == "unknown" and loaded.diagnostics:
        return []
    problems = check_options(data)
    return [
        loaded.at(("data", *path), sentence, key=sentence.startswith("unknown option"))
        for path, sentence in problems
        if need_data or path != ("path",) or sentence.startswith("unknown option")
    ]


@app.command()
def check(spec: SpecArgument, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Check a spec and list its layers.

    Example: netc check lenet_dsn --set layers.conv1.num_output=32
    """
    from netc.arguments import spec_overrides
    from netc.summary import summarize

    try:
        artifact = _compile(spec, spec_overrides(overrides))
    except SpecError as error:
        if as_json:
            places = [{**vars(d.position), "message": d.message} for d in error.diagnostics]
            _print_json({"ok": False, "errors": places})
            raise SystemExit(error.exit_code) from None
        raise
    summary = summarize(artifact)
    if as_json:
        _print_json({"ok": True, **summary.as_dict()})
    else:
        summary.print()


@app.command("compile")
def compile_(
    spec: SpecArgument,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder to write; default build/NAME.")] = None,
    target: Annotated[
        Target | None, typer.Option(help="Engine to choose lowerings for; default cpu, or that of an ARTIFACT.")
    ] = None,
    batch_size: BatchOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compile a spec into ONNX programs.

    Example: netc compile lenet_dsn -o build/lenet_dsn
    """
    from netc.arguments import spec_overrides, target_of
    from netc.emit import write

    engine = target.value if target is not None else target_of(Path(spec)) or "cpu"
    artifact = _compile(spec, spec_overrides(overrides, batch_size), engine, need_data=False)
    folder = out or Path("build") / artifact.spec.name
    write(artifact, folder)
    nodes = {name: program.graph.num_nodes() for name, program in artifact.programs.items()}
    if as_json:
        _print_json({"out": folder, "name": artifact.spec.name, "target": engine, "nodes": nodes})
        return
    listed = ", ".join(f"{name}.onnx {count} nodes" for name, count in nodes.items())
    print(f"compiled {artifact.spec.name} to {folder}: {listed}")


@app.command("specs")
def specs_(as_json: JsonOption = False) -> None:
    """List the zoo: the specs that ship with netc, usable by name.

    Example: netc specs
    """
    from netc import zoo

    if as_json:
        _print_json([{"name": name, "summary": zoo.summary(name)} for name in zoo.names()])
        return
    width = max(map(len, zoo.names()))
    for name in zoo.names():
        print(f"{name:<{width}}  {zoo.summary(name)}")


# -- runs --------------------------------------------------------------------------------------------------


@app.command()
def train(
    spec: Annotated[
        str | None,
        typer.Argument(metavar="SPEC|ARTIFACT", help="A YAML file, a name of the zoo, or a compiled folder."),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder; default runs/NAME, numbered if taken.")] = None,
    device: DeviceOption = Device.AUTO,
    threads: ThreadsOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --run exactly.")] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, metavar="N", help="Override solver.random_seed.")
    ] = None,
    batch_size: BatchOption = None,
    stop_after_epochs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after N epochs; --resume continues exactly.")
    ] = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a spec; at the end evaluate it and export RUN/model.onnx.

    Example: netc train lenet_dsn --run runs/first --set solver.max_epochs=3
    """
    from netc.arguments import free_folder, spec_overrides, target_of

    options = spec_overrides(overrides, batch_size, seed)
    if spec is None and not resume:
        raise UsageError("name the SPEC to train, or continue a run with --run DIR --resume")
    if resume and run is None:
        raise UsageError("--resume continues a run: name it with --run DIR")
    if spec is None and options:
        raise UsageError("--set, --seed and --batch-size change a spec: name the SPEC too")

    from netc_runtime.export import export_run
    from netc_runtime.progress import make_reporter
    from netc_runtime.session import Host, import_onnxruntime
    from netc_runtime.trainer import TrainOptions
    from netc_runtime.trainer import train as run_training

    _driver(import_onnxruntime)
    host = Host(device.value, threads)
    reporter = make_reporter(as_json)
    with tempfile.TemporaryDirectory(prefix="netc-") as scratch:
        artifact: Path | None = None
        if spec is not None:
            # A resumed run keeps the lowerings that it was started with: others round differently.
            target = target_of(run / "artifact" if resume and run is not None else Path(spec)) or _target_for(device)
            artifact, name = _artifact_folder(spec, options, Path(scratch), target)
            run = run or free_folder(Path("runs"), name)
        assert run is not None, "checked above: without a spec there is --run"
        result = _driver(lambda: run_training(TrainOptions(run, artifact, host, resume, stop_after_epochs), reporter))
    if result.finished:
        report = _driver(lambda: export_run(run, host=host, warn=_warn))
        _show_export(report, as_json)


def _target_for(device: Device) -> str:
    """Return the engine that a device means; auto is CUDA where a driver and a runtime for it are installed."""
    from netc_runtime.session import import_onnxruntime

    offered = "CUDAExecutionProvider" in import_onnxruntime().get_available_providers()
    wanted = device is Device.CUDA or (device is Device.AUTO and offered and shutil.which("nvidia-smi") is not None)
    return "cuda" if wanted else "cpu"


def _artifact_folder(spec: str, options: Sequence[str], scratch: Path, target: str) -> tuple[Path, str]:
    """Return a compiled folder for SPEC, which may be one already, and the name for its run."""
    from netc.emit import write

    given = Path(spec)
    if (given / "manifest.json").is_file() and not options:
        return given, given.resolve().name
    artifact = _compile(spec, options, target)
    write(artifact, scratch / "artifact")
    return scratch / "artifact", artifact.spec.name


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


@app.command("eval")
def eval_(
    what: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="A run folder, or an exported model.")],
    checkpoint: CheckpointOption = "last",
    device: DeviceOption = Device.AUTO,
    threads: ThreadsOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a run or an exported model on the test split.

    Example: netc eval runs/lenet_dsn --checkpoint best
    """
    from netc.arguments import data_overrides
    from netc_runtime.evaluate import evaluate_model, evaluate_run
    from netc_runtime.session import Host

    host, data = Host(device.value, threads), data_overrides(overrides)
    if what.is_dir():
        report = _driver(lambda: evaluate_run(what, checkpoint, host, data, _warn))
    else:
        report = _driver(lambda: evaluate_model(what, host, data))
    if as_json:
        _print_json(vars(report) | {"metrics": dict(report.metrics)})
        return
    values = "  ".join(f"{name} {value:.4f}" for name, value in report.metrics.items())
    print(f"{what}: {values}  ({report.samples} samples, {report.device})")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write; default RUN/model.onnx.")] = None,
    checkpoint: CheckpointOption = "last",
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export one inference model, batch norm folded, and compare it with the evaluation graph.

    Example: netc export runs/lenet_dsn -o lenet.onnx
    """
    from netc.arguments import data_overrides
    from netc_runtime.export import export_run
    from netc_runtime.session import Host

    data = data_overrides(overrides)
    host = Host("cpu")
    _show_export(_driver(lambda: export_run(run, out, checkpoint, host, True, data, _warn)), as_json)


def _show_export(report: Any, as_json: bool) -> None:
    if as_json:
        agreement = None if report.agreement is None else vars(report.agreement)
        # A line, as the events of training are that it may follow.
        print(json.dumps({"event": "exported", **vars(report), "agreement": agreement}, default=str))
        return
    print(f"exported {report.path}: {report.parameters:,} parameters, {report.size / 1e6:.1f} MB")
    if report.agreement is not None:
        accuracy = report.agreement.accuracy
        measured = "" if accuracy is None else f", accuracy {accuracy:.4f}"
        print(
            f"on {report.agreement.samples} test samples it differs from the evaluation graph by at most "
            f"{report.agreement.difference:.1e} of {report.agreement.largest:.3g}{measured}"
        )


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An exported model, or a run folder that has one.")],
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Images, .npy arrays, or test:0-9.")],
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Classify images, arrays, or samples of the model's own data by index.

    Example: netc predict runs/lenet_dsn/model.onnx test:0-4
    """
    from netc.arguments import data_overrides
    from netc_runtime.predict import predict as run_predict
    from netc_runtime.session import Host

    file = model / "model.onnx" if model.is_dir() else model
    if model.is_dir() and not file.is_file():
        raise UsageError(f"{model} has no model.onnx; write one with: netc export {model}")
    data = data_overrides(overrides)
    predictions = _driver(lambda: run_predict(file, inputs, Host("cpu"), data))
    if as_json:
        _print_json([vars(prediction) for prediction in predictions])
        return
    for p in predictions:
        truth = "" if p.truth is None else f"  ({'right' if p.truth == p.index else f'wrong, it is {p.truth_name}'})"
        print(f"{p.input}  {p.name}  {p.probability:.3f}{truth}")


if __name__ == "__main__":
    main()
