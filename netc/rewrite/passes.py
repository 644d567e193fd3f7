"""The lists of rewrites, in order; the verifier runs after each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import onnx_ir as ir

from netc.graph import Site
from netc.graph.verify import VerificationError, verify
from netc.rewrite import (
    average_pool_gradient,
    batch_innermost,
    batch_normalization,
    channel_affine,
    channel_reduction,
    constant_output,
    deep_weight_gradient,
    depth_first,
    grouped_weight_gradient,
    input_gradient,
    matrix_weight_gradient,
    max_pool_gradient,
    overlapping_pool_gradient,
    rectified_pool,
    shifted_weight_gradient,
    signed_bits,
    single_precision,
    webgpu_operators,
    weight_gradient,
)
from netc.rewrite.lowerings import PLAIN, Lowerings, name_of
from netc.rewrite.prune import drop_unread, merge_repeats
from netc.rewrite.replay import ReplayRule, Rules, replay

Target = Literal["cpu", "cuda", "web", "openvino"]

# What an engine cannot execute, or not exactly, is put right first, whatever is fast.
NEEDED: dict[Target, Rules] = {
    "cpu": {"BatchNormalization": (batch_normalization.keep, batch_normalization.expand)},
    "cuda": {"BatchNormalization": (batch_normalization.expand,), "Identity": (constant_output.compute,)},
    "openvino": {"BatchNormalization": (batch_normalization.expand,), **signed_bits.RULES},
    "web": {"BatchNormalization": (batch_normalization.expand,)},
}
# Lowerings by engine, applied after that; each module gives its reason.
RULES: dict[Target, dict[str, Sequence[ReplayRule]]] = {
    "cpu": {
        "Add": (channel_affine.fuse,),
        "Conv": (weight_gradient.interleave,),
        "ConvTranspose": (input_gradient.flip,),
        "ScatterElements": (max_pool_gradient.without_indices,),
    },
    "cuda": {
        "Conv": (matrix_weight_gradient.multiply,),
        "ReduceMean": (channel_reduction.in_two_steps,),
        "ReduceSum": (channel_reduction.in_two_steps,),
    },
    "openvino": {
        "Conv": (
            deep_weight_gradient.stack,
            shifted_weight_gradient.multiply,
            grouped_weight_gradient.group,
            weight_gradient.interleave,
        ),
        "ReduceMean": (channel_reduction.by_product,),
        "ReduceSum": (channel_reduction.by_product,),
        "Reshape": (average_pool_gradient.upsample,),
        "ScatterElements": (max_pool_gradient.without_indices, overlapping_pool_gradient.without_indices),
    },
    # Not for speed: WebGPU refuses a MaxPool with Indices when it runs.
    "web": {"ScatterElements": (max_pool_gradient.without_indices, overlapping_pool_gradient.without_logic)},
}
# What is put right last, since the rules before it place such nodes too: one table after the other.
ENDINGS: dict[Target, Sequence[Rules]] = {
    "openvino": (depth_first.RULES,),
    "web": (single_precision.RULES, webgpu_operators.RULES, webgpu_operators.COPIES),
}


@dataclass(frozen=True)
class Platform:
    """What a step is made for: an engine, a floating-point type, and the lowerings that were chosen for places."""

    target: Target
    dtype: ir.DataType = ir.DataType.FLOAT
    lowerings: Lowerings = field(default_factory=Lowerings)


def optimize_step(graph: ir.Graph, platform: Platform) -> ir.Graph:
    """Make a step, as differentiated, into one that its platform executes, and executes fast."""
    target, dtype, chosen = platform.target, platform.dtype, platform.lowerings
    if any(node.op_type == "MaxPool" for node in graph):  # or the copy would be for nothing
        graph = replay(graph, rectified_pool.RULES, dtype).graph
    possible = replay(graph, NEEDED[target], dtype, chosen.note, partial(chosen.rules, required=True)).graph
    verify(possible, "expanding what the engine cannot execute")
    order = partial(chosen.rules, required=False)
    if target == "cpu":
        possible = _regions(possible, platform)
    return end(replay(clean(possible), RULES[target], dtype, chosen.note, order).graph, platform)


def end(graph: ir.Graph, platform: Platform) -> ir.Graph:
    """Clean a graph, and put right what its engine cannot execute but earlier rewrites may place."""
    for rules in ENDINGS.get(platform.target, ()):
        graph = replay(clean(graph), rules, platform.dtype).graph
    return graph if platform.target == "web" else clean(graph)  # cleaning would remove the copies that WebGPU needs


def _regions(graph: ir.Graph, platform: Platform) -> ir.Graph:
    """Lay the batch innermost around the convolutions where that pays and no other lowering was chosen."""
    if not any(map(batch_innermost.begins, graph)):
        return graph
    chosen = platform.lowerings

    def note(site: Site) -> None:
        if site.node.op_type == "Conv":
            chosen.note(site)

    def order(site: Site, rules: Sequence[ReplayRule]) -> Sequence[ReplayRule]:
        return chosen.rules(site, rules, required=site.node.op_type != "Conv")

    return replay(clean(graph), batch_innermost.RULES, platform.dtype, note, order).graph


def alternatives(target: Target) -> list[tuple[str, str]]:
    """Return what can be had instead of the first rule of each operator: operator and rule, or PLAIN."""
    found: list[tuple[str, str]] = []
    for table, plain in ((NEEDED[target], []), (RULES[target], [PLAIN])):
        for op_type, rules in table.items():
            found += [(op_type, name) for name in [*map(name_of, rules[1:]), *plain]]
    return found


def known_rules() -> set[str]:
    """Return the names of all rules, and PLAIN."""
    tables = [*NEEDED.values(), *RULES.values()]
    return {PLAIN, *(name_of(rule) for table in tables for rules in table.values() for rule in rules)}


def clean(graph: ir.Graph) -> ir.Graph:
    """Remove what repeats and what nobody reads: common subexpressions, dead nodes, outputs and constants.

    Names and order of the graph's outputs are kept; two of them may compute the same.
    """
    names = [value.name for value in graph.outputs]
    merge_repeats(graph)
    drop_unread(graph)
    _name_copies(graph)
    verify(graph, "cleaning")
    if [value.name for value in graph.outputs] != names:
        raise VerificationError(f"cleaning changed the outputs of {graph.name}")
    return graph


def _name_copies(graph: ir.Graph) -> None:
    """Give the copies, which a pass inserts where two outputs compute the same, the origin of what they copy."""
    for node in graph:
        if "netc.layer" not in node.metadata_props and node.op_type == "Identity" and node.inputs[0] is not None:
            source = node.inputs[0].producer()
            layer = "netc" if source is None else source.metadata_props.get("netc.layer", "netc")
            node.metadata_props.update({"netc.layer": layer, "netc.part": "copy"})
            node.name = f"{layer}/copy/{node.outputs[0].name}"
