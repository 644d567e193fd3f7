"""Untrusted files that may be compressed: plain, .gz or .xz, told apart by their names."""

import gzip
import lzma
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from netc_runtime.data.base import Problem
from netc_runtime.data.folders import path_problem, source_folder, wrong_folder
from netc_runtime.data.remotes import FETCHED
from netc_runtime.errors import DamagedFileError
from netc_runtime.files import storage_errors

_ENDINGS = ("", ".gz", ".xz")
_CHUNK = 1 << 20
_XZ_MEMORY = 256 << 20  # the largest preset of xz needs 65 MiB; a header can ask for 4 GiB


def find(folder: Path, file: str) -> Path | None:
    """Return `file` or the first packing of it that exists, or None."""
    return next((path for path in (folder / f"{file}{ending}" for ending in _ENDINGS) if path.is_file()), None)


def missing_files(
    name: str, options: Mapping[str, Any], about: str, required: Sequence[str], any_of: Sequence[str] = ()
) -> list[Problem]:
    """Return what is not there of the files that a source reads, all of `required` and one of `any_of`.

    They lie in the folder `path`, whose meaning `about` says, or in that of `netc data fetch`.
    """
    folder = source_folder(name, options)
    if not options.get("path") and not folder.is_dir():
        fetch = f"; or fetch them with: netc data fetch {name}" if name in FETCHED else ""
        return path_problem(f'the source "{name}" needs `path`: {about}{fetch}')
    if wrong := wrong_folder(folder):
        return wrong
    missing = [file for file in required if find(folder, file) is None]
    if any_of and not any(find(folder, file) for file in any_of):
        missing.insert(0, f"{any_of[0]} to {any_of[-1]}, of which one is enough")
    if missing:
        return path_problem(f"{folder} lacks {', '.join(missing)} (each plain, with .gz or with .xz)")
    return []


def read_packed(path: Path, limit: int) -> bytes:
    """Return the unpacked content, of at most `limit` bytes; memory grows with what is there, not with any claim.

    Raises DamagedFileError for a stream that is cut or no stream of its kind, and for more content than `limit`.
    """
    with storage_errors("read", path), path.open("rb") as file:
        try:
            match path.suffix:
                case ".gz":
                    with gzip.GzipFile(fileobj=file) as unzipped:
                        content = unzipped.read(limit + 1)
                case ".xz":
                    content = _unpack_xz(file, limit + 1)
                case _:
                    content = file.read(limit + 1)
        except EOFError as error:
            raise DamagedFileError(f"{path} is truncated: the end of its stream is missing; fetch it again") from error
        except (gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
            raise DamagedFileError(f"{path} is damaged: {error}; fetch it again") from error
    if len(content) > limit:
        raise DamagedFileError(f"{path} has more than {limit} bytes of data, which is too large for its kind of file")
    return content


def _unpack_xz(file: IO[bytes], most: int) -> bytes:
    """Return the content of all streams, or its first `most` bytes; lzma.open knows no limit of memory."""
    content, waiting = bytearray(), file.read(_CHUNK)
    if not waiting:
        raise EOFError
    while waiting and len(content) < most:
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        while not stream.eof and len(content) < most:
            if stream.needs_input and not waiting:
                raise EOFError
            content += stream.decompress(waiting, most - len(content))
            waiting = file.read(_CHUNK) if stream.needs_input else b""
        waiting = (stream.unused_data or file.read(_CHUNK)).lstrip(b"\0")  # padding may follow a stream
    return bytes(content)
