"""The README does what it says: its spec, its commands and its program run as printed."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
    """A folder with what the README refers to, the run that `make train` leaves, and what is exported of it."""
    folder = tmp_path_factory.mktemp("readme")
    (spec,) = blocks("yaml")
    (folder / "tiny_dsn.yaml").write_text(spec, encoding="utf-8")
    installed = shutil.ignore_patterns("node_modules", "generated")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=installed)
    for command in PREPARED:
        run(folder, command)
    return folder


def run(folder: Path, command: str) -> str:
    """Run a command with this interpreter's netc; return what it prints."""
    words = shlex.split(command.replace(".venv/bin/", ""))
    words[:1] = [sys.executable, "-m", "netc.cli"] if words[0] == "netc" else [sys.executable]
    result = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


# Others use what these leave.
PREPARED = ("netc train lenet_dsn --run runs/lenet_dsn", ".venv/bin/netc export runs/lenet_dsn -o lenet.onnx --softmax")
RUNNABLE = [
    command
    for command in commands()
    if re.match(r"(netc|\.venv/bin/(netc|python)) ", command) and command not in ("netc train lenet_dsn", *PREPARED)
]


def test_the_commands_are_found() -> None:
    assert len(RUNNABLE) == 9
    assert {"make train", "make test", PREPARED[1]} <= set(commands())


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
    paths = list[str]()
    for index, digit in enumerate(np.load(ROOT / "examples" / "digits.npy")):
        grey = np.rint(digit[0] / 16 * 255).astype(np.uint8)
        image = Image.fromarray(grey) if index % 2 else Image.fromarray(np.stack([grey] * 3, axis=-1))
        image.save(folder / f"{index}.png")
        paths.append(f"{index}.png")
    said = run(folder, f"python examples/classify.py lenet.onnx {' '.join(paths)} examples/seven.png").splitlines()
    # The labels of the eight digits in examples/digits.npy, and that of the image.
    assert [line.split()[1] for line in said] == list("184177817")
    (same,) = run(folder, "netc predict runs/lenet_dsn examples/seven.png").splitlines()
    assert same.split()[1:3] == said[-1].split()[1:3]


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
