"""What training reports, as data: reporters decide how it looks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from netc_runtime.artifact import Metric
from netc_runtime.transfer import InitReport


@dataclass(frozen=True)
class Started:
    """The plan of a session.

    `step` is where it begins: 0, or the step it resumes from. `init_from` says what was loaded before the first step.
    `precision` is what a training step computes in, `float32` or `mixed`.
    """

    name: str
    run: Path
    device: str
    device_reason: str
    threads: int
    train_samples: int
    test_samples: int
    batch_size: int
    steps_per_epoch: int
    total_steps: int
    max_epochs: int | None
    step: int
    metrics: tuple[Metric, ...]
    init_from: InitReport | None = None
    precision: str = "float32"


@dataclass(frozen=True)
class StepDone:
    """One optimizer step and the metrics of its batch; `epoch` counts from 1."""

    step: int
    epoch: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class EpochDone:
    """An evaluation, by default at the end of an epoch, and at that of the run; `epoch` counts from 1.

    `train` holds means over the batches since the evaluation before, `test` exact means over the test split, `rates`
    the learning rates of the last step. `images_per_second` counts training only, `seconds` evaluation too; both cover
    what this session did since the evaluation before.
    """

    epoch: int
    step: int
    rates: Mapping[str, float]
    train: Mapping[str, float]
    test: Mapping[str, float]
    images_per_second: float
    seconds: float


@dataclass(frozen=True)
class TrainResult:
    """How a session ended.

    `finished` is true if the planned number of steps is reached, or if early stopping ended the run before, which
    `stopped_early` says. `test` is the last evaluation (empty if this session had nothing left to do), `best_step` the
    step of the best checkpoint, `chosen` the checkpoint to export ("last" or "best"). `resume_command` continues the
    run.
    """

    run: Path
    resume_command: str
    step: int
    epochs: int
    finished: bool
    checkpoint: Path
    test: Mapping[str, float]
    best_step: int | None
    seconds: float
    stopped_early: bool = False
    chosen: str = "last"


class Reporter(Protocol):
    """Listens to a training session."""

    def started(self, event: Started) -> None:
        """Hear of the plan."""

    def step_done(self, event: StepDone) -> None:
        """Hear of one step: called thousands of times a second, so it has to return quickly."""

    def epoch_done(self, event: EpochDone) -> None:
        """Hear of an evaluation."""

    def warn(self, message: str) -> None:
        """Hear of something that the user should know but that does not stop the session."""

    def finished(self, event: TrainResult) -> None:
        """Hear of the regular end."""

    def close(self) -> None:
        """Release the terminal; called once, whatever happened."""
