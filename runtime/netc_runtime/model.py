"""An exported model.onnx: one file that says what to feed it."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from netc_runtime.arrays import Array, shape_text
from netc_runtime.counts import fitting_names
from netc_runtime.data.base import Samples, Split
from netc_runtime.engines import load_program
from netc_runtime.errors import DriverError, ExitCode, NotExportedError
from netc_runtime.external import Weights, read_weights
from netc_runtime.files import read_bounded
from netc_runtime.interface import TensorSpec
from netc_runtime.jsonfields import MalformedError, parse_object
from netc_runtime.seal import require_seal
from netc_runtime.session import Host

DATA_KEY = "netc.data"
INTERFACE_KEY = "netc.interface"
RANGE_KEY = "netc.value_range"
CLASSES_KEY = "netc.classes"

_LIMIT = 2 << 30  # what one protobuf message can hold

T = TypeVar("T")


class Model:
    """A model.onnx, loaded.

    `data` is the spec's data section, `value_range` the smallest and largest raw value to feed, `classes` a name for
    each score (nothing if it does not classify). `content` holds the bytes of a model that is not written yet, and
    `weights` the file beside it, if any. Raises DriverError: 2 if the file does not exist, 3 without ONNX Runtime, 1 if
    netc did not export it.
    """

    def __init__(self, path: Path, host: Host, content: bytes | None = None, weights: Weights | None = None) -> None:
        self.path = path
        if content is None and not path.is_file():
            is_lost = path.name == "model.onnx" and (path.parent / "artifact").is_dir()
            remedy = (
                f"write it with: netc export {path.parent}" if is_lost else "name an exported model or a run folder"
            )
            raise DriverError(
                f"{path} {'is not a file' if path.exists() else 'does not exist'}; {remedy}", ExitCode.USAGE
            )
        if content is None:
            content = read_bounded(path, _LIMIT)
            require_seal(path, content)
            weights = read_weights(path, content)
        self.program = load_program(path, host, content=content, weights=weights)
        self.inputs = self.program.interface.inputs_of("batch")
        self.outputs = self.program.interface.outputs_of("output")
        self.data: Mapping[str, Any] = self._read(DATA_KEY, parse_object)
        self.value_range = self._read(RANGE_KEY, _parse_range)
        self.classes = self._read(CLASSES_KEY, _parse_classes)
        if self.classes != class_names(self.classes, self.outputs):
            raise NotExportedError(path, CLASSES_KEY)

    def _read(self, key: str, parse: Callable[[str], T]) -> T:
        try:
            return parse(self.program.metadata.get(key, ""))
        except (ValueError, RecursionError) as error:  # MalformedError and JSONDecodeError are ValueErrors
            raise NotExportedError(self.path, key) from error

    @property
    def class_scores(self) -> TensorSpec:
        """The first output with scores of classes; raises DriverError (2) if there is none."""
        return class_scores(self.path, self.outputs)


def class_scores(path: Path, outputs: Sequence[TensorSpec]) -> TensorSpec:
    """Return the first output with scores of classes; raises DriverError (2) about the model `path` without one."""
    for spec in outputs:
        if classifies(spec):
            return spec
    shapes = ", ".join(f"{spec.name} {json.dumps(spec.shape)}" for spec in outputs)
    raise DriverError(
        f"{path} has no class scores: none of its outputs ({shapes}) scores the classes of a label input, as "
        f"the bottom of a loss on labels does; run it with ONNX Runtime to see its outputs",
        ExitCode.USAGE,
    )


def class_names(known: tuple[str, ...], outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Return a name for each score of the first output with scores: the known ones where they fit, else numbers."""
    for spec in outputs:
        if classifies(spec):
            return fitting_names(known, int(spec.shape[1]))
    return ()


def _parse_range(text: str) -> tuple[float, float]:
    match json.loads(text):
        case [int() | float() as low, int() | float() as high] if -math.inf < low < high < math.inf:
            return float(low), float(high)
    raise MalformedError("it should be [low, high]")


def _parse_classes(text: str) -> tuple[str, ...]:
    names = json.loads(text)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MalformedError("it should be a list of names")
    return tuple(names)


def classifies(spec: TensorSpec) -> bool:
    """Whether an output scores the classes of a label input: [N, classes], or [N, classes, H, W] for a class map."""
    if spec.label is None or len(spec.shape) not in (2, 4):
        return False
    return all(isinstance(axis, int) and axis > 0 for axis in spec.shape[1:])


def probabilities(result: Array, scores: TensorSpec) -> Array:
    """Return what an output [n, classes, ...] means: logits after a softmax over the classes, all else as it is."""
    return activated(result, "logits") if scores.activation == "logits" else result


def activated(result: Array, activation: str | None) -> Array:
    """Return what a loss makes of an output [n, classes, ...]: "logits" a softmax over axis 1, "sigmoid" of each."""
    if activation == "sigmoid":
        return np.asarray((1 + np.tanh(result / 2)) / 2)  # which overflows nowhere
    if activation != "logits":
        return result
    powers = np.exp(result - result.max(axis=1, keepdims=True))
    shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares


def labels_of(split: Split, scores: TensorSpec) -> Samples | None:
    """Return the labels that an output scores, under the name of its label input or else as `label`, if any.

    Raises DriverError (2) if they are not one label for a sample, or one for each position of a class map.
    """
    labels = split.get(scores.label or "label", split.get("label"))
    if labels is not None and labels.shape[1:] != scores.shape[2:]:
        raise DriverError(
            f'the data source gives the labels of a sample as {shape_text(labels.shape[1:])}, but "{scores.name}" '
            f"scores {shape_text(scores.shape[2:])}; evaluate the model on data like that it was trained on",
            ExitCode.USAGE,
        )
    return labels
