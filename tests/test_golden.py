"""The emitted graphs of small networks as text, to see in a diff what a change of the compiler does to them.

`pytest tests/test_golden.py --update-golden` writes them anew. That they compute the right thing is shown elsewhere
(test_twins, test_vjp): a golden file only shows that something changed.
"""

from pathlib import Path

import onnx_ir as ir
import pytest

from netc.build import build
from netc.graph import shape_of
from netc.spec.load import load
from netc.spec.text import parse_tree

GOLDEN = Path(__file__).parent / "golden"
SPEC = """
netc: 1
name: golden
inputs: {{image: {{shape: [1, 4, 4]}}, label: {{classes: 2}}}}
data: {{source: digits, batch_size: 2}}
layers:
{layers}
  - {{name: ip, type: InnerProduct, num_output: 2}}
  - {{name: loss, type: SoftmaxWithLoss}}
solver: {{type: SGD, base_lr: 0.1, momentum: 0.9, weight_decay: 0.01, max_iter: 10}}
"""
NETWORKS = {
    "linear": "",
    "convolution": "  - {name: conv, type: Convolution, num_output: 2, kernel_size: 3, pad: 1}\n  - {type: ReLU}",
    "batch_norm": "  - {name: conv, type: Convolution, num_output: 2, kernel_size: 1, bias_term: false}\n"
    "  - {name: bn, type: BatchNorm}",
}


def text_of(graph: ir.Graph) -> str:
    """Return a graph as one line a node: `name [shape] = Operator(inputs; attributes)`."""
    lines = [f"input {x.name} {x.dtype}{shape_of(x)}" for x in graph.inputs]
    for node in graph:
        inputs = ", ".join("-" if x is None else str(x.name) for x in node.inputs)
        attributes = "".join(f"; {name}={attribute.value}" for name, attribute in sorted(node.attributes.items()))
        names = ", ".join(f"{y.name} {y.dtype}{shape_of(y)}" for y in node.outputs)
        lines.append(f"{names} = {node.op_type}({inputs}{attributes})")
    lines += [f"output {y.name}" for y in graph.outputs]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("program", ["train", "fold", "infer"])
@pytest.mark.parametrize("name", NETWORKS)
def test_golden(name: str, program: str, request: pytest.FixtureRequest) -> None:
    artifact = build(load(parse_tree(SPEC.format(layers=NETWORKS[name]), "golden.yaml")))
    text = text_of(artifact.programs[program].graph)
    file = GOLDEN / f"{name}.{program}.txt"
    if request.config.getoption("--update-golden"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8"), "the graph changed; if that is meant, run with --update-golden"
