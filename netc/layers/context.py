"""What a layer sees while it lowers itself: the graph, the phase, and where parameters and randomness come from."""

import math
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, shape_of
from netc.graph.counter_rng import CounterRNG
from netc.layers.base import MAX_PARAMETERS, Layer, LayerError, ParamSpec, Phase
from netc.layers.fillers import Constant, Filler, Msra, Xavier


@dataclass(frozen=True)
class StateTensor:
    """One tensor of the state: what the manifest says of it, how it starts, how the solver treats it."""

    name: str
    dtype: ir.DataType
    shape: tuple[int, ...]
    role: str
    filler: Filler
    lr_mult: float = 1.0
    decay_mult: float = 1.0


@dataclass
class Context:
    """The network under construction in one phase.

    Attributes:
        g: the graph.
        phase: `train` or `test`.
        random_seed: the first value of the seed.
        planned: the first value of the planned number of updates.
        state: all state tensors declared so far, by name, in order.
        inputs: the graph input of each state tensor.
        updates: new values of state tensors, such as running statistics.
    """

    g: GraphBuilder
    phase: Phase
    random_seed: int = 0
    planned: int = 1
    state: dict[str, StateTensor] = field(default_factory=dict)
    inputs: dict[str, ir.Value] = field(default_factory=dict)
    updates: dict[str, ir.Value] = field(default_factory=dict)
    _layer: Layer | None = None
    _parameters: int = 0
    _rectified: bool = False
    _rng: CounterRNG | None = None
    _warnings: list[str] = field(default_factory=list)

    # -- for layers --------------------------------------------------------------------------------------

    def parameter(self, suffix: str, shape: list[int], filler: Filler) -> ir.Value:
        """Declare a learned tensor `LAYER.suffix` and return it."""
        layer = self._current()
        learned = sum(math.prod(t.shape) for t in self.state.values() if t.role == "parameter") + math.prod(shape)
        if learned > MAX_PARAMETERS:
            raise LayerError(
                f"with its {suffix} {'x'.join(map(str, shape))} the network has {learned:,} parameters, and one ONNX "
                f"file holds {MAX_PARAMETERS:,}; use fewer outputs, or pool before it",
                "num_output",
            )
        if len(shape) < filler.min_axes:
            raise LayerError(
                f"the filler {filler.type} needs {filler.min_axes} axes or more, and the {suffix} "
                f"{'x'.join(map(str, shape))} has {len(shape)}; use another one",
                f"{suffix}_filler" if f"{suffix}_filler" in type(layer).model_fields else None,
            )
        spec = layer.param[self._parameters] if self._parameters < len(layer.param) else ParamSpec()
        self._parameters += 1
        if suffix == "weight" and isinstance(filler, Constant) and filler.value == 0.0:
            self._warnings.append("all weights start at 0, so its units can never differ; use another weight_filler")
        return self._declare(
            StateTensor(
                f"{layer.name}.{suffix}",
                self.g.dtype,
                tuple(shape),
                "parameter",
                filler,
                spec.lr_mult,
                spec.decay_mult,
            )
        )

    def statistic(self, suffix: str, shape: list[int], value: float) -> ir.Value:
        """Declare a tensor `LAYER.suffix` that the layer itself updates, filled with `value`."""
        name = f"{self._current().name}.{suffix}"
        return self._declare(StateTensor(name, self.g.dtype, tuple(shape), "statistic", Constant(value=value)))

    def update(self, statistic: ir.Value, value: ir.Value) -> None:
        """Give a statistic its value for the next step."""
        self.updates[str(statistic.name)] = value

    def keep(self, x: ir.Value, ratio: float, axes: int | None = None) -> ir.Value:
        """Return 1 where x is kept and 0 where it is dropped, with probability `ratio`.

        With `axes`, one decision holds for all elements that agree in their first `axes` indices.
        """
        shape = [int(n) for n in shape_of(x)]
        if axes is not None:
            shape = shape[:axes] + [1] * (len(shape) - axes)
        return self.g.Cast(self._random().keep(self._current().name, shape, ratio), to=x.dtype)

    def normal(self, x: ir.Value) -> ir.Value:
        """Return a draw from N(0, 1) for each element of x, at most 4.9 in size."""
        shape = [int(n) for n in shape_of(x)]
        return self.g.Cast(self._random().normal(self._current().name, shape), to=x.dtype)

    def weight_filler(self, given: Filler | None) -> Filler:
        """Return the filler that the user gave, else msra before a rectifier and xavier otherwise."""
        return given or (Msra() if self._rectified else Xavier())

    def zero(self) -> ir.Value:
        """Return 0 as a scalar of the graph's float type."""
        return self.g.constant(0.0)

    def batch_count(self, x: ir.Value) -> ir.Value:
        """Return the number of samples in x as a scalar of the graph's float type."""
        n = shape_of(x)[0]
        if isinstance(n, int):
            return self.g.constant(float(n))
        count = self.g.Squeeze(self.g.Shape(x, start=0, end=1), np.array([0], np.int64))
        return self.g.Cast(count, to=self.g.dtype)

    # -- state that is not a layer's ---------------------------------------------------------------------

    def step(self) -> ir.Value:
        """Return the number of completed updates, int64 []."""
        return self._declare(StateTensor("step", ir.DataType.INT64, (), "step", Constant()))

    def seed(self) -> ir.Value:
        """Return the seed of all randomness, uint32 [1]."""
        return self._declare(StateTensor("seed", ir.DataType.UINT32, (1,), "seed", Constant(value=self.random_seed)))

    def progress(self) -> ir.Value:
        """Return the fraction of the planned updates that is done, a scalar."""
        horizon = StateTensor("max_steps", self.g.dtype, (), "max_steps", Constant(value=self.planned))
        planned = self._declare(horizon)
        return self.g.Div(self.g.Cast(self.step(), to=self.g.dtype), planned)

    def slot(self, parameter: StateTensor, slot: str) -> ir.Value:
        """Declare memory of the solver for a parameter, zero at first."""
        name = f"{parameter.name}/{slot}"
        return self._declare(StateTensor(name, parameter.dtype, parameter.shape, "optimizer", Constant()))

    # -- for the walk over the layers --------------------------------------------------------------------

    def enter(self, layer: Layer, rectified: bool) -> None:
        """Begin with a layer."""
        self._layer, self._parameters, self._rectified = layer, 0, rectified

    def leave(self) -> list[str]:
        """End with a layer and return its warnings.

        Raises:
            LayerError: the layer was given more `param` entries than it has parameters.
        """
        layer = self._current()
        if len(layer.param) > self._parameters:
            raise LayerError(
                f"param: {len(layer.param)} entries, but {layer.name} has {self._parameters} parameters", "param"
            )
        self._layer = None
        warnings, self._warnings = self._warnings, []
        return warnings

    def _current(self) -> Layer:
        if self._layer is None:
            raise AssertionError("no layer is being lowered")
        return self._layer

    def _random(self) -> CounterRNG:
        if self._rng is None:
            self._rng = CounterRNG(self.g, self.seed(), self.step())
        return self._rng

    def _declare(self, tensor: StateTensor) -> ir.Value:
        if tensor.name not in self.inputs:
            self.state[tensor.name] = tensor
            self.inputs[tensor.name] = self.g.input(tensor.name, tensor.dtype, tensor.shape)
        return self.inputs[tensor.name]
