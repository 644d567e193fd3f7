"""The typed graph: onnx-ir with a builder, a verifier and the rules that emitted graphs obey."""

from netc.graph.builder import GraphBuilder, Origin, Site, constant_value, origin_of, shape_of

__all__ = ["GraphBuilder", "Origin", "Site", "constant_value", "origin_of", "shape_of"]
