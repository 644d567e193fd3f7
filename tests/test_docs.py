"""The pages of the language say what the code says: they are made from it, and every example on them compiles."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from netc.augment.base import AUGMENTATIONS
from netc.build import build
from netc.cli import main
from netc.declared import Declared, Family
from netc.layers.base import LAYERS, Include, Loss, Metric, ParamSpec, Side
from netc.schema import FAMILIES, Block
from netc.spec.load import load
from netc.spec.model import Data, InitFrom, Input, TrainingPhase
from netc.spec.text import parse_tree
from netc_runtime.data import SOURCES, check_options, open_source
from scripts.make_docs import DEFINITIONS, INPUTS, ROOT, example_of, explained, files, values

MEMBERS = [(family, cls) for family, _ in FAMILIES for cls in family.members.values()]
SCORES = {"name": "scores", "type": "InnerProduct", "num_output": 10}
LOSS = {"name": "loss", "type": "SoftmaxWithLoss", "bottom": ["scores", "label"]}
SOLVER = {"type": "SGD", "base_lr": 0.1, "max_iter": 10}


def spec_with(family: Family[Any], cls: type[Declared]) -> dict[str, Any]:
    """Return a small spec around the example of a class."""
    example = yaml.safe_load(example_of(family, cls))
    scores, loss, solver = dict(SCORES), dict(LOSS), dict(SOLVER)
    layers: list[dict[str, Any]] = [scores, loss]
    if family is AUGMENTATIONS:
        data = {"source": "none", "batch_size": 4, "range": [0, 255], "augment": example}
        return spec_of([{**scores, "bottom": "image"}, loss], data=data)
    if family is LAYERS:
        # Losses and metrics read scores; behind other layers come scores, which read the layer above if it has a top.
        if issubclass(cls, Metric):
            layers = [*layers, *example]
        elif issubclass(cls, Loss):
            layers = [scores, *example]
        elif cls.called() == "Silence":
            layers = [*example, {**scores, "bottom": "image"}, loss]
        else:
            layers = [*example, *layers]
    elif "weight_filler" in example:
        layers = [{**scores, "type": "Convolution", "kernel_size": 8, **example}, loss]
    elif "loss_weight" in example:
        side = [{"name": "side_scores", "type": "InnerProduct", "num_output": 10}, {"type": "SoftmaxWithLoss"}]
        layers = [{"type": "TanH", "side": {**example, "layers": side}}, *layers]
    elif "lr_policy" in example:
        solver |= example
    else:
        solver = example["solver"]
    return spec_of(layers, solver=solver)


def spec_of(layers: list[dict[str, Any]], **sections: Any) -> dict[str, Any]:
    """Return a spec with the inputs of the page."""
    data = {"source": "none", "batch_size": 4}
    spec = {"netc": 1, "name": "example", **yaml.safe_load(INPUTS), "data": data, "layers": layers, "solver": SOLVER}
    return spec | sections


def compile_spec(spec: dict[str, Any]) -> None:
    text = yaml.safe_dump(spec, sort_keys=False)
    loaded = load(parse_tree(text, "example.yaml"))
    assert not loaded.diagnostics, f"{loaded.diagnostics[0]}\n{text}"
    assert not build(loaded).warnings


def entries(example: Any) -> list[str]:
    """Return the types that an example names, itself or in a shorthand."""
    if isinstance(example, list):
        return [str(entry.get("type")) for entry in example]
    (value,) = example.values()
    if isinstance(value, dict):
        return [str(value.get("type", value.get("policy")))]
    return [value if isinstance(value, str) else "constant"]


@pytest.mark.parametrize(("family", "cls"), MEMBERS, ids=lambda value: getattr(value, "__name__", None))
def test_the_example_compiles(family: Family[Any], cls: type[Declared]) -> None:
    about, example = explained(cls)
    assert about
    assert example, f"{cls.__name__} has no example; end its docstring with one, Example: {{type: {cls.called()}}}"
    assert cls.called() in entries(yaml.safe_load(example_of(family, cls)))
    compile_spec(spec_with(family, cls))


SECTIONS = [Include, ParamSpec, Side, Input, Data, InitFrom, TrainingPhase, Block]


@pytest.mark.parametrize("cls", SECTIONS, ids=lambda cls: cls.__name__)
def test_the_example_of_a_section_compiles(cls: type[Declared]) -> None:
    example = yaml.safe_load(explained(cls)[1])
    sections = {"layers": example} if isinstance(example, list) else example
    layers = [*sections.pop("layers", []), SCORES, LOSS]
    compile_spec(spec_of(layers, **sections))


@pytest.mark.parametrize("name", SOURCES)
def test_the_example_of_a_source_has_its_options(name: str) -> None:
    (data,) = yaml.safe_load(explained(SOURCES[name])[1]).values()
    assert data["source"] == name
    assert check_options(data) == []


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_the_file_is_the_generated_one(path: Path) -> None:
    fresh = path.read_text(encoding="utf-8") == files()[path]
    assert fresh, "the language changed; run: python -m scripts.make_docs"


def test_every_field_says_what_it_takes() -> None:
    for name, definition in DEFINITIONS.items():
        for key, field in definition.get("properties", {}).items():
            assert "/properties/" in field.get("$ref", "") or "anything" not in values(field), f"{name}.{key}"


GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")


def test_the_guide_makes_data_that_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    exec(compile(program, "guide.md", "exec"), {})  # noqa: S102 (the page's own program)
    source = open_source({"source": "npy", "path": "blobs"})
    shapes = {name: array.shape for name, array in source.train.items()}
    assert shapes == {"image": (200, 1, 32, 32), "label": (200, 32, 32)}
    assert set(np.unique(source.test["label"])) == {0, 1}


@pytest.mark.parametrize("command", re.findall(r"^\$ netc (check .*)$", GUIDE, flags=re.MULTILINE))
def test_the_guide_overrides(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["netc", *shlex.split(command)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "parameters" in capsys.readouterr().out


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, anchor
