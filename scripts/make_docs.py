"""Write what is made from classes: four pages of docs and specs/netc.schema.json."""

import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from netc.augment.base import AUGMENTATIONS, Bordered, Operation
from netc.augment.mixing import Mixing
from netc.declared import Declared, Family
from netc.layers.base import LAYERS, Include, Layer, ParamSpec, Side
from netc.layers.fillers import FILLERS, Filler
from netc.layers.schedules import SCHEDULES, Schedule
from netc.schema import FAMILIES, Block, BlockFile, SpecFile, Use, language, text
from netc.solver.policies import POLICIES, Policy
from netc.solver.rules import SOLVERS, Solver
from netc.spec.model import Data, InitFrom, Input, TrainingPhase
from netc.spec.run import EarlyStopping, Every, Run
from netc_runtime.data import SOURCES
from netc_runtime.data.base import Source
from netc_runtime.data.options import Option
from netc_runtime.data.remotes import FETCHED

ROOT = Path(__file__).parents[1]
MADE = "<!-- Made by scripts/make_docs.py from the classes; edit their docstrings. -->\n"
# What the examples of layers may read besides each other.
INPUTS = """\
inputs:
  image: {shape: [3, 8, 8]}
  label: {classes: 10}
  target: {shape: [10]}       # numbers to come close to
  similar: {shape: [1]}       # 1 where a pair is similar
  sick: {classes: 2}
"""
# Where an example of a family stands in a spec.
PLACES = {
    "layer": "",
    "filler": "weight_filler: ",
    "loss_weight_schedule": "loss_weight: ",
    "lr_policy": "lr_policy: ",
    "solver": "solver: ",
}
LINKS = {
    "layer": "[layer](layers.md)",
    "filler": "[filler](language.md#fillers)",
    "lr_policy": "[lr_policy](language.md#learning-rate-policies)",
    "loss_weight_schedule": "[schedule](language.md#schedules-of-a-companions-weight)",
    "solver": "[solver](language.md#solvers)",
    "augmentation": "[augmentation](augmentation.md)",
    "Include": "[include](layers.md#include)",
    "ParamSpec": "[param](layers.md#param)",
    "Side": "[side](layers.md#side)",
    "Data": "[data](language.md#data)",
    "Input": "[input](language.md#inputs)",
    "InitFrom": "[init_from](language.md#starting-from-other-weights)",
    "TrainingPhase": "[phase](language.md#phases-of-training)",
    "Block": "[block](language.md#blocks)",
    "Run": "[run](language.md#the-run)",
    "Every": "[distance](language.md#distance-of-evaluations)",
    "EarlyStopping": "[early_stopping](language.md#early-stopping)",
}


def explained(cls: type[Declared] | type[Source]) -> tuple[str, str]:
    """Return the docstring of a class without its example, and the example: YAML, empty if there is none."""
    about, _, example = inspect.cleandoc(cls.__doc__ or "").partition("Example:")
    return about.strip(), textwrap.dedent(example).strip() if "\n" in example else example.strip()


def example_of(family: Family[Any], cls: type[Declared]) -> str:
    """Return the example of a class as it stands in a spec: a list of layers, or a field."""
    _, example = explained(cls)
    if family in (LAYERS, AUGMENTATIONS):
        return example if example.startswith("- ") else f"- {example}"
    return PLACES[family.definition] + example


def layers_page() -> str:
    """Return docs/layers.md."""
    modules: dict[str, list[type[Layer]]] = {}
    for cls in LAYERS.members.values():
        modules.setdefault(cls.__module__, []).append(cls)
    families = [(heading(sys.modules[module]), classes) for module, classes in sorted(modules.items())]
    contents = "\n".join(
        f"- {title}: " + ", ".join(f"[{cls.called()}](#{cls.called().lower()})" for cls in classes)
        for title, classes in families
    )
    return "\n".join(
        [
            MADE,
            "# Layers\n",
            "A layer reads the layer above it unless `bottom` says otherwise, and its top is called like the layer.",
            "Inputs and outputs below are shapes: N is the batch, C the channels, `...` one to three axes of space.",
            "Most words and defaults are Caffe's. The examples stand in a network with these inputs:\n",
            f"```yaml\n{INPUTS}```\n",
            "[Adding a layer](adding_a_layer.md) shows how to write another.\n",
            contents,
            "\n## Fields of every layer\n",
            *section(Layer, 3, title=""),
            *section(Include, 3),
            *section(ParamSpec, 3),
            *section(Side, 3),
            *(
                line
                for title, classes in families
                for line in (f"## {title}\n", *(x for cls in classes for x in member(LAYERS, cls)))
            ),
        ]
    )


def language_page() -> str:
    """Return docs/language.md."""
    return "\n".join(
        [
            MADE,
            "# The language\n",
            "A spec is one YAML file with the sections below; `netc check` reports every mistake in it with its place.",
            "The layers have [a page of their own](layers.md). `netc schema` prints all of this as a JSON Schema, with",
            "which editors complete and check specs: the first line of each spec that ships with netc names it.\n",
            "## A spec\n",
            *section(SpecFile, 2, title=""),
            *section(Input, 2, title="Inputs"),
            *section(Data, 2, title="Data"),
            *section(InitFrom, 2, title="Starting from other weights"),
            *section(TrainingPhase, 2, title="Phases of training"),
            *section(Run, 2, title="The run"),
            *section(Every, 3, title="Distance of evaluations"),
            *section(EarlyStopping, 3, title="Early stopping"),
            *section(Block, 2, title="Blocks"),
            *section(Use, 3, title="Using a block"),
            *section(BlockFile, 3, title="A file of blocks"),
            *family_section("Solvers", SOLVERS, Solver),
            *family_section("Learning-rate policies", POLICIES, Policy),
            *family_section("Fillers", FILLERS, Filler),
            *family_section("Schedules of a companion's weight", SCHEDULES, Schedule),
        ]
    )


def sources_page() -> str:
    """Return docs/sources.md."""
    options = {option.name: option for source in SOURCES.values() for option in source.options}
    common = [o for o in options.values() if sum(o in source.options for source in SOURCES.values()) > 2]
    return "\n".join(
        [
            MADE,
            "# Data sources\n",
            "What `data.source` of a spec may name; further keys of `data` are options of the source. A source gives",
            "two splits, `train` and `test`, of named fields, mostly `image` and `label`. [The guide](guide.md#data)",
            "says which input takes which field, and how to look at data.\n",
            "| source | what it is | needs |",
            "|---|---|---|",
            *(f"| [`{name}`](#{name}) | {source.about} | {needs(name, source)} |" for name, source in SOURCES.items()),
            "\n## Options of several sources\n",
            *options_table(common),
            "A path is relative to the folder where the command runs. Images that are decoded, and data that are",
            "fetched, lie in `netc` in the folder `XDG_CACHE_HOME`, or in `~/.cache`; all of it can be removed at any",
            "time.\n",
            *(line for name, source in SOURCES.items() for line in source_section(name, source, common)),
        ]
    )


def augmentation_page() -> str:
    """Return docs/augmentation.md."""
    modules: dict[str, list[type[Operation]]] = {}
    for cls in AUGMENTATIONS.members.values():
        modules.setdefault(cls.__module__, []).append(cls)
    families = [(heading(sys.modules[module]), classes) for module, classes in sorted(modules.items())]
    table = [
        f"| [{cls.called()}](#{cls.called().lower()}) | {explained(cls)[0].splitlines()[0]} |"
        for _, classes in families
        for cls in classes
    ]
    return "\n".join(
        [
            MADE,
            "# Augmentation\n",
            "The operations that `data.augment` lists become nodes at the head of `train.onnx`: a training step takes",
            "the raw batch and changes it itself. Nothing of them is in evaluation and inference. The",
            "[guide](guide.md#augmentation) says how they work together.\n",
            "| operation | what it does |",
            "|---|---|",
            *table,
            "\n## Fields of every operation\n",
            *section(Operation, 3, title="", omit=("type",)),
            explained(Bordered)[0] + "\n",
            explained(Mixing)[0] + "\n",
            *(
                line
                for title, classes in families
                for line in (f"## {title}\n", *(x for cls in classes for x in member(AUGMENTATIONS, cls)))
            ),
        ]
    )


def needs(name: str, source: type[Source]) -> str:
    """Return what a source needs that does not come with netc."""
    extra = [f'`pip install "netc[{source.extra}]"`'] if source.extra else []
    return ", ".join(extra + ([f"`netc data fetch {name}`, or `path`"] if name in FETCHED else []))


def source_section(name: str, source: type[Source], common: list[Option]) -> list[str]:
    """Return a source: its docstring, the options that it alone has, the names of the others, and its example."""
    about, example = explained(source)
    own = [option for option in source.options if option not in common]
    shared = ", ".join(f"`{option.name}`" for option in source.options if option in common)
    return [f"## {name}\n", about + "\n", *options_table(own), f"Also {shared}.\n", f"```yaml\n{example}\n```\n"]


def options_table(options: list[Option]) -> list[str]:
    """Return a table of options, nothing without any."""
    rows = [
        f"| `{one.name}` | {one.kind.name} | {'' if one.default is None else f'`{one.default}`'} | "
        f"{one.about[0].upper()}{one.about[1:]}. {one.note}".rstrip()
        + " |"
        for one in options
    ]
    return ["| option | value | default | meaning |", "|---|---|---|---|", *rows, ""] if rows else []


def family_section(title: str, family: Family[Any], base: type[Declared]) -> list[str]:
    """Return a family: what its members have in common, and each of them."""
    lines = section(base, 2, title=title)
    if family.shorthand:
        lines.append(f"One that needs no fields can be written as its {family.key} alone.\n")
    if family.number is not None:
        lines.append(f"A number alone is the `{family.number[1]}` of a `{family.number[0]}`.\n")
    return [*lines, *(line for cls in family.members.values() for line in member(family, cls))]


def member(family: Family[Any], cls: type[Declared]) -> list[str]:
    """Return one class of a family: its own fields, those of all of the family left out, and its example."""
    shared = [name for name, field in schema_of(cls)["properties"].items() if "/properties/" in field.get("$ref", "")]
    return section(cls, 3, omit=(family.key, *shared), example=example_of(family, cls))


def section(
    cls: type[Declared], level: int, title: str | None = None, omit: tuple[str, ...] = (), example: str = ""
) -> list[str]:
    """Return a heading (none for an empty title), the docstring, the table of fields and the example."""
    title = cls.called() if title is None else title
    lines = [f"{'#' * level} {title}\n"] if title else []
    lines.append(explained(cls)[0] + "\n")
    definition = schema_of(cls)
    rows = [
        row(name, field, name in definition.get("required", ()))
        for name, field in definition["properties"].items()
        if name not in omit
    ]
    if rows:
        lines += ["| field | value | default | meaning |", "|---|---|---|---|", *rows, ""]
    example = example or explained(cls)[1]
    return [*lines, f"```yaml\n{example}\n```\n"] if example else lines


def heading(module: Any) -> str:
    """Return the first sentence of a module's docstring."""
    return re.split(r"[.:;]\s", inspect.cleandoc(module.__doc__))[0].rstrip(".")


def schema_of(cls: type[Declared]) -> dict[str, Any]:
    """Return the definition of a class in the JSON Schema."""
    for family, base in FAMILIES:
        if cls is base:
            return DEFINITIONS[f"{family.definition}.common"]
        if cls in family.members.values():
            return DEFINITIONS[f"{family.definition}.{cls.called()}"]
    return DEFINITIONS[cls.__name__]


def row(name: str, field: dict[str, Any], required: bool) -> str:
    """Return one line of a table of fields."""
    empty = field.get("default") in (None, "", [], {})
    default = "required" if required else "" if empty else f"`{flow(field['default'])}`"
    meaning = " ".join(field.get("description", "").split())
    cells = (f"`{name}`", values(field), default, meaning)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def values(field: dict[str, Any]) -> str:
    """Return what a field takes, in words."""
    if "$ref" in field:
        name = field["$ref"].removeprefix("#/$defs/").removeprefix("block.")
        return LINKS.get(name, name)
    if "anyOf" in field:
        choices = [choice for choice in field["anyOf"] if choice.get("type") != "null"]
        listed = [c for c in choices if c.get("type") == "array"]
        single = [c for c in choices if c.get("type") != "array"]
        if listed and single and listed[0]["items"] == single[0]:
            return f"{values(single[0])}, or a list"
        return " or ".join(values(choice) for choice in choices)
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {plural(values(field['items']))}"
    if field.get("type") == "object":
        inner = next(iter(field.get("patternProperties", {}).values()), field.get("additionalProperties"))
        return f"mapping of {plural(values(inner))}" if isinstance(inner, dict) and inner else "mapping"
    return {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}.get(
        str(field.get("type")), "anything"
    ) + bounds(field)


def plural(word: str) -> str:
    """Return `integers > 0` for `integer > 0`; links keep their address."""
    return re.sub(r"^(\[?)(\w+)", lambda match: f"{match[1]}{match[2]}{'' if match[2] == 'anything' else 's'}", word)


def bounds(field: dict[str, Any]) -> str:
    """Return the limits of a number, those of the 32-bit float left out."""
    signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    limits = [f"{sign} {field[key]:.10g}" for key, sign in signs.items() if abs(field.get(key, 1e30)) < 1e30]
    return f" {', '.join(limits)}" if limits else ""


def flow(value: Any) -> str:
    """Return plain data as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


DEFINITIONS: dict[str, dict[str, Any]] = language()["$defs"]


def files() -> dict[Path, str]:
    """Return every generated file with its content."""
    return {
        ROOT / "docs" / "layers.md": layers_page(),
        ROOT / "docs" / "language.md": language_page(),
        ROOT / "docs" / "sources.md": sources_page(),
        ROOT / "docs" / "augmentation.md": augmentation_page(),
        ROOT / "specs" / "netc.schema.json": text(),
    }


if __name__ == "__main__":
    for path, content in files().items():
        path.write_text(content, encoding="utf-8")
