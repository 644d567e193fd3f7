"""Which arrays of a file are which field of which split, by their names."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from netc_runtime.arrays import shape_text
from netc_runtime.data.base import Samples
from netc_runtime.data.folders import CALLED, SPLITS
from netc_runtime.data.mapped import is_in_memory
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode

# What others call the fields; only whole names, so that nothing is taken for what it is not.
_ALIASES = {"x": "image", "data": "image", "images": "image", "y": "label", "labels": "label"}
_SPLITS = {name: split for split, names in CALLED.items() for name in names}


def named_splits(path: Path, names: Collection[str], fields: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the name of the array of every field by split, `train` alone for one set.

    A name says its split first or last: `train/image`, `train_image`, `image_train`. `fields` says what the rest of the
    name is called for a field. Raises DriverError (2) naming what is missing.
    """
    called = {there: field for field, there in fields.items()}
    found: dict[str, dict[str, str]] = {}
    for name in sorted(names):
        split, rest = _parted(name)
        field = called.get(rest, called.get(name, _ALIASES.get(rest.lower(), rest)))
        if field in found.setdefault(split, {}):
            raise DriverError(
                f"{path} has {found[split][field]} and {name}, which are both the field {field}; say which in "
                f"data.fields, such as fields: {{{field}: {rest}}}",
                ExitCode.USAGE,
            )
        found[split][field] = name
    for field, there in fields.items():
        if not any(field in own for own in found.values()):
            raise DriverError(
                f"{path} has no array {there} for the field {field}; it has: {', '.join(sorted(names)) or 'none'}",
                ExitCode.USAGE,
            )
    if not found.get("train"):
        if not (set(found) == {""}):
            raise DriverError(
                f"{path} holds no training arrays; it has: {', '.join(sorted(names)) or 'none'}", ExitCode.USAGE
            )
        return {"train": found[""]}
    if "test" in found and found["test"].keys() != found["train"].keys():
        other = sorted(found["test"].keys() ^ found["train"].keys())[0]
        raise DriverError(f"{path} has the field {other} in one split alone: both need the same fields", ExitCode.USAGE)
    return {split: found[split] for split in SPLITS if split in found}


def read_splits(
    path: Path, names: Collection[str], fields: Mapping[str, str], budget: int, read: Callable[[str, int], Samples]
) -> dict[str, dict[str, Samples]]:
    """Return the arrays of `named_splits`; raises DriverError also where their samples do not fit each other.

    `read` returns the array of a name, given how many bytes it may take in memory: what is left of `budget`.
    """
    found: dict[str, dict[str, Samples]] = {}
    for split, own in named_splits(path, names, fields).items():
        found[split] = {}
        for field, name in own.items():
            samples = found[split][field] = read(name, budget)
            budget -= samples.nbytes if is_in_memory(samples) else 0
        _check_counts(path, found[split])
    return found


def _check_counts(path: Path, arrays: Mapping[str, Samples]) -> None:
    """Raise DriverError unless all fields of a split have the same samples, and some."""
    first = next(iter(arrays))
    for field, samples in arrays.items():
        if samples.ndim == 0 or 0 in samples.shape:
            raise DamagedFileError(f"{path} has {field} as {shape_text(samples.shape)}: no sample at all")
        if len(samples) != len(arrays[first]):
            raise DriverError(
                f"{path} has {len(arrays[first])} samples of {first} but {len(samples)} of {field}; all fields of a "
                f"split need the same samples"
            )


def real(path: Path, name: str, dtype: "np.dtype[Any]") -> None:
    """Raise DriverError unless a dtype is of real numbers."""
    if dtype.hasobject:
        raise DriverError(f"{path} has {name} of Python objects; real numbers are needed")
    if dtype.kind not in "fiub":
        raise DriverError(f"{path} has {name} of {dtype} values; real numbers are needed")


def _parted(name: str) -> tuple[str, str]:
    """Return the split that a name says, empty if none, and the rest of it."""
    for separator in "/_":
        words: Sequence[str] = name.split(separator)
        for at, rest in ((0, words[1:]), (-1, words[:-1])):
            if rest and words[at].lower() in _SPLITS:
                return _SPLITS[words[at].lower()], separator.join(rest)
    return "", name
