"""Bilinear resizing of arrays of images."""

import numpy as np
import numpy.typing as npt

from netc_runtime.arrays import Array

_CHUNK = 1024  # images at a time: keeps the temporaries small beside the result


def resize_bilinear(images: Array, height: int, width: int) -> npt.NDArray[np.float32]:
    """Return [n, C, H, W] images as float32 [n, C, height, width].

    Half-pixel centres and no antialiasing: torch's `interpolate(mode="bilinear", align_corners=False)`.
    """
    result = np.empty((*images.shape[:2], height, width), dtype=np.float32)
    top, bottom, below = _taps(images.shape[2], height)
    left, right, beside = _taps(images.shape[3], width)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK].astype(np.float32)
        rows = chunk[:, :, top] * (1 - below)[:, np.newaxis] + chunk[:, :, bottom] * below[:, np.newaxis]
        result[start : start + _CHUNK] = rows[..., left] * (1 - beside) + rows[..., right] * beside
    return result


def _taps(source: int, target: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Return for each target pixel the two source pixels around its centre and the weight of the second."""
    centre = np.maximum((np.arange(target) + 0.5) * (source / target) - 0.5, 0)
    first = np.minimum(centre.astype(np.intp), source - 1)
    second = np.minimum(first + 1, source - 1)
    return first, second, (centre - first).astype(np.float32)
