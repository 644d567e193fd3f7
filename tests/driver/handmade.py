"""An artifact written by hand with onnx.helper alone, as docs/artifact.md says: softmax regression on digits.

SGD with momentum and a linear decay of the rate over `max_steps`. Beside the main loss there is a metric `l1`, the mean
loss over samples with an even label: its weight differs from the batch size, as that of a loss with ignored labels.
`seed` is state that no graph uses; the scale of the data is folded into the weight by fold.onnx.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors.numpy import save_file

Entry = dict[str, Any]
Graph = tuple[list[onnx.NodeProto], list[onnx.TensorProto], Entry]

BATCH = 64
SCALE = 0.0625
MOMENTUM = 0.9
ELEMENT = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "int32": TensorProto.INT32}

STATE: list[Entry] = [
    {"name": "ip.weight", "dtype": "float32", "shape": [64, 10], "role": "parameter"},
    {"name": "ip.bias", "dtype": "float32", "shape": [10], "role": "parameter"},
    {"name": "ip.weight/velocity", "dtype": "float32", "shape": [64, 10], "role": "optimizer"},
    {"name": "ip.bias/velocity", "dtype": "float32", "shape": [10], "role": "optimizer"},
    {"name": "step", "dtype": "int64", "shape": [], "role": "step"},
    {"name": "seed", "dtype": "uint32", "shape": [1], "role": "seed"},
    {"name": "max_steps", "dtype": "float32", "shape": [], "role": "max_steps"},
]
METRICS: list[Entry] = [
    {"name": "total", "kind": "total", "layer": None},
    {"name": "loss", "kind": "loss", "layer": "loss"},
    {"name": "l1", "kind": "side_loss", "layer": "l1"},
    {"name": "accuracy", "kind": "accuracy", "layer": "accuracy"},
    {"name": "lr", "kind": "rate", "layer": None},
]


def spec(changes: Mapping[str, Any] | None = None) -> Entry:
    """Return the resolved spec; `changes` maps `section.key` to a value."""
    resolved: Entry = {
        "name": "handmade",
        "data": {"source": "digits", "batch_size": BATCH, "resize": None, "mean": 0, "scale": SCALE},
        "layers": [{"name": "ip", "type": "InnerProduct", "num_output": 10}],
        "solver": {"type": "SGD", "base_lr": 0.1, "random_seed": 7, "max_epochs": 6, "max_iter": None},
        "run": {"evaluate_every": {"epochs": 1, "steps": None}, "keep": 3, "early_stopping": None},
    }
    for key, value in (changes or {}).items():
        section, name = key.split(".")
        resolved[section] = {**resolved[section], name: value}
    return resolved


def write_artifact(folder: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Write the artifact of `spec(changes)`."""
    resolved = spec(changes)
    graphs = {
        "train": _train(float(resolved["solver"]["base_lr"]), int(resolved["data"]["batch_size"])),
        "eval": _eval(),
        "fold": _fold(),
        "infer": _infer(),
    }
    return write_programs(folder, resolved, {"state": STATE, "metrics": METRICS}, graphs, first_state())


def write_programs(
    folder: Path, resolved: Entry, interface: Entry, graphs: Mapping[str, Graph], state: Mapping[str, Any]
) -> Path:
    """Write an artifact; `interface` holds what the manifest says beside what every manifest does."""
    folder.mkdir(parents=True)
    name = resolved["name"]
    spec_hash = hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()
    manifest: Entry = {
        "format": "netc.artifact",
        "format_version": 1,
        "netc_version": "0.1.0",
        "name": name,
        "target": "cpu",
        "opset": 18,
        "ir_version": 10,
        "batch_size": resolved["data"]["batch_size"],
        "spec_hash": spec_hash,
        "spec": resolved,
        **interface,
        "graphs": {},
    }
    for key, (nodes, initializers, entry) in graphs.items():
        graph = helper.make_graph(nodes, key, _infos(entry["inputs"]), _infos(entry["outputs"]), initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        properties = {"netc.graph": key, "netc.name": name, "netc.version": "0.1.0"}
        helper.set_model_props(model, {**properties, "netc.spec_hash": spec_hash, "netc.interface": json.dumps(entry)})
        onnx.checker.check_model(model, full_check=True)
        (folder / f"{key}.onnx").write_bytes(model.SerializeToString(deterministic=True))
        manifest["graphs"][key] = {"file": f"{key}.onnx", **entry}
    save_file(dict(state), folder / "init.safetensors")
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), "utf-8")
    return folder


def first_state() -> dict[str, Any]:
    """Return the state before the first step; `max_steps` and `seed` are for the driver to set."""
    weight = np.random.default_rng(3).normal(0, 0.1, (64, 10)).astype(np.float32)
    return {
        "ip.weight": weight,
        "ip.bias": np.zeros(10, np.float32),
        "ip.weight/velocity": np.zeros((64, 10), np.float32),
        "ip.bias/velocity": np.zeros(10, np.float32),
        "step": np.zeros((), np.int64),
        "seed": np.zeros(1, np.uint32),
        "max_steps": np.ones((), np.float32),
    }


def twin(state: dict[str, Any], images: Any, labels: Any, base_lr: float) -> tuple[dict[str, Any], dict[str, float]]:
    """Return (next state, metrics) of one step in float64 numpy: the oracle of train.onnx."""
    x = images.reshape(len(images), 64).astype(np.float64) * SCALE
    scores = x @ state["ip.weight"] + state["ip.bias"]
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    onehot = np.eye(10)[labels]
    losses = -np.log((p * onehot).sum(1))
    even = labels % 2 == 0
    lr = base_lr * (1 - state["step"] / state["max_steps"])
    dy = (p - onehot) / len(x)
    after = dict(state, step=state["step"] + 1)
    for name, gradient in (("ip.weight", x.T @ dy), ("ip.bias", dy.sum(0))):
        after[f"{name}/velocity"] = MOMENTUM * state[f"{name}/velocity"] + lr * gradient
        after[name] = state[name] - after[f"{name}/velocity"]
    metrics = {
        "total": losses.mean(),
        "loss": losses.mean(),
        "l1": losses[even].mean(),
        "accuracy": (scores.argmax(1) == labels).mean(),
        "lr": lr,
    }
    return after, metrics


def _node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    node = helper.make_node(op, inputs.split(), outputs.split(), **attributes)
    layer, part = _origin(node.output[0])
    node.name = f"{layer}/{part}/{op}/{node.output[0]}"
    helper.set_model_props(node, {"netc.layer": layer, "netc.part": part})
    return node


def _origin(output: str) -> tuple[str, str]:
    """Return the layer and its part that the node with this output belongs to, as the compiler would say."""
    if output in ("flat", "x"):
        return "image", "preprocess"
    layer = output.split("/")[0].removesuffix(".next")
    if output.endswith(("/kept", "/pull", ".next")):
        return layer.split(".")[0], "update"
    if output in ("p", "error", "dy"):
        return "loss", "grad"
    if output.endswith("/grad"):
        return "ip", "grad"
    return ("ip", "forward") if output == "ip" else ("loss", "forward")


def constants(**values: Any) -> list[onnx.TensorProto]:
    return [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]


def _infos(entries: list[Entry]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(e["name"], ELEMENT[e["dtype"]], e["shape"]) for e in entries]


def _state_inputs(*names: str) -> list[Entry]:
    return [{**entry, "role": "state"} for entry in STATE if entry["name"] in names]


def _batch(size: int | str) -> list[Entry]:
    image = {"name": "image", "dtype": "float32", "shape": [size, 1, 8, 8], "role": "batch", "field": "image"}
    label = {"name": "label", "dtype": "int32", "shape": [size], "role": "batch", "field": "label", "classes": 10}
    return [image, label]


def _scalar(name: str, role: str, **more: Any) -> Entry:
    return {"name": name, "dtype": "float32", "shape": [], "role": role, **more}


_FORWARD = [
    _node("Flatten", "image", "flat", axis=1),
    _node("Mul", "flat scale", "x"),
    _node("Gemm", "x ip.weight ip.bias", "ip"),
    _node("LogSoftmax", "ip", "logp", axis=1),
    _node("Unsqueeze", "label one", "column"),
    _node("Equal", "column classes", "hit"),
    _node("Cast", "hit", "onehot", to=TensorProto.FLOAT),
    _node("Mul", "logp onehot", "picked"),
    _node("ReduceSum", "picked one", "negative", keepdims=0),
    _node("Neg", "negative", "losses"),
    _node("ReduceMean", "losses", "loss", keepdims=0),
    _node("Identity", "loss", "total"),
    _node("Mod", "label two", "rest"),
    _node("Equal", "rest nought", "is_even"),
    _node("Cast", "is_even", "even", to=TensorProto.FLOAT),
    _node("ReduceSum", "even", "l1.weight", keepdims=0),
    _node("Mul", "losses even", "even_losses"),
    _node("ReduceSum", "even_losses", "even_sum", keepdims=0),
    _node("Div", "even_sum l1.weight", "l1"),
    _node("ArgMax", "ip", "best", axis=1, keepdims=0),
    _node("Cast", "best", "chosen", to=TensorProto.INT32),
    _node("Equal", "chosen label", "is_right"),
    _node("Cast", "is_right", "right", to=TensorProto.FLOAT),
    _node("ReduceMean", "right", "accuracy", keepdims=0),
]


def _forward_constants() -> list[onnx.TensorProto]:
    return constants(
        scale=np.float32(SCALE),
        one=np.array([1], np.int64),
        classes=np.arange(10, dtype=np.int32)[np.newaxis],
        two=np.int32(2),
        nought=np.int32(0),
    )


def _train(base_lr: float, batch: int) -> Graph:
    nodes = [
        *_FORWARD,
        _node("Softmax", "ip", "p", axis=1),
        _node("Sub", "p onehot", "error"),
        _node("Mul", "error share", "dy"),
        _node("Gemm", "x dy", "ip.weight/grad", transA=1),
        _node("ReduceSum", "dy axis0", "ip.bias/grad", keepdims=0),
        _node("Cast", "step", "now", to=TensorProto.FLOAT),
        _node("Div", "now max_steps", "progress"),
        _node("Sub", "full progress", "left"),
        _node("Mul", "left base_lr", "lr"),
        _node("Add", "step increment", "step.next"),
    ]
    for name in ("ip.weight", "ip.bias"):
        nodes += [
            _node("Mul", f"{name}/velocity momentum", f"{name}/kept"),
            _node("Mul", f"{name}/grad lr", f"{name}/pull"),
            _node("Add", f"{name}/kept {name}/pull", f"{name}/velocity.next"),
            _node("Sub", f"{name} {name}/velocity.next", f"{name}.next"),
        ]
    own = constants(
        share=np.float32(1 / batch),
        axis0=np.array([0], np.int64),
        full=np.float32(1),
        base_lr=np.float32(base_lr),
        momentum=np.float32(MOMENTUM),
        increment=np.int64(1),
    )
    changing = [entry for entry in STATE if entry["name"] not in ("seed", "max_steps")]
    inputs = [*_state_inputs(*(e["name"] for e in changing), "max_steps"), *_batch(batch)]
    outputs = [{**e, "name": f"{e['name']}.next", "role": "next", "feeds": e["name"]} for e in changing]
    outputs += [_scalar(metric["name"], "metric") for metric in METRICS]
    return nodes, [*_forward_constants(), *own], {"inputs": inputs, "outputs": outputs}


def _output() -> Entry:
    entry: Entry = {"name": "ip", "dtype": "float32", "shape": ["N", 10], "role": "output"}
    return {**entry, "activation": "logits", "label": "label"}


def _eval() -> Graph:
    nodes = [
        *_FORWARD,
        _node("Mul", "losses nothing", "zeros"),
        _node("Add", "zeros full", "ones"),
        _node("ReduceSum", "ones", "count", keepdims=0),
    ]
    own = constants(nothing=np.float32(0), full=np.float32(1))
    outputs = [
        _output(),
        _scalar("total", "metric", weight="count"),
        _scalar("loss", "metric", weight="count"),
        _scalar("l1", "metric", weight="l1.weight"),
        _scalar("accuracy", "metric", weight="count"),
        _scalar("count", "weight"),
        _scalar("l1.weight", "weight"),
    ]
    interface = {"inputs": [*_state_inputs("ip.weight", "ip.bias"), *_batch("N")], "outputs": outputs}
    return nodes, [*_forward_constants(), *own], interface


def _fold() -> Graph:
    nodes = [_node("Mul", "ip.weight scale", "ip.weight.folded"), _node("Identity", "ip.bias", "ip.bias.folded")]
    inputs = _state_inputs("ip.weight", "ip.bias")
    outputs = [{**e, "name": f"{e['name']}.folded", "role": "parameter", "feeds": e["name"]} for e in inputs]
    return nodes, constants(scale=np.float32(SCALE)), {"inputs": inputs, "outputs": outputs}


def _infer() -> Graph:
    nodes = [_node("Flatten", "image", "flat", axis=1), _node("Gemm", "flat ip.weight ip.bias", "ip")]
    parameters = [{**entry, "role": "parameter"} for entry in _state_inputs("ip.weight", "ip.bias")]
    return nodes, [], {"inputs": [*parameters, *_batch("N")[:1]], "outputs": [_output()]}
