"""Untrusted files that may be compressed: plain, .gz or .xz, told apart by their names."""

import gzip
import lzma
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from netc_runtime.errors import DamagedFileError
from netc_runtime.files import storage_errors

_CHUNK = 1 << 20
_XZ_MEMORY = 256 << 20  # the largest preset of xz needs 65 MiB; a header can ask for 4 GiB


def find(folder: Path, file: str, endings: Iterable[str]) -> Path | None:
    """Return the first of `file` + ending that exists, or None."""
    return next((path for path in (folder / f"{file}{ending}" for ending in endings) if path.is_file()), None)


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
