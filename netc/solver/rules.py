"""Update rules, what all of them share, and those that follow the gradient with momentum.

Symbols: w parameter, dw its gradient (coupled weight decay included), lr learning rate of this parameter and step.
The rules that divide by the size of past gradients are in netc.solver.adaptive.
"""

from abc import abstractmethod
from typing import Annotated, Literal, Self

import onnx_ir as ir
from pydantic import Field, model_validator

from netc.declared import Declared, Family, mistake
from netc.graph import GraphBuilder
from netc.solver.policies import AnyPolicy, Fixed

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class Solver(Declared):
    """Fields that every solver has: rate, decay, clipping, length of the run and the seed of all randomness.

    An update takes these steps: the gradients of `iter_size` batches are averaged, clipped by value, then by their
    norm (Caffe clips the norm of their sum); weight decay is added; the solver's rule makes the step; the averages of
    the weights follow, average = k * average + (1 - k) * w with k = min(weight_average, t / (t + 10)) after t updates.

    With `iter_size` n, n batches of `data.batch_size` samples give one update, as one batch of n times the size would,
    with a fraction of its memory. The result is the same to rounding where every loss divides by the number of samples.
    It is not where a batch is more than its samples: BatchNorm normalizes each batch by its own statistics, a loss that
    ignores labels divides by those that are left in each batch, and a side's threshold holds for each batch.

    With `precision: mixed` convolutions, matrix products and what stands between them are computed in float16 while
    training; parameters, the solver's memory, statistics, losses and sums of many activations stay float32. The loss
    is scaled by a power of two, 65536 at first, so that small gradients do not vanish. The scale halves when a gradient
    overflows, whose update is left out, and doubles after 2000 updates in a row without that. Evaluation and the
    exported model compute in float32. It is meant for GPUs; a CPU is no faster by it.
    """

    type: str
    base_lr: float = Field(gt=0.0, allow_inf_nan=False)
    """Learning rate, which lr_policy changes from step to step and lr_mult from parameter to parameter."""
    lr_policy: AnyPolicy = Fixed()
    """How the learning rate develops."""
    weight_decay: float = Field(0.0, ge=0.0, allow_inf_nan=False)
    """How strongly each parameter is pulled to 0, times its decay_mult."""
    regularization: Literal["L2", "L1"] = "L2"
    """What decays: weight_decay times w for L2, weight_decay times the sign of w for L1."""
    decoupled_decay: bool = False
    """Whether decay is subtracted from the parameter, times lr, instead of being a part of its gradient."""
    decay_bias_and_norm: bool = True
    """Whether biases, and what normalization, Scale and Bias layers learn, decay too; false: their decay_mult is 0."""
    clip_value: Positive | None = None
    """Size that no element of a gradient exceeds; without it, none is clipped."""
    clip_norm: Positive | None = None
    """L2 norm that the gradients of all parameters together do not exceed; without it, none is scaled."""
    iter_size: int = Field(1, gt=0, le=1_000_000)
    """Batches whose gradients make one update."""
    precision: Literal["float32", "mixed"] = "float32"
    """What a training step computes in; mixed: partly in float16, with a scaled loss."""
    weight_average: Fraction | None = None
    """Share that an update keeps of running averages of the weights; evaluation and export then use the averages."""
    max_epochs: int | None = Field(None, gt=0)
    """Length of the run in passes over the training data; give this or max_iter."""
    max_iter: int | None = Field(None, gt=0)
    """Length of the run in updates; give this or max_epochs."""
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

    def adapted(self, g: GraphBuilder, w: ir.Value, dw: ir.Value, decay: ir.Value | None, lr: ir.Value) -> ir.Value:
        """Return the rate of one parameter, given its gradient without decay and what decay adds to it, if anything."""
        return lr


SOLVERS: Family[Solver] = Family("solver")
AnySolver = Annotated[Solver, SOLVERS]


class _Momentum(Solver):
    momentum: Fraction = 0.0
    """Share of the last step that the next one keeps."""

    @property
    def slots(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

    def update(
        self, g: GraphBuilder, w: ir.Value, dw: ir.Value, lr: ir.Value, it: ir.Value, memory: list[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        with g.arithmetic():
            velocity = memory[0] * self.momentum + dw * lr if memory else dw * lr
            return w - velocity, [velocity] * len(memory)


@SOLVERS.add
class SGD(_Momentum):
    """Gradient descent with momentum in Caffe's form: v = momentum * v + lr * dw; w = w - v.

    Example: {type: SGD, base_lr: 0.01, momentum: 0.9, weight_decay: 0.0005, max_epochs: 10}
    """

    type: Literal["SGD"] = "SGD"


@SOLVERS.add
class Nesterov(_Momentum):
    """Nesterov's gradient in Caffe's form: v' = momentum * v + lr * dw; w = w - (1 + momentum) * v' + momentum * v.

    Example: {type: Nesterov, base_lr: 0.01, momentum: 0.9, weight_decay: 0.0005, max_epochs: 10}
    """

    type: Literal["Nesterov"] = "Nesterov"

    def update(  # noqa: D102
        self, g: GraphBuilder, w: ir.Value, dw: ir.Value, lr: ir.Value, it: ir.Value, memory: list[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        with g.arithmetic():
            if not memory:
                return w - dw * lr, []
            step = dw * lr
            velocity = memory[0] * self.momentum + step
            # (1 + momentum) v' - momentum * v, without the difference of two large numbers.
            return w - (velocity * self.momentum + step), [velocity]


@SOLVERS.add
class LARS(_Momentum):
    """SGD with a rate for each parameter, for very large batches (You, Gitman & Ginsburg, 2017, Algorithm 1).

    lr is multiplied by trust * |w| / (|dw| + |decay|) with L2 norms, dw without and decay with what weight decay adds;
    v = momentum * v + lr * (dw + decay); w = w - v. Where w or the divisor is 0, as for biases at first, and for
    parameters that `decay_bias_and_norm: false` leaves out, lr stays as it is.

    Example: {type: LARS, base_lr: 2.0, momentum: 0.9, weight_decay: 0.0005, decay_bias_and_norm: false, max_epochs: 10}
    """

    type: Literal["LARS"] = "LARS"
    trust: Positive = 0.001
    """Size of a step at lr 1, relative to the size of the parameter."""

    def adapted(  # noqa: D102
        self, g: GraphBuilder, w: ir.Value, dw: ir.Value, decay: ir.Value | None, lr: ir.Value
    ) -> ir.Value:
        def norm(x: ir.Value) -> ir.Value:
            return g.Sqrt(g.ReduceSum(g.Mul(x, x), keepdims=0))

        with g.arithmetic():
            size, divisor = norm(w), norm(dw) if decay is None else norm(dw) + norm(decay)
            has_both = g.And(g.Greater(size, 0.0), g.Greater(divisor, 0.0))
            return lr * g.Where(has_both, size * self.trust / divisor, g.constant(1.0))


@SOLVERS.add
class Lion(Solver):
    """Chen et al., 2023, Algorithm 2: w = w - lr * sign(beta1 * m + (1 - beta1) * dw), a step of one size everywhere.

    Then m = beta2 * m + (1 - beta2) * dw. Weight decay is decoupled, as in the paper, unless `decoupled_decay: false`.

    Example: {type: Lion, base_lr: 0.0001, weight_decay: 0.1, max_epochs: 10}
    """

    type: Literal["Lion"] = "Lion"
    beta1: Fraction = 0.9
    """Share of the mean of gradients in the direction of a step."""
    beta2: Fraction = 0.99
    """Share of the mean of gradients that a step keeps."""
    decoupled_decay: bool = True
    """Whether decay is subtracted from the parameter, times lr, instead of being a part of its gradient."""

    @property
    def slots(self) -> tuple[str, ...]:  # noqa: D102
        return ("first_moment",)

    def update(  # noqa: D102
        self, g: GraphBuilder, w: ir.Value, dw: ir.Value, lr: ir.Value, it: ir.Value, memory: list[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        with g.arithmetic():
            direction = g.Sign(memory[0] * self.beta1 + dw * (1.0 - self.beta1))
            return w - direction * lr, [memory[0] * self.beta2 + dw * (1.0 - self.beta2)]
