"""Smaller specs that still fail: what a person wants to see of a random network."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

from tests.random_networks import Declared

Place = tuple[Any, ...]
NEEDED = {"name", "type", "bottom", "source", "batch_size"}


def shrunk(spec: Declared, fails: Callable[[Declared], bool]) -> Declared:
    """Return a spec that fails, of which no smaller one does; `fails` has to hold for the given one."""
    while (found := next((candidate for candidate in smaller(spec) if fails(candidate)), None)) is not None:
        spec = found
    return spec


def smaller(spec: Declared) -> Iterator[Declared]:
    """Yield specs with one layer, side, field or input less; what read the layer reads what that has read."""
    layers = list(places(spec))
    for place in reversed(layers):
        yield _without_layer(spec, place)
    for place in [("inputs",), ("data",), *layers]:
        for key in sorted(at(spec, place).keys() - NEEDED):
            yield _without(spec, place, key)
    if "fuse" in spec:
        yield _without(spec, (), "fuse")


def places(spec: Declared, path: Place = ("layers",)) -> Iterator[Place]:
    """Yield the place of every layer, sides included."""
    for index, layer in enumerate(at(spec, path)):
        yield (*path, index)
        if "side" in layer:
            yield from places(spec, (*path, index, "side", "layers"))


def at(spec: Declared, place: Place) -> Any:
    """Return what stands at a place."""
    inside: Any = spec
    for part in place:
        inside = inside[part]
    return inside


def _without(spec: Declared, place: Place, key: str) -> Declared:
    spec = copy.deepcopy(spec)
    del at(spec, place)[key]
    return spec


def _without_layer(spec: Declared, place: Place) -> Declared:
    spec = copy.deepcopy(spec)
    *around, index = place
    gone = at(spec, tuple(around)).pop(index)
    above = at(spec, (*around, index - 1))["name"] if index else _above(spec, place)
    bottoms = gone.get("bottom", above)
    instead = bottoms[0] if isinstance(bottoms, list) else bottoms
    tops = gone.get("top", [gone["name"]])
    for layer in (at(spec, other) for other in list(places(spec))):
        given = layer.get("bottom", [])
        if isinstance(given, list):
            layer |= {"bottom": [instead if name in tops else name for name in given]} if given else {}
        elif given in tops:
            layer["bottom"] = instead
    return spec


def _above(spec: Declared, place: Place) -> str:
    """Return what the first layer of a branch reads."""
    if len(place) > 2:
        return str(at(spec, place[:-3])["name"])
    return str(next(name for name, declared in spec["inputs"].items() if "classes" not in declared))
