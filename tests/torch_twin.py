"""A PyTorch twin of a spec: the same network, losses and solver, written with torch's own operators and autograd.

It reads the validated spec but shares no formula with netc: geometry, losses, batch norm, dropout scaling and updates
are PyTorch's or stated here. Dropout masks come from the numpy twin of the hash.
"""

from collections.abc import Mapping

import numpy as np
import torch

from netc.solver.adaptive import Adam
from netc.solver.policies import Fixed, Inv, MultiStep, Poly, Step
from netc.solver.rules import SGD, Nesterov
from netc.spec.model import NetSpec
from tests.torch_layers import Evaluated, Moment, evaluate

Tensors = dict[str, torch.Tensor]


class TorchTwin:
    """Trains `spec` with PyTorch from the same initial state.

    Attributes:
        state: parameters, running statistics and solver memory, named as in netc.
        step: completed updates.
    """

    def __init__(self, spec: NetSpec, state: Mapping[str, np.ndarray], max_steps: int, dtype: torch.dtype) -> None:
        self.spec, self.max_steps, self.dtype = spec, max_steps, dtype
        skipped = ("step", "seed", "max_steps")
        self.state: Tensors = {
            name: torch.tensor(value.astype(np.float64), dtype=dtype)
            for name, value in state.items()
            if name not in skipped
        }
        self.step = 0

    def distance_to_kinks(self, image: np.ndarray, label: np.ndarray) -> float:
        """Return how near this batch comes to a point where the gradient jumps.

        That is the smallest distance between, say, the two largest values of a max-pool window, or of a ReLU's input
        to 0. Below the rounding of float32 two implementations may take different sides there, and both are right.
        Zeros that tie do not count: they stand behind a ReLU, through which no gradient flows.
        """
        with torch.no_grad():
            return min((near for near, _ in self._evaluate(image, label).run.distances), default=float("inf"))

    def train_step(self, image: np.ndarray, label: np.ndarray) -> dict[str, float]:
        """Do one update; return every loss and metric and the total, before it."""
        parameters = [n for n in self.state if n.endswith((".weight", ".bias"))]
        for name in parameters:
            self.state[name].requires_grad_(True)
        found = self._evaluate(image, label)
        gradients = torch.autograd.grad(found.total, [self.state[n] for n in parameters], materialize_grads=True)
        with torch.no_grad():
            for name, gradient in zip(parameters, gradients, strict=True):
                self._update(name, gradient)
            self.state |= found.run.statistics
        self.step += 1
        return {name: value.item() for name, value in found.terms.items()} | {"total": found.total.item()}

    def _evaluate(self, image: np.ndarray, label: np.ndarray) -> Evaluated:
        inputs = {
            "image": torch.tensor(image.astype(np.float64), dtype=self.dtype),
            "label": torch.tensor(label.astype(np.int64)),
        }
        moment = Moment(self.step, self.max_steps, self.spec.solver.random_seed)
        return evaluate(self.spec, inputs, lambda name, shape: self.state[name], moment)

    def _rate(self) -> float:
        policy = self.spec.solver.lr_policy
        if self.step >= policy.warmup_steps:
            return self._settled_rate()
        start = policy.warmup_start
        return (start + (1 - start) * self.step / policy.warmup_steps) * self._settled_rate()

    def _settled_rate(self) -> float:
        solver, it = self.spec.solver, self.step
        match solver.lr_policy:
            case Fixed():
                return solver.base_lr
            case Step(gamma=gamma, stepsize=stepsize):
                return solver.base_lr * gamma ** (it // stepsize)
            case MultiStep(gamma=gamma, stepvalue=values):
                return solver.base_lr * gamma ** sum(it >= value for value in values)
            case Poly(power=power):
                return solver.base_lr * (1 - it / self.max_steps) ** power
            case Inv(gamma=gamma, power=power):
                return solver.base_lr * (1 + gamma * it) ** -power
        raise NotImplementedError(f"the twin knows no policy {solver.lr_policy.type}")

    def _update(self, name: str, gradient: torch.Tensor) -> None:
        solver, w = self.spec.solver, self.state[name]
        gradient = gradient + solver.weight_decay * w
        match solver:
            case SGD():
                velocity = self._rate() * gradient
                if solver.momentum:
                    velocity += solver.momentum * self.state[f"{name}/velocity"]
                    self.state[f"{name}/velocity"] = velocity
                self.state[name] = w.detach() - velocity
            case Nesterov():
                step = self._rate() * gradient
                if solver.momentum:
                    velocity = solver.momentum * self.state[f"{name}/velocity"] + step
                    self.state[f"{name}/velocity"] = velocity
                    step = step + solver.momentum * velocity
                self.state[name] = w.detach() - step
            case Adam():
                t = self.step + 1
                m = solver.beta1 * self.state[f"{name}/first_moment"] + (1 - solver.beta1) * gradient
                v = solver.beta2 * self.state[f"{name}/second_moment"] + (1 - solver.beta2) * gradient**2
                self.state[f"{name}/first_moment"], self.state[f"{name}/second_moment"] = m, v
                step = (m / (1 - solver.beta1**t)) / ((v / (1 - solver.beta2**t)).sqrt() + solver.eps)
                self.state[name] = w.detach() - self._rate() * step
            case _:
                raise NotImplementedError(f"the twin knows no solver {solver.type}")
