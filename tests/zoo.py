"""Compile specs of the zoo for tests, and run their programs."""

from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort

from netc.build import build
from netc.emit import Artifact
from netc.rewrite.passes import Target
from netc.spec.load import Loaded, load
from netc.spec.overrides import apply_override
from netc.spec.text import read_tree

SPECS = Path(__file__).parents[1] / "specs"
ZOO = sorted(path.stem for path in SPECS.glob("*.yaml"))
State = dict[str, np.ndarray]


def loaded(name: str, *overrides: str) -> Loaded:
    """Return a validated spec of the zoo."""
    tree = read_tree(SPECS / f"{name}.yaml")
    for option in overrides:
        tree = apply_override(tree, option)
    return load(tree)


@cache
def compiled(name: str, *overrides: str) -> Artifact:
    """Return a compiled spec of the zoo."""
    return build(loaded(name, *overrides))


@cache
def build_for(name: str, target: Target) -> Artifact:
    """Return a spec of the zoo compiled for one engine."""
    return build(loaded(name), target)


@cache
def session(name: str, graph: str, *overrides: str) -> ort.InferenceSession:
    """Return an ONNX Runtime session of one program, with one thread, where it is deterministic."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    model = compiled(name, *overrides).models()[graph]
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(name: str, graph: str, feed: dict[str, np.ndarray], *overrides: str) -> dict[str, np.ndarray]:
    """Run one program; inputs that it does not have are left out of the feed."""
    onnx_session = session(name, graph, *overrides)
    wanted = {x.name for x in onnx_session.get_inputs()}
    outputs = [y.name for y in onnx_session.get_outputs()]
    results = onnx_session.run(outputs, {k: v for k, v in feed.items() if k in wanted})
    return dict(zip(outputs, results, strict=True))


def next_state(state: State, outputs: dict[str, np.ndarray]) -> State:
    """Return the state after a step."""
    return {name: outputs.get(f"{name}.next", value) for name, value in state.items()}


def batches(name: str, count: int, seed: int, *overrides: str) -> list[dict[str, np.ndarray]]:
    """Return random batches in the raw range of the digits: normal noise has no ties in pooling windows."""
    artifact = compiled(name, *overrides)
    print(f"batches of {name}: seed {seed}")
    rng = np.random.default_rng(seed)
    shape = next(x for x in artifact.programs["train"].graph.inputs if x.name == "image").shape
    assert shape is not None
    size = [int(str(n)) for n in shape]
    return [
        {
            "image": rng.normal(8, 5, size).astype(np.float32),
            "label": rng.integers(0, 10, size[0]).astype(np.int32),
        }
        for _ in range(count)
    ]
