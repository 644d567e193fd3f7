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


PLANNED = 1000  # updates of the run, for policies that end with it


def cosine(part: float, start: float, end: float) -> float:
    """Half a wave from `start` (part 0) to `end` (part 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def one_cycle(it: float, rise: float, start: float, end: float) -> float:
    """Up to 1 until the fraction `rise` of the run is done, then down."""
    p = min(it / PLANNED, 1.0)
    return cosine(p / rise, start, 1.0) if p < rise else cosine((p - rise) / (1 - rise), 1.0, end)


def warmed(it: float, steps: int, start: float) -> float:
    """Return the factor of a warm-up."""
    return start + (1 - start) * it / steps if it < steps else 1.0


# Of the number of completed updates, for base_lr 0.1, a run of PLANNED updates and lr_scale 1.
POLICY_CASES: list[CurveCase] = [
    CurveCase({"type": "fixed"}, lambda it: 0.1),
    CurveCase({"type": "fixed", "warmup_steps": 400, "warmup_start": 0.1}, lambda it: 0.1 * warmed(it, 400, 0.1)),
    CurveCase({"type": "step", "gamma": 0.5, "stepsize": 10}, lambda it: 0.1 * 0.5 ** (it // 10)),
    CurveCase({"type": "step", "gamma": 0.9, "stepsize": 1}, lambda it: 0.1 * 0.9**it),
    CurveCase(
        {"type": "step", "gamma": 0.5, "stepsize": 100, "warmup_steps": 150},
        lambda it: 0.1 * 0.5 ** (it // 100) * warmed(it, 150, 0.0),
    ),
    CurveCase(
        {"type": "multistep", "gamma": 0.1, "stepvalue": [320, 480]},
        lambda it: 0.1 * (1.0 if it < 320 else 0.1 if it < 480 else 0.01),
    ),
    CurveCase({"type": "multistep", "gamma": 0.5, "stepvalue": 7}, lambda it: 0.1 if it < 7 else 0.05),
    CurveCase(
        {"type": "multistep", "gamma": 0.1, "stepvalue": [320, 480], "warmup_steps": 50, "warmup_start": 0.5},
        lambda it: 0.1 * (1.0 if it < 320 else 0.1 if it < 480 else 0.01) * warmed(it, 50, 0.5),
    ),
    CurveCase({"type": "exp", "gamma": 0.99}, lambda it: 0.1 * 0.99**it),
    CurveCase({"type": "exp", "gamma": 0.99, "warmup_steps": 7}, lambda it: 0.1 * 0.99**it * warmed(it, 7, 0.0)),
    CurveCase({"type": "natural_exp", "gamma": 0.003}, lambda it: 0.1 * math.exp(-0.003 * it)),
    CurveCase(
        {"type": "natural_exp", "gamma": 0.003, "warmup_steps": 7},
        lambda it: 0.1 * math.exp(-0.003 * it) * warmed(it, 7, 0.0),
    ),
    CurveCase({"type": "inv", "gamma": 0.0001, "power": 0.75}, lambda it: 0.1 * (1 + 0.0001 * it) ** -0.75),
    CurveCase({"type": "inv", "gamma": 0.3, "power": 2.0}, lambda it: 0.1 * (1 + 0.3 * it) ** -2.0),
    CurveCase(
        {"type": "inv", "gamma": 0.3, "power": 2.0, "warmup_steps": 9},
        lambda it: 0.1 * (1 + 0.3 * it) ** -2.0 * warmed(it, 9, 0.0),
    ),
    CurveCase({"type": "inverse_time", "gamma": 0.05}, lambda it: 0.1 / (1 + 0.05 * it)),
    CurveCase(
        {"type": "inverse_time", "gamma": 0.05, "warmup_steps": 9},
        lambda it: 0.1 / (1 + 0.05 * it) * warmed(it, 9, 0.0),
    ),
    CurveCase({"type": "poly", "power": 0.5}, lambda it: 0.1 * (1 - min(it / PLANNED, 1.0)) ** 0.5),
    CurveCase({"type": "poly", "power": 2.0}, lambda it: 0.1 * (1 - min(it / PLANNED, 1.0)) ** 2),
    CurveCase(
        {"type": "poly", "power": 1.0, "warmup_steps": 9},
        lambda it: 0.1 * (1 - min(it / PLANNED, 1.0)) * warmed(it, 9, 0.0),
    ),
    CurveCase({"type": "sigmoid", "gamma": -0.02, "stepsize": 500}, lambda it: 0.1 / (1 + math.exp(0.02 * (it - 500)))),
    CurveCase(
        {"type": "sigmoid", "gamma": 0.02, "stepsize": 500, "warmup_steps": 9},
        lambda it: 0.1 / (1 + math.exp(-0.02 * (it - 500))) * warmed(it, 9, 0.0),
    ),
    CurveCase({"type": "cosine"}, lambda it: 0.1 * cosine(min(it / PLANNED, 1.0), 1.0, 0.0)),
    CurveCase(
        {"type": "cosine", "end": 0.1, "warmup_steps": 100, "warmup_start": 0.25},
        lambda it: 0.1 * cosine(min(it / PLANNED, 1.0), 1.0, 0.1) * warmed(it, 100, 0.25),
    ),
    CurveCase({"type": "one_cycle"}, lambda it: 0.1 * one_cycle(it, 0.3, 0.04, 4e-6)),
    CurveCase(
        {"type": "one_cycle", "rise": 0.25, "start": 0.1, "end": 0.01, "warmup_steps": 20},
        lambda it: 0.1 * one_cycle(it, 0.25, 0.1, 0.01) * warmed(it, 20, 0.0),
    ),
    CurveCase({"type": "plateau"}, lambda it: 0.1),
    CurveCase({"type": "plateau", "warmup_steps": 9}, lambda it: 0.1 * warmed(it, 9, 0.0)),
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

# Of a parameter, its gradient, what decay adds to it, the rate, the completed updates and the memory, which it changes.
Twin = Callable[[np.ndarray, np.ndarray, np.ndarray, float, int, dict[str, np.ndarray]], np.ndarray]
# The same of the gradient with decay, returning what is subtracted from the parameter.
Rule = Callable[[np.ndarray, float, int, dict[str, np.ndarray]], np.ndarray]


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


def coupled(rule: Rule) -> Twin:
    """Decay is a part of the gradient."""
    return lambda w, dw, decay, lr, it, memory: w - rule(dw + decay, lr, it, memory)


def decoupled(rule: Rule) -> Twin:
    """Decay is subtracted beside the step."""
    return lambda w, dw, decay, lr, it, memory: w - lr * decay - rule(dw, lr, it, memory)


def sgd(momentum: float) -> Rule:
    """v <- mu v + l g; w <- w - v."""

    def rule(dw: np.ndarray, lr: float, it: int, memory: dict[str, np.ndarray]) -> np.ndarray:
        memory["v"] = momentum * memory.get("v", np.zeros_like(dw)) + lr * dw
        return memory["v"]

    return rule


def nesterov(momentum: float) -> Rule:
    """v' = mu v + l g; w <- w - ((1 + mu) v' - mu v)."""

    def rule(dw: np.ndarray, lr: float, it: int, memory: dict[str, np.ndarray]) -> np.ndarray:
        before = memory.get("v", np.zeros_like(dw))
        memory["v"] = momentum * before + lr * dw
        step: np.ndarray = (1 + momentum) * memory["v"] - momentum * before
        return step

    return rule


def adagrad(eps: float) -> Rule:
    """r <- r + g^2; w <- w - l g / (sqrt(r) + eps)."""

    def rule(dw: np.ndarray, lr: float, it: int, memory: dict[str, np.ndarray]) -> np.ndarray:
        memory["r"] = memory.get("r", np.zeros_like(dw)) + dw**2
        step: np.ndarray = lr * dw / (np.sqrt(memory["r"]) + eps)
        return step

    return rule


def rmsprop(rho: float, eps: float, inside: bool = False) -> Rule:
    """r <- rho r + (1 - rho) g^2; w <- w - l g / (sqrt(r) + eps), or / sqrt(r + eps)."""

    def rule(dw: np.ndarray, lr: float, it: int, memory: dict[str, np.ndarray]) -> np.ndarray:
        memory["r"] = rho * memory.get("r", np.zeros_like(dw)) + (1 - rho) * dw**2
        step: np.ndarray = lr * dw / (np.sqrt(memory["r"] + eps) if inside else np.sqrt(memory["r"]) + eps)
        return step

    return rule


def adadelta(rho: float, eps: float) -> Rule:
    """Zeiler's algorithm 1, whose step is multiplied by l."""

    def rule(dw: np.ndarray, lr: float, it: int, memory: dict[str, np.ndarray]) -> np.ndarray:
        zero = np.zeros_like(dw)
        memory["r"] = rho * memory.get("r", zero) + (1 - rho) * dw**2
        before = memory.get("s", zero)
        d: np.ndarray = np.sqrt(before + eps) / np.sqrt(memory["r"] + eps) * dw
        memory["s"] = rho * before + (1 - rho) * d**2
        return lr * d

    return rule


def adam(beta1: float, beta2: float, eps: float, form: str = "") -> Rule:
    """Moments s and r; w <- w - l s^ / (sqrt(r^) + eps), or as `form` says."""

    def rule(dw: np.ndarray, lr: float, it: int, memory: dict[str, np.ndarray]) -> np.ndarray:
        zero = np.zeros_like(dw)
        memory["s"] = s = beta1 * memory.get("s", zero) + (1 - beta1) * dw
        memory["r"] = r = beta2 * memory.get("r", zero) + (1 - beta2) * dw**2
        of_s, of_r = 1 - beta1 ** (it + 1), 1 - beta2 ** (it + 1)
        steps: dict[str, np.ndarray] = {
            "": s / of_s / (np.sqrt(r / of_r) + eps),
            "inside": s / of_s / np.sqrt(r / of_r + eps),
            "hat": np.sqrt(of_r) / of_s * s / (np.sqrt(r) + eps),
            "uncorrected": s / (np.sqrt(r) + eps),
            "uncorrected inside": s / np.sqrt(r + eps),
        }
        return lr * steps[form]

    return rule


def lion(beta1: float, beta2: float) -> Rule:
    """c = b1 m + (1 - b1) g; w <- w - l sign(c); m <- b2 m + (1 - b2) g."""

    def rule(dw: np.ndarray, lr: float, it: int, memory: dict[str, np.ndarray]) -> np.ndarray:
        m = memory.get("m", np.zeros_like(dw))
        memory["m"] = beta2 * m + (1 - beta2) * dw
        step: np.ndarray = lr * np.sign(beta1 * m + (1 - beta1) * dw)
        return step

    return rule


def lars(momentum: float, trust: float) -> Twin:
    """v <- mu v + l trust |w| / (|g| + |decay|) (g + decay); w <- w - v."""

    def twin(
        w: np.ndarray, dw: np.ndarray, decay: np.ndarray, lr: float, it: int, memory: dict[str, np.ndarray]
    ) -> np.ndarray:
        ratio = trust * np.linalg.norm(w) / (np.linalg.norm(dw) + np.linalg.norm(decay))
        new: np.ndarray = w - sgd(momentum)(dw + decay, lr * float(ratio), it, memory)
        return new

    return twin


DECAYED = {"base_lr": 0.05, "weight_decay": 0.03}
STEPPED = {"type": "step", "gamma": 0.5, "stepsize": 7}

SOLVER_CASES: list[SolverCase] = [
    SolverCase({"type": "SGD", "base_lr": 0.1}, coupled(sgd(0.0)), lambda w: torch.optim.SGD(w, lr=0.1)),
    SolverCase({"type": "SGD", **DECAYED}, coupled(sgd(0.0)), lambda w: torch.optim.SGD(w, lr=0.05, weight_decay=0.03)),
    # With a constant rate Caffe's form equals PyTorch's.
    SolverCase(
        {"type": "SGD", "momentum": 0.9, **DECAYED},
        coupled(sgd(0.9)),
        lambda w: torch.optim.SGD(w, lr=0.05, momentum=0.9, weight_decay=0.03),
    ),
    SolverCase(
        {"type": "SGD", "momentum": 0.9, **DECAYED, "lr_policy": STEPPED},
        coupled(sgd(0.9)),
        policy=lambda it: 0.5 ** (it // 7),
    ),
    SolverCase({"type": "SGD", "momentum": 0.9, **DECAYED, "regularization": "L1"}, coupled(sgd(0.9))),
    SolverCase({"type": "SGD", "momentum": 0.9, **DECAYED, "decoupled_decay": True}, decoupled(sgd(0.9))),
    SolverCase(
        {"type": "SGD", "momentum": 0.9, **DECAYED, "regularization": "L1", "decoupled_decay": True},
        decoupled(sgd(0.9)),
    ),
    SolverCase({"type": "SGD", "momentum": 0.9, **DECAYED, "decay_bias_and_norm": False}, coupled(sgd(0.9))),
    SolverCase({"type": "SGD", "momentum": 0.9, **DECAYED, "clip_norm": 0.7}, coupled(sgd(0.9))),
    SolverCase({"type": "SGD", "base_lr": 0.05, "clip_norm": 3.0}, coupled(sgd(0.0))),  # which not all updates reach
    SolverCase({"type": "SGD", "momentum": 0.9, **DECAYED, "clip_value": 0.2}, coupled(sgd(0.9))),
    SolverCase({"type": "SGD", "momentum": 0.9, **DECAYED, "clip_value": 0.2, "clip_norm": 0.5}, coupled(sgd(0.9))),
    SolverCase({"type": "Nesterov", "base_lr": 0.05}, coupled(nesterov(0.0))),
    SolverCase(
        {"type": "Nesterov", "momentum": 0.9, **DECAYED},
        coupled(nesterov(0.9)),
        lambda w: torch.optim.SGD(w, lr=0.05, momentum=0.9, weight_decay=0.03, nesterov=True),
    ),
    SolverCase(
        {"type": "Nesterov", "momentum": 0.9, **DECAYED, "lr_policy": STEPPED},
        coupled(nesterov(0.9)),
        policy=lambda it: 0.5 ** (it // 7),
    ),
    SolverCase(
        {"type": "AdaGrad", **DECAYED},
        coupled(adagrad(1e-8)),
        lambda w: torch.optim.Adagrad(w, lr=0.05, weight_decay=0.03, eps=1e-8),
    ),
    SolverCase({"type": "AdaGrad", **DECAYED, "eps": 0.1}, coupled(adagrad(0.1))),
    SolverCase(
        {"type": "RMSProp", **DECAYED},
        coupled(rmsprop(0.99, 1e-8)),
        lambda w: torch.optim.RMSprop(w, lr=0.05, alpha=0.99, eps=1e-8, weight_decay=0.03),
    ),
    SolverCase({"type": "RMSProp", **DECAYED, "rho": 0.9, "eps": 0.1}, coupled(rmsprop(0.9, 0.1))),
    SolverCase(
        {"type": "RMSProp", **DECAYED, "rho": 0.9, "eps": 0.1, "eps_inside_sqrt": True},
        coupled(rmsprop(0.9, 0.1, inside=True)),
    ),
    SolverCase(
        {"type": "AdaDelta", "base_lr": 1.0, "weight_decay": 0.03},
        coupled(adadelta(0.95, 1e-6)),
        lambda w: torch.optim.Adadelta(w, lr=1.0, rho=0.95, eps=1e-6, weight_decay=0.03),
    ),
    SolverCase({"type": "AdaDelta", **DECAYED, "rho": 0.5, "eps": 0.01}, coupled(adadelta(0.5, 0.01))),
    SolverCase(
        {"type": "Adam", "base_lr": 0.01}, coupled(adam(0.9, 0.999, 1e-8)), lambda w: torch.optim.Adam(w, lr=0.01)
    ),
    SolverCase(
        {"type": "Adam", "beta1": 0.5, "beta2": 0.9, "eps": 0.1, **DECAYED},
        coupled(adam(0.5, 0.9, 0.1)),
        lambda w: torch.optim.Adam(w, lr=0.05, betas=(0.5, 0.9), eps=0.1, weight_decay=0.03),
    ),
    SolverCase(
        {"type": "Adam", **DECAYED, "lr_policy": STEPPED},
        coupled(adam(0.9, 0.999, 1e-8)),
        policy=lambda it: 0.5 ** (it // 7),
    ),
    SolverCase({"type": "Adam", **DECAYED, "bias_correction": False}, coupled(adam(0.9, 0.999, 1e-8, "uncorrected"))),
    SolverCase(
        {"type": "Adam", **DECAYED, "eps": 0.1, "eps_inside_sqrt": True}, coupled(adam(0.9, 0.999, 0.1, "inside"))
    ),
    SolverCase(
        {"type": "Adam", **DECAYED, "eps": 0.1, "eps_inside_sqrt": True, "bias_correction": False},
        coupled(adam(0.9, 0.999, 0.1, "uncorrected inside")),
    ),
    SolverCase({"type": "Adam", **DECAYED, "eps": 0.01, "eps_hat": True}, coupled(adam(0.9, 0.999, 0.01, "hat"))),
    SolverCase(
        {"type": "AdamW", **DECAYED},
        decoupled(adam(0.9, 0.999, 1e-8)),
        lambda w: torch.optim.AdamW(w, lr=0.05, weight_decay=0.03),
    ),
    SolverCase(
        {"type": "AdamW", **DECAYED, "eps": 0.01, "eps_hat": True, "decay_bias_and_norm": False},
        decoupled(adam(0.9, 0.999, 0.01, "hat")),
    ),
    SolverCase({"type": "Lion", "base_lr": 0.01, "weight_decay": 0.1}, decoupled(lion(0.9, 0.99))),
    SolverCase(
        {"type": "Lion", "base_lr": 0.01, "weight_decay": 0.1, "decoupled_decay": False, "beta1": 0.5, "beta2": 0.8},
        coupled(lion(0.5, 0.8)),
    ),
    SolverCase({"type": "LARS", "base_lr": 20.0, "momentum": 0.5}, lars(0.5, 0.001)),
    SolverCase({"type": "LARS", "base_lr": 2.0, "momentum": 0.9, "weight_decay": 0.03, "trust": 0.01}, lars(0.9, 0.01)),
]
