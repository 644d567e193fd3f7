"""What the rows of primitives and of layers share: a seed, a run in ONNX Runtime, a check of the slope in float64."""

import zlib
from collections.abc import Sequence
from typing import Protocol

import onnx_ir as ir

from netc.rewrite.passes import NEEDED, Platform, Target, clean, optimize_step
from netc.rewrite.replay import replay
from tests.oracle import Arrays, direction_error, ort_runner, reference_runner, to_model


class Row(Protocol):
    """A row of any table."""

    @property
    def id(self) -> str: ...


def seed_of(row: Row) -> int:
    """Return the fixed seed of a row, so that rows can be moved and added without changing others."""
    return zlib.crc32(row.id.encode())


def in_ort(graph: ir.Graph, feed: Arrays, target: Target | None = None) -> Arrays:
    """Run the graph of a step in ONNX Runtime, in float32 and with the lowerings of a target.

    None is as differentiated, with nothing changed but batch normalization, which is put into other operators.
    """
    if target is None:
        return ort_runner(to_model(clean(replay(graph, NEEDED["web"]).graph)))(feed)
    return ort_runner(to_model(optimize_step(graph, Platform(target)), target=target))(feed)


def slope_error(graph: ir.Graph, feed: Arrays, wrt: Sequence[str], row: Row) -> float:
    """Return the error of a float64 graph's gradients along random directions, in the standard's own evaluator."""
    return direction_error(reference_runner(to_model(graph, emitted=False)), feed, "objective", wrt, seed_of(row))
