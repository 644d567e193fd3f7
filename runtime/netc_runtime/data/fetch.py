"""Fetching the files of well-known data sets: mirrors in order, resumed where a connection broke, proved by SHA-256."""

import http.client
import os
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.files import digest_of, storage_errors, sync

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told a file's name, how many bytes of it are there, and how many it has."""


@dataclass(frozen=True)
class Remote:
    """A file of a mirror: its name, its size in bytes and its SHA-256."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Fetched:
    """Where a data set can be fetched; `members` are the files to take out of it where it is an archive."""

    mirrors: tuple[str, ...]
    files: tuple[Remote, ...]
    members: tuple[str, ...] = ()


# The digests of MNIST and Fashion-MNIST are those of files whose MD5 their authors or mirrors publish; those of CIFAR
# stand in the checksums of TensorFlow Datasets. A file that has another digest is never used.
FETCHED: Mapping[str, Fetched] = {
    "mnist": Fetched(
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
        (
            Remote(
                "train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            Remote(
                "train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            Remote(
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            Remote(
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
    ),
    "fashion_mnist": Fetched(
        (
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        ),
        (
            Remote(
                "train-images-idx3-ubyte.gz",
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            Remote(
                "train-labels-idx1-ubyte.gz",
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            Remote(
                "t10k-images-idx3-ubyte.gz",
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            Remote(
                "t10k-labels-idx1-ubyte.gz",
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
    ),
    "cifar10": Fetched(
        ("https://www.cs.toronto.edu/~kriz/",),
        (
            Remote(
                "cifar-10-binary.tar.gz",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
        (
            *(f"cifar-10-batches-bin/data_batch_{part}.bin" for part in range(1, 6)),
            "cifar-10-batches-bin/test_batch.bin",
        ),
    ),
    "cifar100": Fetched(
        ("https://www.cs.toronto.edu/~kriz/",),
        (
            Remote(
                "cifar-100-binary.tar.gz",
                168_513_733,
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
        ),
        ("cifar-100-binary/train.bin", "cifar-100-binary/test.bin"),
    ),
}


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
        with storage_errors("write", part):
            try:
                _download(f"{mirror}{remote.name}", remote, part, progress)
            except _UnusableError as error:
                reasons.append(f"{mirror} {error}")
                continue
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
    """Continue or begin `part`, and prove it; raises _UnusableError."""
    have = part.stat().st_size if part.exists() else 0
    if have > remote.size:
        have = 0
    if have < remote.size:
        try:
            _transfer(url, remote, part, have, progress)
        except urllib.error.HTTPError as error:
            raise _UnusableError(f"says {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            raise _UnusableError(f"does not answer ({error.reason})") from error
        except (http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
            raise _UnusableError(f"breaks off ({error or type(error).__name__})") from error
    size = part.stat().st_size
    if size < remote.size:
        raise _UnusableError(f"breaks off after {size} of {remote.size} bytes")
    if digest_of(part) != remote.digest:
        part.unlink()
        raise _UnusableError("has another file under this name: its SHA-256 is wrong")


def _transfer(url: str, remote: Remote, part: Path, have: int, progress: Progress) -> None:
    request = urllib.request.Request(
        url, headers={"User-Agent": "netc", **({"Range": f"bytes={have}-"} if have else {})}
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        if answer.status != http.client.PARTIAL_CONTENT:
            have = 0
        elif not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {have}-"):
            raise _UnusableError("sends another part of the file than it was asked for")
        with part.open("r+b" if have else "wb") as file:
            file.seek(have)
            file.truncate()
            # One byte too many is enough to know that this is another file.
            while have <= remote.size and (chunk := answer.read(min(_CHUNK, remote.size + 1 - have))):
                file.write(chunk)
                have += len(chunk)
                progress(remote.name, min(have, remote.size), remote.size)
    if have > remote.size:
        part.unlink()
        raise _UnusableError(f"has another file under this name: it is larger than {remote.size} bytes")


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
