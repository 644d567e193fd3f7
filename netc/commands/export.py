"""The command that exports: netc export."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from netc.commands.common import CheckpointOption, JsonOption, SetOption, drive, warn

if TYPE_CHECKING:
    from netc_runtime.export import ExportReport


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
    from netc_runtime.engines import cpu_device
    from netc_runtime.export import export_run
    from netc_runtime.session import Host

    data = data_overrides(overrides)
    host = Host(cpu_device())
    show_export(drive(lambda: export_run(run, out, checkpoint, host, True, data, warn)), as_json)


def show_export(report: "ExportReport", as_json: bool) -> None:
    """Print what was exported, as text or as a line of JSON."""
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
