"""One use of a block: its layers with scoped names, and values in place of references to parameters."""

import ast
import itertools
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from netc.declared import shown
from netc.errors import Diagnostic, Position, did_you_mean
from netc.spec.tree import Entry, Node, plain

_REFERENCE = re.compile(r"\$(?:\{([^}]*)\}|([A-Za-z_]\w*))")
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
MAX_EXPRESSION = 200  # so that no recursion over it can go deep
_NO_ARITHMETIC = '"{}" is no arithmetic; write names, numbers and + - * / // % ( )'


@dataclass(frozen=True)
class Block:
    """A definition: parameters with defaults (a node of null: required), and layers."""

    name: str
    position: Position
    parameters: Mapping[str, Node]
    layers: tuple[Node, ...]


class BlockError(Exception):
    """One mistake, at one place; the layer that has it is left out."""

    def __init__(self, position: Position, message: str) -> None:
        self.diagnostic = Diagnostic(position, message)
        super().__init__(message)


@dataclass(frozen=True)
class Instance:
    """One copy of a block: names get the prefix, references get their values."""

    block: Block
    prefix: str
    values: Mapping[str, Node]
    use: Position

    @cached_property
    def own_names(self) -> frozenset[str]:
        """Names of the block's own layers, which are read without the prefix inside."""
        return frozenset(_layer_names(self.block.layers))

    def layer(self, node: Node) -> Node:
        """Return a layer of the block with scoped names and values in place of references."""
        # Renamed first: a value that stands for a name, such as $in, is a name outside of the block.
        return self._substituted(self._renamed(node))

    def _renamed(self, node: Node) -> Node:
        if not isinstance(node.content, dict):
            return node
        content = dict(node.content)
        if "name" in content and isinstance(content["name"].node.content, str):
            # A use of a block inside this one gets its scope when it is expanded.
            name = content["name"].node
            scoped = name.content if "block" in content else f"{self.prefix}/{name.content}"
            content["name"] = Entry(content["name"].key, Node(name.position, scoped))
        if "top" in content:
            content["top"] = Entry(content["top"].key, self._scoped(content["top"].node))
        if "checkpoint" in content and "block" not in content:  # a use says whether, a layer in which
            content["checkpoint"] = Entry(content["checkpoint"].key, self._scoped(content["checkpoint"].node))
        if "bottom" in content:
            content["bottom"] = Entry(content["bottom"].key, self._bottoms(content["bottom"].node))
        side = content.get("side")
        if side is not None and isinstance(side.node.content, dict) and "layers" in side.node.content:
            layers = side.node.content["layers"]
            if isinstance(layers.node.content, tuple):
                renamed = Node(layers.node.position, tuple(self._renamed(inner) for inner in layers.node.content))
                changed = side.node.content | {"layers": Entry(layers.key, renamed)}
                content["side"] = Entry(side.key, Node(side.node.position, changed))
        return Node(node.position, content)

    def _bottoms(self, node: Node) -> Node:
        if isinstance(node.content, tuple):
            return Node(node.position, tuple(self._bottoms(child) for child in node.content))
        own = isinstance(node.content, str) and node.content.split("/")[0] in self.own_names
        return Node(node.position, f"{self.prefix}/{node.content}") if own else node

    def _scoped(self, node: Node) -> Node:
        """Put the prefix before a name, or before each of a list."""
        if isinstance(node.content, tuple):
            return Node(node.position, tuple(self._scoped(child) for child in node.content))
        return Node(node.position, f"{self.prefix}/{node.content}") if isinstance(node.content, str) else node

    def _substituted(self, node: Node) -> Node:
        here = replace(node.position, used_at=self.use)
        if isinstance(node.content, dict):
            entries = {
                key: Entry(replace(entry.key, used_at=self.use), self._substituted(entry.node))
                for key, entry in node.content.items()
            }
            return Node(here, entries)
        if isinstance(node.content, tuple):
            return Node(here, tuple(self._substituted(child) for child in node.content))
        if not isinstance(node.content, str) or "$" not in node.content:
            return Node(here, node.content)
        whole = _REFERENCE.fullmatch(node.content)
        if whole is not None:
            value = self._value(whole, here)
            return Node(here, value.content)
        return Node(here, _REFERENCE.sub(lambda match: _text(self._value(match, here), here), node.content))

    def _value(self, match: re.Match[str], here: Position) -> Node:
        expression = match[1] if match[1] is not None else match[2]
        if expression.strip() == "in":
            return Node(here, f"{self.prefix}/in")
        if len(expression) > MAX_EXPRESSION:
            raise BlockError(here, f"an expression has at most {MAX_EXPRESSION} characters, this one {len(expression)}")
        try:
            tree = ast.parse(expression.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise BlockError(here, _NO_ARITHMETIC.format(expression)) from None
        if isinstance(tree, ast.Name):
            return self._parameter(tree.id, here)
        return Node(here, self._number(tree, expression, here))

    def _parameter(self, name: str, here: Position) -> Node:
        if name not in self.values:
            near = did_you_mean(name, self.values)
            raise BlockError(here, f'the block "{self.block.name}" has no parameter "{name}"{near}')
        return self.values[name]

    def _number(self, tree: ast.expr, expression: str, here: Position) -> int | float:
        match tree:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return number
            case ast.Name(id=name):
                value = plain(self._parameter(name, here))
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise BlockError(here, f'"{expression}": {name} is no number but {shown(value)}')
                return value
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._number(operand, expression, here)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                a, b = self._number(left, expression, here), self._number(right, expression, here)
                try:
                    result = _OPERATORS[type(op)](a, b)
                    whole = isinstance(a, int) and isinstance(b, int) and float(result).is_integer()
                except (ZeroDivisionError, OverflowError):
                    raise BlockError(here, f'"{expression}" divides by zero or is too large') from None
                return int(result) if whole else result
        raise BlockError(here, _NO_ARITHMETIC.format(expression))


def with_field(layer: Node, key: str, entry: Entry) -> Node:
    """Return a layer with one more field."""
    content = layer.content if isinstance(layer.content, dict) else {}
    return Node(layer.position, content | {key: entry})


def _text(node: Node, here: Position) -> str:
    if isinstance(node.content, dict | tuple) or node.content is None:
        raise BlockError(here, "only a number or a text can stand inside a text")
    return str(node.content)


def _layer_names(layers: tuple[Node, ...]) -> Iterator[str]:
    for layer in layers:
        content = layer.content
        if not isinstance(content, dict):
            continue
        if "name" in content and isinstance(content["name"].node.content, str):
            yield content["name"].node.content
        tops = content["top"].node.content if "top" in content else ()
        for top in tops if isinstance(tops, tuple) else ():
            if isinstance(top.content, str):
                yield top.content
        side = content.get("side")
        if side is not None and isinstance(side.node.content, dict) and "layers" in side.node.content:
            inner = side.node.content["layers"].node.content
            yield from _layer_names(inner if isinstance(inner, tuple) else ())


def free_name(stem: str, used: set[str], given: dict[str, int]) -> str:
    """Return the next of stem1, stem2, ... that is not used, and use it; `given` is the last number of each stem."""
    name = next(name for n in itertools.count(given.get(stem, 0) + 1) if (name := f"{stem}{n}") not in used)
    given[stem] = int(name.removeprefix(stem))
    used.add(name)
    return name


def named(layers: tuple[Node, ...]) -> tuple[Node, ...]:
    """Name the layers of a block that have no name after their type, so that they get its scope."""
    used, given = set(_layer_names(layers)), dict[str, int]()
    result: list[Node] = []
    for layer in layers:
        kind = layer.content.get("type") if isinstance(layer.content, dict) else None
        if isinstance(layer.content, dict) and "name" not in layer.content and kind is not None:
            stem = re.sub(r"\W", "", str(kind.node.content).lower()) or "layer"
            name = free_name(stem, used, given)
            result.append(with_field(layer, "name", Entry(layer.position, Node(layer.position, name))))
        else:
            result.append(layer)
    return tuple(result)
