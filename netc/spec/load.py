"""Tree to NetSpec: validate every section, name what is unnamed, turn each mistake into a positioned sentence."""

import copy
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from pathlib import PurePath
from typing import Any, Literal, NoReturn

import onnx_ir as ir
from pydantic import ValidationError

from netc.declared import as_list, sentence
from netc.errors import Diagnostic, SpecError
from netc.layers.base import Layer
from netc.layers.context import Context
from netc.solver.rules import SGD
from netc.spec.blocks import expand_blocks
from netc.spec.instances import free_name
from netc.spec.model import VERSION, Data, Input, NetSpec
from netc.spec.tree import Tree

Path = tuple[str | int, ...]


class Unknown(Layer):
    """Stands in for a layer with mistakes, so that the rest of the spec can be checked in the same go.

    Its top fits every reader: one mistake, one message.
    """

    type: Literal["Unknown"] = "Unknown"

    def lower(self, net: Context, *x: ir.Value) -> NoReturn:  # noqa: D102
        raise AssertionError("an unknown layer is never lowered")


OPTIONAL = (
    "init_from",
    "reinit",
    "freeze",
    "lr_mult",
    "phases",
)  # sections that a spec with a mistake in them can do without
# Fits every reader, as `Unknown` does.
UNKNOWN_INPUT = Input.model_construct()


@dataclass(frozen=True)
class Loaded:
    """A validated spec, the tree that gives its parts their positions, and the mistakes found so far.

    `phase` is the index of the phase of training whose settings are in effect, None before there is a choice.
    """

    spec: NetSpec
    tree: Tree
    diagnostics: tuple[Diagnostic, ...] = ()
    phase: int | None = None

    @property
    def trains_sides(self) -> bool:
        """Whether companions take part in the objective."""
        return self.phase is None or self.spec.phases[self.phase].sides

    def path_of(self, section: str) -> Path:
        """Return the path of a section, that of the phase if it has its own."""
        if self.phase is not None and getattr(self.spec.phases[self.phase], section, None) is not None:
            return ("phases", self.phase, section)
        return (section,)

    def place(self, path: Sequence[str | int]) -> str:
        """Return `FILE:LINE` of a part, the file as seen from the folder of the spec.

        So a spec compiles to the same bytes wherever that folder lies.
        """
        position = self.tree.position(path)
        seen = _seen_from(position.file, self.tree.root.position.file)
        return f"{seen}:{position.line}" if position.line else position.file

    def at(self, path: Sequence[str | int], message: str, key: bool = False) -> Diagnostic:
        """Return a diagnostic at the place of `path`."""
        return Diagnostic(self.tree.position(path, key=key), message)


@functools.cache  # of a few files, asked for by each of thousands of layers
def _seen_from(file: str, root: str) -> str:
    """Return a file as seen from the folder of another, its name alone where it lies elsewhere."""
    path, folder = PurePath(file), PurePath(root).parent
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def load(tree: Tree, folder: FilePath | None = None) -> Loaded:
    """Expand the blocks of a tree and validate it; `folder` is where `use` looks for files.

    Layers with mistakes become `Unknown`, other broken sections a stand-in, with the mistakes in `diagnostics`; what
    remains can still be wired and checked.

    Raises:
        SpecError: so much is wrong that nothing remains to be checked.
    """
    tree = expand_blocks(tree, folder)
    value = copy.deepcopy(tree.value)
    lists = [value.get("layers"), _layers_of(value.get("fuse"))]
    used = set().union(_keys(value.get("inputs")), *map(_names, lists))
    given: dict[str, int] = {}
    for layers in lists:
        _name_layers(layers, used, given)
    try:
        return Loaded(NetSpec.model_validate(value), tree)
    except ValidationError as error:
        mistakes = error.errors()
    diagnostics = tuple(_diagnostic(tree, mistake) for mistake in mistakes)
    for mistake in mistakes:
        _replace(value, mistake["loc"])
    try:
        return Loaded(NetSpec.model_validate(value), tree, diagnostics)
    except ValidationError:
        raise SpecError(diagnostics) from None


def _diagnostic(tree: Tree, mistake: Any) -> Diagnostic:
    message, path = sentence(mistake), mistake["loc"]
    if path[-1:] == ("[key]",):
        return Diagnostic(tree.position(path[:-1], key=True), message)
    return Diagnostic(tree.position(path, key="has no field" in message), message)


def _name_layers(layers: Any, used: set[str], given: dict[str, int]) -> None:
    """Give each layer without a name the next free one of its type, such as relu1."""
    for layer in layers if isinstance(layers, list) else ():
        if not isinstance(layer, dict):
            continue
        kind = layer.get("type")
        if layer.get("name") in (None, "") and isinstance(kind, str):
            layer["name"] = free_name(kind.lower(), used, given)
        _name_layers(_layers_of(layer.get("side")), used, given)


def _layers_of(branch: Any) -> Any:
    return branch.get("layers") if isinstance(branch, dict) else None


def _keys(inputs: Any) -> set[str]:
    return set(inputs) if isinstance(inputs, dict) else set()


def _names(layers: Any) -> set[str]:
    found: set[str] = set()
    for layer in layers if isinstance(layers, list) else ():
        if isinstance(layer, dict):
            tops = layer.get("top")
            names = [layer.get("name"), *(tops if isinstance(tops, list) else [tops])]
            found.update(name for name in names if isinstance(name, str))
            found |= _names(_layers_of(layer.get("side")))
    return found


def _replace(value: dict[str, Any], path: Path) -> None:
    """Put a stand-in where a mistake was found: the innermost layer around it, or the section."""
    if path[:1] == ("solver",):
        value["solver"] = SGD(base_lr=1.0, max_epochs=1)
    elif path[:1] == ("data",):
        value["data"] = Data(source="unknown")
    elif path[:1] == ("run",):
        value.pop("run", None)
    elif path[:1] == ("netc",):
        value["netc"] = VERSION
    elif path[:1] == ("name",):
        value["name"] = "unknown"
    elif path == ("fuse",) or (path[:1] == ("fuse",) and path[1:2] != ("layers",)):
        value.pop("fuse", None)
    elif path[:1] == ("inputs",) and len(path) > 1 and path[-1] != "[key]":
        value["inputs"][path[1]] = UNKNOWN_INPUT
    elif path[0] in OPTIONAL or (len(path) == 1 and path[0] not in NetSpec.model_fields):
        value.pop(str(path[0]), None)
    layers, index = None, 0
    inside: Any = value
    for part, after in itertools.pairwise((*path, None)):
        if part not in (inside if isinstance(inside, dict) else range(len(inside)) if isinstance(inside, list) else ()):
            break
        inside = inside[part]
        if part == "layers" and isinstance(inside, list) and isinstance(after, int):
            layers, index = inside, after
    if layers is not None:
        layers[index] = _unknown(layers[index], index)


def _unknown(broken: Any, index: int) -> Layer:
    """Keep of a broken layer what names it and what it reads."""
    given = broken if isinstance(broken, dict) else {}
    name, bottoms = given.get("name"), as_list(given.get("bottom", []))
    sound = isinstance(bottoms, list) and all(isinstance(bottom, str) for bottom in bottoms)
    return Unknown.model_construct(
        type="Unknown",
        name=name if isinstance(name, str) else f"unknown layer {index}",
        bottom=bottoms if sound else [],
    )
