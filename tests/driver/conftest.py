"""What the tests of the driver share: the artifact made by hand, a finished run, and a reporter that remembers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from netc_runtime.events import EpochDone, Started, StepDone, TrainResult
from netc_runtime.predict import Prediction, predict
from netc_runtime.session import Host
from netc_runtime.trainer import TrainOptions, train

from .handmade import write_artifact

CPU = Host("cpu", threads=1)


class Recorder:
    """A reporter that keeps every event; `on_step` is called with each step."""

    def __init__(self, on_step: Callable[[StepDone], None] | None = None) -> None:
        self.begun: Started | None = None
        self.steps: list[StepDone] = []
        self.epochs: list[EpochDone] = []
        self.warnings: list[str] = []
        self.result: TrainResult | None = None
        self.closed = 0
        self._on_step = on_step

    def started(self, event: Started) -> None:
        self.begun = event

    def step_done(self, event: StepDone) -> None:
        self.steps.append(event)
        if self._on_step is not None:
            self._on_step(event)

    def epoch_done(self, event: EpochDone) -> None:
        self.epochs.append(event)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def finished(self, event: TrainResult) -> None:
        self.result = event

    def close(self) -> None:
        self.closed += 1


def classified(model: Path, inputs: list[str]) -> list[Prediction]:
    """Predict with a model that gives one class for each input."""
    found = predict(model, inputs, CPU)
    predictions = [prediction for prediction in found if isinstance(prediction, Prediction)]
    assert len(predictions) == len(found)
    return predictions


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the artifact made by hand: 6 epochs of 22 steps on digits."""
    return write_artifact(tmp_path_factory.mktemp("driver") / "artifact")


@pytest.fixture(scope="session")
def finished_run(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped; tests must not change it."""
    run = tmp_path_factory.mktemp("driver") / "finished"
    train(TrainOptions(run, artifact, CPU), Recorder())
    return run


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sets a cache of its own and returns the folder of decoded data in it, which nothing has made yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "netc" / "decoded"
