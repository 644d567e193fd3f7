"""Which tensors of a network the globs of a spec choose, and how much of the learning rate each parameter gets.

A glob is compared with the name of a layer (`conv1`, `res3/1/conv2`) and with the whole name of a tensor
(`conv1.weight`, `bn1.running_mean`). `*` stands for any text, slashes included, `?` for one character, `[ab]` for one
of several. A parameter that layers share belongs to the first of them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


def matches(glob: str, layer: str, tensor: str) -> bool:
    """Whether a glob chooses a tensor, by its own name or by that of its layer."""
    return fnmatchcase(layer, glob) or fnmatchcase(tensor, glob)


@dataclass(frozen=True)
class Tuning:
    """How much of the learning rate each parameter gets: `freeze` and `lr_mult` of a spec."""

    freeze: tuple[str, ...] = ()
    lr_mult: Mapping[str, float] = field(default_factory=dict)

    def is_frozen(self, layer: str, tensor: str) -> bool:
        """Whether `freeze` chooses a tensor."""
        return any(matches(glob, layer, tensor) for glob in self.freeze)

    def factor(self, layer: str, tensor: str) -> float:
        """Return the product of the factors of all globs that choose a parameter; 0 if it is frozen."""
        if self.is_frozen(layer, tensor):
            return 0.0
        return math.prod(factor for glob, factor in self.lr_mult.items() if matches(glob, layer, tensor))
