"""What the PyTorch twins of the layers share: the table of twins, and what a twin sees while it computes.

A twin computes a declared layer with PyTorch's own operators. It shares no formula with netc: parameter shapes, output
sizes and normalizers are stated again. It also notes how near its input comes to a place where the value or the
gradient jumps, because two implementations that round differently may take different sides there.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from netc.layers.base import Layer, ParamSpec
from tests.numpy_rng import keep_mask, random_bits

Tensor = torch.Tensor
# Returns a state tensor by its name and the shape that the twin expects of it.
State = Callable[[str, tuple[int, ...]], Tensor]
Twin = Callable[[Any, "Run", Sequence[Tensor]], Any]

# A layer that divides by a deviation enlarges rounding by (largest value) / (deviation). Times this factor the inverse
# is comparable with a distance to a kink: 1e-5 then stands for an enlargement of 10, in value and again in gradient.
CONDITION = 1e-4

TWINS: dict[str, Twin] = {}


def twin(*types: type[Layer]) -> Callable[[Twin], Twin]:
    """Let the decorated function compute these layers: (layer, run, bottoms) -> its top, tops, loss or metric."""

    def add(function: Twin) -> Twin:
        for cls in types:
            assert cls.__name__ not in TWINS, f"two twins of {cls.__name__}"
            TWINS[cls.__name__] = function
        return function

    return add


class Run:
    """One evaluation of a network.

    Attributes:
        train: whether it is the train phase.
        distances: for each place passed, how near it came, and the largest value there, which rounding scales with.
        deviations: the smallest ones that layers divide by, relative to the largest value that is divided.
        statistics: new values of running statistics, by name.
        penalties: for each parameter that has some, by its name: the layer that declares it first, and their sum.
        known: names of all parameters that a layer has asked for.
    """

    def __init__(self, state: State, train: bool, seed: int, step: int) -> None:
        self.train = train
        self.distances: list[tuple[float, float]] = []
        self.deviations: list[float] = []
        self.statistics: dict[str, Tensor] = {}
        self.penalties: dict[str, tuple[str, Tensor]] = {}
        self._state, self._seed, self._step = state, seed, step
        self._layer: Layer | None = None
        self._index = 0  # of the layer's next parameter
        self.known: set[str] = set()

    @property
    def parameters(self) -> int:
        """The number of parameters that the last layer asked for."""
        return self._index

    @property
    def distance(self) -> float:
        """The smallest distance, relative to the largest value of its place, or what a small deviation comes to."""
        distances = [distance / scale for distance, scale in self.distances]
        return min([*distances, *(CONDITION * deviation for deviation in self.deviations)], default=math.inf)

    def forward(self, layer: Layer, x: Sequence[Tensor]) -> Any:
        """Compute a layer: a tensor, or for several tops or none a list."""
        self._layer, self._index = layer, 0
        return TWINS[layer.type](layer, self, x)

    def parameter(self, suffix: str, shape: Sequence[int]) -> Tensor:
        """Return the parameter `LAYER.suffix`, or the one that the user names, which has to have this shape."""
        layer = self._current
        declared = layer.param[self._index] if self._index < len(layer.param) else ParamSpec()
        self._index += 1
        name = declared.name or f"{layer.name}.{suffix}"
        value = self._tensor(name, shape)
        if name not in self.known and (declared.l1 or declared.l2):
            if declared.l1:
                self.kink(value, 0.0)
            self.penalties[name] = layer.name, declared.l1 * value.abs().sum() + declared.l2 * (value**2).sum()
        self.known.add(name)
        return value

    def statistic(self, suffix: str, shape: Sequence[int]) -> Tensor:
        """Return a copy of the statistic `LAYER.suffix`."""
        return self._tensor(f"{self._current.name}.{suffix}", shape).detach().clone()

    def _tensor(self, name: str, shape: Sequence[int]) -> Tensor:
        value = self._state(name, tuple(shape))
        assert value.shape == tuple(shape), f"{name} is {list(value.shape)}, not {list(shape)}"
        return value

    @property
    def _current(self) -> Layer:
        assert self._layer is not None
        return self._layer

    def update(self, suffix: str, value: Tensor) -> None:
        """Give the statistic `LAYER.suffix` its next value."""
        self.statistics[f"{self._current.name}.{suffix}"] = value

    # -- randomness, from the numpy twin of the hash ---------------------------------------------------------

    def keep(self, x: Tensor, ratio: float, axes: int | None = None) -> Tensor:
        """Return 1 where x is kept; all elements that agree in their first `axes` indices share the decision."""
        shape = tuple(x.shape if axes is None else [*x.shape[:axes], *[1] * (x.ndim - axes)])
        return torch.from_numpy(keep_mask(self._seed, self._step, self._current.name, shape, ratio)).to(x.dtype)

    def normal(self, x: Tensor) -> Tensor:
        """Return a draw from N(0, 1) for each element, by Box & Muller from 16 bits each."""
        names = (self._current.name, f"{self._current.name}.angle")
        u, v = (((random_bits(self._seed, self._step, n, tuple(x.shape)) >> 16) + 0.5) / 65536.0 for n in names)
        return torch.from_numpy(np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v)).to(x.dtype)

    # -- places where something jumps ------------------------------------------------------------------------

    def kink(self, x: Tensor, *places: float) -> None:
        """Note the distance of x to each place; an exact hit is a convention, which twins have to share."""
        values = x.detach()
        for place in places:
            away = (values - place).abs()
            self._note(away[away > 0], max(float(values.abs().max()), abs(place)))

    def ties(self, x: Tensor, dim: int) -> None:
        """Note how far the largest along `dim` is from the next; zeros, as behind a ReLU, are equal exactly."""
        if x.shape[dim] > 1:
            first, second = x.detach().topk(2, dim).values.unbind(dim)
            open_ = ~((first == second) & (first == 0.0))
            finite = first[torch.isfinite(first)]
            self._note((first - second)[open_], float(finite.abs().max()) if finite.numel() else 1.0)

    def condition(self, x: Tensor, deviation: Tensor) -> None:
        """Note how much the division of x by a deviation enlarges rounding."""
        largest = float(x.detach().abs().max())
        if largest > 0.0:
            self.deviations.append(float(deviation.detach().min()) / largest)

    def _note(self, distances: Tensor, scale: float) -> None:
        if distances.numel() and scale > 0.0:
            self.distances.append((float(distances.min()), scale))


def per_axis(values: Sequence[int], axes: int) -> tuple[int, ...]:
    """Expand one number to one for each spatial axis."""
    return tuple(values) * axes if len(values) == 1 else tuple(values)


def beside(value: Tensor, x: Tensor, axis: int = 1) -> Tensor:
    """View a parameter so that its axes lie along those of x from `axis` on."""
    if value.numel() == 1:
        return value.reshape(())
    return value.reshape([*value.shape, *[1] * (x.ndim - axis - value.ndim)])


def count(shape: Sequence[int]) -> int:
    """Return the number of elements."""
    return math.prod(shape)
