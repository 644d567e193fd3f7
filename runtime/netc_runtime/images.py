"""Image files turned into raw samples, with Pillow."""

import struct
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from netc_runtime.arrays import shape_text
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode

_MODES = {1: "L", 3: "RGB"}
# Pillow knows many more, some of which start other programs.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")


def read_image(path: Path, shape: tuple[int, ...], low: float, high: float) -> npt.NDArray[np.float32]:
    """Return an image as float32 [C, H, W] of `shape`, black as `low` and white as `high`.

    Grey or colour as C asks, resized bilinearly (antialiased where it shrinks). Raises DriverError: 3 without
    Pillow, 2 if `shape` is not that of an image, 1 for a file that is not a sound image.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise DriverError(
            'reading images needs Pillow, which is not installed; install it with: pip install "netc[images]"',
            ExitCode.ENVIRONMENT,
        ) from error
    if len(shape) != 3 or shape[0] not in _MODES:
        raise DriverError(
            f"{path} cannot be fed: the model takes samples {shape_text(shape)}, an image has 1 or 3 channels, "
            f"height and width; give a .npy file",
            ExitCode.USAGE,
        )
    channels, height, width = shape
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that are skipped
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                image.load()
                # Sixteen bits of grey: Pillow's own conversion would cut them off at 255.
                wide = image.mode.startswith("I")
                planes = [image] if wide else image.convert(_MODES[channels]).split()
                top = 65535 if wide else 255
                resized = [
                    np.asarray(plane.convert("F").resize((width, height), Image.Resampling.BILINEAR))
                    for plane in planes
                ]
    except UnidentifiedImageError as error:
        raise DamagedFileError(f"{path} is not an image ({', '.join(_FORMATS)})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DamagedFileError(f"{path} has too many pixels for a sample: {error}") from error
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
        raise DamagedFileError(f"{path} is a damaged image: {error}") from error
    stacked = np.broadcast_to(np.stack(resized), shape)
    return (stacked / top * (high - low) + low).astype(np.float32)
