"""Files that are complete or absent, and the sentences for a storage that refuses."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from netc_runtime.errors import DriverError, ExitCode

_ENVIRONMENT = {
    errno.ENOSPC: "the disk is full; free some space and run the command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the command again",
    errno.EACCES: "permission denied; change the permissions or choose another place",
    errno.EPERM: "permission denied; change the permissions or choose another place",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.ENOENT: "no such file or folder; check the path or choose another place",
}
_USAGE = {
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another place",
    errno.EEXIST: "a part of this path is a file, not a folder; choose another place",
    errno.EISDIR: "it is a folder; name a file",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


@contextmanager
def storage_errors(action: str, path: Path) -> Iterator[None]:
    """Turn an `OSError` into a `DriverError`: exit 3 for the environment's fault, 2 for a wrong path, else 1.

    `action` completes "cannot ... PATH": "write", "read".
    """
    try:
        yield
    except OSError as error:
        # Python knows the number of every OSError raised by the system, but one raised by hand may have none.
        number = error.errno or 0
        code = ExitCode.ENVIRONMENT if number in _ENVIRONMENT else ExitCode.FAILED
        code = ExitCode.USAGE if number in _USAGE else code
        reason = (_ENVIRONMENT | _USAGE).get(number) or error.strerror or str(error)
        raise DriverError(f"cannot {action} {path}: {reason}", code) from error


def read_bounded(path: Path, limit: int) -> bytes:
    """Return the content of a file of at most `limit` bytes.

    Raises DriverError when the file is larger or cannot be read.
    """
    with storage_errors("read", path), path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise DriverError(f"{path} has more than {limit} bytes, which is too large for its kind of file")
    return content


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal; raises DriverError if it cannot be read."""
    with storage_errors("read", path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that `path` never holds a part of it: temporary name, fsync, rename, fsync of the folder.

    Raises DriverError (exit 3 for a full disk or a missing permission); the temporary is then gone and whatever
    `path` held before is untouched.
    """
    temporary = temporary_name(path)
    with storage_errors("write", path):
        try:
            _write_synced(temporary, content)
            os.replace(temporary, path)  # noqa: PTH105  (beside os.write and os.fsync, which pathlib lacks)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


def temporary_name(path: Path) -> Path:
    """Return the name under which the next content of `path` is prepared, in the same folder."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_stale_temporaries(folder: Path) -> None:
    """Remove what a killed process left half written; only safe where no other process writes."""
    with storage_errors("clean", folder):
        for path in folder.glob(".*.tmp"):
            path.unlink()


def sync(path: Path) -> None:
    """Make the content of a file, or the names inside a folder, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_synced(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_spec(path: Path) -> None:
    """Raise DriverError (2) for a spec where what was trained by it is wanted."""
    if path.suffix.lower() in (".yaml", ".yml"):
        raise DriverError(
            f"{path} is a spec; name the run folder that netc train made of it, or an exported model", ExitCode.USAGE
        )
