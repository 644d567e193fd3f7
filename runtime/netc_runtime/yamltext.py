"""Resolved specs as YAML text that means the same to readers of YAML 1.1 and of YAML 1.2."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_/-]*")
# Letters that some version of YAML takes for something else than a string.
_KEYWORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


def to_yaml(spec: Mapping[str, Any]) -> str:
    """Return a block of YAML; PyYAML alone would leave "1e3" and "0o17" plain, which are numbers in YAML 1.2."""
    return yaml.dump(dict(spec), Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """Quotes every string that could be read as another kind of value, and repeats instead of pointing."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _string(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    plain = _PLAIN.fullmatch(text) and text.lower() not in _KEYWORDS
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _string)
