"""Evaluation: exact means over a whole split, of a state, a run, or an exported model alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from netc_runtime.arrays import Array
from netc_runtime.artifact import Artifact
from netc_runtime.counts import Counted, Counts
from netc_runtime.data import open_source
from netc_runtime.data.base import Source, Split
from netc_runtime.data.batches import check_fit, evaluation_batches, evaluation_size, image_size, sample_count
from netc_runtime.engines import load_program
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.interface import TensorSpec
from netc_runtime.jsonfields import without_non_finite
from netc_runtime.model import Model, class_scores, labels_of, probabilities
from netc_runtime.run import RunFolder
from netc_runtime.session import Host, Program
from netc_runtime.views import View, averaged, views_of


@dataclass(frozen=True)
class EvaluationReport:
    """What an evaluation of the test split found. `step` and `checkpoint` are None for a model.onnx.

    `metrics` holds the one number of every metric, `counts` all of those that are made of a confusion matrix.
    """

    metrics: Mapping[str, float]
    samples: int
    device: str
    step: int | None = None
    checkpoint: Path | None = None
    counts: tuple[Counted, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data for JSON: NaN is None, and `counts`, by name, is there if the spec has some."""
        plain: dict[str, Any] = {
            **vars(self),
            "metrics": dict(self.metrics),
            "checkpoint": None if self.checkpoint is None else str(self.checkpoint),
        }
        del plain["counts"]
        if self.counts:
            plain["counts"] = {counted.name: counted.as_dict() for counted in self.counts}
        return {key: without_non_finite(value) for key, value in plain.items()}


class Means:
    """Exact means of metrics over batches: sum(mean * weight) / sum(weight)."""

    def __init__(self, metrics: Sequence[TensorSpec]) -> None:
        self._weights = {spec.name: str(spec.weight) for spec in metrics}
        self._sums = dict.fromkeys(self._weights, (0.0, 0.0))
        self.outputs = tuple(dict.fromkeys((*self._weights, *self._weights.values())))
        """The names of the outputs that `add` wants."""

    def add(self, results: Mapping[str, Array]) -> None:
        """Count one batch."""
        for name, (total, weight) in self._sums.items():
            share = float(results[self._weights[name]])
            if share != 0:  # a mean of nothing is 0/0
                self._sums[name] = (total + float(results[name]) * share, weight + share)

    @property
    def values(self) -> dict[str, float]:
        """The means; NaN for a metric without any weight."""
        return {name: total / weight if weight else float("nan") for name, (total, weight) in self._sums.items()}


@dataclass(frozen=True)
class Measured:
    """The one number of every metric over a split, and all of those that are made of a confusion matrix."""

    metrics: Mapping[str, float]
    counts: tuple[Counted, ...]


class Evaluator:
    """`eval.onnx`, loaded once and run with one state after another.

    `batch_size` is how many samples run at once.
    """

    def __init__(self, artifact: Artifact, host: Host) -> None:
        graph = artifact.graph("eval")
        self._program = load_program(artifact.file("eval"), host, graph, artifact.content("eval"))
        self._inputs, self._packing = graph.inputs_of("batch"), artifact.packing
        self._metrics = artifact.metrics
        self.batch_size = evaluation_size(self._inputs)
        self.metrics_declared = graph.outputs_of("metric")
        self.device = self._program.device
        counted = (metric.name for metric in artifact.metrics if metric.is_counted)
        self.metric_names = (*(spec.name for spec in self.metrics_declared), *counted)
        self.output_names = tuple(spec.name for spec in graph.outputs_of("output"))

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The batch inputs, for `check_fit`."""
        return self._inputs

    def metrics(
        self, state: Mapping[str, Array], split: Split, before_batch: Callable[[], None] = lambda: None
    ) -> Mapping[str, float]:
        """Return the number of every metric over a split; what `before_batch` raises ends the evaluation."""
        return self.measure(state, split, before_batch=before_batch).metrics

    def measure(
        self,
        state: Mapping[str, Array],
        split: Split,
        classes: tuple[str, ...] = (),
        before_batch: Callable[[], None] = lambda: None,
    ) -> Measured:
        """Return the exact mean of every metric, and all counts; `classes` are the names that the data has."""
        means, counts = Means(self.metrics_declared), Counts(self._metrics)
        for results in self.run(state, split, (*means.outputs, *counts.outputs), before_batch):
            means.add(results)
            counts.add(results)
        counted = counts.results(classes)
        return Measured(means.values | {count.name: count.value for count in counted}, counted)

    def run(
        self,
        state: Mapping[str, Array],
        split: Split,
        outputs: Sequence[str],
        before_batch: Callable[[], None] = lambda: None,
    ) -> Iterator[dict[str, Array]]:
        """Yield the named outputs for one batch of the split after another, in order."""
        self._program.fix(self._packing.pack(state))
        for batch in evaluation_batches(split, self._inputs, self.batch_size):
            before_batch()
            yield self._program(batch, outputs)


class Accuracy:
    """The fraction of labels whose class has the highest score, counted over batches.

    As the compiled Accuracy counts it: an equal score of another class, or a NaN, counts against the label; a label
    that is `ignored` does not count.
    """

    def __init__(self, ignored: Sequence[int] = ()) -> None:
        self._ignored = list(ignored)
        self._right = 0
        self._count = 0

    def add(self, scores: Array, labels: Array) -> None:
        """Count one batch: scores [n, classes] and labels [n], or [n, classes, H, W] and [n, H, W]."""
        classes = scores.shape[1]
        counts = ~np.isin(labels, self._ignored)
        known = counts & (labels >= 0) & (labels < classes)  # the data may have labels that the model has no class for
        own = np.take_along_axis(scores, np.where(known, labels, 0).astype(np.intp)[:, np.newaxis], axis=1)
        below = (scores < own).sum(axis=1)
        self._right += int(np.count_nonzero(known & (below >= classes - 1)))
        self._count += int(np.count_nonzero(counts))

    @property
    def value(self) -> float:
        """Between 0 and 1; NaN where no label counts."""
        return self._right / self._count if self._count else float("nan")


def evaluate(artifact: Artifact, state: Mapping[str, Array], source: Source, host: Host) -> Mapping[str, float]:
    """Return the metrics of a state over the test split of `source`; raises DriverError."""
    evaluator = Evaluator(artifact, host)
    check_fit(source, evaluator.inputs)
    return evaluator.metrics(state, source.test)


def evaluate_run(
    run: Path,
    checkpoint: str = "last",
    host: Host | None = None,
    data_overrides: Mapping[str, Any] | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> EvaluationReport:
    """Evaluate a checkpoint ("last", "best" or a path) of a run folder on its test split.

    `data_overrides` replace keys of the spec's `data` section (`path` on another machine). Raises DriverError.
    """
    folder = RunFolder(run)
    artifact = folder.load_artifact()
    path, found = folder.find(checkpoint, artifact, warn)
    size = image_size(artifact.graph("eval").inputs_of("batch"))
    source = open_source(data_section(artifact.spec, data_overrides), size)
    evaluator = Evaluator(artifact, host or Host())
    check_fit(source, evaluator.inputs)
    measured = evaluator.measure(found.state, source.test, source.classes)
    return EvaluationReport(
        measured.metrics,
        sample_count(source.test),
        evaluator.device,
        found.position.step,
        path,
        measured.counts,
    )


def evaluate_run_views(
    run: Path,
    checkpoint: str = "last",
    host: Host | None = None,
    data_overrides: Mapping[str, Any] | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> EvaluationReport:
    """Measure the top-1 accuracy of a checkpoint with probabilities averaged over the declared test-time views.

    Raises DriverError (2) if none are declared, or the network does not give one score for each class.
    """
    folder = RunFolder(run)
    artifact = folder.load_artifact()
    path, found = folder.find(checkpoint, artifact, warn)
    data = data_section(artifact.spec, data_overrides)
    graph, host = artifact.graph("eval"), host or Host()
    program = load_program(artifact.file("eval"), host, graph, artifact.content("eval"))
    program.fix(artifact.packing.pack(found.state))
    scores = class_scores(run, graph.outputs_of("output"))
    report = _accuracy(run, program, scores, data, views_of(data))
    return replace(report, step=found.position.step, checkpoint=path)


def evaluate_model(
    model: Path,
    host: Host | None = None,
    data_overrides: Mapping[str, Any] | None = None,
    test_views: bool = False,
) -> EvaluationReport:
    """Measure the top-1 accuracy of an exported model on the test split of the data that it was trained on.

    A spec may define its accuracy otherwise, but the model no longer knows how. With `test_views`, probabilities are
    averaged over the views that its `data` section declares. Raises DriverError (2) if its data has no labels, it does
    not give one score for each class, or there are no such views.
    """
    loaded = Model(model, host or Host())
    data = {**loaded.data, **(data_overrides or {})}
    views = views_of(data) if test_views else ()
    return _accuracy(model, loaded.program, loaded.class_scores, data, views)


def _accuracy(
    what: Path, program: Program, scores: TensorSpec, data: Mapping[str, Any], views: Sequence[View]
) -> EvaluationReport:
    """Return the top-1 accuracy of a program on the test split, of its scores or of averages over views."""
    inputs = program.interface.inputs_of("batch")
    source = open_source(data, image_size(inputs))
    check_fit(source, inputs)
    labels = labels_of(source.test, scores)
    if labels is None:
        raise DriverError(f"{what} cannot be evaluated alone: its data has no labels", ExitCode.USAGE)
    image = next(spec.name for spec in inputs if spec.classes is None)
    accuracy, start = Accuracy(scores.ignored), 0
    for batch in evaluation_batches(source.test, inputs, evaluation_size(inputs)):

        def run(images: Array, batch: Mapping[str, Array] = batch) -> Array:
            return program({**batch, image: images}, (scores.name,))[scores.name]

        if views:
            result = averaged(lambda images: probabilities(run(images), scores), batch[image], views)
        else:
            result = run(batch[image])
        accuracy.add(result, labels[start : start + len(result)])
        start += len(result)
    return EvaluationReport({"top-1 accuracy": accuracy.value}, start, program.device)


def data_section(spec: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the `data` section of a resolved spec with `overrides` applied; raises DriverError (2) without one."""
    data = spec.get("data")
    if not isinstance(data, dict):
        raise DriverError("the spec has no `data` section; name a source there", ExitCode.USAGE)
    return {**data, **(overrides or {})}
