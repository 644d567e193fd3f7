"""The IDX format of MNIST and of the sets that copy it, read from untrusted files."""

import gzip
import math
import zlib
from collections.abc import Mapping
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from netc_runtime.arrays import Array, shape_text
from netc_runtime.data.base import Problem, Source, numbered
from netc_runtime.data.folders import SPLITS, source_folder
from netc_runtime.data.options import CLASSES, LIMIT, SPLIT, Option, path_option
from netc_runtime.data.packed import find, missing_files, read_packed
from netc_runtime.errors import DamagedFileError, DriverError
from netc_runtime.files import storage_errors

_IMAGES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
_LABELS = {"train": "train-labels-idx1-ubyte", "test": "t10k-labels-idx1-ubyte"}
_FOLDER = "the folder with the four IDX files"
_UNSIGNED_BYTE = 0x08
_SIZE_LIMIT = 2 << 30
_CHUNK = 1 << 20

_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


class IDX(Source):
    """A folder with the four IDX files under their original names, plain, .gz or .xz.

    Images are [n, H, W] unsigned bytes and become [n, 1, H, W].

    Example: data: {source: idx, path: letters}
    """

    about: ClassVar[str] = "four IDX files of images and labels, under the names that MNIST gave them"
    options: ClassVar[tuple[Option, ...]] = (path_option(_FOLDER), SPLIT, CLASSES, LIMIT)

    known_classes: ClassVar[tuple[str, ...]] = ()
    """The names of the classes that a data set of this format always has."""

    @classmethod
    def class_names(cls, name: str, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the ten digits or garments; nothing for `idx`, whose labels decide."""
        return cls.known_classes

    @classmethod
    def missing(cls, name: str, options: Mapping[str, Any]) -> list[Problem]:
        """Return a sentence if `path`, or the place of what is fetched, is no folder with the four files."""
        return missing_files(name, options, _FOLDER, (*_IMAGES.values(), *_LABELS.values()))

    @classmethod
    def open(cls, name: str, options: Mapping[str, Any]) -> Self:
        """Read the four files; raises DamagedFileError naming the file, what is expected and what is found."""
        folder = source_folder(name, options)
        train, test = (_read_split(folder, part) for part in SPLITS)
        names = cls.class_names(name, options) or numbered(np.concatenate([train["label"], test["label"]]))
        return cls(train, test, names)


class MNIST(IDX):
    """The handwritten digits of LeCun, Cortes and Burges, in the four files of `idx`.

    Example: data: {source: mnist, split: {test: 0.1}}
    """

    about: ClassVar[str] = "60,000 and 10,000 grey digits of 28 x 28 pixels, in their four IDX files"
    known_classes: ClassVar[tuple[str, ...]] = tuple(map(str, range(10)))


class FashionMNIST(IDX):
    """The garments of Zalando Research (Xiao, Rasul and Vollgraf, 2017), in the four files of `idx`.

    Example: data: {source: fashion_mnist, path: data/fashion, limit: 10000}
    """

    about: ClassVar[str] = "60,000 and 10,000 grey garments of 28 x 28 pixels, in their four IDX files"
    known_classes: ClassVar[tuple[str, ...]] = _FASHION


def _read_split(folder: Path, part: str) -> dict[str, Array]:
    images_path, labels_path = _existing(folder, _IMAGES[part]), _existing(folder, _LABELS[part])
    images, labels = _read_idx(images_path, axes=3), _read_idx(labels_path, axes=1)
    if len(images) != len(labels):
        raise DamagedFileError(
            f"{images_path} holds {len(images)} images but {labels_path} holds {len(labels)} labels; "
            f"they must be of one set"
        )
    return {"image": images[:, np.newaxis], "label": labels}


def _existing(folder: Path, file: str) -> Path:
    path = find(folder, file)
    if path is None:
        raise DriverError(f"{folder} no longer has {file}")
    return path


def _read_idx(path: Path, axes: int) -> Array:
    with storage_errors("read", path):
        try:
            if path.suffix == ".gz":
                with gzip.open(path, "rb") as zipped:
                    return _parse_idx(path, zipped, axes)
            if path.suffix == ".xz":
                return _parse_idx(path, BytesIO(read_packed(path, _SIZE_LIMIT)), axes)
            with path.open("rb") as plain:
                return _parse_idx(path, plain, axes)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DamagedFileError(f"{path} is damaged: {error}; fetch it again") from error


def _parse_idx(path: Path, file: gzip.GzipFile | BufferedReader | BytesIO, axes: int) -> Array:
    header = file.read(4 + 4 * axes)
    expected = bytes((0, 0, _UNSIGNED_BYTE, axes))
    if len(header) < 4 or header[:4] != expected:
        raise DamagedFileError(
            f"{path} is not an IDX file of unsigned bytes with {axes} axes: it should begin with "
            f"{expected.hex(' ')}, not {header[:4].hex(' ') or 'nothing'}"
        )
    if len(header) < 4 + 4 * axes:
        raise DamagedFileError(f"{path} is truncated: a header of {4 + 4 * axes} bytes expected, {len(header)} found")
    shape = tuple(int(axis) for axis in np.frombuffer(header, dtype=">u4", offset=4))
    count = math.prod(shape)
    if count == 0:
        raise DamagedFileError(f"{path} is empty: its header says {shape_text(shape)}")
    if count > _SIZE_LIMIT:
        raise DamagedFileError(f"{path} claims {count} bytes of data, the limit is {_SIZE_LIMIT}")
    return np.frombuffer(_read_exactly(path, file, count), dtype=np.uint8).reshape(shape)


def _read_exactly(path: Path, file: gzip.GzipFile | BufferedReader | BytesIO, count: int) -> bytearray:
    """Read to the end, which must come after `count` bytes; memory grows with what is there, not with the claim."""
    content, cut = bytearray(), False
    try:
        # read1, because read would lose what precedes the place where a gzip stream is cut.
        while len(content) <= count and (chunk := file.read1(min(_CHUNK, count + 1 - len(content)))):
            content += chunk
    except EOFError:  # a gzip stream that stops before its end
        cut = True
    if len(content) < count:
        raise DamagedFileError(f"{path} is truncated: {count} bytes of data expected, {len(content)} found")
    if len(content) > count:
        raise DamagedFileError(f"{path} is damaged: {count} bytes of data expected, more found")
    if cut:
        raise DamagedFileError(f"{path} is truncated: the end of its gzip stream is missing; fetch it again")
    return content
