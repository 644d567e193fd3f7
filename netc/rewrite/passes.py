"""The lists of rewrites, in order; the verifier runs after each."""

import onnx_ir as ir
from onnx_ir.passes import common

from netc.graph import GraphBuilder
from netc.graph.builder import IR_VERSION
from netc.graph.verify import verify
from netc.rewrite import batch_normalization
from netc.rewrite.replay import replay


def optimize_step(graph: ir.Graph, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Graph:
    """Make a step, as differentiated, into one that every runtime executes."""
    expanded = replay(graph, {"BatchNormalization": batch_normalization.expand}, dtype).graph
    verify(expanded, "expanding batch normalization")
    return clean(expanded)


def clean(graph: ir.Graph) -> ir.Graph:
    """Remove what repeats and what nobody reads: copies, common subexpressions, dead nodes and constants."""
    model = ir.Model(graph, ir_version=IR_VERSION)
    for rewrite in (
        common.IdentityEliminationPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
    ):
        model = rewrite(model).model
        verify(model.graph, type(rewrite).__name__)
    return model.graph


def cleaned(g: GraphBuilder) -> ir.Graph:
    """Return the graph of a builder, cleaned."""
    return clean(g.graph)
