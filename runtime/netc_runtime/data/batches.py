"""Batches of samples under the names of a program's inputs, and the checks that data and program fit."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from netc_runtime.arrays import Array, first_bad_sample, shape_text
from netc_runtime.data.base import Source, Split
from netc_runtime.data.mapped import Indices, samples
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.interface import TensorSpec

_EVALUATION_BATCH = 256  # samples that run at once where the size of the batch changes no result
# Values of one input that run at once: what a network computes from large images takes many times their memory.
_EVALUATION_VALUES = _EVALUATION_BATCH * 3 * 64 * 64
_CHECKED_VALUES = 1 << 22  # values that are checked at once, because data may be larger than memory


def steps_per_epoch(count: int, batch_size: int, batches: int = 1) -> int:
    """Return how many times `count` samples give so many whole batches; raises DriverError (2) if they never do."""
    if batches > 1 and count < batch_size * batches:
        raise DriverError(
            f"solver.iter_size: the training split has {count} samples, fewer than the {batches} batches of "
            f"{batch_size} that make one update; choose a smaller iter_size, or a smaller data.batch_size",
            ExitCode.USAGE,
        )
    if count < batch_size:
        raise DriverError(
            f"data.batch_size: the training split has {count} samples, fewer than one batch of {batch_size}; "
            f"choose a batch_size of at most {count}",
            ExitCode.USAGE,
        )
    return count // (batch_size * batches)


def sample_count(split: Split) -> int:
    """Return the number of samples."""
    return len(next(iter(split.values())))


def gather(split: Split, inputs: Sequence[TensorSpec], indices: Indices) -> dict[str, Array]:
    """Return the samples at `indices` by input name, still in the dtype of the data."""
    return {spec.name: samples(split[field_of(spec)], indices) for spec in inputs}


def batch_of(split: Split, inputs: Sequence[TensorSpec], indices: Indices) -> dict[str, Array]:
    """Return the samples at `indices` by input name, in the dtype of the inputs."""
    # Unsafe casting, as in Buffer.write; check_fit has proven the range.
    batch = gather(split, inputs, indices)
    return {spec.name: np.asarray(batch[spec.name], order="C").astype(spec.dtype, copy=False) for spec in inputs}


def evaluation_size(inputs: Sequence[TensorSpec]) -> int:
    """Return how many samples of `inputs` to run at once: 256, or fewer where they are large."""
    largest = max((math.prod(spec.sample_shape) for spec in inputs), default=1)
    return min(max(_EVALUATION_VALUES // max(largest, 1), 1), _EVALUATION_BATCH)


def evaluation_batches(split: Split, inputs: Sequence[TensorSpec], size: int) -> Iterator[Mapping[str, Array]]:
    """Yield all samples in order, `size` at once, in the dtype of the inputs; the last batch may be smaller."""
    for start in range(0, sample_count(split), size):
        yield {
            spec.name: np.ascontiguousarray(samples(split[field_of(spec)], slice(start, start + size)), spec.dtype)
            for spec in inputs
        }


def image_size(inputs: Sequence[TensorSpec]) -> tuple[int, int] | None:
    """Return the height and width of the images that `inputs` take; None where they take none."""
    shapes = (spec.sample_shape for spec in inputs if field_of(spec) == "image")
    return next(((shape[1], shape[2]) for shape in shapes if len(shape) == 3), None)


def check_fit(source: Source, inputs: Sequence[TensorSpec]) -> None:
    """Raise DriverError (2, or 1 for bad values) unless both splits can feed `inputs`."""
    for name in ("train", "test"):
        split = source.split(name)
        for spec in inputs:
            _check_field(split, name, spec, source.declared_range if field_of(spec) == "image" else None)


def _check_field(split: Split, name: str, spec: TensorSpec, limits: tuple[float, float] | None) -> None:
    field = field_of(spec)
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
    wanted = np.dtype(spec.dtype)
    if wanted.kind in "iu" and array.dtype.kind not in "iub":
        raise DriverError(
            f'the data source gives "{field}" as {array.dtype}, the input "{spec.name}" takes whole numbers; store '
            f"{wanted} values",
            ExitCode.USAGE,
        )
    size = max(_CHECKED_VALUES // max(math.prod(spec.sample_shape), 1), 1)
    for start in range(0, len(array), size):
        part = samples(array, slice(start, start + size))
        _check_values(part, start, name, field, spec)
        if limits is not None:
            _check_range(part, start, name, limits)


def _check_range(part: Array, start: int, name: str, limits: tuple[float, float]) -> None:
    """Check the raw values of some images of the split `name`, of which the first has the index `start`."""
    wrong = (part < limits[0]) | (part > limits[1])
    if wrong.any():
        index, value = _first(part, wrong)
        raise DriverError(
            f'sample {start + index} of the {name} split has the value {value} of "image", outside of data.range '
            f"[{limits[0]:g}, {limits[1]:g}]; correct data.range",
            ExitCode.USAGE,
        )


def _check_values(part: Array, start: int, name: str, field: str, spec: TensorSpec) -> None:
    """Check some samples of the split `name`, of which the first has the index `start`."""
    bad = first_bad_sample(part)
    if bad is not None:
        raise DriverError(f'sample {start + bad} of the {name} split has a value of "{field}" that is not finite')
    if spec.classes is not None:
        wrong = ((part < 0) | (part >= spec.classes)) & ~np.isin(part, spec.ignored)
        if wrong.any():
            index, value = _first(part, wrong)
            passed = f", and {', '.join(map(str, spec.ignored))} to ignore" if spec.ignored else ""
            raise DriverError(
                f"sample {start + index} of the {name} split has the label {value}, but the spec declares "
                f"{spec.classes} classes (0 to {spec.classes - 1}{passed}); correct `classes` of the input, or give "
                "every loss and metric of it that ignore_label",
                ExitCode.USAGE,
            )
    if not np.can_cast(part.dtype, spec.dtype):
        wrong = _beyond(part, np.dtype(spec.dtype))
        if wrong.any():
            index, value = _first(part, wrong)
            raise DriverError(
                f'sample {start + index} of the {name} split has the value {value} of "{field}", which the input '
                f'"{spec.name}" cannot hold as {spec.dtype}'
            )


def _first(part: Array, wrong: Array) -> tuple[int, object]:
    """Return the index of the first sample with a wrong value, and that value."""
    index = int(np.argmax(wrong.reshape(len(part), -1).any(axis=1)))
    return index, part[index][wrong[index]].ravel()[0] if part.ndim > 1 else part[index]


def _beyond(part: Array, wanted: np.dtype[Any]) -> npt.NDArray[np.bool_]:
    """Return where values lie outside of the range of a dtype."""
    if wanted.kind == "b":
        return (part != 0) & (part != 1)
    limits = np.finfo(wanted) if wanted.kind == "f" else np.iinfo(wanted)
    return (part < limits.min) | (part > limits.max)


def _remedy(found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if not found:
        return "; declare the input without shape"
    if not wanted and len(found) == 1:
        return "; store class numbers, not a vector for each sample"
    if len(found) == len(wanted) == 3 and found[2] in (1, 3) and found[0] not in (1, 3):
        return f"; store channels first, as {shape_text((found[2], *found[:2]))}"
    if len(found) == len(wanted) == 3 and found[0] == wanted[0]:
        return f"; set data.resize: {shape_text(wanted[1:])}"
    return f"; declare the input with shape: {shape_text(found)}"


def field_of(spec: TensorSpec) -> str:
    """Return the field of a split that an input takes."""
    return spec.field or spec.name
