"""Rows for learning-rate policies, loss-weight schedules and solvers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class CurveCase:
    """A learning-rate policy or loss-weight schedule, and its formula in Python's float64."""

    given: dict[str, Any]
    formula: Callable[[float], float]

    @property
    def id(self) -> str:
        """Return the name of the test."""
        return "-".join(str(value) for value in self.given.values())


# Of the number of completed updates, for base_lr 0.1.
POLICY_CASES: list[CurveCase] = [
    CurveCase({"type": "fixed"}, lambda it: 0.1),
    CurveCase({"type": "step", "gamma": 0.5, "stepsize": 10}, lambda it: 0.1 * 0.5 ** (it // 10)),
    CurveCase({"type": "step", "gamma": 0.9, "stepsize": 1}, lambda it: 0.1 * 0.9**it),
    CurveCase({"type": "inv", "gamma": 0.0001, "power": 0.75}, lambda it: 0.1 * (1 + 0.0001 * it) ** -0.75),
    CurveCase({"type": "inv", "gamma": 0.3, "power": 2.0}, lambda it: 0.1 * (1 + 0.3 * it) ** -2.0),
]


def dsn_decay(done: float, epochs: int, factor: float) -> float:
    """Apply alpha <- alpha * factor * (1 - t / N) once for each epoch t that has begun since the first."""
    alpha = 1.0
    for t in range(1, math.floor(min(done, 1.0) * epochs) + 1):
        alpha *= factor * (1 - t / epochs)
    return alpha


# Of the fraction of the planned updates that is done.
SCHEDULE_CASES: list[CurveCase] = [
    CurveCase({"policy": "constant", "start": 0.3}, lambda t: 0.3),
    CurveCase({"policy": "linear", "start": 0.3, "end": 0.0, "until": 0.8}, lambda t: max(0.3 * (1 - t / 0.8), 0.0)),
    CurveCase({"policy": "linear", "start": 0.1, "end": 0.5}, lambda t: 0.1 + 0.4 * min(t, 1.0)),
    CurveCase({"policy": "step_off", "start": 0.3, "until": 0.8}, lambda t: 0.3 if t < 0.8 else 0.0),
    CurveCase({"policy": "dsn", "start": 0.5, "epochs": 10}, lambda t: 0.5 * dsn_decay(t, 10, 0.1)),
    CurveCase({"policy": "dsn", "start": 2.0, "epochs": 3, "factor": 0.9}, lambda t: 2.0 * dsn_decay(t, 3, 0.9)),
]

# Of a parameter, its gradient (decay included), the rate, the completed updates and the memory, which it changes.
Twin = Callable[[np.ndarray, np.ndarray, float, int, dict[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class SolverCase:
    """A solver as the user writes it, and one update in float64 numpy, from design.md section 5."""

    given: dict[str, Any]
    twin: Twin
    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None = None  # where PyTorch has the same form
    policy: Callable[[int], float] = lambda it: 1.0  # of the rate, relative to base_lr

    @property
    def id(self) -> str:
        """Return the name of the test."""
        return "-".join(str(value) for value in self.given.values())


def sgd(momentum: float) -> Twin:
    """v <- mu v + l g; w <- w - v."""

    def twin(w: np.ndarray, dw: np.ndarray, lr: float, it: int, memory: dict[str, np.ndarray]) -> np.ndarray:
        memory["v"] = momentum * memory.get("v", np.zeros_like(w)) + lr * dw
        new: np.ndarray = w - memory["v"]
        return new

    return twin


def adam(beta1: float, beta2: float, eps: float) -> Twin:
    """Moments s and r with bias correction; w <- w - l s^ / (sqrt(r^) + eps)."""

    def twin(w: np.ndarray, dw: np.ndarray, lr: float, it: int, memory: dict[str, np.ndarray]) -> np.ndarray:
        zero = np.zeros_like(w)
        memory["s"] = beta1 * memory.get("s", zero) + (1 - beta1) * dw
        memory["r"] = beta2 * memory.get("r", zero) + (1 - beta2) * dw**2
        s, r = memory["s"] / (1 - beta1 ** (it + 1)), memory["r"] / (1 - beta2 ** (it + 1))
        new: np.ndarray = w - lr * s / (np.sqrt(r) + eps)
        return new

    return twin


DECAYED = {"base_lr": 0.05, "weight_decay": 0.03}
STEPPED = {"type": "step", "gamma": 0.5, "stepsize": 7}

SOLVER_CASES: list[SolverCase] = [
    SolverCase({"type": "SGD", "base_lr": 0.1}, sgd(0.0), lambda w: torch.optim.SGD(w, lr=0.1)),
    SolverCase({"type": "SGD", **DECAYED}, sgd(0.0), lambda w: torch.optim.SGD(w, lr=0.05, weight_decay=0.03)),
    # With a constant rate Caffe's form equals PyTorch's.
    SolverCase(
        {"type": "SGD", "momentum": 0.9, **DECAYED},
        sgd(0.9),
        lambda w: torch.optim.SGD(w, lr=0.05, momentum=0.9, weight_decay=0.03),
    ),
    SolverCase(
        {"type": "SGD", "momentum": 0.9, **DECAYED, "lr_policy": STEPPED}, sgd(0.9), policy=lambda it: 0.5 ** (it // 7)
    ),
    SolverCase({"type": "Adam", "base_lr": 0.01}, adam(0.9, 0.999, 1e-8), lambda w: torch.optim.Adam(w, lr=0.01)),
    SolverCase(
        {"type": "Adam", "beta1": 0.5, "beta2": 0.9, "eps": 0.1, **DECAYED},
        adam(0.5, 0.9, 0.1),
        lambda w: torch.optim.Adam(w, lr=0.05, betas=(0.5, 0.9), eps=0.1, weight_decay=0.03),
    ),
    SolverCase(
        {"type": "Adam", **DECAYED, "lr_policy": STEPPED}, adam(0.9, 0.999, 1e-8), policy=lambda it: 0.5 ** (it // 7)
    ),
]
