"""What is exported: a state of a run, or weights that another host trained."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from netc_runtime.arrays import Array
from netc_runtime.artifact import MANIFEST, Artifact
from netc_runtime.checkpoint import Position, is_checkpoint
from netc_runtime.data.base import Source
from netc_runtime.data.batches import sample_count
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.jsonfields import MalformedError
from netc_runtime.plan import Plan
from netc_runtime.run import RunFolder
from netc_runtime.weights import foreign_state, step_of


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
    own = folder.load_artifact()
    try:
        artifact = own.with_programs(programs)
    except MalformedError as error:
        raise DriverError(
            f"{source} was compiled by netc {own.netc_version}, whose state is not what this version needs ({error}); "
            "leave out what compiles the spec again, such as --keep-sides, or use that version",
            ExitCode.USAGE,
        ) from error
    if checkpoint not in ("last", "best"):
        path = Path(checkpoint)
        if path.is_file() and not is_checkpoint(path):
            state = foreign_state(path, artifact)
            return Trained(source, artifact, path, state, step_of(artifact, state) or None)
    elif is_compiled:
        raise DriverError(
            f"{source} is a compiled folder, which holds nothing trained to export; name a run folder, or the weights "
            f"with --checkpoint FILE.safetensors",
            ExitCode.USAGE,
        )
    path, found = folder.find(checkpoint, artifact, warn)
    newest = found.position if checkpoint == "last" else None
    return Trained(source, artifact, path, found.state, found.position.step, newest)
