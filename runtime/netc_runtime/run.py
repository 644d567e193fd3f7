"""The run folder: what a training session leaves behind, and who may write there."""

import fcntl
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from netc_runtime.artifact import INITIAL_STATE, MANIFEST, Artifact
from netc_runtime.checkpoint import Best, Checkpoint, Newest, checkpoint_path, checkpoint_paths, newest
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.files import remove_stale_temporaries, storage_errors, sync, write_atomically
from netc_runtime.specs import require_same_spec
from netc_runtime.weights import load_weights
from netc_runtime.yamltext import to_yaml

_LOCK = b"netc: whoever trains here holds a lock on this file\n"


class RunFolder:
    """The paths and the invariants of one run.

    artifact/, spec.yaml, metrics.jsonl, metrics.csv, checkpoints/step_N.safetensors, best, model.onnx, lock, and
    init_from.json if it started from other weights, monitor.csv if the spec asks for it.

    "best" is the checkpoint with the best value on the test split of the metric that early stopping monitors; without
    one, with the largest value of the spec's first accuracy, or, without an accuracy, of its first mean_iou or else
    class_accuracy, or, without these too, with the smallest total. Values that differ by a millionth or less are equal,
    and of equal ones the earliest is the best. Every checkpoint remembers it; the file `best` only names it for people.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.artifact = path / "artifact"
        # Where `install` prepares the next artifact, and where it keeps the one before until that is in place.
        self._incoming, self._outgoing = path / "artifact.new", path / "artifact.old"
        self._lock = path / "lock"
        self.checkpoints = path / "checkpoints"
        self.best = path / "best"
        self.model = path / "model.onnx"
        self.monitor = path / "monitor.csv"
        self.resume_command = f"netc train --run {shlex.quote(str(path))} --resume"

    def how_to_continue(self) -> str:
        """Return what to do after a stop that wrote no checkpoint, as the end of a sentence."""
        if checkpoint_paths(self.checkpoints):
            return f"continue from the last checkpoint with: {self.resume_command}"
        return "there is no checkpoint yet to continue from, so run the command again"

    def load_artifact(self) -> Artifact:
        """Return the run's own copy of the artifact, or the artifact that the folder itself is.

        Raises DriverError (2) if there is none.
        """
        if not self.artifact.is_dir() and (self.path / MANIFEST).is_file():
            return Artifact.load(self.path)
        # Without artifact/ the process that replaced it ended between its two renames.
        folder = self.artifact if self.artifact.is_dir() else self._outgoing
        if not folder.is_dir():
            reason = "it has no artifact/" if self.path.is_dir() else "it is a file"
            what = f"is not a run folder: {reason}" if self.path.exists() else "does not exist"
            raise DriverError(f"{self.path} {what}; name a run folder, which netc train makes", ExitCode.USAGE)
        return Artifact.load(folder)

    @property
    def is_run(self) -> bool:
        """Whether netc made this folder."""
        if (self.artifact / MANIFEST).is_file():
            return True
        if not self._lock.is_file():
            return False
        with storage_errors("read", self._lock), self._lock.open("rb") as file:
            return file.read(len(_LOCK)) == _LOCK

    def _refuse_foreign(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise DriverError(f"{self.path} is a file; choose another run folder", ExitCode.USAGE)
        with storage_errors("read", self.path):
            if self.path.is_dir() and any(self.path.iterdir()) and not self.is_run:
                raise DriverError(
                    f"{self.path} is not empty and no run folder of netc, which would overwrite what is there; "
                    f"choose another folder",
                    ExitCode.USAGE,
                )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder if needed and hold it for this process.

        What it made is removed again if an error ends the block before `install`. Raises DriverError (2) if another
        process holds the folder, or the path is that of a file or of a folder that netc did not make.
        """
        self._refuse_foreign()
        wanted = (self._lock, self.checkpoints, self.path, *self.path.parents)
        made = [path for path in wanted if not path.exists()]
        with storage_errors("create the run folder", self.path):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A process that failed to start may have removed the file after it was opened here.
                held = self._lock.exists() and os.path.samestat(os.fstat(descriptor), self._lock.stat())
            except BlockingIOError:
                held = False
            if not held:
                raise DriverError(
                    f"another process is training in {self.path}; wait for its end or choose another run folder",
                    ExitCode.USAGE,
                )
            try:
                with storage_errors("write", self._lock):
                    os.pwrite(descriptor, _LOCK, 0)
                    if self._outgoing.is_dir() and not self.artifact.exists():
                        self._outgoing.rename(self.artifact)
                for folder in (self.path, self.checkpoints):
                    remove_stale_temporaries(folder)
                yield
            except BaseException:
                if not self.artifact.exists():
                    _remove_empty(made)
                raise
        finally:
            os.close(descriptor)  # which releases the lock

    def require_new(self) -> None:
        """Raise DriverError (2) if the folder has checkpoints already."""
        if checkpoint_paths(self.checkpoints):
            raise DriverError(
                f"{self.path} already holds a run; choose another run folder, or continue it with: "
                f"{self.resume_command}",
                ExitCode.USAGE,
            )

    def checkpoint_to_resume(self, artifact: Artifact, warn: Callable[[str], None]) -> Newest:
        """Return the newest sound checkpoint; raises DriverError (2) if there is none, or it is of another spec."""
        # The whole run first: its spec says more than that of its newest checkpoint.
        if self.artifact.is_dir():
            require_same_spec(f"the run {self.path}", self.load_artifact().spec, artifact.spec)
        found = newest(self.checkpoints, artifact, warn)
        if found is None:
            raise DriverError(
                f"{self.path} has no checkpoint to resume from; leave out --resume to start anew", ExitCode.USAGE
            )
        return found

    def install(self, artifact: Artifact) -> Artifact:
        """Make `artifact` the run's own, spec.yaml included, and return the copy."""
        if not self.artifact.exists() or artifact.folder.resolve() != self.artifact.resolve():
            with storage_errors("write", self.artifact):
                self._replace(artifact)
        write_atomically(self.path / "spec.yaml", to_yaml(artifact.spec).encode())
        return Artifact.load(self.artifact)

    def _replace(self, artifact: Artifact) -> None:
        """Copy `artifact` here; `locked` undoes what a crash between the two renames leaves."""
        for leftover in (self._incoming, self._outgoing):
            if leftover.exists():
                shutil.rmtree(leftover)
        self._incoming.mkdir()
        for name in (MANIFEST, INITIAL_STATE, *artifact.files.values()):
            shutil.copyfile(artifact.folder / name, self._incoming / name)
            sync(self._incoming / name)
        sync(self._incoming)
        if self.artifact.exists():
            self.artifact.rename(self._outgoing)
        self._incoming.rename(self.artifact)
        sync(self.path)
        if self._outgoing.exists():
            shutil.rmtree(self._outgoing)

    def save(self, checkpoint: Checkpoint, keep: int) -> Path:
        """Write a checkpoint, then remove all but the newest `keep` and the best; return its path."""
        position = checkpoint.position
        path = checkpoint_path(self.checkpoints, position.step)
        checkpoint.save(path)
        self.tidy(position.best, keep)
        return path

    def tidy(self, best: Best | None, keep: int) -> None:
        """Name the best checkpoint, then remove all but it and the newest `keep`; a killed process may not have."""
        self.record_best(best)
        kept = set(checkpoint_paths(self.checkpoints)[:keep])
        if best is not None:
            kept.add(checkpoint_path(self.checkpoints, best.step))
        for old in checkpoint_paths(self.checkpoints):
            if old not in kept:
                with storage_errors("remove", old):
                    old.unlink()

    def record_init(self, report: Mapping[str, object]) -> None:
        """Write what the run started from to `init_from.json`."""
        write_atomically(self.path / "init_from.json", (json.dumps(report, indent=1) + "\n").encode())

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

        The file may be one that another host saved; then it has a state and a step, and remembers nothing else.

        Raises DriverError: 2 if there is none or it is of another spec, 1 if it is damaged.
        """
        if which == "last":
            found = newest(self.checkpoints, artifact, warn)
            if found is None:
                raise DriverError(f"{self.path} has no checkpoint yet; train first", ExitCode.USAGE)
            return found.path, found.checkpoint
        path = Path(which)
        if which == "best":
            path = self._best_path(artifact, warn)
            return path, Checkpoint.load(path, artifact)
        if not path.is_file():
            raise DriverError(
                f"there is no checkpoint {which}; give last, best, or the path of a file such as "
                f"{self.checkpoints / 'step_N.safetensors'}",
                ExitCode.USAGE,
            )
        return path, load_weights(path, artifact)

    def _best_path(self, artifact: Artifact, warn: Callable[[str], None]) -> Path:
        if self.best.is_file():
            with storage_errors("read", self.best):
                # Only the last part counts: the file may not point outside of the run.
                return self.checkpoints / Path(self.best.read_text("utf-8", errors="replace").strip()).name
        found = newest(self.checkpoints, artifact, warn)
        best = None if found is None else found.checkpoint.position.best
        if best is None:
            raise DriverError(f"{self.path} has no best checkpoint yet; train an epoch first", ExitCode.USAGE)
        return checkpoint_path(self.checkpoints, best.step)


def _remove_empty(paths: list[Path]) -> None:
    """Remove a lock file and folders, innermost first, as far as they are empty."""
    for path in paths:
        with suppress(OSError):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()
