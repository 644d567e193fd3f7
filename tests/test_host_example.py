"""The program of docs/deploy.md is examples/host.py, and trains as the driver does, by packed programs and plain."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import in_process
from tests.javascript import EXAMPLES, ROOT, prepare, require_agreement, trained_by_the_driver

HOST = EXAMPLES / "host.py"
STEPS = 25  # batch 22 is the first that goes on at the beginning of the data


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("host") / "generated")


@pytest.fixture
def plain(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    assert in_process(monkeypatch, capsys)("compile", "lenet_dsn", "-o", str(tmp_path / "model")).code == 0
    shutil.copy(packed / "digits.safetensors", tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["packed", "plain"])
def test_the_weights_are_those_of_the_driver(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder, weights = request.getfixturevalue(kind), tmp_path / "weights.safetensors"
    arguments = [folder / "model", folder / "digits.safetensors", str(STEPS), weights]
    result = subprocess.run([sys.executable, HOST, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    # The same engine on one thread: equal bits.
    require_agreement(weights, trained_by_the_driver(folder, STEPS), 0.0, "examples/host.py")
    assert result.stdout.splitlines()[-1].startswith(f"{STEPS} {{'total': ")


def test_it_says_what_it_takes() -> None:
    result = subprocess.run([sys.executable, HOST], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "usage: python host.py ARTIFACT DATA STEPS WEIGHTS\n")


def test_the_program_of_the_page_is_the_example() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    (program,) = (
        block for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "init.safetensors" in block
    )
    assert HOST.read_text(encoding="utf-8").endswith(f"\n{program}")
