"""Arrays of one .npz file, mapped where they are stored as they are; read from untrusted files."""

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from netc_runtime.arrays import Array
from netc_runtime.data.base import Samples, Split, as_folder
from netc_runtime.data.file_source import FileSource
from netc_runtime.data.folders import single_parts
from netc_runtime.data.named_arrays import read_splits, real
from netc_runtime.data.options import CLASSES, FIELDS, LIMIT, SPLIT, Option, path_option
from netc_runtime.data.rows import mapped
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.files import storage_errors
from netc_runtime.npyfile import HEADER_ERRORS

_UNPACKED_LIMIT = 4 << 30
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip file: signature, length of the name, length of the extra field


class NPZ(FileSource):
    """One .npz file, as numpy.savez writes it: arrays of real numbers whose axis 0 counts the samples.

    Their names say field and split, as `x_train` of Keras, `train_image` or `test/label` do; without `train` or `test`
    the file is one set. Arrays are mapped into memory, so the data may be larger than it; those of
    numpy.savez_compressed are read into memory.

    Example: data: {source: npz, path: mnist.npz, fields: {image: x, label: y}}
    """

    about: ClassVar[str] = "arrays of an .npz file, mapped, not read into memory"
    file: ClassVar[str] = "the .npz file, or a folder with train.npz and test.npz"
    endings: ClassVar[tuple[str, ...]] = (".npz",)
    options: ClassVar[tuple[Option, ...]] = (path_option(file), FIELDS, SPLIT, CLASSES, LIMIT)

    @classmethod
    def open(cls, name: str, options: Mapping[str, Any]) -> Self:
        """Map the arrays; raises DriverError naming the file: 2 for wrong `fields`, 1 for what is in it."""
        splits: dict[str, Split] = {}
        for part, path in single_parts(as_folder(options["path"]), cls.endings).items():
            for split, arrays in _read(path, options.get("fields", {})).items():
                splits[part if split == "train" else split] = arrays
        return cls(splits["train"], splits.get("test", {}), ())


def _read(path: Path, fields: Mapping[str, str]) -> Mapping[str, Split]:
    with storage_errors("read", path), path.open("rb") as file:
        names = _members(path)

        def read(name: str, room: int) -> Samples:
            return _array(path, file, name, names[name], room)

        return read_splits(path, names, fields, _UNPACKED_LIMIT, read)


def _members(path: Path) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {info.filename.removesuffix(".npy"): info for info in archive.infolist() if not info.is_dir()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, EOFError) as error:
        raise DamagedFileError(f"{path} is not an .npz file: {error}") from error


def _array(path: Path, file: io.BufferedReader, name: str, info: zipfile.ZipInfo, room: int) -> Samples:
    """Return one array: mapped if its bytes stand in the file as they are, else read if it takes at most `room`."""
    try:
        with np.errstate(all="raise"):
            if info.compress_type != zipfile.ZIP_STORED:
                return _unpacked(path, name, info, room)
            return _in_place(path, file, name, info)
    except MemoryError as error:
        raise DriverError(
            f"{path} has {name}, which takes more memory than there is; store it with numpy.savez, which is mapped",
            ExitCode.ENVIRONMENT,
        ) from error
    except (*HEADER_ERRORS, zipfile.BadZipFile, NotImplementedError, zlib.error, struct.error) as error:
        raise DamagedFileError(f"{path} has {name}, which is not an array that numpy can read: {error}") from error


def _in_place(path: Path, file: io.BufferedReader, name: str, info: zipfile.ZipInfo) -> Samples:
    file.seek(info.header_offset)
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise zipfile.BadZipFile("its entry does not begin where the list of the file says")
    begin = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    file.seek(begin)
    shape, fortran, dtype = _header(path, name, file)
    size = math.prod(shape) * dtype.itemsize
    if file.tell() + size != begin + info.file_size:
        raise ValueError(f"{size} bytes of data expected, {begin + info.file_size - file.tell()} found")
    if size == 0 or not shape:
        return np.empty(shape, dtype)
    array = np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")
    return mapped(array)


def _unpacked(path: Path, name: str, info: zipfile.ZipInfo, room: int) -> Array:
    with zipfile.ZipFile(path) as archive, archive.open(info) as stream:
        shape, fortran, dtype = _header(path, name, stream)
        size = math.prod(shape) * dtype.itemsize
        if size > room:
            raise ValueError(
                f"it takes {size} bytes unpacked, of {_UNPACKED_LIMIT} for all arrays of a file {room} are left; store "
                f"it with numpy.savez, which is mapped"
            )
        content = stream.read(size)
        if len(content) < size or stream.read(1):
            raise ValueError(f"{size} bytes of data expected, {'more' if len(content) == size else len(content)} found")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _header(path: Path, name: str, stream: Any) -> tuple[tuple[int, ...], bool, "np.dtype[Any]"]:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its format has the unknown version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    real(path, name, dtype)
    if any(axis < 0 for axis in shape):
        raise ValueError(f"its shape is {shape}")
    return shape, fortran, dtype
