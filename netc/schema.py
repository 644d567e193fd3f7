"""The JSON Schema (draft 2020-12) of the language for editors, made of the same classes that the loader validates with.

A mapping whose `type` chooses its class becomes one `if`/`then` a class, so that editors offer the fields of the chosen
class and messages speak of these alone. Inside a block, a reference such as `$channels` may stand for every value;
definitions for there are copies that begin with `block.`. What one field says of another, such as exactly one of
max_epochs and max_iter, and everything about shapes, is left to `netc check`.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import FloatSchema

from netc.augment.base import AUGMENTATIONS, Operation
from netc.declared import LARGEST, Declared, Family, Names
from netc.layers.base import LAYERS, AnyLayer, Include, Layer, Name, Side
from netc.layers.fillers import FILLERS, Filler
from netc.layers.schedules import SCHEDULES, Schedule
from netc.solver.policies import POLICIES, Policy
from netc.solver.rules import SOLVERS, Solver
from netc.spec.blocks import OWN_KEYS
from netc.spec.model import VERSION, NetSpec

Schema = dict[str, Any]

# Each family with the class of the fields that all of its members have.
FAMILIES: tuple[tuple[Family[Any], type[Declared]], ...] = (
    (LAYERS, Layer),
    (FILLERS, Filler),
    (SCHEDULES, Schedule),
    (POLICIES, Policy),
    (SOLVERS, Solver),
    (AUGMENTATIONS, Operation),
)
REFERENCE: Schema = {
    "type": "string",
    "pattern": r"\$(\{|[A-Za-z_])",
    "description": "A parameter of the block, $name, or arithmetic with some, ${2 * name}; $in is the block's input.",
}

Identifier = Annotated[
    str, Field(pattern=r"^[A-Za-z_]\w*$", json_schema_extra={"not": {"enum": [*sorted(OWN_KEYS), "in"]}})
]


class Block(Declared):
    """A repeated structure, declared once with parameters and used by name: `{name: res1, block: residual}`.

    Inside, `$channels` is the value of a parameter, `${channels * 4}` arithmetic with it, `$in` the top that the block
    reads and `$index` the number of the copy. The top of the block is that of its last layer.

    Example:
        blocks:
          residual:
            parameters: {channels: null, stride: 1}
            layers:
              - {name: conv1, type: Convolution, num_output: $channels, kernel_size: 3, pad: 1, stride: $stride}
              - {type: ReLU}
              - {name: conv2, type: Convolution, num_output: $channels, kernel_size: 3, pad: 1}
              - {name: sum, type: Eltwise, bottom: [conv2, $in]}
        layers:
          - {name: conv0, type: Convolution, num_output: 16, kernel_size: 3}
          - {name: res1, block: residual, channels: 16, repeat: 3}
    """

    parameters: dict[Identifier, Any] = {}
    """Names with their defaults; null: every use must give it."""
    layers: list[AnyLayer] = Field(min_length=1)
    """The layers, whose names get the name of the use as a prefix: `res1/conv1`."""


class Use(Declared):
    """A use of a block in place of a layer; its other keys are the parameters of the block."""

    model_config = ConfigDict(extra="allow")

    name: Name
    """Prefix of the names inside, and name of the block's top."""
    block: str
    """Name of the block."""
    bottom: Names = []
    """What the block reads as `$in`; without it, the layer above."""
    repeat: int = Field(1, gt=0)
    """Number of copies in a row, called `name/1`, `name/2` and so on."""
    include: Include | None = None
    """The phase in which the layers of the block take part; without it, both."""
    side: Side | None = None
    """A companion objective that branches off behind the last copy."""
    checkpoint: bool = False
    """Whether only the input of each copy is kept for the backward pass, and the rest computed again."""


class BlockFile(Declared):
    """A file of blocks, for `use` in others."""

    use: list[str] = []
    """Files whose blocks are known here, relative to this file."""
    blocks: dict[str, Block] = {}
    """Repeated structures by name."""


class SpecFile(BlockFile, NetSpec):  # noqa: D101
    __doc__ = NetSpec.__doc__
    model_config = ConfigDict(title="the spec")


class _Generator(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def float_schema(self, schema: FloatSchema) -> JsonSchemaValue:
        bounds: JsonSchemaValue = super().float_schema(schema)
        if not bounds.keys() & {"minimum", "exclusiveMinimum"}:
            bounds["minimum"] = -LARGEST
        if not bounds.keys() & {"maximum", "exclusiveMaximum"}:
            bounds["maximum"] = LARGEST
        return bounds


def text() -> str:
    """Return the schema as it is written to a file."""
    return json.dumps(language(), indent=1, ensure_ascii=False) + "\n"


def language() -> Schema:
    """Return the schema of a spec, or of a file of blocks."""
    definitions: dict[str, Schema] = {"reference": REFERENCE}
    for family, base in FAMILIES:
        common = f"{family.definition}.common"
        definitions[common] = _mapping(base, definitions)
        del definitions[common]["properties"][family.key]  # every member has its own
        for name, cls in family.members.items():
            member = _mapping(cls, definitions)
            _share(member["properties"], common, definitions[common]["properties"])
            definitions[f"{family.definition}.{name}"] = member
        definitions[family.definition] = _choice(family, definitions)
    layer = definitions["layer"]
    definitions["layer"] = {"if": {"required": ["block"]}, "then": _ref("Use"), "else": layer}
    for cls in (Use, BlockFile, SpecFile):
        definitions[cls.__name__] = _mapping(cls, definitions)
    inside = _reach("layer", definitions)
    definitions |= {f"block.{name}": _inside_block(definitions[name], inside) for name in sorted(inside)}
    definitions["Block"]["properties"]["layers"]["items"] = _ref("block.layer")
    only_blocks = dict.fromkeys(BlockFile.model_fields, True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"netc, version {VERSION} of the language",
        "if": {"type": "object", "minProperties": 1, "properties": only_blocks, "additionalProperties": False},
        "then": _ref("BlockFile"),
        "else": _ref("SpecFile"),
        "$defs": dict(sorted(definitions.items())),
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _mapping(cls: type[Declared], definitions: dict[str, Schema]) -> Schema:
    """Return the schema of one class; classes that it refers to are added to the definitions."""
    schema = _resolved(cls.model_json_schema(schema_generator=_Generator))
    definitions |= schema.pop("$defs", {})
    schema.pop("title", None)
    return dict(schema)


def _resolved(node: Any) -> Any:
    """Put references in place of families, and close mappings whose keys have a pattern."""
    if isinstance(node, list):
        return [_resolved(child) for child in node]
    if not isinstance(node, dict):
        return node
    node = {key: _resolved(child) for key, child in node.items()}
    if "patternProperties" in node:
        node.setdefault("additionalProperties", False)
    return node | _ref(node.pop("family")) if isinstance(node.get("family"), str) else node


def _share(properties: dict[str, Schema], common: str, fields: dict[str, Schema]) -> None:
    """Refer to a field that all of a family have, where a class leaves it as it is."""
    for name, field in properties.items():
        if fields.get(name) == field:
            properties[name] = _ref(f"{common}/properties/{name}")


def _choice(family: Family[Any], definitions: dict[str, Schema]) -> Schema:
    """Return the schema of any member: the key chooses the class, or a shorthand stands for one."""
    key, members = family.key, family.members
    for name in members:
        member = definitions[f"{family.definition}.{name}"]
        summary = member["description"].partition("\n\n")[0]
        member["properties"][key] = {"const": name, "description": summary}
    mapping: Schema = {
        "type": "object",
        "required": [key],
        "properties": {key: {"enum": list(members), "description": f"Kind of {family.kind}."}},
        "allOf": [
            {
                "if": {"properties": {key: {"const": name}}, "required": [key]},
                "then": _ref(f"{family.definition}.{name}"),
            }
            for name in members
        ],
    }
    short: list[Schema] = []
    if family.shorthand:
        plain = [name for name in members if "required" not in definitions[f"{family.definition}.{name}"]]
        short.append({"enum": plain})
    if family.number is not None:
        name, field = family.number
        short.append(_ref(f"{family.definition}.{name}/properties/{field}"))
    return {"anyOf": [*short, mapping]} if short else mapping


def _references(node: Any) -> Iterator[str]:
    """Yield the names of the definitions that a schema refers to."""
    if isinstance(node, list):
        for child in node:
            yield from _references(child)
    elif isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"].removeprefix("#/$defs/").partition("/")[0]
        for child in node.values():
            yield from _references(child)


def _reach(name: str, definitions: dict[str, Schema]) -> set[str]:
    """Return the definitions that one depends on, itself among them."""
    found, waiting = set[str](), [name]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(_references(definitions[name]))
    return found


def _inside_block(schema: Schema, inside: set[str]) -> Schema:
    """Return a copy for the layers of a block, in which a reference may stand for every value."""

    def value(child: Any) -> Any:
        shared = "/properties/" in child.get("$ref", "")  # has its reference where it is defined
        child = copy(child)
        if shared or "const" in child:
            return child
        said = {key: child.pop(key) for key in ("description", "default") if key in child}
        choices = child.pop("anyOf") if child.keys() == {"anyOf"} else [child]
        return {"anyOf": [*choices, _ref("reference")], **said}

    def copy(node: Any) -> Any:
        if isinstance(node, list):
            return [copy(child) for child in node]
        if not isinstance(node, dict):
            return node
        made: Schema = {}
        for key, child in node.items():
            if key == "if":
                made[key] = child
            elif key in ("properties", "patternProperties"):
                made[key] = {name: value(field) for name, field in child.items()}
            elif key == "items":
                made[key] = value(child)
            elif key == "$ref":
                name = child.removeprefix("#/$defs/")
                made |= _ref(f"block.{name}" if name.partition("/")[0] in inside else name)
            else:
                made[key] = copy(child)
        return made

    return dict(copy(schema))
