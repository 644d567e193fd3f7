"""Fetching the files of well-known data sets: mirrors in order, resumed where a connection broke, proved by SHA-256."""

import http.client
import os
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeAlias

from netc_runtime.data.remotes import Fetched, Remote
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.files import digest_of, storage_errors, sync

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_ANOTHER = "has another file under this name"

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told a file's name, how many bytes of it are there, and how many it has."""


class _UnusableError(Exception):
    """A mirror that does not give the file; its text says why."""


def fetch(
    name: str,
    wanted: Fetched,
    folder: Path,
    mirrors: Sequence[str] = (),
    progress: Progress = lambda name, done, size: None,
) -> list[Path]:
    """Bring the files of a data set into `folder` and return them; what is there already is not fetched again.

    `mirrors` are tried before the known ones. A part that was fetched before an interruption is kept as `.NAME.part`
    and continued. Raises DriverError: 3 if no mirror gives a file, or the folder cannot be written.
    """
    with storage_errors("create", folder):
        folder.mkdir(parents=True, exist_ok=True)
    places = [place if place.endswith("/") else f"{place}/" for place in (*mirrors, *wanted.mirrors)]
    if wanted.members and all((folder / Path(member).name).is_file() for member in wanted.members):
        return [folder / Path(member).name for member in wanted.members]
    found = [_fetch_file(name, remote, folder, places, progress) for remote in wanted.files]
    if not wanted.members:
        return found
    members = _unpacked(found[0], wanted.members, folder)
    with storage_errors("remove", found[0]):
        found[0].unlink()
    return members


def _fetch_file(name: str, remote: Remote, folder: Path, mirrors: Sequence[str], progress: Progress) -> Path:
    path, part = folder / remote.name, folder / f".{remote.name}.part"
    if path.is_file() and path.stat().st_size == remote.size and digest_of(path) == remote.digest:
        progress(remote.name, remote.size, remote.size)
        return path
    reasons: list[str] = []
    for mirror in mirrors:
        try:
            _download(f"{mirror}{remote.name}", remote, part, progress)
        except _UnusableError as error:
            reasons.append(f"{mirror} {error}")
            continue
        with storage_errors("write", part):
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
            sync(folder)
        return path
    raise DriverError(
        f"cannot fetch {remote.name} of {name}: {'; '.join(reasons)}; check the connection and run the command again, "
        f"or put the file into {folder}",
        ExitCode.ENVIRONMENT,
    )


def _download(url: str, remote: Remote, part: Path, progress: Progress) -> None:
    """Continue or begin `part`, and prove it; raises _UnusableError, and DriverError for the disk."""
    with storage_errors("read", part):
        have = part.stat().st_size if part.exists() else 0
    if have < remote.size:
        _transfer(url, remote, part, have, progress)
    if have and digest_of(part) != remote.digest:  # which may be the fault of whoever sent the beginning
        _transfer(url, remote, part, 0, progress)
    if digest_of(part) != remote.digest:
        _remove(part)
        raise _UnusableError(f"{_ANOTHER}: its SHA-256 is wrong")


def _transfer(url: str, remote: Remote, part: Path, have: int, progress: Progress) -> None:
    """Write all that `part` lacks after its first `have` bytes; raises _UnusableError, and DriverError for the disk."""
    with _connection(), urllib.request.urlopen(_request(url, have), timeout=_TIMEOUT) as answer:
        if answer.status != http.client.PARTIAL_CONTENT:
            have = 0
        elif not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {have}-"):
            raise _UnusableError("sends another part of the file than it was asked for")
        length = answer.headers.get("Content-Length")
        if length is not None and have + int(length) != remote.size:
            raise _UnusableError(f"{_ANOTHER}: it has {have + int(length)} bytes, not {remote.size}")
        with storage_errors("write", part), part.open("r+b" if have else "wb") as file:
            file.seek(have)
            file.truncate()
            # One byte too many is enough to know that this is another file.
            while have <= remote.size and (chunk := _received(answer, min(_CHUNK, remote.size + 1 - have))):
                file.write(chunk)
                have += len(chunk)
                progress(remote.name, min(have, remote.size), remote.size)
    if have < remote.size:
        raise _UnusableError(f"breaks off after {have} of {remote.size} bytes")
    if have > remote.size:
        _remove(part)
        raise _UnusableError(f"{_ANOTHER}: it is larger than {remote.size} bytes")


def _request(url: str, have: int) -> urllib.request.Request:
    return urllib.request.Request(url, headers={"User-Agent": "netc", **({"Range": f"bytes={have}-"} if have else {})})


def _received(answer: IO[bytes], count: int) -> bytes:
    """Read from a connection, whose errors are none of the disk's."""
    with _connection():
        return answer.read(count)


@contextmanager
def _connection() -> Iterator[None]:
    """Turn what connections raise into _UnusableError."""
    try:
        yield
    except urllib.error.HTTPError as error:
        raise _UnusableError(f"says {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _UnusableError(f"does not answer ({error.reason})") from error
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise _UnusableError(f"breaks off ({str(error) or type(error).__name__})") from error


def _remove(part: Path) -> None:
    with storage_errors("remove", part):
        part.unlink()


def _unpacked(archive: Path, members: Sequence[str], folder: Path) -> list[Path]:
    """Take some plain files out of a tar archive, by their whole names; nothing else of it is ever written."""
    paths = []
    try:
        with storage_errors("unpack", archive), tarfile.open(archive, "r:gz") as opened:
            for member in members:
                content = opened.extractfile(member)
                if content is None:
                    raise DamagedFileError(f"{archive} has {member}, but not as a file")
                paths.append(_written(content, folder / Path(member).name))
    except (tarfile.TarError, KeyError, EOFError, zlib.error) as error:
        raise DamagedFileError(f"{archive} is no archive with {', '.join(members)}: {error}; remove it") from error
    return paths


def _written(content: IO[bytes], path: Path) -> Path:
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            while chunk := content.read(_CHUNK):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path
