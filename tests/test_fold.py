"""The fold of batch normalization: the two halves together compute what the unfolded graph computes."""

from typing import Any

import numpy as np
import pytest

from netc.graph.verify import verify
from netc.network import Network
from netc.rewrite.fold import Split, fold_batch_normalization, split
from netc.rewrite.passes import clean
from tests.cases.domains import positive
from tests.oracle import Arrays, Runner, error, ort_runner, to_model
from tests.test_layers import lowered

# Folding multiplies weights in double precision and rounds them once: a few 6e-8, times the terms of one sum.
FOLDED = 1e-5
Layers = list[dict[str, Any]]
IMAGE = (4, 6, 6)


def conv(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "type": "Convolution", "num_output": 4, "kernel_size": 3, "pad": 1, **fields}


def bn(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "type": "BatchNorm", **fields}


RELU: dict[str, Any] = {"name": "relu", "type": "ReLU"}
IP: dict[str, Any] = {"name": "ip", "type": "InnerProduct", "num_output": 4}
# Layers, and the operators that inference is left with.
POSITIONS: dict[str, tuple[Layers, list[str]]] = {
    "after a convolution": ([conv("c"), bn("b")], ["Conv"]),
    "after a convolution without bias": ([conv("c", bias_term=False), bn("b")], ["Conv"]),
    "without affine": ([conv("c"), bn("b", affine=False)], ["Conv"]),
    "after a grouped convolution": ([conv("c", group=2), bn("b")], ["Conv"]),
    "after a strided, dilated convolution": ([conv("c", stride=2, dilation=2, pad=2), bn("b", eps=0.1)], ["Conv"]),
    "between convolution and ReLU": ([conv("c"), bn("b"), RELU], ["Conv", "Relu"]),
    "after an inner product": ([IP, bn("b")], ["Flatten", "Gemm"]),
    "after an inner product without bias": ([{**IP, "bias_term": False}, bn("b")], ["Flatten", "Gemm"]),
    "after a ReLU": ([conv("c"), RELU, bn("b")], ["Conv", "Relu", "Mul", "Add"]),
    "on the input": ([bn("b"), conv("c")], ["Mul", "Add", "Conv"]),
    "on a vector": ([{"name": "flat", "type": "Flatten"}, bn("b"), IP], ["Flatten", "Mul", "Add", "Gemm"]),
    "after another": ([conv("c"), bn("b1"), bn("b2")], ["Conv", "Mul", "Add"]),
    "after a convolution with two readers": (
        [conv("c"), bn("b"), {"name": "sum", "type": "Eltwise", "bottom": ["b", "c"]}],
        ["Conv", "Mul", "Add", "Add"],
    ),
    "two after one convolution": (
        [conv("c"), bn("b1"), {**bn("b2"), "bottom": "c"}],
        ["Conv", "Mul", "Add", "Mul", "Add"],
    ),
    "after each of two convolutions": ([conv("c1"), bn("b1"), RELU, conv("c2"), bn("b2")], ["Conv", "Relu", "Conv"]),
    "after a sum": (
        [conv("c"), {"name": "sum", "type": "Eltwise", "bottom": ["c", "image"]}, bn("b")],
        ["Conv", "Add", "Mul", "Add"],
    ),
    "nowhere": ([conv("c"), RELU], ["Conv", "Relu"]),
}


def inference(layers: Layers) -> Network:
    """Lower layers for inference; training them needs a loss, which inference leaves out."""
    ending: Layers = [
        {"name": "last", "type": "InnerProduct", "num_output": 3},
        {"name": "loss", "type": "SoftmaxWithLoss"},
    ]
    network = lowered([*layers, *ending], {"image": IMAGE, "label": 3}, "test", batch=None, objectives=False)
    for output in network.outputs:
        network.net.g.output(output.name, output.value)
    return network


def halves_of(network: Network) -> tuple[Split, Runner, Runner]:
    """Fold and split."""
    folded = fold_batch_normalization(network.net.g.graph)
    verify(folded.graph, "folding")
    parts = split(clean(folded.graph), set(network.net.state))
    for part in (parts.fold, parts.infer):
        verify(part.graph, "splitting")
    models = [to_model(clean(part.graph), emitted=False) for part in (parts.fold, parts.infer)]
    return parts, ort_runner(models[0]), ort_runner(models[1])


def state_of(network: Network, rng: np.random.Generator) -> Arrays:
    """Draw a state as after training: no statistic and no scale is trivial, and some scales are negative."""
    return {
        t.name: (positive if t.name.endswith("running_var") else lambda rng, shape: rng.normal(size=shape))(
            rng, t.shape
        ).astype(np.float32)
        for t in network.net.state.values()
    }


def check(layers: Layers, seed: int) -> list[str]:
    """Compare folded with unfolded; return the operators of the folded graph without those of the ending."""
    rng = np.random.default_rng(seed)
    network = inference(layers)
    state = state_of(network, rng)
    batch: Arrays = {"image": rng.normal(size=(2, *IMAGE)).astype(np.float32), "label": np.zeros(2)}
    unfolded = ort_runner(to_model(network.net.g.graph, emitted=False))({**state, **batch})
    parts, fold, infer = halves_of(network)
    parameters = {parts.feeds[name]: value for name, value in fold(state).items()}
    result = infer({**parameters, **batch})
    assert result.keys() == unfolded.keys()
    for name, value in unfolded.items():
        assert error(result[name], value.astype(np.float64)) < FOLDED, name
    operators = [node.op_type for node in parts.infer.graph]
    assert "BatchNormalization" not in operators + [node.op_type for node in parts.fold.graph]
    assert {node.op_type for node in parts.fold.graph}.isdisjoint({"Conv", "Gemm"})
    return operators


@pytest.mark.parametrize("position", POSITIONS)
def test_folded_equals_unfolded(position: str) -> None:
    layers, expected = POSITIONS[position]
    operators = check(layers, seed=1)
    tail = [op for op in operators if op not in ("Flatten", "Gemm")]
    assert tail == [op for op in expected if op not in ("Flatten", "Gemm")]


@pytest.mark.parametrize("seed", range(12))
def test_folded_equals_unfolded_in_random_chains(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers: Layers = []
    for i in range(6):
        kind = rng.choice(["conv", "bn", "relu", "pool", "skip"])
        name = f"l{i}"
        if kind == "conv":
            layers.append(conv(name, bias_term=bool(rng.integers(2)), group=int(rng.choice([1, 2, 4]))))
        elif kind == "relu":
            layers.append({**RELU, "name": name})
        elif kind == "pool":
            layers.append(
                {
                    "name": name,
                    "type": "Pooling",
                    "pool": str(rng.choice(["max", "average"])),
                    "kernel_size": 3,
                    "pad": 1,
                }
            )
        elif kind == "skip" and layers:
            other = str(rng.choice(["image", *(each["name"] for each in layers[:-1])]))
            layers.append({"name": name, "type": "Eltwise", "bottom": [layers[-1]["name"], other]})
        else:
            layers.append(bn(name))
    check([*layers, conv("c"), bn("last_bn")], seed)


def test_the_fold_names_parameters_after_the_spec() -> None:
    parts, _, _ = halves_of(inference([conv("c"), bn("b"), RELU, bn("b2")]))
    assert set(parts.feeds.values()) == {"c.weight", "c.bias", "b2.scale", "b2.shift", "last.weight", "last.bias"}
    assert {str(x.name) for x in parts.infer.graph.inputs} == {"image", "label", *parts.feeds.values()}
    assert {str(x.name) for x in parts.fold.graph.outputs} == set(parts.feeds)
