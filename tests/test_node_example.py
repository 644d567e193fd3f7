"""examples/node trains as the driver does, and the host in JavaScript reads, writes and packs as Python does."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from netc_runtime.arrays import Array
from netc_runtime.data import open_source
from netc_runtime.data.resize import resize_bilinear
from tests.javascript import (
    AGREEMENTS,
    EXAMPLES,
    FIRST,
    STEPS,
    package_of_a_checkpoint,
    prepare,
    program,
    require_agreement,
    require_package,
    spoilt,
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
    assert metadata_of(weights) == {
        "network": "lenet_dsn",
        "step": str(steps),
        "trained_by": "netc node example",
    }
    if steps == STEPS:
        accuracy = re.search(r"^test: .* accuracy (\d\.\d+)", result.stdout, flags=re.MULTILINE)
        assert accuracy is not None, result.stdout
        assert float(accuracy[1]) > 0.9
        shown = [line.split() for line in result.stdout.splitlines() if line.startswith("test:")]
        assert shown[1][:2] == ["test:0", "1"]
        assert all(0.1 < float(words[2]) <= 1 for words in shown[1:]), "the largest of ten probabilities"


def metadata_of(weights: Path) -> dict[str, str]:
    with safe_open(weights, framework="numpy") as file:
        return dict(file.metadata())


def test_a_package_of_a_checkpoint_goes_on_where_that_ended(generated: Path, tmp_path: Path) -> None:
    """Its updates of two runs count on from there, by data without metadata and with statistics computed before."""
    require_package("node", "onnxruntime-node")
    folder, weights = package_of_a_checkpoint(generated, tmp_path), tmp_path / "weights.safetensors"
    data = folder / "digits.safetensors"
    save_file(load_file(data), data)
    result = node("train.mjs", "--generated", str(folder), "--steps", "3", "--threads", "1", "--out", str(weights))
    assert result.returncode == 0, result.stderr
    assert f"step {FIRST + 3}/{FIRST + 3}  total " in result.stdout
    require_agreement(weights, trained_by_the_driver(folder, 3), 1e-5, "onnxruntime-node")
    assert metadata_of(weights)["step"] == str(FIRST + 3)
    assert len(re.findall(r"^test:\d  \d  ", result.stdout, flags=re.MULTILINE)) == 5


def test_training_that_diverges_leaves_no_weights(generated: Path, tmp_path: Path) -> None:
    require_package("node", "onnxruntime-node")
    (tmp_path / "model").symlink_to(generated / "model")
    spoilt(generated, tmp_path)
    options = ["--threads", "1", "--out", str(tmp_path / "weights.safetensors")]
    result = node("train.mjs", "--generated", str(tmp_path), *options)
    assert (result.returncode, result.stderr) == (4, "training diverged: total is NaN at step 1\n")
    assert {path.name for path in tmp_path.iterdir()} == {"model", "digits.safetensors"}


def damaged_data(folder: Path) -> list[str]:
    (folder / "digits.safetensors").write_bytes(b"short")
    return []


def damaged_manifest(folder: Path) -> list[str]:
    (folder / "model" / "manifest.json").write_bytes(b"{")
    return []


def damaged_program(folder: Path) -> list[str]:
    (folder / "model" / "train.onnx").write_bytes(b"no program")
    return []


def phases(folder: Path) -> list[str]:
    path = folder / "model" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"phases": [{}, {}]}), encoding="utf-8")
    return []


def few_labels(folder: Path) -> list[str]:
    data = load_file(folder / "digits.safetensors")
    save_file(data | {"test.label": data["test.label"][:7]}, folder / "digits.safetensors")
    return []


def no_samples(folder: Path) -> list[str]:
    data = load_file(folder / "digits.safetensors")
    save_file({name: array[:0] for name, array in data.items()}, folder / "digits.safetensors")
    return []


def a_number(folder: Path) -> list[str]:
    data = load_file(folder / "digits.safetensors")
    save_file(data | {"train.image": np.array(1, np.float32)}, folder / "digits.safetensors")
    return []


def nowhere(folder: Path) -> list[str]:
    return ["--out", str(folder / "nowhere" / "weights.safetensors")]


def a_folder(folder: Path) -> list[str]:
    return ["--out", str(folder / "model")]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damaged_data, "this is not a complete safetensors file: it has only 5 bytes"),
        (damaged_manifest, "manifest.json is not JSON ("),
        (damaged_program, "train.onnx cannot be loaded: "),
        (phases, "lenet_dsn is trained in phases, which this host does not do; train it with netc train"),
        (few_labels, 'the data have 360 samples of "test.image", but 7 of "test.label"'),
        (no_samples, "has no samples; its shape is [0"),
        (a_number, 'the field "train.image" of the data has no samples; its shape is []'),
        (nowhere, "nowhere, the folder of --out, does not exist"),
        (a_folder, "model is a folder; name a file"),
    ],
)
def test_what_is_damaged_is_said_in_a_sentence_before_training(
    damage: Callable[[Path], list[str]], said: str, generated: Path, tmp_path: Path
) -> None:
    require_package("node", "onnxruntime-node")
    shutil.copytree(generated, tmp_path / "generated")
    result = node("train.mjs", "--generated", str(tmp_path / "generated"), *damage(tmp_path / "generated"))
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert "    at " not in result.stderr  # a line of a stack


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--generated", "nowhere"],
            "nowhere/model/manifest.json does not exist; make it with python examples/browser/prepare.py",
        ),
        (["--steps", "few"], "--steps should be a whole number from 1 to 2147483647, not few"),
        (["--threads", "9999"], "--threads should be a whole number from 0 to 256, not 9999"),
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
        'import { Artifact, HostError, Trainer, readSafetensors, writeSafetensors } from "../javascript/index.mjs";'
        'import { pack, unpack } from "../javascript/state.mjs";'
        'import { digitOf, resized } from "../browser/strokes.mjs";'
        f"const paths = {json.dumps([str(file) for file in files])};"
        "const read = (path) => readSafetensors(readFileSync(path)).tensors;"
        "const sentence = async (action) => { try { await action(); } catch (error) {"
        "  if (error instanceof HostError) return error.message; throw error; } return 'nothing'; };"
        "const require = (found, expected) => {"
        "  if (!found.includes(expected)) throw new Error(`${found} instead of ${expected}`); };"
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


def test_damaged_files_of_tensors_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    save_file({"a": np.zeros(8, np.float32)}, whole)
    tensor = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    headers = {
        "null": "its header is no object",
        "[]": "its header is no object",
        '{"a":{}}': "no shape and data_offsets of whole numbers",
        '{"a":null}': "no shape and data_offsets of whole numbers",
        f'{{"a":{tensor}}}'.replace("F32", "constructor"): 'the tensor "a" is constructor, which is not supported',
        f'{{"a":{tensor}}}'.replace("0,8", "0.5,8.5"): "no shape and data_offsets of whole numbers",
        f'{{"a":{tensor}}}'.replace("[2]", "[-1,-2]"): "no shape and data_offsets of whole numbers",
        f'{{"a":{tensor}}}'.replace("[2]", "[3]"): '"a" should have 12 bytes',
        f'{{"a":{tensor},"b":{tensor}}}': "its tensors overlap, or leave gaps",
        f'{{"__metadata__":[],"a":{tensor}}}': "its metadata are no object",
        "{}": "its tensors overlap, or leave gaps",
    }
    script(
        f"const headers = {json.dumps(headers)};"
        """
        const bytes = readFileSync(paths[0]);
        for (const length of [0, 4, 30, bytes.length - 1]) {
          const said = await sentence(() => readSafetensors(bytes.subarray(0, length)));
          require(said, "this is not a complete safetensors file");
        }
        for (const [header, expected] of Object.entries(headers)) {
          const file = Buffer.concat([Buffer.alloc(8), Buffer.from(header), Buffer.alloc(8)]);
          file.writeBigUInt64LE(BigInt(header.length));
          require(await sentence(() => readSafetensors(file)), expected);
        }
        """,
        whole,
    )


def test_an_artifact_that_asks_more_than_steps_is_refused(generated: Path) -> None:
    refused = [
        ({"phases": [{}]}, "lenet_dsn is trained in phases"),
        ({"init_from": {}}, "lenet_dsn starts from other weights"),
        ({"population_batches": 9}, "lenet_dsn ends with population statistics"),
        ({"state": [{"name": "image.mean", "role": "data_mean"}]}, "lenet_dsn computes statistics of data"),
        ({"state": [{"name": "other", "role": "parameter"}]}, 'init.safetensors has no tensor "other"'),
        ({"format_version": 2}, "is not a manifest of netc.artifact, version 1"),
        ({}, "nothing"),
    ]
    script(
        f"const refused = {json.dumps(refused)};"
        """
        for (const [keys, expected] of refused) {
          const manifest = { ...JSON.parse(readFileSync(`${paths[0]}/manifest.json`)), ...keys };
          const changed = Buffer.from(JSON.stringify(manifest));
          const file = (name) => (name === "manifest.json" ? changed : readFileSync(`${paths[0]}/${name}`));
          require(await sentence(() => Artifact.load(file)), expected);
        }
        """,
        generated / "model",
    )


def test_means_leave_out_batches_that_count_nothing_and_sessions_are_released() -> None:
    """By an engine that gives what it is told: a mean of nothing is NaN, and the third program is refused at first."""
    script(
        """
        const given = [[NaN, 0], [4, 2], [1, 1]];
        const tensor = (value) => ({ type: "float32", dims: [1], data: [value] });
        let [opened, released] = [0, 0];
        const session = {
          run: async () => { const [a, b] = given.shift(); return { loss: tensor(a), weight: tensor(b) }; },
          release: async () => { released += 1; },
        };
        class Tensor { constructor(type, data, dims) { Object.assign(this, { type, data, dims }); } }
        const create = async () => { if ((opened += 1) === 3) throw new Error("no such operator"); return session; };
        const ort = { Tensor, InferenceSession: { create } };
        const image = { name: "image", role: "batch", field: "image", dtype: "float32", shape: ["N", 1] };
        const program = {
          file: "a.onnx",
          inputs: [image],
          outputs: [{ name: "loss", role: "metric", weight: "weight" }, { name: "weight", role: "weight" }],
        };
        const graphs = { train: program, eval: program, fold: program, infer: program };
        const state = [{ name: "step", role: "step", dtype: "int64", shape: [] }];
        const initial = new Map([["step", { dtype: "int64", shape: [], data: new BigInt64Array(1) }]]);
        const artifact = new Artifact({ name: "made", batch_size: 2, state, graphs }, initial, async () => null);
        const said = await sentence(() => Trainer.create(ort, artifact, { maxSteps: 1 }));
        require(said, "a.onnx cannot be loaded: no such operator");
        if (released !== 2) throw new Error(`${released} of 2 sessions were released`);

        const trainer = await Trainer.create(ort, artifact, { maxSteps: 1 });
        const samples = { image: { dtype: "float32", shape: [5, 1], data: new Float32Array(5) } };
        const { metrics } = await trainer.evaluate(samples);
        if (metrics.loss !== 3) throw new Error(`the mean is ${metrics.loss}`);
        """
    )
