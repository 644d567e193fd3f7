"""Every layer, declared as in a spec and lowered in both phases: value, gradient and statistics against PyTorch."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from netc.errors import SpecError
from netc.grad.engine import gradients
from netc.grad.table import VJP
from netc.graph import shape_of
from netc.graph.rules import broken_rule
from netc.graph.verify import verify
from netc.layers import LAYERS
from netc.layers.base import Phase
from netc.layers.context import Context
from netc.network import Network, lower
from netc.rewrite.passes import Target
from netc.spec.load import load
from netc.spec.text import parse_tree
from tests.cases.all_layers import CASES, MISFITS
from tests.cases.counting_metrics import COUNT_CASES
from tests.cases.domains import BATCH, SEED, STEP, Tensors, normal, positive, whole
from tests.cases.layers import SCORES, Kind, LayerCase
from tests.cases.primitive_row import Arg
from tests.oracle import DIRECTION, FLOAT32, TARGETS, Arrays, ort_runner, to_model, torch_gradients, worst
from tests.runs import in_ort, seed_of, slope_error

FLOAT, DOUBLE = ir.DataType.FLOAT, ir.DataType.DOUBLE
TARGET = "target"  # what the top under test is compared with: a EuclideanLoss gives each element its own cotangent
ROWS = {row.id: row for row in CASES}
ids = pytest.mark.parametrize("row", CASES, ids=lambda row: row.id)


def declaration(kind: Kind) -> dict[str, Any]:
    """Return what a spec says of an input."""
    if isinstance(kind, Mapping):
        return dict(kind)
    return {"classes": kind} if isinstance(kind, int) else {"shape": list(kind)}


def lowered(
    layers: list[dict[str, Any]],
    inputs: dict[str, Any],
    phase: Phase,
    dtype: ir.DataType = FLOAT,
    batch: int | None = BATCH,
    objectives: bool = True,
    **sections: Any,
) -> Network:
    """Lower a spec written as Python data; JSON is YAML."""
    spec = {
        "netc": 1,
        "name": "case",
        "inputs": {name: declaration(kind) for name, kind in inputs.items()},
        "data": {"source": "none", "batch_size": BATCH, **sections.get("data", {})},
        "layers": layers,
        "solver": {"type": "SGD", "base_lr": 0.1, "max_iter": 10, **sections.get("solver", {})},
    }
    return lower(load(parse_tree(json.dumps(spec), "case.yaml")), phase, batch, objectives, dtype)


def network_of(row: LayerCase, phase: Phase, dtype: ir.DataType = FLOAT, batch: int | None = BATCH) -> Network:
    """Lower a row, with a loss added where the layer under test is none."""
    layers, inputs = list(row.layers), dict(row.inputs)
    if row.top is not None:
        layers.append({"name": "objective", "type": "EuclideanLoss", "bottom": ["it", TARGET]})
        inputs[TARGET] = row.top
    elif row.type == "Accuracy" and row.objective is None:
        layers.append({"name": "objective", "type": "SoftmaxWithLoss"})
    return lowered(layers, inputs, phase, dtype, batch, data=row.data)


def feed_of(row: LayerCase, network: Network) -> Arrays:
    """Draw inputs and state in float64; the seed depends on the row alone."""
    rng = np.random.default_rng(seed_of(row))
    feed: Arrays = {}
    for name, value in network.batch.items():
        kind = row.inputs.get(name)
        classes = declaration(kind).get("classes") if kind is not None else None
        domain = row.domains.get(name, whole(0, classes) if classes else normal)
        feed[name] = Arg(tuple(n if isinstance(n, int) else BATCH for n in shape_of(value)), domain).draw(rng)
    for tensor in network.net.state.values():
        given = {"step": np.array(STEP), "seed": np.array([SEED])}.get(tensor.name)
        domain = positive if tensor.name.endswith("running_var") else normal
        feed[tensor.name] = Arg(tensor.shape, domain).draw(rng) if given is None else given
    return feed


def wrt_of(row: LayerCase, network: Network) -> list[str]:
    """Return what the objective is differentiated by: inputs with a shape, and parameters."""
    parameters = [t.name for t in network.net.state.values() if t.role == "parameter"]
    inputs = [n for n, kind in row.inputs.items() if "classes" not in declaration(kind) and n not in row.fixed]
    return inputs + parameters


def graph_of(row: LayerCase, network: Network, wrt: list[str]) -> ir.Graph:
    """Give out the layer's value, updates of statistics, and the gradients `wrt` of the objective."""
    net = network.net
    terms = {term.name: term.mean for term in network.terms}
    assert net.g.graph.name == "case"
    verify(net.g.graph, "lowering")
    inputs = {**net.inputs, **network.batch}
    found = gradients(net.g, VJP, terms["total"].value, [inputs[name] for name in wrt]) if wrt else {}
    value = network.tops["it"] if row.top is not None else terms["it"].value
    outputs = {"y": value, "objective": terms["total"].value}
    outputs |= {f"next:{name}": value for name, value in net.updates.items()}
    outputs |= {f"grad:{x.name}": value for x, value in found.items()}
    if row.top is None:
        outputs["weight"] = terms["it"].weight
    for name, value in outputs.items():
        net.g.output(name, value)
    verify(net.g.graph, "differentiation")
    return net.g.graph


def expected_of(row: LayerCase, feed: Arrays, wrt: list[str], train: bool) -> Arrays:
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in feed.items()}
    expected = {"y": row.oracle(tensors, train).numpy()}
    if row.top is None:
        expected["weight"] = np.array(float(row.weight(tensors)))
    if train and row.statistics is not None:
        expected |= {f"next:{name}": value.numpy() for name, value in row.statistics(tensors).items()}

    def objective(t: Tensors) -> torch.Tensor:
        if row.objective is not None:
            return row.objective(t, train)
        if row.type == "Accuracy":
            return torch.nn.functional.cross_entropy(t["image"], t["label"])
        y = row.oracle(t, train)
        return ((y - t[TARGET]) ** 2).sum() / (2 * BATCH) if row.top is not None else y

    if np.isfinite(feed["image"]).all():
        expected |= torch_gradients(objective, feed, wrt)
    return expected


def test_every_layer_has_a_row() -> None:
    counted = {row.type for row in COUNT_CASES}  # see test_counting_metrics.py
    assert {row.type for row in CASES} | counted == set(LAYERS.members)
    assert len({row.id for row in CASES}) == len(CASES)


@lru_cache(maxsize=1)
def step_of(row_id: str) -> tuple[Network, ir.Graph, Arrays, Arrays]:
    """Return a row in training with its gradients, its feed and what PyTorch computes: the same for all targets."""
    row = ROWS[row_id]
    network = network_of(row, "train")
    feed, wrt = feed_of(row, network), wrt_of(row, network)
    return network, graph_of(row, network, wrt), feed, expected_of(row, feed, wrt, train=True)


@pytest.mark.parametrize("target", TARGETS)
@ids
def test_train_phase_agrees_with_pytorch(row: LayerCase, target: Target) -> None:
    network, graph, feed, expected = step_of(row.id)
    result = in_ort(graph, feed, target)
    found, where = worst(result, expected)
    assert found < FLOAT32, where
    assert {name for name in result if name.startswith("next:")} == {
        f"next:{t.name}" for t in network.net.state.values() if t.role == "statistic"
    }
    if row.top is not None:
        assert result["y"].shape == (BATCH, *row.top)


@ids
def test_test_phase_agrees_with_pytorch_in_a_batch_of_any_size(row: LayerCase) -> None:
    network = network_of(row, "test", batch=None)
    feed = feed_of(row, network)
    if row.top is not None:
        assert shape_of(network.tops["it"]) == [shape_of(network.batch["image"])[0], *row.top]
    graph = graph_of(row, network, [])
    assert not any(broken_rule(node, False, "web") for node in graph)
    result = ort_runner(to_model(graph, emitted=False))(feed)
    found, where = worst(result, expected_of(row, feed, [], train=False))
    assert found < FLOAT32, where
    assert not network.net.updates, "testing changes no state"


@pytest.mark.parametrize("row", [row for row in CASES if row.smooth], ids=lambda row: row.id)
def test_gradient_is_the_slope_along_a_random_direction(row: LayerCase) -> None:
    network = network_of(row, "train", DOUBLE)
    feed, wrt = feed_of(row, network), wrt_of(row, network)
    assert slope_error(graph_of(row, network, wrt), feed, wrt, row) < DIRECTION, f"seed {seed_of(row)}"


# ------------------------------------------------------------------------------------- the net around the layers

SIDE = {
    "loss_weight": 0.25,
    "layers": [
        {"name": "ip_side", "type": "InnerProduct", "num_output": 4},
        {"name": "l1", "type": "SoftmaxWithLoss", "loss_weight": 0.5},
    ],
}
SUPERVISED: list[dict[str, Any]] = [
    {"name": "ip", "type": "InnerProduct", "num_output": 4, "side": SIDE},
    {"name": "loss", "type": "SoftmaxWithLoss", "loss_weight": 2.0},
    {"name": "accuracy", "type": "Accuracy", "bottom": ["ip", "label"]},
]


@pytest.mark.parametrize("phase", ["train", "test"])
def test_the_total_weighs_main_and_side_losses(phase: Phase) -> None:
    network = lowered(SUPERVISED, SCORES, phase)
    assert [(t.name, t.kind) for t in network.terms] == [
        ("total", "total"),
        ("l1", "side_loss"),
        ("loss", "loss"),
        ("accuracy", "accuracy"),
    ]
    for term in network.terms:
        network.net.g.output(term.name, term.mean.value)
    rng = np.random.default_rng(5)
    feed: Arrays = {
        name: rng.normal(size=[int(str(n)) for n in x.shape or ()]) for name, x in network.net.inputs.items()
    }
    feed |= {"image": rng.normal(size=(BATCH, 4)), "label": np.array([0, 3, 1])}
    result = ort_runner(to_model(network.net.g.graph))(feed)
    t = {name: torch.from_numpy(value) for name, value in feed.items()}
    top = torch.nn.functional.linear(t["image"], t["ip.weight"], t["ip.bias"])
    main = torch.nn.functional.cross_entropy(top, t["label"])
    side = torch.nn.functional.cross_entropy(
        torch.nn.functional.linear(top, t["ip_side.weight"], t["ip_side.bias"]), t["label"]
    )
    expected = {"loss": main, "l1": side, "total": 2.0 * main + 0.25 * 0.5 * side}
    assert worst(result, {name: value.numpy() for name, value in expected.items()})[0] < FLOAT32


@pytest.mark.parametrize("batch", [1, 7])
def test_evaluation_takes_any_batch_size(batch: int) -> None:
    network = lowered(SUPERVISED, SCORES, "test", batch=None)
    for term in network.terms:
        network.net.g.output(term.name, term.mean.value)
        network.net.g.output(f"{term.name}.weight", term.mean.weight)
    rng = np.random.default_rng(6)
    feed: Arrays = {
        name: rng.normal(size=[int(str(n)) for n in x.shape or ()]) for name, x in network.net.inputs.items()
    }
    feed |= {"image": rng.normal(size=(batch, 4)), "label": rng.integers(0, 4, batch)}
    run = ort_runner(to_model(network.net.g.graph, emitted=False))
    result = run(feed)
    singles = [
        run({**feed, "image": feed["image"][i : i + 1], "label": feed["label"][i : i + 1]}) for i in range(batch)
    ]
    for term in network.terms:
        assert result[f"{term.name}.weight"] == batch
        assert result[term.name] == pytest.approx(np.mean([single[term.name] for single in singles]), rel=1e-5)


@pytest.mark.parametrize("normalization", ["valid", "full", "batch_size"])
def test_uneven_batches_with_ignored_labels_combine_exactly(normalization: str) -> None:
    layers: list[dict[str, Any]] = [
        {"name": "ip", "type": "InnerProduct", "num_output": 4},
        {"name": "loss", "type": "SoftmaxWithLoss", "ignore_label": 2, "normalization": normalization},
        {"name": "accuracy", "type": "Accuracy", "bottom": ["ip", "label"], "ignore_label": 2},
    ]
    network = lowered(layers, SCORES, "test", batch=None)
    for term in network.terms:
        network.net.g.output(term.name, term.mean.value)
        network.net.g.output(f"{term.name}.weight", term.mean.weight)
    rng = np.random.default_rng(8)
    feed: Arrays = {
        name: rng.normal(size=[int(str(n)) for n in x.shape or ()]) for name, x in network.net.inputs.items()
    }
    feed |= {"image": rng.normal(size=(7, 4)), "label": np.array([0, 2, 2, 1, 2, 3, 0])}
    run = ort_runner(to_model(network.net.g.graph, emitted=False))
    whole_split = run(feed)
    parts = [
        run({**feed, "image": feed["image"][part], "label": feed["label"][part]})
        for part in (slice(0, 1), slice(1, 3), slice(3, 7))  # the second has nothing that counts
    ]
    for name in ("loss", "accuracy"):
        weights = [float(part[f"{name}.weight"]) for part in parts]
        assert sum(weights) == whole_split[f"{name}.weight"]
        combined = sum(float(part[name]) * weight for part, weight in zip(parts, weights, strict=True)) / sum(weights)
        assert combined == pytest.approx(float(whole_split[name]), rel=1e-6)


def test_phases_choose_layers() -> None:
    layers: list[dict[str, Any]] = [
        {"type": "InnerProduct", "name": "ip", "num_output": 4},
        {"type": "TanH", "name": "squash", "include": {"phase": "train"}},
        {"type": "SoftmaxWithLoss", "name": "loss"},
    ]
    for phase, present in (("train", True), ("test", False)):
        network = lowered(layers, SCORES, "train" if phase == "train" else "test")
        assert ("squash" in network.tops) == present


def test_nodes_say_where_they_come_from() -> None:
    network = lowered(SUPERVISED, SCORES, "train")
    gradients(network.net.g, VJP, network.terms[0].mean.value, list(network.net.inputs.values()))
    nodes = {node.name: node for node in network.net.g.graph}
    assert nodes["ip/forward/Gemm"].metadata_props["netc.spec"] == "case.yaml:1"
    assert nodes["ip/grad/Gemm"].metadata_props == {
        "netc.layer": "ip",
        "netc.part": "grad",
        "netc.spec": "case.yaml:1",
    }


@pytest.mark.parametrize(("declared", "inputs", "word"), MISFITS, ids=[f"{d['type']}: {w}" for d, _, w in MISFITS])
def test_a_layer_that_does_not_fit_is_refused(declared: dict[str, Any], inputs: dict[str, Any], word: str) -> None:
    with pytest.raises(SpecError, match=word):
        lowered([{"name": "it", **declared}], inputs, "train")


@pytest.mark.parametrize("shape", [(4,), (4, 1, 1)])
def test_batch_norm_needs_two_values_a_channel(shape: tuple[int, ...]) -> None:
    layers: list[dict[str, Any]] = [
        {"type": "BatchNorm", "name": "bn"},
        {"type": "InnerProduct", "name": "ip", "num_output": 4},
        {"type": "SoftmaxWithLoss", "name": "loss"},
    ]
    inputs: dict[str, Any] = {"image": shape, "label": 4}
    with pytest.raises(SpecError, match=r"raise data\.batch_size"):
        lowered(layers, inputs, "train", batch=1)
    assert isinstance(lowered(layers, inputs, "test", batch=1).net, Context)
