"""Transfer learning: what is loaded by name, what is frozen, what is drawn anew, whose rate differs."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from netc.build import build
from netc.emit import write
from netc.errors import SpecError
from netc.layers.tuning import matches
from netc.spec.load import load
from netc.spec.text import parse_tree
from netc_runtime.checkpoint import checkpoint_paths
from netc_runtime.errors import DamagedFileError, DriverError
from netc_runtime.export import export_run
from netc_runtime.trainer import TrainOptions, train
from netc_runtime.transfer import InitReport
from tests.driver.conftest import CPU, Recorder

SPEC: dict[str, Any] = yaml.safe_load("""
netc: 1
name: small
inputs:
  image: {shape: [1, 8, 8]}
  label: {classes: 10}
data: {source: digits, scale: 0.0625, batch_size: 32}
layers:
  - {name: conv1, type: Convolution, num_output: 8, kernel_size: 3, bias_term: false}
  - {name: bn1, type: BatchNorm}
  - {type: ReLU}
  - {name: res/1/conv2, type: Convolution, num_output: 8, kernel_size: 3, stride: 2}
  - {name: bn2, type: BatchNorm}
  - {type: ReLU}
  - {name: scores, type: InnerProduct, num_output: 10}
  - {name: loss, type: SoftmaxWithLoss}
  - {name: accuracy, type: Accuracy, bottom: [scores, label]}
solver: {type: SGD, base_lr: 0.05, momentum: 0.9, weight_decay: 0.001, max_epochs: 1}
""")
LOADED = {
    "conv1.weight",
    *(f"{bn}.{name}" for bn in ("bn1", "bn2") for name in ("weight", "bias", "running_mean", "running_var")),
    "res/1/conv2.weight",
    "res/1/conv2.bias",
    "scores.weight",
    "scores.bias",
}

Arrays = Mapping[str, np.ndarray]


def compiled(folder: Path, sections: Mapping[str, Any] | None = None, **solver: Any) -> Path:
    """Write the artifact of the spec with further sections and other options of its solver."""
    spec = SPEC | dict(sections or {})
    text = json.dumps(spec | {"solver": spec["solver"] | solver})
    write(build(load(parse_tree(text, "spec.yaml"))), folder)
    return folder


def trained(run: Path, **sections: Any) -> Recorder:
    """Train for an epoch; further sections as in the spec."""
    recorder = Recorder()
    train(TrainOptions(run, compiled(run.with_name(f"{run.name}.artifact"), sections), CPU), recorder)
    return recorder


def report_of(recorder: Recorder) -> InitReport:
    assert recorder.begun is not None
    assert recorder.begun.init_from is not None
    return recorder.begun.init_from


def last(run: Path) -> Arrays:
    return load_file(checkpoint_paths(run / "checkpoints")[0])


def mistakes(**sections: Any) -> str:
    with pytest.raises(SpecError) as caught:
        build(load(parse_tree(json.dumps(SPEC | sections), "spec.yaml")))
    return str(caught.value)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with model.onnx; tests must not change it."""
    run = tmp_path_factory.mktemp("source") / "run"
    trained(run)
    export_run(run, host=CPU)
    return run


@pytest.mark.parametrize(
    ("glob", "chosen"),
    [("conv1", True), ("conv*", True), ("conv1.weight", True), ("*.weight", True), ("conv1.bias", False),
     ("onv1", False), ("Conv1", False), ("conv?", True), ("conv[23]", False)],
)  # fmt: skip
def test_globs_match_names_of_layers_and_of_tensors(glob: str, chosen: bool) -> None:
    assert matches(glob, "conv1", "conv1.weight") == chosen


def test_stars_cross_slashes() -> None:
    assert matches("res3/**", "res3/1/conv2", "res3/1/conv2.weight")
    assert not matches("res3/*", "res30/1/conv2", "res30/1/conv2.weight")


@pytest.mark.parametrize("what", ["run", "best", "checkpoint", "artifact", "safetensors"])
def test_every_kind_of_source_loads_all(source: Path, tmp_path: Path, what: str) -> None:
    """With a learning rate too small to change anything, the weights after training are those that were loaded."""
    expected = last(source)
    path = {"checkpoint": checkpoint_paths(source / "checkpoints")[0], "artifact": source / "artifact"}.get(
        what, source
    )
    if what == "artifact":
        expected = load_file(path / "init.safetensors")
    if what == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file({name: expected[name].astype(np.float64) for name in LOADED}, path)
    init: Any = {"path": str(path), "checkpoint": "best"} if what == "best" else str(path)
    recorder = trained(tmp_path / "run", init_from=init, freeze=["conv*", "bn*", "res/*", "scores.bias"])
    report = report_of(recorder)
    assert set(report.loaded) == LOADED
    assert not report.missing
    assert not report.ignored
    assert not report.mismatched
    for name in LOADED - {"scores.weight"}:
        assert last(tmp_path / "run")[name].tobytes() == expected[name].tobytes(), name
    assert json.loads((tmp_path / "run" / "init_from.json").read_text()) == json.loads(json.dumps(report.as_dict()))


def test_an_exported_model_loads_what_has_a_name_there(source: Path, tmp_path: Path) -> None:
    recorder = trained(tmp_path / "run", init_from=str(source / "model.onnx"))
    report = report_of(recorder)
    # Export folds bn1 and bn2 into the convolutions.
    assert set(report.loaded) == {
        "conv1.weight",
        "res/1/conv2.weight",
        "res/1/conv2.bias",
        "scores.weight",
        "scores.bias",
    }
    assert set(report.missing) == LOADED - set(report.loaded)
    assert report.ignored == ("conv1.bias",)


def test_the_report_names_what_is_missing_ignored_mismatched_and_drawn(source: Path, tmp_path: Path) -> None:
    state = {name: array for name, array in last(source).items() if not name.startswith("bn2")}
    state["conv1.weight"] = np.zeros((8, 3, 3, 3), np.float32)
    state["other.weight"], state["count"] = np.zeros((2, 2), np.float32), np.zeros(3, np.int64)
    save_file(state, tmp_path / "weights.safetensors")
    recorder = trained(tmp_path / "run", init_from=str(tmp_path / "weights.safetensors"), reinit="scores")
    report = report_of(recorder)
    assert list(report.lines()) == [
        f"init_from {tmp_path / 'weights.safetensors'}: 6 tensors loaded",
        "  4 not in the file: bn2.weight, bn2.bias, bn2.running_mean, bn2.running_var",
        "  1 of another shape: conv1.weight [8, 3, 3, 3] there, [8, 1, 3, 3] here",
        "  2 drawn anew: scores.weight, scores.bias",
        "  1 of the file not used: other.weight",
    ]


def test_reinit_draws_what_training_without_it_would_draw(source: Path, tmp_path: Path) -> None:
    """Only `scores.bias` learns, so the drawn weight is still there after training."""
    sections = {"reinit": ["scores.weight"], "freeze": ["conv1", "bn?", "res/**", "scores.weight"]}
    trained(tmp_path / "run", init_from=str(source), **sections)
    first = load_file(tmp_path / "run" / "artifact" / "init.safetensors")["scores.weight"]
    assert last(tmp_path / "run")["scores.weight"].tobytes() == first.tobytes()
    assert first.tobytes() != last(source)["scores.weight"].tobytes()


def test_solver_memory_is_never_loaded(source: Path, tmp_path: Path) -> None:
    """One step from a run with momentum: the velocity is that of this step alone."""
    sections = {"init_from": str(source), "freeze": ["conv*", "bn*", "res/*"]}
    artifact = compiled(tmp_path / "artifact", sections, max_epochs=None, max_iter=1, weight_decay=0.0)
    train(TrainOptions(tmp_path / "run", artifact, CPU), Recorder())
    before, after = last(source), last(tmp_path / "run")
    assert np.abs(before["scores.weight/velocity"]).max() > 0
    np.testing.assert_array_equal(after["scores.weight"], before["scores.weight"] - after["scores.weight/velocity"])


def test_rename_maps_names_by_globs(source: Path, tmp_path: Path) -> None:
    renamed = {name.replace("res/1/conv2", "features.3").replace("bn", "norm."): a for name, a in last(source).items()}
    save_file(renamed, tmp_path / "weights.safetensors")
    rename = {"features.3.*": "res/1/conv2.*", "norm.*": "bn*"}
    recorder = trained(tmp_path / "run", init_from={"path": str(tmp_path / "weights.safetensors"), "rename": rename})
    report = report_of(recorder)
    assert set(report.loaded) == LOADED


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        ({"nope.*": "conv1.*"}, 'rename has "nope.*", which no tensor of'),
        ({"bn1.*": "bn2.*"}, "are both called"),
    ],
)
def test_renames_that_cannot_be_meant(source: Path, tmp_path: Path, rename: dict[str, str], said: str) -> None:
    with pytest.raises(DriverError, match=said.replace("*", r"\*")):
        trained(tmp_path / "run", init_from={"path": str(source), "rename": rename})
    assert not (tmp_path / "run").exists()


def test_frozen_parameters_stay_and_have_no_optimizer_state(tmp_path: Path) -> None:
    trained(tmp_path / "run", freeze=["conv1", "bn1", "scores.weight"])
    first = load_file(tmp_path / "run" / "artifact" / "init.safetensors")
    state = last(tmp_path / "run")
    frozen = {"conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var", "scores.weight"}
    for name in LOADED:
        assert (state[name].tobytes() == first[name].tobytes()) == (name in frozen), name
    memory = {name.rpartition("/")[0] for name in state if name.endswith("/velocity")}
    assert memory == {"res/1/conv2.weight", "res/1/conv2.bias", "bn2.weight", "bn2.bias", "scores.bias"}


def test_frozen_parameters_cost_no_gradient() -> None:
    """Below the lowest layer that learns, the step has no node of a gradient."""
    loaded = load(parse_tree(json.dumps(SPEC | {"freeze": ["conv1", "bn1", "res/*", "bn2"]}), "spec.yaml"))
    nodes = list(build(loaded).programs["train"].graph)
    layers = {n.metadata_props["netc.layer"] for n in nodes if n.metadata_props.get("netc.part") in ("grad", "update")}
    assert layers == {"scores", "loss", "solver"}


def test_a_frozen_batch_norm_uses_its_statistics(source: Path, tmp_path: Path) -> None:
    """Training loss with all norms frozen is that of evaluation: the running values normalise both."""
    sections = {"init_from": str(source), "freeze": ["bn*", "conv*", "res/*", "scores.weight"]}
    artifact = compiled(tmp_path / "artifact", sections, base_lr=1e-30, momentum=0.0, weight_decay=0.0)
    recorder = Recorder()
    train(TrainOptions(tmp_path / "run", artifact, CPU), recorder)
    on_train = np.mean([step.metrics["loss"] for step in recorder.steps])
    other = Recorder()
    artifact = compiled(tmp_path / "other", sections | {"freeze": []}, base_lr=1e-30, momentum=0.0, weight_decay=0.0)
    train(TrainOptions(tmp_path / "other_run", artifact, CPU), other)
    assert recorder.epochs[-1].test["loss"] != other.epochs[-1].test["loss"]  # those statistics went on moving
    source_test = json.loads((source / "metrics.jsonl").read_text().splitlines()[-1])["test"]["loss"]
    assert recorder.epochs[-1].test["loss"] == pytest.approx(source_test, rel=1e-6)
    assert abs(on_train - source_test) < 0.3 * source_test


def test_only_the_parameters_of_a_frozen_norm_are_frozen_by_their_names(tmp_path: Path) -> None:
    trained(tmp_path / "run", freeze=["bn1.weight", "bn1.bias"])
    first, state = load_file(tmp_path / "run" / "artifact" / "init.safetensors"), last(tmp_path / "run")
    assert state["bn1.weight"].tobytes() == first["bn1.weight"].tobytes()
    assert state["bn1.running_mean"].tobytes() != first["bn1.running_mean"].tobytes()


def test_factors_of_the_learning_rate_multiply(tmp_path: Path) -> None:
    """One step of plain descent moves each parameter by its factors."""
    layers = [dict(layer) for layer in SPEC["layers"]]
    layers[6]["param"] = [{"lr_mult": 2.0}]
    moved: list[dict[str, np.ndarray]] = []
    for number, factors in enumerate(({}, {"*": 0.5, "scores": 0.25, "conv1.weight": 0.0})):
        sections = {"layers": layers, "lr_mult": factors}
        options = {"max_epochs": None, "max_iter": 1, "momentum": 0.0, "weight_decay": 0.0}
        artifact = compiled(tmp_path / f"artifact{number}", sections, **options)
        train(TrainOptions(tmp_path / f"run{number}", artifact, CPU), Recorder())
        first, state = load_file(artifact / "init.safetensors"), last(tmp_path / f"run{number}")
        moved.append({name: first[name] - state[name] for name in first})
    for name, factor in {
        "scores.weight": 0.125,
        "scores.bias": 0.125,
        "res/1/conv2.weight": 0.5,
        "conv1.weight": 0.0,
    }.items():
        # A difference of weights up to 1 is exact to 1e-7.
        np.testing.assert_allclose(moved[1][name], moved[0][name] * factor, atol=2e-7, err_msg=name)
    assert np.abs(moved[0]["conv1.weight"]).max() > 1e-4


def test_a_run_goes_on_without_the_file_that_it_started_from(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    sections = {"init_from": str(copy), "freeze": ["conv1"], "reinit": ["scores"], "lr_mult": {"res/*": 0.1}}
    artifact = compiled(tmp_path / "artifact", sections, max_epochs=3)
    train(TrainOptions(tmp_path / "whole", artifact, CPU), Recorder())
    train(TrainOptions(tmp_path / "parts", artifact, CPU, stop_after_epochs=1), Recorder())
    shutil.rmtree(copy)
    recorder = Recorder()
    train(TrainOptions(tmp_path / "parts", artifact, CPU, resume=True), recorder)
    assert recorder.begun is not None
    assert recorder.begun.init_from is None
    newest = [checkpoint_paths(tmp_path / run / "checkpoints")[0] for run in ("whole", "parts")]
    assert newest[0].name == newest[1].name
    assert newest[0].read_bytes() == newest[1].read_bytes()
    assert (tmp_path / "parts" / "init_from.json").is_file()


def test_the_same_start_gives_the_same_bytes_whatever_the_kind_of_file(source: Path, tmp_path: Path) -> None:
    save_file({name: last(source)[name] for name in LOADED}, tmp_path / "w.safetensors")
    trained(tmp_path / "a", init_from=str(tmp_path / "w.safetensors"))
    trained(tmp_path / "b", init_from=str(source))
    for name, array in last(tmp_path / "a").items():
        assert array.tobytes() == last(tmp_path / "b")[name].tobytes(), name


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"freeze": ["conv7"]}, "matches neither a layer with parameters nor one of these; did you mean \"conv1\"?"),
        ({"freeze": ["relu1"]}, '"relu1" matches neither'),
        ({"reinit": ["score"], "init_from": "x"}, 'did you mean "scores"?'),
        ({"lr_mult": {"zzz": 0.1}}, "layers with parameters: conv1, bn1, res/1/conv2, bn2, scores"),
        ({"lr_mult": {"bn1.running_mean": 0.1}}, 'lr_mult: "bn1.running_mean" matches neither'),
        ({"lr_mult": {"conv1": -1}}, "conv1: must be at least 0, got -1"),
        ({"lr_mult": 0.1}, "lr_mult: expected a mapping, got 0.1"),
        ({"freeze": ["*"]}, "freeze: every parameter is frozen, so there is nothing to train; leave at least one out"),
        ({"lr_mult": {"*": 0}}, "lr_mult: every parameter is frozen"),
        ({"freeze": [""]}, "must not be empty"),
        ({"freeze": {"conv1": True}}, "freeze: expected a text, got a mapping"),
        ({"init_from": 3}, "init_from: expected a path such as runs/lenet, or a mapping with one, got 3"),
        ({"init_from": {}}, 'init_from: the field "path" is required'),
        ({"init_from": {"path": "x", "checkpoint": "newest"}}, "checkpoint: expected 'last' or 'best', got \"newest\""),
        ({"init_from": {"path": "x", "rename": {"a*": "b"}}}, 'rename: "a*" and "b" should have the same number of *'),
    ],
)  # fmt: skip
def test_mistakes_of_the_spec(sections: dict[str, Any], said: str) -> None:
    text = mistakes(**sections)
    assert said in text
    assert text.startswith("spec.yaml:1:")
    assert "\n" not in text


def test_reinit_without_init_from_is_a_warning() -> None:
    artifact = build(load(parse_tree(json.dumps(SPEC | {"reinit": "scores"}), "spec.yaml")))
    assert [str(warning).partition(": ")[2] for warning in artifact.warnings] == [
        "reinit: has no effect without init_from, since all weights are drawn anew then; add init_from"
    ]


def foreign_file(kind: str, source: Path, folder: Path) -> Path:
    """Return a file that cannot be loaded."""
    path = folder / f"file.{kind}"
    checkpoint = checkpoint_paths(source / "checkpoints")[0].read_bytes()
    model = onnx.load_model_from_string((source / "model.onnx").read_bytes())
    if kind == "gone.safetensors":
        return path
    if kind == "folder":
        path.mkdir()
    elif kind == "flipped.safetensors":
        path.write_bytes(checkpoint[:-3] + bytes([checkpoint[-3] ^ 64]) + checkpoint[-2:])
    elif kind == "cut.safetensors":
        path.write_bytes(checkpoint[:-10])
    elif kind == "text.safetensors":
        path.write_text("weights")
    elif kind == "nan.safetensors":
        save_file({"scores.bias": np.full(10, np.nan, np.float32)}, path)
    elif kind == "overflow.safetensors":
        save_file({"scores.bias": np.full(10, 1e300)}, path)
    elif kind == "shapes.safetensors":
        save_file({"scores.bias": np.zeros(9, np.float32)}, path)
    elif kind == "strangers.safetensors":
        save_file({"fc.bias": np.zeros(10, np.float32)}, path)
    elif kind == "integers.safetensors":
        save_file({"scores.bias": np.zeros(10, np.int32)}, path)
    elif kind == "cut.onnx":
        path.write_bytes(model.SerializeToString()[:-10])
    elif kind == "empty.onnx":
        path.write_bytes(b"")
    elif kind == "external.onnx":
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")
        path.write_bytes(model.SerializeToString())
    elif kind == "huge.onnx":
        next(tensor for tensor in model.graph.initializer if tensor.name == "scores.weight").dims[0] = 1 << 40
        path.write_bytes(model.SerializeToString())
    else:
        path.write_bytes(b"\x80\x04.")
    return path


FOREIGN = {
    "gone.safetensors": "does not exist; check the path",
    "folder": "is neither a run folder nor a compiled one",
    "flipped.safetensors": "is a damaged checkpoint: its content does not have the digest that was recorded",
    "cut.safetensors": "is damaged or not a safetensors file",
    "text.safetensors": "is damaged or not a safetensors file",
    "nan.safetensors": '"scores.bias" has values that are not finite',
    "overflow.safetensors": '"scores.bias" has values that are not finite',
    "shapes.safetensors": r"other shapes \(scores.bias is \[9\] there and \[10\] here\)",
    "strangers.safetensors": r"no name there is one of small \(it has fc.bias; wanted: conv1.weight, bn1.weight",
    "integers.safetensors": "it has no tensor of numbers",
    "cut.onnx": "is damaged or not an ONNX file",
    "empty.onnx": "it has no tensor of numbers",
    "external.onnx": "in another file, which netc does not open; save the model as one file",
    "huge.onnx": "is damaged: its tensor .* cannot be read",
    "pt": r"is of a kind that netc does not open \(.pt\); save its tensors as safetensors",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_damaged_and_foreign_files(kind: str, source: Path, tmp_path: Path) -> None:
    path = foreign_file(kind, source, tmp_path)
    with pytest.raises(DriverError, match=FOREIGN[kind]) as caught:
        trained(tmp_path / "run", init_from=str(path))
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, DamagedFileError) == ("damaged" in FOREIGN[kind] or "finite" in FOREIGN[kind])
    assert not (tmp_path / "run").exists()
