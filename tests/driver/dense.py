"""An artifact written by hand for dense labels: normalization and a linear classifier at each position of an image.

Labels are [4, 5] maps of 3 classes, of which 255 does not count. Training normalizes with the statistics of the batch
and keeps running averages; population.onnx gives mean and unbiased variance of one batch. What a step adds to its
images, sin(step), stands for all randomness. eval.onnx counts a confusion matrix. The data are .npy files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from .handmade import Entry, Graph, constants, write_programs

BATCH, CHANNELS, SIZE, CLASSES, IGNORED = 8, 2, (4, 5), 3, 255
TRAIN, TEST = 53, 300  # an incomplete last batch of both, and two batches of evaluation
POPULATION_BATCHES = 10  # more than the 6 of an epoch
KEPT = 0.9
DECAY = 0.01
EPSILON = 1e-5

STATE: list[Entry] = [
    {"name": "score.weight", "dtype": "float32", "shape": [CHANNELS, CLASSES], "role": "parameter"},
    {"name": "score.bias", "dtype": "float32", "shape": [CLASSES], "role": "parameter"},
    {"name": "bn.running_mean", "dtype": "float32", "shape": [CHANNELS], "role": "statistic"},
    {"name": "bn.running_var", "dtype": "float32", "shape": [CHANNELS], "role": "statistic"},
    {"name": "step", "dtype": "int64", "shape": [], "role": "step"},
]
COUNTS = {"iou": "mean_iou", "recall": "class_accuracy", "confusion": "confusion_matrix", "side": "side_mean_iou"}
METRICS: list[Entry] = [
    {"name": "total", "kind": "total", "layer": None},
    {"name": "loss", "kind": "loss", "layer": "loss"},
    {"name": "fused", "kind": "fuse_loss", "layer": "loss"},
    {"name": "decay", "kind": "penalty", "layer": None},
    *({"name": name, "kind": kind, "layer": name} for name, kind in COUNTS.items()),
    {"name": "lr", "kind": "rate", "layer": None},
]


def write_data(folder: Path) -> Path:
    """Write train/ and test/ with image and label: noisy images whose first channel grows with the class."""
    random = np.random.default_rng(5)
    for part, count in (("train", TRAIN), ("test", TEST)):
        label = random.choice([0, 1, 2, IGNORED], (count, *SIZE), p=[0.5, 0.2, 0.2, 0.1])
        image = random.normal(3, 1, (count, CHANNELS, *SIZE))
        image[:, 0] += 2 * np.where(label == IGNORED, 0, label)
        (folder / part).mkdir(parents=True)
        np.save(folder / part / "image.npy", image)
        np.save(folder / part / "label.npy", label.astype(np.uint8))
    return folder


def write_dense(folder: Path, data: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Write the artifact; `changes` replace keys of its solver section."""
    solver = {"type": "SGD", "base_lr": 0.5, "random_seed": 3, "max_epochs": 3, "max_iter": None}
    resolved = {
        "name": "dense",
        "data": {"source": "npy", "path": str(data), "batch_size": BATCH, "resize": None, "mean": 0, "scale": 1},
        "layers": [],
        "solver": {**solver, **(changes or {})},
        "run": {"evaluate_every": {"epochs": 1, "steps": None}, "keep": 3, "early_stopping": None},
    }
    state = {
        "score.weight": np.random.default_rng(1).normal(0, 0.1, (CHANNELS, CLASSES)).astype(np.float32),
        "score.bias": np.zeros(CLASSES, np.float32),
        "bn.running_mean": np.zeros(CHANNELS, np.float32),
        "bn.running_var": np.ones(CHANNELS, np.float32),
        "step": np.zeros((), np.int64),
    }
    graphs = {
        "train": _train(float(resolved["solver"]["base_lr"])),  # type: ignore[index]
        "eval": _eval(),
        "fold": _fold(),
        "infer": _infer(),
        "population": _population(),
    }
    interface = {"state": STATE, "metrics": METRICS, "population_batches": POPULATION_BATCHES}
    return write_programs(folder, resolved, interface, graphs, state)


def rows(images: Any, step: int | None = None) -> Any:
    """Return images as one float64 row for each position, as training at `step` sees them."""
    shifted = images.astype(np.float64) + (0 if step is None else np.sin(step))
    return shifted.transpose(0, 2, 3, 1).reshape(-1, CHANNELS)


def scores(state: Mapping[str, Any], images: Any) -> Any:
    """Return [n, classes, H, W] as eval.onnx does, in float64."""
    x = (rows(images) - state["bn.running_mean"]) / np.sqrt(state["bn.running_var"] + EPSILON)
    y = x @ state["score.weight"].astype(np.float64) + state["score.bias"]
    return y.reshape(-1, *SIZE, CLASSES).transpose(0, 3, 1, 2)


def confusion(state: Mapping[str, Any], images: Any, labels: Any) -> Any:
    """Return the confusion matrix over all labels that count."""
    found, counts = scores(state, images).argmax(1), labels != IGNORED
    matrix = np.zeros((CLASSES, CLASSES), np.int64)
    np.add.at(matrix, (labels[counts], found[counts]), 1)
    return matrix


def _node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def _shared() -> list[onnx.TensorProto]:
    return constants(
        to_rows=np.array([-1, CHANNELS], np.int64),
        to_column=np.array([-1, 1], np.int64),
        to_maps=np.array([-1, *SIZE, CLASSES], np.int64),
        axis0=np.array([0], np.int64),
        epsilon=np.float32(EPSILON),
        decay_rate=np.float32(DECAY),
        classes=np.arange(CLASSES, dtype=np.int32)[np.newaxis],
    )


_ROWS = [_node("Transpose", "seen", "last", perm=[0, 2, 3, 1]), _node("Reshape", "last to_rows", "rows")]
_SHIFT = [
    _node("Cast", "step", "now", to=TensorProto.FLOAT),
    _node("Sin", "now", "shift"),
    _node("Add", "image shift", "seen"),
]
_STATISTICS = [
    _node("ReduceMean", "rows axis0", "mean", keepdims=0),
    _node("Sub", "rows mean", "centred"),
    _node("Mul", "centred centred", "squares"),
    _node("ReduceMean", "squares axis0", "variance", keepdims=0),
]
_SCORES = [
    _node("Add", "used_variance epsilon", "positive"),
    _node("Sqrt", "positive", "deviation"),
    _node("Sub", "rows used_mean", "difference"),
    _node("Div", "difference deviation", "normal"),
    _node("Gemm", "normal score.weight score.bias", "flat"),
]
_MAPS = [
    _node("Reshape", "flat to_maps", "channels_last"),
    _node("Transpose", "channels_last", "score", perm=[0, 3, 1, 2]),
]
_LOSSES = [
    _node("Reshape", "label to_column", "column"),
    _node("Equal", "column classes", "hit"),
    _node("Cast", "hit", "onehot", to=TensorProto.FLOAT),
    _node("ReduceSum", "onehot", "counted", keepdims=0),
    _node("LogSoftmax", "flat", "logp", axis=1),
    _node("Mul", "logp onehot", "picked"),
    _node("ReduceSum", "picked", "sum", keepdims=0),
    _node("Neg", "sum", "negative"),
    _node("Div", "negative counted", "loss"),
    _node("Identity", "loss", "fused"),
    _node("ReduceSumSquare", "score.weight", "norm", keepdims=0),
    _node("Mul", "norm decay_rate", "decay"),
    _node("Add", "loss decay", "total"),
]


def _batch(size: int | str) -> list[Entry]:
    image = {"name": "image", "dtype": "float32", "shape": [size, CHANNELS, *SIZE], "role": "batch", "field": "image"}
    label = {"name": "label", "dtype": "int32", "shape": [size, *SIZE], "role": "batch", "field": "label"}
    return [image, {**label, "classes": CLASSES, "ignored": [IGNORED]}]


def _state(*names: str, role: str = "state") -> list[Entry]:
    return [{**entry, "role": role} for entry in STATE if entry["name"] in names]


def _scalar(name: str, role: str, **more: Any) -> Entry:
    return {"name": name, "dtype": "float32", "shape": [], "role": role, **more}


def _output() -> Entry:
    entry: Entry = {"name": "score", "dtype": "float32", "shape": ["N", CLASSES, *SIZE], "role": "output"}
    return {**entry, "activation": "logits", "label": "label", "ignored": [IGNORED]}


def _train(base_lr: float) -> Graph:
    nodes = [
        *_SHIFT,
        *_ROWS,
        *_STATISTICS,
        _node("Identity", "mean", "used_mean"),
        _node("Identity", "variance", "used_variance"),
        *_SCORES,
        *_LOSSES,
        _node("Softmax", "flat", "p", axis=1),
        _node("ReduceSum", "onehot one", "valid", keepdims=1),
        _node("Mul", "p valid", "p_valid"),
        _node("Sub", "p_valid onehot", "error"),
        _node("Div", "error counted", "dy"),
        _node("Gemm", "normal dy", "weight_grad", transA=1),
        _node("ReduceSum", "dy axis0", "bias_grad", keepdims=0),
        _node("Identity", "base_lr", "lr"),
        _node("Add", "step increment", "step.next"),
    ]
    for name, gradient in (("score.weight", "weight_grad"), ("score.bias", "bias_grad")):
        nodes += [
            _node("Mul", f"{gradient} base_lr", f"{name}/pull"),
            _node("Sub", f"{name} {name}/pull", f"{name}.next"),
        ]
    for name, value in (("bn.running_mean", "mean"), ("bn.running_var", "variance")):
        nodes += [
            _node("Mul", f"{name} kept", f"{name}/kept"),
            _node("Mul", f"{value} fresh", f"{name}/fresh"),
            _node("Add", f"{name}/kept {name}/fresh", f"{name}.next"),
        ]
    own = constants(
        one=np.array([1], np.int64),
        increment=np.int64(1),
        base_lr=np.float32(base_lr),
        kept=np.float32(KEPT),
        fresh=np.float32(1 - KEPT),
    )
    outputs = [{**e, "name": f"{e['name']}.next", "role": "next", "feeds": e["name"]} for e in STATE]
    outputs += [_scalar(name, "metric") for name in ("total", "loss", "fused", "decay", "lr")]
    names = (entry["name"] for entry in STATE)
    return nodes, [*_shared(), *own], {"inputs": [*_state(*names), *_batch(BATCH)], "outputs": outputs}


def _eval() -> Graph:
    nodes = [
        _node("Identity", "image", "seen"),
        *_ROWS,
        _node("Identity", "bn.running_mean", "used_mean"),
        _node("Identity", "bn.running_var", "used_variance"),
        *_SCORES,
        *_MAPS,
        *_LOSSES,
        _node("ArgMax", "flat", "best", axis=1, keepdims=1),
        _node("Cast", "best", "chosen", to=TensorProto.INT32),
        _node("Equal", "chosen classes", "is_chosen"),
        _node("Cast", "is_chosen", "found", to=TensorProto.FLOAT),
        _node("Gemm", "onehot found", "matrix", transA=1),
        *(_node("Cast", "matrix", name, to=TensorProto.INT64) for name in COUNTS),
    ]
    outputs = [_output(), *(_scalar(n, "metric", weight="counted") for n in ("total", "loss", "fused", "decay"))]
    outputs += [_scalar("counted", "weight")]
    outputs += [{"name": n, "dtype": "int64", "shape": [CLASSES, CLASSES], "role": "count"} for n in COUNTS]
    names = (entry["name"] for entry in STATE if entry["name"] != "step")
    return nodes, _shared(), {"inputs": [*_state(*names), *_batch("N")], "outputs": outputs}


_INFERRED = ("score.weight", "score.bias", "bn.running_mean", "bn.running_var")


def _fold() -> Graph:
    nodes = [_node("Identity", name, f"{name}.folded") for name in _INFERRED]
    inputs = _state(*_INFERRED)
    outputs = [{**e, "name": f"{e['name']}.folded", "role": "parameter", "feeds": e["name"]} for e in inputs]
    return nodes, [], {"inputs": inputs, "outputs": outputs}


def _infer() -> Graph:
    nodes = [
        _node("Identity", "image", "seen"),
        *_ROWS,
        _node("Identity", "bn.running_mean", "used_mean"),
        _node("Identity", "bn.running_var", "used_variance"),
        *_SCORES,
        *_MAPS,
    ]
    inputs = [*_state(*_INFERRED, role="parameter"), _batch("N")[0]]
    return nodes, _shared(), {"inputs": inputs, "outputs": [_output()]}


def _population() -> Graph:
    positions = BATCH * SIZE[0] * SIZE[1]
    nodes = [*_SHIFT, *_ROWS, *_STATISTICS, _node("Mul", "variance correction", "bn.running_var.batch")]
    nodes.append(_node("Identity", "mean", "bn.running_mean.batch"))
    own = constants(correction=np.float32(positions / (positions - 1)))
    fed = _state("bn.running_mean", "bn.running_var", role="statistic")
    outputs = [{**entry, "name": f"{entry['name']}.batch", "feeds": entry["name"]} for entry in fed]
    return nodes, [*_shared(), *own], {"inputs": [*_state("step"), _batch(BATCH)[0]], "outputs": outputs}
