"""An exported model says the same in engines that have nothing to do with ONNX Runtime, at any number of samples."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import openvino
import pytest
from onnx.reference import ReferenceEvaluator

from netc.cli import main
from netc_runtime.data import open_source

Engine = Callable[[np.ndarray], np.ndarray]


def onnxruntime_of(path: Path) -> Engine:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(None, {"image": images})[0])


def openvino_of(path: Path) -> Engine:
    # Without the hint it computes in bfloat16 where the CPU has that.
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: np.array(model(images)[0])


def opencv_of(path: Path) -> Engine:
    net = cv2.dnn.readNetFromONNX(str(path))

    def run(images: np.ndarray) -> np.ndarray:
        net.setInput(images)
        return np.array(net.forward())

    return run


def reference_of(path: Path) -> Engine:
    evaluator = ReferenceEvaluator(str(path))

    def run(images: np.ndarray) -> np.ndarray:
        results = evaluator.run(None, {"image": images})
        assert isinstance(results, list)
        return np.asarray(results[0])

    return run


# Engine, and how many of the 360 test samples it gets: the standard's evaluator is slow.
ENGINES = {"openvino": (openvino_of, 360), "opencv": (opencv_of, 360), "onnx": (reference_of, 36)}


@dataclass(frozen=True)
class Exported:
    path: Path
    images: np.ndarray
    labels: np.ndarray


# Companions and dropout, both with batch norm to fold; residuals and a pooling of whole planes; maxima of pieces.
@pytest.fixture(scope="module", params=["lenet_dsn", "lenet_bn_dropout", "resnet_tiny", "mlp_maxout"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A network after one epoch on the digits, and the test split as the network takes it."""
    run = tmp_path_factory.mktemp("engines") / "run"
    command = ["netc", "train", request.param, "--run", str(run), "--threads", "1", "--set", "solver.max_epochs=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    path = run / "model.onnx"
    (data,) = (entry.value for entry in onnx.load(path).metadata_props if entry.key == "netc.data")
    test = open_source(json.loads(data)).test
    return Exported(path, np.asarray(test["image"], np.float32), np.asarray(test["label"]))


@pytest.mark.parametrize("engine", ENGINES)
def test_scores_and_top_classes_are_those_of_onnxruntime(exported: Exported, engine: str) -> None:
    load, count = ENGINES[engine]
    run, images = load(exported.path), exported.images[:count]
    expected, found = onnxruntime_of(exported.path)(images), run(images)
    assert found.shape == expected.shape
    assert np.array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    # Measured 5e-7 of the largest score; what bfloat16, or another pooling or padding, changes is 1e-3 and more.
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    # It has learned, so that top classes are not all the same.
    assert (found.argmax(axis=1) == exported.labels[:count]).mean() > 0.7
    fewer = run(images[5:12])
    assert np.abs(fewer - expected[5:12]).max() < 1e-5 * np.abs(expected).max()
