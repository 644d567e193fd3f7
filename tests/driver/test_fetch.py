"""Fetching from servers of this machine: mirrors in order, what is there already, broken and wrong transfers."""

import errno
import hashlib
import http.client
import io
import ssl
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from netc_runtime.data import fetch as module
from netc_runtime.data import missing_data
from netc_runtime.data.fetch import fetch
from netc_runtime.data.folders import fetched_folder
from netc_runtime.data.remotes import FETCHED, Fetched, Remote
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode

CONTENT = bytes(range(256)) * 40
REMOTE = Remote("numbers.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class Server:
    """A mirror whose files and faults a test sets; it records what it is asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {REMOTE.name: CONTENT}
        self.asked: list[str | None] = []
        self.cut: int | None = None
        """Bytes of a body after which the connection ends."""
        self.ranges = True
        self.lengths = True
        """Whether it says how long a body is."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.headers.get("Range"))
                content = outer.files.get(self.path.rpartition("/")[2])
                if content is None:
                    self.send_error(404)
                    return
                start = 0
                if outer.ranges and (wanted := self.headers.get("Range")):
                    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                else:
                    self.send_response(200)
                body = content[start:]
                if outer.lengths:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body if outer.cut is None else body[: outer.cut])

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[[], Server]]:
    servers: list[Server] = []

    def start() -> Server:
        servers.append(Server())
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_mirrors_are_tried_in_order_and_what_is_there_is_kept(tmp_path: Path, serve: Callable[[], Server]) -> None:
    empty, full, other = serve(), serve(), serve()
    empty.files = {}
    told: list[tuple[str, int, int]] = []
    wanted = Fetched((full.url, other.url), (REMOTE,))
    (path,) = fetch("numbers", wanted, tmp_path / "new", [empty.url], lambda *one: told.append(one))
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == [REMOTE.name]
    assert (empty.asked, full.asked, other.asked) == ([None], [None], [])
    assert told[-1] == (REMOTE.name, len(CONTENT), len(CONTENT))
    assert fetch("numbers", wanted, tmp_path / "new") == [path]
    assert full.asked == [None]
    path.write_bytes(CONTENT[:-1] + b"x")  # of the right size, and damaged
    assert fetch("numbers", wanted, tmp_path / "new")[0].read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_transfer_is_continued(tmp_path: Path, serve: Callable[[], Server], ranges: bool) -> None:
    server = serve()
    server.cut, server.ranges = 1000, ranges
    wanted = Fetched((server.url,), (REMOTE,))
    with pytest.raises(
        DriverError, match=f"{server.url} breaks off after 1000 of 10240 bytes; check the connection and"
    ):
        fetch("numbers", wanted, tmp_path)
    assert names(tmp_path) == [".numbers.bin.part"]
    server.cut = None
    (path,) = fetch("numbers", wanted, tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-"]
    assert names(tmp_path) == [REMOTE.name]


def test_another_file_under_the_name_is_never_used(tmp_path: Path, serve: Callable[[], Server]) -> None:
    wrong, long, short, right = (serve() for _ in range(4))
    wrong.files = {REMOTE.name: CONTENT[:-1] + b"x"}
    long.files = {REMOTE.name: CONTENT + bytes(5000)}
    long.lengths = False
    short.files = {REMOTE.name: b"<html>please log in</html>"}
    with pytest.raises(DriverError) as caught:
        fetch("numbers", Fetched((wrong.url, long.url, short.url), (REMOTE,)), tmp_path)
    assert str(caught.value) == (
        f"cannot fetch numbers.bin of numbers: {wrong.url} has another file under this name: its SHA-256 is wrong; "
        f"{long.url} has another file under this name: it is larger than 10240 bytes; {short.url} has another file "
        f"under this name: it has 26 bytes, not 10240; check the connection and run the command again, or put the file "
        f"into {tmp_path}"
    )
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert names(tmp_path) == []
    # What an honest mirror began, a dishonest one cannot spoil for the next.
    (tmp_path / ".numbers.bin.part").write_bytes(b"x" * 20000)
    assert fetch("numbers", Fetched((wrong.url, right.url), (REMOTE,)), tmp_path)[0].read_bytes() == CONTENT


@pytest.mark.parametrize("lengths", [True, False])
def test_a_wrong_beginning_is_not_blamed_on_the_next_mirror(
    tmp_path: Path, serve: Callable[[], Server], lengths: bool
) -> None:
    wrong, right = serve(), serve()
    wrong.files, wrong.lengths = {REMOTE.name: b"<html>please log in</html>"}, lengths
    assert fetch("numbers", Fetched((wrong.url, right.url), (REMOTE,)), tmp_path)[0].read_bytes() == CONTENT
    assert right.asked == ([None] if lengths else ["bytes=26-", None])
    (tmp_path / REMOTE.name).rename(tmp_path / ".numbers.bin.part")
    (tmp_path / ".numbers.bin.part").write_bytes(bytes(len(CONTENT)))
    assert fetch("numbers", Fetched((right.url,), (REMOTE,)), tmp_path)[0].read_bytes() == CONTENT


@pytest.mark.parametrize(
    "fault", [ssl.SSLError(1, "bad record mac"), OSError(errno.EHOSTUNREACH, "No route to host"), TimeoutError()]
)
def test_a_fault_of_the_network_is_none_of_the_disk(
    tmp_path: Path, serve: Callable[[], Server], monkeypatch: pytest.MonkeyPatch, fault: OSError
) -> None:
    server, real = serve(), http.client.HTTPResponse.read
    faults = [fault]

    def read(self: http.client.HTTPResponse, amt: int | None = None) -> bytes:
        if faults:
            raise faults.pop()
        return real(self, amt)

    monkeypatch.setattr(http.client.HTTPResponse, "read", read)
    assert fetch("numbers", Fetched((server.url, server.url), (REMOTE,)), tmp_path)[0].read_bytes() == CONTENT
    assert server.asked == [None, None]
    faults.append(fault)
    (tmp_path / REMOTE.name).unlink()
    with pytest.raises(DriverError, match=f"{server.url} breaks off \\("):
        fetch("numbers", Fetched((server.url,), (REMOTE,)), tmp_path)
    # A fault of the disk would be that of every mirror.
    (tmp_path / ".numbers.bin.part").unlink()
    (tmp_path / ".numbers.bin.part").mkdir()
    server.asked.clear()
    with pytest.raises(DriverError, match=r"cannot write .*it is a folder"):
        fetch("numbers", Fetched((server.url, server.url), (REMOTE,)), tmp_path)
    assert len(server.asked) == 1


def test_offline_is_one_sentence(tmp_path: Path, serve: Callable[[], Server]) -> None:
    server = serve()
    server.close()
    with pytest.raises(DriverError) as caught:
        fetch("numbers", Fetched((server.url,), (REMOTE,)), tmp_path)
    begin, end = str(caught.value).split("does not answer")
    assert begin == f"cannot fetch numbers.bin of numbers: {server.url} "
    assert end.endswith(f"; check the connection and run the command again, or put the file into {tmp_path}")
    assert caught.value.exit_code == ExitCode.ENVIRONMENT


def archive(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as opened:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            opened.addfile(info, io.BytesIO(body))
    return content.getvalue()


def packed(server: Server, members: dict[str, bytes]) -> Fetched:
    content = archive(members)
    server.files = {"all.tar.gz": content}
    remote = Remote("all.tar.gz", len(content), hashlib.sha256(content).hexdigest())
    return Fetched((server.url,), (remote,), ("folder/train.bin", "folder/test.bin"))


def test_only_the_wanted_files_leave_an_archive(tmp_path: Path, serve: Callable[[], Server]) -> None:
    server = serve()
    wanted = packed(server, {"folder/train.bin": b"1", "folder/test.bin": b"2", "../evil": b"3", "folder/more": b"4"})
    paths = fetch("all", wanted, tmp_path / "in")
    assert [path.read_bytes() for path in paths] == [b"1", b"2"]
    assert names(tmp_path / "in") == ["test.bin", "train.bin"]
    assert names(tmp_path) == ["in"]
    assert fetch("all", wanted, tmp_path / "in") == paths
    assert len(server.asked) == 1
    with pytest.raises(DamagedFileError, match=r"all.tar.gz is no archive with folder/train.bin, folder/test.bin: "):
        fetch("all", packed(server, {"folder/train.bin": b"1"}), tmp_path / "other")


def test_what_is_fetched_is_found_without_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetched_folder("mnist") == tmp_path / "netc" / "data" / "mnist"
    assert len(missing_data({"source": "mnist"})) == 1
    fetched_folder("mnist").mkdir(parents=True)
    for remote in FETCHED["mnist"].files:
        (fetched_folder("mnist") / remote.name).write_bytes(b"")
    assert missing_data({"source": "mnist"}) == []
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the XDG specification ignores
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert fetched_folder("mnist") == tmp_path / "home" / ".cache" / "netc" / "data" / "mnist"


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_digests_are_those_of_the_original_files(name: str) -> None:
    folder = Path(__file__).parents[3] / "shared" / "data" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: the original files of {name} are not part of the repository")
    for remote in FETCHED[name].files:
        content = (folder / remote.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (remote.size, remote.digest)


def test_every_mirror_is_secure_and_every_digest_whole() -> None:
    for wanted in FETCHED.values():
        assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in wanted.mirrors)
        for remote in wanted.files:
            assert len(bytes.fromhex(remote.digest)) == 32
    assert module._TIMEOUT < 60
