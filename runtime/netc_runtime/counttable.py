"""Counting metrics as tables for people."""

import sys
from collections.abc import Iterable
from typing import IO

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from netc_runtime.arrays import shape_text
from netc_runtime.artifact import SIDE
from netc_runtime.counts import Counted

_WIDEST = 20  # classes of a matrix that is shown whole
_CONFUSIONS = 20  # rows that stand for a larger one
_BY_CLASS = {"mean_iou": "IoU", "class_accuracy": "accuracy"}


def print_counts(counts: Iterable[Counted], out: IO[str] | None = None) -> None:
    """Print one table for each metric to `out`, stdout by default."""
    # As wide as any table: a terminal breaks long lines, rich would leave out columns.
    console = Console(file=out or sys.stdout, highlight=False, markup=False, width=1 << 16)
    for counted in counts:
        console.print()
        if counted.by_class:
            _print_by_class(console, counted)
        elif len(counted.classes) <= _WIDEST:
            _print_whole(console, counted)
        else:
            _print_confusions(console, counted)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if index else "left", no_wrap=True)
    return table


def _print_by_class(console: Console, counted: Counted) -> None:
    table = _table("class", "labels", "predicted", _BY_CLASS[counted.kind.removeprefix(SIDE)])
    labels, found = counted.matrix.sum(axis=1).tolist(), counted.matrix.sum(axis=0).tolist()
    for name, truths, predictions, share in zip(counted.classes, labels, found, counted.by_class, strict=True):
        value = "-" if np.isnan(share) else f"{share:.4f}"
        table.add_row(Text(name), f"{truths:,}", f"{predictions:,}", value)
    console.print(f"{counted.name}: {counted.value:.4f}")
    console.print(table)


def _print_whole(console: Console, counted: Counted) -> None:
    table = _table("", *counted.classes)
    for name, row in zip(counted.classes, counted.matrix.tolist(), strict=True):
        table.add_row(Text(name), *(f"{count:,}" for count in row))
    console.print(f"{counted.name}: rows are the true class, columns the predicted one")
    console.print(table)


def _print_confusions(console: Console, counted: Counted) -> None:
    table = _table("true class", "predicted", "count", "of the class")
    wrong, labels = counted.matrix.copy(), counted.matrix.sum(axis=1)
    np.fill_diagonal(wrong, 0)
    for place in np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS].tolist():
        truth, found = divmod(place, len(wrong))
        count = int(wrong[truth, found])
        if count:
            share = f"{count / int(labels[truth]):.4f}"
            table.add_row(Text(counted.classes[truth]), Text(counted.classes[found]), f"{count:,}", share)
    shape = shape_text(counted.matrix.shape)
    console.print(f"{counted.name}: the most frequent confusions; all {shape} counts with --json")
    console.print(table)
