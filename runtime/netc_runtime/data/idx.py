"""The IDX format of MNIST and of the sets that copy it, read from untrusted files."""

import gzip
import math
import zlib
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from netc_runtime.arrays import Array, shape_text
from netc_runtime.data.base import Problem, Source, Split
from netc_runtime.data.order import permutation
from netc_runtime.data.packed import find
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.files import storage_errors

_IMAGES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
_LABELS = {"train": "train-labels-idx1-ubyte", "test": "t10k-labels-idx1-ubyte"}
_ENDINGS = ("", ".gz")
_UNSIGNED_BYTE = 0x08
_SIZE_LIMIT = 2 << 30
_CHUNK = 1 << 20

_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


class IDX(Source):
    """A folder with the four IDX files under their original names, plain or gzipped.

    `path` names the folder. Images are [n, H, W] unsigned bytes and become [n, 1, H, W]. `limit` keeps so many training
    samples, always the same ones and evenly drawn from all; the test split stays whole.
    """

    options: ClassVar[frozenset[str]] = frozenset({"path", "limit"})
    value_range: ClassVar[tuple[float, float]] = (0.0, 255.0)

    @classmethod
    def class_names(cls, name: str) -> tuple[str, ...]:
        """Return the ten garments or digits; nothing for `idx`, whose labels decide."""
        return {"mnist": tuple(map(str, range(10))), "fashion_mnist": _FASHION}.get(name, ())

    @classmethod
    def check(cls, name: str, options: Mapping[str, Any]) -> list[Problem]:
        """Return a sentence if `path` is no text, and one if `limit` is no number of samples."""
        path, limit = options.get("path"), options.get("limit")
        problems: list[Problem] = []
        if path is not None and not isinstance(path, str):
            problems.append((("path",), f"path should be the folder with the four IDX files, as a text, not {path!r}"))
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
            problems.append(
                (("limit",), f"limit should be how many training samples to keep, 1 or more, not {limit!r}")
            )
        return problems

    @classmethod
    def missing(cls, name: str, options: Mapping[str, Any]) -> list[Problem]:
        """Return a sentence if `path` is no folder with the four files."""
        path = options.get("path")
        if not path:
            return [(("path",), f'the source "{name}" needs `path`: the folder with its four IDX files')]
        folder = Path(path).expanduser()
        if not folder.is_dir():
            return [(("path",), f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}")]
        missing = [file for file in (*_IMAGES.values(), *_LABELS.values()) if find(folder, file, _ENDINGS) is None]
        if missing:
            return [(("path",), f"{folder} lacks {', '.join(missing)} (each plain or with .gz)")]
        return []

    @classmethod
    def open(cls, name: str, options: Mapping[str, Any]) -> Self:
        """Read the four files; raises DamagedFileError naming the file, what is expected and what is found."""
        folder = Path(options["path"]).expanduser()
        train, test = (_read_split(folder, part) for part in ("train", "test"))
        if limit := options.get("limit"):
            train = _limited(train, limit, folder)
        count = 1 + int(max(train["label"].max(), test["label"].max()))
        return cls(train, test, cls.class_names(name) or tuple(map(str, range(count))))


def _limited(split: Split, limit: int, folder: Path) -> Split:
    count = len(split["label"])
    if limit > count:
        raise DriverError(
            f"data.limit: {folder} has {count} training samples, fewer than the limit {limit}; lower or remove it",
            ExitCode.USAGE,
        )
    kept = permutation(0, 0, count)[:limit]
    return {name: array[kept] for name, array in split.items()}


def _read_split(folder: Path, part: str) -> Split:
    images_path, labels_path = _existing(folder, _IMAGES[part]), _existing(folder, _LABELS[part])
    images, labels = _read_idx(images_path, axes=3), _read_idx(labels_path, axes=1)
    if len(images) != len(labels):
        raise DamagedFileError(
            f"{images_path} holds {len(images)} images but {labels_path} holds {len(labels)} labels; "
            f"they must be of one set"
        )
    return {"image": images[:, np.newaxis], "label": labels}


def _existing(folder: Path, file: str) -> Path:
    path = find(folder, file, _ENDINGS)
    if path is None:
        raise DriverError(f"{folder} no longer has {file} or {file}.gz")
    return path


def _read_idx(path: Path, axes: int) -> Array:
    with storage_errors("read", path):
        try:
            if path.suffix == ".gz":
                with gzip.open(path, "rb") as zipped:
                    return _parse_idx(path, zipped, axes)
            with path.open("rb") as plain:
                return _parse_idx(path, plain, axes)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DamagedFileError(f"{path} is damaged: {error}; fetch it again") from error


def _parse_idx(path: Path, file: gzip.GzipFile | BufferedReader, axes: int) -> Array:
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


def _read_exactly(path: Path, file: gzip.GzipFile | BufferedReader, count: int) -> bytearray:
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
