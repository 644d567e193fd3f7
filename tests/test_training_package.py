"""The training package: what other hosts train by, an artifact again, whichever state it begins with."""

import hashlib
import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from netc.build import build
from netc.emit import write
from netc.spec.load import load
from netc.spec.text import parse_tree
from netc_runtime.artifact import Artifact
from netc_runtime.augmented import augmented_samples
from netc_runtime.checkpoint import checkpoint_paths
from netc_runtime.data import open_source
from netc_runtime.errors import DriverError
from netc_runtime.export import export_run
from netc_runtime.mc_dropout import predict_with_dropout
from netc_runtime.trainer import TrainOptions, train
from netc_runtime.training_package import pack_training
from tests.command_line import Netc, in_process
from tests.driver.conftest import CPU, Recorder

SPEC: dict[str, Any] = yaml.safe_load("""
netc: 1
name: small
inputs: {image: {shape: [1, 8, 8]}, label: {classes: 10}}
data: {source: digits, mean: computed, std: computed, batch_size: 64}
layers:
  - {name: hidden, type: InnerProduct, num_output: 24}
  - {type: BatchNorm, name: bn}
  - {type: ReLU}
  - {type: Dropout, dropout_ratio: 0.1}
  - {name: scores, type: InnerProduct, num_output: 10}
  - {name: loss, type: SoftmaxWithLoss}
  - {name: accuracy, type: Accuracy, bottom: [scores, label]}
solver: {type: SGD, base_lr: 0.1, momentum: 0.9, lr_policy: {type: poly, power: 1.0}, max_epochs: 2}
""")
FILES = ["eval.onnx", "fold.onnx", "infer.onnx", "init.safetensors", "manifest.json", "train.onnx"]
PHASES = [{"iterations": 22, "freeze": "hidden"}, {}]


def written(folder: Path, **sections: Any) -> Path:
    write(build(load(parse_tree(json.dumps(SPEC | sections), "spec.yaml")), "web"), folder)
    return folder


def newest(run: Path) -> Path:
    return checkpoint_paths(run / "checkpoints")[0]


@dataclass(frozen=True)
class Trained:
    """An artifact, a run of it that was stopped after an epoch, and one that was not."""

    artifact: Path
    stopped: Path
    whole: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("package")
    found = Trained(written(folder / "artifact"), folder / "stopped", folder / "whole")
    train(TrainOptions(found.stopped, found.artifact, CPU, stop_after_epochs=1), Recorder())
    train(TrainOptions(found.whole, found.artifact, CPU), Recorder())
    return found


def test_a_package_is_an_artifact_that_begins_like_a_run(trained: Trained, tmp_path: Path) -> None:
    """What a host would have to find out before the first step is there: data statistics, and the number of steps."""
    report = pack_training(trained.artifact, tmp_path / "package")
    assert sorted(path.name for path in (tmp_path / "package").iterdir()) == FILES
    assert (report.step, report.files) == (0, 6)
    assert report.size == sum(path.stat().st_size for path in (tmp_path / "package").iterdir())
    package, own = Artifact.load(tmp_path / "package"), Artifact.load(trained.artifact)
    assert package.packing == own.packing
    state, last = package.initial_state(), load_file(newest(trained.whole))
    for name in ("image.mean", "image.std", "max_steps", "seed"):
        np.testing.assert_array_equal(state[name], last[name])
    assert float(state["max_steps"]) == 44
    np.testing.assert_array_equal(state["hidden.weight"], own.initial_state()["hidden.weight"])
    train(TrainOptions(tmp_path / "run", tmp_path / "package", CPU), Recorder())
    assert newest(tmp_path / "run").read_bytes() == newest(trained.whole).read_bytes()


def test_its_files_say_of_themselves_what_to_feed(trained: Trained, tmp_path: Path) -> None:
    pack_training(trained.artifact, tmp_path / "package")
    manifest = json.loads((tmp_path / "package" / "manifest.json").read_text())
    assert manifest["package"] == {
        "checkpoint": "init",
        "step": 0,
        "classes": [str(n) for n in range(10)],
        "value_range": [0.0, 16.0],
    }
    assert "init_from" not in manifest
    for file in FILES:
        content = (tmp_path / "package" / file).read_bytes()
        assert file == "manifest.json" or manifest["digests"][file] == hashlib.sha256(content).hexdigest()
    for file in ("train.onnx", "eval.onnx"):
        model = onnx.load_model(tmp_path / "package" / file)
        onnx.checker.check_model(model, full_check=True)
        said = {entry.key: entry.value for entry in model.metadata_props}
        assert json.loads(said["netc.state"]) == manifest["state"]
        assert json.loads(said["netc.metrics"]) == manifest["metrics"]
        assert json.loads(said["netc.classes"]) == manifest["package"]["classes"]
        assert json.loads(said["netc.value_range"]) == [0.0, 16.0]
        assert json.loads(said["netc.data"])["source"] == "digits"
        assert json.loads(said["netc.interface"]) == {
            side: manifest["graphs"][file.removesuffix(".onnx")][side] for side in ("inputs", "outputs")
        }


def test_a_stranger_trains_by_one_file_and_the_first_state(trained: Trained, tmp_path: Path) -> None:
    """With ONNX Runtime alone, as docs/artifact.md says: pack, pair what is next, unpack; then export the weights."""
    pack_training(trained.artifact, tmp_path / "package")
    said = onnx.load_model(tmp_path / "package" / "train.onnx").metadata_props
    properties = {entry.key: json.loads(entry.value) for entry in said if entry.value[:1] in "[{"}
    tensors = load_file(tmp_path / "package" / "init.safetensors")
    session = ort.InferenceSession(tmp_path / "package" / "train.onnx", providers=["CPUExecutionProvider"])
    fed = dict(tensors)
    for buffer in properties["netc.packed"]:
        flat = np.zeros(buffer["size"], buffer["dtype"])
        for part in buffer["tensors"]:
            values = fed.pop(part["name"]).reshape(-1)
            flat[part["offset"] : part["offset"] + values.size] = values
        fed[buffer["name"]] = flat
    interface = properties["netc.interface"]
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 64)
    images = rng.integers(0, 17, (10, 1, 8, 8))[labels].astype(np.float32)  # a picture for each label, to be learned
    losses = []
    for _ in range(12):
        inputs = {entry["name"]: fed.get(entry["name"]) for entry in interface["inputs"]}
        inputs |= {"image": images, "label": labels.astype(np.int32)}
        names = [entry["name"] for entry in interface["outputs"]]
        results = dict(zip(names, session.run(names, inputs), strict=True))
        losses.append(float(results["loss"]))
        fed |= {entry["feeds"]: results[entry["name"]] for entry in interface["outputs"] if entry["role"] == "next"}
    assert losses[-1] < 0.1 * losses[0]
    for buffer in properties["netc.packed"]:
        for part in buffer["tensors"]:
            size = int(np.prod(part["shape"]))
            fed[part["name"]] = fed[buffer["name"]][part["offset"] : part["offset"] + size].reshape(part["shape"])
        del fed[buffer["name"]]
    save_file(fed, tmp_path / "weights.safetensors")
    exported = export_run(tmp_path / "package", tmp_path / "model.onnx", str(tmp_path / "weights.safetensors"), CPU)
    assert exported.step == 12
    model = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (scores,) = model.run(["scores"], {"image": images})
    assert (scores.argmax(axis=1) == labels).all()


def test_a_package_of_a_checkpoint_continues_exactly(trained: Trained, tmp_path: Path) -> None:
    """With the batches that would have come next; the zip is that of any machine, byte for byte."""
    for name in ("one.zip", "two.ZIP"):
        report = pack_training(trained.stopped, tmp_path / name, "last")
        assert report.step == 22
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.ZIP").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as file:
        assert file.namelist() == FILES
        assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {entry.compress_type for entry in file.infolist()} == {zipfile.ZIP_STORED}
        file.extractall(tmp_path / "package")
    train(TrainOptions(tmp_path / "run", tmp_path / "package", CPU), Recorder())
    found, expected = load_file(newest(tmp_path / "run")), load_file(newest(trained.whole))
    assert int(found["step"]) == 44
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_programs_that_serve_neither_training_nor_export_are_left_out(trained: Trained, tmp_path: Path) -> None:
    """And whoever asks for them is told so."""
    data = {**SPEC["data"], "augment": [{"type": "PadCrop", "pad": 1}]}
    artifact = written(tmp_path / "artifact", data=data)
    pack_training(artifact, tmp_path / "package")
    assert {"sample", "augment"} <= Artifact.load(artifact).graphs.keys()
    package = Artifact.load(tmp_path / "package")
    assert package.graphs.keys() == {"train", "eval", "fold", "infer"}
    with pytest.raises(DriverError, match=r"is a training package, which has no augment\.onnx; use the artifact"):
        augmented_samples(package, open_source(data), 1, CPU)
    with pytest.raises(
        DriverError, match=r"was trained by a training package, which has no sample\.onnx; predict without"
    ):
        predict_with_dropout(tmp_path / "package", ["test:0"], 1, host=CPU)


@pytest.mark.parametrize("step", [20, 22, 30])
def test_a_package_may_begin_in_any_phase(step: int, tmp_path: Path) -> None:
    """And in the middle of an epoch."""
    artifact = written(tmp_path / "artifact", phases=PHASES, run={"evaluate_every": {"steps": 10}, "keep": 9})
    train(TrainOptions(tmp_path / "whole", artifact, CPU), Recorder())
    checkpoint = tmp_path / "whole" / "checkpoints" / f"step_{step}.safetensors"
    pack_training(tmp_path / "whole", tmp_path / "package", str(checkpoint))
    train(TrainOptions(tmp_path / "run", tmp_path / "package", CPU), Recorder())
    found, expected = load_file(newest(tmp_path / "run")), load_file(newest(tmp_path / "whole"))
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_weights_to_start_from_are_in_the_package(trained: Trained, tmp_path: Path) -> None:
    """Then the file that they came from is not needed any more."""
    start = {"path": str(trained.whole), "checkpoint": "last"}
    artifact = written(tmp_path / "artifact", init_from=start, reinit=["scores"])
    pack_training(artifact, tmp_path / "package")
    package = Artifact.load(tmp_path / "package")
    assert package.init_from is None
    state, last = package.initial_state(), load_file(newest(trained.whole))
    np.testing.assert_array_equal(state["hidden.weight"], last["hidden.weight"])
    assert not np.array_equal(state["scores.weight"], last["scores.weight"])


@pytest.mark.parametrize(
    ("solver", "phases", "length"),
    [
        ({"max_epochs": 4}, [{"epochs": 1}, {}], 22),
        ({"max_epochs": None, "max_iter": 60}, [{"iterations": 20}, {}], 20),
        ({"max_epochs": None, "max_iter": 60}, [{"epochs": 2}, {}], 44),
        ({"max_epochs": None, "max_iter": 60}, [], 60),
    ],
)
def test_the_first_phase_has_the_length_that_the_driver_gives_it(
    solver: dict[str, Any], phases: list[dict[str, Any]], length: int, tmp_path: Path
) -> None:
    artifact = written(tmp_path / "artifact", solver={**SPEC["solver"], **solver}, phases=phases)
    pack_training(artifact, tmp_path / "package")
    assert float(Artifact.load(tmp_path / "package").initial_state()["max_steps"]) == length


def test_a_package_of_a_later_phase_keeps_its_length_when_it_is_packed_again(tmp_path: Path) -> None:
    artifact = written(tmp_path / "artifact", phases=PHASES, solver={**SPEC["solver"], "max_epochs": 4})
    train(TrainOptions(tmp_path / "run", artifact, CPU, stop_after_epochs=3), Recorder())
    pack_training(tmp_path / "run", tmp_path / "first", "last")
    pack_training(tmp_path / "first", tmp_path / "second")
    states = [Artifact.load(tmp_path / name).initial_state() for name in ("first", "second")]
    assert [int(state["step"]) for state in states] == [66, 66]
    assert [float(state["phase_start"]) for state in states] == [22, 22]
    assert [float(state["max_steps"]) for state in states] == [66, 66], "from step 22 to 88"


@pytest.fixture
def netc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Netc:
    """`netc export --what train`."""
    run = in_process(monkeypatch, capsys)
    return lambda source, out, *options: run("export", source, "--what", "train", "-o", str(out), *options)


def test_the_command_compiles_for_the_target(trained: Trained, tmp_path: Path, netc: Netc) -> None:
    """A spec, or what was compiled for another one: the same state, by other programs."""
    spec = tmp_path / "spec.yaml"
    spec.write_text(json.dumps(SPEC))
    options: Sequence[tuple[str, str | None, str]] = [
        (str(spec), "web", "web"),
        (str(spec), None, "cpu"),
        (str(trained.artifact), "cpu", "cpu"),
        (str(trained.stopped), None, "web"),
    ]
    states = []
    for number, (source, target, expected) in enumerate(options):
        out = tmp_path / str(number)
        result = netc(source, out, *(["--target", target] if target else []))
        assert result.code == 0, result.err
        assert re.fullmatch(rf"packed {out}: 6 files, 0\.\d MB, the state of init after 0 steps\n", result.out)
        package = Artifact.load(out)
        assert package.target == expected
        assert bool(package.packing.buffers) is (expected == "web")
        states.append(package.initial_state())
    for name, array in states[0].items():
        assert all(np.array_equal(state[name], array) for state in states), name
    result = netc(str(spec), tmp_path / "json", "--set", "solver.max_epochs=1", "--json")
    assert json.loads(result.out)["step"] == 0
    assert float(Artifact.load(tmp_path / "json").initial_state()["max_steps"]) == 22


def test_bad_input_is_one_sentence(trained: Trained, tmp_path: Path, netc: Netc) -> None:
    full, file, out = tmp_path / "full", tmp_path / "file", tmp_path / "out"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    file.write_text("mine")
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "packed.zip").touch()
    run, artifact = str(trained.stopped), str(trained.artifact)
    cases: list[tuple[str, Path, list[str], str]] = [
        (run, out, ["--what", "tran"], "Invalid value for '--what'"),
        (run, full, [], f"{full} is not empty; name another folder"),
        (run, file, [], f"{file} is a file; name a folder, or a file that ends in .zip"),
        (run, tmp_path / "folder.zip", [], "folder.zip is a folder; name a zip file"),
        (run, file / "below", [], "a part of this path is a file, not a folder; choose another place"),
        (run, file / "b.zip", [], "a part of this path is a file, not a folder; choose another place"),
        (run, out, ["--checkpoint", "step_9"], "there is no checkpoint step_9; give last, best, or"),
        (artifact, out, ["--checkpoint", "last"], f"{artifact} is a compiled folder, which has no checkpoints: name"),
        ("lenet", out, ["--checkpoint", "best"], "lenet is a spec, which has no checkpoints: name a run folder, or"),
        (run, out, ["--set", "name=x"], "is compiled already; give the spec instead"),
        ("no_such_spec", out, [], "no_such_spec"),
        (str(tmp_path / "packed.zip"), out, [], "packed.zip is a zip file; unpack it, and name the folder"),
        (run, out, ["--int8"], "--int8 is for the inference model: drop it, or drop --what train"),
        (run, out, ["--what", "model", "--target", "web"], "--target chooses what --what train packs"),
    ]
    for source, place, options, sentence in cases:
        result = netc(source, place, *options)
        assert (result.code, result.out) == (2, ""), options
        assert sentence in result.err, options
        assert not out.exists()
        assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
    assert [path.name for path in full.iterdir()] == ["mine.txt"]
    assert file.read_text() == "mine"


def test_a_zip_takes_the_place_of_an_older_file_when_it_is_complete(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "out.zip"
    place.write_bytes(b"older")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("zipfile.ZipFile.writestr", full)
        with pytest.raises(DriverError, match="the disk is full"):
            pack_training(trained.artifact, place)
    assert place.read_bytes() == b"older"
    pack_training(trained.artifact, place)
    with zipfile.ZipFile(place) as file:
        assert file.namelist() == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["out.zip"]


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_a_storage_that_refuses_is_one_sentence(
    name: str, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, netc: Netc
) -> None:
    """The last step fails as without permission; nothing is left behind."""

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr(Path, "replace", refuse)
    result = netc(str(trained.artifact), tmp_path / name)
    assert result.code == 3
    assert result.err == (
        f"error: cannot write {tmp_path / name}: permission denied; change the permissions or choose another place\n"
    )
    assert not list(tmp_path.iterdir())


def test_what_is_not_at_hand_is_refused(tmp_path: Path) -> None:
    """Statistics of data that are elsewhere, and weights to start from; a mere number of steps is left to the host."""
    data = {**SPEC["data"], "source": "mnist", "path": str(tmp_path / "nowhere")}
    inputs = {"image": {"shape": [1, 28, 28]}, "label": {"classes": 10}}
    artifact = written(tmp_path / "statistics", data=data, inputs=inputs)
    with pytest.raises(DriverError, match="nowhere"):
        pack_training(artifact, tmp_path / "out")
    artifact = written(tmp_path / "start", init_from={"path": str(tmp_path / "lost")})
    with pytest.raises(DriverError, match=r"init_from: .*lost does not exist; check the path"):
        pack_training(artifact, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    artifact = written(tmp_path / "length", data={**data, "mean": 0.0, "std": 1.0}, inputs=inputs)
    said: list[str] = []
    pack_training(artifact, tmp_path / "out", warn=said.append)
    assert said == [
        "the training data is not on this machine, so that the length of training is not known: the host has to set "
        '"max_steps" to the number of steps before the first one'
    ]


WEIGHTS: list[tuple[str, dict[str, Any]]] = [
    ("does not hold the weights of small: it lacks hidden.weight; save the state under", {"hidden.weight": None}),
    ("it lacks bn.running_mean", {"bn.running_mean": None}),
    ("scores.bias (float32 [3] there, float32 [10] here)", {"scores.bias": np.zeros(3, np.float32)}),
    ("has values that are not finite in scores.bias", {"scores.bias": np.full(10, np.nan, np.float32)}),
]


@pytest.mark.parametrize(("sentence", "changes"), WEIGHTS, ids=[sentence for sentence, _ in WEIGHTS])
def test_weights_of_another_network_are_refused(
    sentence: str, changes: dict[str, Any], trained: Trained, tmp_path: Path
) -> None:
    state = {**load_file(newest(trained.whole)), **changes}
    save_file({name: array for name, array in state.items() if array is not None}, tmp_path / "weights.safetensors")
    with pytest.raises(DriverError) as caught:
        export_run(trained.artifact, tmp_path / "model.onnx", str(tmp_path / "weights.safetensors"), CPU)
    assert f"{tmp_path / 'weights.safetensors'}" in str(caught.value)
    assert sentence in str(caught.value)


def test_a_state_inside_an_update_is_refused(tmp_path: Path) -> None:
    solver = {**SPEC["solver"], "iter_size": 2}
    artifact = written(tmp_path / "artifact", solver=solver)
    state = {**Artifact.load(artifact).initial_state(), "micro_batch": np.array(1, np.int64)}
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(DriverError, match="after batch 1 of 2 of an update; save it when the update is complete"):
        pack_training(artifact, tmp_path / "package", str(tmp_path / "weights.safetensors"))
