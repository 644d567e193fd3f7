"""What a data set looks like in numbers: samples, fields, classes, and the moments of its values."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from netc_runtime.arrays import shape_text
from netc_runtime.data.base import MOST_CLASSES, Samples, Source
from netc_runtime.data.folders import SPLITS
from netc_runtime.data.moments import channel_moments, parts

_MOST_ROWS = 100  # of a table in text
_BAR = 40


@dataclass(frozen=True)
class Field:
    """One field of the data: the shape of a sample, and how values are stored."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Channel:
    """The values of one channel of `image` over the training samples."""

    mean: float
    std: float
    least: float
    largest: float


@dataclass(frozen=True)
class Class:
    """One class, and how many labels of each split name it."""

    name: str
    train: int
    test: int


@dataclass(frozen=True)
class Description:
    """A data set in numbers. `classes` is empty without labels, `channels` without an `image`."""

    samples: Mapping[str, int]
    fields: tuple[Field, ...]
    classes: tuple[Class, ...]
    channels: tuple[Channel, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return it as text."""
        lines = [f"{self.samples['train']} training and {self.samples['test']} test samples"]
        lines += [f"  {field.name}  {shape_text(field.shape)} of {field.dtype}" for field in self.fields]
        if self.classes:
            lines += _histogram(self.classes)
        if self.channels:
            lines += ["values of `image` in the training samples, by channel:"]
            lines += [
                f"  {index}  mean {one.mean:.6g}  std {one.std:.6g}  from {one.least:.6g} to {one.largest:.6g}"
                for index, one in enumerate(self.channels[:_MOST_ROWS])
            ]
            lines += _more(len(self.channels))
        return lines


def describe(source: Source) -> Description:
    """Return the numbers of a loaded data set; all samples are read once, little of them at a time."""
    train = source.train
    images = train.get("image")
    channels = () if images is None or images.ndim < 2 else _channels(images)
    return Description(
        samples={split: len(next(iter(source.split(split).values()))) for split in SPLITS},
        fields=tuple(Field(name, tuple(field.shape[1:]), str(field.dtype)) for name, field in train.items()),
        classes=_classes(source),
        channels=channels,
        notes=(*source.notes, *_not_finite(channels)),
    )


def _not_finite(channels: tuple[Channel, ...]) -> tuple[str, ...]:
    """Return the note that values are no numbers, which training would stop at."""
    if all(math.isfinite(one.mean) for one in channels):
        return ()
    return ("some values of image are not finite (NaN or infinite), which training refuses; mend or remove them",)


def _classes(source: Source) -> tuple[Class, ...]:
    counts: list[npt.NDArray[np.intp]] = []
    for split in SPLITS:
        labels = source.split(split).get("label")
        if labels is None or labels.dtype.kind not in "iu":
            return ()
        counts.append(_counts(labels))
    size = max(len(source.classes), *map(len, counts))
    train, test = (np.pad(one, (0, size - len(one))) for one in counts)
    names = [source.classes[index] if index < len(source.classes) else str(index) for index in range(size)]
    return tuple(Class(name, int(a), int(b)) for name, a, b in zip(names, train, test, strict=True))


def _counts(labels: Samples) -> npt.NDArray[np.intp]:
    """Return how often each label from 0 on occurs, at every place where there are several; others are no class."""
    found = np.zeros(0, np.intp)
    for part in parts(labels):
        values = part.ravel()
        values = values[(values >= 0) & (values < MOST_CLASSES)].astype(np.intp)
        own = np.bincount(values, minlength=len(found))
        own[: len(found)] += found
        found = own
    return found


def _channels(images: Samples) -> tuple[Channel, ...]:
    with np.errstate(invalid="ignore"):  # of values that are not finite, which a note tells
        found = channel_moments(images)
    rows = np.stack([found.mean, found.std, found.least, found.largest], axis=1)
    return tuple(Channel(*map(float, row)) for row in rows)


def _histogram(classes: tuple[Class, ...]) -> list[str]:
    width = max(len(one.name) for one in classes[:_MOST_ROWS])
    most = max(max(one.train for one in classes), 1)
    lines = [f"{len(classes)} classes, with training and test labels:"]
    lines += [
        f"  {one.name:<{width}}  {one.train:>8}  {one.test:>8}  {'#' * math.ceil(_BAR * one.train / most)}".rstrip()
        for one in classes[:_MOST_ROWS]
    ]
    return lines + _more(len(classes))


def _more(count: int) -> list[str]:
    return [f"  ... and {count - _MOST_ROWS} more; --json lists all"] if count > _MOST_ROWS else []
