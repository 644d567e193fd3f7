"""examples/node trains as the driver does, and the host in JavaScript reads, writes and packs as Python does."""

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from netc_runtime.arrays import Array
from netc_runtime.data import open_source
from netc_runtime.data.resize import resize_bilinear
from tests.javascript import (
    AGREEMENTS,
    EXAMPLES,
    STEPS,
    prepare,
    program,
    require_agreement,
    require_package,
    trained_by_the_driver,
)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program("node")
    return prepare(tmp_path_factory.mktemp("node") / "generated")


def node(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("node"), *arguments], capture_output=True, text=True, check=False, cwd=EXAMPLES / "node"
    )


@AGREEMENTS
def test_weights_agree_with_the_driver(
    overrides: Sequence[str], steps: int, tolerance: float, generated: Path, tmp_path: Path
) -> None:
    require_package("node", "onnxruntime-node")
    folder = prepare(tmp_path / "generated", overrides) if overrides else generated
    weights = tmp_path / "weights.safetensors"
    options = ["--steps", str(steps), "--threads", "1", "--out", str(weights)]
    result = node("train.mjs", "--generated", str(folder), *options)
    assert result.returncode == 0, result.stderr
    require_agreement(weights, trained_by_the_driver(folder, steps), tolerance, "onnxruntime-node")
    if steps == STEPS:
        accuracy = re.search(r"^test: .* accuracy (\d\.\d+)", result.stdout, flags=re.MULTILINE)
        assert accuracy is not None, result.stdout
        assert float(accuracy[1]) > 0.9
        assert [line.split()[1] for line in result.stdout.splitlines() if line.startswith("test:0 ")] == ["1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--generated", "nowhere"],
            "nowhere/model/manifest.json does not exist; make it with python examples/browser/prepare.py",
        ),
        (["--steps", "few"], "--steps should be a whole number, at least 1, not few"),
        (["--color", "red"], "usage: node train.mjs"),
    ],
)
def test_mistakes_are_said_in_a_sentence(arguments: list[str], said: str) -> None:
    result = node("train.mjs", *arguments)
    assert result.returncode == 2
    assert said in result.stderr
    assert "    at " not in result.stderr  # a line of a stack


def script(code: str, *files: Path) -> None:
    """Run a module that finds the names of `files` in `paths`."""
    imports = (
        'import { readFileSync, writeFileSync } from "node:fs";'
        'import { readSafetensors, writeSafetensors } from "../javascript/index.mjs";'
        'import { pack, unpack } from "../javascript/state.mjs";'
        'import { digitOf, resized } from "../browser/strokes.mjs";'
        f"const paths = {json.dumps([str(file) for file in files])};"
        "const read = (path) => readSafetensors(new Uint8Array(readFileSync(path))).tensors;"
    )
    result = node("--input-type=module", "--eval", imports + code)
    assert result.returncode == 0, result.stderr


def test_drawings_are_resized_as_the_data_are(tmp_path: Path) -> None:
    digits = open_source({"source": "digits"}).test["image"][:4].astype(np.float32)
    given, resized = tmp_path / "given.safetensors", tmp_path / "resized.safetensors"
    save_file({str(number): digit for number, digit in enumerate(digits)}, given)
    script(
        """
        const large = (tensor) => ({ dtype: "float32", shape: [28, 28], data: resized(tensor.data, 8, 28) });
        const all = [...read(paths[0])].map(([name, tensor]) => [name, large(tensor)]);
        writeFileSync(paths[1], writeSafetensors(new Map(all)));
        """,
        given,
        resized,
    )
    found = load_file(resized)
    for number, expected in enumerate(resize_bilinear(digits, 28, 28)):
        # Python interpolates in float32, JavaScript in float64: a few units in the last place of 16.
        assert np.abs(found[str(number)] - expected[0]).max() < 1e-5


def test_a_drawing_fills_the_height_with_the_ink_asked_for(tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.safetensors"
    script(
        """
        const data = digitOf([[[0.5, 0.4], [0.52, 0.5]], [[0.5, 0.6]]], 0.3);
        writeFileSync(paths[0], writeSafetensors(new Map([["digit", { dtype: "float32", shape: [8, 8], data }]])));
        """,
        drawn,
    )
    digit = load_file(drawn)["digit"]
    assert digit.sum() / (64 * 16) == pytest.approx(0.3, abs=0.005)
    assert (digit.max(axis=1) > 0).all()
    assert digit[:, [0, 7]].sum() == 0
    assert (digit[:, 3:5].sum(axis=0) > digit.sum() / 3).all()


def bits(tensors: Mapping[str, Array]) -> dict[str, tuple[object, ...]]:
    return {name: (array.shape, array.dtype, array.tobytes()) for name, array in tensors.items()}


def test_state_is_packed_and_unpacked_by_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    named: dict[str, Array] = {
        "b": rng.standard_normal((2, 3)).astype(np.float32),
        "step": np.array(7, np.int64),
        "a": rng.standard_normal(()).astype(np.float32),
        "half": np.arange(3, dtype=np.uint8),
        "c": rng.standard_normal((4,)).astype(np.float32),
    }
    files = [tmp_path / name for name in ("named.safetensors", "packed.safetensors", "unpacked.safetensors")]
    save_file(named, files[0])
    offsets = {"c": 0, "b": 4, "a": 10}
    packed = {
        "name": "packed.float32",
        "dtype": "float32",
        "size": 11,
        "tensors": [{"name": name, "offset": offset} for name, offset in offsets.items()],
    }
    state = [{"name": name, "shape": list(array.shape)} for name, array in named.items()]
    manifest = json.dumps({"packed": [packed], "state": state})
    script(
        f"const manifest = {manifest};"
        """
        const packed = pack(read(paths[0]), manifest);
        writeFileSync(paths[1], writeSafetensors(packed));
        writeFileSync(paths[2], writeSafetensors(unpack(packed, manifest)));
        """,
        *files,
    )
    flat = load_file(files[1])
    assert set(flat) == {"packed.float32", "step", "half"}
    assert np.array_equal(flat["packed.float32"], np.concatenate([named[name].ravel() for name in offsets]))
    again = load_file(files[2])
    assert bits(again) == bits(named)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    save_file({"a": np.zeros(8, np.float32)}, whole)
    script(
        """
        const bytes = new Uint8Array(readFileSync(paths[0]));
        for (const length of [0, 4, 30, bytes.length - 1]) {
          let said = "";
          try { readSafetensors(bytes.subarray(0, length)); } catch (error) { said = error.message; }
          if (!said.startsWith("this is not a complete safetensors file")) throw new Error(`${length}: ${said}`);
        }
        """,
        whole,
    )
