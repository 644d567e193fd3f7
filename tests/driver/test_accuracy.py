"""Accuracy of a model alone: which output it is of, how ties count, and models that do not classify."""

import json
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from netc_runtime.data import open_source
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.evaluate import Accuracy, evaluate_model
from netc_runtime.export import export_run
from netc_runtime.interface import TensorSpec
from netc_runtime.model import Model, labels_of
from netc_runtime.predict import predict
from netc_runtime.seal import sealed

from .conftest import CPU, classified


@pytest.fixture(scope="module")
def model(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("accuracy") / "model.onnx"
    export_run(finished_run, path, host=CPU)
    return path


def measured(scores: list[list[float]], labels: list[int]) -> float:
    accuracy = Accuracy()
    accuracy.add(np.array(scores, np.float32), np.array(labels))
    return accuracy.value


NAN = float("nan")


@pytest.mark.parametrize(
    ("row", "label", "hit"),
    [
        ([1, 2, 3], 2, 1),
        ([1, 2, 3], 1, 0),
        ([3, 2, 3], 0, 0),
        ([0, 0, 0], 0, 0),
        ([NAN, 2, 3], 2, 0),
        ([1, 2, NAN], 2, 0),
        ([1, 2, float("inf")], 2, 1),
        ([1, 2, 3], 3, 0),
        ([1, 2, 3], -1, 0),
        ([5], 0, 1),
    ],
)
def test_ties_and_nan_count_against_the_sample(row: list[float], label: int, hit: int) -> None:
    assert measured([row], [label]) == hit
    assert measured([row, [1] * len(row)], [label, 0 if len(row) > 1 else 1]) == hit / 2


def relabel(path: Path, target: Path, **labels: Any) -> Path:
    """Copy a model, with an output `first` put before its scores and other labels."""
    proto = onnx.load(path)
    proto.graph.node.append(onnx.helper.make_node("Neg", ["ip"], ["first"]))
    proto.graph.output.insert(0, onnx.helper.make_tensor_value_info("first", onnx.TensorProto.FLOAT, ["N", 10]))
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    interface = json.loads(properties["netc.interface"])
    interface["outputs"].insert(0, {**interface["outputs"][0], "name": "first"})
    for entry in interface["outputs"]:
        entry["label"] = labels.get(entry["name"])
    properties["netc.interface"] = json.dumps(interface)
    if not any(labels.values()):
        properties["netc.classes"] = "[]"
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, properties)
    target.write_bytes(sealed(proto))
    return target


def test_scores_are_those_of_the_first_output_with_a_label(model: Path, tmp_path: Path) -> None:
    right = relabel(model, tmp_path / "right.onnx", ip="label")
    assert evaluate_model(right, CPU).metrics == evaluate_model(model, CPU).metrics
    assert predict(right, ["test:0-9"], CPU) == predict(model, ["test:0-9"], CPU)
    both = relabel(model, tmp_path / "both.onnx", ip="label", first="label")
    assert Model(both, CPU).class_scores.name == "first"
    assert evaluate_model(both, CPU).metrics["top-1 accuracy"] < 0.2


def test_a_model_that_does_not_classify_is_one_sentence(model: Path, tmp_path: Path) -> None:
    path = relabel(model, tmp_path / "none.onnx")
    for command in (lambda: evaluate_model(path, CPU), lambda: predict(path, ["test:0"], CPU)):
        with pytest.raises(DriverError) as caught:
            command()
        assert caught.value.exit_code == ExitCode.USAGE
        assert str(caught.value).startswith(
            f'{path} has no class scores: none of its outputs (first ["N", 10], ip ["N", 10]) scores the classes'
        )


def test_labels_go_by_the_name_of_their_input() -> None:
    coarse, fine = np.zeros(3), np.ones(3)
    scores = TensorSpec("ip", "float32", ("N", 10), "output", label="coarse")
    assert labels_of({"coarse": coarse, "label": fine}, scores) is coarse
    assert labels_of({"label": fine}, scores) is fine
    assert labels_of({"image": fine}, scores) is None
    assert len(open_source({"source": "digits"}).test["label"]) == 360


def header(text: str) -> bytes:
    body = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body + bytes(8 * 64)


def shaped(shape: str, dtype: str = "<f8") -> bytes:
    return header(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}")


@pytest.mark.parametrize(
    "content",
    [
        shaped("(10**30,)"),
        shaped("(1000000000000000000000000000000,)"),
        shaped("(9223372036854775807, 8, 8)"),
        shaped("(-8, 8)"),
        shaped("(-1,)"),
        shaped("('8', 8)"),
        shaped("8"),
        shaped("(True, 8, 8)"),
        shaped("(8, 8)", "|O"),
        shaped("(8, 8)", "<q9"),
        shaped("(8, 8)", "<M8[s]"),
        shaped("(8, 8)", "<U2"),
        header("(((("),
        header("('"),
        header("[" * 100),
        header("{'descr': None, 'fortran_order': None, 'shape': None}"),
        b"\x93NUMPY\x09\x00" + bytes(100),
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535,
        b"\x93NUMPY",
        shaped("(8, 8)")[:300],
    ],
)
def test_a_malformed_npy_header_is_one_sentence(model: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(DriverError) as caught:
        predict(model, [str(path)], CPU)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("error", [EOFError("x"), OverflowError("x"), tokenize.TokenError("x"), MemoryError("x")])
def test_whatever_numpy_raises_for_a_header_is_one_sentence(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    (tmp_path / "x.npy").write_bytes(b"")
    monkeypatch.setattr(np.lib.format, "open_memmap", fail)
    with pytest.raises(DriverError, match=r"x\.npy is not an array that numpy can read: "):
        predict(model, [str(tmp_path / "x.npy")], CPU)


def test_values_have_to_be_finite_as_float32(model: Path, tmp_path: Path) -> None:
    digit = np.zeros((2, 8, 8))
    digit[1, 3, 3] = 1e300
    np.save(tmp_path / "x.npy", digit)
    with pytest.raises(DriverError, match=r"sample 1 of .*x\.npy has a value that is not finite"):
        predict(model, [str(tmp_path / "x.npy")], CPU)
    np.save(tmp_path / "bool.npy", np.ones((8, 8), bool))
    np.save(tmp_path / "byte.npy", np.ones((8, 8), np.uint8))
    found = classified(model, [str(tmp_path / "bool.npy"), str(tmp_path / "byte.npy")])
    assert found[0].probability == found[1].probability
