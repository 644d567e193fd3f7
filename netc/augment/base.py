"""What an augmentation is: a mapping of the language whose class also writes what it does to a batch.

An operation is one class in this package: typed fields (the YAML schema), a docstring (the documentation), and what
becomes of a batch in ONNX primitives. Operations see raw values, as the data source gives them, and draw from the
hash of `netc.graph.counter_rng`, keyed by seed, step, place in the batch and their own name.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field, PlainValidator, ValidationInfo

from netc.declared import Declared, Family, mistake, shown
from netc.graph import GraphBuilder
from netc.graph.counter_rng import CounterRNG

Border = Literal["constant", "edge", "reflect"]
Size = Annotated[int, Field(gt=0)]


class AugmentError(Exception):
    """An operation that does not fit the input: a sentence, and the field it is about (None: the operation)."""

    def __init__(self, message: str, field: str | None = None) -> None:
        self.field = field
        super().__init__(message)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number of the language."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _span(value: Any, info: ValidationInfo) -> float | list[float]:
    """Take a number that is not negative, or [low, high]."""
    if is_number(value) and value >= 0:
        return float(value)
    if isinstance(value, list) and len(value) == 2 and all(map(is_number, value)) and value[0] <= value[1]:
        return [float(end) for end in value]
    raise mistake(f"{info.field_name}: expected a number of at least 0, or [low, high], got {shown(value)}")


Span = Annotated[float | list[float], PlainValidator(_span, json_schema_input_type=float | list[float])]


def ends(span: float | list[float], middle: float = 0.0) -> tuple[float, float]:
    """Return low and high of a span; a number stands for as much on both sides of the middle."""
    return (span[0], span[1]) if isinstance(span, list) else (middle - span, middle + span)


@dataclass(frozen=True)
class Draws:
    """The random numbers of one operation.

    Attributes:
        g: the graph.
        random: what draws them.
        key: name of the operation, which no other one of the spec has.
        shape: shape of a number for each sample, so that it broadcasts: `[N, 1, 1, 1]`.
    """

    g: GraphBuilder
    random: CounterRNG
    key: str
    shape: Sequence[int]

    def uniform(self, what: str, low: float = 0.0, high: float = 1.0, shape: Sequence[int] | None = None) -> ir.Value:
        """Return numbers from U(low, high), one of 2^16 equally likely ones: one a sample, or of the given shape."""
        if low == high:
            return self.g.constant(low)
        drawn = self.random.uniform(f"{self.key}/{what}", self.shape if shape is None else shape)
        drawn = drawn if self.g.dtype == drawn.dtype else self.g.Cast(drawn, to=self.g.dtype)
        with self.g.arithmetic():
            scaled = drawn if high - low == 1.0 else drawn * (high - low)
            return scaled if low == 0.0 else scaled + low

    def integer(self, what: str, count: int) -> ir.Value:
        """Return whole numbers 0 to count - 1, one a sample, as floats."""
        return self.g.Floor(self.uniform(what, 0.0, float(count)))

    def normal(self, what: str, shape: Sequence[int]) -> ir.Value:
        """Return numbers from N(0, 1)."""
        drawn = self.random.normal(f"{self.key}/{what}", shape)
        return drawn if self.g.dtype == drawn.dtype else self.g.Cast(drawn, to=self.g.dtype)

    def happens(self, probability: float) -> ir.Value | None:
        """Return whether the operation happens, a boolean a sample; None: always."""
        if probability == 1.0:
            return None
        return self.random.keep(f"{self.key}/happens", self.shape, 1.0 - probability)

    def gated(self, value: ir.Value, probability: float, otherwise: float = 0.0) -> ir.Value:
        """Return a drawn number where the operation happens, elsewhere the one that changes nothing."""
        happens = self.happens(probability)
        return value if happens is None else self.g.Where(happens, value, self.g.constant(otherwise))


@dataclass(frozen=True)
class Picture:
    """What pixel operations know of an image [N, C, H, W]: its size, and the range of its raw values if declared."""

    channels: int
    height: int
    width: int
    limits: tuple[float, float] | None

    def span(self) -> tuple[float, float]:
        """Return the lowest and highest raw value; raises AugmentError where the spec does not say."""
        if self.limits is None:
            raise AugmentError("needs the range of raw values; give data.range, such as range: [0, 255]")
        return self.limits

    def need_color(self) -> None:
        """Raise AugmentError unless there are three channels."""
        if self.channels != 3:
            raise AugmentError(f"needs 3 channels, red, green and blue, and the image has {self.channels}; remove it")


class Operation(Declared):
    """Fields that every operation has.

    Operations follow each other in the order of the list, on raw values, before `mean`, `std` and `scale`. Whether one
    happens, and how, is drawn for each sample anew, as a pure function of seed, step, place in the batch, and the
    operation's type and number among those of its type, so that a resumed run draws the same.
    """

    type: str
    probability: float = Field(1.0, ge=0.0, le=1.0)
    """Probability that it happens to a sample."""


class Geometric(Operation):
    """An operation that moves places: the image between pixels, dense labels to the nearest one."""

    # Whether whole pixels are moved, so that nothing is computed between them.
    exact: ClassVar[bool] = False
    # Whether the operations behind it see its result on whole pixels alone.
    ends_run: ClassVar[bool] = False

    @property
    def border_of(self) -> tuple[Border, float] | None:
        """How places beyond the edges look, and their raw value; None: it does not look there."""
        return None

    @abstractmethod
    def source(self, draws: Draws, y: ir.Value, x: ir.Value, size: tuple[int, int]) -> tuple[ir.Value, ir.Value]:
        """Return where in the image before it the places (y, x) of the image after it come from, in pixels.

        Raises:
            AugmentError: it does not fit the size, height and width.
        """


class Bordered(Geometric):
    """A geometric operation that looks beyond the edges.

    `border` says what is there: `constant` has the raw value `fill`, `edge` repeats the last pixel, `reflect` mirrors
    without repeating it. Dense labels have their `ignore_label` there, 0 without one, unless the border is another.
    """

    border: Border = "constant"
    """What lies beyond the edges."""
    fill: float = 0.0
    """Raw value there, for a constant border."""

    @property
    def border_of(self) -> tuple[Border, float]:  # noqa: D102
        return self.border, self.fill


class Pixelwise(Operation):
    """An operation that changes the values of an image and leaves dense labels as they are."""

    @abstractmethod
    def change(self, draws: Draws, x: ir.Value, picture: Picture) -> ir.Value:
        """Return the image after it.

        Raises:
            AugmentError: it does not fit the picture.
        """


AUGMENTATIONS: Family[Operation] = Family("augmentation", shorthand=True)
AnyAugmentation = Annotated[Operation, AUGMENTATIONS]


def clipped(g: GraphBuilder, x: ir.Value, limits: tuple[float, float]) -> ir.Value:
    """Return values brought back into the range of raw ones."""
    return g.Clip(x, *(g.constant(limit) for limit in limits))


def gaussian_rows(size: int) -> np.ndarray:
    """Return the squared distances of the places of a line, [size, size]."""
    places = np.arange(size)
    return np.square(places[:, np.newaxis] - places[np.newaxis, :]).astype(np.float64)
