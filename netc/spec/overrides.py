"""The option `--set key=value`: a tree with one value replaced, or one more added."""

from netc.errors import Diagnostic, Position, SpecError, did_you_mean
from netc.spec.scalars import shown
from netc.spec.syntax import Source
from netc.spec.text import MAX_DEPTH, parse_node
from netc.spec.tree import Entry, Node, Tree


def apply_override(tree: Tree, option: str) -> Tree:
    """Return `tree` with the value at a dotted path set, as in `solver.base_lr=0.1`, `layers.conv1.num_output=30`.

    Everything set this way stands, for diagnostics, at the option.
    """
    here = Position(f"--set {option if option.isprintable() else ascii(option)}")
    key, equals, text = option.partition("=")
    path = key.strip().split(".")
    if not equals:
        raise _error(here, '"=" is missing; write key=value, as in solver.base_lr=0.1')
    if not all(path):
        raise _error(here, f"the key {shown(key, quoted=True)} has an empty part; write it as in solver.base_lr=0.1")
    if len(path) > MAX_DEPTH:
        raise _error(here, f"the key has more than {MAX_DEPTH} parts")
    root = _replaced(tree.root, path, _parse(text, here), here)
    if root.depth > MAX_DEPTH:
        raise _error(here, f"this would nest the spec deeper than {MAX_DEPTH} levels")
    return Tree(root)


def _parse(text: str, here: Position) -> Node:
    # The space keeps a leading "%", "---" or "..." from meaning anything to the parser.
    node = parse_node(Source(" " + text, here.file, option=True))
    if node is None and text.strip():
        raise _error(here, f"the value {shown(text.strip(), quoted=True)} is only a comment; put it in quotes")
    return node or Node(here, None)


def _replaced(root: Node, path: list[str], new: Node, here: Position) -> Node:
    # Down along the path, remembering each place; then up again, copying only what lies on it.
    places: list[tuple[Node, str | int]] = []
    node: Node | None = root
    for depth, part in enumerate(path):
        if node is None or node.content is None:  # not there yet, or given without a value
            node = Node(here, {})
        step: str | int = part
        if isinstance(node.content, tuple):
            step = _index(node.content, part, ".".join(path[:depth]), here)
            child: Node | None = node.content[step]
        elif isinstance(node.content, dict):
            entry = node.content.get(part)
            child = entry.node if entry else None
        else:
            inside = ".".join(path[:depth])
            raise _error(
                here,
                f"cannot set {shown(part, quoted=True)} inside {shown(node.content, isinstance(node.content, str))}; "
                f"set the whole of it, as in {inside}={{{part}: ...}}",
            )
        places.append((node, step))
        node = child
    for depth in reversed(range(len(places))):
        parent, step = places[depth]
        if isinstance(parent.content, tuple) and isinstance(step, int):
            new = Node(parent.position, (*parent.content[:step], new, *parent.content[step + 1 :]))
        elif isinstance(parent.content, dict) and isinstance(step, str):
            old = parent.content.get(step)
            # Keys on the way keep their place in the file; the last one, and any that is new, is the option's.
            key = old.key if old is not None and depth < len(path) - 1 else here
            new = Node(parent.position, {**parent.content, step: Entry(key, new)})
    return new


def _index(entries: tuple[Node, ...], part: str, inside: str, here: Position) -> int:
    if part.isascii() and part.isdecimal():
        # int() refuses thousands of digits; no list is that long.
        if len(part) < 10 and int(part) < len(entries):
            return int(part)
        count = f"{len(entries)} entries, counted from 0" if entries else "no entries"
        raise _error(here, f"{inside} has {count}; there is no {shown(part)}")
    names = [_name(entry) for entry in entries]
    if part not in names:
        near = did_you_mean(part, {name for name in names if name is not None})
        raise _error(here, f"no entry of {inside} is named {shown(part, quoted=True)}{near}")
    if names.count(part) > 1:
        raise _error(
            here, f"{names.count(part)} entries of {inside} are named {shown(part, quoted=True)}; use an index"
        )
    return names.index(part)


def _name(node: Node) -> str | None:
    entry = node.content.get("name") if isinstance(node.content, dict) else None
    return entry.node.content if entry and isinstance(entry.node.content, str) else None


def _error(here: Position, message: str) -> SpecError:
    return SpecError([Diagnostic(here, message)])
