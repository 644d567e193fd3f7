"""The times of a training step as rows: by layer, operator or kernel; as JSON and as a table for people."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Literal, TypeAlias

from rich.console import Console
from rich.table import Table
from rich.text import Text

from netc_runtime.attribution import NORMAL_PARTS
from netc_runtime.timing import Kernel, Timing

By: TypeAlias = Literal["layer", "operator", "node"]

UNKNOWN = "(not attributed)"
_PARTS = (*NORMAL_PARTS, "other")
_TITLES = {"grad": "backward"}  # of columns; the others are called as the parts


@dataclass
class Row:
    """Milliseconds of a step by part, and how many kernels took them; `name` is a layer, an operator or a kernel."""

    name: str
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_PARTS, 0.0))
    kernels: int = 0

    @property
    def milliseconds(self) -> float:
        """The sum of all parts."""
        return sum(self.parts.values())

    def add(self, kernel: Kernel) -> None:
        """Count a kernel."""
        part = kernel.origin.part if kernel.origin is not None else "other"
        self.parts[part if part in NORMAL_PARTS else "other"] += kernel.milliseconds
        self.kernels += 1


def rows(timing: Timing, by: By) -> list[Row]:
    """Return all rows: operators and kernels by time, layers in the order of the program.

    A layer whose nodes are all in the kernels of others has a row too.
    """
    keys: dict[By, Callable[[Kernel], str]] = {
        "layer": lambda kernel: UNKNOWN if kernel.origin is None else kernel.origin.layer,
        "operator": lambda kernel: kernel.operator,
        "node": lambda kernel: kernel.name,
    }
    layers = dict.fromkeys(origin.layer for origin in timing.nodes.values()) if by == "layer" else {}
    found = {name: Row(name) for name in layers}
    for kernel in timing.kernels:
        name = keys[by](kernel)
        found.setdefault(name, Row(name)).add(kernel)
    return list(found.values()) if by == "layer" else _slowest(list(found.values()))


def _slowest(given: list[Row]) -> list[Row]:
    return sorted(given, key=lambda row: row.milliseconds, reverse=True)


def as_dict(timing: Timing, by: By, top: int | None = None) -> dict[str, object]:
    """Return plain data for JSON; `top` keeps so many of the slowest rows."""
    origins = {kernel.name: (kernel.operator, kernel.origin) for kernel in timing.kernels}
    entries = list[dict[str, object]]()
    for row in _chosen(timing, by, top):
        entry: dict[str, object] = {
            by: row.name,
            **{f"{part}_ms": ms for part, ms in row.parts.items()},
            "ms": row.milliseconds,
            "share": row.milliseconds / timing.step_ms,
            "kernels": row.kernels,
        }
        if by == "node":
            operator, origin = origins[row.name]
            entry |= {"operator": operator, "layer": origin and origin.layer, "part": origin and origin.part}
        entries.append(entry)
    return {
        "name": timing.name,
        "program": timing.program,
        "device": timing.device,
        "threads": timing.threads,
        "batch_size": timing.batch_size,
        "steps": timing.steps,
        "nodes": len(timing.nodes),
        "kernels": len(timing.kernels),
        "step_ms": timing.step_ms,
        "traced_step_ms": timing.traced_step_ms,
        "trace_ms": timing.trace_ms,
        "kernels_ms": timing.kernels_ms,
        "between_kernels_ms": timing.step_ms - timing.kernels_ms,
        "accounted": timing.accounted,
        "accounted_with_trace": timing.accounted_with_trace,
        "by": by,
        "rows": entries,
    }


def _chosen(timing: Timing, by: By, top: int | None) -> list[Row]:
    everything = rows(timing, by)
    return everything if top is None else _slowest(everything)[:top]


def print_timing(timing: Timing, by: By, top: int | None = None, out: IO[str] | None = None) -> None:
    """Print the table to `out`, stdout by default, and a line that says how much of the step it accounts for."""
    shown, everything = _chosen(timing, by, top), rows(timing, by)
    # Most steps compute nothing again: that column is there where one does.
    parts = [part for part in _PARTS if part != "recompute" or any(row.parts[part] for row in everything)]
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate((by, *(_TITLES.get(part, part) for part in parts), "ms", "share", "kernels")):
        table.add_column(Text(column), justify="right" if index else "left", no_wrap=True)
    for row in shown:
        _add(table, row.name, [*(row.parts[part] for part in parts), row.milliseconds], timing.step_ms, row.kernels)
    if len(shown) < len(everything):
        rest = Row(f"({len(everything) - len(shown)} others)")
        left = {row.name for row in everything} - {row.name for row in shown}
        for row in everything:
            if row.name in left:
                rest.kernels += row.kernels
                for part, ms in row.parts.items():
                    rest.parts[part] += ms
        _add(table, rest.name, [*(rest.parts[part] for part in parts), rest.milliseconds], timing.step_ms, rest.kernels)
    between = timing.step_ms - timing.kernels_ms
    _add(table, "(between kernels)", [*(0.0 for _ in parts), between], timing.step_ms, 0)
    sums = [sum(row.parts[part] for row in everything) for part in parts]
    _add(table, "step", [*sums, timing.step_ms], timing.step_ms, len(timing.kernels))
    # As wide as any table: a terminal breaks long lines, rich would leave out columns.
    Console(file=out or sys.stdout, highlight=False, markup=False, width=1 << 16).print(table)
    print(
        f"{timing.name}: {timing.step_ms:.2f} ms a step of {timing.batch_size} samples on {timing.device}, "
        f"{timing.threads} threads, {timing.steps} steps; {timing.accounted:.1%} accounted for by layers; "
        f"{timing.traced_step_ms:.2f} ms with the trace, {timing.accounted_with_trace:.1%} of it",
        file=out or sys.stdout,
    )


def _add(table: Table, name: str, times: list[float], step_ms: float, kernels: int) -> None:
    cells = [f"{ms:.2f}" if ms else "" for ms in times]
    table.add_row(Text(name), *cells, f"{times[-1] / step_ms:.1%}", f"{kernels}" if kernels else "")
