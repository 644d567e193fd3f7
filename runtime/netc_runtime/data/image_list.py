"""Text files that name images and their labels, as Caffe's ImageData layer reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from netc_runtime.data.base import MOST_CLASSES, Samples, Split, UnequalSizesError, as_folder, numbered
from netc_runtime.data.file_source import FileSource
from netc_runtime.data.folders import parts
from netc_runtime.data.image_files import Decoding, decoded
from netc_runtime.data.options import CHANNELS, CLASSES, LIMIT, ON_ERROR, SPLIT, TEXT, Option, path_option
from netc_runtime.data.rows import changed, select
from netc_runtime.errors import DamagedFileError
from netc_runtime.files import read_bounded

_LIST_LIMIT = 1 << 30
_ROOT = Option("root", TEXT, "the folder that paths in the list begin from", note="That of the list by default.")
_TARGET = Option(
    "target",
    TEXT,
    "the field that a second path gives",
    default="label",
    note="`label` is a map of labels [H, W]: grey values or indices of a palette. Any other field is grey from 0 to 1, "
    "[1, H, W].",
)


class ImageList(FileSource):
    """A text file with a line for each sample: the path of an image and a label, or the path of a second image.

    A number from 0 on is a label; anything else is the path of a target that has a value at every place, such as a map
    of labels. Images are decoded once, as those of `image_folder`. Empty lines do not count.

    Example: data: {source: image_list, path: train.txt, root: photos, resize: [64, 64]}
    """

    about: ClassVar[str] = "a text file of image paths with labels, or with paths of dense targets"
    file: ClassVar[str] = "the list, or a folder with train.txt and test.txt"
    endings: ClassVar[tuple[str, ...]] = (".txt", ".lst")
    options: ClassVar[tuple[Option, ...]] = (
        path_option(file),
        _ROOT,
        _TARGET,
        CHANNELS,
        ON_ERROR,
        SPLIT,
        CLASSES,
        LIMIT,
    )
    extra: ClassVar[str | None] = "images"
    resizes: ClassVar[bool] = True

    @classmethod
    def open(cls, name: str, options: Mapping[str, Any]) -> Self:
        """Decode all images, or map those decoded before; raises DriverError naming the file and the line."""
        splits: dict[str, Split] = {}
        notes: list[str] = []
        for split, files in parts(as_folder(options["path"]), cls.endings).items():
            splits[split], skipped = _read(files, options)
            notes += skipped
        labels = [np.asarray(found["label"][:]) for found in splits.values() if "label" in found]
        single = labels and labels[0].ndim == 1
        source = cls(splits["train"], splits.get("test", {}), numbered(np.concatenate(labels)) if single else ())
        source.left_out(notes)
        return source


@dataclass(frozen=True)
class _Line:
    image: Path
    label: int | None
    target: Path | None


def _read(files: Sequence[Path], options: Mapping[str, Any]) -> tuple[Split, list[str]]:
    lines = [line for file in files for line in _lines(file, options)]
    first = lines[0]
    skip, size = options.get("on_error") == "skip", options.get("resize")
    root = files[0].parent
    how = Decoding(options.get("channels", CHANNELS.default), size, skip)
    images, kept, skipped = decoded([line.image for line in lines], root, how)
    if first.target is None:
        return {"image": images, "label": np.array([line.label for line in lines])[kept]}, skipped
    field = options.get("target", _TARGET.default)
    targets = [line.target for line in lines if line.target is not None]
    found, sound, more = decoded(targets, root, Decoding(0 if field == "label" else 1, size, skip))
    both = np.intersect1d(kept, sound)
    if not len(both):
        raise DamagedFileError(
            f"{files[0]} has no line whose image and target can both be decoded; the first that cannot: {skipped[0]}"
        )
    images, found = (select(s, np.searchsorted(own, both)) for s, own in ((images, kept), (found, sound)))
    _check_sizes(images, found, lines[int(both[0])])
    if field != "label":
        found = changed(found, lambda some: some.astype(np.float32) / 255)
    return {"image": images, field: found}, [*skipped, *more]


def _check_sizes(images: Samples, targets: Samples, line: _Line) -> None:
    if images.shape[2:] != targets.shape[-2:]:
        found = (
            f"{line.target} has {targets.shape[-2]} x {targets.shape[-1]} pixels, but its image {line.image} has "
            f"{images.shape[2]} x {images.shape[3]}"
        )
        raise UnequalSizesError.like(found, images.shape[2:])


def _lines(file: Path, options: Mapping[str, Any]) -> list[_Line]:
    """Read one list; raises DamagedFileError naming the line."""
    root = as_folder(options["root"]) if options.get("root") else file.parent
    try:
        text = read_bounded(file, _LIST_LIMIT).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedFileError(f"{file} is not a text in UTF-8: {error.reason} at byte {error.start}") from error
    found: list[_Line] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            image, second = line.strip().rsplit(maxsplit=1)
        except ValueError:
            raise DamagedFileError(
                f"{file}, line {number}: the path of an image and a label are needed, found {line.strip()[:100]!r}"
            ) from None
        label = int(second) if second.isascii() and second.isdecimal() and len(second) < 11 else None
        if label is not None and label >= MOST_CLASSES:
            raise DamagedFileError(f"{file}, line {number} has the label {label}; the last class is {MOST_CLASSES - 1}")
        found.append(_Line(root / image, label, None if label is not None else root / second))
        if (found[0].label is None) != (label is None):
            raise DamagedFileError(
                f"{file}, line {number}: {second!r} is {'no ' if label is None else 'a '}label, unlike what the first "
                f"line has; all lines need the same"
            )
        for path in (found[-1].image, found[-1].target):
            if path is not None and not path.is_file():
                raise DamagedFileError(f"{file}, line {number}: {path} does not exist or is not a file")
    if not found:
        raise DamagedFileError(f"{file} is empty: it names no image")
    return found
