"""What the arguments SPEC and `--set` of the command line mean."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from netc import zoo
from netc.emit import FORMAT
from netc.errors import UsageError
from netc.rewrite.passes import known_rules
from netc.spec.load import Loaded, load
from netc.spec.overrides import apply_override
from netc.spec.text import parse_tree, read_tree
from netc.spec.tree import Tree


def read_spec(spec: str, overrides: Sequence[str]) -> Loaded:
    """Read a spec file, a spec of the zoo, or the spec inside an artifact, and apply `--set`.

    Raises:
        UsageError: there is no such spec, or the artifact is damaged.
        SpecError: the text or an option is no spec.
    """
    path = zoo.find(spec)
    tree = _spec_of_artifact(path) if (path / "manifest.json").is_file() else read_tree(path)
    for option in overrides:
        tree = apply_override(tree, option)
    return load(tree, path.parent)


def target_of(path: Path) -> str | None:
    """Return the engine that an artifact was compiled for; None if there is no artifact."""
    return str(_manifest(path).get("target")) if (path / "manifest.json").is_file() else None


def tuning_of(path: Path) -> dict[str, Any] | None:
    """Return what `netc tune` found for an artifact; None if there is no artifact, or it is not tuned."""
    tuning = _manifest(path).get("tuning") if (path / "manifest.json").is_file() else None
    if tuning is None:
        return None
    if not isinstance(tuning, dict) or not isinstance(tuning.get("lowerings"), dict):
        raise UsageError(f"{path / 'manifest.json'} has a malformed tuning; compile the spec again")
    unknown = set(tuning["lowerings"].values()) - known_rules()
    if unknown:
        raise UsageError(
            f"{path / 'manifest.json'} was tuned by another version of netc: this one has no lowering "
            f"{', '.join(sorted(map(str, unknown)))}; tune the spec again"
        )
    return tuning


def _spec_of_artifact(path: Path) -> Tree:
    spec = _manifest(path).get("spec")
    if not isinstance(spec, dict):
        raise UsageError(f"{path / 'manifest.json'} has no spec; compile it again")
    return parse_tree(json.dumps(spec), str(path / "manifest.json"))


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        if manifest["format"] != FORMAT:
            raise ValueError(manifest["format"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        remedy = "compile the spec again"
        raise UsageError(f"{path / 'manifest.json'} is not the manifest of an artifact; {remedy}") from error
    return dict(manifest)


def spec_overrides(
    given: Sequence[str] | None, batch_size: int | None = None, seed: int | None = None, init_from: str | None = None
) -> list[str]:
    """Return all options as `--set` would give them."""
    options = list(given or [])
    if batch_size is not None:
        options.append(f"data.batch_size={batch_size}")
    if seed is not None:
        options.append(f"solver.random_seed={seed}")
    if init_from is not None:
        options.append(f"init_from={json.dumps(init_from)}")  # in quotes, whatever it looks like
    return options


def data_overrides(given: Sequence[str] | None) -> dict[str, Any]:
    """Read `--set data.KEY=VALUE`, the only part of a finished run that may differ when it is used elsewhere.

    Raises:
        UsageError: an option sets something else.
        SpecError: an option is malformed.
    """
    tree = parse_tree("data: {}", "--set")
    for option in given or []:
        if not option.startswith("data."):
            raise UsageError(f"--set {option}: only keys of data can be changed here, such as data.path=FOLDER")
        tree = apply_override(tree, option)
    data = tree.value["data"]
    assert isinstance(data, dict), "every option sets a key of it"
    return dict(data)


def free_folder(parent: Path, name: str) -> Path:
    """Return parent/name, or parent/name-2, -3, ... where the earlier ones exist."""
    candidates = (parent / (name if n == 1 else f"{name}-{n}") for n in range(1, 10**6))
    return next(path for path in candidates if not path.exists())
