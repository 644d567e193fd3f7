"""The program of docs/deploy.md is examples/host.py, and trains as the driver does, by packed programs and plain."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import in_process
from tests.javascript import (
    EXAMPLES,
    FIRST,
    ROOT,
    package_of_a_checkpoint,
    prepare,
    require_agreement,
    spoilt,
    trained_by_the_driver,
)

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


@pytest.fixture(scope="module")
def package(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package_of_a_checkpoint(packed, tmp_path_factory.mktemp("host_package"))


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, HOST, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("kind", "steps", "last"), [("packed", STEPS, STEPS), ("plain", STEPS, STEPS), ("package", 3, FIRST + 3)]
)
def test_the_weights_are_those_of_the_driver(
    kind: str, steps: int, last: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder, weights = request.getfixturevalue(kind), tmp_path / "weights.safetensors"
    result = run(folder / "model", folder / "digits.safetensors", str(steps), weights)
    assert result.returncode == 0, result.stderr
    # The same engine on one thread: equal bits.
    require_agreement(weights, trained_by_the_driver(folder, steps), 0.0, "examples/host.py")
    assert result.stdout.splitlines()[-1].startswith(f"{last} {{'total': ")


def test_it_says_what_it_takes() -> None:
    result = run()
    assert (result.returncode, result.stderr) == (1, "usage: python host.py ARTIFACT DATA STEPS WEIGHTS\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone", "DATA", "1", "w.safetensors"], "ARTIFACT or DATA cannot be read: "),
        (["MODEL", "gone", "1", "w.safetensors"], "ARTIFACT or DATA cannot be read: "),
        (["MODEL", "MODEL", "1", "w.safetensors"], "ARTIFACT or DATA cannot be read: "),
        (["MODEL", "DATA", "0", "w.safetensors"], "STEPS should be a number from 1 on, not 0, "),
        (["MODEL", "DATA", "-5", "w.safetensors"], "STEPS should be a number from 1 on, not -5, "),
        (
            ["MODEL", "DATA", "1", "gone/w.safetensors"],
            "STEPS should be a number from 1 on, not 1, and WEIGHTS a file in",
        ),
        (["MODEL", "DATA", "1", "."], "STEPS should be a number from 1 on, not 1, and WEIGHTS a file in a folder"),
    ],
)
def test_a_mistake_is_a_sentence(arguments: list[str], message: str, packed: Path) -> None:
    places = {"MODEL": str(packed / "model"), "DATA": str(packed / "digits.safetensors")}
    result = run(*(places.get(argument, argument) for argument in arguments))
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith(message)


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"phases": [{"graph": "train"}]}, "phases"),
    ({"init_from": {"path": "w"}, "population_batches": 9}, "init_from, population_batches"),
    ({"state": [{"name": "image.mean", "role": "data_mean"}]}, "data_mean"),
]


@pytest.mark.parametrize(("keys", "named"), REFUSED)
def test_it_refuses_what_takes_more_than_steps(
    keys: dict[str, object], named: str, packed: Path, tmp_path: Path
) -> None:
    manifest = json.loads((packed / "model" / "manifest.json").read_text(encoding="utf-8")) | keys
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    shutil.copy(packed / "model" / "init.safetensors", tmp_path)
    result = run(tmp_path, packed / "digits.safetensors", "1", tmp_path / "weights.safetensors")
    said = f"lenet_dsn needs {named}, which this host does not do; train it with netc train\n"
    assert (result.returncode, result.stderr) == (1, said)


def test_it_stops_when_training_diverges(packed: Path, tmp_path: Path) -> None:
    data, weights = spoilt(packed, tmp_path), tmp_path / "weights.safetensors"
    result = run(packed / "model", data, "9", weights)
    assert (result.returncode, result.stderr) == (1, "training diverged: total is nan at step 1\n")
    assert not weights.exists()


def test_the_program_of_the_page_is_the_example() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    (program,) = (
        block for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "init.safetensors" in block
    )
    assert HOST.read_text(encoding="utf-8").endswith(f"\n{program}")
