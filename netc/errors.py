"""What netc says when it cannot go on: positioned diagnostics, collected and shown together.

Exit codes of every command: 0 ok, 1 failed, 2 usage or bad spec, 3 environment, 4 diverged,
130 and 143 interrupted by SIGINT and SIGTERM.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, order=True)
class Position:
    """A place in a source text: file (or option) name, line and column counted from 1; 0 means unknown.

    `used_at` is where the block that the place belongs to is used. It does not distinguish places: a mistake in a block
    is one mistake, however often the block is used.
    """

    file: str
    line: int = 0
    column: int = 0
    used_at: "Position | None" = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True)
class Diagnostic:
    """One mistake of the user: where it stands and a sentence that names culprit, values and remedy."""

    position: Position
    message: str

    def __str__(self) -> str:
        use = self.position.used_at
        # A message may quote a text of the user that has line breaks, or codes that a terminal would obey.
        message = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in self.message)
        return f"{self.position}: {message}" + (f" (in a block used at {use})" if use is not None else "")


class NetcError(Exception):
    """Base of all errors that a user can cause; `str()` of it is ready to be printed."""

    exit_code = 1


class EnvironmentProblem(NetcError):  # noqa: N818 ("EnvironmentError" is Python's own name for something else)
    """The machine, not the spec, is in the way: a full disk, a missing permission, a missing package."""

    exit_code = 3


class UsageError(NetcError):
    """A command that was called wrongly."""

    exit_code = 2


class SpecError(NetcError):
    """A spec that cannot be compiled: all its mistakes at once, in the order of the text."""

    exit_code = 2
    shown = 100  # nobody reads more

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics: Sequence[Diagnostic] = sorted(set(diagnostics), key=lambda d: (d.position, d.message))
        lines = [str(diagnostic) for diagnostic in self.diagnostics[: self.shown]]
        if len(self.diagnostics) > self.shown:
            lines.append(f"{len(self.diagnostics) - self.shown} more mistakes are not shown; correct these first")
        super().__init__("\n".join(lines))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean "x"?` for the nearest known word, else a list of what is known, else nothing."""
    known = sorted(known)
    if nearest := near(word, known):
        return f'; did you mean "{nearest}"?'
    return f"; known: {', '.join(known)}" if known else ""


def near(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that `word` was probably meant to be, if there is one."""
    lowered = {name.lower(): name for name in sorted(known)}
    found = difflib.get_close_matches(word.lower(), lowered, n=1)
    return lowered[found[0]] if found else None
