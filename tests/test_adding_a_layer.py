"""docs/adding_a_layer.md, followed to the letter in a copy of the repository."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "adding_a_layer.md").read_text(encoding="utf-8")
COPIED = ("netc", "runtime", "tests", "scripts", "specs", "docs", "pyproject.toml")
MODULE, ROWS = "netc/layers/activation.py", "tests/cases/activation_layers.py"


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def run(folder: Path, *words: str) -> str:
    """Run a Python command in the copy, whose packages go before the installed ones."""
    path = os.pathsep.join([str(folder), str(folder / "runtime")])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, *words]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(words)}\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with the class and the row where the page puts them."""
    folder = tmp_path_factory.mktemp("adding")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    assert all(f"`{name}`" in PAGE for name in (MODULE, ROWS))
    layer, row = blocks("python")
    with (folder / MODULE).open("a", encoding="utf-8") as module:
        module.write(f"\n\n{layer}")
    table = (folder / ROWS).read_text(encoding="utf-8")
    opening = "ACTIVATION_CASES: list[LayerCase] = [\n"
    assert table.count(opening) == 1
    (folder / ROWS).write_text(table.replace(opening, opening + row), encoding="utf-8")
    (command,) = blocks("console")
    run(folder, *command.removeprefix("$ python ").split())
    return folder


@pytest.fixture(scope="module")
def passed(folder: Path) -> dict[str, set[str]]:
    """What the copy's own tests say of the new layer: the names of those that pass, by file."""
    words = ["Softsign", "every_layer_has_a_row", "every_registered_layer", "every_type_can"]
    words += ["generated_one", "every_mapping_and_field"]
    files = [f"tests/test_{name}.py" for name in ("layers", "random_networks", "docs", "schema")]
    said = run(folder, "-m", "pytest", "-vv", "-p", "no:cacheprovider", *files, "-k", " or ".join(words))
    found = re.findall(r"^(\S+)::(\S+) PASSED", said, flags=re.MULTILINE)
    return {file: {name for path, name in found if path == file} for file in files}


def test_the_row_passes(passed: dict[str, set[str]]) -> None:
    names = {name.partition("[")[0] for name in passed["tests/test_layers.py"]}
    assert names == {
        "test_every_layer_has_a_row",
        "test_train_phase_agrees_with_pytorch",
        "test_test_phase_agrees_with_pytorch_in_a_batch_of_any_size",
        "test_gradient_is_the_slope_along_a_random_direction",
    }


def test_the_row_takes_part_in_random_networks(passed: dict[str, set[str]]) -> None:
    assert passed["tests/test_random_networks.py"] == {
        "test_every_registered_layer_has_a_twin_or_a_row",
        "test_every_type_can_be_drawn",
        "test_layers_agree_with_their_rows[Softsign]",
    }


def test_the_example_compiles_and_the_files_are_fresh(passed: dict[str, set[str]]) -> None:
    assert len(passed["tests/test_docs.py"]) + len(passed["tests/test_schema.py"]) == 7


def test_two_files_are_written_and_two_generated(folder: Path) -> None:
    originals = [path for name in COPIED for path in [ROOT / name, *(ROOT / name).rglob("*")]]
    files = {str(path.relative_to(ROOT)) for path in originals if path.is_file() and "__pycache__" not in path.parts}
    changed = {file for file in files if (folder / file).read_bytes() != (ROOT / file).read_bytes()}
    assert changed == {MODULE, ROWS, "docs/layers.md", "specs/netc.schema.json"}


def test_the_pages_and_the_schema_have_it(folder: Path) -> None:
    assert "### Softsign" not in (ROOT / "docs" / "layers.md").read_text(encoding="utf-8")
    page = (folder / "docs" / "layers.md").read_text(encoding="utf-8").partition("### Softsign")[2].partition("###")[0]
    assert "| `width` | number > 0 | `1.0` | Distance from 0 at which the top is 1/2. |" in page
    assert "- {type: Softsign, width: 0.5}" in page
    schema = json.loads((folder / "specs" / "netc.schema.json").read_text(encoding="utf-8"))
    (spec,) = map(yaml.safe_load, blocks("yaml"))
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(spec)
    spec["layers"][1]["width"] = 0.0
    assert not validator.is_valid(spec)


def test_the_spec_compiles(folder: Path) -> None:
    (spec,) = blocks("yaml")
    (folder / "softsign.yaml").write_text(spec, encoding="utf-8")
    assert "softsign1" in run(folder, "-m", "netc.cli", "check", "softsign.yaml")


def test_the_code_is_as_tidy_as_the_rest(folder: Path) -> None:
    for command in (["check"], ["format", "--check"]):
        run(folder, "-m", "ruff", *command, "--no-cache", MODULE, ROWS)
