"""The JSON Schema of the language accepts what the loader accepts, and rejects what it finds wrong with fields."""

import copy
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from netc.errors import SpecError
from netc.schema import FAMILIES, Use, language, text
from netc.spec.blocks import OWN_KEYS
from netc.spec.load import load
from netc.spec.text import parse_tree, read_tree
from tests.zoo import SPECS

SCHEMA = SPECS / "netc.schema.json"
FILES = sorted(SPECS.rglob("*.yaml"))


class _Delete:
    """Stands for no value at all; the names of the tests show it."""

    def __repr__(self) -> str:
        return "deleted"


DELETE = _Delete()

# One of each: families, shorthands, lists of one, a side, a block and its use.
SPEC: dict[str, Any] = yaml.safe_load("""
netc: 1
name: all_of_it
inputs:
  image: {shape: [3, 8, 8]}
  label: {classes: 10}
data: {source: none, batch_size: 8, resize: [8, 8], mean: [1.0, 2.0, 3.0], scale: 0.5, shuffle: true}
blocks:
  residual:
    parameters: {channels: null, stride: 1, filler: xavier, kind: ReLU}
    layers:
      - {name: conv1, type: Convolution, num_output: $channels, kernel_size: 3, pad: 1, stride: [$stride, 1],
         weight_filler: $filler, bias_filler: {type: constant, value: "${1 / channels}"}}
      - {name: kind, type: $kind}
      - {name: conv2, type: Convolution, bottom: $in, num_output: "${channels * 1}", kernel_size: 1,
         stride: [$stride, 1]}
      - {name: sum, type: Eltwise, bottom: [kind, conv2]}
layers:
  - {name: conv1, type: Convolution, num_output: 4, kernel_size: [3, 3], pad: 1, weight_filler: msra}
  - {name: pool1, type: Pooling, kernel_size: 2, stride: 2, side: {loss_weight: 0.3, layers: [
      {type: InnerProduct, num_output: 10}, {name: l1, type: SoftmaxWithLoss}]}}
  - {name: res, block: residual, channels: 4, repeat: 2, bottom: pool1}
  - {name: drop, type: Dropout, dropout_ratio: 0.25, include: {phase: train}}
  - {name: scores, type: InnerProduct, num_output: 10, weight_filler: {type: gaussian, std: 0.01},
     param: [{lr_mult: 1.0}, {lr_mult: 2.0, decay_mult: 0.0}]}
  - {name: loss, type: SoftmaxWithLoss, loss_weight: 2.0}
  - {name: accuracy, type: Accuracy, bottom: [scores, label], top_k: 3}
solver: {type: SGD, base_lr: 0.1, momentum: 0.9, lr_policy: {type: step, gamma: 0.1, stepsize: 10}, max_epochs: 3}
lr_mult: {conv1: 0.5}
phases: [{epochs: 1, freeze: conv1}, {sides: true}]
""")

Edit = tuple[str, Any]  # a path such as layers.0.pad, and the value to put there

ACCEPTED: list[list[Edit]] = [
    [],
    [("solver.lr_policy", "fixed")],
    [("solver", {"type": "Adam", "base_lr": 0.1, "max_iter": 5})],
    [("data.mean", 1.5)],
    [("data.mean", 2)],
    [("layers.0.kernel_size", 3)],
    [("layers.0.weight_filler", {"type": "xavier", "variance_norm": "average"})],
    [("layers.1.side.loss_weight", {"policy": "linear", "start": 0.3, "until": 0.8})],
    [("layers.1.side.loss_weight", 1)],
    [("layers.1.side.layers.0", {"name": "in_side", "block": "residual", "channels": 4})],
    [("layers.2.include", {"phase": "train"})],
    [("layers.2.channels", "4"), ("blocks.residual.layers.0.num_output", 4), ("blocks.residual.layers.2.num_output", 4),
     ("blocks.residual.layers.0.bias_filler", DELETE)],
    [("blocks.residual.layers.0.weight_filler", {"type": "$filler"})],
    [("blocks.residual.layers.0.name", "conv${stride}")],
    [("blocks.residual.layers.3.bottom", ["conv1", "$in"]), ("layers.2.repeat", DELETE)],
    [("use", [])],
    [("init_from", "runs/other"), ("reinit", "scores"), ("freeze", ["conv1", "*.bias"]), ("lr_mult", {"conv*": 0.1})],
    [("init_from", {"path": "other.onnx", "checkpoint": "best", "rename": {"a.*": "b.*"}})],
    [("phases", [{"epochs": 2, "freeze": "conv1", "sides": False}, {"solver": {"base_lr": 0.1}, "lr_mult": {"a": 2}}])],
]  # fmt: skip

MISTAKES: list[Edit] = [
    ("netc", 2),
    ("netc", DELETE),
    ("name", ""),
    ("name", "a b"),
    ("name", 3),
    ("foo", 1),
    ("solver", DELETE),
    ("layers", []),
    ("layers", {}),
    ("inputs", {}),
    ("inputs.image.shape", [3, 0, 8]),
    ("inputs.image.shape", "8x8"),
    ("inputs.image.size", 8),
    ("inputs.label.classes", 1),
    ("inputs.a b", {"shape": [1]}),
    ("data.source", DELETE),
    ("data.batch_size", 0),
    ("data.batch_size", 1.5),
    ("data.batch_size", True),
    ("data.resize", [8]),
    ("data.resize", [8, 8, 8]),
    ("data.mean", "one"),
    ("data.mean", ["one"]),
    ("data.scale", None),
    ("solver.type", "SDG"),
    ("solver.type", DELETE),
    ("solver.base_lr", 0.0),
    ("solver.base_lr", "0.1"),
    ("solver.base_lr", 1e31),
    ("solver.momentum", 1.0),
    ("solver.beta1", 0.5),
    ("solver.max_epochs", 0),
    ("solver.random_seed", 2**32),
    ("solver.lr_policy", "step"),
    ("solver.lr_policy", "fxied"),
    ("solver.lr_policy.stepsize", 0),
    ("solver.lr_policy.gamma", DELETE),
    ("solver.lr_policy.power", 1.0),
    ("layers.0", "ReLU"),
    ("layers.0.type", "Convolutoin"),
    ("layers.0.type", DELETE),
    ("layers.0.name", "a.b"),
    ("layers.0.name", "x" * 201),
    ("layers.0.num_output", DELETE),
    ("layers.0.num_output", "$channels"),
    ("layers.0.num_ouput", 4),
    ("layers.0.kernel_size", []),
    ("layers.0.kernel_size", 2.5),
    ("layers.0.bias_term", "yes"),
    ("layers.0.weight_filler", "msar"),
    ("layers.0.weight_filler", {"type": "msra", "std": 1.0}),
    ("layers.0.weight_filler", {"std": 1.0}),
    ("layers.0.bottom", 1),
    ("layers.1.pool", "min"),
    ("layers.1.side.layers", []),
    ("layers.1.side.layers.0.num_output", 0),
    ("layers.1.side.loss_weight", -0.1),
    ("layers.1.side.loss_weight", "constant"),
    ("layers.1.side.loss_weight", {"policy": "step_off", "start": 1.0}),
    ("layers.1.side.loss_weight", {"policy": "linear", "start": 1.0, "until": 1.5}),
    ("layers.1.side.threshold", -1.0),
    ("layers.2.name", DELETE),
    ("layers.2.repeat", 0),
    ("layers.2.repeat", "two"),
    ("layers.3.dropout_ratio", 1.0),
    ("layers.3.include.phase", "valid"),
    ("layers.3.include", {}),
    ("layers.4.param.0.lr_mult", -1.0),
    ("layers.4.param.0.lr", 1.0),
    ("layers.4.weight_filler.std", -1.0),
    ("layers.5.loss_weight", -1.0),
    ("layers.6.top_k", 0),
    ("blocks.residual", {"parameters": {}}),
    ("blocks.residual.layers", []),
    ("blocks.residual.repeat", 2),
    ("blocks.residual.parameters.block", 2),
    ("blocks.residual.parameters.a b", 2),
    ("blocks.residual.layers.0.num_output", "channels"),
    ("blocks.residual.layers.0.kernel_size", "three"),
    ("blocks.residual.layers.0.kernels", 3),
    ("blocks.residual.layers.0.stride", [1, "two"]),
    ("blocks.residual.layers.0.bias_filler.type", "constnat"),
    ("blocks.residual.layers.1.type", "LeRU"),
    ("blocks.residual.layers.2.num_output", DELETE),
    ("use", "blocks/resnet.yaml"),
    ("init_from", 3),
    ("init_from", {}),
    ("init_from", {"path": "a", "checkpoint": "newest"}),
    ("freeze", 3),
    ("freeze", [""]),
    ("reinit", {"conv1": True}),
    ("lr_mult", 0.1),
    ("lr_mult.conv1", -0.1),
    ("phases", {"epochs": 2}),
    ("phases.0.epochs", 0),
    ("phases.0.epoch", 1),
    ("phases.1.sides", "off"),
]


def edited(*edits: Edit) -> dict[str, Any]:
    """Return the spec with values put in place or deleted."""
    spec = copy.deepcopy(SPEC)
    for path, value in edits:
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
        inside: Any = spec
        for parent in parents:
            inside = inside[parent]
        if value is DELETE:
            del inside[last]
        else:
            inside[last] = value
    return spec


def loader_accepts(spec: dict[str, Any]) -> bool:
    try:
        return not load(parse_tree(json.dumps(spec), "spec.yaml")).diagnostics
    except SpecError:
        return False


VALIDATOR = jsonschema.Draft202012Validator(language())


def mistakes(value: Any) -> list[str]:
    """Return what the schema has to say of a value."""
    return [f"{error.json_path}: {error.message[:200]}" for error in VALIDATOR.iter_errors(value)]


def places(errors: Iterable[jsonschema.ValidationError]) -> Iterator[str]:
    """Yield where mistakes are seen, those of each alternative that was tried among them."""
    for error in errors:
        yield ".".join(map(str, error.absolute_path))
        yield from places(error.context or ())


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(language())


def test_the_file_is_what_netc_schema_prints() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == text(), "the language changed; run: python -m scripts.make_docs"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_zoo_is_accepted(path: Path) -> None:
    """As the file stands, and as editors read it: by YAML's rules, not by netc's own reader."""
    assert mistakes(read_tree(path).value) == []
    assert mistakes(yaml.safe_load(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_zoo_names_its_schema(path: Path) -> None:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    start = "# yaml-language-server: $schema="
    assert first.startswith(start)
    assert (path.parent / first.removeprefix(start)).resolve() == SCHEMA.resolve()


@pytest.mark.parametrize("edits", ACCEPTED, ids=str)
def test_accepted_by_both(edits: list[Edit]) -> None:
    spec = edited(*edits)
    assert loader_accepts(spec)
    assert mistakes(spec) == []


@pytest.mark.parametrize("edit", MISTAKES, ids=lambda edit: f"{edit[0]}={'' if edit[1] is DELETE else edit[1]}"[:60])
def test_rejected_by_both(edit: Edit) -> None:
    spec, (path, _) = edited(edit), edit
    assert not loader_accepts(spec)
    parent = path.rpartition(".")[0]
    assert any(place in (path, parent) for place in places(VALIDATOR.iter_errors(spec))), mistakes(spec)


def test_messages_speak_of_the_chosen_class_alone() -> None:
    assert mistakes(edited(("layers.0.num_output", 0))) == [
        "$.layers[0].num_output: 0 is less than or equal to the minimum of 0"
    ]
    (unknown,) = mistakes(edited(("layers.0.type", "Convolutoin")))
    assert unknown.startswith("$.layers[0].type: 'Convolutoin' is not one of [")


def test_a_file_of_blocks() -> None:
    assert mistakes({"blocks": SPEC["blocks"], "use": ["other.yaml"]}) == []
    assert mistakes({"blocks": {"residual": {}}})


def test_every_member_can_be_chosen() -> None:
    definitions = language()["$defs"]
    for family, _ in FAMILIES:
        assert family.members
        for name in family.members:
            assert definitions[f"{family.definition}.{name}"]["properties"][family.key]["const"] == name
    assert "Filter" not in definitions["layer"]["else"]["properties"]["type"]["enum"]


def test_a_use_has_the_keys_that_the_loader_knows() -> None:
    assert Use.model_fields.keys() == OWN_KEYS


def nodes(schema: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(schema, dict):
        yield path, schema
        for key, child in schema.items():
            yield from nodes(child, f"{path}/{key}")
    elif isinstance(schema, list):
        for i, child in enumerate(schema):
            yield from nodes(child, f"{path}/{i}")


def test_references_lead_somewhere() -> None:
    schema = language()
    found = dict(nodes(schema))
    for path, node in found.items():
        assert node.get("$ref", "#")[1:] in found, path


def test_every_mapping_and_field_is_described() -> None:
    missing: list[str] = []
    choices = {family.definition for family, _ in FAMILIES}
    for name, definition in language()["$defs"].items():
        if "properties" in definition:
            missing += [name] * ("description" not in definition and name not in choices)
            fields = definition["properties"].items()
            missing += [f"{name}.{key}" for key, field in fields if not field.keys() & {"description", "$ref"}]
    assert missing == []
