"""Prediction with an exported model: image files, .npy arrays, or samples of the model's own data."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from netc_runtime.arrays import Array, first_bad_sample, shape_text
from netc_runtime.artifact import TensorSpec
from netc_runtime.data import open_source, source_class
from netc_runtime.data.base import Source
from netc_runtime.data.batches import check_fit, sample_count
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.files import storage_errors
from netc_runtime.images import read_image
from netc_runtime.model import Model
from netc_runtime.session import Host

_INDEX = re.compile(r"(train|test):(\d{1,12})(?:-(\d{1,12}))?")
_BATCH = 256


@dataclass(frozen=True)
class Prediction:
    """The most probable class of one sample.

    `probability` is between 0 and 1; `truth` and `truth_name` are the sample's own label where it is known.
    """

    input: str
    index: int
    name: str
    probability: float
    truth: int | None = None
    truth_name: str | None = None


@dataclass(frozen=True)
class _Sample:
    input: str
    values: Array
    truth: int | None = None


def predict(
    model: Path,
    inputs: Sequence[str],
    host: Host | None = None,
    data_overrides: Mapping[str, Any] | None = None,
) -> list[Prediction]:
    """Classify inputs with model.onnx: an image file, a .npy file (a sample or a batch), `test:17`, `train:0-4`.

    Images are converted to the model's channels, size and range of raw values; arrays are taken as they are.
    Raises DriverError: 2 for an input that does not exist or does not fit, 1 for a damaged one, 3 for an image
    without Pillow.
    """
    loaded = Model(model, host or Host())
    if len(loaded.inputs) != 1:
        taken = ", ".join(spec.name for spec in loaded.inputs)
        raise DriverError(f"{model} takes {len(loaded.inputs)} inputs ({taken}): predict feeds one", ExitCode.USAGE)
    reader = _Reader(loaded.inputs[0], {**loaded.data, **(data_overrides or {})})
    samples = [sample for given in inputs for sample in reader.read(given)]
    scores = loaded.class_scores
    names = reader.class_names(int(scores.shape[1]))
    predictions: list[Prediction] = []
    for start in range(0, len(samples), _BATCH):
        part = samples[start : start + _BATCH]
        batch = np.stack([sample.values for sample in part]).astype(loaded.inputs[0].dtype)
        result = loaded.program({loaded.inputs[0].name: batch}, (scores.name,))[scores.name]
        probabilities = _softmax(result) if scores.activation == "logits" else result
        for sample, row in zip(part, probabilities, strict=True):
            index = int(row.argmax())
            truth = None if sample.truth is None else _name(names, sample.truth)
            predictions.append(Prediction(sample.input, index, names[index], float(row[index]), sample.truth, truth))
    return predictions


class _Reader:
    """Turns what the user names into raw samples of the model's input; opens the data only if an index asks."""

    def __init__(self, spec: TensorSpec, data: Mapping[str, Any]) -> None:
        self._spec = spec
        self._data = data
        self._source: Source | None = None

    def read(self, name: str) -> Iterator[_Sample]:
        match = _INDEX.fullmatch(name)
        if match:
            yield from self._from_source(match[1], int(match[2]), int(match[3] or match[2]))
        elif not Path(name).is_file():
            raise DriverError(
                f"{name} does not exist or is not a file; give an image, a .npy file, or a sample such as test:17",
                ExitCode.USAGE,
            )
        elif name.endswith(".npy"):
            yield from self._from_array(Path(name))
        else:
            low, high = source_class(self._data).value_range
            yield _Sample(name, read_image(Path(name), self._spec.sample_shape, low, high))

    def class_names(self, count: int) -> tuple[str, ...]:
        """Return the names of the classes, which are numbers where nobody knows better."""
        if self._source is not None:
            names = self._source.classes
        else:
            names = source_class(self._data).class_names(str(self._data["source"]))
        return names if len(names) == count else tuple(map(str, range(count)))

    def _from_source(self, part: str, first: int, last: int) -> Iterator[_Sample]:
        if self._source is None:
            self._source = open_source(self._data)
            check_fit(self._source, (self._spec,))
        split = self._source.split(part)
        count = sample_count(split)
        if not first <= last < count:
            asked = f"{part}:{first}" if first == last else f"{part}:{first}-{last}"
            raise DriverError(
                f"{asked} is out of range: the {part} split has the samples 0 to {count - 1}",
                ExitCode.USAGE,
            )
        values, labels = split[self._spec.field or self._spec.name], split.get("label")
        for index in range(first, last + 1):
            yield _Sample(f"{part}:{index}", values[index], None if labels is None else int(labels[index]))

    def _from_array(self, path: Path) -> Iterator[_Sample]:
        try:
            # Mapped, so that a header claiming more than the file holds fails instead of allocating; and unlike
            # np.load this reads arrays alone, never archives or pickles.
            with storage_errors("read", path):
                array: Array = np.lib.format.open_memmap(path, mode="r")
        except ValueError as error:
            raise DamagedFileError(f"{path} is not an array that numpy can read: {error}") from error
        sample = self._spec.sample_shape
        if not np.issubdtype(array.dtype, np.number) or np.issubdtype(array.dtype, np.complexfloating):
            raise DriverError(f"{path} holds {array.dtype} values; real numbers are needed", ExitCode.USAGE)
        plain = sample[1:] if sample[:1] == (1,) else sample  # a grey image may leave out its channel
        single = array.shape in (sample, plain)
        if not single and (array.ndim == 0 or array.shape[1:] not in (sample, plain)):
            raise DriverError(
                f"{path} holds an array {shape_text(array.shape)}; the model takes one sample {shape_text(sample)} "
                f"or a batch {shape_text(('N', *sample))}",
                ExitCode.USAGE,
            )
        batch = array.reshape((1 if single else len(array), *sample))
        bad = first_bad_sample(batch)
        if bad is not None:
            raise DriverError(f"sample {bad} of {path} has a value that is not finite")
        for index, values in enumerate(batch):
            yield _Sample(str(path) if single else f"{path}[{index}]", values)


def _name(names: tuple[str, ...], index: int) -> str:
    # The data may have labels that the model has no class for.
    return names[index] if 0 <= index < len(names) else str(index)


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: Array = powers / powers.sum(axis=1, keepdims=True)
    return result
