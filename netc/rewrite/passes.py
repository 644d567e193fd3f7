"""The lists of rewrites, in order; the verifier runs after each."""

import onnx_ir as ir
from onnx_ir.passes import common

from netc.graph.builder import IR_VERSION
from netc.graph.verify import VerificationError, verify
from netc.rewrite import batch_normalization
from netc.rewrite.replay import replay


def optimize_step(graph: ir.Graph, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Graph:
    """Make a step, as differentiated, into one that every runtime executes."""
    expanded = replay(graph, {"BatchNormalization": batch_normalization.expand}, dtype).graph
    verify(expanded, "expanding batch normalization")
    return clean(expanded)


def clean(graph: ir.Graph) -> ir.Graph:
    """Remove what repeats and what nobody reads: common subexpressions, dead nodes and constants.

    Names and order of the outputs are kept; two outputs may compute the same.
    """
    names = [value.name for value in graph.outputs]
    model = ir.Model(graph, ir_version=IR_VERSION)
    for rewrite in (common.CommonSubexpressionEliminationPass(), common.RemoveUnusedNodesPass()):
        model = rewrite(model).model
        verify(model.graph, type(rewrite).__name__)
        if [value.name for value in model.graph.outputs] != names:
            raise VerificationError(f"{type(rewrite).__name__} changed the outputs of {graph.name}")
    return model.graph
