"""The command about speed: time."""

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from netc.commands.common import (
    BatchOption,
    Device,
    DeviceOption,
    JsonOption,
    SetOption,
    ThreadsOption,
    artifact_folder,
    drive,
    print_json,
    warn,
)


class By(StrEnum):
    """What the rows of the table are."""

    LAYER = "layer"
    OPERATOR = "operator"
    NODE = "node"


def time_(
    spec: Annotated[
        str, typer.Argument(metavar="SPEC|ARTIFACT", help="A YAML file, a name of the zoo, or a compiled folder.")
    ],
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="Steps to time, after those that warm up.")] = 20,
    by: Annotated[By, typer.Option(help="What the rows are.")] = By.LAYER,
    top: Annotated[int | None, typer.Option(min=1, metavar="N", help="Show only the N slowest rows.")] = None,
    device: DeviceOption = Device.AUTO,
    threads: ThreadsOption = None,
    batch_size: BatchOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time a training step on random data, layer by layer.

    Example: netc time lenet_dsn --by operator --top 10
    """
    from netc.arguments import spec_overrides
    from netc_runtime.artifact import Artifact
    from netc_runtime.engines import require_engine
    from netc_runtime.session import Host
    from netc_runtime.timetable import as_dict, print_timing
    from netc_runtime.timing import time_step

    drive(lambda: require_engine(device.value))
    options, host = spec_overrides(overrides, batch_size), Host(device.value, threads)
    with tempfile.TemporaryDirectory(prefix="netc-") as scratch:
        folder, _ = artifact_folder(spec, options, Path(scratch), device, need_data=False)
        timing = drive(lambda: time_step(Artifact.load(folder), host, steps))
    if timing.device == "cuda":
        warn("ONNX Runtime's trace says when kernels of a GPU are started, not how long they run")
    if as_json:
        print_json(as_dict(timing, by.value, top))
    else:
        print_timing(timing, by.value, top)
