"""After training: exact evaluation, export that proves itself, and prediction."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from safetensors.numpy import load_file

from netc_runtime.artifact import Artifact
from netc_runtime.data import open_source
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.evaluate import evaluate, evaluate_model, evaluate_run
from netc_runtime.export import export_run
from netc_runtime.interface import TensorSpec
from netc_runtime.model import class_names
from netc_runtime.predict import predict
from netc_runtime.seal import sealed

from .conftest import CPU, classified
from .handmade import SCALE, write_artifact

Arrays = dict[str, Any]


@pytest.fixture(scope="module")
def model(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export_run(finished_run, path, host=CPU)
    return path


def scores_of(state: Arrays, images: Any) -> Any:
    return images.reshape(len(images), 64) * SCALE @ state["ip.weight"].astype(np.float64) + state["ip.bias"]


def test_evaluation_is_exact_over_an_uneven_last_batch(artifact: Path, finished_run: Path) -> None:
    source = open_source({"source": "digits"})  # 360 test samples: batches of 256 and 104
    state = load_file(finished_run / "checkpoints" / "step_132.safetensors")
    metrics = evaluate(Artifact.load(artifact), state, source, CPU)
    labels = source.test["label"][:].astype(int)
    scores = scores_of(state, source.test["image"])
    losses = np.log(np.exp(scores).sum(1)) - scores[np.arange(360), labels]
    expected = {
        "total": losses.mean(),
        "loss": losses.mean(),
        "l1": losses[labels % 2 == 0].mean(),
        "accuracy": (scores.argmax(1) == labels).mean(),
    }
    assert metrics == pytest.approx(expected, rel=1e-6)
    # The test has to be able to tell: means of batch means would be something else.
    naive = np.mean([losses[:256].mean(), losses[256:].mean()])
    assert abs(naive - expected["loss"]) > 1e-4 * expected["loss"]


def test_a_metric_without_any_weight_is_nan_and_spoils_no_other(artifact: Path) -> None:
    source = open_source({"source": "digits"})
    odd = source.test["label"][:] % 2 == 1
    source.test = {name: array[odd] for name, array in source.test.items()}
    loaded = Artifact.load(artifact)
    metrics = evaluate(loaded, loaded.initial_state(), source, CPU)
    assert np.isnan(metrics["l1"])
    assert np.isfinite(metrics["loss"])


def test_runs_are_evaluated_at_their_last_best_or_any_checkpoint(finished_run: Path) -> None:
    lines = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    last = evaluate_run(finished_run, host=CPU)
    assert (last.step, last.samples, last.device) == (132, 360, "cpu")
    assert last.metrics == lines[-1]["test"]
    best = evaluate_run(finished_run, "best", CPU)
    assert best.metrics["accuracy"] == max(line["test"]["accuracy"] for line in lines)
    path = finished_run / "checkpoints" / "step_110.safetensors"
    assert evaluate_run(finished_run, str(path), CPU).metrics == lines[4]["test"]
    with pytest.raises(
        DriverError, match="there is no checkpoint bestt; give last, best, or the path of a file such as"
    ) as caught:
        evaluate_run(finished_run, "bestt", CPU)
    assert caught.value.exit_code == ExitCode.USAGE
    with pytest.raises(DriverError, match="none does not exist; name a run folder, which netc train makes"):
        evaluate_run(finished_run / "none", host=CPU)


def test_the_exported_model_equals_eval_and_describes_itself(finished_run: Path, model: Path, tmp_path: Path) -> None:
    report = export_run(finished_run, tmp_path / "again.onnx", host=CPU)
    assert report.path.read_bytes() == model.read_bytes()
    assert (report.step, report.parameters, report.size) == (132, 650, model.stat().st_size)
    assert report.agreement is not None
    assert report.agreement.samples == 360
    assert report.agreement.difference < 1e-5 * report.agreement.largest
    run = evaluate_run(finished_run, host=CPU)
    assert report.agreement.accuracy == pytest.approx(run.metrics["accuracy"], abs=1e-7)
    assert evaluate_model(model, CPU).metrics == {"top-1 accuracy": pytest.approx(report.agreement.accuracy, abs=1e-7)}
    proto = onnx.load(model)
    assert [value.name for value in proto.graph.input] == ["image"]
    assert sorted(tensor.name for tensor in proto.graph.initializer) == ["ip.bias", "ip.weight"]
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(properties["netc.data"])["source"] == "digits"
    assert json.loads(properties["netc.value_range"]) == [0, 16]
    assert json.loads(properties["netc.classes"]) == list("0123456789")
    assert [entry["name"] for entry in json.loads(properties["netc.interface"])["inputs"]] == ["image"]
    assert set(properties) == {
        "netc.graph", "netc.name", "netc.version", "netc.spec_hash", "netc.interface", "netc.data",
        "netc.value_range", "netc.classes", "netc.export", "netc.digest",
    }  # fmt: skip
    assert "handmade at step 132" in proto.doc_string


def test_a_model_that_disagrees_with_eval_is_not_written(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    fold = onnx.load(run / "artifact" / "fold.onnx")
    fold.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.array(SCALE * 1.01, np.float32), "scale"))
    onnx.save(fold, run / "artifact" / "fold.onnx")
    with pytest.raises(DriverError, match=r"the exported model disagrees with eval\.onnx: an output differs by 0"):
        export_run(run, host=CPU)
    assert not (run / "model.onnx").exists()
    report = export_run(run, host=CPU, verify=False)
    assert (run / "model.onnx").exists()
    assert list(report.lines())[1:] == ["it was not compared with the evaluation graph"]


def test_a_damaged_infer_program_is_one_sentence(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / "artifact" / "infer.onnx").write_bytes(b"\xff" * 50)
    with pytest.raises(DriverError, match=r"infer\.onnx is not a readable ONNX model"):
        export_run(run, host=CPU)


def test_samples_of_the_data_are_predicted_with_their_truth(finished_run: Path, model: Path) -> None:
    state = load_file(finished_run / "checkpoints" / "step_132.safetensors")
    source = open_source({"source": "digits"})
    predictions = classified(model, ["test:17", "train:3", "test:0-4"])
    assert [p.input for p in predictions] == ["test:17", "train:3", *(f"test:{n}" for n in range(5))]
    images = np.concatenate([source.test["image"][17:18], source.train["image"][3:4], source.test["image"][:5]])
    labels = [*source.test["label"][17:18], *source.train["label"][3:4], *source.test["label"][:5]]
    scores = np.exp(scores_of(state, images))
    for prediction, row, label in zip(predictions, scores / scores.sum(1, keepdims=True), labels, strict=True):
        assert prediction.index == row.argmax()
        assert prediction.name == str(row.argmax())
        assert prediction.probability == pytest.approx(row.max(), rel=1e-4)
        assert (prediction.truth, prediction.truth_name) == (label, str(label))


def test_arrays_and_images_are_predicted_as_the_samples_they_show(model: Path, tmp_path: Path) -> None:
    digit = open_source({"source": "digits"}).test["image"][17]
    (expected,) = classified(model, ["test:17"])
    np.save(tmp_path / "chw.npy", digit)
    np.save(tmp_path / "hw.npy", digit[0].astype(np.float64))
    np.save(tmp_path / "batch.npy", np.stack([digit, digit]))
    grey = np.round(digit[0] / 16 * 255).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.repeat(grey[..., np.newaxis], 3, axis=2)).save(tmp_path / "colour.png")
    Image.fromarray(digit[0].astype(np.uint16) * 4095).save(tmp_path / "deep.png")
    Image.fromarray(np.kron(grey, np.ones((4, 4), np.uint8))).save(tmp_path / "large.png")
    names = ["chw.npy", "hw.npy", "batch.npy", "grey.png", "colour.png", "deep.png", "large.png"]
    found = classified(model, [str(tmp_path / name) for name in names])
    assert [Path(p.input).name for p in found] == [
        "chw.npy", "hw.npy", "batch.npy[0]", "batch.npy[1]", *names[3:]
    ]  # fmt: skip
    assert {p.index for p in found} == {expected.index}
    assert {p.truth for p in found} == {None}
    for prediction in found[:-1]:
        assert prediction.probability == pytest.approx(expected.probability, abs=0.02)


@pytest.mark.parametrize(
    ("name", "content", "sentence", "code"),
    [
        ("none.png", None, "none.png does not exist or is not a file; give an image, a .npy file, or a sample", 2),
        ("text.png", b"hello", "text.png is not an image (PNG, JPEG, BMP, GIF, PPM, TIFF, WEBP)", 1),
        ("cut.png", "cut", "cut.png is a damaged image: ", 1),
        ("bomb.png", "bomb", "bomb.png has too many pixels for a sample: ", 1),
        ("a.npy", b"hello, world: no array", "a.npy is not an array that numpy can read: ", 1),
        ("empty.npy", b"", "empty.npy is not an array that numpy can read: ", 1),
        ("pickle.npy", np.array([{}], dtype=object), "pickle.npy holds Python objects; real numbers are needed", 1),
        (
            "wide.npy",
            np.zeros((1, 8, 9)),
            "wide.npy holds an array [1, 8, 9]; the model takes one sample [1, 8, 8] or a",
            2,
        ),
        ("scalar.npy", np.zeros(()), "scalar.npy holds an array []; the model takes one sample [1, 8, 8]", 2),
        ("nan.npy", np.full((2, 8, 8), np.nan), "sample 0 of {}/nan.npy has a value that is not finite", 1),
        ("complex.npy", np.zeros((8, 8), complex), "complex.npy holds complex128 values; real numbers are needed", 1),
        ("test:360", None, "test:360 is out of range: the test split has the samples 0 to 359", 2),
        ("none.npy", np.zeros((0, 1, 8, 8)), "none.npy holds an array [0, 1, 8, 8]: no sample at all", 1),
        ("train:5-1437", None, "train:5-1437 is out of range: the train split has the samples 0 to 1436", 2),
        ("train:5-2", None, "train:5-2 is reversed; write train:2-5", 2),
    ],
)
def test_bad_inputs_are_one_sentence(
    model: Path, tmp_path: Path, name: str, content: Any, sentence: str, code: int
) -> None:
    path = tmp_path / name
    match content:
        case bytes():
            path.write_bytes(content)
        case np.ndarray():
            np.save(path, content)
        case "cut":
            Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99), dtype=np.uint8)).save(path)
            path.write_bytes(path.read_bytes()[:2000])
        case "bomb":
            Image.new("1", (9_500, 9_500)).save(path)
    with pytest.raises(DriverError) as caught:
        predict(model, [name if ":" in name else str(path)], CPU)
    assert sentence.replace("{}", str(tmp_path)) in str(caught.value)
    assert caught.value.exit_code == code


def test_images_need_pillow(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DriverError, match=r'install it with: pip install "netc\[images\]"') as caught:
        predict(model, [str(tmp_path / "x.png")], CPU)
    assert caught.value.exit_code == ExitCode.ENVIRONMENT


def test_a_model_of_another_maker_is_one_sentence(finished_run: Path, model: Path, tmp_path: Path) -> None:
    def said(path: Path) -> str:
        with pytest.raises(DamagedFileError) as caught:
            predict(path, ["test:1"], CPU)
        return str(caught.value)

    def expected(path: Path, key: str) -> str:
        return (
            f"{path} is not a model exported by netc: its metadata has no usable {key}; write one with: netc export RUN"
        )

    infer, plain = finished_run / "artifact" / "infer.onnx", tmp_path / "plain.onnx"
    assert said(infer) == expected(infer, "netc.data")
    proto = onnx.load(infer)
    del proto.metadata_props[:]
    onnx.save(proto, plain)
    assert said(plain) == expected(plain, "netc.interface")
    for key, value in (
        ("netc.value_range", "[0]"),
        ("netc.value_range", "[16, 0]"),
        ("netc.value_range", "[true, NaN]"),
        ("netc.classes", '["one"]'),
        ("netc.classes", "[1, 2]"),
        ("netc.classes", "["),
    ):
        proto = onnx.load(model)
        next(entry for entry in proto.metadata_props if entry.key == key).value = value
        plain.write_bytes(sealed(proto))
        assert said(plain) == expected(plain, key)


def test_images_and_arrays_need_only_the_model(model: Path, tmp_path: Path) -> None:
    """The classes and the range of values come from the metadata, wherever the data may be."""
    digit = open_source({"source": "digits"}).test["image"][17]
    np.save(tmp_path / "digit.npy", digit)
    Image.fromarray(np.round(digit[0] / 16 * 255).astype(np.uint8)).save(tmp_path / "digit.png")
    proto = onnx.load(model)
    for entry in proto.metadata_props:
        if entry.key == "netc.data":
            entry.value = json.dumps({"source": "mnist", "path": "/nowhere"})
        elif entry.key == "netc.classes":
            entry.value = json.dumps([f"digit {n}" for n in range(10)])
    (tmp_path / "elsewhere.onnx").write_bytes(sealed(proto))
    inputs = [str(tmp_path / "digit.npy"), str(tmp_path / "digit.png")]
    expected = classified(model, inputs)
    found = classified(tmp_path / "elsewhere.onnx", inputs)
    assert [p.name for p in found] == [f"digit {p.index}" for p in expected]
    assert [p.probability for p in found] == [p.probability for p in expected]


@pytest.mark.parametrize(
    ("known", "shape", "names"),
    [
        (("a", "b"), ("N", 2), ("a", "b")),
        (("a", "b"), ("N", 3), ("0", "1", "2")),  # the data names other classes than the model has
        ((), ("N", 2), ("0", "1")),
        (("a", "b"), ("N", 2, 2), ()),
    ],
)
def test_every_score_has_a_name(known: tuple[str, ...], shape: tuple[int | str, ...], names: tuple[str, ...]) -> None:
    assert class_names(known, [TensorSpec("y", "float32", shape, "output", label="label")]) == names


def test_the_accuracy_of_an_export_is_that_of_the_spec(finished_run: Path, tmp_path: Path) -> None:
    """An evaluation graph may count a label among the best three as right; the model itself knows only the best."""
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    path = run / "artifact" / "eval.onnx"
    proto = onnx.load(path)
    last = next(node for node in proto.graph.node if "accuracy" in node.output)
    last.output[0] = "top-1"
    proto.graph.node.append(onnx.helper.make_node("Sqrt", ["top-1"], ["accuracy"]))
    onnx.save(proto, path)
    plain, other = (export_run(folder, tmp_path / "x.onnx", host=CPU).agreement for folder in (finished_run, run))
    assert plain is not None
    assert other is not None
    assert plain.accuracy is not None
    assert other.accuracy is not None
    assert plain.accuracy == evaluate_run(finished_run, host=CPU).metrics["accuracy"]
    assert other.accuracy == evaluate_run(run, host=CPU).metrics["accuracy"]
    assert other.accuracy > plain.accuracy


def test_a_missing_model_says_how_to_get_one(finished_run: Path, tmp_path: Path) -> None:
    lost = finished_run / "model.onnx"
    for path, sentence in (
        (lost, f"{lost} does not exist; write it with: netc export {finished_run}"),
        (tmp_path / "nope", f"{tmp_path / 'nope'} does not exist; name an exported model or a run folder"),
        (tmp_path, f"{tmp_path} is not a file; name an exported model or a run folder"),
    ):
        with pytest.raises(DriverError) as caught:
            predict(path, ["test:0"], CPU)
        assert (str(caught.value), caught.value.exit_code) == (sentence, ExitCode.USAGE)


def test_what_is_exported_from_and_to_where(finished_run: Path, tmp_path: Path) -> None:
    report = export_run(finished_run, tmp_path / "new" / "deep" / "out.onnx", host=CPU)
    assert report.path.stat().st_size == report.size
    file = tmp_path / "file"
    file.write_text("mine")
    for run, out, sentence in (
        (finished_run, tmp_path, f"{tmp_path} is a folder; name the file to write, such as {tmp_path / 'model.onnx'}"),
        (finished_run, file / "out.onnx", "a part of this path is a file, not a folder; choose another place"),
        (file, None, f"{file} is not a run folder: it is a file; name a run folder, which netc train makes"),
        (tmp_path, None, f"{tmp_path} is not a run folder: it has no artifact/; name a run folder"),
    ):
        with pytest.raises(DriverError) as caught:
            export_run(run, out, host=CPU)
        assert sentence in str(caught.value)
        assert caught.value.exit_code == ExitCode.USAGE
    assert file.read_text() == "mine"


def test_an_untrained_run_has_nothing_to_export(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    write_artifact(tmp_path / "run" / "artifact")
    for which, sentence in (("last", "has no checkpoint yet; train first"), ("best", "has no best checkpoint yet")):
        with pytest.raises(DriverError, match=sentence) as caught:
            export_run(tmp_path / "run", checkpoint=which, host=CPU)
        assert caught.value.exit_code == ExitCode.USAGE
