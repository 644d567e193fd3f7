"""Wherever batches come from, a run makes the same bits: its state, its statistics, its monitor, and its divergence."""

import os
import signal
import threading
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from netc.build import build
from netc.emit import write
from netc.spec.load import load
from netc.spec.overrides import apply_override
from netc.spec.text import parse_tree
from netc_runtime import feed
from netc_runtime.artifact import Artifact
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.events import StepDone
from netc_runtime.session import Host
from netc_runtime.trainer import TrainOptions, train
from tests.driver.conftest import Recorder

# Everything that reads training batches: steps of several batches, two phases, a monitor, statistics of the population.
SPEC = """
netc: 1
name: fed
inputs: {image: {shape: [1, 8, 8]}, label: {classes: 10}}
data: {source: digits, scale: 0.0625, batch_size: 32}
layers:
  - {name: conv1, type: Convolution, num_output: 4, kernel_size: 3}
  - {name: bn1, type: BatchNorm, statistics: population}
  - {type: ReLU}
  - {name: drop, type: Dropout}
  - {name: ip, type: InnerProduct, num_output: 10}
  - {name: loss, type: SoftmaxWithLoss}
solver: {type: SGD, base_lr: 0.1, momentum: 0.9, max_iter: 30, iter_size: 2, population_batches: 4}
phases:
  - {iterations: 9, freeze: "conv*"}
  - {}
run: {monitor_every: 10, evaluate_every: {steps: 10}}
"""
CPU = Host("cpu", threads=1)
WAYS = ("inline", "thread", "resident")


def compiled(folder: Path, way: str, *options: str) -> Path:
    tree = parse_tree(SPEC, "spec.yaml")
    for option in (f"data.resident={'true' if way == 'resident' else 'false'}", *options):
        tree = apply_override(tree, option)
    write(build(load(tree)), folder)
    return folder


def take(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "_WORTH_A_THREAD", 0 if way == "thread" else 1 << 40)


def results(run: Path) -> tuple[dict[str, bytes], str]:
    state = load_file(run / "checkpoints" / "step_30.safetensors")
    return {name: array.tobytes() for name, array in state.items()}, (run / "monitor.csv").read_text()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("netc-prefetch")]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], str]:
    folder = tmp_path_factory.mktemp("inline")
    train(TrainOptions(folder / "run", compiled(folder / "artifact", "inline"), CPU), Recorder())
    return results(folder / "run")


@pytest.mark.parametrize("way", WAYS[1:])
def test_every_way_ends_in_the_same_bits(
    way: str, expected: tuple[dict[str, bytes], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(way, monkeypatch)
    artifact, seen = compiled(tmp_path / "artifact", way), list[bool]()

    def stop(event: StepDone) -> None:
        seen.append(bool(threads()))
        if event.step == 13:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(DriverError, match="stopped by SIGINT after step 13") as caught:
        train(TrainOptions(tmp_path / "run", artifact, CPU), Recorder(stop))
    assert caught.value.exit_code == ExitCode.INTERRUPTED
    assert set(seen) == {way == "thread"}
    assert not threads()
    train(TrainOptions(tmp_path / "run", artifact, CPU, resume=True), Recorder())
    assert not threads()
    assert results(tmp_path / "run") == expected


def test_a_run_may_be_continued_in_another_way(
    expected: tuple[dict[str, bytes], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take("inline", monkeypatch)
    first, then = (compiled(tmp_path / way, way) for way in ("resident", "inline"))
    assert Artifact.load(first).spec_hash == Artifact.load(then).spec_hash
    train(TrainOptions(tmp_path / "run", first, CPU, stop_after_epochs=1), Recorder())
    train(TrainOptions(tmp_path / "run", then, CPU, resume=True), Recorder())
    assert results(tmp_path / "run") == expected


def test_a_divergence_is_told_the_same_in_every_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight overflows in a step whose loss is finite, so that steps are made again to find it."""
    said = set()
    for way in WAYS:
        take(way, monkeypatch)
        artifact = compiled(tmp_path / way, way, "solver.base_lr=1e20", "lr_mult={ip: 1e20}")
        with pytest.raises(DriverError) as caught:
            train(TrainOptions(tmp_path / "run" / way, artifact, CPU), Recorder())
        assert caught.value.exit_code == ExitCode.DIVERGED
        assert not threads()
        said.add(str(caught.value))
    assert len(said) == 1
    assert "training diverged at step 1: " in said.pop()  # which the loss of step 2 has shown
