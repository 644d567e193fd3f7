"""Twins of layers that have none of their own: the oracles of their rows in the case table."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from netc.layers import LAYERS
from netc.layers.base import Layer
from netc.layers.context import StateTensor
from netc.network import lower
from netc.spec.load import load
from netc.spec.text import parse_tree
from tests import torch_layers  # noqa: F401 (importing registers the twins that there are)
from tests.cases.all_layers import CASES
from tests.cases.domains import BATCH, Shape, Tensor
from tests.cases.layers import LayerCase
from tests.torch_layers_base import TWINS, Run

UNKNOWN = (
    "{} has neither a PyTorch twin nor a row that could be one: add to tests/cases a row of this layer alone above an "
    "input `image` of numbers, with one top and no randomness; or a twin to tests/torch_layers_*.py and what draws its "
    "fields to tests/random_layers.py or random_losses.py"
)
# What a row may say of its layer that any layer may; the rest are fields of its own.
COMMON = {"type", "name", "bottom"}


@dataclass(frozen=True, eq=False)
class Source:
    """What an input of a row is in a network.

    Attributes:
        shape: of a sample; none for one label a sample.
        classes: of a label.
        bounds: of numbers whose domain the row restricts.
        binary: whether the numbers are 0 and 1.
    """

    shape: Shape | None
    classes: int | None = None
    bounds: tuple[float, float] | None = None
    binary: bool = False


@dataclass(frozen=True, eq=False)
class Stand:
    """A row that stands in for a twin.

    Attributes:
        row: with the oracle.
        bottoms: names of its inputs, in the order in which the layer reads them.
        sources: its inputs by name.
        fields: the layer as declared, without name, type and bottom.
        state: parameters and statistics of the layer.
    """

    row: LayerCase
    bottoms: list[str]
    sources: dict[str, Source]
    fields: dict[str, Any]
    state: list[StateTensor]

    def fits(self, layer: Layer, shapes: Sequence[Shape]) -> bool:
        """Whether the row is of a layer with these fields above bottoms with these samples."""
        same = [self.sources[name].shape or () for name in self.bottoms] == list(shapes)
        return same and _own(layer) == _own(LAYERS.parse(self.row.layers[0]))


def _own(layer: Layer) -> dict[str, Any]:
    """Return the fields that an oracle depends on."""
    fillers = {name for name in type(layer).model_fields if name.endswith("_filler")}
    return layer.model_dump(exclude={*Layer.model_fields, *fillers} - {"type"})


@functools.cache
def stands(kind: str) -> list[Stand]:
    """Return the rows of a type that can stand in for its twin.

    Raises:
        LookupError: there is none.
    """
    found = [stand for row in CASES if row.type == kind and (stand := _stand(row)) is not None]
    if not found:
        raise LookupError(UNKNOWN.format(kind))
    return found


def _stand(row: LayerCase) -> Stand | None:
    """Return what a row says, or None where its oracle holds for the row's own values or network only."""
    (declared, *others) = row.layers
    if others or row.data or row.objective or "classes" in _declaration(row, "image"):
        return None
    if "top" in declared or declared.keys() & Layer.model_fields.keys() - COMMON:
        return None
    given = declared.get("bottom", list(row.inputs))
    bottoms = [given] if isinstance(given, str) else list(given)
    sources = {name: _source(row, name) for name in row.inputs}
    known = {name: source for name, source in sources.items() if source is not None}
    state = _state(row)
    if set(bottoms) != known.keys() or "seed" in (tensor.name for tensor in state):
        return None
    fields = {name: value for name, value in declared.items() if name not in COMMON}
    return Stand(row, bottoms, known, fields, [tensor for tensor in state if tensor.name.startswith("it.")])


def _declaration(row: LayerCase, name: str) -> dict[str, Any]:
    kind = row.inputs[name]
    if isinstance(kind, Mapping):
        return dict(kind)
    return {"classes": kind} if isinstance(kind, int) else {"shape": list(kind)}


def _source(row: LayerCase, name: str) -> Source | None:
    """Return what an input is, None if random networks have nothing of the kind."""
    declared, domain = _declaration(row, name), row.domains.get(name)
    shape = tuple(declared["shape"]) if "shape" in declared else None
    if "classes" in declared:
        return Source(shape, int(declared["classes"]))
    assert shape is not None
    if domain is None:
        return None if name in row.fixed else Source(shape)
    values = domain(np.random.default_rng(0), (BATCH, *shape)).astype(np.float64)
    if set(values.flat) == {0.0, 1.0} and name != "image":
        return Source(shape, binary=True)
    if name in row.fixed or not np.isfinite(values).all() or (values == values.round()).all():
        return None
    return Source(shape, bounds=(float(values.min()), float(values.max())))


def _state(row: LayerCase) -> list[StateTensor]:
    """Return the state of a network of the row's layer, and of an output and a loss because every network has them."""
    beside = {"name": "plain", "type": "Flatten", "bottom": "image"}
    loss = {"name": "objective", "type": "EuclideanLoss", "bottom": ["plain", "plain"]}
    spec = {
        "netc": 1,
        "name": "row",
        "inputs": {name: _declaration(row, name) for name in row.inputs},
        "data": {"source": "none", "batch_size": BATCH},
        "layers": [beside, {"bottom": list(row.inputs), **row.layers[0]}, loss],
        "solver": {"type": "SGD", "base_lr": 0.1, "max_iter": 10},
    }
    return list(lower(load(parse_tree(json.dumps(spec), "row.yaml")), "train", BATCH).net.state.values())


def by_row(layer: Layer, run: Run, x: Sequence[Tensor]) -> Tensor:
    """Compute a layer by the oracle of the row that declares it so.

    Raises:
        LookupError: no row does.
    """
    shapes = [tuple(value.shape[1:]) for value in x]
    stand = next((stand for stand in stands(layer.type) if stand.fits(layer, shapes)), None)
    if stand is None:
        raise LookupError(f"no row of {layer.type} has these fields above {shapes}")
    tensors = dict(zip(stand.bottoms, x, strict=True))
    for tensor in stand.state:
        ask = run.parameter if tensor.role == "parameter" else run.statistic
        suffix = tensor.name.removeprefix("it.")
        tensors[tensor.name] = ask(suffix, tensor.shape)
    top = stand.row.oracle(tensors, run.train)
    if run.train and stand.row.statistics is not None:
        for name, value in stand.row.statistics(tensors).items():
            run.update(name.removeprefix("it."), value)
    return top


# Types without a twin of their own.
ONLY_ROWS = [name for name in LAYERS.members if name not in TWINS]
TWINS.update(dict.fromkeys(ONLY_ROWS, by_row))
