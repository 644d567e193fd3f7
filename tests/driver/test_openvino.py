"""Training on OpenVINO, checked in a process of its own.

A process in which OpenVINO has run, and ONNX Runtime then trains until a signal comes, ends in a segmentation fault
somewhere in native code. `netc train` uses one engine a process and stops cleanly on either; only the tests of both
meet in one.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CHECKS = sorted(Path(__file__).parent.glob("openvino_*checks.py"))


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *map(str, CHECKS)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=CHECKS[0].parents[2], check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout or "[100%]" in result.stdout, result.stdout
