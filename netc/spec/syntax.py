"""What is wrong with the syntax of a text, in words for somebody who does not know the YAML grammar.

Both parsers of pyyaml (libyaml's and the pure Python one) come out with the same sentences, whatever they call
the problem. Where the grammar's complaint stands far from the mistake, the sentence stands at the mistake.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import yaml

from netc.errors import Diagnostic, Position
from netc.spec.scalars import shown

MAX_DEPTH = 64  # of nested mappings and lists; lets everything behind the parser recurse without fear
TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels; make the spec flatter"
_DIRECTIVE = 'lines that start with "%" are not part of the language; remove this line'
_TAB = "a tab stands where YAML wants spaces; indent with spaces"
# `key:value` at the start of a line. Possessive, or a line of a million dashes would take quadratic time.
_NO_SPACE = re.compile(r"[\s-]*+[^\s:#'\"\[\]{},]++:(?=[^\s:])")
# YAML's printable characters, less U+FEFF inside a text, which is invisible, and less U+0085, U+2028 and U+2029:
# line breaks for pyyaml, but not since YAML 1.2.
_FORBIDDEN = re.compile(r"[^\t\n\r -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Source:
    """A text and what it is called: a file with lines and columns, or an option, which is its own position."""

    text: str
    file: str
    option: bool = False

    @cached_property
    def lines(self) -> list[str]:
        """The lines; all that `splitlines` breaks at besides "\\n" and "\\r" is forbidden in a spec."""
        return self.text.splitlines()

    def position(self, line: int, column: int) -> Position:
        """Return the position of a line and column counted from 0, as pyyaml counts."""
        return Position(self.file) if self.option else Position(self.file, line + 1, column + 1)


def at(position: Position) -> str:
    """Return where something else stands, for use inside a sentence."""
    return f"at line {position.line}, column {position.column}" if position.line else "before it"


def forbidden_character(source: Source) -> Diagnostic | None:
    """Return the complaint about the first character that no spec may contain."""
    match = _FORBIDDEN.search(source.text)
    if match is None:
        return None
    before = (source.text[: match.start()] + "x").splitlines()
    position = source.position(len(before) - 1, len(before[-1]) - 1)
    return Diagnostic(position, f"the character U+{ord(match[0]):04X} cannot stand in a spec; remove it")


def directive(source: Source, end: int) -> Diagnostic | None:
    """Return the complaint about the first directive before line `end`, where only directives start with "%"."""
    for number, line in enumerate(source.lines[:end]):
        if line.startswith("%"):
            return Diagnostic(source.position(number, 0), _DIRECTIVE)
    return None


def explain(error: yaml.YAMLError, source: Source, innermost: Position | None = None) -> Diagnostic:
    """Translate an error of pyyaml; `innermost` is where the mapping or list starts that was open then."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return Diagnostic(Position(source.file), f"not valid YAML: {error}")
    problem = _Problem(source, error, innermost)
    for words, sentence in _SENTENCES:
        if any(word in problem.text for word in words):
            return sentence(problem)
    return problem.here(f"not valid YAML: {error.problem}")


class _Problem:
    """An error of pyyaml and the text around it."""

    def __init__(self, source: Source, error: yaml.MarkedYAMLError, innermost: Position | None) -> None:
        mark = error.problem_mark
        assert mark is not None
        start = error.context_mark or mark
        self.source = source
        self.innermost = innermost
        self.text = f"{error.context or ''}: {error.problem or ''}"
        self.line, self.column = mark.line, mark.column
        self.start_line, self.start_column = start.line, start.column
        self.at_end = mark.line >= len(source.lines)
        self.content = "" if self.at_end else source.lines[mark.line]
        self.character = self.content[mark.column : mark.column + 1]
        self.start_content = source.lines[start.line] if start.line < len(source.lines) else ""
        self.start_character = self.start_content[start.column : start.column + 1]
        self.first_in_line = not self.content[: mark.column].strip(" \t")

    def here(self, message: str) -> Diagnostic:
        return Diagnostic(self.source.position(self.line, self.column), message)

    def at_start(self, message: str) -> Diagnostic:
        return Diagnostic(self.start, message)

    @property
    def start(self) -> Position:
        return self.source.position(self.start_line, self.start_column)

    def tab_in_indentation(self) -> Diagnostic | None:
        indentation = self.content[: len(self.content) - len(self.content.lstrip(" \t"))]
        if "\t" not in indentation:
            return None
        return Diagnostic(self.source.position(self.line, indentation.index("\t")), _TAB)


def _unclosed_quote(p: _Problem) -> Diagnostic:
    return p.at_start(f"this quote is never closed; add a closing {p.start_character}")


def _bad_escape(p: _Problem) -> Diagnostic:
    column = max(p.content.rfind("\\", 0, p.column + 1), 0)
    escape = p.content[column : column + 2]
    message = f"unknown or incomplete escape {escape}; write \\\\ for a backslash, or use single quotes"
    return Diagnostic(p.source.position(p.line, column), message)


def _in_brackets(p: _Problem) -> Diagnostic:
    opening, closing = ("[", "]") if "sequence" in p.text else ("{", "}")
    if p.at_end:
        return p.at_start(f'this "{opening}" is never closed; add "{closing}"')
    return p.here(f'expected "," or "{closing}" here: the "{opening}" {at(p.start)} is still open')


def _no_value(p: _Problem) -> Diagnostic:
    if p.at_end:
        position = p.innermost or p.source.position(p.line, p.column)
        return Diagnostic(position, 'this "[" or "{" is never closed; add "]" or "}"')
    if p.character == ":":
        return p.here('a key is missing before ":"')
    return p.here(f'expected a value here, not "{p.character}"; if it is text, put it in quotes')


def _bad_start(p: _Problem) -> Diagnostic:
    if p.character == "\t":
        return p.tab_in_indentation() or p.here(_TAB)
    return p.here(f'a value cannot start with "{p.character}"; put the text in quotes')


def _bad_colon(p: _Problem) -> Diagnostic:
    if tab := p.tab_in_indentation():
        return tab
    if re.search(r":\s", p.content[: p.column]):
        return p.here('a second ":" in one line; put a text that contains ": " in quotes')
    indent = len(p.content) - len(p.content.lstrip(" "))
    for line in range(p.line - 1, -1, -1):
        above = p.source.lines[line]
        if above.strip():
            if glued := _NO_SPACE.match(above):
                return Diagnostic(p.source.position(line, glued.end()), 'a space is missing after ":"')
            if re.search(r":(\s|$)", above):
                message = f"bad indentation: this line is indented as if it continued line {line + 1}"
                return Diagnostic(p.source.position(p.line, indent), message)
            break
    return p.here('the key of this ":" must be one line of text; is ":" missing in the line above?')


def _no_colon(p: _Problem) -> Diagnostic:
    rest = p.start_content[p.start_column :]
    if glued := _NO_SPACE.match(rest):
        position = p.source.position(p.start_line, p.start_column + glued.end())
        return Diagnostic(position, 'a space is missing after ":"')
    return p.at_start(f'expected "key: value", but {shown(rest.strip(), quoted=True)} has no ":"')


def _unaligned(p: _Problem) -> Diagnostic:
    if tab := p.tab_in_indentation():
        return tab
    if not p.first_in_line:
        return p.here("unexpected text after a complete value; put the whole value in quotes")
    if p.column != p.start_column:
        return p.here(f"bad indentation: this line does not line up with its block, which starts {at(p.start)}")
    if "collection" in p.text:
        return p.here(f'expected "- " as in the list {at(p.start)}; indent further to continue its last entry')
    return p.here(f'expected "key: value" as in the mapping {at(p.start)}')


def _no_name(p: _Problem) -> Diagnostic:
    return p.at_start(f'"{p.start_character}" needs a name after it; if it is text, put it in quotes')


def _directive(p: _Problem) -> Diagnostic:
    return p.at_start(_DIRECTIVE)


def _after_end(p: _Problem) -> Diagnostic:
    return directive(p.source, p.line + 1) or p.here("unexpected text after the end of the spec; remove it")


# The first entry one of whose words occurs in "context: problem" speaks.
_SENTENCES: list[tuple[tuple[str, ...], Callable[[_Problem], Diagnostic]]] = [
    (("cannot start any token",), _bad_start),
    (("tab character",), lambda p: p.tab_in_indentation() or p.here(_TAB)),
    (("scalar: found unexpected end of stream", "unexpected document"), _unclosed_quote),
    (("quoted scalar",), _bad_escape),
    (("flow sequence", "flow mapping"), _in_brackets),
    (("nesting depth",), lambda p: p.here(TOO_DEEP)),  # libyaml's own limit, which is larger than ours
    (("node content",), _no_value),
    (("mapping values",), _bad_colon),
    (("expected ':'",), _no_colon),
    (("expected <document start>", "expected '<document start>'"), _after_end),
    (("block mapping", "block collection"), _unaligned),
    (("sequence entries",), lambda p: p.here('a list cannot start here; start a new line, or write "[a, b]"')),
    (("mapping keys",), lambda p: p.here('a value cannot start with "?"; put the text in quotes')),
    (("directive", "incompatible"), _directive),
    (("alphabetic",), _no_name),
    (("block scalar",), lambda p: p.here(f'only "+", "-" or a digit may follow "{p.start_character}"')),
    ((" tag",), lambda p: p.at_start('tags are not part of the language; remove "!" or put the text in quotes')),
]
