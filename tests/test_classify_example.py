"""examples/classify.py where it refuses, and the PNG decoder of examples/read_png.py beside Pillow's."""

import importlib.util
import json
import runpy
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
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


def header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))


def pixels(rows: bytes) -> bytes:
    return chunk(b"IDAT", zlib.compress(rows))


NO_PIXELS = "is damaged: it does not hold the {} pixels that its header says"
END = chunk(b"IEND", b"")
DAMAGED = {
    "filter": (header(2, 2) + pixels(b"\0ab\5cd") + END, "is damaged: a row has a filter that does not exist"),
    "few": (header(2, 2) + pixels(b"\0ab\0c") + END, NO_PIXELS.format("2 x 2")),
    "many": (header(2, 2) + pixels(b"\0ab\0cd\0ef") + END, NO_PIXELS.format("2 x 2")),
    "empty": (header(0, 0) + pixels(b"") + END, NO_PIXELS.format("0 x 0")),
    "narrow": (header(0, 2) + pixels(b"\0\0") + END, NO_PIXELS.format("0 x 2")),
    "low": (header(2, 0) + pixels(b"") + END, NO_PIXELS.format("2 x 0")),
    "header": (header(2, 2)[:20], "is damaged: it has no whole header"),
    "first": (header(2, 2)[:8] + pixels(b"\0ab\0cd" * 9) + END, "is damaged: it has no whole header"),
    "cut": ((header(2, 2) + pixels(b"\0ab\0cd"))[:-9], "is damaged: its pixels cannot be unpacked"),
    "length": (header(2, 2) + b"\0\0", "is damaged: its pixels cannot be unpacked"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_a_sentence(read_png: Callable[[str, int], Any], tmp_path: Path, name: str) -> None:
    content, sentence = DAMAGED[name]
    path = tmp_path / f"{name}.png"
    path.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        read_png(str(path), 1)
    assert str(caught.value).startswith(f"{path} {sentence}")
    with pytest.raises(SystemExit, match=r"none\.png cannot be read: No such file"):
        read_png(str(tmp_path / "none.png"), 1)


def test_transparency_is_left_out(read_png: Callable[[str, int], Any], tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(grey).save(tmp_path / "see.png", transparency=5)
    assert b"tRNS" in (tmp_path / "see.png").read_bytes()
    np.testing.assert_array_equal(read_png(str(tmp_path / "see.png"), 1)[0], grey)


def write_model(path: Path, activation: str | None, classes: list[str]) -> str:
    """Write a model that gives the sum of four pixels, twice, and says of it what an export does."""
    value = onnx.helper.make_tensor_value_info
    inputs, outputs = [value("image", 1, ["N", 1, 2, 2])], [value("y", 1, ["N", 2])]
    nodes = [onnx.helper.make_node("Flatten", ["image"], ["x"]), onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
    weights = onnx.numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    graph = onnx.helper.make_graph(nodes, "g", inputs, outputs, [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    scores = {"name": "y", "shape": ["N", 2], "label": "label"} | (
        {} if activation is None else {"activation": activation}
    )
    said = {"interface": {"outputs": [scores]}, "value_range": [0, 1], "classes": classes}
    onnx.helper.set_model_props(model, {f"netc.{key}": json.dumps(value) for key, value in said.items()})
    onnx.save(model, path)
    return str(path)


def test_only_probabilities_are_printed_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it does with a real model, tests/test_readme.py tries."""
    Image.new("L", (2, 2), 51).save(tmp_path / "x.png")
    Image.new("L", (3, 2)).save(tmp_path / "wide.png")
    small, wide = str(tmp_path / "x.png"), str(tmp_path / "wide.png")
    fine = write_model(tmp_path / "fine.onnx", None, ["a", "b"])
    scores = write_model(tmp_path / "scores.onnx", "logits", ["a", "b"])
    none = write_model(tmp_path / "none.onnx", None, [])
    refusal = "gives no probabilities of classes; export a classifier with --softmax"
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    for arguments, out, refused in (
        ([fine, small], f"{small} a 0.800\n", None),
        ([fine], "", "usage: python classify.py MODEL PNG..."),
        ([scores, small], "", f"{scores} {refusal}"),
        ([none, small], "", f"{none} {refusal}"),
        ([fine, wide], "", f"{wide} has 3 x 2 pixels, the model takes 2 x 2"),
    ):
        monkeypatch.setattr(sys, "argv", ["classify.py", *arguments])
        said = None
        try:
            runpy.run_path(str(EXAMPLE.with_name("classify.py")))
        except SystemExit as exit_:
            said = exit_.code
        assert (said, capsys.readouterr().out) == (refused, out)
