"""The text of a spec: written from plain data, and damaged as editors and disks damage it."""

import json
import math
import random
from typing import Any

from netc.spec.text import parse_tree

Tree = dict[str, Any]
Random = random.Random


def parse(text: str) -> Tree:
    """Return a spec as plain data."""
    return parse_tree(text, "base.yaml").value


def to_text(spec: Tree) -> str:
    """Write a spec with a section, an input, a block or a layer a line; what is no mapping any more on one."""
    lines: list[str] = []
    for key, value in spec.items():
        if isinstance(value, dict) and value and key in ("inputs", "blocks", "solver"):
            lines += [f"{scalar(key)}:", *(f"  {scalar(k)}: {flow(v)}" for k, v in value.items())]
        elif isinstance(value, list) and value and key == "layers":
            lines += [f"{scalar(key)}:", *(f"  - {flow(v)}" for v in value)]
        else:
            lines.append(f"{scalar(key)}: {flow(value)}")
    return "\n".join(lines) + "\n"


def flow(value: Any) -> str:
    """Write a value of YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar(key)}: {flow(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return scalar(value)


def scalar(value: Any) -> str:
    """Write a scalar of YAML 1.2."""
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    if (
        isinstance(value, str)
        and value.isascii()
        and value.isidentifier()
        and value.lower() not in ("null", "true", "false")
    ):
        return value
    return json.dumps(value)


ODD = (
    "\t", "\x00", "\x07", "\ufeff", "\u2028", "\x85", "é", "😀", "\ud800", "{", "}", "[", "]", "'", '"', ":", ": ", ",",
    "#", " #", "&a ", "*a", "!", "!!int ", "!!python/object:os.system ", "%", "@", "`", "|", ">", "- ", "---\n",
    "...\n", "? ", "<<: *a, ", "\n", "\n\n", "\r", "  ",
    "\\", "~", "=", "0x", "1e999", "1_0", ".inf", "é: é",
)  # fmt: skip


def damage(text: str, rng: Random) -> tuple[str, str]:
    """Return a text with one thing of an editor or a disk gone wrong, and what it is."""
    at, how = rng.randrange(len(text) + 1), rng.randrange(10)
    lines = text.splitlines(keepends=True) or [""]
    i = rng.randrange(len(lines))
    match how:
        case 0:
            text = text[:at]
        case 1:
            text = text[:at] + text[at + rng.choice([1, 1, 2, 5, 40]) :]
        case 2 | 3:
            text = text[:at] + rng.choice(ODD) + text[at:]
        case 4:
            lines[i] = rng.choice([" ", "  ", "    ", "\t"]) + lines[i]
            text = "".join(lines)
        case 5:
            lines[i] = lines[i].lstrip(" ")
            text = "".join(lines)
        case 6:
            lines.insert(rng.randint(0, len(lines)), lines[i])
            text = "".join(lines)
        case 7:
            brackets = [n for n, c in enumerate(text) if c in "[]{},:\"'"] or [0]
            n = rng.choice(brackets)
            text = text[:n] + text[n + 1 :]
        case 8:
            del lines[i : i + rng.randint(1, 3)]
            text = "".join(lines)
        case _:
            text = text[:at] + text[rng.randrange(len(text) + 1) :]
    return text, f"text ({how}, {at}, line {i + 1})"
