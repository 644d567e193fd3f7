"""Which lowering each place of a graph takes: the first that does not decline, or what `netc tune` found to be fastest.

A place is known by its signature, the operator with its attributes and the shapes of its inputs. Places of one
signature take the same time wherever they are, so that a choice made for one network serves another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from netc.graph import Site, shape_of
from netc.rewrite.replay import ReplayRule, file_of

PLAIN = "plain"
"""In place of a rule: the operator stays as it is."""


@dataclass
class Lowerings:
    """The choice of lowerings for a step.

    Attributes:
        chosen: the rule to try first, as `name_of` calls it, or PLAIN, by signature.
        everywhere: operator and rule, tried first wherever `chosen` says nothing: how alternatives are measured.
        applied: the layers where a rule replaced a node, by signature; filled while a graph is rewritten.
    """

    chosen: Mapping[str, str] = field(default_factory=dict)
    everywhere: tuple[str, str] | None = None
    applied: dict[str, set[str]] = field(default_factory=dict)

    def rules(self, site: Site, rules: Sequence[ReplayRule], required: bool) -> Sequence[ReplayRule]:
        """Return the rules to try at a place, in order; one of them is `required` where plain is no choice."""
        operator, everywhere = self.everywhere or ("", None)
        wanted = self.chosen.get(signature(site), everywhere if site.node.op_type == operator else None)
        if wanted == PLAIN and not required:
            return ()
        return rules if wanted is None else sorted(rules, key=lambda rule: name_of(rule) != wanted)

    def note(self, site: Site) -> None:
        """Remember that a rule replaced a node."""
        layer = site.node.metadata_props.get("netc.layer", "netc")
        self.applied.setdefault(signature(site), set()).add(layer)


def name_of(rule: ReplayRule) -> str:
    """Return what a rule is called where it is chosen: `batch_normalization.keep`."""
    return f"{file_of(rule)}.{rule.__name__}"


def signature(site: Site) -> str:
    """Return what decides the time of a node: `ConvTranspose(128x16x32x32, 16x16x3x3) pads=1,1,1,1`."""
    shapes = ", ".join("" if x is None else _shape(x) for x in site.node.inputs)
    attributes = (f"{name}={_text(site.attribute(name))}" for name in sorted(site.node.attributes))
    return " ".join([f"{site.node.op_type}({shapes})", *attributes])


def _shape(x: ir.Value) -> str:
    return "x".join(map(str, shape_of(x))) or "1"


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
