"""Mutations of a spec as a tree, in its place: of values, of fields, of structure.

Each takes a spec and a generator, changes the spec and returns what it did, or None where there is nothing to change.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

from netc.declared import Declared
from netc.layers.base import LAYERS, Layer, Side
from netc.layers.fillers import FILLERS
from netc.solver.policies import POLICIES
from netc.solver.rules import SOLVERS
from netc.spec.model import Data, Input, NetSpec
from tests.mutations.text import Random, Tree
from tests.mutations.values import FLOATS, HUGE_FLOATS, HUGE_INTEGERS, INTEGERS, Values


def layer_lists(spec: Any) -> Iterator[list[Any]]:
    """Yield every list of layers: of the spec, its blocks, sides and fused head."""
    if isinstance(spec, dict):
        for key, child in spec.items():
            if key == "layers" and isinstance(child, list):
                yield child
            yield from layer_lists(child)
    elif isinstance(spec, list):
        for child in spec:
            yield from layer_lists(child)


def layers_of(spec: Any) -> list[Tree]:
    """Return all layers that are mappings."""
    return [layer for layers in layer_lists(spec) for layer in layers if isinstance(layer, dict)]


def names_of(spec: Tree) -> list[str]:
    """Return the names of inputs and layers."""
    inputs = spec.get("inputs")
    named = [str(layer["name"]) for layer in layers_of(spec) if "name" in layer]
    return [*(inputs if isinstance(inputs, dict) else ()), *named]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every entry of every mapping and list, as its container and key or index."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        found.append((value, key))
        found += places(child)
    return found


def _place(spec: Tree, rng: Random) -> tuple[Any, Any]:
    """Choose a place: often the field of a layer, else anything, so that long lists of layers do not win always."""
    layers = layers_of(spec)
    if layers and rng.random() < 0.6:
        found = places(rng.choice(layers))
    else:
        found = places(spec) if rng.random() < 0.5 else [(spec, key) for key in spec]
    return rng.choice(found or [(spec, key) for key in spec] or [({"": 0}, "")])


def _layer(spec: Tree, rng: Random, want: str | None = None) -> Tree | None:
    layers = [layer for layer in layers_of(spec) if want is None or layer.get("type") == want]
    return rng.choice(layers) if layers else None


Mutation = Callable[[Tree, Random], str | None]


def field_of_layer(spec: Tree, rng: Random, want: str | None = None) -> str | None:
    """Give a layer's field another value of its type; `want` is the layer's type."""
    layer = _layer(spec, rng, want)
    cls = LAYERS.members.get(str(layer.get("type"))) if layer else None
    if layer is None or cls is None:
        return None
    own = [name for name in cls.model_fields if name not in Layer.model_fields]
    common = [name for name in Layer.model_fields if name != "type"]
    name = rng.choice(own if own and rng.random() < 0.8 else common)
    layer[name] = Values(rng, names_of(spec)).field(cls, name)
    return f"{layer.get('name')}.{name} = {layer[name]!r}"


def new_layer(spec: Tree, rng: Random) -> str | None:
    """Insert a layer of any type somewhere."""
    lists = list(layer_lists(spec))
    if not lists:
        return None
    layers = lists[0] if rng.random() < 0.6 else rng.choice(lists)
    at = rng.randint(0, len(layers))
    above = names_of(spec | {"layers": layers[:at]}) if rng.random() < 0.9 else names_of(spec)
    made = Values(rng, above).mapping(LAYERS.members[rng.choice(sorted(LAYERS.members))], extra=3)
    layers.insert(at, made)
    return f"new layer {made!r}"


def field_of_section(spec: Tree, rng: Random) -> str | None:
    """Give a field of the solver, the data or an input another value of its type."""
    kind = rng.choice(["solver", "data", "inputs"])
    section = spec.get(kind)
    if not isinstance(section, dict) or not section:
        return None
    cls: type[Declared] = Data
    if kind == "inputs":
        section, cls = section[rng.choice(list(section))], Input
    elif kind == "solver":
        cls = SOLVERS.members.get(str(section.get("type")), SOLVERS.members["SGD"])
    if not isinstance(section, dict):
        return None
    name = rng.choice(list(cls.model_fields))
    section[name] = Values(rng, names_of(spec)).field(cls, name)
    return f"{kind}: {name} = {section[name]!r}"


def new_member(spec: Tree, rng: Random) -> str | None:
    """Choose another solver, policy, filler or companion's schedule."""
    values, solver = Values(rng, names_of(spec)), spec.get("solver")
    kind = rng.choice(["solver", "lr_policy", "filler", "filler", "schedule"])
    if kind == "solver":
        spec["solver"] = values.member(SOLVERS)
        return f"solver = {spec['solver']!r}"
    if kind == "lr_policy" and isinstance(solver, dict):
        solver["lr_policy"] = values.member(POLICIES)
        return f"lr_policy = {solver['lr_policy']!r}"
    if kind == "filler":
        fields = [(layer, f) for layer in layers_of(spec) for f in _fillers(layer)]
        if fields:
            layer, name = rng.choice(fields)
            layer[name] = values.member(FILLERS)
            return f"{layer.get('name')}.{name} = {layer[name]!r}"
    owner = _layer(spec, rng)
    if owner is None:
        return None
    given = owner.get("side")
    side = given if isinstance(given, dict) and "layers" in given else _new_side(rng)
    owner["side"] = side | values.mapping(Side, 3) | {"layers": side["layers"]}
    return f"side of {owner.get('name')} = {owner['side']!r}"


def _fillers(layer: Tree) -> list[str]:
    cls = LAYERS.members.get(str(layer.get("type")))
    return [name for name in cls.model_fields if name.endswith("_filler")] if cls else []


def _new_side(rng: Random) -> Tree:
    number = rng.randrange(10**6)
    scores = {"name": f"score_{number}", "type": "InnerProduct", "num_output": rng.choice([2, 3, 5, 10])}
    return {"layers": [scores, {"name": f"loss_{number}", "type": "SoftmaxWithLoss"}]}


def other_bottoms(spec: Tree, rng: Random) -> str | None:
    """Let a layer read something else."""
    layer = _layer(spec, rng)
    if layer is None:
        return None
    names = names_of(spec)
    layer["bottom"] = [
        rng.choice(names) for _ in range(len(layer["bottom"]) if isinstance(layer.get("bottom"), list) else 1)
    ]
    return f"{layer.get('name')}.bottom = {layer['bottom']!r}"


def other_shape(spec: Tree, rng: Random) -> str | None:
    """Give an input another number of axes, other sizes or another kind."""
    inputs = spec.get("inputs")
    declared = rng.choice(list(inputs.values())) if isinstance(inputs, dict) and inputs else None
    if not isinstance(declared, dict):
        return None
    sizes = [1, 2, 3, 4, 5, 7, 8, 9, 16]
    shape = [rng.choice(sizes) for _ in range(rng.choice([1, 2, 3, 3, 3, 4, 5, 6]))]
    if rng.random() < 0.1:
        shape[-1] = rng.choice([10**4, 10**6, 2**31, 10**12])
    declared.pop("classes", None) if rng.random() < 0.3 else None
    declared["shape"] = shape
    return f"shape = {shape}"


def sound_value(spec: Tree, rng: Random) -> str | None:
    """Change a number a little, or by much, without leaving its type."""
    found = [(c, k) for c, k in places(spec) if isinstance(c[k], int | float) and not isinstance(c[k], bool)]
    if not found:
        return None
    container, key = rng.choice(found)
    value = container[key]
    choices = (*INTEGERS, *HUGE_INTEGERS[:6]) if isinstance(value, int) else (*FLOATS, *HUGE_FLOATS[:5])
    container[key] = rng.choice([value + 1, value - 1, value * 2, value * 3, rng.choice(choices), rng.choice(choices)])
    return f"{key}: {value!r} -> {container[key]!r}"


def argument_of_block(spec: Tree, rng: Random) -> str | None:
    """Give a block another argument, default, number of copies or expression."""
    if not isinstance(spec.get("blocks"), dict):
        return None
    uses = [layer for layer in layers_of(spec) if "block" in layer]
    parameters = [
        b["parameters"]
        for b in spec["blocks"].values()
        if isinstance(b, dict) and isinstance(b.get("parameters"), dict)
    ]
    container = rng.choice([*uses, *parameters] or [{}])
    keys = [key for key in container if key not in ("name", "block", "bottom")]
    key = rng.choice([*keys, *keys, "repeat", "bottom", "include", "rate"])
    container[key] = rng.choice(
        [0, 1, 2, 3, 5, 8, 0.5, -1, 10**9, None, "conv", True, [1, 2], {}, "$channels", "$in", "image", *EXPRESSIONS]
    )
    return f"{key} = {container[key]!r}"


EXPRESSIONS = (
    "${channels * 2}",
    "${channels / 3}",
    "${channels % 0}",
    "${channels // kernel}",
    "${kernel - 4}",
    "${-channels}",
    "${channels ** 9}",
    "${2.5 * channels}",
    "${unknown + 1}",
    "${}",
    "${",
    "$",
    "$$channels",
    "${channels} and ${kernel}",
    "$kernel$channels",
    "${kernel.real}",
    "${__import__('os')}",
    "${(lambda: 1)()}",
    "${1 if 2 else 3}",
    "${'a' * 9}",
    "${((((((((((1))))))))))}",
    "${" + "-" * 150 + "1}",
    "${" + "(" * 95 + "1" + ")" * 95 + "}",
    "${9" + "9" * 150 + " * 9}",
    "${1e308 * 10}",
    "${1e308 * 10 - 1e308 * 10}",
    "${1_000}",
    "${0x10}",
    "${0777}",
    "${1j}",
    "${True + 1}",
    "${channels\n* 2}",
    "${index}",
    "${in + 1}",
)


def drop_field(spec: Tree, rng: Random) -> str | None:
    """Leave out an entry of a mapping or list."""
    container, key = _place(spec, rng)
    return f"dropped {key!r} ({container.pop(key)!r})"


def misspell(spec: Tree, rng: Random) -> str | None:
    """Misspell a key."""
    container, key = _place(spec, rng)
    if not isinstance(container, dict) or not key:
        return None
    wrong = _misspelt(key, rng)
    items = [(wrong if name == key else name, value) for name, value in container.items()]
    container.clear()
    container.update(items)
    return f"key {key!r} -> {wrong!r}"


def misspell_word(spec: Tree, rng: Random) -> str | None:
    """Misspell a value that is a word: a type, a name, a choice."""
    found = [(c, k) for c, k in places(spec) if isinstance(c[k], str)]
    if not found:
        return None
    container, key = rng.choice(found)
    word = container[key]
    container[key] = _misspelt(word, rng) if word else "x"
    return f"{key}: {word!r} -> {container[key]!r}"


def _misspelt(word: str, rng: Random) -> str:
    i = rng.randrange(len(word))
    return rng.choice(
        [
            word[:i] + word[i + 1 :],
            word[:i] + word[i] + word[i:],
            word[:i] + word[i + 1 : i + 2] + word[i : i + 1] + word[i + 2 :],
            word.swapcase(),
            word + rng.choice("sx_ .$/"),
            word.replace("_", "-") if "_" in word else word[::-1],
            rng.choice(["x", "", "layers", "type", "name", "bottom", "kernel_h", "top", "$x", "é", "a b", "../a"]),
        ]
    )


WRONG: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 5, 0.5, -0.5, 1e-40, 1e300, math.nan, math.inf, -math.inf, 10**8, 10**12, 2**63,
    -(2**70), 10**40, "", "x", "1", "0.5", "no", "auto", "max", "train", "label", "$x", "${x}", "a b", "ü" * 3,
    "x" * 300, [], [1], [1, 2, 3], [None], [[1]], ["a", "b"], [{}], {}, {"type": "x"}, {"a": 1}, {"layers": []},
    {"phase": "train"},
)  # fmt: skip


def retype(spec: Tree, rng: Random) -> str | None:
    """Put a value of any other kind in place of one."""
    container, key = _place(spec, rng)
    old, container[key] = container[key], _copy(rng.choice(WRONG))
    return f"{key!r}: {old!r} -> {container[key]!r}"


def list_or_scalar(spec: Tree, rng: Random) -> str | None:
    """Make a value a list, or a list its first value."""
    container, key = _place(spec, rng)
    old = container[key]
    if isinstance(old, list):
        container[key] = old[0] if old and rng.random() < 0.7 else [old, old]
    else:
        container[key] = [old] * rng.choice([1, 1, 2, 3])
    return f"{key!r}: {old!r} -> {container[key]!r}"


def extra_field(spec: Tree, rng: Random) -> str | None:
    """Give a mapping a field that belongs elsewhere."""
    container, key = _place(spec, rng)
    target = container[key] if isinstance(container[key], dict) else container
    if not isinstance(target, dict):
        return None
    cls = LAYERS.members[rng.choice(sorted(LAYERS.members))]
    name = rng.choice([*cls.model_fields, *NetSpec.model_fields, "kernel_h", "top", "side", "block", "repeat", "use"])
    given = Values(rng, names_of(spec)).field(cls, name) if name in cls.model_fields else _copy(rng.choice(WRONG))
    target[name] = given
    return f"extra field {name!r} = {given!r}"


def other_type(spec: Tree, rng: Random) -> str | None:
    """Call a layer something else."""
    layer = _layer(spec, rng)
    if layer is None:
        return None
    old, layer["type"] = layer.get("type"), rng.choice([*sorted(LAYERS.members), "Filter", "Data", "", "relu"])
    return f"{layer.get('name')}: type {old!r} -> {layer['type']!r}"


def move_layers(spec: Tree, rng: Random) -> str | None:
    """Move, repeat, exchange or nest layers."""
    lists = [layers for layers in layer_lists(spec) if layers]
    if not lists:
        return None
    layers, other = rng.choice(lists), rng.choice(lists)
    i, how = rng.randrange(len(layers)), rng.randrange(8)
    layer = layers[i]
    match how:
        case 0:
            layers.insert(rng.randint(0, len(layers)), layers.pop(i))
        case 1:
            layers.insert(rng.randint(0, len(layers)), _copy(layer))
        case 2:
            other.insert(rng.randint(0, len(other)), _copy(layer))
        case 3:
            layers[i] = [layer]
        case 4:
            layers[i] = {"layers": [layer]}
        case 5 if isinstance(layer, dict):
            layer["side"] = {"layers": _copy(layers[i + 1 :])}
        case 6 if isinstance(layer, dict):
            layer["layers"] = _copy(layers[:i])
        case _:
            layers.reverse()
    return f"layers moved ({how}, {i}): {layer!r}"


def break_structure(spec: Tree, rng: Random) -> str | None:
    """Damage a section, a side or the fused head as a whole."""
    names, how = list(spec), rng.randrange(9)
    key = rng.choice(names) if names else "x"
    match how:
        case 0:
            layers = spec.get("layers")
            spec["fuse"] = {"layers": _copy(layers[-3:] if isinstance(layers, list) else layers)}
        case 1:
            spec["fuse"] = rng.choice(
                [
                    {},
                    [],
                    {"layers": [{"type": "SoftmaxWithLoss"}]},
                    _new_side(rng),
                    "x",
                    {"layers": [{"type": "Eltwise"}]},
                ]
            )
        case 2:
            spec[key] = [spec.get(key)]
        case 3:
            spec[key] = {key: spec.get(key)}
        case 4:
            spec[key] = spec.get(rng.choice(names or ["x"]))
        case 5:
            sides = [layer["side"] for layer in layers_of(spec) if isinstance(layer.get("side"), dict)]
            side = rng.choice([*sides, {}])
            for name in ("loss_weight", "threshold", "layers"):
                if rng.random() < 0.5:
                    side[name] = _copy(rng.choice(WRONG))
        case 6 if (layer := _layer(spec, rng)) is not None:
            layer["side"] = _new_side(rng)
        case 7 if (layer := _layer(spec, rng)) is not None:
            layer["include"] = {"phase": rng.choice(["train", "test"])}
        case _:
            spec.pop(key, None)
    return f"structure ({how}, {key})"


def break_blocks(spec: Tree, rng: Random) -> str | None:
    """Damage definitions and uses of blocks."""
    blocks, lists, how = spec.get("blocks"), list(layer_lists(spec)), rng.randrange(9)
    if not isinstance(blocks, dict) or not blocks or not lists:
        spec["blocks"] = {
            "own": {"parameters": {"n": 1}, "layers": [{"type": "ReLU"}, {"type": "Power", "scale": "$n"}]}
        }
        rng.choice(lists or [[]]).append({"name": "made", "block": "own", "n": rng.choice([2, "x", None])})
        return "a block added"
    name, layer = rng.choice(list(blocks)), _layer(spec, rng)
    match how:
        case 0:
            rng.choice(lists).append({"name": "again", "block": name, "channels": 2})
        case 1:
            blocks[name] = _copy(rng.choice(WRONG))
        case 2:
            blocks[_misspelt(name, rng)] = blocks.pop(name)
        case 3:
            spec["use"] = rng.choice(
                [["blocks/resnet.yaml"], ["missing.yaml"], "x", [5], ["."], ["/etc/passwd"], [], [""], ["a\0b"]]
            )
        case 4 if isinstance(blocks[name], dict):
            blocks[name]["parameters"] = rng.choice(
                [None, [], {}, {"in": 1}, {"name": 1}, {"a b": 1}, {"channels": {}}, 5]
            )
        case 5 if isinstance(blocks[name], dict):
            blocks[name]["layers"] = rng.choice(
                [None, [], {}, [None], [[]], ["x"], [{"block": name}], [{"name": "x", "block": name}]]
            )
        case 6 if layer is not None:
            layer["block"] = rng.choice([name, "x", 5, None, [], ""])
        case _ if layer is not None:
            layer[rng.choice(list(layer) or ["name"])] = rng.choice(EXPRESSIONS)
    return f"blocks ({how}, {name})"


VALUES: tuple[Mutation, ...] = (
    field_of_layer, field_of_layer, field_of_layer, new_layer, new_layer, field_of_section, new_member, other_bottoms,
    other_shape, sound_value, argument_of_block,
)  # fmt: skip
FIELDS: tuple[Mutation, ...] = (
    drop_field, misspell, misspell_word, retype, retype, list_or_scalar, extra_field, other_type,
)  # fmt: skip
STRUCTURE: tuple[Mutation, ...] = (move_layers, break_structure, break_blocks)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(child) for key, child in value.items()}
    return [_copy(child) for child in value] if isinstance(value, list) else value
