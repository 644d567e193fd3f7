"""The command about the installation: doctor."""

import platform
import sys
from typing import Any

from netc.commands.common import JsonOption, print_json
from netc.errors import EnvironmentProblem

_MARKS = {True: "ok", False: "no", None: ""}


def doctor(as_json: JsonOption = False) -> None:
    """Say what this installation can do: each engine is tried. Exits with 3 if none can train.

    Example: netc doctor
    """
    from netc import __version__, zoo
    from netc_runtime.installation import Finding, examine, version_of

    names = zoo.names()
    findings = [
        Finding("python", None, f"{platform.python_version()} on {platform.platform()}, {sys.executable}"),
        Finding("netc", None, __version__),
        *(Finding(name, None, version_of(name) or "not installed") for name in ("numpy", "onnx", "onnx-ir")),
        Finding("specs", bool(names), f"{len(names)} in {zoo.folder()}", "" if names else "install netc again"),
        *examine(),
    ]
    engines = [finding.name for finding in findings if finding.engine and finding.works]
    if as_json:
        listed = [{key: value for key, value in vars(finding).items() if key != "engine"} for finding in findings]
        print_json({"ok": bool(engines), "engines": engines, "findings": listed})
    else:
        _print(findings)
        print(f"can train on: {', '.join(engines)}" if engines else "cannot train: no engine works")
    if not engines:
        raise SystemExit(EnvironmentProblem.exit_code)


def _print(findings: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        table.add_row(finding.name, _MARKS[finding.works], Text(finding.found))
        if finding.remedy:
            table.add_row("", "", Text(f"-> {finding.remedy}"))
    # As wide as any line: a command to copy must not be broken.
    Console(highlight=False, markup=False, width=1 << 16).print(table)
