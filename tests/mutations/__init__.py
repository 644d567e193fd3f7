"""Seeded mutations of specs: what users, editors and disks do to a spec.

A mutation of values keeps every field of its type, so that it is the layers that have to say what does not fit; the
others damage fields, structure, blocks or the text itself. New layers, fillers, policies and fields take part without
a line here: they are found in the families and in the classes' own fields.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from netc.layers.base import LAYERS
from tests.mutations.text import Random, Tree, damage, parse, to_text
from tests.mutations.trees import FIELDS, STRUCTURE, VALUES, field_of_layer, layers_of


@dataclass(frozen=True)
class Mutant:
    """A damaged spec: the seed that makes it again, what was done, and the tree (None: damage to the text)."""

    seed: int
    base: str
    kind: Literal["values", "fields", "structure", "text"]
    done: tuple[str, ...]
    text: str
    tree: Tree | None

    def __str__(self) -> str:
        done = "\n".join(f"  - {each}" for each in self.done)
        return f"seed {self.seed}, {self.kind} of {self.base}:\n{done}\n{self.text}"


class Mutator:
    """Makes mutants of specs, the same one of the same seed."""

    def __init__(self, specs: Mapping[str, str]) -> None:
        self._specs = dict(specs)
        self._of_type: dict[str, list[str]] = {}
        for name, text in specs.items():
            for kind in sorted({str(layer.get("type")) for layer in layers_of(parse(text))} & LAYERS.members.keys()):
                self._of_type.setdefault(kind, []).append(name)

    def mutant(self, seed: int) -> Mutant:
        """Return the mutant of a seed: one to three mutations; half of all mutants of values alone."""
        rng = Random(seed)
        kind: Any = rng.choices(["values", "fields", "structure", "text"], [50, 25, 12, 13])[0]
        count = rng.choice([1, 1, 1, 2, 2, 3])
        done: list[str] = []
        if kind == "text":
            name = rng.choice(list(self._specs))
            text = self._specs[name]
            for _ in range(count):
                text, what = damage(text, rng)
                done.append(what)
            return Mutant(seed, name, kind, tuple(done), text, None)
        # By the type of a layer, not by the spec: rare types get as many mutants as those that every spec has.
        want = rng.choice(list(self._of_type))
        name = rng.choice(self._of_type[want])
        spec = parse(self._specs[name])
        mutations = {"values": VALUES, "fields": FIELDS, "structure": STRUCTURE}[kind]
        if kind == "values" and rng.random() < 0.4:
            done.append(str(field_of_layer(spec, rng, want)))
        for _ in range(100):
            if len(done) >= count:
                break
            if what_done := rng.choice(mutations)(spec, rng):
                done.append(what_done)
        return Mutant(seed, name, kind, tuple(done), to_text(spec), spec)
