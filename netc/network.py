"""NetSpec to forward graph: lower each layer in one phase, collect its losses, metrics, state and outputs.

A layer that cannot be lowered is reported at its place, and its top counts as unknown from there on, so that one
mistake gives one message.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from netc.augment.pipeline import Part
from netc.errors import Diagnostic, SpecError
from netc.graph import GraphBuilder, Origin, shape_of
from netc.inputs import feed
from netc.layers.activation import Sigmoid, Softmax
from netc.layers.base import MAX_ELEMENTS, Counts, Layer, LayerError, Loss, Mean, Metric, Phase, elements, sample
from netc.layers.context import Context
from netc.layers.tuning import Tuning
from netc.outputs import Output, collect_outputs, side_scores, with_scores
from netc.spec.load import Loaded
from netc.wiring import Placed, Wiring, label_warnings, wire

BATCH_AXIS = "N"


@dataclass(frozen=True)
class Term:
    """A loss or metric of the network; `kind` as in the manifest, `layer` None for the total."""

    name: str
    kind: str
    layer: str | None
    mean: Mean


@dataclass(frozen=True)
class Count:
    """A counting metric: its kind as in the manifest, and the confusion matrix [C, C] of a batch."""

    name: str
    kind: str
    layer: str
    matrix: ir.Value


@dataclass
class Network:
    """A lowered network.

    Attributes:
        net: graph, state and updates of statistics.
        batch: the graph inputs that hold a batch, by name.
        terms: losses and metrics that are means, in order, the total first.
        counts: metrics that count, in order; only for evaluation.
        outputs: what inference returns.
        tops: the value of each layer and input that could be lowered.
        augmented: raw values of the inputs that augmentation changes.
        placed: the layers that take part, in order.
        warnings: what is allowed but hardly meant.
    """

    net: Context
    batch: dict[str, ir.Value] = field(default_factory=dict)
    terms: list[Term] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    tops: dict[str, ir.Value] = field(default_factory=dict)
    augmented: dict[str, ir.Value] = field(default_factory=dict)
    placed: list[Placed] = field(default_factory=list)
    warnings: list[Diagnostic] = field(default_factory=list)


def lower(
    loaded: Loaded,
    phase: Phase,
    batch_size: int | None,
    objectives: bool = True,
    dtype: ir.DataType = ir.DataType.FLOAT,
    sampled: bool = False,
    keep_sides: Sequence[str] = (),
) -> Network:
    """Lower a spec.

    Args:
        loaded: the spec.
        phase: `train` or `test`.
        batch_size: a number, or None for a symbolic batch axis.
        objectives: whether losses, metrics and sides take part.
        dtype: the floating-point type of the graph.
        sampled: whether Dropout drops in the phase `test` too.
        keep_sides: names of sides whose scores are outputs too.

    Raises:
        SpecError: with every mistake of the spec that shows in this phase.
        UsageError: there is no side of one of these names.
    """
    return _Lowering(loaded, phase, batch_size, objectives, dtype, sampled, keep_sides).run()


def lower_inputs(loaded: Loaded, batch_size: int, dtype: ir.DataType = ir.DataType.FLOAT) -> Network:
    """Lower what training does to a batch before the first layer, with the input `draw` in the place of the step.

    Raises:
        SpecError: with every mistake that shows there.
    """
    return _Lowering(loaded, "train", batch_size, objectives=False, dtype=dtype, sampled=True).inputs()


class _Lowering:
    def __init__(
        self,
        loaded: Loaded,
        phase: Phase,
        batch_size: int | None,
        objectives: bool,
        dtype: ir.DataType,
        sampled: bool,
        keep_sides: Sequence[str] = (),
    ) -> None:
        self._loaded, self._phase, self._objectives = loaded, phase, objectives
        self._axis: int | str = BATCH_AXIS if batch_size is None else batch_size
        self._wiring: Wiring = wire(loaded, phase)
        self._scores = side_scores(self._wiring, keep_sides)
        self._kept = with_scores(self._wiring, self._scores)
        self._diagnostics: list[Diagnostic] = [*loaded.diagnostics, *self._wiring.diagnostics]
        solver = loaded.spec.solver
        self._net = Context(
            GraphBuilder(loaded.spec.name, dtype),
            phase,
            sampled,
            random_seed=solver.random_seed,
            planned=solver.max_iter or 1,
            iter_size=solver.iter_size,
            tuning=Tuning(tuple(loaded.spec.freeze), loaded.spec.lr_mult),
            phased=bool(loaded.spec.phases),
        )
        self._network = Network(self._net, placed=self._wiring.placed)
        self._mixed: Mapping[str, Sequence[Part]] = {}
        self._too_few: set[tuple[str | None, ...]] = set()  # scores and labels reported as not fitting
        self._parts: list[tuple[ir.Value, ir.Value | float]] = []  # of the total: what a loss adds, and its weight
        self._means: list[ir.Value] = []  # what the means that the total adds up weigh

    def run(self) -> Network:
        """Lower everything, then raise all mistakes at once."""
        self._feed()
        for placed in self._wiring.placed:
            if self._objectives or placed.layer.name in self._kept:
                self._layer(placed)
        if self._diagnostics:
            raise SpecError(self._diagnostics)
        if self._objectives:
            self._penalties()
            self._total()
        self._network.outputs += collect_outputs(self._loaded, self._wiring, self._network.tops, self._scores)
        self._warn()
        return self._network

    def inputs(self) -> Network:
        """Lower what happens to a batch before the first layer, then raise all mistakes at once."""
        self._feed()
        if self._diagnostics:
            raise SpecError(self._diagnostics)
        return self._network

    def _feed(self) -> None:
        fed = feed(self._net, self._loaded, self._axis, self._wiring.placed, self._report)
        self._mixed = fed.mixed
        self._network.batch, self._network.tops = fed.batch, fed.tops
        self._network.augmented = fed.augmented

    def _layer(self, placed: Placed) -> None:
        layer, tops = placed.layer, self._network.tops
        known = [tops[name] for name in placed.bottoms if name is not None and name in tops]
        if len(known) < len(placed.bottoms) or self._confuses_labels(placed, known):
            return
        if self._misses_mixed_labels(placed):
            return
        place = self._loaded.place(placed.path)
        self._net.enter(layer, layer.name in self._wiring.before_rectifiers)
        try:
            with self._net.g.origin(Origin(layer.name, "forward", place)):
                top = self._lowered(placed, known)
            given = () if isinstance(top, Mean | Counts) else (top,) if isinstance(top, ir.Value) else top
            for value in given:
                if elements(shape_of(value)) > MAX_ELEMENTS:
                    raise LayerError(
                        f"its top, {sample(value)} a sample, has {elements(shape_of(value)):,} values, more than the "
                        f"{MAX_ELEMENTS:,} that a tensor can hold; make it smaller, or lower data.batch_size"
                    )
            for message in self._net.leave():
                self._network.warnings.append(self._loaded.at(placed.path, f"{layer.name}: {message}"))
        except LayerError as error:
            path = placed.path if error.field is None else (*placed.path, error.field)
            self._report(path, f"{layer.name}: {error}")
            return
        if isinstance(top, Mean):
            self._term(placed, layer.name, top)
        elif isinstance(top, Counts):
            self._network.counts.append(Count(layer.name, self._kind(placed), layer.name, top.matrix))
        else:
            tops.update(zip(layer.tops, given, strict=True))
            if layer.is_loss and self._objectives:
                self._term(placed, f"{layer.name}.loss", self._mean_of_tops(layer, given))

    def _lowered(self, placed: Placed, bottoms: Sequence[ir.Value]) -> ir.Value | Mean | Counts | Sequence[ir.Value]:
        """Return what a layer lowers itself to; a loss on mixed labels weighs its means of what they are mixed of."""
        layer, labels = placed.layer, placed.bottoms[-1] if placed.bottoms else None
        parts = self._mixed.get(labels, ()) if isinstance(layer, Loss) and labels is not None else ()
        if not parts:
            return layer.lower(self._net, *bottoms)
        values, weights = list[ir.Value](), list[ir.Value]()
        for part in parts:
            mean = layer.lower(self._net, *bottoms[:-1], part.labels)
            assert isinstance(mean, Mean), "losses return means"
            values.append(self._net.g.Mul(mean.value, part.share))
            weights.append(self._net.g.Mul(mean.weight, part.share))
        return Mean(functools.reduce(self._net.g.Add, values), functools.reduce(self._net.g.Add, weights))

    def _misses_mixed_labels(self, placed: Placed) -> bool:
        """Report a layer that would pass labels on without what augmentation mixes them with."""
        mixed = [name for name in placed.bottoms if name in self._mixed]
        if not mixed or not placed.layer.tops or isinstance(placed.layer, Loss | Metric):
            return False
        message = f'{placed.layer.name}: "{mixed[0]}" holds labels that data.augment mixes, which losses must read'
        self._report((*placed.path, "bottom"), f"{message} without a {placed.layer.type} between; remove it")
        return True

    def _confuses_labels(self, placed: Placed, bottoms: Sequence[ir.Value]) -> bool:
        """Report class labels where a layer computes with numbers, and the other way round."""
        layer, path = placed.layer, (*placed.path, "bottom")
        declared = self._loaded.spec.inputs
        for index, (name, value) in enumerate(zip(placed.bottoms, bottoms, strict=True)):
            wants_labels = layer.takes_labels and index == len(bottoms) - 1
            if value.dtype == ir.DataType.INT32 and not wants_labels and not layer.reads_labels:
                use = "takes after the scores: [scores, labels]" if layer.takes_labels else "does not compute with"
                self._report(path, f'{layer.name}: "{name}" holds class labels, which {layer.type} {use}')
                return True
            if value.dtype != ir.DataType.INT32 and wants_labels:
                labels = next((f'"{n}"' for n, d in declared.items() if d.classes), "an input with classes")
                message = f'"{name}" holds {sample(value)} values a sample, but {layer.type} takes class labels last'
                self._report(path, f"{layer.name}: {message}; give {labels}")
                return True
        if layer.takes_labels:
            classes, scores = declared[str(placed.bottoms[-1])].classes or 0, list(shape_of(bottoms[0]))
            has_places = len(scores) == 2 or len(shape_of(bottoms[-1])) > 1
            if has_places and isinstance(scores[1], int) and scores[1] < classes:
                remedy = f'set num_output: {classes}, or correct the classes of "{placed.bottoms[-1]}"'
                message = f'"{placed.bottoms[0]}" gives {scores[1]} scores for {classes} classes'
                if placed.bottoms not in self._too_few:  # a metric beside its loss would only say it again
                    self._report(path, f"{layer.name}: {message}; {remedy}")
                self._too_few.add(placed.bottoms)
                return True
        return False

    def _mean_of_tops(self, layer: Layer, tops: Sequence[ir.Value]) -> Mean:
        """Return the sum of all values of a sample's tops, averaged over the batch: what `loss_weight` weighs."""
        g = self._net.g
        with g.origin(Origin(layer.name, "weight")), g.arithmetic():
            sums = [g.ReduceSum(top, keepdims=0) for top in tops]
            count = self._net.batch_count(tops[0])
            return Mean(functools.reduce(g.Add, sums) / count, count)

    def _kind(self, placed: Placed) -> str:
        """Return what the manifest calls what a loss or metric measures."""
        if isinstance(placed.layer, Metric):
            return f"side_{placed.layer.kind}" if placed.is_companion else placed.layer.kind
        return "fuse_loss" if placed.fused else "side_loss" if placed.is_companion else "loss"

    def _term(self, placed: Placed, name: str, mean: Mean) -> None:
        layer, g = placed.layer, self._net.g
        self._network.terms.append(Term(name, self._kind(placed), layer.name, mean))
        if not layer.is_loss:
            return
        with g.origin(Origin(layer.name, "weight")), g.arithmetic():
            dropped = placed.is_companion and not self._loaded.trains_sides
            weight: ir.Value | float = 0.0 if dropped else layer.loss_weight
            for side in () if dropped else placed.sides:
                factor = side.loss_weight.value(g, self._net.progress)
                weight = 0.0 if 0.0 in (factor, weight) else factor * weight
            value = mean.value
            if placed.sides and placed.sides[-1].threshold is not None:
                value = g.Relu(value - placed.sides[-1].threshold)
        self._parts.append((value, weight))
        if isinstance(weight, ir.Value) or weight > 0.0:
            self._means.append(mean.weight)

    def _penalties(self) -> None:
        """Add the penalties of parameters to the objective, one term a layer."""
        g = self._net.g
        penalised: dict[str, list[ir.Value]] = {}
        for tensor in self._net.state.values():
            l1, l2 = tensor.declared.l1, tensor.declared.l2
            w = self._net.inputs[tensor.name]
            with g.origin(Origin(tensor.layer, "weight")), g.arithmetic():
                if l1:
                    penalised.setdefault(tensor.layer, []).append(g.ReduceSum(g.Abs(w), keepdims=0) * l1)
                if l2:
                    penalised.setdefault(tensor.layer, []).append(g.ReduceSum(w * w, keepdims=0) * l2)
        samples = self._net.batch_count(next(iter(self._network.batch.values())))
        for layer, parts in penalised.items():
            with g.origin(Origin(layer, "weight")):
                value = functools.reduce(g.Add, parts)
            self._parts.append((value, 1.0))
            self._network.terms.append(Term(f"{layer}.penalty", "penalty", layer, Mean(value, samples)))

    def _total(self) -> None:
        """Sum the losses times their weights: the objective."""
        g = self._net.g
        with g.origin(Origin("total")), g.arithmetic():
            total: ir.Value | None = None
            for value, weight in self._parts:
                if isinstance(weight, float) and weight == 0.0:
                    continue  # monitored only: neither a gradient, nor a NaN of it, may reach the total
                part = value if isinstance(weight, float) and weight == 1.0 else value * weight
                total = part if total is None else total + part
        if total is None:
            message = "every loss has the weight 0, so there is nothing to train; give one a loss_weight"
            raise SpecError([self._loaded.at(("layers",), message, key=True)])
        with g.origin(Origin("total")):
            # Means that weigh alike add up exactly over a split; else a batch counts by its samples.
            samples = self._net.batch_count(next(iter(self._network.batch.values())))
            weight = self._means[0] if len(self._means) == 1 else samples
            self._network.terms.insert(0, Term("total", "total", None, Mean(total, weight)))

    def _warn(self) -> None:
        """Warn of what is allowed but hardly meant."""
        spec = self._loaded.spec
        if spec.reinit and spec.init_from is None:
            message = "reinit: has no effect without init_from, since all weights are drawn anew then; add init_from"
            self._network.warnings.append(self._loaded.at(("reinit",), message, key=True))
        for placed in self._wiring.placed:
            layer, name = placed.layer, placed.layer.name
            activation = layer.activation if isinstance(layer, Loss) else None
            if activation is not None:
                applied: type[Layer] = Softmax if activation == "logits" else Sigmoid
                below = next((p for p in self._wiring.placed if p.layer.name == placed.bottoms[0]), None)
                if below is not None and isinstance(below.layer, applied):
                    own = applied.__name__.lower()
                    message = f'{name}: {layer.type} applies a {own} itself; give it "{below.bottoms[0]}"'
                    self._network.warnings.append(self._loaded.at(placed.path, message))
            is_end = layer.is_loss or placed.is_objective
            unread = [] if is_end else [top for top in layer.tops if not self._wiring.readers(top)]
            if unread and (placed.is_companion or len(self._network.outputs) > 1):
                which = "its top" if len(layer.tops) == 1 else f"its top {unread[0]}"
                message = f"{name}: no layer reads {which}, so it is " + (
                    "of no use in this side" if placed.is_companion else "one more output of the model"
                )
                self._network.warnings.append(self._loaded.at(placed.path, message))
        self._network.warnings += label_warnings(self._loaded, self._wiring)

    def _report(self, path: tuple[str | int, ...], message: str) -> None:
        self._diagnostics.append(self._loaded.at(path, message))
