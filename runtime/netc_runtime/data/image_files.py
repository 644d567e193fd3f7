"""Image files turned into cached arrays of unsigned bytes, by several processes where that pays."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from netc_runtime.arrays import shape_text
from netc_runtime.cpus import usable_cpus
from netc_runtime.data.base import Samples, UnequalSizesError
from netc_runtime.data.cache import cached, stamps
from netc_runtime.data.npy_writer import begin
from netc_runtime.data.options import LEAVE_OUT
from netc_runtime.data.rows import select
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.files import storage_errors
from netc_runtime.images import decode, decode_labels, require_pillow

# How image files are called that Pillow may read here.
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
_TRIED = 32  # images that say how long one takes
_WORTH = 2.0  # seconds of decoding that are worth processes, each of which takes a third of one to begin
_MOST_WORKERS = 16


@dataclass(frozen=True)
class Decoding:
    """How image files become samples: `channels` 1 or 3, or 0 for maps of labels [H, W]; `size` or their own."""

    channels: int
    size: tuple[int, int] | None
    skip: bool = False

    def of(self, path: Path) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        """Return the sample of one file; raises DriverError."""
        if not path.is_file():  # which Pillow would wait for, if it is a pipe
            raise DamagedFileError(f"{path} is {'a link to nothing' if path.is_symlink() else 'not a file'}")
        return decode(path, str(path), self.channels, self.size) if self.channels else decode_labels(path, self.size)


@dataclass(frozen=True)
class Failure:
    """A file that gave no sample, or one of another shape than the others."""

    row: int
    sentence: str
    code: int
    unequal: bool = False


def decoded(paths: Sequence[Path], within: Path, how: Decoding) -> tuple[Samples, "np.ndarray[Any, Any]", list[str]]:
    """Return the samples of image files, the indices of the files that they come from, and what was skipped.

    All samples have one shape. Raises DriverError: 3 without Pillow or without room, 2 for images of unequal size where
    none is asked for, 1 for one that cannot be decoded unless it is to be skipped.
    """
    require_pillow()
    size = None if how.size is None else list(how.size)
    key = {"files": stamps(paths, within), "folder": str(within.resolve()), "channels": how.channels, "size": size}
    entry = cached(key | {"skip": how.skip}, lambda folder: _make(folder, paths, how))
    skipped = entry.notes.get("skipped", [])
    samples = entry.arrays["image"]
    if not skipped:
        return samples, np.arange(len(paths)), []
    kept = np.setdiff1d(np.arange(len(paths)), [row for row, _ in skipped])
    return select(samples, kept), kept, [sentence for _, sentence in skipped]


def _make(folder: Path, paths: Sequence[Path], how: Decoding) -> Mapping[str, Any]:
    failures: list[Failure] = []
    shape, first = None, 0
    for first, path in enumerate(paths):
        try:
            shape = how.of(path).shape
            break
        except DamagedFileError as error:
            if not how.skip:
                raise DamagedFileError(f"{error}{LEAVE_OUT}") from error
            failures.append(Failure(first, str(error), int(error.exit_code)))
    if shape is None:
        raise DamagedFileError(f"none of {len(paths)} images can be decoded; the first: {failures[0].sentence}")
    target = folder / "image.npy"
    offset = begin(target, (len(paths), *shape), np.uint8)
    with target.open("r+b") as file:
        file.truncate(offset + len(paths) * int(np.prod(shape)))
    task = Task(target, offset, shape, how, str(paths[first]))
    begun, head = time.perf_counter(), min(len(paths), first + _TRIED)
    failures += task.run(paths[first:head], first)
    rest = len(paths) - head
    seconds = (time.perf_counter() - begun) / (head - first) * rest
    stop = failures and not how.skip
    if rest and not stop:
        workers = min(usable_cpus(), _MOST_WORKERS)
        alone = workers < 2 or seconds < _WORTH
        failures += task.run(paths[head:], head) if alone else _in_processes(task, paths, head, workers, folder)
    fatal = next((one for one in failures if not how.skip or one.code != ExitCode.FAILED), None)
    if fatal and fatal.unequal:
        raise UnequalSizesError.like(fatal.sentence, shape[-2:])
    if fatal:
        remedy = LEAVE_OUT if fatal.code == ExitCode.FAILED else ""
        raise DriverError(f"{fatal.sentence}{remedy}", ExitCode(fatal.code))
    return {"skipped": [(one.row, one.sentence) for one in failures]}


@dataclass(frozen=True)
class Task:
    """Decoding files into the rows of an array that begins at `offset` of the file `target`."""

    target: Path
    offset: int
    shape: tuple[int, ...]
    how: Decoding
    example: str
    """The file whose sample has the shape."""

    def run(self, paths: Sequence[Path], first: int) -> list[Failure]:
        """Decode files into the rows from `first` on; without `skip`, end at the first failure."""
        failures: list[Failure] = []
        size = int(np.prod(self.shape))
        with storage_errors("write", self.target), self.target.open("r+b") as file:
            file.seek(self.offset + first * size)
            for row, path in enumerate(paths, first):
                try:
                    sample = self.how.of(path)
                except DamagedFileError as error:
                    failures.append(Failure(row, str(error), int(error.exit_code)))
                    if not self.how.skip:
                        break
                    file.seek(size, os.SEEK_CUR)
                    continue
                if sample.shape != self.shape:
                    sentence = (
                        f"{path} gives {shape_text(sample.shape)}, but {self.example} gives {shape_text(self.shape)}"
                    )
                    failures.append(Failure(row, sentence, int(ExitCode.USAGE), unequal=True))
                    break
                file.write(sample.tobytes())
        return failures


def _in_processes(task: Task, paths: Sequence[Path], first: int, count: int, folder: Path) -> list[Failure]:
    """Let `count` processes each run a part of a task; they are told and answer by files in `folder`."""
    bounds = np.linspace(first, len(paths), count + 1).astype(int).tolist()
    jobs = [folder / f"job_{number}.json" for number in range(count)]
    for job, start, end in zip(jobs, bounds[:-1], bounds[1:], strict=True):
        how = {"channels": task.how.channels, "size": task.how.size, "skip": task.how.skip}
        own = {"target": str(task.target), "offset": task.offset, "shape": task.shape, "example": task.example}
        files = [str(path) for path in paths[start:end]]
        job.write_text(json.dumps({**own, "how": how, "first": start, "paths": files}))
    # Processes that say what they do, unlike those of multiprocessing, need no pickle and no guarded main module.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    # -P, because files in the folder where the user works are none of theirs.
    command = [sys.executable, "-P", "-m", "netc_runtime.data.image_worker"]
    processes: list[subprocess.Popen[bytes]] = []
    failures: list[Failure] = []
    try:
        for job in jobs:
            # Their own session: Ctrl-C reaches this process alone, which then ends them.
            with (folder / f"{job.stem}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen([*command, str(job)], env=environment, stderr=log, start_new_session=True)
                )
        for job, process in zip(jobs, processes, strict=True):
            if process.wait() != 0:
                said = (folder / f"{job.stem}.log").read_text(errors="replace").strip().splitlines()
                raise DriverError(
                    f"a process that decodes images ended with {process.returncode}: {(said or ['?'])[-1]}"
                )
            failures += [Failure(**one) for one in json.loads(job.with_suffix(".result").read_bytes())]
            if failures and not task.how.skip:
                break
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for leftover in folder.glob("job_*"):
            leftover.unlink()
    return failures
