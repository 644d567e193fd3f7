"""What a row for a differentiation rule says."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from tests.cases.domains import Domain, Shape, Tensor, normal


@dataclass(frozen=True)
class Arg:
    """An input of a row; `wrt` says whether the row differentiates by it."""

    shape: Shape
    domain: Domain = normal
    wrt: bool = True

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Return float64 values that float32 holds exactly, so that both precisions see the same input."""
        value = self.domain(rng, self.shape)
        return value if value.dtype.kind != "f" else value.astype(np.float32).astype(np.float64)


@dataclass(frozen=True)
class Primitive:
    """One use of an operator: what to build of the inputs, and the same in PyTorch."""

    op: str
    about: str
    build: Callable[..., ir.Value]
    args: tuple[Arg, ...]
    oracle: Callable[..., Tensor]
    smooth: bool = True  # False: at a kink on purpose, where central differences mean nothing

    @property
    def id(self) -> str:
        """Return the name of the test."""
        return f"{self.op}-{self.about}" if self.about else self.op


def args(*shapes: Shape, domain: Domain = normal) -> tuple[Arg, ...]:
    """Return differentiable inputs of one domain."""
    return tuple(Arg(shape, domain) for shape in shapes)


def ints(*values: int) -> np.ndarray:
    """Return a constant operand such as axes."""
    return np.array(values, np.int64)
