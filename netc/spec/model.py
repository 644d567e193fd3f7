"""The language: what a spec may say, section by section. Layers, fillers and solvers bring their own fields."""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from netc.declared import Declared, mistake
from netc.layers import LAYERS as _LAYERS  # noqa: F401 (importing registers every layer)
from netc.layers.base import AnyLayer, Name
from netc.solver.rules import AnySolver

# What a resume may change: it does not alter the step function.
RUN_KEYS = (("data", "path"), ("solver", "max_epochs"), ("solver", "max_iter"))

Size = Annotated[int, Field(gt=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Input(Declared):
    """What the network is fed: one sample of numbers with a shape, or a class label."""

    shape: list[Size] | None = Field(None, min_length=1)
    classes: int | None = Field(None, gt=1)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.shape is None) == (self.classes is None):
            raise mistake("an input needs either a shape, such as {shape: [1, 28, 28]}, or {classes: 10} for labels")
        return self


class Data(Declared):
    """Where samples come from and what happens to them before the first layer; further keys belong to the source.

    `resize` is done by the driver; `(value - mean) * scale` is part of every graph, so that exported models take raw
    values.
    """

    model_config = ConfigDict(extra="allow")

    source: str = Field(min_length=1)
    batch_size: int = Field(64, gt=0)
    resize: list[Size] | None = Field(None, min_length=2, max_length=2)
    mean: list[Number] | Number = 0.0
    scale: float = Field(1.0, allow_inf_nan=False)


class NetSpec(Declared):
    """A network, its data and its training: one file."""

    netc: Literal[1]
    name: Name = Field(min_length=1)
    inputs: dict[Name, Input] = Field(min_length=1)
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
