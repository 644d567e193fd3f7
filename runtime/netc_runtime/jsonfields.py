"""Typed reading of JSON that somebody else wrote, and the one canonical way to write it."""

import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T", str, int, float, list[Any], dict[str, Any])


class MalformedError(ValueError):
    """JSON that lacks a key or has a value of another kind; the message names the key."""


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Return the JSON object in `text`; raises MalformedError for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise MalformedError(f"it is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise MalformedError("it is not a JSON object")
    return value


def field(mapping: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """Return `mapping[key]` if it is a `kind`; raises MalformedError otherwise."""
    if key not in mapping:
        raise MalformedError(f'the key "{key}" is missing')
    value = mapping[key]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return kind(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise MalformedError(f'"{key}" should be a JSON {_NAMES[kind]}, not {json.dumps(value)[:60]}')
    return value


def optional(mapping: Mapping[str, Any], key: str, kind: type[T]) -> T | None:
    """Return None where `key` is absent or null, otherwise as `field`."""
    return None if mapping.get(key) is None else field(mapping, key, kind)


def integers(mapping: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """Return a list of integers, empty where `key` is absent or null; raises MalformedError for anything else."""
    values = optional(mapping, key, list) or []
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        raise MalformedError(f'"{key}" should be a list of integers, not {json.dumps(values)[:60]}')
    return tuple(values)


def objects(mapping: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return a list of JSON objects; raises MalformedError otherwise."""
    values = field(mapping, key, list)
    if not all(isinstance(value, dict) for value in values):
        raise MalformedError(f'"{key}" should be a list of JSON objects')
    return values


def canonical(value: object) -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces, non-finite numbers as null."""
    return json.dumps(without_non_finite(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def without_non_finite(value: object) -> object:
    """Return `value` with NaN and infinities, which JSON cannot express, replaced by None."""
    if isinstance(value, Mapping):
        return {key: without_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_non_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


_NAMES: dict[type, str] = {str: "string", int: "integer", float: "number", list: "array", dict: "object"}
