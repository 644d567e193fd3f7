"""State in flat buffers: a run by packed programs is that by programs which take each tensor by name, bit for bit."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from safetensors.numpy import load_file

from netc.build import build
from netc.emit import write
from netc.rewrite import packed_state
from netc.rewrite.packed_state import Packable, layout
from netc.rewrite.passes import Target
from netc.spec.load import load
from netc.spec.text import parse_tree
from netc_runtime.artifact import Artifact
from netc_runtime.augmented import augmented_samples
from netc_runtime.checkpoint import checkpoint_paths
from netc_runtime.data import open_source
from netc_runtime.data.batches import batch_of
from netc_runtime.diagnose import origin_of_divergence
from netc_runtime.errors import DriverError
from netc_runtime.evaluate import data_section, evaluate_run
from netc_runtime.export import export_run
from netc_runtime.mc_dropout import predict_with_dropout
from netc_runtime.run import RunFolder
from netc_runtime.step import TrainingStep
from netc_runtime.trainer import TrainOptions, train
from tests.driver.conftest import CPU, Recorder
from tests.zoo import loaded

# Every program that there is: two phases of which the first freezes a layer that the second trains, and both another.
SPEC: dict[str, Any] = yaml.safe_load("""
netc: 1
name: packed
inputs: {image: {shape: [1, 8, 8]}, label: {classes: 10}}
data: {source: digits, scale: 0.0625, batch_size: 64, augment: [{type: PadCrop, pad: 1}]}
layers:
  - {name: frozen, type: Convolution, num_output: 4, kernel_size: 3}
  - {name: bn, type: BatchNorm, statistics: population}
  - {type: ReLU}
  - {name: ip, type: InnerProduct, num_output: 20}
  - {type: Dropout, dropout_ratio: 0.2}
  - {name: scores, type: InnerProduct, num_output: 10}
  - {name: loss, type: SoftmaxWithLoss}
  - {name: accuracy, type: Accuracy, bottom: [scores, label]}
solver: {type: SGD, base_lr: 0.1, momentum: 0.9, weight_average: 0.9, max_epochs: 2, population_batches: 5}
phases:
  - {epochs: 1, freeze: [frozen, ip]}
  - {freeze: frozen, solver: {type: Adam, base_lr: 0.002}}
run: {monitor_every: 10}
""")


def written(folder: Path, spec: dict[str, Any], target: Target = "web", packs: bool = True) -> Path:
    write(build(load(parse_tree(json.dumps(spec), "spec.yaml")), target, packs=packs), folder)
    return folder


def newest(run: Path) -> Path:
    return checkpoint_paths(run / "checkpoints")[0]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The spec with all programs, packed and not."""
    folder = tmp_path_factory.mktemp("packing")
    return {packs: written(folder / f"packed {packs}", SPEC, packs=packs) for packs in (True, False)}


@pytest.fixture(scope="module")
def runs(artifacts: dict[bool, Path]) -> dict[bool, Path]:
    """A whole run by each of them."""
    found = {packs: artifact.parent / f"run {packs}" for packs, artifact in artifacts.items()}
    for packs, run in found.items():
        train(TrainOptions(run, artifacts[packs], CPU), Recorder())
    return found


def test_the_buffers_of_an_artifact(artifacts: dict[bool, Path]) -> None:
    """In each program the same, frozen tensors apart, each tensor once, and nothing else left to feed but scalars."""
    manifest = json.loads((artifacts[True] / "manifest.json").read_text())
    state = {entry["name"]: entry for entry in manifest["state"]}
    buffers = {buffer["name"]: buffer for buffer in manifest["packed"]}
    assert list(buffers) == ["packed.float32", "packed.float32.constant"]
    constant = [part["name"] for part in buffers["packed.float32.constant"]["tensors"]]
    assert constant == ["frozen.weight", "frozen.bias"]
    packed = [part["name"] for buffer in buffers.values() for part in buffer["tensors"]]
    roles = ("parameter", "optimizer", "statistic", "average")
    assert sorted(packed) == sorted(name for name, entry in state.items() if entry["role"] in roles)
    for buffer in buffers.values():
        sizes = [int(np.prod(state[part["name"]]["shape"])) for part in buffer["tensors"]]
        assert [part["offset"] for part in buffer["tensors"]] == [0, *itertools.accumulate(sizes)][:-1]
        assert buffer["size"] == sum(sizes)
        assert all(part["shape"] == state[part["name"]]["shape"] for part in buffer["tensors"])
    assert manifest["graphs"].keys() > {"train", "train.1", "monitor", "monitor.1", "population", "sample", "augment"}
    for key, graph in manifest["graphs"].items():
        taken = {entry["name"]: entry for entry in graph["inputs"] if entry["role"] == "state"}
        assert not taken.keys() & set(packed), key
        model = onnx.load_model(artifacts[True] / graph["file"])
        said = {entry.key: entry.value for entry in model.metadata_props}
        own = [buffer for name, buffer in buffers.items() if name in taken]
        assert json.loads(said.get("netc.packed", "[]")) == own, key
        assert all(taken[buffer["name"]]["shape"] == [buffer["size"]] for buffer in own)
        nexts = [entry["feeds"] for entry in graph["outputs"] if entry["role"] == "next"]
        assert nexts == (["packed.float32", "step"] if key.startswith("train") else []), key
        for node in model.graph.node:
            entries = {entry.key: entry.value for entry in node.metadata_props}
            if entries["netc.part"] == "packing":
                assert entries["netc.rewrite"] == "packed_state"
                assert entries["netc.layer"] in ("netc", "frozen", "bn", "ip", "scores")


def test_a_run_has_the_same_bits(runs: dict[bool, Path]) -> None:
    """Checkpoints, which are of named tensors, byte for byte; what was monitored; the exported model."""
    packed, named = runs[True], runs[False]
    assert newest(packed).read_bytes() == newest(named).read_bytes()
    assert (packed / "monitor.csv").read_text() == (named / "monitor.csv").read_text()
    assert (packed / "init_from.json").exists() is (named / "init_from.json").exists()
    models = [export_run(run, host=CPU).path.read_bytes() for run in (packed, named)]
    assert models[0] == models[1]
    assert evaluate_run(packed, host=CPU).metrics == evaluate_run(named, host=CPU).metrics


def test_a_stopped_run_continues_exactly(artifacts: dict[bool, Path], runs: dict[bool, Path], tmp_path: Path) -> None:
    """Into the next phase; by programs that take their state otherwise too, since checkpoints are interchangeable."""
    run = tmp_path / "run"
    train(TrainOptions(run, artifacts[False], CPU, stop_after_epochs=1), Recorder())
    train(TrainOptions(run, artifacts[True], CPU, resume=True), Recorder())
    assert newest(run).read_bytes() == newest(runs[False]).read_bytes()


def test_masks_and_augmentation_are_the_same(
    artifacts: dict[bool, Path], runs: dict[bool, Path], tmp_path: Path
) -> None:
    np.save(tmp_path / "digit.npy", np.arange(64, dtype=np.float32).reshape(1, 8, 8) / 4)
    sure = [predict_with_dropout(run, [str(tmp_path / "digit.npy")], 5, host=CPU) for run in runs.values()]
    assert sure[0] == sure[1]
    seen = []
    for folder in artifacts.values():
        artifact = Artifact.load(folder)
        source = open_source(data_section(artifact.spec))
        seen.append(np.stack(augmented_samples(artifact, source, 2, CPU)(np.arange(3))))
    np.testing.assert_array_equal(seen[0], seen[1])


def test_weights_start_another_run(runs: dict[bool, Path], tmp_path: Path) -> None:
    spec = {**SPEC, "init_from": {"path": str(runs[True])}, "reinit": ["scores"]}
    artifact = written(tmp_path / "artifact", spec)
    train(TrainOptions(tmp_path / "run", artifact, CPU, stop_after_epochs=1), Recorder())
    begun, ended = (load_file(newest(run)) for run in (runs[True], tmp_path / "run"))
    np.testing.assert_array_equal(begun["frozen.weight"], ended["frozen.weight"])
    assert "frozen.weight" in json.loads((tmp_path / "run" / "init_from.json").read_text())["loaded"]


def test_lenet_dsn_trains_to_the_same_bits(tmp_path: Path) -> None:
    """The network of the example in the browser; ONNX Runtime fuses nothing else because state is packed."""
    content = []
    for packs in (True, False):
        write(
            build(loaded("lenet_dsn", "solver.max_iter=5", "solver.max_epochs=null"), "web", packs=packs),
            tmp_path / "a",
        )
        train(TrainOptions(tmp_path / f"run {packs}", tmp_path / "a", CPU), Recorder())
        content.append(newest(tmp_path / f"run {packs}").read_bytes())
    assert content[0] == content[1]


def test_the_step_knows_tensors_by_name(artifacts: dict[bool, Path]) -> None:
    """In its state, in the sentence about one that is missing, and about where a run diverged."""
    artifact = Artifact.load(artifacts[True])
    first = artifact.initial_state()
    step = TrainingStep(artifact, first, CPU)
    state = step.state()
    assert state.keys() == first.keys()
    assert all(np.array_equal(state[name], array) for name, array in first.items())
    with pytest.raises(DriverError, match=r'the state "ip.bias" should be float32 \[20\], not nothing'):
        step.load_state({name: array for name, array in state.items() if name != "ip.bias"})
    step.load_state({**state, "ip.bias": np.full(20, np.nan, np.float32)})
    source = open_source(data_section(artifact.spec))
    step.run(batch_of(source.train, artifact.graph("train").inputs_of("batch"), np.arange(64)))
    feeds = step.last_feeds()
    assert feeds is not None
    said = origin_of_divergence(artifact, feeds, 1)
    assert said == "the state was not finite already before this step (ip.bias)"


def test_other_targets_are_not_packed(tmp_path: Path) -> None:
    manifest = json.loads((written(tmp_path / "artifact", SPEC, "cpu") / "manifest.json").read_text())
    assert "packed" not in manifest


def test_no_buffer_is_larger_than_a_device_binds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is larger alone has a buffer of its own."""
    monkeypatch.setattr(packed_state, "MOST", 10)
    tensors = [Packable(f"t{n}", (n,), "layer") for n in (4, 6, 1, 12, 3, 2)]
    buffers = layout(tensors, frozenset(f"t{n}" for n in (4, 6, 1, 12, 3)))
    found = {buffer.name: [tensor.name for tensor in buffer.tensors] for buffer in buffers}
    assert found == {
        "packed.float32": ["t4", "t6"],
        "packed.float32.2": ["t1"],
        "packed.float32.3": ["t12"],
        "packed.float32.4": ["t3"],
        "packed.float32.constant": ["t2"],
    }


Change = Callable[[dict[str, Any]], object]
WRONG: list[tuple[str, Change]] = [
    ("at 1, not at 0 where it should follow", lambda m: m["packed"][0]["tensors"][0].update(offset=1)),
    ("which is no such tensor of the state", lambda m: m["packed"][0]["tensors"][0].update(name="other")),
    ("which is no such tensor of the state", lambda m: m["packed"][0]["tensors"][0].update(shape=[7])),
    ("which is no such tensor of the state", lambda m: m["packed"][0].update(dtype="float64")),
    ("has the size 3, but its tensors have", lambda m: m["packed"][0].update(size=3)),
    ('"packed" has one name twice', lambda m: m["packed"].append(m["packed"][0])),
    ('the key "tensors" is missing', lambda m: m["packed"][0].pop("tensors")),
    ('the state "packed.float32", which is not declared', lambda m: m["packed"].pop(0)),
    ("which is packed", lambda m: m["graphs"]["eval"]["inputs"][0].update(name="ip.weight")),
    ('the state "packed.float32" as float32 [9]', lambda m: m["graphs"]["eval"]["inputs"][0].update(shape=[9])),
]


@pytest.mark.parametrize(("sentence", "change"), WRONG, ids=[str(n) for n in range(len(WRONG))])
def test_wrong_buffers_are_one_sentence(
    sentence: str, change: Change, artifacts: dict[bool, Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(artifacts[True], tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["digest"]
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DriverError) as caught:
        Artifact.load(copy)
    assert sentence in str(caught.value)
    assert str(caught.value).endswith("; compile the spec again")


def test_a_packed_artifact_is_found_in_its_run(runs: dict[bool, Path]) -> None:
    assert RunFolder(runs[True]).load_artifact().packing.buffers
    assert not RunFolder(runs[False]).load_artifact().packing.buffers
