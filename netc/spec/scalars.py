"""Scalars by the YAML 1.2 core schema: which plain text is which value.

pyyaml resolves by YAML 1.1 (`no` is False, `12:30` is 750, `1e-3` is text), so netc resolves for itself.
"""

import json
import math
import re
from typing import TypeAlias

Scalar: TypeAlias = bool | int | float | str | None

INT_BITS = 64  # the widest integer of ONNX

_CONSTANTS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((s + name for s in ("", "+") for name in (".inf", ".Inf", ".INF")), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_INT = re.compile(r"(?P<sign>[-+]?)(?P<decimal>[0-9]+)|0o(?P<octal>[0-7]+)|0x(?P<hex>[0-9a-fA-F]+)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_STANDARD_TAGS = "tag:yaml.org,2002:"
_TAGGED_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "null": (type(None),),
}


class ScalarError(ValueError):
    """A text that is no value; the message is a sentence that still lacks its position."""


def resolve(text: str) -> Scalar:
    """Return the value of an unquoted scalar."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if match := _INT.fullmatch(text):
        return _integer(text, match)
    if _FLOAT.fullmatch(text):
        value = float(text)
        if math.isinf(value):
            raise ScalarError(f"the number {shown(text)} is too large for a float; write .inf for infinity")
        return value
    return text


def resolve_tagged(tag: str, text: str) -> Scalar:
    """Return the value of a scalar with an explicit tag; only the tags of the core schema are known."""
    name = tag.removeprefix(_STANDARD_TAGS)
    if name == tag or name not in {"str", *_TAGGED_TYPES}:
        raise ScalarError(tag_message(tag))
    if name == "str":
        return text
    value = resolve(text)
    # type() and not isinstance(): true is no integer here, although bool is a subclass of int.
    if type(value) not in _TAGGED_TYPES[name]:
        raise ScalarError(f"{shown(text, quoted=True)} does not fit the tag !!{name}; remove the tag")
    return float(value) if name == "float" and isinstance(value, int) else value


def is_collection_tag(tag: str, name: str) -> bool:
    """Whether `tag` says no more than that the collection is what it is: `name` is "map" or "seq"."""
    return tag == _STANDARD_TAGS + name


def tag_message(tag: str) -> str:
    """Return the sentence that refuses a tag, written as the user wrote it."""
    short = "!!" + tag.removeprefix(_STANDARD_TAGS) if tag.startswith(_STANDARD_TAGS) else tag
    return f"tags are not part of the language; remove {shown(short, quoted=True)}"


def shown(value: Scalar, quoted: bool = False) -> str:
    """Return a value as a message shows it: YAML's spelling, cut to a readable length."""
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) > 60:
        text = f"{text[:40]}... ({len(text)} characters)"
    return json.dumps(text, ensure_ascii=False) if quoted else text


def _integer(text: str, match: re.Match[str]) -> int:
    digits, base = next(
        (digits.lstrip("0") or "0", base)
        for digits, base in ((match["decimal"], 10), (match["octal"], 8), (match["hex"], 16))
        if digits is not None
    )
    # Few enough digits first: int() takes quadratic time, and refuses more than 4300 of them.
    if len(digits) <= INT_BITS:
        value = int((match["sign"] or "") + digits, base)
        if -(2 ** (INT_BITS - 1)) <= value < 2 ** (INT_BITS - 1):
            return value
    raise ScalarError(
        f"the integer {shown(text)} does not fit in {INT_BITS} bits; write a float such as 1e30, or quote it as text"
    )
