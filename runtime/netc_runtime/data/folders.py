"""Where the files of a source lie: the option `path`, the cache, and names that say train or test."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from netc_runtime.data.base import Problem, as_folder
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.files import storage_errors

SPLITS = ("train", "test")
CALLED = {"train": ("train",), "test": ("test", "val", "valid", "validation")}
"""What others call each split; where there are several, the first of them is meant."""


def cache_folder() -> Path:
    """Return where netc keeps what can be made or fetched again: `netc` in XDG_CACHE_HOME, or in ~/.cache."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    if Path(given).is_absolute():
        return Path(given) / "netc"
    try:
        return Path.home() / ".cache" / "netc"
    except RuntimeError as error:
        raise DriverError(
            "there is no home folder to keep a cache in; set XDG_CACHE_HOME to a folder", ExitCode.ENVIRONMENT
        ) from error


def fetched_folder(name: str) -> Path:
    """Return where `netc data fetch` puts the source `name`."""
    return cache_folder() / "data" / name


def source_folder(name: str, options: Mapping[str, Any]) -> Path:
    """Return the folder that `path` names, or else the one that the source is fetched into."""
    path = options.get("path")
    return as_folder(path) if path else fetched_folder(name)


def path_problem(sentence: str) -> list[Problem]:
    """Return the mistake in the option `path` that a sentence says."""
    return [(("path",), sentence)]


def no_path(name: str, options: Mapping[str, Any], about: str) -> list[Problem]:
    """Return a sentence unless the option `path`, which should name what `about` says, names something that exists."""
    path = options.get("path")
    if not path:
        return path_problem(f'the source "{name}" needs `path`: {about}')
    return [] if as_folder(path).exists() else path_problem(f"{as_folder(path)} does not exist")


def wrong_folder(folder: Path) -> list[Problem]:
    """Return a sentence unless this is a folder."""
    if folder.is_dir():
        return []
    return path_problem(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}")


def parts(path: Path, endings: Iterable[str]) -> dict[str, list[Path]]:
    """Return the files that `path` stands for by split: `train` alone is one set, and nothing is no data at all.

    A file, or whatever else is no plain folder, is one set. In a folder the names tell: `train.csv`, or `train-*.csv`
    and `train_*.csv` where a split has several files, in order; the same with `test` or else `val`.
    """
    endings = tuple(endings)
    if path.is_file():
        return {"train": [path]}
    if not path.is_dir():
        return {}
    with storage_errors("read", path):
        files = sorted(file for file in path.iterdir() if file.name.endswith(endings) and not file.name.startswith("."))
    found = {
        split: next((named for name in names if (named := _of_split(files, name))), [])
        for split, names in CALLED.items()
    }
    return {split: named for split, named in found.items() if named}


def single_parts(path: Path, endings: Iterable[str]) -> dict[str, Path]:
    """Return `parts` of a source that takes one file a split; raises DriverError (2) where there are several."""
    found = parts(path, endings)
    for split, files in found.items():
        if len(files) > 1:
            raise DriverError(
                f"{path} has {len(files)} files of the {split} split, such as {files[0].name} and {files[1].name}; "
                f"leave one of them",
                ExitCode.USAGE,
            )
    return {split: files[0] for split, files in found.items()}


def folder_of_split(folder: Path, split: str) -> Path | None:
    """Return the folder inside that holds a split, or None."""
    return next((folder / name for name in CALLED[split] if (folder / name).is_dir()), None)


def _of_split(files: Iterable[Path], name: str) -> list[Path]:
    return [file for file in files if file.name.partition(".")[0].replace("_", "-").partition("-")[0] == name]
