"""What the tests of the examples in JavaScript share: what they train, and what the driver makes of the same."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from netc_runtime.arrays import Array
from netc_runtime.artifact import Artifact
from netc_runtime.session import Host
from netc_runtime.step import TrainingStep

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
STEPS = 50
# Of a tensor's largest value. Kernels of two builds sum in different orders, and steps amplify what that changes: after
# 50 steps 1e-6 to 3e-5 were measured; a wrong rate, batch or update gives 1e-2 and more.
TOLERANCE = 1e-4


def program(name: str) -> str:
    """Return the path of a program; skips the test where there is none."""
    return shutil.which(name) or pytest.skip(f"{name} is not installed")


def require_package(example: str, package: str) -> None:
    """Skip the test unless the package of an example is installed."""
    if not (EXAMPLES / example / "node_modules" / package).is_dir():
        pytest.skip(f"{package} is not installed: make examples")


def prepare(folder: Path) -> Path:
    """Write what the examples train by their own command; return the folder."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "runtime")])}
    command = [sys.executable, str(EXAMPLES / "browser" / "prepare.py"), "--generated", str(folder)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return folder


def trained_by_the_driver(generated: Path) -> dict[str, Array]:
    """Return the state after STEPS steps of the same program by the driver, on the batches that the examples take."""
    artifact, data = Artifact.load(generated / "model"), load_file(generated / "digits.safetensors")
    state = artifact.initial_state() | {"max_steps": np.array(STEPS, np.float32)}
    step = TrainingStep(artifact, state, Host("cpu", threads=1))
    size, total = artifact.batch_size, len(data["train.label"])
    for number in range(STEPS):
        rows = np.arange(number * size, (number + 1) * size) % total
        step.run({"image": data["train.image"][rows], "label": data["train.label"][rows]})
    return step.state()


def require_agreement(weights: Path, expected: Mapping[str, Array], host: str) -> None:
    """Assert that a file has all tensors of a state, and values that agree; print the largest difference."""
    found = load_file(weights)
    assert {name: (a.shape, a.dtype) for name, a in found.items()} == {
        name: (a.shape, a.dtype) for name, a in expected.items()
    }
    differences = {
        name: float(np.abs(np.subtract(a, expected[name], dtype=np.float64)).max()) for name, a in found.items()
    }
    relative = {name: value / float(np.abs(expected[name]).max()) for name, value in differences.items()}
    worst = max(relative, key=relative.__getitem__)
    print(
        f"{host}: after {STEPS} steps at most {relative[worst]:.1e} of a tensor's largest value ({worst}), "
        f"{max(differences.values()):.1e} absolutely"
    )
    assert relative[worst] < TOLERANCE, relative
