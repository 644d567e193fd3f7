"""The numpy twin of the counter-based hash, from its formula alone."""

import hashlib
import math

import numpy as np


def _mix(x: np.ndarray) -> np.ndarray:
    for m in (0x7FEB352D, 0x846CA68B, 0x9E3779B1):
        x = x * (x + x + np.uint32(1))
        x = (x >> np.uint32(16)) | (x << np.uint32(16))
        x = x * np.uint32(m)
    return x


def random_bits(seed: int, step: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the uint32 numbers that a graph draws for `name` at `step`."""
    key = _mix(np.array([seed + 0x243F6A88], np.uint64).astype(np.uint32)) * np.uint32(0x85EBCA6B) + np.uint32(step)
    k1, k2, k3, k4 = _mix(key + np.array([0x9E3779B9, 0x3C6EF372, 0xDAA66D2B, 0x78DDE6E4], np.uint32))[:, None, None]
    splits = [(math.prod(shape[:i]), math.prod(shape[i:])) for i in range(len(shape) + 1)]
    rows, columns = min(splits, key=sum)
    digest = hashlib.sha256(name.encode()).digest()
    raw = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(rows + columns)
    words = (raw >> 32).astype(np.uint32) | np.uint32(1)
    a = words[:rows, None] * k1 + k2
    a = a * (a + a + np.uint32(1))
    b = words[None, rows:] * k3 + k4
    b = b * (b + b + np.uint32(1))
    x = a * b + a
    return (x * x + x).reshape(shape)


def bits_of_steps(seed: int, steps: np.ndarray, name: str) -> np.ndarray:
    """Return the one number that a graph draws for `name` at each of the steps, uint32."""
    start = _mix(np.array([seed + 0x243F6A88], np.uint64).astype(np.uint32)) * np.uint32(0x85EBCA6B)
    offsets = np.array([0x9E3779B9, 0x3C6EF372, 0xDAA66D2B, 0x78DDE6E4], np.uint32)
    k1, k2, k3, k4 = _mix((start + steps.astype(np.uint32)) + offsets[:, None])
    digest = hashlib.sha256(name.encode()).digest()
    raw = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(2)
    row, column = (raw >> 32).astype(np.uint32) | np.uint32(1)
    a, b = row * k1 + k2, column * k3 + k4
    a, b = a * (a + a + np.uint32(1)), b * (b + b + np.uint32(1))
    x = a * b + a
    return np.asarray(x * x + x)


def keep_mask(seed: int, step: int, name: str, shape: tuple[int, ...], ratio: float) -> np.ndarray:
    """Return True where dropout keeps a unit."""
    return random_bits(seed, step, name, shape) >= np.uint32(ratio * 2**32)
