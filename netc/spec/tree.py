"""The tree between text and validation: values of YAML, each with the place it was written at."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from netc.errors import Position
from netc.spec.scalars import Scalar

Value: TypeAlias = "Scalar | list[Value] | dict[str, Value]"


@dataclass(frozen=True, slots=True)
class Node:
    """A value where it stands. `size` counts the keys and values in it, `depth` the levels of nesting."""

    position: Position
    content: "Scalar | tuple[Node, ...] | dict[str, Entry]"
    size: int = field(init=False, compare=False)
    depth: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        children: Sequence[Node] = ()
        size = 1
        if isinstance(self.content, dict):
            children = [entry.node for entry in self.content.values()]
            size += sum(map(weight, self.content))
        elif isinstance(self.content, tuple):
            children = self.content
        else:
            size = weight(self.content)
        nested = isinstance(self.content, dict | tuple)
        object.__setattr__(self, "size", size + sum(child.size for child in children))
        object.__setattr__(self, "depth", nested + max((child.depth for child in children), default=0))


@dataclass(frozen=True, slots=True)
class Entry:
    """What a mapping holds under a key: where the key stands, and the value."""

    key: Position
    node: Node


@dataclass(frozen=True)
class Tree:
    """A parsed spec; the root is always a mapping. Immutable: overrides return a new tree."""

    root: Node

    @cached_property
    def value(self) -> dict[str, Value]:
        """The whole tree as plain dicts, lists and scalars; an aliased value is copied for each of its places."""
        value = plain(self.root)
        assert isinstance(value, dict)
        return value

    def position(self, path: Sequence[str | int], key: bool = False) -> Position:
        """Return where the value at `path` stands, or its key; for a path that leaves the tree, its last place in it.

        `path` has a str for each mapping and an int for each list on the way.
        """
        node, key_position = self.root, self.root.position
        for part in path:
            if isinstance(node.content, dict) and isinstance(part, str) and part in node.content:
                key_position, node = node.content[part].key, node.content[part].node
            elif isinstance(node.content, tuple) and isinstance(part, int) and 0 <= part < len(node.content):
                node = node.content[part]
                key_position = node.position  # an entry of a list has no key
            else:
                break
        return key_position if key else node.position


def plain(node: Node) -> Value:
    """Return the value of a node without its positions."""
    if isinstance(node.content, dict):
        return {key: plain(entry.node) for key, entry in node.content.items()}
    if isinstance(node.content, tuple):
        return [plain(child) for child in node.content]
    return node.content


def weight(value: Scalar) -> int:
    """Return for how many nodes a scalar or key counts.

    A long text counts for several: an alias to it would otherwise multiply a megabyte by thousands.
    """
    return 1 + len(value) // 64 if isinstance(value, str) else 1
