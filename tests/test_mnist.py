"""Training on real MNIST, where its files lie beside the project."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist"


@pytest.mark.skipif(not MNIST.is_dir(), reason="MNIST is not at ../shared/data/mnist")
def test_one_epoch(tmp_path: Path) -> None:
    """One epoch reaches 98 % of the 10,000 test images; three reach 99 %."""
    options = ["--set", "data.source=mnist", "--set", f"data.path={MNIST}", "--set", "solver.max_epochs=1"]
    command = [sys.executable, "-m", "netc.cli", "train", "lenet_dsn", "--run", str(tmp_path / "run"), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "on 10000 test samples" in result.stdout
    accuracy = re.search(r"test total .* accuracy (\d\.\d+)", result.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) >= 0.98, result.stdout
