"""Text -> tree: scalars, positions, caps, and the exact sentence for each mistake, with both parsers of pyyaml."""

import math
import os
import time
from pathlib import Path
from typing import Any

import pytest

from netc.errors import Position, SpecError
from netc.spec import text as module
from netc.spec.text import MAX_BYTES, MAX_DEPTH, parse_tree, read_tree


def complaints(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse_tree(text, "f")
    return [str(d).removeprefix("f:").strip() for d in caught.value.diagnostics]


# ---------------------------------------------------------------------------------------------------- scalars

SCALARS: list[tuple[str, Any]] = [
    ("1e-3", 0.001),
    ("1E5", 1e5),
    ("1e5", 1e5),
    (".5", 0.5),
    ("-.5", -0.5),
    ("1.", 1.0),
    ("+1.5e+2", 150.0),
    ("0", 0),
    ("-0", 0),
    ("+7", 7),
    ("-12", -12),
    ("010", 10),
    ("000", 0),
    ("0o17", 15),
    ("0x1F", 31),
    ("-0x1F", "-0x1F"),
    ("0b11", "0b11"),
    ("9223372036854775807", 2**63 - 1),
    ("-9223372036854775808", -(2**63)),
    ("0x7fffffffffffffff", 2**63 - 1),
    ("00000000000000000000000000000000000000000000000000000000000000000000005", 5),
    (".inf", math.inf),
    ("+.INF", math.inf),
    ("-.Inf", -math.inf),
    ("inf", "inf"),
    ("nan", "nan"),
    (".", "."),
    ("e5", "e5"),
    ("1e", "1e"),
    ("1_000", "1_000"),
    ("12:30", "12:30"),
    ("2024-01-01", "2024-01-01"),
    ("1.2.3", "1.2.3"),
    ("١", "١"),
    *((word, word) for word in ("no", "No", "on", "ON", "yes", "off", "y", "n", "tRUE", "nULL", "=", "inv", "conv*")),
    *((word, True) for word in ("true", "True", "TRUE")),
    *((word, False) for word in ("false", "False", "FALSE")),
    *((word, None) for word in ("null", "Null", "NULL", "~", "", "# comment")),
    ("'1'", "1"),
    ('"true"', "true"),
    ("''", ""),
    ('"<<"', "<<"),
    ("|\n  1\n", "1\n"),
    ("${channels * 4}", "${channels * 4}"),
    ("$in", "$in"),
    ("!!str 1", "1"),
    ("!!int '0x10'", 16),
    ("!!float 1", 1.0),
    ("!!bool true", True),
    ("!!null ''", None),
    ("!!map {a: 1}", {"a": 1}),
    ("!!seq [1]", [1]),
]


@pytest.mark.usefixtures("yaml_loader")
@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalar(text: str, value: Any) -> None:
    got = parse_tree(f"a: {text}", "f").value["a"]
    assert (got, type(got)) == (value, type(value))


@pytest.mark.usefixtures("yaml_loader")
@pytest.mark.parametrize("text", [".nan", ".NaN", ".NAN"])
def test_nan(text: str) -> None:
    value = parse_tree(f"a: {text}", "f").value["a"]
    assert isinstance(value, float)
    assert math.isnan(value)


# ---------------------------------------------------------------------------------------------------- mistakes

TAB = "a tab stands where YAML wants spaces; indent with spaces"
GLUED = 'a space is missing after ":"'
DIRECTIVE = 'lines that start with "%" are not part of the language; remove this line'
AFTER_END = "unexpected text after the end of the spec; remove it"
UNQUOTED = "unexpected text after a complete value; put the whole value in quotes"
EMPTY = 'the spec is empty; start it with "netc: 1"'
MULTILINE_KEY = 'the key of this ":" must be one line of text; is ":" missing in the line above?'
SECOND = 'a file holds one spec; remove this "---" and what follows, or put it into its own file'
MERGE = 'merge keys ("<<") are not part of YAML 1.2; write the fields out, or use a block'
DEEP = f"nested deeper than {MAX_DEPTH} levels; make the spec flatter"
BIG = "does not fit in 64 bits; write a float such as 1e30, or quote it as text"


def tag(name: str) -> str:
    return f'tags are not part of the language; remove "{name}"'


BAD: list[tuple[str, list[str]]] = [
    # brackets and quotes
    ("a: [1, 2", ['1:4: this "[" is never closed; add "]"']),
    ("a:\n  b: {c: 1\n\n", ['2:6: this "{" is never closed; add "}"']),
    ("a: [1, 2\nb: 3", ['2:2: expected "," or "]" here: the "[" at line 1, column 4 is still open']),
    ("a: {b: [1, 2}", ['1:13: expected "," or "]" here: the "[" at line 1, column 8 is still open']),
    ("a: {b: 1\nc: 2\n", ['2:2: expected "," or "}" here: the "{" at line 1, column 4 is still open']),
    ("a: [1,,2]", ['1:7: expected a value here, not ","; if it is text, put it in quotes']),
    ("a: }", ['1:4: expected a value here, not "}"; if it is text, put it in quotes']),
    ("{a: 1}}", [f"1:7: {AFTER_END}"]),
    ("a: 'x\nb: 1", ["1:4: this quote is never closed; add a closing '"]),
    ('a: "x\n---\nb: 1', ['1:4: this quote is never closed; add a closing "']),
    ('a: "foo\nb: "bar"', [f"2:5: {UNQUOTED}"]),
    ("a: 'it's'", [f"1:8: {UNQUOTED}"]),
    ('é: "\\q"', ["1:5: unknown or incomplete escape \\q; write \\\\ for a backslash, or use single quotes"]),
    ('a: "\\\\\\x4"', ["1:7: unknown or incomplete escape \\x; write \\\\ for a backslash, or use single quotes"]),
    # colons
    ("a: b: c", ['1:5: a second ":" in one line; put a text that contains ": " in quotes']),
    ("netc:1\nname: x", [f"1:6: {GLUED}"]),
    ("a: 1\nb:2\nc: 3", [f"2:3: {GLUED}"]),
    ("layers:\n  - name:conv1\n    type: x", [f"2:10: {GLUED}"]),
    ("a: {b:1}", [f'1:5: {GLUED} in "b:1"']),
    ("key: value\nother", ['2:1: expected "key: value", but "other" has no ":"']),
    ("x\ny: 1", [f"2:2: {MULTILINE_KEY}"]),
    ("a: - b", ['1:4: a list cannot start here; start a new line, or write "[a, b]"']),
    # indentation
    ("a: 1\n\n  b: 2", ["3:3: bad indentation: this line is indented as if it continued line 1"]),
    (
        "a:\n    b: 1\n  c: 2",
        ["3:3: bad indentation: this line does not line up with its block, which starts at line 1, column 1"],
    ),
    ("a: 1\n- b", ['2:1: expected "key: value" as in the mapping at line 1, column 1']),
    (
        "layers:\n  - name: a\n  type: b\n",
        ['3:3: expected "- " as in the list at line 2, column 3; indent further to continue its last entry'],
    ),
    ("a:\n\tb: 1", [f"2:1: {TAB}"]),
    ("a:\n  b: 1\n\tc: 2", [f"3:1: {TAB}"]),
    ("a:\n  b: 1\n  \tc: 2", [f"3:3: {TAB}"]),
    ("a: >\n\tb", [f"2:1: {TAB}"]),
    # characters that mean something
    ("a: @x", ['1:4: a value cannot start with "@"; put the text in quotes']),
    ("a: %x", ['1:4: a value cannot start with "%"; put the text in quotes']),
    ("a: ?", ['1:4: a value cannot start with "?"; put the text in quotes']),
    ("freeze: [*]", ['1:10: "*" needs a name after it; if it is text, put it in quotes']),
    ("a: |x\n  b", ['1:5: only "+", "-" or a digit may follow "|"']),
    ("a: 1\nb: \x07", ["2:4: the character U+0007 cannot stand in a spec; remove it"]),
    ("a: 1 # \u2028", ["1:8: the character U+2028 cannot stand in a spec; remove it"]),
    ("a: \ufeff1", ["1:4: the character U+FEFF cannot stand in a spec; remove it"]),
    ("%9\n---\na: 1", [f"1:1: {DIRECTIVE}"]),
    ("a: \ud800", ["1:4: the character U+D800 cannot stand in a spec; remove it"]),
    # documents
    ("", [f"1:1: {EMPTY}"]),
    ("\ufeff# nothing\n", [f"1:1: {EMPTY}"]),
    ("---\n", [f"1:1: {EMPTY}"]),
    ("a: 1\n---\nb: 1", [f"2:1: {SECOND}"]),
    ("---\n--- a", [f"2:1: {SECOND}"]),
    ("a: 1\n...\nb: 1", [f"3:1: {AFTER_END}"]),
    ("%YAML 1.2\n---\na: 1", [f"1:1: {DIRECTIVE}"]),
    ("# c\n%YAML 2.0\n---\na: 1", [f"2:1: {DIRECTIVE}"]),
    ("%YAML 1.2\na: 1", [f"1:1: {DIRECTIVE}"]),
    ("%FOO\n---\na: 1", [f"1:1: {DIRECTIVE}"]),
    ("- 1", ['1:1: a spec is a mapping such as "netc: 1", not a list']),
    ("netc:1", ['1:1: a spec is a mapping such as "netc: 1", not the single value "netc:1"']),
    ("null", ['1:1: a spec is a mapping such as "netc: 1", not the single value "null"']),
    # keys
    ("a: 1\nb: 2\na: 3\na: 4", [f'{n}:1: duplicate key "a"; it is first given at line 1, column 1' for n in (3, 4)]),
    ("1: x", ["1:1: the key 1 is not a text; put it in quotes"]),
    ("true: x", ["1:1: the key true is not a text; put it in quotes"]),
    ("null: x", ["1:1: a key is missing or null; a key must be a text"]),
    ("a: {: x}", ['1:5: a key is missing before ":"']),
    ("[a]: b", ["1:1: a key must be a text, not a list or mapping"]),
    ("? {a: 1}\n: b", ["1:3: a key must be a text, not a list or mapping"]),
    ("a: &x {b: 1}\nc:\n  <<: *x", [f"3:3: {MERGE}"]),
    # tags
    ("a: !foo 1", [f"1:4: {tag('!foo')}"]),
    ("a: ! [1]", [f"1:4: {tag('!')}"]),
    ("a: !!python/object:os.system {}", [f"1:4: {tag('!!python/object:os.system')}"]),
    ("a: !!binary aGk=", [f"1:4: {tag('!!binary')}"]),
    ("a: !!timestamp 2024-01-01", [f"1:4: {tag('!!timestamp')}"]),
    ("a: !!set {b}", [f"1:4: {tag('!!set')}"]),
    ("a: !!map [1]", [f"1:4: {tag('!!map')}"]),
    ("a: !!int x", ['1:4: "x" does not fit the tag !!int; remove the tag']),
    ("a: !!int true", ['1:4: "true" does not fit the tag !!int; remove the tag']),
    ("a: !b!c d", ['1:4: tags are not part of the language; remove "!" or put the text in quotes']),
    # numbers
    ("a: 9223372036854775808", [f"1:4: the integer 9223372036854775808 {BIG}"]),
    ("a: 0x8000000000000000", [f"1:4: the integer 0x8000000000000000 {BIG}"]),
    ("a: " + "9" * 5000, [f"1:4: the integer {'9' * 40}... (5000 characters) {BIG}"]),
    ("a: 1e999", ["1:4: the number 1e999 is too large for a float; write .inf for infinity"]),
    # aliases
    ("a: *conv", ['1:4: no "&conv" comes before this alias; to mean the text, put it in quotes']),
    (
        "a: &conv 1\nb: *conw",
        ['2:4: no "&conw" comes before this alias; to mean the text, put it in quotes'],
    ),
    ("a: &x [*x]", ['1:8: "*x" stands inside the value that it repeats; write the value out']),
    # everything at once, in the order of the text; a syntax error ends it
    (
        "a: 1\na: !x 2\n3: 4\nb: *c\nd: [",
        [
            '2:1: duplicate key "a"; it is first given at line 1, column 1',
            f"2:4: {tag('!x')}",
            "3:1: the key 3 is not a text; put it in quotes",
            '4:4: no "&c" comes before this alias; to mean the text, put it in quotes',
            '5:4: this "[" or "{" is never closed; add "]" or "}"',
        ],
    ),
]


@pytest.mark.usefixtures("yaml_loader")
@pytest.mark.parametrize(("text", "expected"), BAD)
def test_bad_text(text: str, expected: list[str]) -> None:
    assert complaints(text) == expected


# libyaml and the pure parser differ here: one of them takes the text, or cannot say where the mistake is.
@pytest.mark.usefixtures("yaml_loader")
@pytest.mark.parametrize("escape", ["\\UFFFFFFFF", "\\uD800", "\\U00110000"])
def test_escape_outside_unicode(escape: str) -> None:
    assert "escape" in complaints(f'a: "{escape}"')[0]


@pytest.mark.usefixtures("yaml_loader")
def test_mistakes_are_capped() -> None:
    found = complaints("a: [" + "*a, " * 200_000 + "]")
    assert len(found) == module.MAX_MISTAKES + 1
    assert found[-1] == "1:401: too many mistakes; what follows is not checked"


@pytest.mark.usefixtures("yaml_loader")
def test_extremely_long_version() -> None:
    assert complaints(f"%YAML 1.{'9' * 5000}\n---\na: 1")[0].startswith("1:1: ")


# -------------------------------------------------------------------------------------------------------- caps


@pytest.mark.usefixtures("yaml_loader")
@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "a: " + "{a: " * 100_000,
        "- " * 100_000,
        "? " * 100_000,
        "a: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH,
    ],
    ids=["brackets", "braces", "dashes", "keys", "one too many"],
)
def test_depth(text: str) -> None:
    assert [c.split(": ", 1)[1] for c in complaints(text)] == [DEEP]


@pytest.mark.usefixtures("yaml_loader")
def test_depth_at_the_cap_is_fine() -> None:
    parse_tree("a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1), "f")


@pytest.mark.usefixtures("yaml_loader")
def test_depth_counts_through_aliases() -> None:
    half = MAX_DEPTH // 2 + 1
    text = f"a: &x {'[' * half}{']' * half}\nb: {'[' * half}*x{']' * half}"
    assert complaints(text) == [f"2:{4 + half}: {DEEP}"]


@pytest.mark.usefixtures("yaml_loader")
def test_alias_bomb() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    assert complaints("\n".join(lines)) == [
        "6:15: the spec has more than 200000 keys and values, aliases expanded; make it smaller"
    ]


@pytest.mark.usefixtures("yaml_loader")
def test_alias_bomb_of_one_long_text() -> None:
    text = f"a: &a {'x' * 500_000}\nb: [{'*a, ' * 100_000}]"
    assert "aliases expanded" in complaints(text)[0]


@pytest.mark.usefixtures("yaml_loader")
def test_size_and_time() -> None:
    line = "  - {name: conv1, type: Convolution, num_output: 20, kernel_size: 5, weight_filler: xavier}\n"
    start = time.monotonic()
    parse_tree("layers:\n" + line * (MAX_BYTES // len(line) - 1), "f")
    parse_tree(f"a: {'0' * 500_000}x\nb: {'9' * 400_000}e-400000", "f")
    assert complaints("a: 1\n" + "-" * 1_000_000 + "\nb: c") != []
    for filler in ("[", "'", "-\n", "a: b\n", "!x ", "&a ", "\\", "9."):
        with pytest.raises(SpecError):
            parse_tree("[" + filler * (1_000_000 // len(filler)), "f")
    assert time.monotonic() - start < 60
    assert complaints("é" * (MAX_BYTES // 2 + 1)) == [
        "the spec is larger than 1 MiB; a repeated structure can be written as a block"
    ]


# --------------------------------------------------------------------------------------------------- positions

SPEC = """\
netc: 1
layers:
  - {name: conv1, kernel_size: 5}
  - name: ünï
    side: &s
      loss_weight: 0.3
  - *s
solver: {type: SGD, 'base_lr': 0.01}
"""


@pytest.mark.usefixtures("yaml_loader")
@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        ((), (1, 1), (1, 1)),
        (("netc",), (1, 7), (1, 1)),
        (("layers",), (3, 3), (2, 1)),
        (("layers", 0), (3, 5), (3, 5)),
        (("layers", 0, "kernel_size"), (3, 32), (3, 19)),
        (("layers", 0, "missing", "deeper"), (3, 5), (3, 5)),
        (("layers", 7, "name"), (3, 3), (2, 1)),
        (("layers", -1), (3, 3), (2, 1)),
        (("layers", "conv1"), (3, 3), (2, 1)),
        (("netc", 0), (1, 7), (1, 1)),
        ((0,), (1, 1), (1, 1)),
        (("layers", 1, "side", "loss_weight"), (6, 20), (6, 7)),
        (("layers", 2), (7, 5), (7, 5)),
        (("layers", 2, "loss_weight"), (6, 20), (6, 7)),
        (("solver", "base_lr"), (8, 32), (8, 21)),
    ],
)
def test_position(path: tuple[str | int, ...], value: tuple[int, int], key: tuple[int, int]) -> None:
    tree = parse_tree(SPEC, "f")
    assert tree.position(path) == Position("f", *value)
    assert tree.position(path, key=True) == Position("f", *key)


@pytest.mark.usefixtures("yaml_loader")
def test_aliases_are_copies() -> None:
    value: Any = parse_tree("a: &x [1]\nb: *x\nc: &x 2\nd: *x", "f").value
    value["a"].append(3)
    assert value == {"a": [1, 3], "b": [1], "c": 2, "d": 2}


# ------------------------------------------------------------------------------------------------------- files


def file_complaint(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        read_tree(path)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.position == Position(str(path))
    return diagnostic.message


@pytest.mark.parametrize("data", [b"a: 1", b"\xef\xbb\xbfa: 1", b"a: 1\r\n", b"---\na: 1\n...\n"])
def test_read(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(data)
    tree = read_tree(path)
    assert tree.value == {"a": 1}
    assert tree.position(("a",)).file == str(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a: 1".encode("utf-16"), "the file is encoded as UTF-16; save it as UTF-8"),
        (b"\xfe\xff\0a", "the file is encoded as UTF-16; save it as UTF-8"),
        (b"a: \0", "the byte at offset 3 is zero, so this is no text; name a spec file, saved as UTF-8"),
        (b"a: b\xff", "the byte at offset 4 is not valid UTF-8; save the file as UTF-8"),
        (b" " * (MAX_BYTES + 1), "the spec is larger than 1 MiB; a repeated structure can be written as a block"),
    ],
)
def test_bad_bytes(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(data)
    assert file_complaint(path) == message


def test_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    special = "this is a device, pipe or socket; name a regular file"
    assert file_complaint(tmp_path / "fifo") == special
    assert file_complaint(Path("/dev/zero")) == special
    assert file_complaint(tmp_path) == "this is a directory; name a spec file in it"
    assert file_complaint(tmp_path / "missing") == "there is no such file; check the path"
    assert file_complaint(tmp_path / "file" / "x").startswith("cannot read this file: Not a directory")
    assert file_complaint(tmp_path / "loop").startswith("cannot read this file: ")
    assert file_complaint(tmp_path / ("x" * 5000)).startswith("cannot read this file: File name too long")
    with pytest.raises(SpecError, match="no valid path"):
        read_tree(Path("a\0b"))


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "x.yaml"
    path.write_text("a: 1")
    monkeypatch.setattr(Path, "open", refuse)  # root, who runs the tests in containers, may read everything
    assert file_complaint(path) == "no permission to read this file; make it readable, as in chmod u+r"
