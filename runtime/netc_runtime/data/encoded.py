"""Records of an encoded or a plain image and its label, from files that hold many, as cached arrays."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from netc_runtime.arrays import Array, shape_text
from netc_runtime.data.base import MOST_CLASSES, Split, UnequalSizesError
from netc_runtime.data.cache import cached, stamps
from netc_runtime.data.npy_writer import RowWriter
from netc_runtime.data.options import CHANNELS, LEAVE_OUT
from netc_runtime.errors import DamagedFileError
from netc_runtime.images import decode, resized


@dataclass(frozen=True)
class Encoded:
    """One record: what a sentence calls it, the bytes of an image file or an array [C, H, W], and its label."""

    name: str
    image: Any
    label: Any


def cached_records(
    files: Sequence[Path], records: Callable[[], Iterator[Encoded]], key: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Split, list[str]]:
    """Return `image` and `label` of all records, and what was skipped; `files` and `key` are all they depend on.

    Raises DriverError: 1 for a record that is no image with a label, 2 for images of unequal size, which name `resize`.
    """
    channels, size = options.get("channels", CHANNELS.default), options.get("resize")
    skip = options.get("on_error") == "skip"
    own = {
        "files": stamps(files, files[0].parent),
        "folder": str(files[0].parent.resolve()),
        "channels": channels,
        "size": None if size is None else list(size),
        "skip": skip,
    }
    make = _Maker(records, channels, None if size is None else (size[0], size[1]), skip)
    entry = cached({**key, **own}, make)
    return dict(entry.arrays), list(entry.notes.get("skipped", []))


@dataclass(frozen=True)
class _Maker:
    records: Callable[[], Iterator[Encoded]]
    channels: int
    size: tuple[int, int] | None
    skip: bool

    def __call__(self, folder: Path) -> Mapping[str, Any]:
        with (folder / "image.npy").open("wb") as file:
            labels, skipped = self._write(file)
        np.save(folder / "label.npy", np.array(labels, np.int64))
        return {"skipped": skipped}

    def _write(self, file: IO[bytes]) -> tuple[list[int], list[str]]:
        """Write all images, and return their labels and what was skipped."""
        writer: RowWriter | None = None
        first = ""
        labels: list[int] = []
        skipped: list[str] = []
        for record in self.records():
            try:
                image = self._image(record)
            except DamagedFileError as error:
                if not self.skip:
                    raise DamagedFileError(f"{error}{LEAVE_OUT}") from error
                skipped.append(str(error))
                continue
            if writer is None:
                first, writer = record.name, RowWriter(file, image.shape, image.dtype)
            if (image.shape, image.dtype) != (writer.shape, writer.dtype):
                found = (
                    f"{record.name} has an image {shape_text(image.shape)} of {image.dtype}, but {first} has "
                    f"{shape_text(writer.shape)} of {writer.dtype}"
                )
                raise UnequalSizesError.like(found, writer.shape[-2:])
            labels.append(_label(record))
            writer.add(image)
        if writer is None:
            raise DamagedFileError(f"no record can be used: {skipped[0] if skipped else 'there is none'}")
        writer.finish()
        return labels, skipped

    def _image(self, record: Encoded) -> Array:
        if isinstance(record.image, np.ndarray):
            return record.image if self.size is None else resized(record.image, self.size)
        if not isinstance(record.image, bytes) or not record.image:
            raise DamagedFileError(f"{record.name} has no image")
        return decode(record.image, record.name, self.channels, self.size)


def _label(record: Encoded) -> int:
    if not isinstance(record.label, int) or isinstance(record.label, bool) or record.label < 0:
        raise DamagedFileError(f"{record.name} has the label {record.label!r}, where a class 0, 1, ... is needed")
    if record.label >= MOST_CLASSES:
        raise DamagedFileError(f"{record.name} has the label {record.label}; the last class is {MOST_CLASSES - 1}")
    return record.label
