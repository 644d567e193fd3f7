"""The digits that ship with netc.

Optical Recognition of Handwritten Digits (test part), E. Alpaydin and C. Kaynak, UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49, licensed CC BY 4.0.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from netc_runtime.data.base import Problem, Source
from netc_runtime.data.options import CLASSES, LIMIT, SPLIT, Option
from netc_runtime.data.order import permutation

_SPLIT_SEED = 20240  # fixed for ever: it decides which samples are the test split
_TRAIN_FRACTION = 0.8


class Digits(Source):
    """1797 grey images of 8 x 8 pixels with values 0 to 16: 1437 to train, 360 to test.

    Example: data: {source: digits, classes: [0, 1, 2], limit: 100}
    """

    about: ClassVar[str] = "1,797 grey digits of 8 x 8 pixels, values 0 to 16; ships with netc"
    options: ClassVar[tuple[Option, ...]] = (SPLIT, CLASSES, LIMIT)
    value_range: ClassVar[tuple[float, float]] = (0.0, 16.0)

    @classmethod
    def class_names(cls, name: str, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return "0" to "9"."""
        return tuple(map(str, range(10)))

    @classmethod
    def missing(cls, name: str, options: Mapping[str, Any]) -> list[Problem]:
        """Return nothing: the digits are everywhere."""
        return []

    @classmethod
    def open(cls, name: str, options: Mapping[str, Any]) -> Self:
        """Load the embedded file."""
        with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as archive:
            images, labels = archive["images"][:, np.newaxis], archive["labels"]
        order = permutation(_SPLIT_SEED, 0, len(images))
        chosen = np.split(order, [int(len(order) * _TRAIN_FRACTION)])
        train, test = ({"image": images[part], "label": labels[part]} for part in chosen)
        return cls(train, test, cls.class_names(name, options))
