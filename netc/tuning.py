"""Which lowerings are fastest on one machine, from times that were measured there.

Every alternative of an operator is compiled everywhere at once, and each layer's time in that step stands beside its
time in the usual one. A place is where a rule replaced a node; places of one signature decide together, by the sum over
their layers. Non-goals: choices that pay only together, and what one layer's choice does to another layer.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass

# An alternative must take this share of a layer's time less: clocks of a shared machine are hardly better than that,
# and the usual lowering is usual because it wins elsewhere.
LEAST_GAIN = 0.1

Times = Mapping[str, float]
"""Milliseconds of a step by layer."""


@dataclass(frozen=True)
class Choice:
    """What was found for the places of one signature: `rule` None is the usual lowering.

    `usual_ms` and `chosen_ms` are what the layers that have such a place take together in a step.
    """

    signature: str
    layers: int
    rule: str | None
    usual_ms: float
    chosen_ms: float


def choose(usual: Times, alternatives: Mapping[tuple[str, str], Times], places: Mapping[str, Set[str]]) -> list[Choice]:
    """Return a choice for each signature.

    Args:
        usual: times with the usual lowerings.
        alternatives: times with each alternative (operator and rule) everywhere.
        places: the layers with a place of each signature.
    """
    found: list[Choice] = []
    for signature, layers in places.items():
        before = sum(usual.get(layer, 0.0) for layer in layers)
        if not before:  # a place of a program that was not timed, such as that of another phase of training
            continue
        best, least = None, before * (1.0 - LEAST_GAIN)
        for (op_type, rule), times in alternatives.items():
            after = sum(times.get(layer, 0.0) for layer in layers)
            if signature.startswith(f"{op_type}(") and after < least:
                best, least = rule, after
        found.append(Choice(signature, len(layers), best, before, before if best is None else least))
    return found
