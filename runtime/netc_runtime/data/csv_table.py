"""Tables of numbers in CSV files, read from untrusted files."""

import csv
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from netc_runtime.arrays import Array
from netc_runtime.data.base import MOST_CLASSES, Problem, Source, as_folder, numbered
from netc_runtime.data.file_source import missing_parts
from netc_runtime.data.folders import parts
from netc_runtime.data.options import CLASSES, LIMIT, SPLIT, TEXT, TEXTS, Option, path_option
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode, did_you_mean
from netc_runtime.files import storage_errors

_FILE = "the .csv file, or a folder with train.csv and test.csv"
_ENDINGS = (".csv",)
_MOST_COLUMNS = 100_000
_FEATURES = Option(
    "features", TEXTS, "the columns to feed", note="In this order; by default all that are no target, in theirs."
)
_TARGET = Option("target", TEXTS, "the column of the label, or the columns to predict")
_DELIMITER = Option("delimiter", TEXT, "the character between two columns", default=",")


class CSV(Source):
    """A CSV file whose first line names the columns, and whose other lines are samples of real numbers.

    The features are `image`, [n, columns]. A single target of texts, or of whole numbers from 0 to 1,048,575, is
    `label`: texts are classes in alphabetical order. Targets of numbers are also the field `target`, [n, columns], for
    regression.

    Example: data: {source: csv, path: iris.csv, target: species}
    """

    about: ClassVar[str] = "columns of a .csv file as features and as target"
    options: ClassVar[tuple[Option, ...]] = (
        path_option(_FILE),
        _TARGET,
        _FEATURES,
        _DELIMITER,
        SPLIT,
        CLASSES,
        LIMIT,
    )

    @classmethod
    def class_names(cls, name: str, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the texts of the target, for which the file is read; empty if it is not there any more."""
        return () if cls.missing(name, options) else cls.open(name, options).classes

    @classmethod
    def missing(cls, name: str, options: Mapping[str, Any]) -> list[Problem]:
        """Return a sentence if there is no file, or no target."""
        problems = missing_parts(name, options, _FILE, _ENDINGS)
        if not options.get("target"):
            problems.append((("target",), f'the source "{name}" needs `target`: {_TARGET.about}'))
        if len(options.get("delimiter", ",")) != 1:
            problems.append((("delimiter",), f"delimiter should be one character, not {options['delimiter']!r}"))
        return problems

    @classmethod
    def open(cls, name: str, options: Mapping[str, Any]) -> Self:
        """Read the tables; raises DriverError naming file, line and column."""
        tables = {
            split: [_read(file, options) for file in files]
            for split, files in parts(as_folder(options["path"]), _ENDINGS).items()
        }
        everything = [table for own in tables.values() for table in own]
        _require_alike(everything)
        names = _class_names(everything)
        splits = {split: _split(own, names, _whole(everything)) for split, own in tables.items()}
        if not names and "label" in splits["train"]:
            names = numbered(np.concatenate([own["label"] for own in splits.values()]))
        return cls(splits["train"], splits.get("test", {}), names)


@dataclass
class _Table:
    """The columns of one file: `names` are those of its features, `texts` a single target that is not all numbers."""

    path: Path
    names: tuple[str, ...]
    features: "array[float]" = field(default_factory=lambda: array("f"))
    targets: "array[float]" = field(default_factory=lambda: array("d"))
    texts: list[str] = field(default_factory=list)
    worded: bool = False
    columns: int = 1


def _read(path: Path, options: Mapping[str, Any]) -> _Table:
    with storage_errors("read", path), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=options.get("delimiter", _DELIMITER.default), strict=True)
        try:
            return _rows(path, reader, options)
        except UnicodeDecodeError as error:
            raise DamagedFileError(f"{path} is not a text in UTF-8: {error.reason} at byte {error.start}") from error
        except csv.Error as error:
            raise DamagedFileError(f"{path}, line {reader.line_num}: {error}") from error


def _rows(path: Path, reader: Any, options: Mapping[str, Any]) -> _Table:
    header = next(reader, None)
    if not header:
        raise DamagedFileError(f"{path} is empty: its first line should name the columns")
    if len(header) > _MOST_COLUMNS:
        raise DamagedFileError(f"{path} has {len(header)} columns, the limit is {_MOST_COLUMNS}")
    names = [name.strip() for name in header]
    targets = _columns(path, names, options["target"], "target")
    given = options.get("features")
    chosen = (
        [i for i in range(len(names)) if i not in targets]
        if given is None
        else _columns(path, names, given, "features")
    )
    if not chosen:
        raise DriverError(f"{path} has no column besides its target; features are needed too", ExitCode.USAGE)
    table = _Table(path, tuple(names[i] for i in chosen), columns=len(targets))
    single = len(targets) == 1
    for row in reader:
        if not row:
            continue
        if len(row) != len(names):
            raise DamagedFileError(
                f"{path}, line {reader.line_num}: {len(names)} columns expected, as in the first line, found {len(row)}"
            )
        table.features.extend(_number(path, reader.line_num, names[i], row[i], "features") for i in chosen)
        if single:
            _add_target(table, reader.line_num, names[targets[0]], row[targets[0]].strip())
        else:
            table.targets.extend(_number(path, reader.line_num, names[i], row[i], "target") for i in targets)
    if not table.features:
        raise DamagedFileError(f"{path} has no line after the names of its columns: no sample at all")
    return table


def _columns(path: Path, names: Sequence[str], wanted: str | Sequence[str], option: str) -> list[int]:
    found = []
    for name in [wanted] if isinstance(wanted, str) else wanted:
        if name not in names:
            raise DriverError(f"data.{option}: {path} has no column {name}{did_you_mean(name, names)}", ExitCode.USAGE)
        if names.count(name) > 1:
            raise DriverError(
                f"data.{option}: {path} has {names.count(name)} columns {name}; give them different names",
                ExitCode.USAGE,
            )
        found.append(names.index(name))
    return found


def _number(path: Path, line: int, column: str, text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        said = f"has {text.strip()[:100]!r}" if text.strip() else "is empty"
        raise DriverError(
            f"{path}, line {line}: the column {column} {said}, where a number is needed; leave the column out of "
            f"data.{option}, or correct the file",
            ExitCode.USAGE,
        ) from None
    if not -3.4028234e38 <= value <= 3.4028234e38:  # what float32 holds; NaN is in no range
        raise DriverError(f"{path}, line {line}: the column {column} has {text.strip()}, which is not a finite number")
    return value


def _add_target(table: _Table, line: int, column: str, text: str) -> None:
    """Add the value of a single target, which is a number in all lines or a text in all of them."""
    if not text:
        raise DriverError(f"{table.path}, line {line}: the column {column} is empty, where a target is needed")
    table.texts.append(text)
    if not table.worded:
        try:
            table.targets.append(_number(table.path, line, column, text, "target"))
        except DriverError:
            if math.isnan(_as_float(text)) or math.isinf(_as_float(text)):
                raise
            table.worded = True


def _as_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _class_names(tables: Sequence[_Table]) -> tuple[str, ...]:
    """Return the texts of a single target, nothing where all are numbers."""
    if not any(table.worded for table in tables):
        return ()
    names = sorted({text for table in tables for text in table.texts})
    if len(names) > MOST_CLASSES:
        raise DriverError(
            f"{tables[0].path} has more than {MOST_CLASSES} classes; is its target really a label?", ExitCode.USAGE
        )
    return tuple(names)


def _whole(tables: Sequence[_Table]) -> bool:
    """Whether a single target has only whole numbers that can be labels."""
    return all(
        table.columns == 1
        and not table.worded
        and all(0 <= value < MOST_CLASSES and value % 1 == 0 for value in table.targets)
        for table in tables
    )


def _split(tables: Sequence[_Table], names: tuple[str, ...], whole: bool) -> dict[str, Array]:
    width = len(tables[0].names)
    features = np.concatenate([np.frombuffer(table.features, np.float32).reshape(-1, width) for table in tables])
    found: dict[str, Array] = {"image": features}
    if names:
        index = {name: number for number, name in enumerate(names)}
        return found | {"label": np.array([index[text] for table in tables for text in table.texts])}
    targets = np.concatenate([np.frombuffer(table.targets, np.float64) for table in tables])
    found["target"] = targets.astype(np.float32).reshape(len(features), -1)
    return found | ({"label": targets.astype(np.int64)} if whole else {})


def _require_alike(tables: Sequence[_Table]) -> None:
    """Raise DriverError unless the features of all files are the same columns, in the same order."""
    first = tables[0]
    for table in tables:
        if table.names != first.names:
            place = next(i for i, (a, b) in enumerate(zip_longest(table.names, first.names)) if a != b)
            here, there = (one.names[place] if place < len(one.names) else "none" for one in (table, first))
            raise DriverError(
                f"{table.path} has {here} as feature {place + 1}, but {first.path} has {there}; name those to feed in "
                f"data.features, which sets their order",
                ExitCode.USAGE,
            )
