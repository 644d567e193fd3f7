"""CIFAR-10 and CIFAR-100 in their original binary format, read from untrusted files.

A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009: each record is one byte for the class, or
for CIFAR-100 one for the coarse and one for the fine class, and 3072 bytes of the image, its red, green and blue plane
row by row.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from netc_runtime.data.base import Problem, Source, Split
from netc_runtime.data.folders import source_folder
from netc_runtime.data.options import CLASSES, LIMIT, SPLIT, Option, choice, path_option
from netc_runtime.data.packed import find, missing_files, read_packed
from netc_runtime.errors import DamagedFileError, DriverError

_TRAIN = tuple(f"data_batch_{part}.bin" for part in range(1, 6))
_TEST = "test_batch.bin"
_TRAIN_100, _TEST_100 = "train.bin", "test.bin"
_FOLDER = "the folder with the CIFAR-10 files"
_FOLDER_100 = "the folder with the CIFAR-100 files"
_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_MOST_RECORDS = 100_000  # twice those of the largest original file
_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_COARSE_TEXT = """
    aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
    household_furniture insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes
    large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles small_mammals trees
    vehicles_1 vehicles_2
"""
_FINE_TEXT = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
    shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
    television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_COARSE, _FINE = _COARSE_TEXT.split(), _FINE_TEXT.split()


class CIFAR10(Source):
    """A folder with the original files data_batch_1.bin to data_batch_5.bin and test_batch.bin, plain, .gz or .xz.

    Training parts may be absent as long as there is one; images are [n, 3, 32, 32] unsigned bytes, in the order of the
    parts.

    Example: data: {source: cifar10, classes: [cat, dog]}
    """

    about: ClassVar[str] = "CIFAR-10 in its binary files; some of the training parts are enough"
    options: ClassVar[tuple[Option, ...]] = (path_option(_FOLDER), SPLIT, CLASSES, LIMIT)

    @classmethod
    def class_names(cls, name: str, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the ten kinds of things."""
        return _NAMES

    @classmethod
    def missing(cls, name: str, options: Mapping[str, Any]) -> list[Problem]:
        """Return a sentence if the folder lacks every training part, or the test part."""
        return missing_files(name, options, _FOLDER, (_TEST,), any_of=_TRAIN)

    @classmethod
    def open(cls, name: str, options: Mapping[str, Any]) -> Self:
        """Read the files; raises DamagedFileError naming the file, what is expected and what is found."""
        folder = source_folder(name, options)
        train, test = (_read_split(folder, files, "CIFAR-10", [_NAMES]) for files in (_TRAIN, (_TEST,)))
        return cls(train, test, _NAMES)


_LABELS = Option(
    "labels",
    choice("fine", "coarse"),
    "which labels of CIFAR-100 to take",
    default="fine",
    note="100 kinds of things, or the 20 groups that they belong to.",
)


class CIFAR100(Source):
    """A folder with the original files train.bin and test.bin, plain, .gz or .xz; images as those of CIFAR-10.

    Example: data: {source: cifar100, labels: coarse}
    """

    about: ClassVar[str] = "CIFAR-100 in its binary files, with its fine or its coarse labels"
    options: ClassVar[tuple[Option, ...]] = (path_option(_FOLDER_100), _LABELS, SPLIT, CLASSES, LIMIT)

    @classmethod
    def class_names(cls, name: str, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the kinds of things, or their groups."""
        return tuple(_COARSE if options.get(_LABELS.name, _LABELS.default) == "coarse" else _FINE)

    @classmethod
    def missing(cls, name: str, options: Mapping[str, Any]) -> list[Problem]:
        """Return a sentence if the folder lacks one of the two files."""
        return missing_files(name, options, _FOLDER_100, (_TRAIN_100, _TEST_100))

    @classmethod
    def open(cls, name: str, options: Mapping[str, Any]) -> Self:
        """Read the files; raises DamagedFileError naming the file, what is expected and what is found."""
        folder, names = source_folder(name, options), cls.class_names(name, options)
        column = (_COARSE, _FINE).index(list(names))
        train, test = (
            _read_split(folder, (file,), "CIFAR-100", [_COARSE, _FINE], column) for file in (_TRAIN_100, _TEST_100)
        )
        return cls(train, test, names)


def _read_split(
    folder: Path, files: Sequence[str], what: str, names: Sequence[Sequence[str]], column: int = 0
) -> Split:
    """Read files whose records begin with a label for each of `names`, and take that of `column`."""
    paths = [path for path in (find(folder, file) for file in files) if path is not None]
    if not paths:
        raise DriverError(f"{folder} no longer has {files[0]}")
    records = np.concatenate([_read_records(path, what, names) for path in paths])
    return {"image": records[:, len(names) :].reshape(-1, *_SHAPE), "label": records[:, column].copy()}


def _read_records(path: Path, what: str, names: Sequence[Sequence[str]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    size = len(names) + _PIXELS
    content = read_packed(path, _MOST_RECORDS * size)
    if not content:
        raise DamagedFileError(f"{path} is empty; fetch it again")
    count, rest = divmod(len(content), size)
    if rest:
        raise DamagedFileError(
            f"{path} is truncated or not of {what}: records of {size} bytes expected, found {count} and {rest} "
            f"bytes more; fetch it again"
        )
    records = np.frombuffer(content, np.uint8).reshape(count, size)
    for column, known in enumerate(names):
        wrong = records[:, column] >= len(known)
        if wrong.any():
            index = int(wrong.argmax())
            raise DamagedFileError(
                f"{path} is not of {what}: record {index} has the label {records[index, column]}, the classes are 0 to "
                f"{len(known) - 1}"
            )
    return records
