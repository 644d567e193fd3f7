"""What the driver says when it cannot go on: one sentence that names culprit, values and remedy."""

import difflib
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """The exit status that a command line should give for a `DriverError`."""

    FAILED = 1
    USAGE = 2
    ENVIRONMENT = 3
    DIVERGED = 4
    INTERRUPTED = 130
    TERMINATED = 143


class DriverError(Exception):
    """An error that a user can cause or meet; `str()` of it is ready to be printed."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class DamagedFileError(DriverError):
    """A file whose content is not what its writer wrote (truncated, overwritten, or of another kind)."""


class NotExportedError(DamagedFileError):
    """An ONNX file without the metadata that `netc export` writes."""

    def __init__(self, path: Path, key: str) -> None:
        super().__init__(
            f"{path} is not a model exported by netc: its metadata has no usable {key}; write one with: netc export RUN"
        )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean "x"?` for the nearest known word, else a list of what is known, else nothing."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    if near:
        return f'; did you mean "{near[0]}"?'
    return f"; known: {', '.join(names)}" if names else ""
