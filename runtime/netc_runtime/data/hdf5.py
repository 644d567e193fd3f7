"""Arrays of an HDF5 file, read as they are asked for."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from netc_runtime.arrays import Array
from netc_runtime.data.base import Samples, Split, as_folder
from netc_runtime.data.extras import require
from netc_runtime.data.file_source import FileSource
from netc_runtime.data.folders import single_parts
from netc_runtime.data.mapped import KEPT, Indices
from netc_runtime.data.named_arrays import read_splits, real
from netc_runtime.data.options import CLASSES, FIELDS, LIMIT, SPLIT, Option, path_option
from netc_runtime.data.rows import Rows, mapped
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode

_MOST_NAMES = 10_000
_DEPTH = 8  # of groups in groups; no honest file has more
# What h5py raises for files that are damaged, and for links that lead nowhere.
_ERRORS = (OSError, KeyError, ValueError, RuntimeError, TypeError)


class HDF5(FileSource):
    """One HDF5 file of data sets of real numbers whose axis 0 counts the samples, also in groups, up to 8 deep.

    Their names say field and split as those of `npz` do; `data` and `label` of Caffe's HDF5Data are known. A data set
    that is stored in one piece is mapped into memory; of a large one in chunks, the samples of a batch are read when
    they are needed. Data in other files, which a link can name, are refused.

    Example: data: {source: hdf5, path: digits.h5, split: {test: 0.2, seed: 1}}
    """

    about: ClassVar[str] = "data sets of an HDF5 file, read as they are needed"
    file: ClassVar[str] = "the .h5 file, or a folder with train.h5 and test.h5"
    endings: ClassVar[tuple[str, ...]] = (".h5", ".hdf5", ".hdf")
    options: ClassVar[tuple[Option, ...]] = (path_option(file), FIELDS, SPLIT, CLASSES, LIMIT)
    extra: ClassVar[str | None] = "hdf5"

    @classmethod
    def open(cls, name: str, options: Mapping[str, Any]) -> Self:
        """Open the data sets; raises DriverError: 3 without h5py, 2 for wrong `fields`, 1 for what is in the file."""
        h5py = require("h5py", "hdf5", "reading HDF5 files")
        splits: dict[str, Split] = {}
        for part, path in single_parts(as_folder(options["path"]), cls.endings).items():
            for split, arrays in _read(h5py, path, options.get("fields", {})).items():
                splits[part if split == "train" else split] = arrays
        return cls(splits["train"], splits.get("test", {}), ())


def _read(h5py: Any, path: Path, fields: Mapping[str, str]) -> Mapping[str, Split]:
    with _reading(path), ExitStack() as opened:
        file = opened.enter_context(h5py.File(path, "r"))
        found = read_splits(
            path, _names(h5py, path, file), fields, KEPT, lambda name, room: _samples(path, file[name], name, room)
        )
        opened.pop_all()  # samples may be read as long as there is somebody who has them
        return found


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what h5py raises into a sentence."""
    try:
        yield
    except MemoryError as error:
        raise DriverError(f"{path} takes more memory than there is: {error}", ExitCode.ENVIRONMENT) from error
    except _ERRORS as error:
        raise DamagedFileError(f"{path} is not a sound HDF5 file: {error}") from error


def _names(h5py: Any, path: Path, file: Any) -> list[str]:
    """Return the paths of all data sets; links are followed only within the file, and into each group once."""
    found: list[str] = []
    groups, visited, seen = [("", file)], set(), 0
    for before, group in groups:  # which grows; the first path to a group is its shortest one
        address = h5py.h5o.get_info(group.id).addr
        if address in visited:  # hard links can make circles
            continue
        if before.count("/") > _DEPTH:
            raise DriverError(
                f"{path} has the group {before} in {_DEPTH} others, the limit; move what is to be read further out"
            )
        visited.add(address)
        for name in group:
            seen += 1
            if seen > _MOST_NAMES:
                raise DamagedFileError(f"{path} has more than {_MOST_NAMES} groups and data sets")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise DriverError(f"{path} has a link at {before}{name}; only data in the file itself are read")
            item = group[name]
            if isinstance(item, h5py.Dataset):
                found.append(f"{before}{name}")
            elif isinstance(item, h5py.Group):
                groups.append((f"{before}{name}/", item))
    return found


def _samples(path: Path, dataset: Any, name: str, room: int) -> Samples:
    """Return a data set: mapped, or read now if it takes at most `room` bytes, or else whenever a batch needs it."""
    real(path, name, dataset.dtype)
    if dataset.external or dataset.is_virtual:
        raise DriverError(f"{path} keeps {name} in other files; only data in the file itself are read")
    if not dataset.shape or 0 in dataset.shape:
        return np.empty(dataset.shape or (), dataset.dtype)
    offset = dataset.id.get_offset()
    if offset is not None and dataset.chunks is None:
        if offset + dataset.size * dataset.dtype.itemsize > path.stat().st_size:
            raise DamagedFileError(f"{path} is truncated: {name} should end beyond its {path.stat().st_size} bytes")
        return mapped(np.memmap(path, dataset.dtype, "r", offset, dataset.shape))

    if dataset.nbytes <= room:
        everything: Array = dataset[...]
        return everything

    def read(indices: Indices) -> Array:
        # h5py takes increasing indices without repetition, and whole ranges much faster.
        wanted, back = np.unique(indices, return_inverse=True)
        if not len(wanted):
            return np.empty((0, *dataset.shape[1:]), dataset.dtype)
        with _reading(path):
            if wanted[-1] - wanted[0] == len(wanted) - 1:
                values: Array = dataset[int(wanted[0]) : int(wanted[-1]) + 1]
            else:
                values = dataset[wanted]
        return values[back]

    return Rows(read, tuple(dataset.shape), dataset.dtype)
