"""From what a source gives to what is trained: the classes that are wanted, the two splits, and the limit."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from netc_runtime.arrays import shape_text
from netc_runtime.data.base import Samples, Source, Split
from netc_runtime.data.mapped import Indices
from netc_runtime.data.options import Division
from netc_runtime.data.order import permutation
from netc_runtime.data.rows import select
from netc_runtime.errors import DriverError, ExitCode, did_you_mean


def arrange(source: Source, options: Mapping[str, Any]) -> None:
    """Apply the options `classes`, `split` and `limit` to a source just opened; raises DriverError (2)."""
    if (wanted := options.get("classes")) is not None:
        _keep_classes(source, wanted)
    division = options.get("split")
    if division is not None or not source.test:
        source.train, source.test = divided(source.train, Division.of(division or {}))
    if (limit := options.get("limit")) is not None:
        source.train = _limited(source.train, limit)


def divided(split: Split, division: Division) -> tuple[Split, Split]:
    """Return the training and the test part of some samples, both in their order; raises DriverError (2)."""
    labels = split.get("label")
    single = labels is not None and labels.ndim == 1 and labels.dtype.kind in "iu"
    if division.stratified and not single:
        raise DriverError(
            "data.split: stratified needs one label a sample, which the data source does not give; leave it out",
            ExitCode.USAGE,
        )
    count = _count(split)
    order = permutation(division.seed, 0, count)
    groups = [order]
    if labels is not None and single and division.stratified is not False:
        own = np.asarray(labels[:])[order]
        groups = [order[own == label] for label in np.unique(own)]
    test = np.concatenate([group[: int(division.test * len(group) + 0.5)] for group in groups])
    if not 0 < len(test) < count:
        raise DriverError(
            f"data.split: a test fraction of {division.test} of {count} samples leaves {count - len(test)} to train "
            f"and {len(test)} to test; choose another fraction, or stratified: false",
            ExitCode.USAGE,
        )
    chosen = np.zeros(count, bool)
    chosen[test] = True
    return _selected(split, np.flatnonzero(~chosen)), _selected(split, np.flatnonzero(chosen))


def class_indices(wanted: Sequence[str | int], names: Sequence[str]) -> list[int]:
    """Return the labels of the classes that are wanted by name or number; raises DriverError (2)."""
    found: list[int] = []
    for one in wanted:
        if isinstance(one, str) and one in names:
            found.append(names.index(one))
        elif isinstance(one, int) and (0 <= one < len(names) or (one >= 0 and not names)):
            found.append(one)
        else:
            known = did_you_mean(one, names) if isinstance(one, str) else f"; they are 0 to {len(names) - 1}"
            raise DriverError(f"data.classes: the data source has no class {one}{known}", ExitCode.USAGE)
    if len(set(found)) < len(found):
        raise DriverError("data.classes: a class is named twice, by name and by number", ExitCode.USAGE)
    return found


def chosen_names(names: tuple[str, ...], wanted: Sequence[str | int] | None) -> tuple[str, ...]:
    """Return the names of the classes that are kept, of all `names` of a source; unknown ones are called as asked."""
    if wanted is None:
        return names
    if not names:
        return tuple(map(str, wanted))
    return tuple(names[index] for index in class_indices(wanted, names))


def _keep_classes(source: Source, wanted: Sequence[str | int]) -> None:
    classes = class_indices(wanted, source.classes)
    source.train = _of_classes(source.train, "train", classes)
    if source.test:
        source.test = _of_classes(source.test, "test", classes)
    source.classes = chosen_names(source.classes, wanted)


def _of_classes(split: Split, name: str, classes: Sequence[int]) -> Split:
    labels = split.get("label")
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        found = "none" if labels is None else f"{shape_text(labels.shape[1:])} of {labels.dtype}"
        raise DriverError(f"data.classes: this needs one label a sample, the source gives {found}", ExitCode.USAGE)
    old = np.asarray(labels[:])
    new = np.full(len(old), -1, np.int64)
    for index, label in enumerate(classes):
        new[old == label] = index
        if not (new == index).any():
            raise DriverError(f"data.classes: no sample of the {name} split has the label {label}", ExitCode.USAGE)
    kept = np.flatnonzero(new >= 0)
    return {**_selected(split, kept), "label": new[kept]}


def _limited(split: Split, limit: int) -> Split:
    count = _count(split)
    if limit > count:
        raise DriverError(
            f"data.limit: the data source has {count} training samples, fewer than the limit {limit}; lower or remove "
            f"it",
            ExitCode.USAGE,
        )
    return _selected(split, permutation(0, 0, count)[:limit])


def _count(split: Split) -> int:
    return len(next(iter(split.values())))


def _selected(split: Split, indices: Indices) -> dict[str, Samples]:
    return {field: select(samples, indices) for field, samples in split.items()}
