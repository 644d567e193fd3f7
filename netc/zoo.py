"""The zoo: the specs that ship with netc, and how a name on the command line becomes a file."""

import re
from pathlib import Path

from netc.errors import UsageError, did_you_mean


def folder() -> Path:
    """Return where the zoo lies: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "specs"
    return installed if installed.is_dir() else package.parent / "specs"


def names() -> list[str]:
    """Return the names of all specs of the zoo."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def summary(name: str) -> str:
    """Return the title of a spec: its header comment up to the first period or colon."""
    lines = (folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("# yaml-language-server:")]
    header = " ".join(line.lstrip("# ") for line in lines[: next(i for i, x in enumerate(lines) if x[:1] != "#")])
    return re.split(r"[.:] ", header)[0].rstrip(".:")


def find(spec: str) -> Path:
    """Return the file that a SPEC argument means: a path, or the bare name of a spec of the zoo.

    Raises:
        UsageError: there is neither, or it is a zip file, as of a training package.
    """
    path = Path(spec)
    if path.suffix == ".zip" and path.is_file():
        raise UsageError(f"{spec} is a zip file; unpack it, and name the folder")
    if spec in names() and not path.is_file():
        return folder() / f"{spec}.yaml"
    if path.exists() or path.is_symlink():
        return path
    remedy = did_you_mean(path.stem, names()) if "/" not in spec else ""
    raise UsageError(
        f'there is no file "{spec}"{"" if "/" in spec else " and no spec of that name in the zoo"}{remedy}'
    )
