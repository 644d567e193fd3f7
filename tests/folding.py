"""Networks of a few layers folded for inference, and how they compare with what they were before."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from netc.graph.verify import verify
from netc.network import Network
from netc.rewrite.fold import fold_batch_normalization
from netc.rewrite.passes import clean
from netc.rewrite.split import Split, split
from tests.cases.domains import positive
from tests.oracle import Arrays, Runner, error, ort_runner, reference_runner, to_model
from tests.test_layers import lowered

# Folding multiplies weights in double precision and rounds them once: a few 6e-8, times the terms of one sum. What it
# is compared with is the unfolded network in float64, so that its rounding is not counted.
FOLDED = 1e-5
# Both in float64: 1e-16 times a thousand terms, and room for sums that cancel.
EXACT = 1e-11
Layers = list[dict[str, Any]]
IMAGE = (4, 6, 6)
FLOAT, DOUBLE = ir.DataType.FLOAT, ir.DataType.DOUBLE


def conv(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "type": "Convolution", "num_output": 4, "kernel_size": 3, "pad": 1, **fields}


def deconv(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "type": "Deconvolution", "num_output": 6, "kernel_size": 3, **fields}


def bn(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "type": "BatchNorm", **fields}


def layer(name: str, type: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "type": type, **fields}


@dataclass(frozen=True)
class Position:
    """Layers; the operators that are left of them; what is kept, with the reasons before and after it."""

    id: str
    layers: Layers
    operators: str
    kept: dict[str, tuple[str, str]]


def position(id: str, layers: Layers, operators: str, **kept: tuple[str, str]) -> Position:
    return Position(id, layers, operators, kept)


def inference(layers: Layers, dtype: ir.DataType = FLOAT, **sections: Any) -> Network:
    """Lower layers, and an InnerProduct `last` behind them, for inference."""
    ending = [layer("last", "InnerProduct", num_output=3), layer("loss", "SoftmaxWithLoss")]
    inputs = {"image": IMAGE, "label": 3}
    network = lowered([*layers, *ending], inputs, "test", dtype, None, objectives=False, **sections)
    for output in network.outputs:
        network.net.g.output(output.name, output.value)
    return network


def halves_of(network: Network) -> Split:
    """Fold and split."""
    folded = fold_batch_normalization(network.net.g.graph, network.net.state)
    verify(folded.graph, "folding")
    parts = split(clean(folded.graph), set(network.net.state))
    for part in (parts.fold, parts.infer):
        verify(part.graph, "splitting")
        clean(part.graph)
    return parts


def state_of(network: Network, rng: np.random.Generator) -> Arrays:
    """Draw a state as after training: no statistic and no scale is trivial, and some scales are negative."""
    return {
        t.name: (positive if t.name.endswith("running_var") else lambda rng, shape: rng.normal(size=shape))(
            rng, t.shape
        ).astype(np.float32)
        for t in network.net.state.values()
    }


def result_of(parts: Split, state: Arrays, batch: Arrays, runner: Any) -> Arrays:
    """Run the fold, and inference with what it gives."""
    fold: Runner = runner(to_model(parts.fold.graph, emitted=False))
    infer: Runner = runner(to_model(parts.infer.graph, emitted=False))
    return infer({**{parts.feeds[name]: value for name, value in fold(state).items()}, **batch})


def check(layers: Layers, seed: int) -> Split:
    """Compare folded with unfolded in both precisions, and return the halves in float32."""
    rng = np.random.default_rng(seed)
    networks = {dtype: inference(layers, dtype) for dtype in (FLOAT, DOUBLE)}
    state = state_of(networks[FLOAT], rng)
    batch: Arrays = {"image": rng.normal(size=(2, *IMAGE)).astype(np.float32), "label": np.zeros(2)}
    unfolded = reference_runner(to_model(networks[DOUBLE].net.g.graph, emitted=False))({**state, **batch})
    parts = {dtype: halves_of(network) for dtype, network in networks.items()}
    for dtype, runner, tolerance in ((FLOAT, ort_runner, FOLDED), (DOUBLE, reference_runner, EXACT)):
        result = result_of(parts[dtype], state, batch, runner)
        assert result.keys() == unfolded.keys()
        for name, value in unfolded.items():
            assert error(result[name], value) < tolerance, (name, dtype)
    for half in (parts[FLOAT].fold, parts[FLOAT].infer):
        assert "BatchNormalization" not in operators(half.graph)
    assert {"Conv", "ConvTranspose", "Gemm", "MatMul"}.isdisjoint(operators(parts[FLOAT].fold.graph))
    return parts[FLOAT]


def operators(graph: ir.Graph) -> list[str]:
    return [node.op_type for node in graph]


def left(graph: ir.Graph) -> str:
    """Return the operators of inference without the InnerProduct at its end."""
    return " ".join(operators(graph)).removesuffix(" Gemm").removesuffix(" Flatten")


def reasons(graph: ir.Graph) -> dict[str, str]:
    """Return why normalizations were kept, by layer; each is a Mul and an Add that say so."""
    found: dict[str, list[tuple[str, str]]] = {}
    for node in graph:
        if reason := node.metadata_props.get("netc.fold"):
            found.setdefault(node.metadata_props["netc.layer"], []).append((node.op_type, reason))
    for said in found.values():
        assert [op_type for op_type, _ in said] == ["Mul", "Add"]
        assert len({reason for _, reason in said}) == 1
    return {name: said[0][1] for name, said in found.items()}
