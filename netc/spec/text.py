"""The text of a spec -> a tree in which every key and value knows its line and column.

Knows YAML and nothing of networks. The text is untrusted: every cap holds while the parser's events stream in,
before anything large is built, and whatever is wrong ends in a `SpecError`, never in another exception.
"""

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from netc.errors import Diagnostic, Position, SpecError
from netc.spec.scalars import Scalar, ScalarError, is_collection_tag, resolve, resolve_tagged, shown, tag_message
from netc.spec.syntax import MAX_DEPTH, TOO_DEEP, Source, at, directive, explain, forbidden_character
from netc.spec.tree import Entry, Node, Tree, weight

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "Tree", "parse_node", "parse_tree", "read_tree"]

MAX_BYTES = 1 << 20  # of a text; ResNet-152 written out in full has 0.1 MiB
MAX_MISTAKES = 100  # reported at once; nobody reads more
MAX_NODES = 200_000  # of keys and values with all aliases expanded; what follows takes time for each

# libyaml's parser is twenty times faster; pyyaml is not always built with it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_tree(path: Path) -> Tree:
    """Read and parse a spec file."""
    file = str(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            _refuse(file, "this is a directory; name a spec file in it")
        if not stat.S_ISREG(status.st_mode):
            _refuse(file, "this is a device, pipe or socket; name a regular file")
        with path.open("rb") as stream:
            # One byte beyond the cap suffices to see that a file has grown since stat.
            data = stream.read(MAX_BYTES + 1) if status.st_size <= MAX_BYTES else None
    except FileNotFoundError:
        _refuse(file, "there is no such file; check the path")
    except PermissionError:
        _refuse(file, "no permission to read this file; make it readable, as in chmod u+r")
    except OSError as error:
        _refuse(file, f"cannot read this file: {error.strerror}; check the path")
    except ValueError:
        _refuse(repr(file), "this is no valid path; check its spelling")
    if data is None or len(data) > MAX_BYTES:
        _refuse(file, _TOO_LARGE)
    return parse_tree(_decode(data, file), file)


def parse_tree(text: str, file: str) -> Tree:
    """Parse the text of a spec; `file` is what diagnostics call it."""
    source = Source(text.removeprefix("\ufeff"), file)
    root = parse_node(source)
    if root is None:
        raise SpecError([Diagnostic(source.position(0, 0), 'the spec is empty; start it with "netc: 1"')])
    if not isinstance(root.content, dict):
        what = "a list" if isinstance(root.content, tuple) else f"the single value {shown(root.content, quoted=True)}"
        raise SpecError([Diagnostic(root.position, f'a spec is a mapping such as "netc: 1", not {what}')])
    return Tree(root)


def parse_node(source: Source) -> Node | None:
    """Parse a text that holds at most one value of any kind; None where it holds none."""
    if len(source.text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        _refuse(source.file, _TOO_LARGE)
    if bad := forbidden_character(source):
        raise SpecError([bad])
    if not source.text.endswith("\n"):
        # So that both parsers agree where an unclosed bracket or quote ends.
        source = Source(source.text + "\n", source.file, source.option)
    return _Composer(source).compose()


_TOO_LARGE = f"the spec is larger than {MAX_BYTES >> 20} MiB; a repeated structure can be written as a block"


def _refuse(file: str, message: str) -> NoReturn:
    raise SpecError([Diagnostic(Position(file), message)]) from None


def _decode(data: bytes, file: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        _refuse(file, "the file is encoded as UTF-16; save it as UTF-8")
    if (nul := data.find(0)) >= 0:
        _refuse(file, f"the byte at offset {nul} is zero, so this is no text; name a spec file, saved as UTF-8")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse(file, f"the byte at offset {error.start} is not valid UTF-8; save the file as UTF-8")


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end has not come yet."""

    position: Position
    anchor: str | None
    content: list[Node] | dict[str, Entry]
    key: tuple[str | None, Position] | None = None  # of a mapping, while its value has not come; None: unusable


class _Composer:
    """Builds the node of one document from the parser's events, on a stack of its own."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.diagnostics: list[Diagnostic] = []
        self.open: list[_Open] = []
        self.anchors: dict[str, Node | None] = {}  # None: inside the anchored value itself
        self.root: Node | None = None
        self.documents = 0
        self.size = 0

    def compose(self) -> Node | None:
        handlers: dict[type[yaml.Event], Callable[[Any], None]] = {
            yaml.DocumentStartEvent: self.on_document,
            yaml.ScalarEvent: self.on_scalar,
            yaml.AliasEvent: self.on_alias,
            yaml.MappingStartEvent: self.on_start,
            yaml.SequenceStartEvent: self.on_start,
            yaml.MappingEndEvent: self.on_end,
            yaml.SequenceEndEvent: self.on_end,
        }
        for event in self.events():
            if handler := handlers.get(type(event)):
                handler(event)
        if self.diagnostics:
            raise SpecError(self.diagnostics)
        return self.root

    def events(self) -> Iterator[Any]:
        end = self.source.position(0, 0)
        try:
            for event in yaml.parse(self.source.text, Loader=_LOADER):
                end = self.where(event.end_mark)
                yield event
        except yaml.YAMLError as error:
            self.fatal(explain(error, self.source, self.open[-1].position if self.open else None))
        except (ValueError, OverflowError):  # the pure parser's, for an escape such as "\UFFFFFFFF"
            self.fatal(Diagnostic(end, "the escape or version number after this place is out of range"))

    def on_document(self, event: Any) -> None:
        self.documents += 1
        if self.documents > 1:
            message = 'a file holds one spec; remove this "---" and what follows, or put it into its own file'
            self.fatal(Diagnostic(self.where(event.start_mark), message))
        if bad := directive(self.source, event.end_mark.line):
            self.diagnostics.append(bad)

    def on_scalar(self, event: Any) -> None:
        position = self.where(event.start_mark)
        value: Scalar = None
        try:
            if event.tag is not None:
                value = resolve_tagged(event.tag, event.value)
            else:
                value = event.value if event.style else resolve(event.value)
            # Only the pure parser lets these through, as the escape "\ud800".
            event.value.encode("utf-8")
        except ScalarError as error:
            self.report(position, str(error))
        except UnicodeEncodeError:
            self.report(position, "an escape in this text is no Unicode character; remove it")
        self.add_size(weight(value), position)
        is_empty = event.start_mark.index == event.end_mark.index and not event.style
        if is_empty and not self.open and event.tag is None and event.anchor is None:
            return  # an empty document has no value at all
        if is_empty and self.open and self.open[-1].key is not None:
            self.check_glued_key(*self.open[-1].key, event.start_mark.index)
        self.add(Node(position, value), event.anchor)

    def on_alias(self, event: Any) -> None:
        position = self.where(event.start_mark)
        node, name = self.anchors.get(event.anchor), shown(event.anchor)
        if event.anchor not in self.anchors:
            self.report(position, f'no "&{name}" comes before this alias; to mean the text, put it in quotes')
        elif node is None:
            self.report(position, f'"*{name}" stands inside the value that it repeats; write the value out')
        else:
            self.add_size(node.size, position)
            if len(self.open) + node.depth > MAX_DEPTH:
                self.fatal(Diagnostic(position, TOO_DEEP))
        self.add(Node(position, node.content if node else None), None)

    def on_start(self, event: Any) -> None:
        position = self.where(event.start_mark)
        is_map = isinstance(event, yaml.MappingStartEvent)
        if len(self.open) >= MAX_DEPTH:
            self.fatal(Diagnostic(position, TOO_DEEP))
        if event.tag is not None and not is_collection_tag(event.tag, "map" if is_map else "seq"):
            self.report(position, tag_message(event.tag))
        if self.source.option and not event.flow_style:
            how = "a mapping as {a: 1}, or put the text in quotes" if is_map else "a list as [1, 2]"
            self.fatal(Diagnostic(position, f"in an option write {how}"))
        self.add_size(1, position)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        self.open.append(_Open(position, event.anchor, {} if is_map else []))

    def on_end(self, event: Any) -> None:
        done = self.open.pop()
        content = done.content if isinstance(done.content, dict) else tuple(done.content)
        self.add(Node(done.position, content), done.anchor)

    def add(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self.anchors[anchor] = node
        if not self.open:
            self.root = node
            return
        parent = self.open[-1]
        if isinstance(parent.content, list):
            parent.content.append(node)
        elif parent.key is None:
            parent.key = self.usable_key(node, parent.content), node.position
        else:
            (key, position), parent.key = parent.key, None
            if key is not None:
                parent.content[key] = Entry(position, node)

    def usable_key(self, node: Node, siblings: dict[str, Entry]) -> str | None:
        key = node.content
        if key == "<<":
            message = 'merge keys ("<<") are not part of YAML 1.2; write the fields out, or use a block'
        elif isinstance(key, dict | tuple):
            message = "a key must be a text, not a list or mapping"
        elif key is None:
            message = "a key is missing or null; a key must be a text"
        elif not isinstance(key, str):
            message = f"the key {shown(key)} is not a text; put it in quotes"
        elif key in siblings:
            message = f"duplicate key {shown(key, quoted=True)}; it is first given {at(siblings[key].key)}"
        else:
            return key
        self.report(node.position, message)
        return None

    def check_glued_key(self, key: str | None, position: Position, end: int) -> None:
        # `{kernel:5}` is, by the standard, one key without a value. In `a:b:` the second colon is its value's.
        if key is not None and ":" in key and self.source.text[end - 1] != ":":
            self.report(position, f'a space is missing after ":" in {shown(key, quoted=True)}')

    def add_size(self, size: int, position: Position) -> None:
        self.size += size
        if self.size > MAX_NODES:
            message = f"the spec has more than {MAX_NODES} keys and values, aliases expanded; make it smaller"
            self.fatal(Diagnostic(position, message))

    def where(self, mark: Any) -> Position:
        return self.source.position(mark.line, mark.column)

    def report(self, position: Position, message: str) -> None:
        self.diagnostics.append(Diagnostic(position, message))
        if len(self.diagnostics) == MAX_MISTAKES:
            self.fatal(Diagnostic(position, "too many mistakes; what follows is not checked"))

    def fatal(self, diagnostic: Diagnostic) -> NoReturn:
        raise SpecError([*self.diagnostics, diagnostic]) from None
