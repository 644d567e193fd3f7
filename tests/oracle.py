"""How tests run graphs, and how they measure a difference: ORT, onnx.reference, torch, random directions.

Differences are relative to the largest expected magnitude (of one tensor), so that entries near zero do not count
rounding of their neighbours as an error of their own.
"""

import importlib.util
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_conv_transpose, op_max_pool

from netc.graph.builder import IR_VERSION
from netc.graph.rules import broken_rule
from netc.rewrite.passes import Target

TARGETS: tuple[Target, ...] = get_args(Target)

Arrays = dict[str, np.ndarray]
Runner = Callable[[Mapping[str, np.ndarray]], Arrays]

# Float32 against float64: at most a few hundred terms are summed, each rounded to 6e-8. Measured below 6e-7, and
# 8e-6 in one sum that cancels; 2e-5 is still 50 times below a gradient that is wrong by 0.1 %.
FLOAT32 = 2e-5
# Central differences in float64 with step 1e-5: truncation about h^2 = 1e-10, rounding about 1e-16 / h = 1e-11, both
# times the third derivatives and values of the rows. Measured below 4e-9.
DIRECTION = 1e-7
STEP = 1e-5


# What onnx.reference gets wrong (1.23), put right for the checks in float64; ORT is no way out, since its convolutions
# know float32 alone.


class ConvTranspose(op_conv_transpose.ConvTranspose):
    """The original refuses several groups: here each is computed by it alone."""

    op_domain = ""

    def _run(self, x: Any, w: Any, b: Any = None, **given: Any) -> Any:  # type: ignore[override]
        groups = given.pop("group") or 1
        biases = [None] * groups if b is None else np.split(b, groups)
        parts = zip(np.split(x, groups, axis=1), np.split(w, groups), biases, strict=True)
        run: Any = super()._run
        return (np.concatenate([run(*part, group=1, **given)[0] for part in parts], 1),)


class MaxPool(op_max_pool.MaxPool):
    """The original has two ways, of which the one for stride 1 gives wrong Indices: here it always takes the other."""

    op_domain = ""

    def _run(self, x: Any, **given: Any) -> Any:  # type: ignore[override]
        run: Any = self._max_pool
        return run(x, **given)


class Erf(OpRun):
    """The original rounds to float32."""

    op_domain = ""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (np.vectorize(math.erf, otypes=[x.dtype])(x),)


def to_model(graph: ir.Graph, emitted: bool = True, target: Target = "web") -> onnx.ModelProto:
    """Return a checked model; an emitted graph also obeys the rules of graphs for its target."""
    if emitted:
        reasons = {node.name: broken_rule(node, True, target) for node in graph}
        assert not any(reasons.values()), reasons
    proto = ir.to_proto(ir.Model(graph, ir_version=IR_VERSION))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def ort_runner(model: onnx.ModelProto) -> Runner:
    """Return a function that runs a model in ONNX Runtime with one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return _runner(model, session.run)


def rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that computes the same, with every float16 value rounded to float16, as on a GPU.

    ONNX Runtime's CPU provider computes most operators on float16 in float32, casts around them, and then drops the
    pairs of casts between two of them, with the rounding that they stand for. Max has a kernel for float16 there, and
    the maximum of a value with itself is that value: two of them behind each keep the casts, one alone would not.
    """
    half = onnx.TensorProto.FLOAT16
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.graph.value_info, *model.graph.output)}
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    del rounded.graph.node[:], rounded.graph.value_info[:]
    for node in model.graph.node:
        new = rounded.graph.node.add()
        new.CopyFrom(node)
        for index, name in enumerate(node.output):
            if types.get(name) == half:
                new.output[index] = f"{name}/exact"
                for x, y in ((f"{name}/exact", f"{name}/rounded"), (f"{name}/rounded", name)):
                    rounded.graph.node.append(onnx.helper.make_node("Max", [x, x], [y], f"{y}/Max"))
    return rounded


def reference_runner(model: onnx.ModelProto) -> Runner:
    """Return a function that runs a model in the standard's own evaluator, in the precision of the graph."""
    return _runner(model, ReferenceEvaluator(model, new_ops=[ConvTranspose, MaxPool, Erf]).run)


def _runner(model: onnx.ModelProto, run: Callable[..., Any]) -> Runner:
    types = {x.name: onnx.helper.tensor_dtype_to_np_dtype(x.type.tensor_type.elem_type) for x in model.graph.input}
    outputs = [y.name for y in model.graph.output]

    def call(feed: Mapping[str, np.ndarray]) -> Arrays:
        results = run(outputs, {name: np.asarray(feed[name]).astype(kind) for name, kind in types.items()})
        return {name: np.asarray(value) for name, value in zip(outputs, results, strict=True)}

    return call


def error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference relative to the largest expected magnitude; infinite for another shape or NaN."""
    if actual.shape != expected.shape:
        return np.inf
    difference = float(np.max(np.abs(actual.astype(np.float64) - expected), initial=0.0))
    return np.inf if np.isnan(difference) else difference / max(float(np.max(np.abs(expected), initial=0.0)), 1e-3)


def worst(actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> tuple[float, str]:
    """Return the largest error over all expected tensors, and its tensor."""
    assert actual.keys() >= expected.keys(), f"missing: {expected.keys() - actual.keys()}"
    return max(((error(actual[name], value), name) for name, value in expected.items()), default=(np.inf, "nothing"))


def direction_error(run: Runner, feed: Arrays, objective: str, wrt: Sequence[str], seed: int) -> float:
    """Return how far gradients are from central differences along a random direction, relative to their length.

    The graph computes `objective` and the gradient `grad:x` of each x in `wrt`. Each x has a direction of its own, so
    that no error hides in another's rounding.
    """
    rng = np.random.default_rng(seed)
    gradients = run(feed)
    errors = []
    for name in wrt:
        direction = rng.standard_normal(feed[name].shape)
        ahead = run({**feed, name: feed[name] + STEP * direction})[objective]
        behind = run({**feed, name: feed[name] - STEP * direction})[objective]
        slope = float(ahead - behind) / (2 * STEP)
        stated = gradients[f"grad:{name}"].astype(np.float64)
        errors.append(abs(slope - float(np.sum(stated * direction))) / max(float(np.linalg.norm(stated)), 1e-3))
    return float(np.max(errors))  # NaN if one of them is


def torch_gradients(
    objective: Callable[[dict[str, torch.Tensor]], torch.Tensor], feed: Mapping[str, np.ndarray], wrt: Sequence[str]
) -> Arrays:
    """Return `grad:x` of a scalar function of torch tensors for each x in `wrt`, in float64."""
    if not wrt:
        return {}
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in feed.items()}
    for name in wrt:
        tensors[name].requires_grad_(True)
    value = objective(tensors)
    found = torch.autograd.grad(value, [tensors[name] for name in wrt], materialize_grads=True)
    return {f"grad:{name}": gradient.numpy() for name, gradient in zip(wrt, found, strict=True)}


def mutant(folder: Path, module: ModuleType, *changes: tuple[str, str]) -> ModuleType:
    """Load a module of netc with pieces of its text replaced: a planted fault."""
    source = inspect.getsource(module)
    for old, new in changes:
        assert source.count(old) == 1, f"{module.__name__} no longer has {old!r} once: plant the fault anew"
        source = source.replace(old, new)
    path = folder / "mutant.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("mutant", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
