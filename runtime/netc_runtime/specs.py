"""Comparing resolved specs: which runs and checkpoints belong together."""

from collections.abc import Iterator, Mapping
from typing import Any

from netc_runtime.errors import DriverError, ExitCode

# What may change between two parts of one run: where the data lies and stays, how it is shown to a trained network, how
# long to train, and all of the section `run`.
_MAY_DIFFER = frozenset(
    {"data.path", "data.resident", "data.test_views", "solver.max_epochs", "solver.max_iter", "run"}
)
_SHOWN = 8


def require_same_spec(what: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise DriverError (2) that lists the differing keys unless `theirs` may continue as `ours`.

    `what` is the subject of the sentence.
    """
    found = _differences("", theirs, ours)
    differences = [text for key, text in found if key not in _MAY_DIFFER and not key.startswith("run.")]
    if differences:
        more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise DriverError(
            f"{what} belongs to another spec; it differs in {', '.join(differences[:_SHOWN])}{more}; "
            f"start a new run, or restore the spec",
            ExitCode.USAGE,
        )


def _differences(path: str, theirs: object, ours: object) -> Iterator[tuple[str, str]]:
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        for key in sorted(theirs.keys() | ours.keys()):
            yield from _differences(f"{path}.{key}" if path else key, theirs.get(key), ours.get(key))
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for index, pair in enumerate(zip(theirs, ours, strict=True)):
            yield from _differences(f"{path}{_entry(index, *pair)}", *pair)
    elif theirs != ours:
        yield path, f"{path} ({_brief(theirs)} there, {_brief(ours)} here)"


def _entry(index: int, theirs: object, ours: object) -> str:
    """Return how `--set` names an entry of a list: by the name that both sides give it, else by its index."""
    names = [entry.get("name") for entry in (theirs, ours) if isinstance(entry, Mapping)]
    return f".{names[0]}" if len(names) == 2 and names[0] == names[1] and names[0] is not None else f"[{index}]"


def _brief(value: object) -> str:
    if isinstance(value, list):
        return f"{len(value)} entries"
    if isinstance(value, Mapping):
        return "a mapping"
    return "nothing" if value is None else str(value)
