"""What sources read from the `data` section: each option once, with the values it takes and what they mean.

`netc data list`, docs/sources.md and the messages of `check_values` are made from these.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from netc_runtime.errors import did_you_mean

Problem: TypeAlias = tuple[tuple[str, ...], str]
"""A mistake in the `data` section: the path of its key under `data`, and a sentence."""


@dataclass(frozen=True)
class Kind:
    """The values that an option takes: in a table, in a sentence, and as a test."""

    name: str
    words: str
    accepts: Callable[[Any], bool]


@dataclass(frozen=True)
class Option:
    """One key of `data`; `about` completes "NAME should be ..." and `note` says more on the page of sources."""

    name: str
    kind: Kind
    about: str
    default: Any = None
    note: str = ""

    def problems(self, value: Any) -> list[Problem]:
        """Return a sentence unless the option takes the value."""
        if self.kind.accepts(value):
            return []
        return [((self.name,), f"{self.name} should be {self.about}, {self.kind.words}, not {value!r}")]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_names(value: object) -> bool:
    if not isinstance(value, list | tuple) or not value:
        return False
    # A set would take True for 1.
    return all(isinstance(one, str | int) and not isinstance(one, bool) for one in value) and len(set(value)) == len(
        value
    )


def _is_texts(value: object) -> bool:
    texts = [value] if isinstance(value, str) else value
    return isinstance(texts, list | tuple) and bool(texts) and all(isinstance(one, str) and one for one in texts)


def _is_text_mapping(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(one, str) and one for one in (*value, *value.values()))


def mapping_of(*keys: str) -> Kind:
    """Return the kind of an option that says a text for some of a few keys, and nothing else."""
    return Kind(
        "mapping of texts",
        f"as a mapping with {' or '.join(keys)} alone",
        lambda value: _is_text_mapping(value) and value.keys() <= set(keys),
    )


def choice(*values: Any) -> Kind:
    """Return the kind of an option that takes one of a few values."""
    words = " or ".join(map(str, values))
    return Kind(", ".join(f"`{value}`" for value in values), words, lambda value: value in values and value is not True)


TEXT = Kind("text", "as a text", lambda value: isinstance(value, str))
COUNT = Kind("integer > 0", "1 or more", _is_count)
FLAG = Kind("true or false", "true or false", lambda value: isinstance(value, bool))
NAMES = Kind("list of texts or integers", "as a list of different names or numbers", _is_names)
TEXTS = Kind("text, or a list", "as a text or a list of texts", _is_texts)
TEXT_MAPPING = Kind("mapping of texts", "as a mapping of texts", _is_text_mapping)
_MAPPING = Kind("mapping", "such as {test: 0.2, seed: 0}", lambda value: isinstance(value, Mapping))


@dataclass(frozen=True)
class Division:
    """How samples are divided into two splits: the values of the option `split`."""

    test: float = 0.2
    seed: int = 0
    stratified: bool | None = None

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> "Division":
        """Read a value that `SPLIT` accepts."""
        return replace(cls(), **value)


class _Split(Option):
    """The option `split`, whose parts have names of their own."""

    def problems(self, value: Any) -> list[Problem]:
        """Return a sentence for everything in the mapping that is wrong."""
        if not self.kind.accepts(value):
            return super().problems(value)
        known = Division.__dataclass_fields__
        found: list[Problem] = [
            ((self.name,), f'split has no key "{key}"{did_you_mean(str(key), known)}')
            for key in value
            if key not in known
        ]
        test, seed, stratified = (value.get(key, getattr(Division, key)) for key in ("test", "seed", "stratified"))
        if not _is_number(test) or not 0 < test < 1:
            found.append(
                ((self.name,), f"split.test should be the fraction of samples to test with, 0 to 1, not {test!r}")
            )
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**64:
            found.append(((self.name,), f"split.seed should be a whole number from 0 on, not {seed!r}"))
        if stratified is not None and not isinstance(stratified, bool):
            found.append(((self.name,), f"split.stratified should be true or false, not {stratified!r}"))
        return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def path_option(about: str) -> Option:
    """Return the option `path` of a source; `about` is what it names."""
    return Option("path", TEXT, about)


SPLIT = _Split(
    "split",
    _MAPPING,
    "how to draw the test split from the training samples",
    note="`test` is their fraction (0.2 by default), `seed` chooses which (0 by default), and `stratified` draws from "
    "each class alike (the default where each sample has one label). What the source itself gives as test split is "
    "then left alone. A source of one set that is not told how to split takes the defaults.",
)
CLASSES = Option(
    "classes",
    NAMES,
    "which classes to keep, by name or number",
    note="Labels become 0, 1, ... in this order; samples of other classes are left out.",
)
LIMIT = Option(
    "limit",
    COUNT,
    "how many training samples to keep",
    note="Always the same ones, evenly drawn from all; the test split stays whole.",
)
ON_ERROR = Option(
    "on_error",
    choice("stop", "skip"),
    "what to do with an image that cannot be decoded",
    default="stop",
    note="`skip` leaves it out, and says how many it left out.",
)
LEAVE_OUT = "; mend it, or leave such images out with data.on_error: skip"
"""The remedy of a sentence about an image that cannot be decoded."""
CHANNELS = Option("channels", choice(1, 3), "the channels of an image", default=3, note="Grey, or red, green and blue.")
FIELDS = Option(
    "fields",
    TEXT_MAPPING,
    "what the file calls each field",
    note="Such as `{image: pixels, label: digit}`; `data`, `x` and `images` are `image` without being told, `y` and "
    "`labels` are `label`.",
)


def check_values(known: Iterable[Option], values: Mapping[str, Any]) -> list[Problem]:
    """Return the mistakes in the values of options that are known."""
    return [problem for option in known if option.name in values for problem in option.problems(values[option.name])]
