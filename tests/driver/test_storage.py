"""Storage that fails while a run goes on: one sentence, and nothing of what was there before is lost."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.events import StepDone
from netc_runtime.trainer import TrainOptions, train

from .conftest import CPU, Recorder
from .handmade import write_artifact

FULL = "the disk is full; free some space and run the command again"
READ_ONLY = "the file system is read-only; choose another place"


def checkpoint(run: Path, step: int = 132) -> bytes:
    return (run / "checkpoints" / f"step_{step}.safetensors").read_bytes()


def refuse_opening(monkeypatch: pytest.MonkeyPatch, name: str, number: int, times: int = 1) -> None:
    """Let the file `name` be opened for appending so many times, then no more."""
    opened, left = Path.open, [times]

    def refuse(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if path.name == name and "a" in mode:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(number, os.strerror(number), str(path))
        return opened(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.csv"])
@pytest.mark.parametrize(("number", "sentence"), [(errno.ENOSPC, FULL), (errno.EROFS, READ_ONLY)])
def test_metrics_that_cannot_be_written(
    artifact: Path, finished_run: Path, tmp_path: Path, name: str, number: int, sentence: str
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patched:
        refuse_opening(patched, name, number)
        with pytest.raises(DriverError) as caught:
            train(TrainOptions(run, artifact, CPU), Recorder())
    assert (str(caught.value), caught.value.exit_code) == (f"cannot write {run / name}: {sentence}", 3)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_22.safetensors"]
    train(TrainOptions(run, resume=True), Recorder())
    assert checkpoint(run) == checkpoint(finished_run)
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [
        *range(22, 133, 22)
    ]
    assert len((run / "metrics.csv").read_text().splitlines()) == 7


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_becomes_read_only(
    artifact: Path, finished_run: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root no permission stops a test, so that the system call fails instead."""
    run, opened = tmp_path / "run", os.open

    def refuse(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_WRONLY and Path(path).parent.name == "checkpoints":
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, flags, *arguments, **options)

    train(TrainOptions(run, artifact, CPU, stop_after_epochs=2), Recorder())
    before = {path: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        with pytest.raises(DriverError, match=r"^cannot write .*step_66\.safetensors: ") as caught:
            train(TrainOptions(run, resume=True), Recorder())
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert {path: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before
    train(TrainOptions(run, resume=True), Recorder())
    assert checkpoint(run) == checkpoint(finished_run)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(artifact: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DriverError, match="permission denied") as caught:
            train(TrainOptions(tmp_path / "run", artifact, CPU), Recorder())
    finally:
        tmp_path.chmod(0o700)
    assert caught.value.exit_code == ExitCode.ENVIRONMENT


def test_a_run_folder_in_use_by_another_process(artifact: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(TrainOptions(run, artifact, CPU, stop_after_epochs=1), Recorder())
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    program = (
        "import sys; from pathlib import Path; from netc_runtime.run import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).locked():\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(run)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(DriverError) as caught:
            train(TrainOptions(run, resume=True), Recorder())
        other.kill()
    expected = f"another process is training in {run}; wait for its end or choose another run folder"
    assert (str(caught.value), caught.value.exit_code) == (expected, ExitCode.USAGE)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert train(TrainOptions(run, resume=True, stop_after_epochs=1), Recorder()).step == 44  # the lock died with it


@pytest.mark.parametrize("lost", ["train/image.npy", "test", ""])
def test_data_that_vanished_between_two_sessions(tmp_path: Path, lost: str) -> None:
    data, random = tmp_path / "data", np.random.default_rng(1)
    for part in ("train", "test"):
        (data / part).mkdir(parents=True)
        np.save(data / part / "image.npy", random.uniform(0, 16, (128, 1, 8, 8)).astype(np.float32))
        np.save(data / part / "label.npy", (np.arange(128) % 10).astype(np.uint8))
    made = write_artifact(tmp_path / "made", {"data.source": "npy", "data.path": str(data)})
    run = tmp_path / "run"
    train(TrainOptions(run, made, CPU, stop_after_epochs=1), Recorder())
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    shutil.move(data / lost, tmp_path / "away")
    with pytest.raises(DriverError) as caught:
        train(TrainOptions(run, resume=True), Recorder())
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(data) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    shutil.move(tmp_path / "away", data / lost)
    assert train(TrainOptions(run, resume=True), Recorder()).finished


def test_data_that_vanish_while_training_are_mapped_until_the_end(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for part in ("train", "test"):
        (data / part).mkdir(parents=True)
        np.save(data / part / "image.npy", np.ones((128, 1, 8, 8), np.float32))
        np.save(data / part / "label.npy", (np.arange(128) % 10).astype(np.uint8))
    made = write_artifact(tmp_path / "made", {"data.source": "npy", "data.path": str(data)})

    def remove(event: StepDone) -> None:
        if event.step == 3:
            shutil.rmtree(data)

    assert train(TrainOptions(tmp_path / "run", made, CPU), Recorder(remove)).finished


@pytest.mark.parametrize("function", ["write", "fsync", "replace", "unlink"])
def test_a_second_signal_while_a_checkpoint_is_written(
    artifact: Path, finished_run: Path, tmp_path: Path, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It exits at once, with the last checkpoint intact, and the run goes on to the same bytes."""
    run = tmp_path / "run"
    owner: Any = Path if function == "unlink" else os
    whole: Callable[..., Any] = getattr(owner, function)

    def signalled(*arguments: Any, **options: Any) -> Any:
        result = whole(*arguments, **options)
        monkeypatch.setattr(owner, function, whole)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return result

    def plant(event: StepDone) -> None:
        if event.step == 66:
            monkeypatch.setattr(owner, function, signalled)

    before = tmp_path / "before"
    train(TrainOptions(run, artifact, CPU, stop_after_epochs=2), Recorder())
    shutil.copytree(run, before)
    with pytest.raises(DriverError, match="stopped at once by a second signal; continue from the last checkpoint with"):
        train(TrainOptions(run, resume=True), Recorder(plant))
    assert checkpoint(run, 44) == checkpoint(before, 44)
    assert not list(run.rglob("*.tmp"))
    monkeypatch.undo()
    train(TrainOptions(run, resume=True), Recorder())
    assert checkpoint(run) == checkpoint(finished_run)
