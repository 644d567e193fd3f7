"""Data sources: what `data:` of a spec may name, and the checks of that section.

A new source is one class in this folder and one entry of `SOURCES`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from netc_runtime.arrays import shape_text
from netc_runtime.data.base import Problem, Source, Split, UnequalSizesError
from netc_runtime.data.cifar import CIFAR10, CIFAR100
from netc_runtime.data.csv_table import CSV
from netc_runtime.data.digits import Digits
from netc_runtime.data.hdf5 import HDF5
from netc_runtime.data.idx import IDX, MNIST, FashionMNIST
from netc_runtime.data.image_folder import ImageFolder
from netc_runtime.data.image_list import ImageList
from netc_runtime.data.lmdb_datum import LMDB
from netc_runtime.data.npy import NPY
from netc_runtime.data.npz import NPZ
from netc_runtime.data.options import check_values
from netc_runtime.data.parquet import Parquet
from netc_runtime.data.resize import resize_bilinear
from netc_runtime.data.rows import changed
from netc_runtime.data.splits import arrange, chosen_names
from netc_runtime.errors import DriverError, ExitCode, did_you_mean

SOURCES: Mapping[str, type[Source]] = {
    "digits": Digits,
    "mnist": MNIST,
    "fashion_mnist": FashionMNIST,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "idx": IDX,
    "npy": NPY,
    "npz": NPZ,
    "image_folder": ImageFolder,
    "image_list": ImageList,
    "csv": CSV,
    "hdf5": HDF5,
    "parquet": Parquet,
    "lmdb": LMDB,
}

# Keys of `data` that belong to no source: what concerns a whole batch is compiled into the graphs, and where the data
# stay while training is the same for all sources.
COMMON_KEYS = frozenset(
    {"source", "batch_size", "resize", "mean", "std", "scale", "range", "augment", "test_views", "resident"}
)

_RESIZE_LIMIT = 16 << 30


def source_class(data: Mapping[str, Any]) -> type[Source]:
    """Return the class of `data.source`; raises DriverError (2) if it is unknown."""
    name = data.get("source")
    if not isinstance(name, str) or name not in SOURCES:
        raise DriverError(f"data.source: {_unknown_source(name)}", ExitCode.USAGE)
    return SOURCES[name]


def check_options(data: Mapping[str, Any]) -> list[Problem]:
    """Return all mistakes of a `data` section as (key path under `data`, sentence), wherever the data may be."""
    name = data.get("source")
    if not isinstance(name, str) or name not in SOURCES:
        return [(("source",), _unknown_source(name))]
    source = SOURCES[name]
    options, known = _options(data), {option.name for option in source.options}
    problems: list[Problem] = [
        ((key,), f'unknown option "{key}" of the source "{name}"{did_you_mean(key, known | COMMON_KEYS)}')
        for key in options
        if key not in known
    ]
    resize = data.get("resize")
    if resize is not None and not _is_size(resize):
        problems.append((("resize",), f"resize should be [height, width] in pixels, at least 1, not {resize}"))
    limits = data.get("range")
    if limits is not None and not _is_range(limits):
        problems.append((("range",), f"range should be the lowest and the highest raw value, [0, 255], not {limits}"))
    return problems + check_values(source.options, options)


def class_names_of(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes of a sound `data` section as far as its source knows them; empty if not."""
    names = source_class(data).class_names(data["source"], _options(data))
    return chosen_names(names, data.get("classes"))


def value_range_of(data: Mapping[str, Any]) -> tuple[float, float]:
    """Return the smallest and largest raw value of `image`: `data.range`, or else what the source delivers."""
    declared = data.get("range")
    return source_class(data).value_range if declared is None else (float(declared[0]), float(declared[1]))


def require_sound(data: Mapping[str, Any]) -> None:
    """Raise DriverError (2) with all mistakes of a `data` section, wherever the data may be."""
    _refuse(check_options(data))


def _refuse(problems: Sequence[Problem]) -> None:
    if problems:
        sentences = (f"{'.'.join(('data', *path))}: {sentence}" for path, sentence in problems)
        raise DriverError("\n".join(sentences), ExitCode.USAGE)


def missing_data(data: Mapping[str, Any]) -> list[Problem]:
    """Return what is not on this machine of the data that a section names, as far as `check_options` accepts it."""
    wrong = {path for path, _ in check_options(data)}
    if ("source",) in wrong or ("path",) in wrong:
        return []
    try:
        return source_class(data).missing(data["source"], _options(data))
    except DriverError as error:  # such as a folder that must not be listed
        return [(("path",), str(error))]


def open_source(data: Mapping[str, Any], size: tuple[int, int] | None = None) -> Source:
    """Load the train and test split of a `data` section, its `image` resized to `data.resize` if that is given.

    `size` is the height and width that the caller needs, for what an error suggests. Raises DriverError: 2 for what
    another section would mend, a missing path among it, 1 for what is in the files, 3 for a refused permission.
    """
    _refuse(check_options(data) + missing_data(data))
    cls, options, resize = source_class(data), _options(data), data.get("resize")
    try:
        source = cls.open(data["source"], {**options, "resize": resize} if cls.resizes and resize else options)
    except UnequalSizesError as error:
        raise (error if size is None else error.needing(size)) from error.__cause__
    arrange(source, options)
    if data.get("range") is not None:
        source.declared_range = value_range_of(data)
    if resize is not None and not cls.resizes:
        source.train = _resized(source.train, resize)
        source.test = _resized(source.test, resize)
    return source


def _options(data: Mapping[str, Any]) -> dict[str, Any]:
    # null is what a resolved spec writes for an option that was not given.
    return {key: value for key, value in data.items() if key not in COMMON_KEYS and value is not None}


def _unknown_source(name: object) -> str:
    if not isinstance(name, str):
        return f"a source is needed; known: {', '.join(sorted(SOURCES))}"
    return f'unknown source "{name}"{did_you_mean(name, SOURCES)}'


def _is_size(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in value)
    )


def _is_range(value: object) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    numbers = [side for side in value if isinstance(side, int | float) and not isinstance(side, bool)]
    return len(numbers) == 2 and -math.inf < numbers[0] < numbers[1] < math.inf


def _resized(split: Split, size: tuple[int, int]) -> Split:
    images = split.get("image")
    if images is None or images.ndim != 4:
        found = "no image at all" if images is None else f"an image of a sample as {shape_text(images.shape[1:])}"
        raise DriverError(
            f"data.resize: the data source gives {found}, where [channels, height, width] can be resized; leave out "
            f"resize",
            ExitCode.USAGE,
        )
    height, width = size
    if images.shape[2:] == (height, width):
        return split
    if not isinstance(images, np.ndarray):  # larger than memory perhaps: whenever a batch is read
        return {**split, "image": changed(images, lambda some: resize_bilinear(some, height, width))}
    needed = images.shape[0] * images.shape[1] * height * width * np.dtype(np.float32).itemsize
    if needed > _RESIZE_LIMIT:
        raise DriverError(
            f"data.resize: {len(images)} images resized to {shape_text((height, width))} would take "
            f"{needed >> 30} GiB of memory, the limit is {_RESIZE_LIMIT >> 30}; choose a smaller size",
            ExitCode.USAGE,
        )
    return {**split, "image": resize_bilinear(images, height, width)}
