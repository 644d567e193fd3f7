"""Specs with operations of augmentation, compiled and run, for the tests of these."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from netc.build import build
from netc.emit import Artifact
from netc.rewrite.passes import Target
from netc.spec.load import load
from netc.spec.text import parse_tree
from tests.cases.augmentations import HIGH, LOW
from tests.oracle import Arrays

SEED, BATCH, SHAPE = 11, 8, (3, 6, 7)
LAYERS: list[dict[str, Any]] = [
    {"name": "ip", "type": "InnerProduct", "num_output": 10, "weight_filler": {"type": "gaussian", "std": 0.01}},
    {"name": "loss", "type": "SoftmaxWithLoss", "bottom": ["ip", "label"]},
    {"name": "accuracy", "type": "Accuracy", "bottom": ["ip", "label"]},
]
DENSE = {"label": {"classes": 5, "shape": [6, 7]}, "edge": {"shape": [1, 6, 7]}}
DENSE_LAYERS: list[dict[str, Any]] = [
    {"name": "scores", "type": "Convolution", "num_output": 5, "kernel_size": 1},
    {"name": "loss", "type": "SoftmaxWithLoss", "bottom": ["scores", "label"], "ignore_label": 255},
    {"name": "edges", "type": "Convolution", "bottom": "image", "num_output": 1, "kernel_size": 1},
    {"name": "edge_loss", "type": "SigmoidCrossEntropyLoss", "bottom": ["edges", "edge"]},
]


def spec_with(operations: Sequence[Any], shape: Sequence[int] = SHAPE, **given: Any) -> dict[str, Any]:
    data = {"source": "npy", "path": "none", "range": [LOW, HIGH], "batch_size": BATCH, "augment": list(operations)}
    solver = {"type": "SGD", "base_lr": 0.1, "max_iter": 30, "random_seed": SEED}
    return {
        "netc": 1,
        "name": "net",
        "inputs": {"image": {"shape": list(shape)}, "label": {"classes": 10}, **given.pop("inputs", {})},
        "data": data | given.pop("data", {}),
        "layers": given.pop("layers", LAYERS),
        "solver": solver | given,
    }


def compiled(operations: Sequence[Any], target: Target = "cpu", **given: Any) -> Artifact:
    return build(load(parse_tree(json.dumps(spec_with(operations, **given)), "net.yaml")), target)


def session(model: onnx.ModelProto, threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, feeds: Arrays, threads: int = 1) -> Arrays:
    started = session(model, threads)
    taken = {value.name for value in started.get_inputs()}
    names = [value.name for value in started.get_outputs()]
    return dict(zip(names, started.run(names, {k: v for k, v in feeds.items() if k in taken}), strict=True))


def images(seed: int = 3, shape: Sequence[int] = SHAPE) -> np.ndarray:
    """Return whole values with all of a hue's cases: equal channels and black among them."""
    x = np.random.default_rng(seed).integers(0, 256, (BATCH, *shape)).astype(np.float32)
    x[:, :, 0, 0], x[:, :, 0, 1] = 0.0, 77.0
    x[:, 1, 0, 2] = x[:, 2, 0, 2]
    return x


def feeds(step: int, **given: np.ndarray) -> Arrays:
    return {"draw": np.array(step), "seed": np.array([SEED], np.uint32), **given}


def augmented(operations: Sequence[Any], x: np.ndarray, step: int, **given: Any) -> np.ndarray:
    model = compiled(operations, shape=x.shape[1:], **given).models()["augment"]
    return run(model, feeds(step, image=x))["image.augmented"]
