"""The language: what a spec may say, section by section. Layers, fillers and solvers bring their own fields."""

import hashlib
import json
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, PlainValidator, SerializeAsAny, TypeAdapter, model_validator

from netc.declared import Declared, mistake, shown
from netc.layers import LAYERS as _LAYERS  # noqa: F401 (importing registers every layer)
from netc.layers.base import AnyLayer, Name
from netc.solver.rules import AnySolver

# What a resume may change: it does not alter the step function.
RUN_KEYS = (("data", "path"), ("solver", "max_epochs"), ("solver", "max_iter"))

VERSION = 1

Size = Annotated[int, Field(gt=0)]
_MEAN: TypeAdapter[float] = TypeAdapter(float, config=ConfigDict(strict=True, allow_inf_nan=False))
_MEANS: TypeAdapter[list[float]] = TypeAdapter(list[float], config=ConfigDict(strict=True, allow_inf_nan=False))


def _version(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value == VERSION:
        return value
    raise mistake(f"netc: this netc reads version {VERSION} of the language, not {shown(value)}; write netc: {VERSION}")


def _mean(value: Any) -> float | list[float]:
    """Take one number, or a list of one a channel."""
    return _MEANS.validate_python(value) if isinstance(value, list) else _MEAN.validate_python(value)


class Input(Declared):
    """What the network is fed: one sample of numbers with a shape, or a class label."""

    shape: list[Size] | None = Field(None, min_length=1)
    classes: int | None = Field(None, gt=1)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.shape is None) == (self.classes is None):
            raise mistake("an input needs either a shape, such as {shape: [1, 28, 28]}, or {classes: 10} for labels")
        return self


def _input(value: Any) -> Input:
    return value if isinstance(value, Input) else Input.model_validate(value)


class Data(Declared):
    """Where samples come from and what happens to them before the first layer; further keys belong to the source.

    `resize` is done by the driver; `(value - mean) * scale` is part of every graph, so that exported models take raw
    values.
    """

    model_config = ConfigDict(extra="allow")

    source: str = Field(min_length=1)
    batch_size: int = Field(64, gt=0)
    resize: list[Size] | None = Field(None, min_length=2, max_length=2)
    mean: Annotated[float | list[float], PlainValidator(_mean)] = 0.0
    scale: float = 1.0


class NetSpec(Declared):
    """A network, its data and its training: one file."""

    model_config = ConfigDict(title="the spec")

    netc: Annotated[int, PlainValidator(_version)]
    name: Name = Field(min_length=1)
    inputs: dict[Name, Annotated[SerializeAsAny[Input], PlainValidator(_input)]] = Field(min_length=1)
    data: Data
    layers: list[AnyLayer] = Field(min_length=1)
    solver: AnySolver

    def resolved(self) -> dict[str, Any]:
        """Return the spec as plain data with every default filled in."""
        return self.model_dump(mode="json", by_alias=True)

    def hash(self) -> str:
        """Return the SHA-256 of everything that determines the step function, in hexadecimal."""
        content = self.resolved()
        for section, key in RUN_KEYS:
            content[section].pop(key, None)
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
