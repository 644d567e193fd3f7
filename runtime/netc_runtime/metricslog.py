"""metrics.jsonl and metrics.csv: one line for each evaluation, consistent with the checkpoint a run continues from."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from netc_runtime.checkpoint import Position
from netc_runtime.events import EpochDone
from netc_runtime.files import read_bounded, storage_errors, write_atomically
from netc_runtime.jsonfields import MalformedError, field, optional, parse_object, without_non_finite

_LIMIT = 256 << 20


class MetricsLog:
    """The two metrics files of a run folder. Wall-clock times stand here only, never in checkpoints.

    `train`, `test` and `rates` are the names of the metrics, in the order of the columns.
    """

    def __init__(self, folder: Path, train: Sequence[str], test: Sequence[str], rates: Sequence[str]) -> None:
        self._lines = folder / "metrics.jsonl"
        self._table = folder / "metrics.csv"
        self._columns = [
            *(("", name) for name in ("epoch", "step")),
            *(("rates", name) for name in rates),
            *(("train", name) for name in train),
            *(("test", name) for name in test),
            *(("", name) for name in ("images_per_second", "seconds")),
        ]

    def rewind(self, position: Position) -> None:
        """Drop every line that `position` does not know of, and half a line that a crash may have left."""
        kept = []
        for record in self._read():
            step = field(record, "step", int)
            if step < position.step or (step == position.step and position.evaluated):
                kept.append(record)
        write_atomically(self._lines, "".join(map(_line, kept)).encode())
        header = self._row([f"{group}_{name}" if group in ("train", "test") else name for group, name in self._columns])
        write_atomically(self._table, (header + "".join(map(self._table_line, kept))).encode())

    def append(self, event: EpochDone) -> None:
        """Add one evaluation to both files."""
        record = {
            "epoch": event.epoch,
            "step": event.step,
            "rates": dict(event.rates),
            "train": dict(event.train),
            "test": dict(event.test),
            "images_per_second": round(event.images_per_second, 1),
            "seconds": round(event.seconds, 3),
        }
        for path, line in ((self._lines, _line(record)), (self._table, self._table_line(record))):
            with storage_errors("write", path), path.open("a", encoding="utf-8", newline="") as file:
                file.write(line)

    def _read(self) -> list[dict[str, Any]]:
        if not self._lines.exists():
            return []
        records = []
        for line in read_bounded(self._lines, _LIMIT).splitlines():
            try:
                record = parse_object(line)
                field(record, "step", int)
                for group, _ in self._columns:
                    if group:
                        optional(record, group, dict)
            except MalformedError:
                break  # the end of what was written before a crash
            records.append(record)
        return records

    def _table_line(self, record: Mapping[str, Any]) -> str:
        values = ((record.get(group) or {}) if group else record for group, _ in self._columns)
        return self._row([values_of.get(name) for values_of, (_, name) in zip(values, self._columns, strict=True)])

    @staticmethod
    def _row(values: Sequence[object]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        return text.getvalue()


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(without_non_finite(record), allow_nan=False) + "\n"
