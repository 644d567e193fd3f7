"""A folder of images for each class, decoded once."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from netc_runtime.data.base import Problem, Source, Split, as_folder
from netc_runtime.data.folders import SPLITS, folder_of_split, no_path, path_problem, wrong_folder
from netc_runtime.data.image_files import ENDINGS, Decoding, decoded
from netc_runtime.data.options import CHANNELS, CLASSES, LIMIT, ON_ERROR, SPLIT, Option, path_option
from netc_runtime.errors import DamagedFileError, DriverError
from netc_runtime.files import storage_errors

_FOLDER = "the folder with a folder of images for each class, or with train and test that have them"


class ImageFolder(Source):
    """A folder with one folder of images for each class, inside `train` and `test` or to be split.

    Classes have the names of their folders, in alphabetical order. Images lie at any depth inside; what is called
    otherwise than an image, or begins with a dot, is no image. They are decoded once, into a cache of unsigned bytes
    that is mapped into memory, and again when a file, `resize` or `channels` changes. `resize` smooths what it shrinks,
    as `netc predict` does. `val` may stand for `test`.

    Example: data: {source: image_folder, path: flowers, resize: [64, 64], split: {test: 0.2}}
    """

    about: ClassVar[str] = "a folder of images for each class, decoded once"
    options: ClassVar[tuple[Option, ...]] = (path_option(_FOLDER), CHANNELS, ON_ERROR, SPLIT, CLASSES, LIMIT)
    extra: ClassVar[str | None] = "images"
    resizes: ClassVar[bool] = True

    @classmethod
    def class_names(cls, name: str, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the folders, nothing where they are not on this machine."""
        path = options.get("path")
        if not path or not as_folder(path).is_dir():
            return ()
        return tuple(_subfolders(folder_of_split(as_folder(path), "train") or as_folder(path)))

    @classmethod
    def missing(cls, name: str, options: Mapping[str, Any]) -> list[Problem]:
        """Return a sentence if `path` is no folder with folders."""
        if wrong := no_path(name, options, _FOLDER) or wrong_folder(as_folder(options["path"])):
            return wrong
        folder = as_folder(options["path"])
        for split in SPLITS:
            inside = folder_of_split(folder, split)
            if split == "train":
                inside = inside or folder
            if inside is not None and not _subfolders(inside):
                return path_problem(f"{inside} has no folder in it; a folder of images is needed for each class")
        return []

    @classmethod
    def open(cls, name: str, options: Mapping[str, Any]) -> Self:
        """Decode all images, or map those decoded before; raises DriverError naming the file."""
        folder = as_folder(options["path"])
        train, test = (folder_of_split(folder, split) for split in SPLITS)
        names = _subfolders(train or folder)
        splits: list[Split] = []
        notes: list[str] = []
        for part in (train or folder, test if train else None):
            splits.append({})
            if part is not None:
                splits[-1], skipped = _read(part, names, options)
                notes += skipped
        source = cls(splits[0], splits[1], tuple(names))
        source.left_out(notes)
        return source


def _subfolders(folder: Path) -> list[str]:
    with storage_errors("read", folder):
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read(folder: Path, names: list[str], options: Mapping[str, Any]) -> tuple[Split, list[str]]:
    """Return a split and what was left out of it."""
    own = _subfolders(folder)
    for name in own:
        if name not in names:
            raise DriverError(
                f"{folder / name} is a class that the training images do not have; they have {', '.join(names)}"
            )
    paths: list[Path] = []
    labels: list[int] = []
    for name in own:
        files = list(_images(folder / name))
        if not files:
            raise DamagedFileError(
                f"{folder / name} has no image in it ({', '.join(ENDINGS)}); remove the folder, or add images of the "
                f"class"
            )
        paths += files
        labels += [names.index(name)] * len(files)
    how = Decoding(options.get("channels", CHANNELS.default), options.get("resize"), options.get("on_error") == "skip")
    images, kept, skipped = decoded(paths, folder, how)
    return {"image": images, "label": np.array(labels)[kept]}, skipped


def _images(folder: Path) -> list[Path]:
    """Return the images in a folder and the folders inside it, in an order that every machine has."""
    found = []
    with storage_errors("read", folder):
        for inside, folders, files in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            wanted = (name for name in sorted(files) if name.lower().endswith(ENDINGS) and not name.startswith("."))
            found += [Path(inside, name) for name in wanted]
    return found
