"""The PNG decoder of examples/read_png.py beside Pillow's."""

import importlib.util
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

EXAMPLE = Path(__file__).parents[1] / "examples" / "read_png.py"


@pytest.fixture(scope="module")
def read_png() -> Callable[[str, int], Any]:
    spec = importlib.util.spec_from_file_location("read_png", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[str, int], Any] = module.read_png
    return found


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def write_png(path: Path, kind: int, depth: int, rows: bytes, size: tuple[int, int], bits: int = 8) -> None:
    """Write rows that are filtered already; the compressed data come in two chunks, as of large files."""
    header = struct.pack(">IIBBBBB", *size, bits, kind, 0, 0, 0)
    packed = zlib.compress(rows)
    parts = chunk(b"IHDR", header), chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", packed[:9]), chunk(b"IDAT", packed[9:])
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))


@pytest.mark.parametrize(("kind", "depth"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_all_filters_of_all_kinds_of_colour(
    read_png: Callable[[str, int], Any], tmp_path: Path, kind: int, depth: int
) -> None:
    width, height = 7, 10
    noise = np.random.default_rng(kind).integers(0, 256, (height, width * depth), np.uint8)
    # Any bytes are some image under any filter: what it is, Pillow says.
    rows = b"".join(bytes([y % 5]) + noise[y].tobytes() for y in range(height))
    write_png(tmp_path / "x.png", kind, depth, rows, (width, height))
    with Image.open(tmp_path / "x.png") as image:
        decoded = np.array(image).reshape(height, width, depth).transpose(2, 0, 1)
        grey = np.array(image.convert("RGB").convert("L")) if depth > 2 else decoded[0]
    colour = decoded[:3] if depth > 2 else np.repeat(decoded[:1], 3, axis=0)
    np.testing.assert_array_equal(read_png(str(tmp_path / "x.png"), 3), colour)
    found = read_png(str(tmp_path / "x.png"), 1)
    assert found.shape == (1, height, width)
    assert np.abs(found[0] - grey.astype(int)).max() <= (1 if depth > 2 else 0)  # Pillow rounds luma in 16 bits


def test_what_it_does_not_read(read_png: Callable[[str, int], Any], tmp_path: Path) -> None:
    for name, image in (("palette", Image.new("P", (4, 4))), ("deep", Image.new("I;16", (4, 4)))):
        image.save(tmp_path / f"{name}.png")
        with pytest.raises(SystemExit, match=f"{name}.png has a palette, .* bits or interlacing; save it with 8 bits"):
            read_png(str(tmp_path / f"{name}.png"), 1)
    (tmp_path / "x.png").write_bytes(b"GIF89a  ")
    with pytest.raises(SystemExit, match=r"x\.png is no PNG"):
        read_png(str(tmp_path / "x.png"), 1)
