"""Entries of manifest.json beside its tensors and graphs: the course of training, and digests (docs/artifact.md)."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netc_runtime.jsonfields import MalformedError, field, optional


@dataclass(frozen=True)
class Phase:
    """A part of training: its program, and its length in epochs or in steps; that of the last one is open."""

    graph: str
    epochs: int | None = None
    iterations: int | None = None

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> "Phase":
        """Read what the manifest says; raises MalformedError."""
        lengths = [optional(entry, key, int) for key in ("epochs", "iterations")]
        if any(length is not None and length < 1 for length in lengths):
            raise MalformedError(f"a phase has the length {lengths}")
        return cls(field(entry, "graph", str), *lengths)


@dataclass(frozen=True)
class InitFrom:
    """What a run starts from: a path, which checkpoint of a run, names there with the names here, and what is kept.

    State tensors in `drawn` keep the values of init.safetensors.
    """

    path: str
    checkpoint: str
    rename: Mapping[str, str]
    drawn: frozenset[str]

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> "InitFrom":
        """Read what the manifest says; raises MalformedError."""
        given, drawn = field(entry, "rename", dict), field(entry, "drawn", list)
        rename, checkpoint = {name: field(given, name, str) for name in given}, field(entry, "checkpoint", str)
        if checkpoint not in ("last", "best"):
            raise MalformedError(f'"checkpoint" of "init_from" should be last or best, not "{checkpoint}"')
        for there, here in rename.items():
            if there.count("*") != here.count("*"):
                raise MalformedError(f'"rename" of "init_from" has "{there}" and "{here}" with different numbers of *')
        return cls(field(entry, "path", str), checkpoint, rename, frozenset(map(str, drawn)))


def monitors_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the program that monitors each training program, empty if none does; raises MalformedError."""
    monitors = optional(manifest, "monitors", dict) or {}
    return {graph: field(monitors, graph, str) for graph in monitors}


def digests_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of files, once the manifest's own is proven; empty if it has none. Raises MalformedError."""
    digest = optional(manifest, "digest", str)
    if digest is not None:
        rest = {key: value for key, value in manifest.items() if key != "digest"}
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            raise MalformedError("its content does not have the digest that it records")
    digests = optional(manifest, "digests", dict) or {}
    return {name: field(digests, name, str) for name in digests}
