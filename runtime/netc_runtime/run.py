"""The run folder: what a training session leaves behind, and who may write there."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from netc_runtime.artifact import INITIAL_STATE, MANIFEST, Artifact
from netc_runtime.checkpoint import Best, Checkpoint, checkpoint_path, checkpoint_paths, newest
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.files import remove_stale_temporaries, storage_errors, write_atomically

_KEPT = 3


class RunFolder:
    """The paths and the invariants of one run.

    artifact/, spec.yaml, metrics.jsonl, metrics.csv, checkpoints/step_N.safetensors, best, model.onnx, lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.artifact = path / "artifact"
        self.checkpoints = path / "checkpoints"
        self.best = path / "best"
        self.model = path / "model.onnx"

    def load_artifact(self) -> Artifact:
        """Return the run's own copy of the artifact; raises DriverError (2) if there is none."""
        if not self.path.is_dir():
            raise DriverError(f"the run folder {self.path} does not exist", ExitCode.USAGE)
        if not self.artifact.is_dir():
            raise DriverError(f"{self.path} is not a run folder: it has no artifact/", ExitCode.USAGE)
        return Artifact.load(self.artifact)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder if needed and hold it for this process; raises DriverError (2) if another holds it."""
        with storage_errors("create", self.path):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DriverError(
                    f"another process is training in {self.path}; wait for its end or choose another run folder",
                    ExitCode.USAGE,
                ) from error
            for folder in (self.path, self.checkpoints):
                remove_stale_temporaries(folder)
            yield
        finally:
            os.close(descriptor)  # which releases the lock

    def install(self, artifact: Artifact) -> Artifact:
        """Make `artifact` the run's own, spec.yaml included, and return the copy."""
        if self.artifact.exists() and artifact.folder.resolve() == self.artifact.resolve():
            return artifact
        incoming, outgoing = self.path / "artifact.new", self.path / "artifact.old"
        with storage_errors("write", self.artifact):
            for leftover in (incoming, outgoing):
                if leftover.exists():
                    shutil.rmtree(leftover)
            incoming.mkdir()
            for name in (MANIFEST, INITIAL_STATE, *artifact.files.values()):
                shutil.copyfile(artifact.folder / name, incoming / name)
            if self.artifact.exists():
                self.artifact.rename(outgoing)
            incoming.rename(self.artifact)
            if outgoing.exists():
                shutil.rmtree(outgoing)
        write_atomically(self.path / "spec.yaml", yaml.safe_dump(dict(artifact.spec), sort_keys=False).encode())
        return Artifact.load(self.artifact)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, then remove all but the newest three and the best; return its path."""
        position = checkpoint.position
        path = checkpoint_path(self.checkpoints, position.step)
        checkpoint.save(path)
        self.record_best(position.best)
        kept = set(checkpoint_paths(self.checkpoints)[:_KEPT])
        if position.best is not None:
            kept.add(checkpoint_path(self.checkpoints, position.best.step))
        for old in checkpoint_paths(self.checkpoints):
            if old not in kept:
                with storage_errors("remove", old):
                    old.unlink()
        return path

    def record_best(self, best: Best | None) -> None:
        """Write the name of the best checkpoint to `best`; remove that file if there is none."""
        path = best and checkpoint_path(self.checkpoints, best.step)
        if path and path.exists():
            write_atomically(self.best, f"{path.name}\n".encode())
        else:
            with storage_errors("remove", self.best):
                self.best.unlink(missing_ok=True)

    def set_aside(self, damaged: tuple[Path, ...]) -> None:
        """Rename damaged checkpoints, so that they do not count as the newest for ever."""
        for path in damaged:
            with storage_errors("rename", path):
                path.rename(path.with_name(f"{path.name}.damaged"))

    def find(self, which: str, artifact: Artifact, warn: Callable[[str], None]) -> tuple[Path, Checkpoint]:
        """Return the checkpoint `which`: "last" (the newest sound one), "best", or the path of a file.

        Raises DriverError: 2 if there is none or it is of another spec, 1 if it is damaged.
        """
        if which == "last":
            found = newest(self.checkpoints, artifact, warn)
            if found is None:
                raise DriverError(f"{self.path} has no checkpoint yet; train first", ExitCode.USAGE)
            return found.path, found.checkpoint
        path = Path(which)
        if which == "best":
            if not self.best.is_file():
                raise DriverError(f"{self.path} has no best checkpoint yet; train an epoch first", ExitCode.USAGE)
            with storage_errors("read", self.best):
                # Only the last part counts: the file may not point outside of the run.
                path = self.checkpoints / Path(self.best.read_text("utf-8", errors="replace").strip()).name
        return path, Checkpoint.load(path, artifact)
