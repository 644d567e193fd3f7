"""What sources have in common whose data are one file, or files that are called after their splits."""

from abc import ABC
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from netc_runtime.data.base import Problem, Source, as_folder
from netc_runtime.data.folders import no_path, parts, path_problem


class FileSource(Source, ABC):
    """A source that reads the `parts` of its option `path`, and knows classes no earlier than it has read all."""

    file: ClassVar[str]
    """What `path` should name."""
    endings: ClassVar[tuple[str, ...]]
    """How the files of this kind end, the usual one first."""

    @classmethod
    def class_names(cls, name: str, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return nothing: the whole file would have to be read."""
        return ()

    @classmethod
    def missing(cls, name: str, options: Mapping[str, Any]) -> list[Problem]:
        """Return a sentence if there is no file to train with."""
        return missing_parts(name, options, cls.file, cls.endings)


def missing_parts(name: str, options: Mapping[str, Any], about: str, endings: Iterable[str]) -> list[Problem]:
    """Return what is wrong with a `path` whose `parts` a source reads; `about` says what it should name."""
    if wrong := no_path(name, options, about):
        return wrong
    place, endings = as_folder(options["path"]), tuple(endings)
    if "train" not in parts(place, endings):
        return path_problem(
            f"{place} holds no training files: they are called train{endings[0]} or train-*{endings[0]}"
        )
    return []
