"""Checkpoints: one safetensors file with the state and, as canonical JSON, everything else that a run continues from.

Files of equal content are equal byte for byte: no times, no unordered metadata.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as to_safetensors

from netc_runtime.arrays import Array
from netc_runtime.artifact import Artifact
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.files import write_atomically
from netc_runtime.jsonfields import MalformedError, canonical, field, optional, parse_object
from netc_runtime.plateau import Waiting
from netc_runtime.session import MOST_THREADS
from netc_runtime.specs import require_same_spec
from netc_runtime.tensorfile import TensorFile

_METADATA_KEY = "netc"  # one key, because safetensors writes several in an order that changes from run to run
_FORMAT = "netc.checkpoint"
_FORMAT_VERSION = 3
_MOST_STEPS = 1 << 53  # beyond which a JSON number is not exact everywhere
_SAME = 1e-6  # evaluations that differ by less than this share are equal: float32 rounds no better


@dataclass(frozen=True)
class Best:
    """The best evaluation so far: metric, its value, and the step of its checkpoint."""

    metric: str
    value: float
    step: int

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> "Best":
        """Read what a checkpoint's metadata says; raises MalformedError."""
        value = field(entry, "value", float)
        if not math.isfinite(value):
            raise MalformedError(f'"best" has the value {value}')
        return cls(field(entry, "metric", str), value, _integer(entry, "step", _MOST_STEPS))

    def beaten_by(self, value: float, larger_is_better: bool, least: float = 0.0) -> bool:
        """Whether `value` is better by more than rounding and by at least `least`; a tie is no improvement."""
        gain = value - self.value if larger_is_better else self.value - value
        # What is just `least` better may be less after the subtraction.
        return gain > _SAME * abs(self.value) and gain >= least - _SAME * abs(self.value)


@dataclass(frozen=True)
class Position:
    """Where a run stands.

    `step` counts updates, `epoch` finished epochs, `cursor` the batches done of the running epoch; `evaluated` says
    that the state of this step has been evaluated; `sums` are the sums of training metrics over the last `counted`
    steps, those since the last evaluation; `rates` are the learning rates of the last step; `stale` counts the
    evaluations since the best one; `population` says that the state holds population statistics; `plateau` is what a
    policy that watches evaluations remembers.
    """

    step: int
    epoch: int
    cursor: int
    evaluated: bool
    sums: Mapping[str, float]
    rates: Mapping[str, float]
    best: Best | None
    counted: int = 0
    stale: int = 0
    population: bool = False
    plateau: Waiting | None = None

    @classmethod
    def start(cls) -> "Position":
        """Return the position of a run without any step."""
        return cls(step=0, epoch=0, cursor=0, evaluated=False, sums={}, rates={}, best=None)

    @classmethod
    def at(cls, step: int, steps_per_epoch: int, is_end: bool) -> "Position":
        """Return the position of a run that starts after so many steps, about whose past nothing else is known.

        Before the end, the state of that step counts as evaluated: whoever made it has done with it.
        """
        epoch, cursor = divmod(step, steps_per_epoch)
        evaluated = step > 0 and not is_end
        return cls(step=step, epoch=epoch, cursor=cursor, evaluated=evaluated, sums={}, rates={}, best=None)

    def require_epochs_of(self, steps: int, path: Path) -> None:
        """Raise DamagedFileError unless epochs of so many steps lead to this position, which `path` recorded."""
        if self.cursor > steps or self.step != self.epoch * steps + self.cursor:
            raise DamagedFileError(
                f"{path} says that {self.epoch} epochs and {self.cursor} steps are {self.step} steps, but an epoch has "
                f"{steps}; the training data has changed its size, or the file is damaged: restore it, or start a "
                f"new run"
            )


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to continue exactly; `engine` is the name and version of what ran it."""

    state: Mapping[str, Array]
    position: Position
    seed: int
    threads: int
    device: str
    spec: Mapping[str, Any]
    spec_hash: str
    netc_version: str
    engine: str

    def save(self, path: Path) -> None:
        """Write the file atomically; raises DriverError (3 for a full disk or a refused permission)."""
        metadata = self._metadata()
        metadata["digest"] = _digest(metadata, self.state)
        write_atomically(path, to_safetensors(dict(self.state), {_METADATA_KEY: canonical(metadata)}))

    def changes(self, device: str, engine: str, netc_version: str) -> Iterator[str]:
        """Yield a sentence for each part of where this run continues that may give it other bits."""
        for what, then, now in (
            ("on", self.device, device),
            ("with", self.engine, engine),
            ("compiled by netc", self.netc_version, netc_version),
        ):
            if then != now:
                again = what.split()[0] if what == "on" else what
                yield (
                    f"the run was {what} {then} and continues {again} {now}: its bits may differ from those of a run "
                    f"that never stopped"
                )

    def _metadata(self) -> dict[str, Any]:
        position, best = self.position, self.position.best
        return {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "step": position.step,
            "epoch": position.epoch,
            "cursor": position.cursor,
            "evaluated": int(position.evaluated),
            "population": int(position.population),
            "sums": dict(position.sums),
            "counted": position.counted,
            "stale": position.stale,
            "rates": dict(position.rates),
            "best": None if best is None else vars(best),
            "plateau": None if position.plateau is None else vars(position.plateau),
            "seed": self.seed,
            "threads": self.threads,
            "device": self.device,
            "spec": dict(self.spec),
            "spec_hash": self.spec_hash,
            "netc_version": self.netc_version,
            "engine": self.engine,
        }

    @classmethod
    def load(cls, path: Path, artifact: Artifact) -> "Checkpoint":
        """Read a checkpoint of the artifact's spec.

        Raises DriverError: 2 if the file is absent or of another spec, DamagedFileError (1) if it is not complete.
        """
        with TensorFile(path) as file:
            try:
                metadata = parse_object(file.metadata.get(_METADATA_KEY, ""))
                if metadata.get("format") != _FORMAT:
                    raise MalformedError(f"its format should be {_FORMAT}")
                if metadata.get("format_version") != _FORMAT_VERSION:
                    version = metadata.get("netc_version", "unknown")
                    raise DriverError(
                        f"{path} is a checkpoint of another version of netc, {version}; continue the run with that one",
                        ExitCode.USAGE,
                    )
                digest = field(metadata, "digest", str)
                checkpoint = cls._parse(metadata)
            except MalformedError as error:
                raise DamagedFileError(f"{path} is not a checkpoint of netc: {error}") from error
            if checkpoint.spec_hash != artifact.spec_hash:
                require_same_spec(f"the checkpoint {path}", checkpoint.spec, artifact.spec)
            state = file.read(artifact.state)
        if _digest(metadata, state) != digest:
            raise DamagedFileError(f"{path} is damaged: its content does not have the digest that was recorded")
        for spec in artifact.state:
            if spec.role == "step" and (state[spec.name] != checkpoint.position.step).any():
                raise DamagedFileError(
                    f'{path} is damaged: it says step {checkpoint.position.step}, but "{spec.name}" is '
                    f"{state[spec.name].tolist()}"
                )
        return cls(**{**vars(checkpoint), "state": state})

    @classmethod
    def _parse(cls, metadata: Mapping[str, Any]) -> "Checkpoint":
        entry = optional(metadata, "best", dict)
        best = None if entry is None else Best.parse(entry)
        waiting = optional(metadata, "plateau", dict)
        step = _integer(metadata, "step", _MOST_STEPS)
        if best is not None and best.step > step:
            raise MalformedError(f'"best" is of step {best.step}, after step {step}')
        return cls(
            state={},
            position=Position(
                step=step,
                epoch=_integer(metadata, "epoch", step),
                cursor=_integer(metadata, "cursor", step),
                evaluated=bool(_integer(metadata, "evaluated", 1)),
                sums=_numbers(field(metadata, "sums", dict)),
                rates=_numbers(field(metadata, "rates", dict)),
                best=best,
                counted=_integer(metadata, "counted", step),
                stale=_integer(metadata, "stale", step),
                population=bool(_integer(metadata, "population", 1)),
                plateau=None if waiting is None else Waiting.parse(waiting),
            ),
            seed=_integer(metadata, "seed", (1 << 64) - 1),
            threads=_integer(metadata, "threads", MOST_THREADS, least=1),
            device=field(metadata, "device", str),
            spec=field(metadata, "spec", dict),
            spec_hash=field(metadata, "spec_hash", str),
            netc_version=field(metadata, "netc_version", str),
            engine=field(metadata, "engine", str),
        )


def is_checkpoint(path: Path) -> bool:
    """Whether a safetensors file says that it is a checkpoint, sound or not; raises DriverError as `load_state`."""
    with TensorFile(path) as file:
        return _METADATA_KEY in file.metadata


def load_state(path: Path) -> dict[str, Array]:
    """Return all tensors of a safetensors file of any origin; those of a checkpoint must have its digest.

    Raises DriverError: 2 if the file is absent, DamagedFileError (1) if it is not what its writer wrote.
    """
    with TensorFile(path) as file:
        state, said = file.read_all(), file.metadata.get(_METADATA_KEY)
    if said is not None:
        try:
            metadata = parse_object(said)
            if _digest(metadata, state) != field(metadata, "digest", str):
                raise MalformedError("its content does not have the digest that was recorded")
        except MalformedError as error:
            raise DamagedFileError(f"{path} is a damaged checkpoint: {error}") from error
    return state


@dataclass(frozen=True)
class Newest:
    """The newest sound checkpoint of a folder, and the damaged ones that are newer."""

    path: Path
    checkpoint: Checkpoint
    damaged: tuple[Path, ...]


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint of one step."""
    return folder / f"step_{step}.safetensors"


def checkpoint_paths(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, newest first, judged by their names alone."""
    steps = [path.stem.removeprefix("step_") for path in folder.glob("step_*.safetensors")]
    return [checkpoint_path(folder, step) for step in sorted((int(s) for s in steps if s.isdecimal()), reverse=True)]


def newest(folder: Path, artifact: Artifact, warn: Callable[[str], None]) -> Newest | None:
    """Return the newest sound checkpoint, or None if there is no checkpoint at all; `warn` hears of damaged ones.

    Raises DriverError: 1 if all are damaged, 2 if one is of another spec.
    """
    damaged: list[Path] = []
    for path in checkpoint_paths(folder):
        try:
            return Newest(path, Checkpoint.load(path, artifact), tuple(damaged))
        except DamagedFileError as error:
            warn(f"{error}; trying the checkpoint before it")
            damaged.append(path)
    if damaged:
        raise DamagedFileError(f"all {len(damaged)} checkpoints in {folder} are damaged; start a new run")
    return None


def _integer(entry: Mapping[str, Any], key: str, most: int, least: int = 0) -> int:
    value = field(entry, key, int)
    if not least <= value <= most:
        raise MalformedError(f'"{key}" should be from {least} to {most}, not {value}')
    return value


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    # What was not finite stands as null, and no sum with it becomes finite again.
    return {name: math.nan if entry[name] is None else field(entry, name, float) for name in entry}


def _digest(metadata: Mapping[str, Any], state: Mapping[str, Array]) -> str:
    """Return the digest of all that a checkpoint holds but the digest itself."""
    digest = hashlib.sha256(canonical({key: metadata[key] for key in metadata if key != "digest"}).encode())
    for name in sorted(state):
        array = state[name]
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
