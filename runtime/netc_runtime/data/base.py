"""What every data source is: two splits of named arrays and the names of its classes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self, TypeAlias

from netc_runtime.arrays import Array

Split: TypeAlias = Mapping[str, Array]
"""Field name to array; axis 0 counts the samples: `image` is [n, C, H, W], `label` is [n] class indices."""

Problem: TypeAlias = tuple[tuple[str, ...], str]
"""A mistake in the `data` section: the path of its key under `data`, and a sentence."""


class Source(ABC):
    """A loaded data set. Splits are never empty, and all fields of one split count the same samples."""

    options: ClassVar[frozenset[str]]
    """The keys of `data` that this source reads."""
    value_range: ClassVar[tuple[float, float]]
    """Smallest and largest raw value of `image`."""

    def __init__(self, train: Split, test: Split, classes: tuple[str, ...]) -> None:
        self.train = train
        self.test = test
        self.classes = classes

    def split(self, name: str) -> Split:
        """Return the split called `train` or `test`."""
        return {"train": self.train, "test": self.test}[name]

    @classmethod
    @abstractmethod
    def class_names(cls, name: str) -> tuple[str, ...]:
        """Return the names of the classes that the source `name` always has; empty if only its data tells."""

    @classmethod
    @abstractmethod
    def check(cls, name: str, options: Mapping[str, Any]) -> list[Problem]:
        """Return the mistakes in the values of `options`, wherever the data may be."""

    @classmethod
    @abstractmethod
    def missing(cls, name: str, options: Mapping[str, Any]) -> list[Problem]:
        """Return what keeps `options` that have passed `check` from being opened on this machine."""

    @classmethod
    @abstractmethod
    def open(cls, name: str, options: Mapping[str, Any]) -> Self:
        """Load the source `name`, whose options have passed `check`; raises DriverError."""
