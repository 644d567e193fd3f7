"""Image files turned into raw samples, with Pillow."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from netc_runtime.arrays import Array, shape_text
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode

if TYPE_CHECKING:
    from PIL.Image import Image

_MODES = {1: "L", 3: "RGB"}
# Pillow knows many more, some of which start other programs.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_WHITE, _WIDE_WHITE = 255, 65535


def read_image(path: Path, shape: tuple[int, ...], low: float, high: float) -> npt.NDArray[np.float32]:
    """Return an image as float32 [C, H, W] of `shape`, black as `low` and white as `high`.

    Grey or colour as C asks, resized bilinearly (antialiased where it shrinks). Raises DriverError: 3 without
    Pillow, 2 if `shape` is not that of an image, 1 for a file that is not a sound image.
    """
    require_pillow()
    if len(shape) != 3 or shape[0] not in _MODES:
        raise DriverError(
            f"{path} cannot be fed: the model takes samples {shape_text(shape)}, an image has 1 or 3 channels, "
            f"height and width; give a .npy file",
            ExitCode.USAGE,
        )
    with _opened(path, str(path)) as image:
        values = _planes(image, shape[0], shape[1:])
    return (np.broadcast_to(values, shape).astype(np.float32) / _white(image) * (high - low) + low).astype(np.float32)


def decode(
    content: Path | bytes, name: str, channels: int, size: tuple[int, int] | None = None
) -> npt.NDArray[np.uint8]:
    """Return an image as uint8 [channels, H, W], in its own size or resized as `read_image` does.

    `name` is what a sentence calls it. Raises DriverError: 3 without Pillow, 1 for content that is no sound image.
    """
    require_pillow()
    with _opened(content, name) as image:
        values = _planes(image, channels, size)
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    return np.rint(np.broadcast_to(values, (channels, *values.shape[1:])) / _white(image) * _WHITE).astype(np.uint8)


def resized(planes: Array, size: tuple[int, int]) -> Array:
    """Return planes [C, H, W] of bytes or float32 in another size, as `decode` resizes; raises DriverError (3)."""
    require_pillow()
    from PIL import Image

    if planes.shape[1:] == size:
        return planes
    values = np.stack(
        [
            np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR))
            for plane in planes
        ]
    )
    return np.rint(values).astype(np.uint8) if planes.dtype == np.uint8 else values


def decode_labels(path: Path, size: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """Return a map of labels [H, W]: grey values or indices of a palette as they are, resized to the nearest.

    Raises DriverError: 3 without Pillow, 1 for a file that is no sound image or has colours instead of labels.
    """
    require_pillow()
    from PIL.Image import Resampling

    with _opened(path, str(path)) as image:
        if image.mode not in ("L", "P", "1"):
            raise DamagedFileError(
                f"{path} is no map of labels: it has the mode {image.mode}, where one byte a pixel is needed (L or P)"
            )
        resized = image if size is None else image.resize(size[::-1], Resampling.NEAREST)
        return np.array(resized, dtype=np.uint8)


def require_pillow() -> None:
    """Raise DriverError (3) without Pillow."""
    try:
        import PIL.Image  # noqa: F401 (whether it is there)
    except ImportError as error:
        raise DriverError(
            'reading images needs Pillow, which is not installed; install it with: pip install "netc[images]"',
            ExitCode.ENVIRONMENT,
        ) from error


def _planes(image: "Image", channels: int, size: tuple[int, ...] | None) -> Array:
    """Return [channels, H, W], or [1, H, W] of deep grey: bytes if nothing is resized, else floats up to white."""
    from PIL.Image import Resampling

    # Sixteen bits of grey: Pillow's own conversion would cut them off at 255.
    planes = [image] if _white(image) != _WHITE else list(image.convert(_MODES[channels]).split())
    if size is not None and image.size != size[::-1]:
        planes = [plane.convert("F").resize((size[1], size[0]), Resampling.BILINEAR) for plane in planes]
    return np.stack([np.asarray(plane) for plane in planes])


def _white(image: "Image") -> int:
    return _WIDE_WHITE if image.mode.startswith("I") else _WHITE


def _check_white(image: "Image", name: str) -> None:
    """Raise DamagedFileError for grey of 32 bits that says no white."""
    if image.mode != "I":
        return
    values = np.asarray(image)
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > _WIDE_WHITE:
        raise DamagedFileError(
            f"{name} has grey values from {least} to {most}, where black is 0 and white {_WIDE_WHITE}"
        )


@contextmanager
def _opened(content: Path | bytes, name: str) -> "Iterator[Image]":
    """Yield a decoded image; errors of decoding, there or in what is done with it, become sentences."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that are skipped
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(content) if isinstance(content, bytes) else content, formats=_FORMATS) as image:
                image.load()
                _check_white(image, name)
                yield image
    except UnidentifiedImageError as error:
        raise DamagedFileError(f"{name} is not an image ({', '.join(_FORMATS)})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DamagedFileError(f"{name} has too many pixels for a sample: {error}") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        ArithmeticError,
        LookupError,
        TypeError,
        AttributeError,
        struct.error,
    ) as error:  # what Pillow's decoders raise for damaged files
        raise DamagedFileError(f"{name} is a damaged image: {error}") from error
