"""Update rules: how a gradient becomes a new parameter.

Symbols: w parameter, dw its gradient (weight decay included), lr learning rate of this parameter and step.
"""

from abc import abstractmethod
from typing import Annotated, Literal, Self

import onnx_ir as ir
from pydantic import Field, model_validator

from netc.declared import Declared, Family, mistake
from netc.graph import GraphBuilder
from netc.solver.policies import AnyPolicy, Fixed

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class Solver(Declared):
    """Fields that every solver has: rate, decay, length of the run and the seed of all randomness."""

    type: str
    base_lr: float = Field(gt=0.0, allow_inf_nan=False)
    """Learning rate, which lr_policy changes from step to step and lr_mult from parameter to parameter."""
    lr_policy: AnyPolicy = Fixed()
    """How the learning rate develops."""
    weight_decay: float = Field(0.0, ge=0.0, allow_inf_nan=False)
    """Factor of each parameter in its gradient, times its decay_mult (L2 regularization)."""
    max_epochs: int | None = Field(None, gt=0)
    """Length of the run in passes over the training data; give this or max_iter."""
    max_iter: int | None = Field(None, gt=0)
    """Length of the run in steps; give this or max_epochs."""
    population_batches: int = Field(100, gt=0)
    """Training batches that BatchNorm with `statistics: population` averages over when training is done."""
    random_seed: int = Field(0, ge=0, lt=2**32)
    """Seed of all randomness: first values, the order of samples, dropout and noise."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.max_epochs is None) == (self.max_iter is None):
            raise mistake("solver needs exactly one of max_epochs and max_iter")
        return self

    @property
    @abstractmethod
    def slots(self) -> tuple[str, ...]:
        """Names of the memory kept for each parameter, in its shape."""

    @abstractmethod
    def update(
        self, g: GraphBuilder, w: ir.Value, dw: ir.Value, lr: ir.Value, it: ir.Value, memory: list[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        """Return the new parameter and the new memory; `it` is the number of completed updates, int64 []."""


SOLVERS: Family[Solver] = Family("solver")
AnySolver = Annotated[Solver, SOLVERS]


@SOLVERS.add
class SGD(Solver):
    """Gradient descent with momentum in Caffe's form: v = momentum * v + lr * dw; w = w - v.

    Example: {type: SGD, base_lr: 0.01, momentum: 0.9, weight_decay: 0.0005, max_epochs: 10}
    """

    type: Literal["SGD"] = "SGD"
    momentum: Fraction = 0.0
    """Share of the last step that the next one keeps."""

    @property
    def slots(self) -> tuple[str, ...]:  # noqa: D102
        return ("velocity",) if self.momentum else ()

    def update(  # noqa: D102
        self, g: GraphBuilder, w: ir.Value, dw: ir.Value, lr: ir.Value, it: ir.Value, memory: list[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        with g.arithmetic():
            velocity = memory[0] * self.momentum + dw * lr if memory else dw * lr
            return w - velocity, [velocity] * len(memory)


@SOLVERS.add
class Adam(Solver):
    """Kingma & Ba, 2015, Algorithm 1: w = w - lr * m^ / (sqrt(v^) + eps) with bias-corrected moments m^ and v^.

    Example: {type: Adam, base_lr: 0.001, max_epochs: 10}
    """

    type: Literal["Adam"] = "Adam"
    beta1: Fraction = 0.9
    """Share of the mean of gradients that a step keeps."""
    beta2: Fraction = 0.999
    """Share of the mean of squared gradients that a step keeps."""
    eps: float = Field(1e-8, gt=0.0, allow_inf_nan=False)
    """Added to the divisor, so that it is never 0."""

    @property
    def slots(self) -> tuple[str, ...]:  # noqa: D102
        return ("first_moment", "second_moment")

    def update(  # noqa: D102
        self, g: GraphBuilder, w: ir.Value, dw: ir.Value, lr: ir.Value, it: ir.Value, memory: list[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        with g.arithmetic():
            m = memory[0] * self.beta1 + dw * (1.0 - self.beta1)
            v = memory[1] * self.beta2 + dw * dw * (1.0 - self.beta2)
            corrected = m * (lr / self._correction(g, self.beta1, it))
            deviation = g.Sqrt(v / self._correction(g, self.beta2, it)) + self.eps
            return w - corrected / deviation, [m, v]

    def _correction(self, g: GraphBuilder, beta: float, it: ir.Value) -> ir.Value:
        """Return 1 - beta^t, t = it + 1; in double precision, since at first beta^t is nearly 1."""
        t = g.Cast(it, to=ir.DataType.DOUBLE) + 1.0
        return g.Cast(1.0 - g.Pow(g.constant(beta, ir.DataType.DOUBLE), t), to=g.dtype)
