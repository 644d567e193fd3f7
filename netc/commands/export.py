"""The command that exports: netc export."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from netc.commands.common import JsonOption, SetOption, drive, warn
from netc.errors import UsageError

if TYPE_CHECKING:
    from netc_runtime.export import ExportReport


class Format(StrEnum):
    """Kinds of file to export."""

    ONNX = "onnx"
    ORT = "ort"


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN|ARTIFACT", help="A run folder, or a compiled one.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="File to write, .onnx or .ort; default RUN/model.onnx.")
    ] = None,
    checkpoint: Annotated[
        str,
        typer.Option(help="last, best, or a file: a checkpoint, or safetensors of another host with the state."),
    ] = "last",
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
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export one inference model, batch norm folded, and compare it with the evaluation graph.

    A run that has a checkpoint but has not reached its end is exported with a warning.

    Example: netc export runs/lenet_dsn -o lenet.onnx --int8
    """
    from netc.arguments import data_overrides

    if fp16 and int8:
        raise UsageError("--fp16 and --int8 are two precisions: leave one of them out")
    if calibration_samples is not None and not int8:
        raise UsageError("--calibration-samples is for --int8: add it, or leave both out")
    data = data_overrides(overrides)

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
        return export_run(run, out, checkpoint, Host(cpu_device()), True, data, warn, options)

    show_export(drive(run_export), as_json)


def show_export(report: "ExportReport", as_json: bool) -> None:
    """Print what was exported, as text or as a line of JSON."""
    if as_json:
        # A line, as the events of training are that it may follow.
        print(json.dumps({"event": "exported", **report.as_dict()}))
        return
    for line in report.lines():
        print(line)
