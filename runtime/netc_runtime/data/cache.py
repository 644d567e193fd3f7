"""Arrays made from other files, kept under a key of all that they depend on: complete or absent.

An entry is a folder in `decoded` of the cache, named by the SHA-256 of its key. It holds FIELD.npy files and
`entry.json`, which is written last and says what the files should be: their sizes, and a digest of some blocks of each.
An entry that is not what it says is made anew. That finds files which are cut off or of another entry, but not every
byte that has changed: a large file is not read for it.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netc_runtime.data.base import Samples
from netc_runtime.data.folders import cache_folder
from netc_runtime.data.rows import mapped
from netc_runtime.errors import DriverError
from netc_runtime.files import storage_errors, sync, write_atomically
from netc_runtime.npyfile import map_array

FORMAT = 1  # of entries; another one is another key
_ENTRY = "entry.json"
_ENTRY_LIMIT = 64 << 20
_BLOCKS, _BLOCK = 64, 4096  # what is read of a file to know it again
_ABANDONED = 24 * 3600.0  # seconds without a byte
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # what the system says of a link without a file at its end


@dataclass(frozen=True)
class Entry:
    """What an entry holds: mapped arrays by field, and what their maker noted beside them."""

    arrays: Mapping[str, Samples]
    notes: Mapping[str, Any] = field(default_factory=dict)


def cached(key: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]) -> Entry:
    """Return the arrays that `make` writes as FIELD.npy into a folder; it returns notes, which are JSON.

    It is called only where no sound entry has the key. Raises DriverError: 3 if the cache cannot be written, and
    whatever `make` raises, after which nothing is left.
    """
    text = json.dumps({"format": FORMAT, **key}, sort_keys=True)
    parent = cache_folder() / "decoded"
    folder = parent / hashlib.sha256(text.encode()).hexdigest()
    if (found := _read(folder)) is not None:
        return found
    with storage_errors("create", parent):
        parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(parent)
    temporary = parent / f".{folder.name[:16]}.{_host()}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    with storage_errors("write", temporary):
        temporary.mkdir()
        try:
            notes = make(temporary)
            files = {path.name: _known_by(path) for path in sorted(temporary.glob("*.npy"))}
            write_atomically(temporary / _ENTRY, json.dumps({"files": files, "notes": notes}).encode())
            _place(temporary, folder)
            sync(parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    made = _read(folder) or _read(folder)  # another process may just be replacing it
    if made is None:
        raise DriverError(f"{folder} was written, but does not read the same; check the storage of the cache")
    return made


def _place(temporary: Path, folder: Path) -> None:
    """Give a complete entry its name, unless another process was quicker."""
    with suppress(OSError):  # as there is an entry
        temporary.rename(folder)
    if _read(folder) is None:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            temporary.rename(folder)


def stamps(paths: Iterable[Path], within: Path) -> list[tuple[str, int, int]]:
    """Return by what files are known to have changed: names relative to `within`, sizes, and times in nanoseconds.

    Of a link that leads nowhere they are its own.
    """
    found = []
    for path in paths:
        with storage_errors("read", path):
            try:
                status = path.stat()
            except OSError as error:
                if error.errno not in _NOWHERE:
                    raise
                status = path.lstat()
        found.append((os.path.relpath(path, within), status.st_size, status.st_mtime_ns))
    return found


def _read(folder: Path) -> Entry | None:
    """Return a sound entry, or None."""
    path = folder / _ENTRY
    try:
        if path.stat().st_size > _ENTRY_LIMIT:
            return None
        entry = json.loads(path.read_bytes())
        files = {folder / name: known for name, known in entry["files"].items()}
        if any(path.parent != folder or _known_by(path) != known for path, known in files.items()):
            return None
        return Entry({path.stem: mapped(map_array(path)) for path in files}, dict(entry["notes"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, DriverError):
        return None


def _known_by(path: Path) -> dict[str, Any]:
    """Return size and a digest of blocks evenly spread over a file: bounded work, however large the file is."""
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        for block in range(_BLOCKS):
            file.seek(max(size - _BLOCK, 0) * block // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
    return {"size": size, "sha256_of_blocks": digest.hexdigest()}


def _remove_abandoned(parent: Path) -> None:
    """Remove what killed processes left half made: those of this machine, and whatever nobody writes any more."""
    for path in parent.glob(".*.tmp"):
        host, pid = (["", "", *path.name.split(".")])[-4:-2]
        dead = host == _host() and pid.isdecimal() and not _runs(int(pid))
        if dead or _idle(path) > _ABANDONED:
            shutil.rmtree(path, ignore_errors=True)


def _idle(folder: Path) -> float:
    """Return for how many seconds nothing in a folder was written, 0 if it is gone."""
    try:
        return time.time() - max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except OSError:
        return 0.0


def _host() -> str:
    """Return a text that differs where the same process number means another process: on machines, in containers."""
    try:
        numbers = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # no Linux
        numbers = ""
    return hashlib.sha256(f"{socket.gethostname()} {numbers}".encode()).hexdigest()[:16]


def _runs(pid: int) -> bool:
    if sys.platform == "win32":  # where asking would end the process
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is somebody else's
        return True
    return True
