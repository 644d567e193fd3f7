"""Randomness without a random operator: a stateless hash of (seed, step, name, position) in uint32 arithmetic.

Every number is a pure function of state that a host can read, store and restore, so that a resumed run draws what
an uninterrupted one draws, on every runtime. Only Add, Mul, Div and comparisons on uint32 occur, which wrap modulo
2^32 and have kernels everywhere. Once a step four keys are mixed from seed and step; a tensor of R x C numbers then
costs five passes: with constants A [R, 1] and B [1, C], drawn at compile time from Philox keyed by the tensor's name,

    a = (A|1) k1 + k2;  a = a (2a + 1)        b = (B|1) k3 + k4;  b = b (2b + 1)        x = a b + a;  x = x^2 + x

x (2x + 1) is the bijection of RC6 (Rivest et al., 1998). Two numbers of one row or column are as good as
independent; the tests hold the moments, correlations and bytes of masks against their expectations.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph.builder import GraphBuilder, Origin

MULTIPLIERS = (0x7FEB352D, 0x846CA68B, 0x9E3779B1)
SEED_OFFSET = 0x243F6A88
SEED_MULTIPLIER = 0x85EBCA6B
KEY_OFFSETS = (0x9E3779B9, 0x3C6EF372, 0xDAA66D2B, 0x78DDE6E4)


def name_constants(name: str, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the odd constants A [rows, 1] and B [1, columns] of the tensor called `name`."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(rows + columns)
    words = (raw >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
    return words[:rows].reshape(rows, 1), words[rows:].reshape(1, columns)


def near_square(shape: Sequence[int]) -> tuple[int, int]:
    """Split a shape between two of its axes into rows x columns with the fewest constants (rows + columns)."""
    splits = [(math.prod(shape[:i]), math.prod(shape[i:])) for i in range(len(shape) + 1)]
    return min(splits, key=sum)


class CounterRNG:
    """Draws tensors of random bits within one graph.

    Args:
        g: the graph.
        seed: uint32 [1], constant during a run.
        step: int64 [], the number of completed updates.
    """

    def __init__(self, g: GraphBuilder, seed: ir.Value, step: ir.Value) -> None:
        self._g, self._seed, self._step = g, seed, step
        self._keys: tuple[ir.Value, ...] | None = None

    def bits(self, name: str, shape: Sequence[int]) -> ir.Value:
        """Return uint32 numbers of the given shape, different for each name.

        Compare them with thresholds, or use the upper 16 bits; the lowest bits are not random (x^2 + x is even).
        """
        g = self._g
        k1, k2, k3, k4 = self._mix_keys()
        rows, columns = near_square(shape)
        of_rows, of_columns = name_constants(name, rows, columns)
        with g.arithmetic():
            a = g.constant(of_rows) * k1 + k2
            a = a * (a + a + 1)
            b = g.constant(of_columns) * k3 + k4
            b = b * (b + b + 1)
            x = a * b + a
            x = x * x + x
        return x if [rows, columns] == list(shape) else g.Reshape(x, np.array(shape, np.int64))

    def keep(self, name: str, shape: Sequence[int], ratio: float) -> ir.Value:
        """Return booleans of the given shape, false with probability `ratio` (to within 2^-32)."""
        threshold = np.array(min(int(ratio * 2**32), 2**32 - 1), np.uint32)
        return self._g.GreaterOrEqual(self.bits(name, shape), self._g.constant(threshold))

    def uniform(self, name: str, shape: Sequence[int]) -> ir.Value:
        """Return float numbers from U(0, 1): the upper 16 bits in the middle of their steps, (bits + 0.5) / 2^16."""
        g = self._g
        with g.arithmetic():
            return (g.Cast(self.bits(name, shape) / 65536, to=ir.DataType.FLOAT) + 0.5) * 2.0**-16

    def normal(self, name: str, shape: Sequence[int]) -> ir.Value:
        """Return float numbers from N(0, 1) by Box & Muller (1958): sqrt(-2 log u) cos(2 pi v)."""
        g = self._g
        with g.arithmetic():
            u, v = (self.uniform(name + suffix, shape) for suffix in ("", ".angle"))
            return g.Sqrt(g.Log(u) * -2.0) * g.Cos(v * (2.0 * math.pi))

    def _mix_keys(self) -> tuple[ir.Value, ...]:
        if self._keys is None:
            g = self._g
            with g.origin(Origin("random", "keys")), g.arithmetic():
                step = g.Cast(self._step, to=ir.DataType.UINT32)
                key = self._mix(self._seed + SEED_OFFSET) * SEED_MULTIPLIER + step
                keys = self._mix(key + g.constant(np.array(KEY_OFFSETS, np.uint32)))
                self._keys = tuple(
                    g.Slice(keys, np.array([i]), np.array([i + 1]), np.array([0])) for i in range(len(KEY_OFFSETS))
                )
        return self._keys

    def _mix(self, x: ir.Value) -> ir.Value:
        """Scramble each number; a bijection of uint32."""
        for multiplier in MULTIPLIERS:
            x = x * (x + x + 1)
            x = x / 65536 + x * 65536  # rotate by 16: the two halves never overlap
            x = x * multiplier
        return x
