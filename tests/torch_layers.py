"""A declared network in PyTorch: the walk over its layers, its losses and metrics, the weights of its sides."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from netc.layers import schedules
from netc.layers.base import Layer, Loss, Metric, Side
from netc.spec.model import NetSpec
from tests import (  # noqa: F401 (importing registers the twins)
    torch_layers_elementwise,
    torch_layers_linear,
    torch_layers_losses,
    torch_layers_structure,
)
from tests.torch_layers_base import Run, State, Tensor


@dataclass(frozen=True)
class Moment:
    """When in a run: completed updates, the planned ones, and the seed of all randomness."""

    step: int
    max_steps: int
    seed: int


@dataclass
class Evaluated:
    """What a network gives for one batch.

    Attributes:
        run: distances to kinks, new statistics.
        tops: the value of each layer and input.
        terms: every loss, metric and penalty, named as in netc.
        counts: the confusion matrices, which only the test phase has.
        total: the objective.
    """

    run: Run
    tops: dict[str, Tensor]
    terms: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)
    total: Tensor = field(default_factory=lambda: torch.zeros(()))


def evaluate(
    spec: NetSpec, inputs: Mapping[str, Tensor], state: State, moment: Moment, train: bool = True
) -> Evaluated:
    """Compute a network; `inputs` are raw, labels of any type of whole number."""
    found = Evaluated(Run(state, train, moment.seed, moment.step), preprocessed(spec, inputs))
    _Walk(spec, found, moment).run()
    return found


def preprocessed(spec: NetSpec, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Apply mean and scale to the first input of numbers."""
    tops = dict(inputs)
    first = next((name for name, declared in spec.inputs.items() if declared.classes is None), None)
    if first is not None:
        mean = torch.tensor(spec.data.mean, dtype=tops[first].dtype)
        mean = mean.reshape([-1, *[1] * (tops[first].ndim - 2)]) if mean.ndim else mean
        tops[first] = (tops[first] - mean) * spec.data.scale
    return tops


class _Walk:
    def __init__(self, spec: NetSpec, found: Evaluated, moment: Moment) -> None:
        self._spec, self._found, self._moment = spec, found, moment
        self._label = next((name for name, declared in spec.inputs.items() if declared.classes is not None), "")
        self._scores: dict[int, str] = {}  # of each side, what its first loss reads

    def run(self) -> None:
        """Compute all layers, then what is learned from all sides, then the penalties."""
        first = next((name for name, declared in self._spec.inputs.items() if declared.classes is None), "")
        self._layers(self._spec.layers, [first], ())
        if self._spec.fuse is not None:
            self._layers(self._spec.fuse.layers, list(self._scores.values()), (self._spec.fuse,))
        found = self._found
        for layer, penalty in found.run.penalties.values():
            found.terms[f"{layer}.penalty"] = found.terms.get(f"{layer}.penalty", 0.0) + penalty
            found.total = found.total + penalty

    def _layers(self, layers: Sequence[Layer], above: list[str], sides: tuple[Side, ...]) -> None:
        found = self._found
        for layer in layers:
            if layer.include is not None and (layer.include.phase == "train") != found.run.train:
                continue
            if isinstance(layer, Metric) and layer.counts and found.run.train:
                continue
            bottoms = layer.bottom or [*above, *([self._label] if layer.takes_labels else [])]
            top = found.run.forward(layer, [found.tops[name] for name in bottoms])
            if isinstance(layer, Loss | Metric):
                if isinstance(layer, Metric) and layer.counts:
                    found.counts[layer.name] = top
                else:
                    found.terms[layer.name] = top
                if isinstance(layer, Loss):
                    self._minimise(layer, top, sides)
                    if sides:
                        self._scores.setdefault(id(sides[-1]), bottoms[0])
                continue
            tops = [top] if isinstance(top, Tensor) else top
            found.tops.update(zip(layer.tops, tops, strict=True))
            above = [layer.name] if tops else above
            if layer.loss_weight:
                mean = torch.stack([value.sum() for value in tops]).sum() / len(tops[0])
                found.terms[f"{layer.name}.loss"] = mean
                self._minimise(layer, mean, sides)
            if layer.side is not None:
                self._layers(layer.side.layers, [layer.name], (*sides, layer.side))

    def _minimise(self, layer: Layer, value: Tensor, sides: Sequence[Side]) -> None:
        """Add a loss to the total, times its weight and those of the sides around it."""
        run = self._found.run
        weight = layer.loss_weight * math.prod(scheduled(side.loss_weight, run, self._moment) for side in sides)
        threshold = sides[-1].threshold if sides else None
        if weight == 0.0:
            return
        if threshold is not None:
            run.kink(value, threshold)
            value = (value - threshold).clamp(min=0.0)
        self._found.total = self._found.total + weight * value


def scheduled(schedule: schedules.Schedule, run: Run, moment: Moment) -> float:
    """Return the weight of a side at this moment."""
    done = moment.step / moment.max_steps
    match schedule:
        case schedules.ConstantSchedule():
            return schedule.start
        case schedules.LinearSchedule():
            along = min(done / schedule.until, 1.0)
            return (1.0 - along) * schedule.start + along * schedule.end
        case schedules.StepOffSchedule():
            run.kink(torch.tensor([done]), schedule.until)
            return schedule.start if done < schedule.until else 0.0
        case schedules.DsnSchedule():
            epochs, weight = done * schedule.epochs, schedule.start
            run.kink(torch.tensor([epochs]), float(round(epochs)))
            for t in range(1, min(math.floor(epochs), schedule.epochs) + 1):
                weight *= schedule.factor * (1.0 - t / schedule.epochs)
            return weight
    raise NotImplementedError(f"the twin knows no schedule {schedule.policy}")
