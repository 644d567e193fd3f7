"""Overrides of a spec, `--set`, one by one; and what must hold for any text and any override."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.errors import Diagnostic, Position, SpecError
from netc.spec import text as module
from netc.spec.overrides import apply_override
from netc.spec.text import parse_tree
from tests.yaml_loaders import LOADERS

BASE = """\
data:
layers:
  - {name: conv1, num_output: 20}
  - {type: ReLU}
  - {name: twin, a: 1}
  - {name: twin, a: 2}
solver: {base_lr: 0.01, lr_policy: inv, max_epochs: 5}
"""


@pytest.mark.usefixtures("yaml_loader")
@pytest.mark.parametrize(
    ("option", "path", "value"),
    [
        ("solver.base_lr=0.1", ("solver", "base_lr"), 0.1),
        ("solver.base_lr= 1e-3 ", ("solver", "base_lr"), 1e-3),
        ("solver.base_lr=no", ("solver", "base_lr"), "no"),
        ("solver.base_lr='1'", ("solver", "base_lr"), "1"),
        ("solver.base_lr=", ("solver", "base_lr"), None),
        ("solver.base_lr=a=b", ("solver", "base_lr"), "a=b"),
        ("solver.base_lr=---", ("solver", "base_lr"), "---"),
        ("solver.lr_policy={type: step, gamma: 0.1}", ("solver", "lr_policy"), {"type": "step", "gamma": 0.1}),
        ("data.resize=[28, 28]", ("data", "resize"), [28, 28]),
        ("new.deep.key=x", ("new", "deep", "key"), "x"),
        ("layers.conv1.num_output=30", ("layers", 0, "num_output"), 30),
        ("layers.1.side.loss_weight=1", ("layers", 1, "side", "loss_weight"), 1),
        ("layers.3={name: c}", ("layers", 3), {"name": "c"}),
    ],
)
def test_override(option: str, path: tuple[str | int, ...], value: Any) -> None:
    tree = parse_tree(BASE, "f")
    before = parse_tree(BASE, "f")
    result = apply_override(tree, option)
    assert tree == before
    got: Any = result.value
    for part in path:
        got = got[part]
    assert (got, type(got)) == (value, type(value))
    here = Position(f"--set {option}")
    assert result.position(path) == result.position(path, key=True) == here
    if isinstance(value, dict):
        assert {result.position((*path, key), key=True) for key in value} == {here}
    assert result.position(("solver",), key=True) == Position("f", 7, 1)
    assert result.position(("solver", "max_epochs")) == before.position(("solver", "max_epochs"))


@pytest.mark.usefixtures("yaml_loader")
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("solver.base_lr", '"=" is missing; write key=value, as in solver.base_lr=0.1'),
        ("=1", 'the key "" has an empty part; write it as in solver.base_lr=0.1'),
        ("a..b=1", 'the key "a..b" has an empty part; write it as in solver.base_lr=0.1'),
        (
            "solver.lr_policy.gamma=0.1",
            'cannot set "gamma" inside "inv"; set the whole of it, as in solver.lr_policy={gamma: ...}',
        ),
        (
            "solver.max_epochs.x.y=0.1",
            'cannot set "x" inside 5; set the whole of it, as in solver.max_epochs={x: ...}',
        ),
        ("layers.conv2.a=1", 'no entry of layers is named "conv2"; did you mean "conv1"?'),
        ("layers.twin.a=1", '2 entries of layers are named "twin"; use an index'),
        ("layers.4.a=1", "layers has 4 entries, counted from 0; there is no 4"),
        (
            f"layers.{'9' * 5000}=1",
            f"layers has 4 entries, counted from 0; there is no {'9' * 40}... (5000 characters)",
        ),
        ("a=[1, 2", 'this "[" is never closed; add "]"'),
        ("a=x: y: z", "in an option write a mapping as {a: 1}, or put the text in quotes"),
        ("a=b: c", "in an option write a mapping as {a: 1}, or put the text in quotes"),
        ("a=- 1", "in an option write a list as [1, 2]"),
        ("a={b: c: d}", 'expected "," or "}" here: the "{" before it is still open'),
        ("a=#fff", 'the value "#fff" is only a comment; put it in quotes'),
        ("a={b: 1, b: 2}", 'duplicate key "b"; it is first given before it'),
        ("a=%x", 'a value cannot start with "%"; put the text in quotes'),
        ("a=*x", 'no "&x" comes before this alias; to mean the text, put it in quotes'),
        ("a=" + "[" * 100, "nested deeper than 64 levels; make the spec flatter"),
        ("a.a.a=" + "[" * 62 + "]" * 62, "this would nest the spec deeper than 64 levels"),
        ("a." * 64 + "a=1", "the key has more than 64 parts"),
    ],
)
def test_bad_override(option: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        apply_override(parse_tree(BASE, "f"), option)
    assert [(d.position, d.message) for d in caught.value.diagnostics] == [(Position(f"--set {option}"), message)]


# -------------------------------------------------------------------------------------------------- properties

PIECES = list("abc019.:-?[]{},#&*!|>'\"%@`\\ \n\t\r~<=+_\ufeff\x85\u2028é\x00\ud800")
PIECES += ["  ", ": ", "- ", "? ", "\n  ", "---\n", "...\n", "&a ", "*a", "!!", "!<", "%YAML 1.1\n"]
PIECES += ["\\u12", "1e5", "0x", "<<: ", "null"]
anything = st.one_of(st.text(st.characters(exclude_categories=())), st.lists(st.sampled_from(PIECES)).map("".join))


def diagnostics(action: Callable[[], Any]) -> Sequence[Diagnostic]:
    """Everything but a SpecError goes through, and fails the test."""
    try:
        action()
    except SpecError as error:
        return error.diagnostics
    return []


@pytest.mark.parametrize("parser", LOADERS)
@given(text=anything)
def test_any_text_parses_or_is_refused(parser: Any, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LOADER", parser)
        found = diagnostics(lambda: parse_tree(text, "f"))
    assert all(d.position.line and d.position.column and d.message for d in found)


@pytest.mark.parametrize("parser", LOADERS)
@given(option=st.one_of(anything, anything.map("layers.conv1.x=".__add__), anything.map("=".join)))
def test_any_override_applies_or_is_refused(parser: Any, option: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LOADER", parser)
        found = diagnostics(lambda: apply_override(parse_tree(BASE, "f"), option))
    assert all(d.position.file.startswith("--set ") and not d.position.line for d in found)
    assert all(d.position.file.isprintable() for d in found)
    if option.isprintable():
        assert {d.position for d in found} <= {Position(f"--set {option}")}


printable = st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=["Cc", "Zl", "Zp"])
words = st.text(printable).filter(lambda word: word != "<<")
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words
)
trees = st.dictionaries(
    words, st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(words, inner), max_leaves=12)
)


def scalars(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path, value
    else:
        for part, inner in items:
            yield from scalars(inner, (*path, part))


@pytest.mark.parametrize("parser", LOADERS)
@given(value=trees)
def test_json_is_yaml_and_every_scalar_knows_its_place(parser: Any, value: dict[str, Any]) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LOADER", parser)
        tree = parse_tree(text, "f")
    assert tree.value == value
    lines = text.splitlines()
    for path, leaf in scalars(value):
        position = tree.position(path)
        assert lines[position.line - 1][position.column - 1 :].startswith(json.dumps(leaf, ensure_ascii=False))
