"""Fillers: the first values of parameters, by name of the formula as in Caffe.

Every tensor is drawn from a counter-based generator (Philox) keyed by seed and parameter name, so that adding a layer
never changes another layer's weights. Only the generator's raw bits are used, which numpy keeps stable.

n = number of elements, fan_in = n / shape[0], fan_out = n / shape[1] (n for vectors), as in Caffe.
"""

import hashlib
import math
from abc import abstractmethod
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, PlainValidator, SerializeAsAny, model_validator

from netc.declared import Declared, Family, mistake


class Filler(Declared):
    """How a parameter is filled before training."""

    type: str

    @abstractmethod
    def draw(self, bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:
        """Return float64 values of the given shape."""

    def fill(self, seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return the first value of the parameter called `name` in float64."""
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        return self.draw(np.random.Philox(key=int.from_bytes(digest[:16], "little")), shape)


FILLERS: Family[Filler] = Family("filler", shorthand=True)
AnyFiller = Annotated[SerializeAsAny[Filler], PlainValidator(FILLERS.parse)]


def uniform_unit(bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:
    """Draw from [0, 1) in steps of 2^-53."""
    raw = bits.random_raw(math.prod(shape)) >> np.uint64(11)
    return (raw * 2.0**-53).reshape(shape)


def normal_unit(bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:
    """Draw from N(0, 1) by Box & Muller (1958)."""
    radius = np.sqrt(-2.0 * np.log1p(-uniform_unit(bits, shape)))
    return radius * np.cos(2.0 * np.pi * uniform_unit(bits, shape))


def _fan(shape: tuple[int, ...], norm: str) -> float:
    n = math.prod(shape)
    fan_in = n / shape[0]
    fan_out = n / shape[1] if len(shape) > 1 else n
    return {"fan_in": fan_in, "fan_out": fan_out, "average": (fan_in + fan_out) / 2}[norm]


VarianceNorm = Literal["fan_in", "fan_out", "average"]


@FILLERS.add
class Constant(Filler):
    """Every element the same value."""

    type: Literal["constant"] = "constant"
    value: float = Field(0.0, allow_inf_nan=False)

    def draw(self, bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:  # noqa: D102
        return np.full(shape, self.value, np.float64)


@FILLERS.add
class Uniform(Filler):
    """Uniform between `min` and `max`."""

    type: Literal["uniform"] = "uniform"
    min: float = Field(0.0, allow_inf_nan=False)
    max: float = Field(1.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise mistake(f"uniform: min {self.min:g} is larger than max {self.max:g}; exchange them")
        return self

    def draw(self, bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:  # noqa: D102
        return self.min + (self.max - self.min) * uniform_unit(bits, shape)


@FILLERS.add
class Gaussian(Filler):
    """Normal with `mean` and standard deviation `std`."""

    type: Literal["gaussian"] = "gaussian"
    mean: float = Field(0.0, allow_inf_nan=False)
    std: float = Field(1.0, ge=0.0, allow_inf_nan=False)

    def draw(self, bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:  # noqa: D102
        return self.mean + self.std * normal_unit(bits, shape)


@FILLERS.add
class Xavier(Filler):
    """Uniform in +-sqrt(3 / fan) (Glorot & Bengio, 2010; `average` is their formula, `fan_in` Caffe's default)."""

    type: Literal["xavier"] = "xavier"
    variance_norm: VarianceNorm = "fan_in"

    def draw(self, bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:  # noqa: D102
        bound = math.sqrt(3.0 / _fan(shape, self.variance_norm))
        return bound * (2.0 * uniform_unit(bits, shape) - 1.0)


@FILLERS.add
class Msra(Filler):
    """Normal with standard deviation sqrt(2 / fan), for rectifiers (He et al., 2015)."""

    type: Literal["msra"] = "msra"
    variance_norm: VarianceNorm = "fan_in"

    def draw(self, bits: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:  # noqa: D102
        return math.sqrt(2.0 / _fan(shape, self.variance_norm)) * normal_unit(bits, shape)
