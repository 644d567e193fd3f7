"""A run that was stopped and resumed ends in the same bytes as one that never stopped.

Runs begin in processes of their own and are resumed in that of the tests, so that nothing but the run's folder can have
told the second part what it goes on from.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from netc.cli import app

# A schedule over the whole run and running statistics; dropout; the moments of Adam, on two threads; and everything
# that an update may remember: gradients of several batches, averages of weights, evaluations without improvement. What
# follows a blank only tells two runs of one spec apart.
RUNS = {
    "lenet_dsn": ["--set", "data.batch_size=128", "--threads", "1"],
    "lenet_bn_dropout": ["--set", "data.batch_size=128", "--threads", "1"],
    "mlp": ["--set", "data.batch_size=4", "--threads", "2"],
    "lenet_bn_dropout with memory": [
        *("--set", "data.batch_size=32", "--set", "solver.iter_size=4", "--set", "solver.weight_average=0.9"),
        *("--set", "solver.lr_policy={type: plateau, patience: 1, min_delta: 0.5, warmup_steps: 5}", "--threads", "1"),
    ],
}
EPOCHS = ["--set", "solver.max_epochs=4"]


def started(*words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "netc.cli", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def here(*words: str) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output


def spec_of(name: str) -> str:
    return name.partition(" ")[0]


def last_checkpoint(run: Path) -> bytes:
    paths = sorted((run / "checkpoints").glob("step_*.safetensors"), key=lambda p: int(p.stem.split("_")[1]))
    return paths[-1].read_bytes()


@pytest.fixture(scope="module", params=RUNS)
def uninterrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """The name of a spec, and the last checkpoint of four epochs in one go."""
    run = tmp_path_factory.mktemp("run") / request.param
    here("train", spec_of(request.param), "--run", str(run), *EPOCHS, *RUNS[request.param])
    return request.param, last_checkpoint(run)


def test_two_epochs_and_two_more(uninterrupted: tuple[str, bytes], tmp_path: Path) -> None:
    name, expected = uninterrupted
    run = tmp_path / name
    process = started("train", spec_of(name), "--run", str(run), "--stop-after-epochs", "2", *EPOCHS, *RUNS[name])
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert last_checkpoint(run) != expected
    here("train", "--run", str(run), "--resume")
    assert last_checkpoint(run) == expected


def test_interrupted_in_the_middle_of_an_epoch(uninterrupted: tuple[str, bytes], tmp_path: Path) -> None:
    name, expected = uninterrupted
    run = tmp_path / name
    process = started("train", spec_of(name), "--run", str(run), *EPOCHS, *RUNS[name])
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            break
    time.sleep(0.05)  # into the second of four epochs; wherever it strikes, the result must be the same
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "--resume" in said
    assert "Traceback" not in said
    assert last_checkpoint(run) != expected
    here("train", "--run", str(run), "--resume")
    assert last_checkpoint(run) == expected
