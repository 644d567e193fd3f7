"""Rewrites: graph to graph, each in one file with its reason and its mathematics."""

from netc.rewrite.passes import clean, optimize_step

__all__ = ["clean", "optimize_step"]
