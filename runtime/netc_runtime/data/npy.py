"""Any data as .npy files, one for each field and split, read from untrusted files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from netc_runtime.arrays import shape_text
from netc_runtime.data.base import Problem, Source, Split, as_folder
from netc_runtime.data.folders import SPLITS, no_path, path_problem, wrong_folder
from netc_runtime.data.options import CLASSES, LIMIT, SPLIT, Option, path_option
from netc_runtime.data.rows import mapped
from netc_runtime.errors import DamagedFileError, DriverError
from netc_runtime.npyfile import map_array

_FOLDER = "the folder with train/FIELD.npy and test/FIELD.npy"


class NPY(Source):
    """A folder with train/FIELD.npy and test/FIELD.npy for every field, such as image and label.

    Each file holds one array of real numbers whose axis 0 counts the samples. Files are mapped into memory, so the data
    may be larger than it. The classes have no names.

    Example: data: {source: npy, path: blobs}
    """

    about: ClassVar[str] = "any arrays: `train/FIELD.npy` and `test/FIELD.npy`, mapped, not read into memory"
    options: ClassVar[tuple[Option, ...]] = (path_option(_FOLDER), SPLIT, CLASSES, LIMIT)

    @classmethod
    def class_names(cls, name: str, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return nothing: arrays do not name classes."""
        return ()

    @classmethod
    def missing(cls, name: str, options: Mapping[str, Any]) -> list[Problem]:
        """Return a sentence if `path` is no folder whose two parts hold the same fields."""
        if wrong := no_path(name, options, _FOLDER) or wrong_folder(as_folder(options["path"])):
            return wrong
        folder = as_folder(options["path"])
        fields = {split: set(_files(folder, split)) for split in SPLITS}
        for split in SPLITS:
            if not fields[split]:
                return path_problem(f"{folder / split} holds no FIELD.npy, such as {folder / split / 'image.npy'}")
        for split, other in (SPLITS, SPLITS[::-1]):
            missing = sorted(fields[other] - fields[split])
            if missing:
                return path_problem(
                    f"{folder / split} lacks {missing[0]}.npy, which {folder / other} has: both parts need the same "
                    f"fields"
                )
        return []

    @classmethod
    def open(cls, name: str, options: Mapping[str, Any]) -> Self:
        """Map the files; raises DriverError naming the file."""
        folder = as_folder(options["path"])
        train, test = (_map_split(folder, split) for split in SPLITS)
        return cls(train, test, ())


def _files(folder: Path, split: str) -> dict[str, Path]:
    """Return the files of a split by field; names that begin with a dot are none of the user's."""
    paths = sorted((folder / split).glob("*.npy"))
    return {path.stem: path for path in paths if not path.name.startswith(".") and path.is_file()}


def _map_split(folder: Path, split: str) -> Split:
    arrays = {field: map_array(path) for field, path in _files(folder, split).items()}
    first = next(iter(arrays), None)
    if first is None:
        raise DriverError(f"{folder / split} no longer holds any .npy file")
    for field, array in arrays.items():
        path = folder / split / f"{field}.npy"
        if array.ndim == 0 or array.size == 0:
            raise DamagedFileError(f"{path} holds an array {shape_text(array.shape)}: no sample at all")
        expected, found = array.offset + array.nbytes, path.stat().st_size
        if found != expected:
            raise DamagedFileError(f"{path} is damaged: {expected} bytes expected, {found} found")
        if len(array) != len(arrays[first]):
            raise DriverError(
                f"{folder / split / f'{first}.npy'} holds {len(arrays[first])} samples but {path} holds {len(array)}; "
                f"all fields of a split need the same samples"
            )
    return {field: mapped(array) for field, array in arrays.items()}
