"""The README does what it says: its spec, its commands and its program run as printed."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    """Return the commands that a reader is told to type."""
    lines = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    return [line.split("  #")[0].strip() for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README refers to, and the run that `make train` leaves."""
    folder = tmp_path_factory.mktemp("readme")
    (spec,) = blocks("yaml")
    (folder / "tiny_dsn.yaml").write_text(spec, encoding="utf-8")
    installed = shutil.ignore_patterns("node_modules", "generated")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=installed)
    run(folder, "netc train lenet_dsn --run runs/lenet_dsn")
    return folder


def run(folder: Path, command: str) -> str:
    """Run a command with this interpreter's netc; return what it prints."""
    words = shlex.split(command.replace(".venv/bin/", ""))
    words[:1] = [sys.executable, "-m", "netc.cli"] if words[0] == "netc" else [sys.executable]
    result = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


RUNNABLE = [c for c in commands() if re.match(r"(netc|\.venv/bin/(netc|python)) ", c) and c != "netc train lenet_dsn"]


def test_the_commands_are_found() -> None:
    assert len(RUNNABLE) == 9
    assert {"make train", "make test"} <= set(commands())


@pytest.mark.parametrize("command", RUNNABLE)
def test_command(folder: Path, command: str) -> None:
    assert run(folder, command).strip()


def test_the_commands_of_make_reach_what_the_readme_promises(folder: Path) -> None:
    said = run(folder, "netc eval runs/lenet_dsn")
    accuracy = re.search(r"accuracy (\d\.\d+)", said)
    assert accuracy is not None
    assert float(accuracy[1]) >= 0.98, said
    assert all(name in said for name in ("total", "loss", "l1", "l2"))


def test_the_program_is_the_example(folder: Path) -> None:
    (program,) = blocks("python")
    assert program.strip() in (ROOT / "examples" / "classify.py").read_text(encoding="utf-8")
    said = run(folder, "python examples/classify.py runs/lenet_dsn/model.onnx examples/digits.npy")
    # The labels of the eight digits in examples/digits.npy.
    assert [line.split()[0] for line in said.splitlines()] == list("18417781")


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
