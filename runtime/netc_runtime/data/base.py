"""What every data source is: two splits of named arrays and the names of its classes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeAlias

import numpy as np

from netc_runtime.arrays import Array, shape_text
from netc_runtime.data.options import Option, Problem
from netc_runtime.errors import DriverError, ExitCode

__all__ = ["Problem", "Samples", "Source", "Split", "UnequalSizesError", "as_folder"]


class Samples(Protocol):
    """One field of a split: a numpy array, or what is read from a file as it is asked for.

    Indexing by a number gives a sample, by a slice or an array of numbers a new array of samples.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of samples, and the shape of one."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of all values."""

    @property
    def ndim(self) -> int:
        """Number of axes, with that of the samples."""

    @property
    def nbytes(self) -> int:
        """Size of all samples in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...

    def __array__(self) -> Array: ...


MOST_CLASSES = 1 << 20
"""How many classes data may have: what is no label, but a measurement, should not become as many names."""

Split: TypeAlias = Mapping[str, Samples]
"""Field name to samples; axis 0 counts them: `image` is [n, C, H, W], `label` is [n] class indices."""


class UnequalSizesError(DriverError):
    """Images of several sizes, where `resize` names none; `found` is what is wrong, without the remedy."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(f"{found}; {remedy}", ExitCode.USAGE)
        self.found = found

    @classmethod
    def like(cls, found: str, size: Sequence[int]) -> Self:
        """Return the error of a source, which knows no better size than that of one of the images."""
        return cls(found, f"set data.resize, such as resize: {shape_text(tuple(size))}")

    def needing(self, size: Sequence[int]) -> Self:
        """Return the error for whoever takes images of this size alone."""
        return type(self)(self.found, f"set data.resize: {shape_text(tuple(size))}")


class Source(ABC):
    """A loaded data set. Splits are never empty, and all fields of one split count the same samples.

    Only between `open` of a source that has one set and the split of that set, `test` is empty.
    """

    about: ClassVar[str]
    """What the source is, on one line."""
    options: ClassVar[tuple[Option, ...]]
    """The keys of `data` that this source reads."""
    value_range: ClassVar[tuple[float, float]] = (0.0, 255.0)
    """Smallest and largest raw value of `image`, where the spec does not declare another range."""
    extra: ClassVar[str | None] = None
    """The extra of netc that installs what this source needs, if any."""
    resizes: ClassVar[bool] = False
    """Whether `open` itself brings images to the option `resize`, because it decodes them."""

    def __init__(self, train: Split, test: Split, classes: tuple[str, ...]) -> None:
        self.train = train
        self.test = test
        self.classes = classes
        self.notes: tuple[str, ...] = ()
        """What whoever uses the data should know."""
        self.declared_range: tuple[float, float] | None = None
        """The smallest and largest raw value of `image` that the spec allows, if it says so."""

    def split(self, name: str) -> Split:
        """Return the split called `train` or `test`."""
        return {"train": self.train, "test": self.test}[name]

    def left_out(self, reasons: Sequence[str]) -> None:
        """Note that records were skipped, each for a reason."""
        if reasons:
            what = "1 record was" if len(reasons) == 1 else f"{len(reasons)} records were"
            self.notes = (f"{what} left out of the data; the first: {reasons[0]}",)

    @classmethod
    @abstractmethod
    def class_names(cls, name: str, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of all classes of the source `name` as far as that costs little; empty if not known."""

    @classmethod
    @abstractmethod
    def missing(cls, name: str, options: Mapping[str, Any]) -> list[Problem]:
        """Return what keeps `options` that have passed their checks from being opened on this machine."""

    @classmethod
    @abstractmethod
    def open(cls, name: str, options: Mapping[str, Any]) -> Self:
        """Load the source `name`, whose options are sound; raises DriverError."""


def as_folder(path: str) -> Path:
    """Return what the option `path` names."""
    return Path(path).expanduser()


def numbered(labels: Array) -> tuple[str, ...]:
    """Return the names of classes that have only numbers, all below MOST_CLASSES."""
    return tuple(map(str, range(1 + int(labels.max()))))
