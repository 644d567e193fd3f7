"""Fillers: the first values of parameters, by name of the formula as in Caffe.

Every tensor is drawn from a counter-based generator (Philox) keyed by seed and parameter name, so that adding a layer
never changes another layer's weights. Only the generator's raw bits are used, which numpy keeps stable.

n = number of elements, fan_in = n / shape[0], fan_out = n / shape[1] (n for vectors), as in Caffe.
"""

import hashlib
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from netc.declared import Declared, Family, mistake

PIECE = 8192  # numbers drawn at a time: their temporaries stay in a core's cache


class Filler(Declared):
    """How a parameter is filled before training."""

    type: str

    # Fewest axes of a tensor that the formula makes sense for.
    min_axes: ClassVar[int] = 0

    @abstractmethod
    def draw(self, bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:
        """Return float64 values of the given shape."""

    def fill(self, seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return the first value of the parameter called `name` in float64."""
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        return self.draw(np.random.Philox(key=int.from_bytes(digest[:16], "little")), shape)


FILLERS: Family[Filler] = Family("filler", shorthand=True)
AnyFiller = Annotated[Filler, FILLERS]


def uniform_unit(bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:
    """Draw from [0, 1) in steps of 2^-53."""
    raw = bits.random_raw(math.prod(shape)) >> np.uint64(11)
    return (raw * 2.0**-53).reshape(shape)


def normal_unit(bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:
    """Draw from N(0, 1) by Box & Muller (1958), all radii before all angles, piece by piece as caches like it."""
    values = np.empty(math.prod(shape), np.float64)
    pieces = [values[start : start + PIECE] for start in range(0, values.size, PIECE)]
    for piece in pieces:
        piece[:] = np.sqrt(-2.0 * np.log1p(-uniform_unit(bits, piece.shape)))
    for piece in pieces:
        piece *= np.cos(2.0 * np.pi * uniform_unit(bits, piece.shape))
    return values.reshape(shape)


def _fan(shape: tuple[int, ...], norm: str) -> float:
    n = math.prod(shape)
    fan_in = n / shape[0]
    fan_out = n / shape[1] if len(shape) > 1 else n
    return {"fan_in": fan_in, "fan_out": fan_out, "average": (fan_in + fan_out) / 2}[norm]


def bilinear_kernel(kernel: Sequence[int]) -> np.ndarray:
    """Return the product over the axes of 1 - |i / f - c| with f = ceil(k / 2), c = (k - 1) / (2 f), as in Caffe."""
    product = np.ones(())
    for k in kernel:
        f = math.ceil(k / 2)
        product = product[..., None] * (1.0 - np.abs(np.arange(k) / f - (k - 1) / (2.0 * f)))
    return product


VarianceNorm = Literal["fan_in", "fan_out", "average"]


@FILLERS.add
class Constant(Filler):
    """Every element the same value.

    Example: {type: constant, value: 0.1}
    """

    type: Literal["constant"] = "constant"
    value: float = Field(0.0, allow_inf_nan=False)
    """The value."""

    def draw(self, bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:  # noqa: D102
        return np.broadcast_to(np.float64(self.value), shape)


@FILLERS.add
class Uniform(Filler):
    """Uniform between `min` and `max`.

    Example: {type: uniform, min: -0.05, max: 0.05}
    """

    type: Literal["uniform"] = "uniform"
    min: float = Field(0.0, allow_inf_nan=False)
    """Smallest value."""
    max: float = Field(1.0, allow_inf_nan=False)
    """Largest value."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise mistake(f"uniform: min {self.min:g} is larger than max {self.max:g}; exchange them")
        return self

    def draw(self, bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:  # noqa: D102
        return self.min + (self.max - self.min) * uniform_unit(bits, shape)


@FILLERS.add
class Gaussian(Filler):
    """Normal with `mean` and standard deviation `std`.

    Example: {type: gaussian, std: 0.01}
    """

    type: Literal["gaussian"] = "gaussian"
    mean: float = Field(0.0, allow_inf_nan=False)
    """Mean of the values."""
    std: float = Field(1.0, ge=0.0, allow_inf_nan=False)
    """Standard deviation of the values."""

    def draw(self, bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:  # noqa: D102
        return self.mean + self.std * normal_unit(bits, shape)


@FILLERS.add
class Xavier(Filler):
    """Uniform in +-sqrt(3 / fan) (Glorot & Bengio, 2010; `average` is their formula, `fan_in` Caffe's default).

    Example: {type: xavier, variance_norm: average}
    """

    type: Literal["xavier"] = "xavier"
    variance_norm: VarianceNorm = "fan_in"
    """The fan to divide by."""

    def draw(self, bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:  # noqa: D102
        bound = math.sqrt(3.0 / _fan(shape, self.variance_norm))
        return bound * (2.0 * uniform_unit(bits, shape) - 1.0)


@FILLERS.add
class Msra(Filler):
    """Normal with standard deviation sqrt(2 / fan), for rectifiers (He et al., 2015).

    Example: msra
    """

    type: Literal["msra"] = "msra"
    variance_norm: VarianceNorm = "fan_in"
    """The fan to divide by."""

    def draw(self, bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:  # noqa: D102
        return math.sqrt(2.0 / _fan(shape, self.variance_norm)) * normal_unit(bits, shape)


@FILLERS.add
class PositiveUnitball(Filler):
    """Uniform in [0, 1), then divided by the sum over all but the first axis: shares that add up to 1.

    Example: positive_unitball
    """

    type: Literal["positive_unitball"] = "positive_unitball"

    def draw(self, bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:  # noqa: D102
        rows = uniform_unit(bits, (shape[0], math.prod(shape[1:])))
        return (rows / rows.sum(1, keepdims=True)).reshape(shape)


@FILLERS.add
class Bilinear(Filler):
    """The kernel of linear interpolation, the same for every pair of channels; for a Deconvolution that upsamples.

    Upsampling by s: kernel_size 2 s - s % 2, stride s, pad ceil((s - 1) / 2), and group equal to the channels.

    Example: bilinear
    """

    type: Literal["bilinear"] = "bilinear"
    min_axes: ClassVar[int] = 3

    def draw(self, bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:  # noqa: D102
        return np.broadcast_to(bilinear_kernel(shape[2:]), shape).copy()


@FILLERS.add
class Orthogonal(Filler):
    """Rows, or columns where there are fewer, of length `gain` and at right angles (Saxe et al., 2014).

    The tensor is taken as a matrix [shape[0], n / shape[0]]: the Q of a QR decomposition of normal draws, with the
    signs that make the diagonal of R positive.

    Example: {type: orthogonal, gain: 1.4142}
    """

    type: Literal["orthogonal"] = "orthogonal"
    gain: float = Field(1.0, gt=0.0, allow_inf_nan=False)
    """Length of each row, or column; sqrt(2) suits rectifiers."""
    min_axes: ClassVar[int] = 2

    def draw(self, bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:  # noqa: D102
        rows, columns = shape[0], math.prod(shape[1:])
        q, r = np.linalg.qr(normal_unit(bits, (max(rows, columns), min(rows, columns))))
        q = q * np.where(np.diagonal(r) < 0.0, -1.0, 1.0)
        return self.gain * (q if rows >= columns else q.T).reshape(shape)


@FILLERS.add
class Identity(Filler):
    """1 from the i-th input to the i-th output, at the centre of a kernel, and 0 elsewhere.

    Example: identity
    """

    type: Literal["identity"] = "identity"
    min_axes: ClassVar[int] = 2

    def draw(self, bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:  # noqa: D102
        values = np.zeros(shape, np.float64)
        diagonal = np.arange(min(shape[:2]))
        centre = sum(k // 2 * math.prod(shape[3 + i :]) for i, k in enumerate(shape[2:]))
        values.reshape(shape[0], shape[1], -1)[diagonal, diagonal, centre] = 1.0
        return values
