"""A PyTorch twin of a spec: the same network, losses and solver, written with torch's own operators and autograd.

It reads the validated spec but shares no formula with netc: geometry, losses, batch norm, dropout scaling and updates
are PyTorch's or stated here. Dropout masks come from the numpy twin of the hash.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that everyone knows)

from netc.layers import (
    activation,
    linear,
    loss,
    metric,
    normalization,
    pooling,
    regularization,
    reshape,
    structure,
    targets,
)
from netc.layers.base import Layer, Loss
from netc.layers.schedules import LinearSchedule
from netc.solver.policies import Fixed, Inv, Step
from netc.solver.rules import SGD, Adam
from netc.spec.model import NetSpec
from tests.numpy_rng import keep_mask

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
        self._new_statistics: Tensors = {}
        self._distances: list[float] = []

    def distance_to_kinks(self, image: np.ndarray, label: np.ndarray) -> float:
        """Return how near this batch comes to a point where the gradient jumps.

        That is the smallest distance between the two largest values of a max-pool window, or of a ReLU's input to 0.
        Below the rounding of float32 two implementations may take different sides there, and both are right. Exact
        ties do not count: they are zeros behind a ReLU, through which no gradient flows.
        """
        self._distances = []
        with torch.no_grad():
            self._losses(image, label)
        return min(self._distances, default=float("inf"))

    def train_step(self, image: np.ndarray, label: np.ndarray) -> dict[str, float]:
        """Do one update; return every loss and the total, before it."""
        parameters = [n for n in self.state if n.endswith((".weight", ".bias"))]
        for name in parameters:
            self.state[name].requires_grad_(True)
        losses = self._losses(image, label)
        total = sum(weight * value for weight, value in losses.values())
        assert isinstance(total, torch.Tensor)
        gradients = torch.autograd.grad(total, [self.state[n] for n in parameters])
        with torch.no_grad():
            for name, gradient in zip(parameters, gradients, strict=True):
                self._update(name, gradient)
            self.state |= self._new_statistics
        self.step += 1
        return {name: value.item() for name, (_, value) in losses.items()} | {"total": total.item()}

    def _losses(self, image: np.ndarray, label: np.ndarray) -> dict[str, tuple[float, torch.Tensor]]:
        data = self.spec.data
        assert not isinstance(data.mean, list)
        pixels = torch.tensor(image.astype(np.float64), dtype=self.dtype)
        tops: Tensors = {"image": (pixels - data.mean) * data.scale, "label": torch.tensor(label.astype(np.int64))}
        losses: dict[str, tuple[float, torch.Tensor]] = {}
        self._walk(self.spec.layers, "image", tops, losses, 1.0)
        return losses

    def _walk(
        self,
        layers: Sequence[Layer],
        above: str,
        tops: Tensors,
        losses: dict[str, tuple[float, torch.Tensor]],
        weight: float,
    ) -> None:
        for layer in layers:
            if isinstance(layer, metric.Accuracy):
                continue
            bottoms = layer.bottom or ([above, "label"] if layer.takes_labels else [above])
            top = self._forward(layer, [tops[b] for b in bottoms])
            if isinstance(layer, Loss):
                losses[layer.name] = (weight * layer.loss_weight, top)
                continue
            tops[layer.name] = top
            above = layer.name
            if layer.side is not None:
                schedule = layer.side.loss_weight
                alpha = schedule.start
                if isinstance(schedule, LinearSchedule):
                    done = min(self.step / self.max_steps / schedule.until, 1.0)
                    alpha = schedule.start + (schedule.end - schedule.start) * done
                self._walk(layer.side.layers, layer.name, tops, losses, weight * alpha)

    def _forward(self, layer: Layer, x: list[torch.Tensor]) -> torch.Tensor:
        def p(suffix: str) -> torch.Tensor | None:
            return self.state.get(f"{layer.name}.{suffix}")

        weight: Any = p("weight")
        match layer:
            case linear.Convolution():
                geometry: dict[str, Any] = {
                    "stride": tuple(layer.stride),
                    "padding": tuple(layer.pad),
                    "dilation": tuple(layer.dilation),
                }
                return F.conv2d(x[0], weight, p("bias"), groups=layer.group, **geometry)
            case linear.InnerProduct():
                return F.linear(x[0].flatten(1), weight, p("bias"))
            case pooling.Pooling(global_pooling=True):
                return x[0].mean((2, 3), keepdim=True) if layer.pool == "average" else x[0].amax((2, 3), keepdim=True)
            case pooling.Pooling():
                assert layer.kernel_size is not None
                k, s, pad = layer.kernel_size[0], layer.stride[0], layer.pad[0]
                up = layer.round_mode == "ceil"
                if layer.pool == "average":
                    return F.avg_pool2d(x[0], k, s, pad, ceil_mode=up)
                first, second = x[0].unfold(2, k, s).unfold(3, k, s).flatten(-2).topk(2).values.unbind(-1)
                apart = (first - second)[first != second]
                self._distances += [apart.min().item()] if apart.numel() else []
                return F.max_pool2d(x[0], k, s, pad, ceil_mode=up)
            case activation.ReLU():
                self._distances += [x[0][x[0] != 0].abs().min().item()]
                return torch.relu(x[0])
            case activation.Sigmoid():
                return torch.sigmoid(x[0])
            case activation.TanH():
                return torch.tanh(x[0])
            case activation.Softmax():
                return torch.softmax(x[0], layer.axis)
            case normalization.BatchNorm():
                mean, var = self.state[f"{layer.name}.running_mean"], self.state[f"{layer.name}.running_var"]
                running = mean.clone(), var.clone()
                y = F.batch_norm(
                    x[0], *running, weight, p("bias"), True, 1.0 - layer.moving_average_fraction, layer.eps
                )
                self._new_statistics[f"{layer.name}.running_mean"] = running[0]
                self._new_statistics[f"{layer.name}.running_var"] = running[1]
                return y
            case regularization.Dropout():
                shape = tuple(x[0].shape)
                seed = self.spec.solver.random_seed
                mask = keep_mask(seed, self.step, layer.name, shape, layer.dropout_ratio)
                return x[0] * torch.tensor(mask, dtype=self.dtype) / (1.0 - layer.dropout_ratio)
            case structure.Eltwise():
                return torch.stack(x).sum(0)
            case structure.Concat():
                return torch.cat(x, layer.axis)
            case reshape.Flatten():
                return x[0].flatten(1)
            case loss.SoftmaxWithLoss():
                return F.cross_entropy(x[0], x[1])
            case targets.EuclideanLoss():
                return ((x[0].flatten(1) - x[1].flatten(1)) ** 2).sum() / (2 * x[0].shape[0])
        raise NotImplementedError(f"the twin knows no {layer.type}")

    def _rate(self) -> float:
        solver, it = self.spec.solver, self.step
        match solver.lr_policy:
            case Fixed():
                return solver.base_lr
            case Step(gamma=gamma, stepsize=stepsize):
                return solver.base_lr * gamma ** (it // stepsize)
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
            case Adam():
                t = self.step + 1
                m = solver.beta1 * self.state[f"{name}/first_moment"] + (1 - solver.beta1) * gradient
                v = solver.beta2 * self.state[f"{name}/second_moment"] + (1 - solver.beta2) * gradient**2
                self.state[f"{name}/first_moment"], self.state[f"{name}/second_moment"] = m, v
                step = (m / (1 - solver.beta1**t)) / ((v / (1 - solver.beta2**t)).sqrt() + solver.eps)
                self.state[name] = w.detach() - self._rate() * step
            case _:
                raise NotImplementedError(f"the twin knows no solver {solver.type}")
