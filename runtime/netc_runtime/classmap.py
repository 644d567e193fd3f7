"""Class maps: what a model with scores for each position says of one sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from netc_runtime.arrays import Array, shape_text
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.files import storage_errors, write_atomically

_SHOWN = 5  # classes in one line


@dataclass(frozen=True)
class ClassShare:
    """A class and the part of a map's positions that it has, between 0 and 1."""

    index: int
    name: str
    share: float


@dataclass(frozen=True)
class ClassMap:
    """The most probable class at each position of one sample.

    `map` is [H, W] class indices; `shares` lists the classes that occur, largest first; `accuracy` is the part of the
    sample's own labels, ignored ones aside, that the map agrees with, where they are known. Over masks of dropout,
    `deviations` is [H, W], the standard deviation of the probability of each position's class; else None.
    """

    input: str
    map: Array
    shares: tuple[ClassShare, ...]
    accuracy: float | None = None
    deviations: Array | None = None

    @classmethod
    def of(
        cls,
        name: str,
        scores: Array,
        classes: tuple[str, ...],
        truth: Array | None,
        ignored: Sequence[int],
        deviations: Array | None = None,
    ) -> "ClassMap":
        """Return the map of `scores` [classes, H, W].

        `truth` is [H, W] labels, where `ignored` ones do not count; `deviations` are those of the scores.
        """
        found = scores.argmax(axis=0)
        parts = np.bincount(found.ravel(), minlength=len(classes)) / found.size
        order = [int(index) for index in np.argsort(-parts, kind="stable") if parts[index]]
        shares = tuple(ClassShare(index, classes[index], float(parts[index])) for index in order)
        agreement = None
        if truth is not None:
            counts = ~np.isin(truth, list(ignored))
            agreement = float((found == truth)[counts].mean()) if counts.any() else None
        spread = None if deviations is None else np.take_along_axis(deviations, found[np.newaxis], axis=0)[0]
        return cls(name, found.astype(np.min_scalar_type(len(classes) - 1)), shares, agreement, spread)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data; `deviations` are there if there are any."""
        plain = {**vars(self), "map": self.map.tolist(), "shares": [vars(share) for share in self.shares]}
        del plain["deviations"]
        return plain if self.deviations is None else {**plain, "deviations": self.deviations.tolist()}

    def as_text(self) -> str:
        """Return it as one line."""
        listed = ", ".join(f"{share.name} {share.share:.3f}" for share in self.shares[:_SHOWN])
        more = f" and {len(self.shares) - _SHOWN} more" if len(self.shares) > _SHOWN else ""
        truth = "" if self.accuracy is None else f"  (accuracy {self.accuracy:.4f})"
        spread = "" if self.deviations is None else f"  +- {self.deviations.mean():.3f}"
        return f"{self.input}  {shape_text(self.map.shape)}  {listed}{more}{spread}{truth}"


def save_maps(predictions: Sequence[object], folder: Path) -> Mapping[str, Path]:
    """Write each class map to `folder` as a .npy file named after its input; return the paths by input.

    Deviations go to files of the same names in `folder`/deviations, as float32.
    Raises DriverError: 2 if something else is predicted, 3 for a folder that cannot be written.
    """
    maps = [prediction for prediction in predictions if isinstance(prediction, ClassMap)]
    if len(maps) < len(predictions):
        raise DriverError(
            f"there are no class maps to write to {folder}: the model gives one class for each input", ExitCode.USAGE
        )
    with storage_errors("create", folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths: dict[str, Path] = {}
    for one in maps:
        if one.input in paths:
            continue
        name = _file_name(one.input)
        taken = sum(_file_name(other) == name for other in paths)
        path = folder / (f"{name}.{taken + 1}.npy" if taken else f"{name}.npy")
        _save(one.map, path)
        if one.deviations is not None:
            with storage_errors("create", folder / "deviations"):
                (folder / "deviations").mkdir(exist_ok=True)
            _save(one.deviations.astype(np.float32), folder / "deviations" / path.name)
        paths[one.input] = path
    return paths


def _save(array: Array, path: Path) -> None:
    content = BytesIO()
    np.save(content, array, allow_pickle=False)
    write_atomically(path, content.getvalue())


def _file_name(name: str) -> str:
    """Return `test_17` for `test:17`, `cat` for `images/cat.png` and `batch_3` for `batch.npy[3]`."""
    file, bracket, index = Path(name).name.removesuffix("]").rpartition("[")
    if not (bracket and index.isdecimal() and name.endswith("]")):
        file, index = Path(name).name, ""
    stem = Path(file.replace(":", "_")).stem
    return f"{stem}_{index}" if index else stem
