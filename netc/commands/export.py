"""The command that exports: netc export."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from netc.commands.common import JsonOption, Target, drive, warn
from netc.commands.data_options import data_to_export
from netc.commands.training_package import export_training
from netc.errors import UsageError

if TYPE_CHECKING:
    from netc_runtime.export import ExportReport


class What(StrEnum):
    """What can be exported."""

    MODEL = "model"
    TRAIN = "train"


class Format(StrEnum):
    """Kinds of file to export."""

    ONNX = "onnx"
    ORT = "ort"


def export(
    source: Annotated[
        str,
        typer.Argument(metavar="RUN|ARTIFACT", help="A run folder, or a compiled one; for --what train a SPEC too."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="File to write, .onnx or .ort; default RUN/model.onnx, and with options such as --int8 "
            "RUN/model.int8.onnx. For --what train a new or empty folder, or a .zip file. A file that is there is "
            "replaced.",
        ),
    ] = None,
    what: Annotated[
        What, typer.Option(help="model: for inference. train: all that another host needs to train, evaluate, export.")
    ] = What.MODEL,
    target: Annotated[
        Target | None,
        typer.Option(help="With --what train: compile for this engine, such as web; default that of the run."),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="last (the default), best, or a file: a checkpoint, or safetensors of another host with the state; "
            "for --what train also init, the first state, which is the default there.",
        ),
    ] = None,
    keep_sides: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-sides",
            metavar="NAME",
            help="Give the scores of a side too, called like its layer, its loss or themselves; may be repeated.",
        ),
    ] = None,
    softmax: Annotated[
        bool, typer.Option("--softmax", help="Give probabilities, in an output NAME.probabilities, instead of scores.")
    ] = False,
    opset: Annotated[int | None, typer.Option(metavar="N", help="Convert to version N of the ONNX operators.")] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision between float32 inputs and outputs.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Weights and activations in 8 bits, calibrated on training samples.")
    ] = False,
    calibration_samples: Annotated[
        int | None, typer.Option(metavar="N", help="With --int8: how many training samples; default 512.")
    ] = None,
    file_format: Annotated[
        Format | None, typer.Option("--format", help="Default: what the name of the file says.")
    ] = None,
    verify: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Fail, and write nothing, if an output differs from the evaluation graph by more than this share of "
            "its largest absolute value; default 0.001, with --fp16 0.01, with --int8 no limit.",
        ),
    ] = None,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not compare with the evaluation graph: that takes the data.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override which data to verify with, such as data.path=FOLDER; for --what train any value of a SPEC.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Export one inference model, batch norm folded, and compare it with the evaluation graph.

    A run that has a checkpoint but has not reached its end is exported with a warning. Where the data are not at hand,
    --no-verify exports without the comparison.

    Example: netc export runs/lenet_dsn -o lenet.onnx --int8

    With --what train: pack the programs that train, with a state to begin from, for a host in another language.

    Example: netc export lenet_dsn --what train --target web -o lenet_dsn_web
    """
    if what is What.TRAIN:
        given = {
            "--keep-sides": keep_sides,
            "--softmax": softmax,
            "--opset": opset,
            "--fp16": fp16,
            "--int8": int8,
            "--calibration-samples": calibration_samples,
            "--format": file_format,
            "--verify": verify,
            "--no-verify": no_verify,
        }
        for option, value in given.items():
            if value is not None and value is not False and value != []:  # 0 is given too
                raise UsageError(f"{option} is for the inference model: drop it, or drop --what train")
        if out is None:
            raise UsageError("--what train needs a folder or a .zip file to write: name it with -o")
        export_training(source, out, checkpoint or "init", target, overrides or (), as_json)
        return
    if target is not None:
        raise UsageError("--target chooses what --what train packs; a model runs on any engine: leave it out")
    run = _folder(source)
    if fp16 and int8:
        raise UsageError("--fp16 and --int8 are two precisions: leave one of them out")
    if calibration_samples is not None and not int8:
        raise UsageError("--calibration-samples is for --int8: add it, or leave both out")
    if no_verify and verify is not None:
        raise UsageError("--verify and --no-verify exclude each other: leave one of them out")
    if no_verify and int8:
        raise UsageError("--int8 is calibrated on the data, which then can verify it too: leave out --no-verify")
    if no_verify and overrides:
        raise UsageError("--set names the data to verify with: leave it out, or --no-verify")
    data = data_to_export(overrides, calibrates=int8)

    from netc_runtime.engines import cpu_device
    from netc_runtime.export import ExportOptions, export_run
    from netc_runtime.session import Host

    def run_export() -> "ExportReport":
        options = ExportOptions(
            softmax=softmax,
            opset=opset,
            precision="float16" if fp16 else "int8" if int8 else "float32",
            format=None if file_format is None else file_format.value,
            tolerance=verify,
            **({} if calibration_samples is None else {"calibration_samples": calibration_samples}),
        )
        programs = with_sides(run, keep_sides) if keep_sides else {}
        host = Host(cpu_device())
        return export_run(run, out, checkpoint or "last", host, not no_verify, data, warn, options, programs)

    show_export(drive(run_export), as_json)


def _folder(source: str) -> Path:
    """Return the folder to export from; raises UsageError for what is something else, with what to do with it."""
    from netc import zoo

    path = Path(source)
    if path.is_dir():
        return path
    if path.is_file() and path.suffix in (".onnx", ".ort"):
        raise UsageError(f"{source} is a model already; name the run folder that it came from")
    if path.is_file() and path.suffix == ".zip":
        raise UsageError(f"{source} is a zip file; unpack it, and name the folder and --checkpoint FILE.safetensors")
    if (path.is_file() and path.suffix in (".yaml", ".yml")) or source in zoo.names():
        raise UsageError(
            f"{source} is a spec, and only what is trained can be exported; name a run folder, which netc train "
            f"{source} makes, or pack its training programs with --what train"
        )
    return path  # of which the driver says what is wrong


def with_sides(run: Path, names: list[str]) -> dict[str, bytes]:
    """Return the programs `fold`, `infer` and `eval` of a run or a compiled folder that give scores of sides too.

    Raises:
        UsageError: there is no side of one of these names.
        DriverError: there is no such folder, or it is damaged.
    """
    from netc.arguments import read_spec
    from netc.build import build_inference
    from netc_runtime.run import RunFolder

    spec = read_spec(str(RunFolder(run).load_artifact().folder), [])
    files = build_inference(spec, [name for each in names for name in each.split(",")]).files()
    return {name.removesuffix(".onnx"): content for name, content in files.items()}


def show_export(report: "ExportReport", as_json: bool) -> None:
    """Print what was exported, as text or as a line of JSON."""
    if as_json:
        # A line, as the events of training are that it may follow.
        print(json.dumps({"event": "exported", **report.as_dict()}))
        return
    for line in report.lines():
        print(line)
