"""The command line as tests call it: in their own process."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from netc.cli import main


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return self.err.splitlines()


Netc = Callable[..., Result]


def in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Netc:
    """Return what runs `netc` with arguments; a traceback is never right."""

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["netc", *arguments])
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        assert isinstance(code, int)
        assert "Traceback" not in err
        return Result(code, out, err)

    return run
