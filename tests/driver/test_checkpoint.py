"""Checkpoints: complete or absent, proven when read, and refused when they belong elsewhere."""

import errno
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from netc_runtime.artifact import Artifact
from netc_runtime.checkpoint import Checkpoint, newest
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.files import write_atomically

from .handmade import write_artifact


@pytest.fixture
def sound(finished_run: Path, tmp_path: Path) -> Path:
    path = tmp_path / "step_132.safetensors"
    shutil.copyfile(finished_run / "checkpoints" / path.name, path)
    return path


def test_what_is_loaded_and_saved_again_is_the_same_bytes(artifact: Path, sound: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.load(sound, Artifact.load(artifact))
    assert (checkpoint.position.step, checkpoint.position.epoch, checkpoint.position.cursor) == (132, 6, 0)
    checkpoint.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == sound.read_bytes()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def endless_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 60) + path.read_bytes()[8:])


def flipped_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def no_metadata(path: Path) -> None:
    save_file(load_file(path), path)


def rewrite(path: Path, change: dict[str, Any], drop: str = "") -> None:
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    metadata = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["netc"])
    tensors = {name: array for name, array in load_file(path).items() if name != drop}
    save_file(tensors, path, {"netc": json.dumps(metadata | change)})


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (truncate, "is damaged or not a safetensors file"),
        (empty, "is damaged or not a safetensors file"),
        (endless_header, "is damaged or not a safetensors file"),
        (flipped_bit, "is damaged: its content does not have the digest that was recorded"),
        (no_metadata, "is not a checkpoint of netc: it is not JSON"),
        (lambda path: rewrite(path, {"format": "x"}), "its format should be netc.checkpoint"),
        (lambda path: rewrite(path, {"step": "9"}), '"step" should be a JSON integer, not "9"'),
        (lambda path: rewrite(path, {"best": [1]}), r'"best" should be a JSON object, not \[1\]'),
        (lambda path: rewrite(path, {"step": 131}), "does not have the digest that was recorded"),
        (lambda path: rewrite(path, {"sums": {"loss": 1.5}}), "does not have the digest that was recorded"),
        (lambda path: rewrite(path, {"device": "cuda"}), "does not have the digest that was recorded"),
        (lambda path: rewrite(path, {"step": -1}), '"step" should be from 0 to 9007199254740992, not -1'),
        (lambda path: rewrite(path, {"step": 10**30}), '"step" should be from 0 to 9007199254740992, not 10'),
        (lambda path: rewrite(path, {"epoch": -1}), '"epoch" should be from 0 to 132, not -1'),
        (lambda path: rewrite(path, {"cursor": 133}), '"cursor" should be from 0 to 132, not 133'),
        (lambda path: rewrite(path, {"evaluated": 2}), '"evaluated" should be from 0 to 1, not 2'),
        (lambda path: rewrite(path, {"threads": 0}), '"threads" should be from 1 to 1024, not 0'),
        (lambda path: rewrite(path, {"threads": 10**11}), '"threads" should be from 1 to 1024, not 1000'),
        (lambda path: rewrite(path, {"seed": -1}), '"seed" should be from 0 to 18446744073709551615, not -1'),
        (
            lambda path: rewrite(path, {"best": {"metric": "accuracy", "value": 1, "step": 133}}),
            '"best" is of step 133, after step 132',
        ),
        (lambda path: rewrite(path, {}, drop="ip.bias"), 'lacks the tensor "ip.bias"'),
    ],
)
def test_damage_is_one_sentence(artifact: Path, sound: Path, damage: Any, sentence: str) -> None:
    damage(sound)
    with pytest.raises(DamagedFileError, match=sentence) as caught:
        Checkpoint.load(sound, Artifact.load(artifact))
    assert str(sound) in str(caught.value)


def test_newest_falls_back_with_a_warning_and_gives_up_when_all_are_damaged(
    artifact: Path, finished_run: Path, tmp_path: Path
) -> None:
    loaded, folder, warnings = Artifact.load(artifact), tmp_path / "checkpoints", list[str]()
    assert newest(tmp_path, loaded, warnings.append) is None
    shutil.copytree(finished_run / "checkpoints", folder)
    (folder / "step_notes.safetensors").write_bytes(b"not ours")
    truncate(folder / "step_132.safetensors")
    found = newest(folder, loaded, warnings.append)
    assert found is not None
    assert (found.path.name, [path.name for path in found.damaged]) == (
        "step_110.safetensors",
        ["step_132.safetensors"],
    )
    assert len(warnings) == 1
    assert warnings[0].endswith("; trying the checkpoint before it")
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(DamagedFileError, match=r"all \d checkpoints in .* are damaged"):
        newest(folder, loaded, warnings.append)


def test_a_checkpoint_of_another_spec_is_refused(sound: Path, tmp_path: Path) -> None:
    other = Artifact.load(write_artifact(tmp_path / "other", {"solver.base_lr": 0.3}))
    with pytest.raises(DriverError) as caught:
        Checkpoint.load(sound, other)
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(caught.value) == (
        f"the checkpoint {sound} belongs to another spec; it differs in solver.base_lr (0.1 there, 0.3 here); "
        f"start a new run, or restore the spec"
    )


def test_a_longer_run_may_use_the_checkpoint(sound: Path, tmp_path: Path) -> None:
    longer = Artifact.load(write_artifact(tmp_path / "longer", {"solver.max_epochs": 60}))
    assert Checkpoint.load(sound, longer).position.step == 132


@pytest.mark.parametrize("function", ["write", "fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "the disk is full; free some space and run the command again"),
        (errno.EROFS, "the file system is read-only; choose another place"),
        (errno.EACCES, "permission denied; change the permissions or choose another place"),
    ],
)
def test_a_storage_that_refuses_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int, sentence: str
) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"before")

    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, function, refuse)
    with pytest.raises(DriverError) as caught:
        write_atomically(target, b"after")
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert str(caught.value) == f"cannot write {target}: {sentence}"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert target.read_bytes() == b"before"


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: whole(descriptor, data[:3]))
    write_atomically(tmp_path / "file", b"more than three bytes")
    assert (tmp_path / "file").read_bytes() == b"more than three bytes"


def test_a_checkpoint_of_another_version_is_not_damaged(artifact: Path, sound: Path) -> None:
    rewrite(sound, {"format_version": 2, "netc_version": "0.0.9"})
    said = r"of another version of netc, 0\.0\.9; continue the run with that one"
    with pytest.raises(DriverError, match=said) as caught:
        Checkpoint.load(sound, Artifact.load(artifact))
    assert not isinstance(caught.value, DamagedFileError)
