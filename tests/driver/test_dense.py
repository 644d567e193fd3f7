"""Dense labels and counting metrics: exact counts over a split, class maps, and what ignored labels leave out."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file

from netc_runtime.artifact import Artifact, Metric
from netc_runtime.checkpoint import Checkpoint
from netc_runtime.classmap import ClassMap, save_maps
from netc_runtime.counts import Counted, Counts
from netc_runtime.counttable import print_counts
from netc_runtime.data import open_source
from netc_runtime.data.base import Split
from netc_runtime.data.batches import check_fit, evaluation_size, gather
from netc_runtime.data.digits import Digits
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.evaluate import Accuracy, Evaluator, evaluate_model, evaluate_run
from netc_runtime.export import export_run
from netc_runtime.interface import TensorSpec
from netc_runtime.model import labels_of
from netc_runtime.predict import Prediction, predict
from netc_runtime.trainer import TrainOptions, train

from . import dense
from .conftest import CPU, Recorder

NAN = float("nan")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the dense artifact."""
    folder = tmp_path_factory.mktemp("dense")
    artifact = dense.write_dense(folder / "artifact", dense.write_data(folder / "data"))
    train(TrainOptions(folder / "run", artifact, CPU), Recorder())
    return folder / "run"


@pytest.fixture(scope="module")
def model(run: Path) -> Path:
    export_run(run, host=CPU)
    return run / "model.onnx"


def trained(run: Path) -> tuple[dict[str, Any], Any, Any]:
    """The last state, and images and labels of the test split."""
    data = run.parent / "data" / "test"
    state = load_file(run / "checkpoints" / "step_18.safetensors")
    return state, np.load(data / "image.npy"), np.load(data / "label.npy")


def test_counts_are_exact_over_an_uneven_last_batch(run: Path) -> None:
    matrix = dense.confusion(*trained(run))
    report = evaluate_run(run, host=CPU)
    assert report.samples == dense.TEST > 256  # two batches of evaluation
    assert [(counted.name, counted.kind) for counted in report.counts] == list(dense.COUNTS.items())
    for counted in report.counts:
        np.testing.assert_array_equal(counted.matrix, matrix)
        assert counted.classes == ("0", "1", "2")
    right, labels, found = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    intersection_over_union = right / (labels + found - right)
    assert report.counts[0].by_class == pytest.approx(intersection_over_union, rel=1e-15)
    assert report.counts[1].by_class == pytest.approx(right / labels, rel=1e-15)
    assert report.metrics["iou"] == report.metrics["side"] == pytest.approx(intersection_over_union.mean(), rel=1e-15)
    assert report.metrics["recall"] == pytest.approx((right / labels).mean(), rel=1e-15)
    assert report.metrics["confusion"] == pytest.approx(right.sum() / matrix.sum(), rel=1e-15)
    assert 0.4 < report.metrics["iou"] < report.metrics["recall"] < 1  # the numbers can be told apart


def test_counting_metrics_stand_in_every_record_of_training(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["test"] == evaluate_run(run, host=CPU).metrics
    assert lines[-1]["train"].keys() == {"total", "loss", "fused", "decay"}
    header = (run / "metrics.csv").read_text().splitlines()[0]
    assert "test_fused,test_decay,test_iou,test_recall,test_confusion,test_side," in header
    # Without an accuracy the mean over classes judges, not the fraction on the diagonal, not the total.
    best = max(lines, key=lambda line: (line["test"]["iou"], -line["step"]))
    assert (run / "best").read_text() == f"step_{best['step']}.safetensors\n"


@pytest.mark.parametrize(
    ("kinds", "metric", "step"),
    [
        ({"loss": "accuracy"}, "loss", 18),
        ({}, "iou", 6),
        ({"iou": "side_mean_iou"}, "recall", 12),
        ({"iou": "side_mean_iou", "recall": "side_class_accuracy"}, "total", 18),
    ],
)
def test_what_makes_a_checkpoint_the_best(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: dict[str, str], metric: str, step: int
) -> None:
    values = {"iou": [0.5, 0.3, 0.4], "recall": [0.1, 0.9, 0.2], "total": [3.0, 2.0, 1.0], "loss": [0.1, 0.2, 0.3]}
    evaluations = iter([dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)])
    monkeypatch.setattr(Evaluator, "metrics", lambda *_: next(evaluations))
    load = Artifact.load

    def changed(folder: Path) -> Artifact:
        loaded = load(folder)
        return replace(loaded, metrics=tuple(replace(m, kind=kinds.get(m.name, m.kind)) for m in loaded.metrics))

    monkeypatch.setattr(Artifact, "load", changed)
    train(TrainOptions(tmp_path / "run", run / "artifact", CPU), Recorder())
    best = Checkpoint.load(
        tmp_path / "run" / "checkpoints" / "step_18.safetensors", load(run / "artifact")
    ).position.best
    assert best is not None
    assert (best.metric, best.step) == (metric, step)


@pytest.mark.parametrize(
    ("kind", "matrix", "by_class", "value"),
    [
        ("mean_iou", [[2, 1, 0], [0, 3, 0], [0, 0, 0]], [2 / 3, 3 / 4, NAN], (2 / 3 + 3 / 4) / 2),
        ("mean_iou", [[2, 0, 1], [0, 3, 0], [0, 0, 0]], [2 / 3, 1, 0], 5 / 9),  # predicted although it never occurs
        ("class_accuracy", [[2, 0, 1], [0, 3, 0], [0, 0, 0]], [2 / 3, 1, NAN], 5 / 6),
        ("side_class_accuracy", [[0, 2], [1, 3]], [0, 3 / 4], 3 / 8),
        ("confusion_matrix", [[2, 0, 1], [0, 3, 0], [0, 0, 0]], [], 5 / 6),
        ("confusion_matrix", [[0, 0], [0, 0]], [], NAN),
        ("side_mean_iou", [[0, 0], [0, 0]], [NAN, NAN], NAN),
    ],
)
def test_what_is_made_of_a_matrix(kind: str, matrix: list[list[int]], by_class: list[float], value: float) -> None:
    counted = Counted("m", kind, np.array(matrix), ("a", "b", "c")[: len(matrix)])
    assert counted.by_class == pytest.approx(by_class, rel=1e-15, nan_ok=True)
    assert counted.value == pytest.approx(value, rel=1e-15, nan_ok=True)


def test_sums_do_not_overflow_and_names_have_to_fit() -> None:
    counts = Counts([Metric("m", "mean_iou", None), Metric("loss", "loss", None)])
    assert counts.outputs == ("m",)
    for _ in range(3):
        counts.add({"m": np.full((2, 2), 1_500_000_000, np.int32), "loss": np.zeros(())})
    (named,) = counts.results(("cat", "dog"))
    assert named.matrix.tolist() == [[4_500_000_000] * 2] * 2
    assert named.classes == ("cat", "dog")
    assert counts.results(("cat", "dog", "cow"))[0].classes == ("0", "1")


def test_reports_as_json(run: Path, model: Path) -> None:
    plain = evaluate_run(run, host=CPU).as_dict()
    assert plain.keys() == {"metrics", "samples", "device", "step", "checkpoint", "counts"}
    assert plain["counts"].keys() == dense.COUNTS.keys()
    entry = plain["counts"]["recall"]
    assert entry.keys() == {"kind", "value", "classes", "by_class", "matrix"}
    assert (entry["kind"], entry["value"]) == ("class_accuracy", plain["metrics"]["recall"])
    json.dumps(plain, allow_nan=False)
    assert "counts" not in evaluate_model(model, CPU).as_dict()
    nothing = Counted("m", "mean_iou", np.zeros((2, 2), np.int64), ("a", "b"))
    assert nothing.as_dict()["classes"] == ["a", "b"]


def printed(*counts: Counted) -> list[str]:
    out = io.StringIO()
    print_counts(counts, out)
    blank, *lines = (line.rstrip() for line in out.getvalue().splitlines())
    assert blank == ""
    return lines


def test_tables() -> None:
    matrix = np.array([[1200, 1, 0], [0, 3, 0], [0, 0, 0]])
    names = ("a cat", "[red]dog", "cow")
    assert printed(Counted("iou", "mean_iou", matrix, names)) == [
        "iou: 0.8746",
        "class     labels  predicted     IoU",
        "a cat      1,201      1,200  0.9992",
        "[red]dog       3          4  0.7500",
        "cow            0          0       -",
    ]
    assert printed(Counted("m", "confusion_matrix", matrix, names)) == [
        "m: rows are the true class, columns the predicted one",
        "          a cat  [red]dog  cow",
        "a cat     1,200         1    0",
        "[red]dog      0         3    0",
        "cow           0         0    0",
    ]
    many = np.diag(np.full(30, 10))
    many[3, 29], many[17, 3] = 30, 40
    lines = printed(Counted("m", "confusion_matrix", many, tuple(f"n{index}" for index in range(30))))
    assert lines[0] == "m: the most frequent confusions; all [30, 30] counts with --json"
    assert [line.split() for line in lines[2:]] == [["n17", "n3", "40", "0.8000"], ["n3", "n29", "30", "0.7500"]]
    wide = printed(Counted("m", "confusion_matrix", np.eye(20, dtype=np.int64), tuple("long name" + c for c in NAMES)))
    assert len(wide) == 22  # no row is broken
    assert all(f"long name{c}" in wide[1] for c in NAMES)


NAMES = "abcdefghijklmnopqrst"


def test_the_exported_model_gives_class_maps(run: Path, model: Path) -> None:
    state, images, labels = trained(run)
    report = export_run(run, host=CPU)
    assert report.agreement is not None
    assert (report.agreement.samples, report.agreement.accuracy) == (dense.TEST, None)
    properties = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    assert json.loads(properties["netc.classes"]) == ["0", "1", "2"]
    found = predict(model, ["test:3", "test:5-6"], CPU)
    assert len(found) == 3
    for prediction, index in zip(found, (3, 5, 6), strict=True):
        assert isinstance(prediction, ClassMap)
        expected = dense.scores(state, images[index : index + 1]).argmax(1)[0]
        np.testing.assert_array_equal(prediction.map, expected)
        assert prediction.map.dtype == np.uint8
        assert {s.index: s.share for s in prediction.shares} == {
            int(c): np.mean(expected == c) for c in np.unique(expected)
        }
        assert [s.share for s in prediction.shares] == sorted((s.share for s in prediction.shares), reverse=True)
        counts = labels[index] != dense.IGNORED
        assert 0 < counts.sum() < counts.size
        assert prediction.accuracy == np.mean(expected[counts] == labels[index][counts])
        assert json.loads(json.dumps(prediction.as_dict()))["map"] == expected.tolist()


def test_ignored_labels_count_for_nothing(run: Path, model: Path) -> None:
    matrix = dense.confusion(*trained(run))
    metrics = evaluate_model(model, CPU).metrics
    assert metrics == {"top-1 accuracy": matrix.trace() / matrix.sum()}
    accuracy = Accuracy([255])
    scores = np.array([[1, 2, 3], [3, 2, 1]], np.float32)
    accuracy.add(scores, np.array([255, 255]))
    assert np.isnan(accuracy.value)
    accuracy.add(scores, np.array([255, 0]))
    assert accuracy.value == 1
    with_stranger = Accuracy()
    with_stranger.add(scores, np.array([255, 0]))
    assert with_stranger.value == 0.5


def test_arrays_have_no_truth_and_maps_are_saved(run: Path, model: Path, tmp_path: Path) -> None:
    _, images, _ = trained(run)
    np.save(tmp_path / "batch.npy", images[:2])
    (tmp_path / "deep").mkdir()
    np.save(tmp_path / "deep" / "batch.npy", images[2:3])
    inputs = [str(tmp_path / "batch.npy"), str(tmp_path / "deep" / "batch.npy"), "test:0"]
    maps = [found for found in predict(model, inputs, CPU) if isinstance(found, ClassMap)]
    assert len(maps) == 4
    assert [one.accuracy is None for one in maps] == [True, True, True, False]
    np.testing.assert_array_equal(maps[0].map, maps[3].map)
    paths = save_maps([*maps, maps[3]], tmp_path / "new" / "maps")
    assert [path.name for path in paths.values()] == ["batch_0.npy", "batch_1.npy", "batch_0.2.npy", "test_0.npy"]
    for one in maps:
        np.testing.assert_array_equal(np.load(paths[one.input]), one.map)


def test_only_class_maps_are_saved(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="the model gives one class for each input") as caught:
        save_maps([Prediction("x.png", 0, "cat", 0.5)], tmp_path / "maps")
    assert caught.value.exit_code == ExitCode.USAGE
    assert not (tmp_path / "maps").exists()


def test_a_class_map_is_one_line() -> None:
    scores = np.zeros((8, 1, 10))
    scores[range(8), 0, range(8)] = 1
    found = ClassMap.of("x.png", scores, tuple("abcdefgh"), np.array([[0] * 5 + [9] * 5]), [9])
    assert (
        found.as_text() == "x.png  [1, 10]  a 0.300, b 0.100, c 0.100, d 0.100, e 0.100 and 3 more  (accuracy 0.2000)"
    )
    silent = ClassMap.of("x.png", scores, tuple("abcdefgh"), np.full((1, 10), 9), [9])
    assert silent.accuracy is None
    assert silent.as_text().endswith("and 3 more")


def test_labels_of_another_size_are_one_sentence(run: Path, model: Path, tmp_path: Path) -> None:
    other = dense.write_data(tmp_path / "data")
    np.save(other / "test" / "label.npy", np.zeros((dense.TEST, 2, 2), np.uint8))
    for command in (
        lambda: evaluate_model(model, CPU, {"path": str(other)}),
        lambda: predict(model, ["test:0"], CPU, {"path": str(other)}),
    ):
        with pytest.raises(DriverError) as caught:
            command()
        assert caught.value.exit_code == ExitCode.USAGE
        assert str(caught.value).startswith(
            'the data source gives the labels of a sample as [2, 2], but "score" scores [4, 5]'
        )
    plain = TensorSpec("ip", "float32", ("N", 10), "output", label="label")
    with pytest.raises(DriverError, match=r"as \[2, 2\], but \"ip\" scores \[\]"):
        labels_of({"label": np.zeros((3, 2, 2))}, plain)


LABEL = TensorSpec("label", "int32", ("N", 2, 2), "batch", field="label", classes=3, ignored=(255, -1))


def labelled(*values: Any, dtype: Any = np.int64) -> Digits:
    label = np.zeros((6, 2, 2), dtype)
    label[3, 1], label[5, 0, 0] = values[:2], values[2]
    split = {"image": np.zeros((6, 1, 2, 2)), "label": label}
    return Digits(split, split, tuple("012"))


def test_dense_labels_fit_or_name_the_sample() -> None:
    check_fit(labelled(2, 255, -1), (LABEL,))
    with pytest.raises(DriverError) as caught:
        check_fit(labelled(2, 7, 8), (LABEL,))
    assert str(caught.value) == (
        "sample 3 of the train split has the label 7, but the spec declares 3 classes (0 to 2, and 255, -1 to ignore); "
        "correct `classes` of the input, or give every loss and metric of it that ignore_label"
    )
    with pytest.raises(DriverError, match="sample 5 of the train split has the label 255, but the spec declares 3 cl"):
        check_fit(labelled(2, 1, 255), (TensorSpec(**{**vars(LABEL), "ignored": ()}),))
    plain = TensorSpec("label", "int32", ("N",), "batch", field="label", classes=3, ignored=(255,))
    split: Split = {"image": np.zeros((4, 1, 2, 2)), "label": np.array([0, 255, 2, 1], np.uint8)}
    check_fit(Digits(split, split, ()), (plain,))
    with pytest.raises(DriverError, match=r"gives \"label\" as \[2, 2\], .* as \[\]; declare the input with shape: \["):
        check_fit(labelled(0, 0, 0), (plain,))
    with pytest.raises(DriverError, match=r"gives \"label\" as \[\], .* as \[2, 2\]; declare the input without shape"):
        check_fit(Digits(split, split, ()), (LABEL,))
    batch = gather(labelled(2, 255, -1).train, (LABEL,), np.array([5, 3]))["label"]
    assert batch.tolist() == [[[-1, 0], [0, 0]], [[0, 0], [2, 255]]]


def test_values_that_an_input_cannot_hold_are_one_sentence() -> None:
    def said(source: Digits, code: ExitCode = ExitCode.FAILED, **changes: Any) -> str:
        with pytest.raises(DriverError) as caught:
            check_fit(source, (TensorSpec(**{**vars(LABEL), "classes": None, **changes}),))
        assert caught.value.exit_code == code
        return str(caught.value)

    assert said(labelled(0.5, 0, 0, dtype=np.float64), ExitCode.USAGE) == (
        'the data source gives "label" as float64, the input "label" takes whole numbers; store int32 values'
    )
    assert said(labelled(0, 1 << 40, 0)) == (
        'sample 3 of the train split has the value 1099511627776 of "label", which the input "label" cannot hold as '
        "int32"
    )
    assert "the value 1e+300 of" in said(labelled(0, 0, 1e300, dtype=np.float64), dtype="float32")
    assert "the value -1 of" in said(labelled(0, 0, -1), dtype="uint32")
    assert "the value 2 of" in said(labelled(0, 2, 1), dtype="bool")
    check_fit(labelled(0, 1, 1), (TensorSpec(**{**vars(LABEL), "classes": None, "dtype": "bool"}),))


def test_large_samples_run_in_small_batches() -> None:
    def size(*shape: int) -> int:
        return evaluation_size((TensorSpec("x", "float32", ("N", *shape), "batch"), LABEL))

    assert (size(1, 28, 28), size(3, 64, 64), size(3, 224, 224), size(3, 4096, 4096), size()) == (256, 256, 20, 1, 256)


def test_the_artifact_says_what_is_ignored_and_counted(run: Path) -> None:
    artifact = Artifact.load(run / "artifact")
    assert artifact.graph("train").inputs_of("batch")[1].ignored == (255,)
    assert artifact.graph("eval").outputs_of("output")[0].ignored == (255,)
    assert artifact.population_batches == dense.POPULATION_BATCHES
    assert len(open_source(artifact.spec["data"]).train["label"]) == dense.TRAIN
