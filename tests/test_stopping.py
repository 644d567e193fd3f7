"""Signals at any moment of a command: one sentence, and the exit code that a shell knows."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from netc.stopping import stoppable
from tests.command_line import in_process

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    """Signals as a process in the foreground has them, however the tests were started."""
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    terminate = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, terminate)


def sentence(number: signal.Signals) -> str:
    return f"error: stopped by {number.name} before the command was done; run it again"


def signalled(number: signal.Signals, then: Callable[[], Any] = lambda: None) -> Callable[..., Any]:
    def send(*arguments: object, **options: object) -> None:
        os.kill(os.getpid(), number)
        then()

    return send


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize(
    ("place", "command"),
    [
        ("netc.arguments.read_spec", ["check", "mlp"]),
        ("netc.build.build", ["train", "mlp"]),
        ("netc_runtime.engines.require_engine", ["train", "mlp"]),
        ("netc_runtime.data.describe.describe", ["data", "show", "digits"]),
    ],
)
def test_a_signal_ends_a_command_with_a_sentence(
    number: signal.Signals,
    code: int,
    place: str,
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = {each: signal.getsignal(each) for each, _ in SIGNALS}
    monkeypatch.setattr(place, signalled(number, lambda: pytest.fail("it went on")))
    result = in_process(monkeypatch, capsys)(*command)
    assert (result.code, result.out, result.errors) == (code, "", [sentence(number)])
    assert {each: signal.getsignal(each) for each, _ in SIGNALS} == before
    left = [path.name for path in tmp_path.iterdir()]
    assert [name for name in left if not name.startswith(".")] == []  # ONNX Runtime's own, where temporary files are


def test_a_signal_after_training_names_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("netc_runtime.export.export_run", signalled(signal.SIGINT))
        result = in_process(patch, capsys)("train", "mlp", "--run", "run", "--set", "solver.max_epochs=1")
    said = "error: stopped by SIGINT before the command was done; training is; export the model with: netc export run"
    assert (result.code, result.errors) == (130, [said])
    assert in_process(monkeypatch, capsys)("export", "run").code == 0


AT_IMPORT = """\
import os, sys
class AtImport:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, AtImport())
from netc.__main__ import main
sys.argv = ["netc", "check", "mlp"]
main()
"""


def ended(program: str) -> tuple[int, str, list[str]]:
    """Run a program in another process; return its exit code and what it wrote."""
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr.splitlines()


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("module", ["typer", "netc.commands.tuning", "onnx_ir"])
def test_a_signal_while_modules_are_imported(module: str, number: signal.Signals, code: int) -> None:
    assert ended(AT_IMPORT.format(module=module, number=int(number))) == (code, "", [sentence(number)])


AGAIN = """\
import os, signal
from netc.stopping import stoppable
with stoppable():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        print("first", flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        print("second", flush=True)
"""


def test_a_second_signal_ends_the_process_at_once() -> None:
    assert ended(AGAIN) == (-signal.SIGINT, "first\n", [])


def test_a_signal_that_a_shell_has_ignored_stays_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stoppable():
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(SystemExit) as caught, stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_what_libraries_make_of_a_signal_is_the_signal(capsys: pytest.CaptureFixture[str]) -> None:
    """NumPy's modules in C end their imports with an ImportError, whatever went wrong inside."""

    def imported() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException as error:
            raise ImportError("numpy.core.multiarray failed to import") from error

    with pytest.raises(SystemExit) as caught, stoppable():
        imported()
    assert caught.value.code == 130
    assert capsys.readouterr().err.splitlines() == [sentence(signal.SIGINT)]


def test_nested_ones_are_one_and_other_threads_have_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, stoppable(), stoppable():
        os.kill(os.getpid(), signal.SIGINT)
    assert caught.value.code == 130
    assert capsys.readouterr().err.splitlines() == [sentence(signal.SIGINT)]
    usual: list[Any] = []

    def elsewhere() -> None:
        with stoppable():
            usual.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert usual == [signal.default_int_handler]
