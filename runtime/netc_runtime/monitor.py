"""monitor.csv: what each layer does in some steps of a run, consistent with the checkpoint that a run continues from.

The artifact's monitor programs compute the statistics of a step from the state before it and its batch. They read the
buffers of the training step and write none, so that a monitored run trains to the same bits as one that is not.
"""

import csv
import functools
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from netc_runtime.artifact import Artifact
from netc_runtime.engines import load_program
from netc_runtime.files import storage_errors, write_atomically
from netc_runtime.interface import TensorSpec
from netc_runtime.session import Buffer, Host, Program
from netc_runtime.updates import Watch

COLUMNS = ("step", "epoch", "layer", "tensor", "quantity", "value")
_LONGEST_LINE = 1 << 16


class Monitor:
    """Writes a row for each statistic of the first step and of every `every`-th; none if that is None.

    A row is about one step, counted from 1, and its last batch if it takes several. `value` is empty where it is not
    finite, such as the relative change of a bias that is 0.
    """

    def __init__(self, artifact: Artifact, host: Host, every: int | None, path: Path) -> None:
        self._artifact, self._host, self._every = artifact, host, every
        self._path = path
        self._loaded: tuple[str, Program] | None = None

    def rewind(self, step: int) -> None:
        """Drop the rows of steps after `step`, and whatever a killed process left of a row."""
        header = _text([COLUMNS]).encode()
        if not self._path.exists():
            if self._every is not None:
                write_atomically(self._path, header)
            return
        with storage_errors("write", self._path), self._path.open("r+b") as file:
            if file.readline(_LONGEST_LINE) != header:
                file.seek(0)
                file.truncate()
                file.write(header)
            end = file.tell()
            while (of := _step_of(file.readline(_LONGEST_LINE))) is not None and of <= step:
                end = file.tell()
            file.truncate(end)

    def watch(self, step: int, epoch: int) -> Watch | None:
        """Return what adds the rows of this step of this epoch, both counted from 1; None if there are to be none.

        It raises DriverError: 1 if ONNX Runtime fails, 3 if the disk is full.
        """
        is_due = self._every is not None and (step == 1 or step % self._every == 0)
        return functools.partial(self._record, step, epoch) if is_due else None

    def _record(self, step: int, epoch: int, graph: str, inputs: Mapping[str, Buffer]) -> None:
        program = self._program(self._artifact.monitors[graph])
        outputs = program.interface.outputs_of("monitor")
        values = program.peek(inputs, outputs)
        rows = [(step, epoch, *_said(spec), _shown(value)) for spec, value in zip(outputs, values, strict=True)]
        with storage_errors("write", self._path), self._path.open("a", encoding="utf-8", newline="") as file:
            file.write(_text(rows))

    def _program(self, key: str) -> Program:
        """Return the program of the running phase, which is loaded when it is needed first."""
        if self._loaded is None or self._loaded[0] != key:
            artifact = self._artifact
            # Beside the training step, whose threads it must leave the cores to between its runs.
            host = replace(self._host, spins=False)
            program = load_program(artifact.file(key), host, artifact.graph(key), artifact.content(key))
            self._loaded = key, program
        return self._loaded[1]


def _said(spec: TensorSpec) -> tuple[str | None, str | None, str | None]:
    return spec.layer, spec.tensor, spec.quantity


def _shown(value: np.generic) -> str:
    """Return the shortest text that stands for exactly this number in its precision."""
    return str(value) if np.isfinite(value) else ""


def _step_of(line: bytes) -> int | None:
    """Return the step of a whole row, None for anything else."""
    if not line.endswith(b"\n"):
        return None
    try:
        (row,) = csv.reader([line.decode()])
        return int(row[0]) if len(row) == len(COLUMNS) else None
    except (ValueError, csv.Error):
        return None


def _text(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
