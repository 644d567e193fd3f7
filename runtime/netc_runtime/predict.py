"""Prediction with an exported model: image files, .npy arrays, or samples of the model's own data."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from netc_runtime.arrays import Array, first_bad_sample, shape_text
from netc_runtime.classmap import ClassMap
from netc_runtime.data import open_source
from netc_runtime.data.base import Source
from netc_runtime.data.batches import check_fit, evaluation_size, image_size, sample_count
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.images import read_image
from netc_runtime.interface import TensorSpec
from netc_runtime.model import Model, labels_of, probabilities
from netc_runtime.npyfile import map_array
from netc_runtime.session import Host
from netc_runtime.views import averaged, views_of

_INDEX = re.compile(r"(train|test):(\d{1,12})(?:-(\d{1,12}))?")


@dataclass(frozen=True)
class Prediction:
    """The most probable class of one sample.

    `probability` is between 0 and 1; `truth` and `truth_name` are the sample's own label where it is known. Over masks
    of dropout, `probability` is the mean and `deviation` the standard deviation; without masks that is None.
    """

    input: str
    index: int
    name: str
    probability: float
    truth: int | None = None
    truth_name: str | None = None
    deviation: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data; `deviation` is there if there is one."""
        return {key: value for key, value in vars(self).items() if key != "deviation" or value is not None}

    def as_text(self) -> str:
        """Return it as one line."""
        verdict = "right" if self.truth == self.index else f"wrong, it is {self.truth_name}"
        spread = "" if self.deviation is None else f" +- {self.deviation:.3f}"
        return f"{self.input}  {self.name}  {self.probability:.3f}{spread}" + (
            "" if self.truth is None else f"  ({verdict})"
        )


@dataclass(frozen=True)
class Sample:
    """One raw sample: what the user calls it, its values, and its own label or map of labels where that is known."""

    input: str
    values: Array
    truth: Array | None = None


def predict(
    model: Path,
    inputs: Sequence[str],
    host: Host | None = None,
    data_overrides: Mapping[str, Any] | None = None,
    test_views: bool = False,
) -> list[Prediction | ClassMap]:
    """Classify inputs with model.onnx: an image file, a .npy file (a sample or a batch), `test:17`, `train:0-4`.

    Images are converted to the model's channels, size and range of raw values; arrays are taken as they are. A model
    with scores for each position gives a ClassMap for each input, all others a Prediction. With `test_views`,
    probabilities are averaged over the views that its `data` section declares. Raises DriverError: 2 for an input that
    does not exist or does not fit, or without such views, 1 for a damaged or empty one, 3 for an image without Pillow.
    """
    loaded = Model(model, host or Host())
    spec, scores = only_input(model, loaded.inputs), loaded.class_scores
    data = {**loaded.data, **(data_overrides or {})}
    views = views_of(data) if test_views else ()
    reader = Reader(spec, scores, data, loaded.value_range)
    samples = [sample for given in inputs for sample in reader.read(given)]
    size = evaluation_size(loaded.inputs)

    def run(images: Array) -> Array:
        return loaded.program({spec.name: images}, (scores.name,))[scores.name]

    predictions: list[Prediction | ClassMap] = []
    for start in range(0, len(samples), size):
        part = samples[start : start + size]
        batch = np.stack([sample.values for sample in part]).astype(spec.dtype)
        if views:
            result = averaged(lambda images: probabilities(run(images), scores), batch, views)
        else:
            result = run(batch)
            result = probabilities(result, scores) if result.ndim == 2 else result
        for sample, own in zip(part, result, strict=True):
            predictions.append(described(sample, own, loaded.classes, scores.ignored))
    return predictions


def splits_named(inputs: Sequence[str]) -> set[str]:
    """Return the splits of the data of which inputs name samples."""
    return {match[1] for match in map(_INDEX.fullmatch, inputs) if match}


def only_input(model: Path, inputs: Sequence[TensorSpec]) -> TensorSpec:
    """Return the input that samples are fed to; raises DriverError (2) if there are several."""
    if len(inputs) != 1:
        taken = ", ".join(spec.name for spec in inputs)
        raise DriverError(f"{model} takes {len(inputs)} inputs ({taken}): predict feeds one", ExitCode.USAGE)
    return inputs[0]


def described(
    sample: Sample, values: Array, names: tuple[str, ...], ignored: Sequence[int], deviations: Array | None = None
) -> Prediction | ClassMap:
    """Return what `values` [classes] or [classes, H, W] say of a sample, with their deviations over masks if any."""
    if values.ndim > 1:
        return ClassMap.of(sample.input, values, names, sample.truth, ignored, deviations)
    index = int(values.argmax())
    truth = None if sample.truth is None or int(sample.truth) in ignored else int(sample.truth)
    return Prediction(
        sample.input,
        index,
        names[index],
        float(values[index]),
        truth,
        None if truth is None else _name(names, truth),
        None if deviations is None else float(deviations[index]),
    )


class Reader:
    """Turns what the user names into raw samples of the model's input; opens the data only if an index asks."""

    def __init__(
        self, spec: TensorSpec, scores: TensorSpec, data: Mapping[str, Any], value_range: tuple[float, float]
    ) -> None:
        self._spec = spec
        self._scores = scores
        self._value_range = value_range
        self._data = data
        self._source: Source | None = None

    def read(self, name: str) -> Iterator[Sample]:
        """Yield the samples that `name` stands for; raises DriverError as `predict` says."""
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
            yield Sample(name, read_image(Path(name), self._spec.sample_shape, *self._value_range))

    def _from_source(self, part: str, first: int, last: int) -> Iterator[Sample]:
        if self._source is None:
            self._source = open_source(self._data, image_size((self._spec,)))
            check_fit(self._source, (self._spec,))
        split = self._source.split(part)
        count = sample_count(split)
        asked = f"{part}:{first}" if first == last else f"{part}:{first}-{last}"
        if first > last:
            raise DriverError(f"{asked} is reversed; write {part}:{last}-{first}", ExitCode.USAGE)
        if last >= count:
            raise DriverError(
                f"{asked} is out of range: the {part} split has the samples 0 to {count - 1}",
                ExitCode.USAGE,
            )
        values, labels = split[self._spec.field or self._spec.name], labels_of(split, self._scores)
        for index in range(first, last + 1):
            yield Sample(f"{part}:{index}", values[index], None if labels is None else labels[index])

    def _from_array(self, path: Path) -> Iterator[Sample]:
        array, sample = map_array(path), self._spec.sample_shape
        plain = sample[1:] if sample[:1] == (1,) else sample  # a grey image may leave out its channel
        single = array.shape in (sample, plain)
        if not single and (array.ndim == 0 or array.shape[1:] not in (sample, plain)):
            raise DriverError(
                f"{path} holds an array {shape_text(array.shape)}; the model takes one sample {shape_text(sample)} "
                f"or a batch {shape_text(('N', *sample))}",
                ExitCode.USAGE,
            )
        if array.size == 0:
            raise DriverError(f"{path} holds an array {shape_text(array.shape)}: no sample at all")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which is refused
            batch = array.reshape((1 if single else len(array), *sample)).astype(np.float32)
        bad = first_bad_sample(batch)
        if bad is not None:
            raise DriverError(f"sample {bad} of {path} has a value that is not finite")
        for index, values in enumerate(batch):
            yield Sample(str(path) if single else f"{path}[{index}]", values)


def _name(names: tuple[str, ...], index: int) -> str:
    # The data may have labels that the model has no class for.
    return names[index] if 0 <= index < len(names) else str(index)
