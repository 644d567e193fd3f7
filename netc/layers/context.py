"""What a layer sees while it lowers itself: the graph, the phase, and where parameters and randomness come from."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Origin, shape_of
from netc.graph.counter_rng import CounterRNG
from netc.layers.base import MAX_PARAMETERS, Layer, LayerError, ParamSpec, Phase
from netc.layers.fillers import Constant, Filler, Msra, Xavier
from netc.layers.tuning import Tuning

DRAW = "draw"  # the graph input that numbers the draws of dropout in the phase test
_PLAIN = ParamSpec()


@dataclass(frozen=True)
class StateTensor:
    """One tensor of the state: what the manifest says of it, how it starts, how the solver treats it.

    `layer` is the layer that declares it, the first of those that share it. `is_weight` is false for biases and for
    what normalization learns; `factor` multiplies its learning rate. `filled_as` is the tensor whose first value it
    has, if that is another one.
    """

    name: str
    dtype: ir.DataType
    shape: tuple[int, ...]
    role: str
    filler: Filler
    layer: str = ""
    declared: ParamSpec = _PLAIN
    is_weight: bool = True
    filled_as: str = ""
    factor: float = 1.0

    def first_value(self, seed: int) -> np.ndarray:
        """Return the value that it starts with."""
        drawn = self.filler.fill(seed, self.filled_as or self.name, self.shape)
        return drawn.astype(self.dtype.numpy(), order="C")

    @property
    def lr_mult(self) -> float:
        """The factor of the learning rate; 0 for what is frozen."""
        return self.declared.lr_mult * self.factor

    @property
    def decay_mult(self) -> float:
        """The factor of the weight decay."""
        return self.declared.decay_mult


@dataclass
class Context:
    """The network under construction in one phase.

    Attributes:
        g: the graph.
        phase: `train` or `test`.
        sampled: whether the graph input `draw` keys random numbers instead of the step, and Dropout drops in any phase.
        random_seed: the first value of the seed.
        planned: the first value of the planned number of updates.
        iter_size: batches whose gradients make one update.
        tuning: what is frozen, and whose learning rate is another one.
        phased: whether training has phases, from whose beginnings policies and schedules count.
        state: all state tensors declared so far, by name, in order.
        inputs: the graph input of each state tensor.
        updates: new values of state tensors, such as running statistics.
        batch_statistics: for each statistic that averages over the population replace, its value for this batch.
    """

    g: GraphBuilder
    phase: Phase
    sampled: bool = False
    random_seed: int = 0
    planned: int = 1
    iter_size: int = 1
    tuning: Tuning = field(default_factory=Tuning)
    phased: bool = False
    state: dict[str, StateTensor] = field(default_factory=dict)
    inputs: dict[str, ir.Value] = field(default_factory=dict)
    updates: dict[str, ir.Value] = field(default_factory=dict)
    batch_statistics: dict[str, ir.Value] = field(default_factory=dict)
    _layer: Layer | None = None
    _parameters: int = 0  # that the current layer has declared
    _learned: int = 0  # elements of all parameters so far
    _rectified: bool = False
    _rng: CounterRNG | None = None
    _warnings: list[str] = field(default_factory=list)

    # -- for layers --------------------------------------------------------------------------------------

    @property
    def drops(self) -> bool:
        """Whether Dropout and its like drop, and do not stand for the mean of all masks."""
        return self.phase == "train" or self.sampled

    def parameter(self, suffix: str, shape: list[int], filler: Filler) -> ir.Value:
        """Declare a learned tensor and return it: `LAYER.suffix`, or the one that the user's `param` names.

        Raises:
            LayerError: the network grows too large, the filler does not fit, or a shared tensor is declared otherwise.
        """
        layer = self._current()
        spec = layer.param[self._parameters] if self._parameters < len(layer.param) else ParamSpec()
        self._parameters += 1
        name = spec.name or f"{layer.name}.{suffix}"
        if name in self.state:
            self._check_shared(self.state[name], spec, suffix, shape)
            return self.inputs[name]
        learned = self._learned + math.prod(shape)
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
        is_matrix = suffix == "weight" and len(shape) > 1 and shape[0] > 1
        if is_matrix and isinstance(filler, Constant) and filler.value == 0.0:
            self._warnings.append(
                "all weights start at 0, so that units of a hidden layer can never differ; use another weight_filler"
            )
        self._learned = learned
        is_weight, factor = suffix != "bias" and not layer.learns_scales, self.tuning.factor(layer.name, name)
        return self._declare(
            StateTensor(
                name,
                self.g.dtype,
                tuple(shape),
                "parameter",
                filler,
                layer.name,
                spec,
                is_weight=is_weight,
                factor=factor,
            ),
        )

    def _check_shared(self, first: StateTensor, spec: ParamSpec, suffix: str, shape: list[int]) -> None:
        """Refuse a tensor that another layer has declared in another way."""
        if first.shape != tuple(shape):
            raise LayerError(
                f'its {suffix} {"x".join(map(str, shape))} shares the name "{first.name}" with one of {first.layer}, '
                f"{'x'.join(map(str, first.shape))}; shared parameters have one shape",
                "param",
            )
        for field_name in sorted(spec.model_fields_set - {"name"}):
            given, other = getattr(spec, field_name), getattr(first.declared, field_name)
            if given != other:
                raise LayerError(
                    f'param: {field_name} {given:g} of "{first.name}" is {other:g} in {first.layer}, the first layer '
                    "that has it; leave it out here",
                    "param",
                )

    def statistic(self, suffix: str, shape: list[int], value: float) -> ir.Value:
        """Declare a tensor `LAYER.suffix` that the layer itself updates, filled with `value`."""
        layer = self._current().name
        name, filler = f"{layer}.{suffix}", Constant(value=value)
        return self._declare(StateTensor(name, self.g.dtype, tuple(shape), "statistic", filler, layer))

    def is_frozen(self, suffix: str) -> bool:
        """Whether the user wants `LAYER.suffix` to stay as it is."""
        layer = self._current().name
        return self.tuning.is_frozen(layer, f"{layer}.{suffix}")

    def update(self, statistic: ir.Value, value: ir.Value) -> None:
        """Give a statistic its value for the next step."""
        self.updates[str(statistic.name)] = value

    def average(self, statistic: ir.Value, of_batch: ir.Value) -> None:
        """Let averages of `of_batch` over training batches replace a statistic when training is done."""
        self.batch_statistics[str(statistic.name)] = of_batch

    def keep(self, x: ir.Value, ratio: float, axes: int | None = None) -> ir.Value:
        """Return 1 where x is kept and 0 where it is dropped, with probability `ratio`.

        With `axes`, one decision holds for all elements that agree in their first `axes` indices.
        """
        shape = [int(n) for n in shape_of(x)]
        if axes is not None:
            shape = shape[:axes] + [1] * (len(shape) - axes)
        return self.g.Cast(self.random().keep(self._current().name, shape, ratio), to=x.dtype)

    def normal(self, x: ir.Value) -> ir.Value:
        """Return a draw from N(0, 1) for each element of x, at most 4.9 in size."""
        shape = [int(n) for n in shape_of(x)]
        return self.g.Cast(self.random().normal(self._current().name, shape), to=x.dtype)

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

    def iteration(self) -> ir.Value:
        """Return the number of completed updates of the phase of training, or of the run if it has none, int64 []."""
        if not self.phased:
            return self.step()
        start = self._declare(StateTensor("phase_start", ir.DataType.INT64, (), "phase_start", Constant()))
        return self.g.Sub(self.step(), start)

    def seed(self) -> ir.Value:
        """Return the seed of all randomness, uint32 [1]."""
        return self._declare(StateTensor("seed", ir.DataType.UINT32, (1,), "seed", Constant(value=self.random_seed)))

    def random(self) -> CounterRNG:
        """Return what draws random numbers, keyed by the seed and the number of the batch, or the input `draw`."""
        if self._rng is None:
            drawn = self.g.input(DRAW, ir.DataType.INT64, ()) if self.sampled else self.step()
            if self.iter_size > 1 and not self.sampled:  # every batch of an update draws anew
                with self.g.origin(Origin("random", "keys")), self.g.arithmetic():
                    drawn = drawn * self.g.constant(np.array(self.iter_size, np.int64)) + self.micro_batch()
            self._rng = CounterRNG(self.g, self.seed(), drawn)
        return self._rng

    def data_statistic(self, name: str, kind: Literal["mean", "std"], channels: int) -> ir.Value:
        """Declare a statistic of an input that the host computes from the training split, [channels]."""
        filler = Constant(value=0.0 if kind == "mean" else 1.0)
        return self._declare(StateTensor(f"{name}.{kind}", self.g.dtype, (channels,), f"data_{kind}", filler))

    def progress(self) -> ir.Value:
        """Return the fraction of the planned updates, of the phase if there are phases, that is done, a scalar."""
        return self.g.Div(self.g.Cast(self.iteration(), to=self.g.dtype), self.planned_updates())

    def planned_updates(self) -> ir.Value:
        """Return the planned number of updates, a scalar."""
        return self._declare(StateTensor("max_steps", self.g.dtype, (), "max_steps", Constant(value=self.planned)))

    def lr_scale(self) -> ir.Value:
        """Return the factor of the learning rate that the host sets, a scalar, 1 at first."""
        return self._declare(StateTensor("lr_scale", self.g.dtype, (), "lr_scale", Constant(value=1.0)))

    def micro_batch(self) -> ir.Value:
        """Return the number of batches since the last update, int64 []; 0 where every batch makes one."""
        return self._declare(StateTensor("micro_batch", ir.DataType.INT64, (), "micro_batch", Constant()))

    def loss_scale(self, first: float) -> ir.Value:
        """Return the factor of the objective that keeps small gradients in float16, a scalar, `first` at first."""
        return self._declare(StateTensor("loss_scale", self.g.dtype, (), "loss_scale", Constant(value=first)))

    def counter(self, name: str) -> ir.Value:
        """Declare a number that the solver counts by, int64 [], zero at first."""
        return self._declare(StateTensor(name, ir.DataType.INT64, (), "optimizer", Constant()))

    def slot(self, parameter: StateTensor, slot: str) -> ir.Value:
        """Declare memory of the solver for a parameter, zero at first."""
        name = f"{parameter.name}/{slot}"
        return self._declare(
            StateTensor(name, parameter.dtype, parameter.shape, "optimizer", Constant(), parameter.layer)
        )

    def average_of(self, parameter: StateTensor) -> ir.Value:
        """Declare the running average of a parameter over the updates, at first the parameter itself."""
        name = f"{parameter.name}/average"
        return self._declare(replace(parameter, name=name, role="average", filled_as=parameter.name))

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

    def _declare(self, tensor: StateTensor) -> ir.Value:
        if tensor.name not in self.inputs:
            self.state[tensor.name] = tensor
            self.inputs[tensor.name] = self.g.input(tensor.name, tensor.dtype, tensor.shape)
        return self.inputs[tensor.name]
