"""LMDB databases of Caffe's Datum records, read only."""

from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from netc_runtime.arrays import Array, shape_text
from netc_runtime.data.base import Problem, Source, Split, as_folder, numbered
from netc_runtime.data.encoded import Encoded, cached_records
from netc_runtime.data.extras import require
from netc_runtime.data.folders import CALLED, no_path, path_problem
from netc_runtime.data.options import CHANNELS, CLASSES, LIMIT, ON_ERROR, SPLIT, Option, path_option
from netc_runtime.errors import DamagedFileError

_FOLDER = "the folder of the database, or one with train_lmdb and test_lmdb"
_DATA = "data.mdb"
_MOST_VALUES = 1 << 28  # of one image


class LMDB(Source):
    """An LMDB database whose records are Caffe's Datum, in the order of their keys; it is only read, never locked.

    Bytes and floats are taken as they are: Caffe's own tools store blue, green and red in this order. Encoded images
    are decoded to red, green and blue, or grey. All are written once into a cache, as images of `image_folder` are.

    Example: data: {source: lmdb, path: examples/mnist}
    """

    about: ClassVar[str] = "an LMDB database of Caffe's Datum records, read only"
    options: ClassVar[tuple[Option, ...]] = (path_option(_FOLDER), CHANNELS, ON_ERROR, SPLIT, CLASSES, LIMIT)
    extra: ClassVar[str | None] = "lmdb"
    resizes: ClassVar[bool] = True

    @classmethod
    def class_names(cls, name: str, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return nothing: a Datum does not name classes."""
        return ()

    @classmethod
    def missing(cls, name: str, options: Mapping[str, Any]) -> list[Problem]:
        """Return a sentence if there is no database."""
        if wrong := no_path(name, options, _FOLDER):
            return wrong
        folder = as_folder(options["path"])
        return [] if "train" in _databases(folder) else path_problem(f"{folder} is no LMDB database: it lacks {_DATA}")

    @classmethod
    def open(cls, name: str, options: Mapping[str, Any]) -> Self:
        """Read all records, or map those read before; raises DriverError naming the database and the key."""
        splits: dict[str, Split] = {}
        notes: list[str] = []
        for split, file in _databases(as_folder(options["path"])).items():
            key = {"source": "lmdb", "plain": "resized"}  # as it was not in entries that netc made before
            splits[split], skipped = cached_records([file], partial(_records, file), key, options)
            notes += skipped
        labels = [np.asarray(own["label"][:]) for own in splits.values()]
        source = cls(splits["train"], splits.get("test", {}), numbered(np.concatenate(labels)))
        source.left_out(notes)
        return source


def _databases(path: Path) -> dict[str, Path]:
    """Return the data file of each split."""
    if path.is_file():
        return {"train": path}
    if (path / _DATA).is_file():
        return {"train": path / _DATA}
    places = {
        split: [path / f"{name}{ending}" / _DATA for name in names for ending in ("_lmdb", "")]
        for split, names in CALLED.items()
    }
    return {
        split: next(f for f in files if f.is_file()) for split, files in places.items() if any(map(Path.is_file, files))
    }


def _records(file: Path) -> Iterator[Encoded]:
    lmdb = require("lmdb", "lmdb", "reading LMDB databases")
    try:
        with (
            lmdb.open(str(file), subdir=False, readonly=True, lock=False, readahead=False, max_readers=1) as database,
            database.begin(buffers=False) as transaction,
        ):
            for key, value in transaction.cursor():
                yield _record(f"{file}, key {key.decode('ascii', 'backslashreplace')[:100]}", value)
    except lmdb.Error as error:
        raise DamagedFileError(f"{file} is not a sound LMDB database: {error}") from error


def _record(name: str, content: bytes) -> Encoded:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        datum = _datum_class().FromString(content)
    except DecodeError as error:
        raise DamagedFileError(f"{name} is not one of Caffe's Datum records: {error}") from error
    if datum.encoded:
        return Encoded(name, datum.data, datum.label)
    return Encoded(name, _plain(name, datum), datum.label)


def _plain(name: str, datum: Any) -> Array:
    shape = (datum.channels, datum.height, datum.width)
    count = int(np.prod(shape, dtype=np.float64)) if min(shape) > 0 else 0
    values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    if count != len(values) or not 0 < count <= _MOST_VALUES:
        raise DamagedFileError(f"{name} has {len(values)} values, but says that its image is {shape_text(shape)}")
    return values.reshape(shape)


@cache
def _datum_class() -> Any:
    """Return the class of Caffe's message Datum (caffe.proto)."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="netc/datum.proto", package="netc", syntax="proto2")
    message = file.message_type.add(name="Datum")
    fields = {
        "channels": kinds.TYPE_INT32,
        "height": kinds.TYPE_INT32,
        "width": kinds.TYPE_INT32,
        "data": kinds.TYPE_BYTES,
        "label": kinds.TYPE_INT32,
        "float_data": kinds.TYPE_FLOAT,
        "encoded": kinds.TYPE_BOOL,
    }
    for number, (name, kind) in enumerate(fields.items(), 1):
        label = kinds.LABEL_REPEATED if name == "float_data" else kinds.LABEL_OPTIONAL
        message.field.add(name=name, number=number, type=kind, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("netc.Datum"))
