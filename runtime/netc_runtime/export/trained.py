"""What is exported: a state of a run, or weights that another host trained."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from netc_runtime.arrays import Array, shape_text
from netc_runtime.artifact import MANIFEST, Artifact
from netc_runtime.checkpoint import Position, is_checkpoint, load_state
from netc_runtime.data.base import Source
from netc_runtime.data.batches import sample_count
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.interface import TensorSpec
from netc_runtime.plan import Plan
from netc_runtime.run import RunFolder

_SHOWN = 5  # tensors in one sentence


@dataclass(frozen=True)
class Trained:
    """A state of an artifact and the file that it was read from.

    `folder` is where the artifact comes from, a run folder or a compiled one. `step` counts updates, None where the
    file does not say; `newest` is the position of the run whose last checkpoint this is, None for what was chosen
    otherwise.
    """

    folder: Path
    artifact: Artifact
    path: Path
    state: Mapping[str, Array]
    step: int | None
    newest: Position | None = None

    def unfinished(self, source: Source) -> Iterator[str]:
        """Yield a sentence if this is the last state of a run that has not reached its end, judged by its data."""
        if self.newest is None:
            return
        try:
            plan = Plan.of(self.artifact, sample_count(source.train))
        except DriverError:
            return  # data that the run cannot have been trained on do not say how long it is
        early = plan.early_stopping
        if self.newest.step < plan.total_steps and (early is None or self.newest.stale < early.patience):
            yield (
                f"{self.folder} is not finished: its last checkpoint is of step {self.newest.step} of "
                f"{plan.total_steps}; export again after {RunFolder(self.folder).resume_command}"
            )


def find_trained(source: Path, checkpoint: str, programs: Mapping[str, bytes], warn: Callable[[str], None]) -> Trained:
    """Return what `checkpoint` ("last", "best" or a file) names of a run folder or a compiled one.

    The file is a checkpoint or any safetensors file with the tensors that the model is made of. `programs` take the
    place of the artifact's. Raises DriverError: 2 if there is nothing trained or the file does not fit, 1 if it is
    damaged.
    """
    folder, is_compiled = RunFolder(source), (source / MANIFEST).is_file()
    artifact = Artifact.load(source) if is_compiled else folder.load_artifact()
    artifact = artifact.with_programs(programs)
    if checkpoint not in ("last", "best"):
        path = Path(checkpoint)
        if path.is_file() and not is_checkpoint(path):
            return Trained(source, artifact, path, *foreign_state(path, artifact))
    elif is_compiled:
        raise DriverError(
            f"{source} is a compiled folder, which holds nothing trained to export; name a run folder, or the weights "
            f"with --checkpoint FILE.safetensors",
            ExitCode.USAGE,
        )
    path, found = folder.find(checkpoint, artifact, warn)
    newest = found.position if checkpoint == "last" else None
    return Trained(source, artifact, path, found.state, found.position.step, newest)


def foreign_state(path: Path, artifact: Artifact) -> tuple[dict[str, Array], int | None]:
    """Return a state with the tensors of a safetensors file of another host, matched by name and shape, and its step.

    What the model is made of has to be there; other state is taken if it fits, and is that before the first step if
    not. Raises DriverError (2) that names what is missing or of another shape, and DamagedFileError (1) for values
    that are not finite.
    """
    found, state = load_state(path), artifact.initial_state()
    step: int | None = None
    needed = {spec.name for spec in artifact.graph("fold").inputs}
    missing, misshapen, bad = list[str](), list[str](), list[str]()
    for spec in artifact.state:
        array = found.get(spec.name)
        if array is not None and _fits(array, spec):
            with np.errstate(over="ignore"):  # refused below
                state[spec.name] = array.astype(spec.dtype)
            if spec.role == "step":
                step = int(array)
            if spec.name in needed and not np.isfinite(state[spec.name]).all():
                bad.append(spec.name)
        elif spec.name in needed and array is None:
            missing.append(spec.name)
        elif spec.name in needed and array is not None:
            misshapen.append(
                f"{spec.name} ({array.dtype} {shape_text(array.shape)} there, {spec.dtype} "
                f"{shape_text(spec.static_shape)} here)"
            )
    problems = [
        f"{what} {_listed(names)}"
        for what, names in (("it lacks", missing), ("of another shape or type are", misshapen))
        if names
    ]
    if problems:
        raise DriverError(
            f"{path} does not hold the weights of {artifact.name}: {'; '.join(problems)}; save the state under the "
            f"names of {MANIFEST}",
            ExitCode.USAGE,
        )
    if bad:
        raise DamagedFileError(f"{path} has values that are not finite in {_listed(bad)}; export other weights")
    return state, step


def _fits(array: Array, spec: TensorSpec) -> bool:
    kinds = array.dtype.kind, np.dtype(spec.dtype).kind
    return array.shape == spec.static_shape and (kinds == ("f", "f") or array.dtype == np.dtype(spec.dtype))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
