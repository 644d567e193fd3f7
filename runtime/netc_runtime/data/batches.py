"""Batches of samples under the names of a program's inputs, and the checks that data and program fit."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from netc_runtime.arrays import Array, first_bad_sample, shape_text
from netc_runtime.artifact import TensorSpec
from netc_runtime.data.base import Source, Split
from netc_runtime.errors import DriverError, ExitCode

EVALUATION_BATCH = 256  # samples that run at once where the size of the batch changes no result


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return how many whole batches `count` samples give; raises DriverError (2) if there is none."""
    if count < batch_size:
        raise DriverError(
            f"data.batch_size: the training split has {count} samples, fewer than one batch of {batch_size}; "
            f"choose a batch_size of at most {count}",
            ExitCode.USAGE,
        )
    return count // batch_size


def sample_count(split: Split) -> int:
    """Return the number of samples."""
    return len(next(iter(split.values())))


def gather(split: Split, inputs: Sequence[TensorSpec], indices: npt.NDArray[np.intp]) -> dict[str, Array]:
    """Return the samples at `indices` by input name, still in the dtype of the data."""
    return {spec.name: split[_field(spec)][indices] for spec in inputs}


def evaluation_batches(
    split: Split, inputs: Sequence[TensorSpec], size: int = EVALUATION_BATCH
) -> Iterator[Mapping[str, Array]]:
    """Yield all samples in order, in the dtype of the inputs; the last batch may be smaller."""
    for start in range(0, sample_count(split), size):
        yield {
            spec.name: np.ascontiguousarray(split[_field(spec)][start : start + size], dtype=spec.dtype)
            for spec in inputs
        }


def check_fit(source: Source, inputs: Sequence[TensorSpec]) -> None:
    """Raise DriverError (2, or 1 for bad values) unless both splits can feed `inputs`."""
    for name in ("train", "test"):
        split = source.split(name)
        for spec in inputs:
            _check_field(split, name, spec)


def _check_field(split: Split, name: str, spec: TensorSpec) -> None:
    field = _field(spec)
    if field not in split:
        raise DriverError(
            f'the input "{spec.name}" needs the field "{field}", which the data source lacks; '
            f"it has: {', '.join(sorted(split))}",
            ExitCode.USAGE,
        )
    array = split[field]
    if array.shape[1:] != spec.sample_shape:
        raise DriverError(
            f'the data source gives "{field}" as {shape_text(array.shape[1:])}, the input "{spec.name}" is declared '
            f"as {shape_text(spec.sample_shape)}{_remedy(array.shape[1:], spec.sample_shape)}",
            ExitCode.USAGE,
        )
    bad = first_bad_sample(array)
    if bad is not None:
        raise DriverError(f'sample {bad} of the {name} split has a value of "{field}" that is not finite')
    if spec.classes is not None:
        _check_labels(array, name, spec.classes)


def _check_labels(labels: Array, name: str, classes: int) -> None:
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        index = int(np.argmax(wrong.reshape(len(labels), -1).any(axis=1)))
        value = labels[index][wrong[index]].ravel()[0] if labels.ndim > 1 else labels[index]
        raise DriverError(
            f"sample {index} of the {name} split has the label {value}, but the spec declares {classes} classes "
            f"(0 to {classes - 1}); correct `classes` of the input",
            ExitCode.USAGE,
        )


def _remedy(found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if len(found) == len(wanted) == 3 and found[0] == wanted[0]:
        return f"; set data.resize: {shape_text(wanted[1:])}"
    return f"; declare the input with shape: {shape_text(found)}"


def _field(spec: TensorSpec) -> str:
    return spec.field or spec.name
