"""PNG files without any image library: those of 8 bits a channel, without a palette and without interlacing.

Transparency, an alpha channel or a `tRNS` chunk, is left out: pixels have their colour, seen through or not.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by kind of colour: grey, RGB, and both with alpha


def read_png(path: str, channels: int) -> npt.NDArray[np.int64]:
    """Return the pixels, from 0 to 255, as [channels, height, width]: 1 channel for grey, 3 for colour.

    Raises SystemExit, with a sentence, for a file that is not such a PNG or is damaged.
    """
    try:
        content, packed, at = Path(path).read_bytes(), b"", 8
    except OSError as error:
        raise SystemExit(f"{path} cannot be read: {error.strerror}") from error
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        raise SystemExit(f"{path} is no PNG")
    if len(content) < 33 or content[12:16] != b"IHDR":
        raise SystemExit(f"{path} is damaged: it has no whole header")
    width, height, bits, kind, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    if bits != 8 or kind not in _CHANNELS or interlaced:
        raise SystemExit(f"{path} has a palette, {bits} bits or interlacing; save it with 8 bits, as grey or RGB")
    while at + 8 <= len(content):
        size, name = struct.unpack(">I4s", content[at : at + 8])
        packed += content[at + 8 : at + 8 + size] if name == b"IDAT" else b""
        at += size + 12
    depth = _CHANNELS[kind]
    try:
        raw = np.frombuffer(zlib.decompress(packed), np.uint8)
    except zlib.error as error:
        raise SystemExit(f"{path} is damaged: its pixels cannot be unpacked ({error})") from error
    if not 0 < len(raw) == height * (1 + width * depth) or width == 0:
        raise SystemExit(f"{path} is damaged: it does not hold the {width} x {height} pixels that its header says")
    rows = raw.reshape(height, 1 + width * depth)
    if rows[:, 0].max() > 4:
        raise SystemExit(f"{path} is damaged: a row has a filter that does not exist")
    # Each byte was stored as a difference to its neighbours; outside of the image, those are 0.
    padded = np.zeros((height + 1, depth + width * depth), np.int64)
    for y, (difference, *row) in enumerate(rows.tolist()):
        for x, value in enumerate(row):
            left, up, corner = padded[y + 1, x], padded[y, x + depth], padded[y, x]
            distances = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
            nearest = (left, up, corner)[distances.index(min(distances))]  # Paeth's
            padded[y + 1, x + depth] = (value + (0, left, up, (left + up) // 2, nearest)[difference]) % 256
    pixels = padded[1:, depth:].reshape(height, width, depth).transpose(2, 0, 1)
    pixels = pixels[: 1 if depth < 3 else 3]  # without alpha
    if channels == 1 and len(pixels) == 3:
        pixels = np.rint(np.tensordot((0.299, 0.587, 0.114), pixels, 1)[np.newaxis]).astype(np.int64)  # luma
    return np.repeat(pixels, channels, axis=0) if len(pixels) == 1 else pixels
