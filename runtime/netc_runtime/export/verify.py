"""The proof of an exported model: it and eval.onnx run over the whole test split."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from netc_runtime.arrays import Array
from netc_runtime.data.base import Split
from netc_runtime.data.batches import evaluation_batches, sample_count
from netc_runtime.errors import DamagedFileError, DriverError
from netc_runtime.evaluate import Accuracy, Evaluator, Means
from netc_runtime.export.probabilities import SUFFIX
from netc_runtime.export.trained import Trained
from netc_runtime.interface import TensorSpec
from netc_runtime.model import Model, activated, classifies, labels_of
from netc_runtime.session import Host


@dataclass(frozen=True)
class Agreement:
    """How an exported model compares with eval.onnx over the test split.

    `difference` is the largest absolute difference of an output, `largest` the largest absolute output of eval.onnx,
    and `relative` the largest difference of an output as a share of the largest absolute value of the same output,
    which is `output`: of several, it need not be the one that `difference` or `largest` is of.
    `accuracy` is the spec's first accuracy as eval.onnx defines it, None where the spec has none. `before` and `after`
    are the top-1 accuracies of the scores of eval.onnx and of the model, None without scores or labels.
    """

    samples: int
    difference: float
    largest: float
    relative: float
    output: str
    accuracy: float | None
    before: float | None
    after: float | None


class _Output:
    """One output of a model beside that of eval.onnx, which is called the same before it becomes probabilities."""

    def __init__(self, spec: TensorSpec, reference: TensorSpec) -> None:
        self.spec, self.reference = spec, reference
        self._changed = spec.activation != reference.activation
        self.difference = self.largest = 0.0

    def add(self, result: Array, reference: Array) -> None:
        """Compare one batch."""
        expected = activated(reference, self.reference.activation) if self._changed else reference
        # np.maximum, unlike max, lets a NaN through.
        self.difference = float(np.maximum(self.difference, np.abs(result - expected).max(initial=0)))
        self.largest = float(np.maximum(self.largest, np.abs(expected).max(initial=0)))

    @property
    def relative(self) -> float:
        if self.largest == 0:
            return 0.0 if self.difference == 0 else math.inf
        return self.difference / self.largest


def compare(trained: Trained, model: Model, split: Split, host: Host) -> Agreement:
    """Run the model and eval.onnx over a split; raises DamagedFileError if they have no output in common."""
    artifact = trained.artifact
    evaluator = Evaluator(artifact, host)
    references = {spec.name: spec for spec in artifact.graph("eval").outputs_of("output")}
    outputs = [
        _Output(spec, references[name])
        for spec in model.outputs
        if (name := spec.name if spec.name in references else spec.name.removesuffix(SUFFIX)) in references
    ]
    if not outputs:
        raise DamagedFileError(f"{artifact.folder}: eval.onnx and infer.onnx have no output in common")
    scores = next((output for output in outputs if classifies(output.reference)), None)
    labels = None if scores is None else labels_of(split, scores.reference)
    ignored = () if scores is None else scores.reference.ignored
    before, after = Accuracy(ignored), Accuracy(ignored)
    means = Means([spec for spec in evaluator.metrics_declared if spec.name in artifact.metrics_of("accuracy")[:1]])
    start = 0
    wanted = [output.reference.name for output in outputs]
    batches = evaluation_batches(split, model.inputs, evaluator.batch_size)
    for batch, reference in zip(batches, evaluator.run(trained.state, split, (*wanted, *means.outputs)), strict=True):
        results = model.program(batch, [output.spec.name for output in outputs])
        for output in outputs:
            output.add(results[output.spec.name], reference[output.reference.name])
        means.add(reference)
        if scores is not None and labels is not None:
            size = len(reference[scores.reference.name])
            before.add(reference[scores.reference.name], labels[start : start + size])
            after.add(results[scores.spec.name], labels[start : start + size])
            start += size
    # np.argmax, unlike max, finds a NaN.
    worst = outputs[int(np.argmax([output.relative for output in outputs]))]
    counted = scores is not None and labels is not None
    return Agreement(
        sample_count(split),
        _most(output.difference for output in outputs),
        _most(output.largest for output in outputs),
        worst.relative,
        worst.spec.name,
        next(iter(means.values.values()), None),
        before.value if counted else None,
        after.value if counted else None,
    )


def require(agreement: Agreement, model: Model, limit: float | None, beyond: list[str]) -> None:
    """Raise DriverError (1) if a model disagrees with eval.onnx, or without a limit gives what is not finite.

    `beyond` are constants that its precision cannot hold.
    """
    if agreement.relative <= (np.finfo(np.float64).max if limit is None else limit):
        return
    reason = f"; float16 cannot hold {', '.join(beyond)}" if beyond else ""
    share = f", {agreement.output} by a share of {agreement.relative:.3g}"
    share = "" if limit is None else f"{share} where {limit:g} is allowed"
    raise DriverError(
        f"the exported model disagrees with eval.onnx: an output differs by {agreement.difference:.3g}, outputs reach "
        f"{agreement.largest:.3g}{share}{reason}; {model.path} was not written"
    )


def _most(values: Iterable[float]) -> float:
    return float(np.max(list(values)))  # which, unlike max, lets a NaN through
