"""Parquet files as Hugging Face lays them out: a column of encoded images and one of labels, decoded once."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from netc_runtime.data.base import Split, as_folder, numbered
from netc_runtime.data.encoded import Encoded, cached_records
from netc_runtime.data.extras import require
from netc_runtime.data.file_source import FileSource
from netc_runtime.data.folders import parts
from netc_runtime.data.options import CHANNELS, CLASSES, LIMIT, ON_ERROR, SPLIT, Option, mapping_of, path_option
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode

_ROWS = 256  # read at once
_IMAGES = ("image", "img")
_LABELS = ("label", "labels", "fine_label")
_FIELDS = Option(
    "fields",
    mapping_of("image", "label"),
    "which columns are image and label",
    note="Such as `{image: picture, label: species}`; other columns are not read.",
)


class Parquet(FileSource):
    """Parquet files with a column of images, as bytes of PNG or JPEG or as `{bytes, path}`, and one of labels.

    The columns are called `image` or `img`, and `label`, `labels` or `fine_label`, unless `fields` says otherwise.
    Class names are those that Hugging Face notes in the file. Images are decoded once, as those of `image_folder`.

    Example: data: {source: parquet, path: beans/data, resize: [64, 64], on_error: skip}
    """

    about: ClassVar[str] = "Parquet files as Hugging Face lays them out: encoded images and labels, decoded once"
    file: ClassVar[str] = "the .parquet file, or a folder with train-*.parquet and test-*.parquet"
    endings: ClassVar[tuple[str, ...]] = (".parquet",)
    options: ClassVar[tuple[Option, ...]] = (path_option(file), _FIELDS, CHANNELS, ON_ERROR, SPLIT, CLASSES, LIMIT)
    extra: ClassVar[str | None] = "parquet"
    resizes: ClassVar[bool] = True

    @classmethod
    def open(cls, name: str, options: Mapping[str, Any]) -> Self:
        """Decode the images, or map those decoded before; raises DriverError naming the file and the row."""
        splits: dict[str, Split] = {}
        names: tuple[str, ...] = ()
        notes: list[str] = []
        for split, files in parts(as_folder(options["path"]), cls.endings).items():
            columns = _columns(files[0], options.get("fields", {}))
            names = names or columns[2]
            key = {"source": "parquet", "columns": columns[:2]}
            entry, skipped = cached_records(files, partial(_records, files, columns), key, options)
            splits[split], notes = entry, [*notes, *skipped]
        labels = [np.asarray(own["label"][:]) for own in splits.values()]
        source = cls(splits["train"], splits.get("test", {}), names or numbered(np.concatenate(labels)))
        source.left_out(notes)
        return source


def _opened(path: Path) -> Any:
    pyarrow = require("pyarrow", "parquet", "reading Parquet files")
    reader = require("pyarrow.parquet", "parquet", "reading Parquet files")
    try:
        return reader.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DamagedFileError(f"{path} is not a sound Parquet file: {error}") from error


def _columns(path: Path, fields: Mapping[str, str]) -> tuple[str, str, tuple[str, ...]]:
    """Return the names of the two columns, and of the classes if the file has them."""
    schema = _opened(path).schema_arrow
    found = []
    for field, usual in (("image", _IMAGES), ("label", _LABELS)):
        wanted = (fields[field],) if field in fields else usual
        name = next((name for name in wanted if name in schema.names), None)
        if name is None:
            raise DriverError(
                f"{path} has no column {' or '.join(wanted)} for the field {field}; it has: {', '.join(schema.names)}; "
                f"say which in data.fields, such as fields: {{{field}: {schema.names[0] if schema.names else 'x'}}}",
                ExitCode.USAGE,
            )
        found.append(name)
    return found[0], found[1], _class_names(schema.metadata or {}, found[1])


def _class_names(metadata: Mapping[bytes, bytes], label: str) -> tuple[str, ...]:
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _records(files: Sequence[Path], columns: tuple[str, str, tuple[str, ...]]) -> Iterator[Encoded]:
    pyarrow = require("pyarrow", "parquet", "reading Parquet files")
    image, label, _ = columns
    for path in files:
        row = 0
        try:
            for batch in _opened(path).iter_batches(_ROWS, columns=[image, label]):
                images, labels = (batch.column(name).to_pylist() for name in (image, label))
                for content, number in zip(images, labels, strict=True):
                    content = content.get("bytes") if isinstance(content, dict) else content
                    yield Encoded(f"{path}, row {row}", content, number)
                    row += 1
        except (pyarrow.ArrowException, OSError, KeyError) as error:
            raise DamagedFileError(f"{path} is damaged after row {row}: {error}") from error
