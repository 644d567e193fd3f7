"""A thousand damaged files: each is refused in one sentence, or what is loaded is what was written.

Files that carry a digest may never be loaded with other values: checkpoints, artifacts, exported models. Data files of
other makers have none. There a changed pixel is no damage that anybody could see; but what is loaded has to be what the
file says, read here by other means.
"""

import gzip
import json
import lzma
import random
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from netc_runtime.artifact import Artifact
from netc_runtime.checkpoint import Checkpoint
from netc_runtime.data import open_source
from netc_runtime.errors import DriverError
from netc_runtime.evaluate import Evaluator
from netc_runtime.export import export_run
from netc_runtime.images import read_image
from netc_runtime.model import Model
from netc_runtime.npyfile import map_array
from netc_runtime.step import TrainingStep
from tests.driver.conftest import CPU, Recorder
from tests.driver.handmade import write_artifact as write_handmade

LIMIT = 20  # seconds for one file: any longer is a hang


@contextmanager
def no_hang() -> Iterator[None]:
    def ring(*arguments: object) -> None:
        pytest.fail(f"it hangs: no answer within {LIMIT} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def damaged(content: bytes, chance: random.Random, header: int) -> bytes:
    """Truncate, lengthen, flip bits, exchange parts, or claim huge sizes; half of it within the first bytes."""
    changed = bytearray(content)
    end = chance.choice([min(header, len(content)), len(content)])
    kind = chance.randrange(8)
    if kind == 0:
        return content[: chance.randrange(end)]
    if kind == 1:
        return content + chance.randbytes(chance.randint(1, 100))
    if kind == 2:
        start, other = sorted(chance.randrange(len(content)) for _ in range(2))
        return content[other:] + content[start:other] + content[:start]
    if kind == 3:  # a huge number of 4 or 8 bytes
        size = chance.choice([4, 8])
        start = chance.randrange(max(end - size, 1))
        changed[start : start + size] = chance.choice([b"\xff", b"\x7f", b"\x00"]) * size
    elif kind == 4:  # a piece of another place
        size = chance.randint(1, 64)
        start, source = chance.randrange(end), chance.randrange(len(content))
        changed[start : start + size] = content[source : source + size]
    elif kind == 5:
        start = chance.randrange(end)
        changed[start : start + chance.randint(1, 20)] = b""
    elif kind == 6:
        start = chance.randrange(end)
        size = chance.randint(1, 30)
        changed[start : start + size] = chance.randbytes(size)
    else:
        for _ in range(chance.choice([1, 1, 1, 3])):
            changed[chance.randrange(end)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def refused_or_same(
    path: Path, count: int, read: Callable[[], Any], same: Callable[[Any], bool], header: int = 256, least: float = 0.0
) -> None:
    """Damage a file so many times; at least the share `least` of them has to be refused."""
    content, chance, sentences = path.read_bytes(), random.Random(path.name), list[str]()
    try:
        for number in range(count):
            bad = content
            while bad == content:
                bad = damaged(content, chance, header)
            path.write_bytes(bad)
            with no_hang():
                try:
                    found = read()
                except DriverError as error:
                    sentences.append(str(error))
                    continue
            assert same(found), f"{path.name}, damage {number} of {len(content)} bytes: loaded with other values"
    finally:
        path.write_bytes(content)
    assert not [sentence for sentence in sentences if "\n" in sentence or len(sentence) > 1000]
    assert len(sentences) >= least * count


def equal(found: Any, expected: Any) -> bool:
    if found.keys() != expected.keys():
        return False
    return all(found[n].dtype == a.dtype and found[n].tobytes() == a.tobytes() for n, a in expected.items())


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small artifact of the compiler."""
    from netc.build import build
    from netc.emit import write
    from netc.spec.load import load
    from netc.spec.text import read_tree

    folder = tmp_path_factory.mktemp("damaged") / "artifact"
    write(build(load(read_tree(Path(__file__).parents[1] / "specs" / "mlp.yaml"))), folder)
    return folder


@pytest.fixture(scope="module")
def run(compiled: Path) -> Path:
    """A run of one epoch with its model."""
    from netc_runtime.trainer import TrainOptions, train

    run = compiled.parent / "run"
    train(TrainOptions(run, compiled, CPU, stop_after_epochs=1), Recorder())
    export_run(run, host=CPU, verify=False)
    return run


def test_checkpoints(run: Path, compiled: Path) -> None:
    artifact = Artifact.load(compiled)
    (path,) = (run / "checkpoints").iterdir()
    whole = Checkpoint.load(path, artifact)

    def same(found: Checkpoint) -> bool:
        return equal(found.state, whole.state) and found.position == whole.position and found.seed == whole.seed

    refused_or_same(path, 220, lambda: Checkpoint.load(path, artifact), same, header=8000, least=0.98)


def test_two_checkpoints_with_exchanged_tensors(run: Path, compiled: Path) -> None:
    """Headers and digests are sound, values of equal shapes changed their places."""
    artifact = Artifact.load(compiled)
    (path,) = (run / "checkpoints").iterdir()
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    first = header["hidden2.bias"]
    second = next(entry for name, entry in header.items() if name.startswith("hidden2.bias/"))
    first["data_offsets"], second["data_offsets"] = second["data_offsets"], first["data_offsets"]
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])
    with pytest.raises(DriverError, match="does not have the digest"):
        Checkpoint.load(path, artifact)
    path.write_bytes(content)


def test_first_states(compiled: Path) -> None:
    whole = Artifact.load(compiled).initial_state()
    path = compiled / "init.safetensors"
    refused_or_same(
        path, 100, lambda: Artifact.load(compiled).initial_state(), lambda found: equal(found, whole), 2000, least=0.98
    )


def test_manifests(compiled: Path) -> None:
    whole, path = Artifact.load(compiled), compiled / "manifest.json"
    refused_or_same(path, 120, lambda: Artifact.load(compiled), lambda found: bool(found == whole), 8000, least=0.95)


def test_manifests_without_digest(tmp_path: Path) -> None:
    """Those of other makers: what the driver reads from them is checked as far as it can be."""
    folder = write_handmade(tmp_path / "artifact")
    refused_or_same(folder / "manifest.json", 80, lambda: Artifact.load(folder), lambda found: found is not None, 8000)


@pytest.mark.parametrize("program", ["train", "eval"])
def test_programs(compiled: Path, program: str) -> None:
    artifact = Artifact.load(compiled)
    state, path = artifact.initial_state(), compiled / f"{program}.onnx"
    whole = path.read_bytes()

    def read() -> bytes:
        if program == "train":
            TrainingStep(artifact, state, CPU)
        else:
            Evaluator(artifact, CPU)
        return path.read_bytes()

    refused_or_same(path, 50, read, lambda found: bool(found == whole), 2000, least=0.98)


def test_programs_without_digest(tmp_path: Path) -> None:
    """ONNX Runtime reads what it is given: damage that leaves a graph with the same interface cannot be seen."""
    folder = write_handmade(tmp_path / "artifact")
    artifact = Artifact.load(folder)

    def read() -> bool:
        Evaluator(artifact, CPU)
        return True

    refused_or_same(folder / "eval.onnx", 60, read, bool, 4000)


def test_models(run: Path) -> None:
    path = run / "model.onnx"
    whole = path.read_bytes()
    values = {"image": np.linspace(0, 16, 64, dtype=np.float32).reshape(1, 1, 8, 8)}
    expected = Model(path, CPU).program(values, ("scores",))

    def read() -> Any:
        return Model(path, CPU).program(values, ("scores",))

    refused_or_same(path, 80, read, lambda found: equal(found, expected), len(whole) // 2, least=0.95)


def test_a_model_whose_tensors_lie_elsewhere(run: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(run / "model.onnx")
    model.metadata_props.remove(next(entry for entry in model.metadata_props if entry.key == "netc.digest"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="elsewhere.bin", size_threshold=0)
    with pytest.raises(DriverError, match="in another file, which netc does not read; save the model as one file"):
        Model(path, CPU)


# -- data of other makers ----------------------------------------------------------------------------------------


def idx(array: Any) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def from_idx(content: bytes) -> Any:
    """What an IDX file says, whatever its length."""
    axes = content[3]
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(np.frombuffer(content, ">u4", axes, 4))


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_idx(tmp_path: Path, ending: str, name: str) -> None:
    chance = np.random.default_rng(1)
    for part, count in (("train", 12), ("t10k", 8)):
        arrays = {
            "images-idx3": chance.integers(0, 255, (count, 6, 5), np.uint8),
            "labels-idx1": (np.arange(count) % 3).astype(np.uint8),
        }
        for kind, array in arrays.items():
            content = idx(array)
            file = tmp_path / f"{part}-{kind}-ubyte{ending}"
            file.write_bytes(gzip.compress(content, mtime=0) if ending else content)
    path, part, key = tmp_path / f"{name}{ending}", name.split("-")[0], "image" if "images" in name else "label"
    whole = path.read_bytes()

    def same(found: Any) -> bool:
        said = from_idx(gzip.decompress(path.read_bytes()) if ending else path.read_bytes())
        values = found.split("train" if part == "train" else "test")[key]
        if ending and path.read_bytes() != whole and values.tobytes() != from_idx(gzip.decompress(whole)).tobytes():
            return False  # gzip has a checksum
        return bool(values.tobytes() == said.tobytes())

    refused_or_same(path, 50, lambda: open_source({"source": "idx", "path": str(tmp_path)}), same, 16, least=0.3)


@pytest.mark.parametrize("ending", ["", ".gz", ".xz"])
def test_cifar(tmp_path: Path, ending: str) -> None:
    records = np.random.default_rng(1).integers(0, 9, (4, 3073), np.uint8)
    pack: Any = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[ending]
    unpack: Any = {"": bytes, ".gz": gzip.decompress, ".xz": lzma.decompress}[ending]
    for name in ("data_batch_1.bin", "test_batch.bin"):
        (tmp_path / f"{name}{ending}").write_bytes(pack(records.tobytes()))
    path = tmp_path / f"data_batch_1.bin{ending}"

    def same(found: Any) -> bool:
        said = np.frombuffer(unpack(path.read_bytes()), np.uint8).reshape(-1, 3073)
        if ending and said.tobytes() != records.tobytes():
            return False  # both have checksums
        return bool(
            (found.train["label"] == said[:, 0]).all() and found.train["image"].tobytes() == said[:, 1:].tobytes()
        )

    refused_or_same(path, 50, lambda: open_source({"source": "cifar10", "path": str(tmp_path)}), same, 40, least=0.3)


def test_npy(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32))

    def same(found: Any) -> bool:
        # numpy itself reads the same, so that no value comes from anywhere else.
        return bool(found.tobytes() == np.load(path).tobytes())

    refused_or_same(path, 120, lambda: map_array(path), same, 128, least=0.3)


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "gif", "ppm", "tiff", "webp"])
def test_images(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    pixels = np.random.default_rng(1).integers(0, 255, (16, 16), np.uint8)
    Image.fromarray(pixels).convert("RGB").save(path)
    expected = (1, 8, 8)

    def same(found: Any) -> bool:
        return bool(found.shape == expected and np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1)

    refused_or_same(path, 30, lambda: read_image(path, expected, 0.0, 1.0), same, 64)


def test_a_run_with_any_file_cut_in_half_is_no_crash(run: Path, tmp_path: Path) -> None:
    from netc_runtime.evaluate import evaluate_run

    for file in sorted(path for path in run.rglob("*") if path.is_file()):
        copy = tmp_path / "copy"
        shutil.copytree(run, copy)
        target = copy / file.relative_to(run)
        target.write_bytes(target.read_bytes()[: target.stat().st_size // 2])
        with no_hang(), suppress(DriverError):
            evaluate_run(copy, host=CPU)
        shutil.rmtree(copy)
