"""Test-time views: predictions averaged over mirrored and moved copies of a sample, as `data.test_views` declares."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from netc_runtime.arrays import Array
from netc_runtime.errors import DriverError, ExitCode

_CORNER_SHARE = 8  # corners are moved by this part of height and width


@dataclass(frozen=True)
class View:
    """One copy of a sample: mirrored along axes (of [n, C, H, W]), and moved by parts of its height and width."""

    mirrored: tuple[int, ...] = ()
    moved: tuple[int, int] = (0, 0)

    def of(self, images: Array) -> Array:
        """Return the view of images [n, C, H, W]; what is moved in repeats the pixels at the edges."""
        images = np.flip(images, self.mirrored)
        for axis, direction in zip((2, 3), self.moved, strict=True):
            side = images.shape[axis]
            places = np.arange(side) - direction * max(side // _CORNER_SHARE, 1)
            images = images.take(places.clip(0, side - 1), axis=axis)
        return np.ascontiguousarray(images)

    def back(self, maps: Array) -> Array:
        """Return class maps [n, classes, H, W] of the view as those of the sample itself."""
        return np.flip(maps, self.mirrored)


_NAMED: Mapping[str, tuple[View, ...]] = {
    "identity": (View(),),
    "horizontal_flip": (View((3,)),),
    "vertical_flip": (View((2,)),),
    "both_flips": (View((2, 3)),),
    "corners": tuple(View(moved=(y, x)) for y in (-1, 1) for x in (-1, 1)),
}


def views_of(data: Mapping[str, Any]) -> tuple[View, ...]:
    """Return the views that a `data` section declares; raises DriverError (2) if there are none or unknown ones."""
    names = data.get("test_views") or ()
    if not names:
        raise DriverError(
            "there are no views to average: the spec has no data.test_views; add --set "
            '"data.test_views=[identity, horizontal_flip]"',
            ExitCode.USAGE,
        )
    if not isinstance(names, list) or not all(isinstance(name, str) and name in _NAMED for name in names):
        raise DriverError(
            f"data.test_views: expected a list of {', '.join(_NAMED)}, got {names}",
            ExitCode.USAGE,
        )
    return tuple(view for name in names for view in _NAMED[name])


def averaged(predict: Callable[[Array], Array], images: Array, views: Sequence[View]) -> Array:
    """Return the mean of what `predict` gives, [n, classes] or [n, classes, H, W], over views of images, in float64.

    Raises DriverError (2) for samples that are no images, results of other shapes, and class maps of moved views.
    """
    if images.ndim != 4:
        raise DriverError("views are those of images [channels, height, width]; leave out --tta", ExitCode.USAGE)
    total: Array | float = 0.0
    for view in views:
        result = predict(view.of(images)).astype(np.float64)
        if result.ndim not in (2, 4):
            raise DriverError(
                f"--tta averages [n, classes] or class maps [n, classes, H, W], not {result.ndim} axes; leave it out",
                ExitCode.USAGE,
            )
        if result.ndim > 2 and view.moved != (0, 0):
            raise DriverError(
                "data.test_views: corners are for models with one answer a sample, not for class maps; use flips",
                ExitCode.USAGE,
            )
        total = total + (view.back(result) if result.ndim > 2 else result)
    return np.asarray(total / len(views))
