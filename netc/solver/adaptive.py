"""Update rules that divide by the size of past gradients; symbols as in netc.solver.rules."""

from typing import Literal, Self

import onnx_ir as ir
from pydantic import Field, model_validator

from netc.declared import mistake
from netc.graph import GraphBuilder
from netc.solver.rules import SOLVERS, Fraction, Positive, Solver


@SOLVERS.add
class AdaGrad(Solver):
    """Duchi, Hazan & Singer, 2011: r = r + dw^2; w = w - lr * dw / (sqrt(r) + eps).

    Example: {type: AdaGrad, base_lr: 0.01, max_epochs: 10}
    """

    type: Literal["AdaGrad"] = "AdaGrad"
    eps: Positive = 1e-8
    """Added to the divisor, so that it is never 0."""

    @property
    def slots(self) -> tuple[str, ...]:  # noqa: D102
        return ("squares",)

    def update(  # noqa: D102
        self, g: GraphBuilder, w: ir.Value, dw: ir.Value, lr: ir.Value, it: ir.Value, memory: list[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        with g.arithmetic():
            r = memory[0] + dw * dw
            return w - dw * lr / (g.Sqrt(r) + self.eps), [r]


@SOLVERS.add
class RMSProp(Solver):
    """Tieleman & Hinton, 2012: r = rho * r + (1 - rho) * dw^2; w = w - lr * dw / (sqrt(r) + eps).

    Example: {type: RMSProp, base_lr: 0.001, rho: 0.99, max_epochs: 10}
    """

    type: Literal["RMSProp"] = "RMSProp"
    rho: Fraction = 0.99
    """Share of the mean of squared gradients that a step keeps."""
    eps: Positive = 1e-8
    """Added to the divisor, so that it is never 0."""
    eps_inside_sqrt: bool = False
    """Whether eps is added under the root: w - lr * dw / sqrt(r + eps)."""

    @property
    def slots(self) -> tuple[str, ...]:  # noqa: D102
        return ("mean_square",)

    def update(  # noqa: D102
        self, g: GraphBuilder, w: ir.Value, dw: ir.Value, lr: ir.Value, it: ir.Value, memory: list[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        with g.arithmetic():
            r = memory[0] * self.rho + dw * dw * (1.0 - self.rho)
            return w - dw * lr / _root(g, r, self.eps, self.eps_inside_sqrt), [r]


@SOLVERS.add
class AdaDelta(Solver):
    """Zeiler, 2012, Algorithm 1, with lr (1 in the paper): w = w - lr * d, d = dw * sqrt((s + eps) / (r + eps)).

    r = rho * r + (1 - rho) * dw^2 is the mean of squared gradients, and s, of squared steps d before this one, is
    likewise.

    Example: {type: AdaDelta, base_lr: 1.0, max_epochs: 10}
    """

    type: Literal["AdaDelta"] = "AdaDelta"
    rho: Fraction = 0.95
    """Share of both means that a step keeps."""
    eps: Positive = 1e-6
    """Added to both means; its root is the size of the first steps."""

    @property
    def slots(self) -> tuple[str, ...]:  # noqa: D102
        return ("mean_square", "mean_square_step")

    def update(  # noqa: D102
        self, g: GraphBuilder, w: ir.Value, dw: ir.Value, lr: ir.Value, it: ir.Value, memory: list[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        with g.arithmetic():
            r = memory[0] * self.rho + dw * dw * (1.0 - self.rho)
            d = dw * g.Sqrt((memory[1] + self.eps) / (r + self.eps))
            return w - d * lr, [r, memory[1] * self.rho + d * d * (1.0 - self.rho)]


class _Adam(Solver):
    beta1: Fraction = 0.9
    """Share of the mean of gradients that a step keeps."""
    beta2: Fraction = 0.999
    """Share of the mean of squared gradients that a step keeps."""
    eps: Positive = 1e-8
    """Added to the divisor, so that it is never 0."""
    bias_correction: bool = True
    """Whether the moments, which start at 0, are divided by 1 - beta^t in the t-th update."""
    eps_inside_sqrt: bool = False
    """Whether eps is added under the root: m^ / sqrt(v^ + eps)."""
    eps_hat: bool = False
    """Whether eps is added to the root of v before its correction, as in Caffe and the paper's section 2."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.eps_hat and self.eps_inside_sqrt:
            raise mistake("eps_hat adds eps outside of the root, eps_inside_sqrt under it; remove one of them")
        if self.eps_hat and not self.bias_correction:
            raise mistake("eps_hat is about the bias correction, which is off; remove one of them")
        return self

    @property
    def slots(self) -> tuple[str, ...]:
        return ("first_moment", "second_moment")

    def update(
        self, g: GraphBuilder, w: ir.Value, dw: ir.Value, lr: ir.Value, it: ir.Value, memory: list[ir.Value]
    ) -> tuple[ir.Value, list[ir.Value]]:
        with g.arithmetic():
            m = memory[0] * self.beta1 + dw * (1.0 - self.beta1)
            v = memory[1] * self.beta2 + dw * dw * (1.0 - self.beta2)
            if not self.bias_correction:
                return w - m * lr / _root(g, v, self.eps, self.eps_inside_sqrt), [m, v]
            of_m, of_v = self._correction(g, self.beta1, it), self._correction(g, self.beta2, it)
            if self.eps_hat:
                return w - m * (lr * g.Sqrt(of_v) / of_m) / _root(g, v, self.eps, inside=False), [m, v]
            corrected = m * (lr / of_m)
            return w - corrected / _root(g, v / of_v, self.eps, self.eps_inside_sqrt), [m, v]

    def _correction(self, g: GraphBuilder, beta: float, it: ir.Value) -> ir.Value:
        """Return 1 - beta^t, t = it + 1; in double precision, since at first beta^t is nearly 1."""
        t = g.Cast(it, to=ir.DataType.DOUBLE) + 1.0
        return g.Cast(1.0 - g.Pow(g.constant(beta, ir.DataType.DOUBLE), t), to=g.dtype)


@SOLVERS.add
class Adam(_Adam):
    """Kingma & Ba, 2015, Algorithm 1: w = w - lr * m^ / (sqrt(v^) + eps) with bias-corrected moments m^ and v^.

    m = beta1 * m + (1 - beta1) * dw; v = beta2 * v + (1 - beta2) * dw^2. With `bias_correction: false` m and v
    themselves stand for m^ and v^. With `eps_hat: true` w = w - lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) +
    eps) in the t-th update.

    Example: {type: Adam, base_lr: 0.001, max_epochs: 10}
    """

    type: Literal["Adam"] = "Adam"


@SOLVERS.add
class AdamW(_Adam):
    """Adam with decoupled decay (Loshchilov & Hutter, 2019): w = w - lr * (m^ / (sqrt(v^) + eps) + weight_decay * w).

    Example: {type: AdamW, base_lr: 0.001, weight_decay: 0.05, decay_bias_and_norm: false, max_epochs: 10}
    """

    type: Literal["AdamW"] = "AdamW"
    weight_decay: float = Field(0.01, ge=0.0, allow_inf_nan=False)
    """How strongly each parameter is pulled to 0, times its decay_mult."""
    decoupled_decay: bool = True
    """Whether decay is subtracted from the parameter, times lr, instead of being a part of its gradient."""


def _root(g: GraphBuilder, square: ir.Value, eps: float, inside: bool) -> ir.Value:
    """Return sqrt(square) + eps, or sqrt(square + eps)."""
    with g.arithmetic():
        return g.Sqrt(square + eps) if inside else g.Sqrt(square) + eps
