"""Values that the types of fields allow; classes are found in their families, so that new ones take part."""

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from netc.declared import Declared, Family
from netc.layers.base import Layer
from tests.mutations.text import Random, Tree

INTEGERS = (1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8, 9, 16, 0, 0, -1, -1, -2, -3, -9, 33, 100, 255)
HUGE_INTEGERS = (1000, 10**5, 2**24, 10**8, 2**31 - 1, 2**31, 2**32, 10**12, 2**63 - 1, 2**63, -(2**63), 10**30)
FLOATS = (0.0, 0.0, 1.0, 1.0, 2.0, 0.5, 0.5, 0.1, 0.9, 3.0, -1.0, -0.5, 1e-3, 1e-7, 1.5, 100.0)
HUGE_FLOATS = (1e9, -1e9, 1e29, -1e29, 1e-29, 1e30, 1e31, 1e-31, 1e300, 5e-324, -0.0, 65504.0)


class Values:
    """Draws values that a field's annotation allows; `names` are those of layers and inputs around it."""

    def __init__(self, rng: Random, names: Sequence[str]) -> None:
        self.rng, self.names = rng, list(names) or ["image"]
        self._depth = 0

    def field(self, cls: type[Declared], name: str) -> Any:
        """Return a value for a field of a class."""
        if name in ("bottom", "top"):
            return self._names()
        field = cls.model_fields[name]
        return self._value(field.annotation, field.metadata)

    def mapping(self, cls: type[Declared], extra: int = 2) -> Tree:
        """Return a mapping with all required fields of a class, and up to `extra` others."""
        fields = dict(cls.model_fields)
        made: Tree = {}
        if issubclass(cls, Layer):
            made = {"name": f"new{self.rng.randrange(10**6)}", "type": fields["type"].default}
            if cls.min_bottoms > 1 or self.rng.random() < 0.2:
                count = max(cls.min_bottoms, self.rng.choice([1, 2, 2, 3]) if cls.max_bottoms is None else 1)
                made["bottom"] = [self.rng.choice(self.names) for _ in range(count)]
        others = [name for name, field in fields.items() if not field.is_required() and name not in made]
        chosen = self.rng.sample(others, self.rng.randint(0, min(extra, len(others))))
        chosen = [name for name in chosen if name not in ("side", "include", "param") or self.rng.random() < 0.3]
        for name, field in fields.items():
            if name in chosen or (field.is_required() and name not in made):
                made[name] = self.field(cls, name)
        for key in ("type", "policy"):
            if key in fields and isinstance(fields[key].default, str):
                made[key] = fields[key].default
        return made

    def member(self, family: Family[Any]) -> Any:
        """Return a mapping of one of a family's classes, or its shorthand."""
        name = self.rng.choice(sorted(family.members))
        if family.shorthand and self.rng.random() < 0.2:
            return name
        return self.mapping(family.members[name])

    def _names(self) -> Any:
        chosen = [self.rng.choice(self.names) for _ in range(self.rng.choice([0, 1, 1, 1, 2, 2, 3]))]
        return chosen[0] if len(chosen) == 1 and self.rng.random() < 0.5 else chosen

    def _value(self, annotation: Any, metadata: Sequence[Any]) -> Any:
        for each in metadata:
            if isinstance(each, Family):
                return self._nested(partial(self.member, each))
            if isinstance(each, FieldInfo):
                metadata = [*metadata, *each.metadata]
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            return self._value(arguments[0], [*metadata, *arguments[1:]])
        if origin in (Union, UnionType):
            chosen = self.rng.choice([a for a in arguments if a is not type(None)] * 4 + list(arguments))
            return None if chosen is type(None) else self._value(chosen, metadata)
        if origin is Literal:
            return self.rng.choice(arguments)
        if origin is list:
            fewest = max([m.min_length for m in metadata if isinstance(m, annotated_types.MinLen)], default=0)
            count = max(fewest, self.rng.choice([0, 1, 1, 2, 2, 2, 3, 4]))
            same = self._value(arguments[0], ())
            if isinstance(same, int) and self.rng.random() < 0.3:
                return [same] * count
            return [self._value(arguments[0], ()) for _ in range(count)]
        if annotation is bool:
            return self.rng.random() < 0.5
        if annotation is int:
            return self._number(INTEGERS, HUGE_INTEGERS, metadata)
        if annotation is float:
            return self._number(FLOATS, HUGE_FLOATS, metadata)
        if isinstance(annotation, type) and issubclass(annotation, Declared):
            return self._nested(partial(self.mapping, annotation))
        return self.rng.choice(self.names)

    def _nested(self, draw: Callable[[], Any]) -> Any:
        if self._depth > 3:  # sides within sides must end
            return {"type": "Softplus"}
        self._depth += 1
        made = draw()
        self._depth -= 1
        return made

    def _number(self, usual: Sequence[float], huge: Sequence[float], metadata: Sequence[Any]) -> float:
        allowed = [n for n in usual if _within(n, metadata)] or list(usual)
        if self.rng.random() < 0.15:
            allowed = [n for n in huge if _within(n, metadata)] or allowed
        return self.rng.choice(allowed)


def _within(number: float, metadata: Sequence[Any]) -> bool:
    """Whether a number keeps the bounds that a field declares."""
    limits = {name: getattr(bound, name) for bound in metadata for name in _BOUNDS if hasattr(bound, name)}
    return all(_BOUNDS[name](number, limit) for name, limit in limits.items())


_BOUNDS: Mapping[str, Callable[[float, float], bool]] = {
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
}
