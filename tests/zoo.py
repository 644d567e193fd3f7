"""Compile specs of the zoo for tests, and run their programs."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from netc.build import build
from netc.emit import Artifact
from netc.rewrite.passes import Target
from netc.spec.load import Loaded, load
from netc.spec.overrides import apply_override
from netc.spec.text import read_tree

SPECS = Path(__file__).parents[1] / "specs"
ZOO = sorted(path.stem for path in SPECS.glob("*.yaml"))


def _read(name: str) -> dict[str, Any]:
    """Return a spec as plain data, as it stands in the file."""
    return read_tree(SPECS / f"{name}.yaml").value


# The specs whose data ships with netc: these can be trained anywhere as they are.
DIGITS = [name for name in ZOO if _read(name)["data"]["source"] == "digits"]
State = dict[str, np.ndarray]

# What the others are compiled with where tests run them. Planes are as small as the strides allow, so that behind the
# last one BatchNorm still sees several values, or wide layers become narrow; rates are for two steps on noise.
IMAGENET = ("inputs.image.shape=[3,64,64]", "data.batch_size=2", "solver.base_lr=0.01")
CIFAR = ("inputs.image.shape=[3,16,16]", "data.batch_size=4", "solver.base_lr=0.01")
NARROW = tuple(f"layers.conv{stage}.channels=16" for stage in (2, 3, 4, 5))
REDUCED = {
    "alexnet": ("inputs.image.shape=[3,67,67]", "data.batch_size=2"),
    "densenet121": IMAGENET,
    "densenet_bc_cifar": CIFAR,
    "googlenet": (
        "inputs.image.shape=[3,80,80]",
        "data.batch_size=2",
        "solver.base_lr=0.001",
        "layers.pool5/7x7_s1.kernel_size=2",
    ),
    "googlenet_bn": ("inputs.image.shape=[3,80,80]", "data.batch_size=2", "solver.base_lr=0.01"),
    "hed": (
        "inputs.image.shape=[3,32,48]",
        "inputs.edge.shape=[1,32,48]",
        "solver.base_lr=0.001",
        "solver.iter_size=1",
    ),
    "nin_dsn_cifar10": CIFAR,
    "resnet18": IMAGENET,
    "resnet34": IMAGENET,
    "resnet50": IMAGENET,
    "resnet101": (*IMAGENET, *NARROW),
    "resnet152": (*IMAGENET, *NARROW),
    "resnet20_cifar": CIFAR,
    "resnet56_cifar": CIFAR,
    "resnet110_cifar": CIFAR,
    "squeezenet": IMAGENET,
    "unet": (
        "inputs.image.shape=[1,32,32]",
        "inputs.label.shape=[32,32]",
        *(f"layers.{name}.channels=128" for name in ("down4", "bottom", "up4")),
    ),
    "vgg16": (
        "inputs.image.shape=[3,32,32]",
        "data.batch_size=2",
        "layers.fc6.num_output=64",
        "layers.fc7.num_output=64",
    ),
}


def reduced(name: str) -> tuple[str, ...]:
    """Return the overrides that make a spec small enough for tests, none for those that are."""
    if name in DIGITS:
        return ()
    assert name in REDUCED, f"{name} does not train on the digits: add a row for it to REDUCED in tests/zoo.py"
    return REDUCED[name]


def shallow(name: str) -> tuple[str, ...]:
    """Return the overrides that use each block twice where the spec uses it more often."""
    layers = _read(name)["layers"]
    uses = [(layer, key) for layer in layers for key in ("repeat", "depth") if layer.get(key, 0) > 2]
    return tuple(f"layers.{layer['name']}.{key}=2" for layer, key in uses)


def loaded(name: str, *overrides: str) -> Loaded:
    """Return a validated spec of the zoo."""
    tree = read_tree(SPECS / f"{name}.yaml")
    for option in overrides:
        tree = apply_override(tree, option)
    return load(tree, SPECS)


@cache
def build_for(name: str, target: Target, *overrides: str) -> Artifact:
    """Return a spec of the zoo compiled for one engine."""
    return build(loaded(name, *overrides), target)


def compiled(name: str, *overrides: str) -> Artifact:
    """Return a compiled spec of the zoo."""
    return build_for(name, "cpu", *overrides)


@cache
def models(name: str, target: Target, *overrides: str) -> dict[str, onnx.ModelProto]:
    """Return the ONNX models of a spec of the zoo by graph name."""
    return build_for(name, target, *overrides).models()


@cache
def session(name: str, graph: str, *overrides: str) -> ort.InferenceSession:
    """Return an ONNX Runtime session of one program, with one thread, where it is deterministic."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    model = models(name, "cpu", *overrides)[graph]
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
    """Return random batches: the first input with a shape in the raw range of images, others 0 or 1, labels.

    Normal noise has no ties in pooling windows.
    """
    artifact = compiled(name, *overrides)
    print(f"batches of {name}: seed {seed}")
    rng = np.random.default_rng(seed)
    mean, deviation = (8, 5) if name in DIGITS else (120, 60)
    inputs = {x.name: x for x in artifact.programs["train"].graph.inputs}

    def draw(declared: str, first: bool) -> np.ndarray:
        shape = inputs[declared].shape
        assert shape is not None
        size, classes = [int(str(n)) for n in shape], artifact.spec.inputs[declared].classes
        if classes is not None:
            return rng.integers(0, classes, size).astype(np.int32)
        values = rng.normal(mean, deviation, size) if first else rng.integers(0, 2, size)
        return values.astype(np.float32)

    names = [declared for declared in artifact.spec.inputs if declared in inputs]
    return [{declared: draw(declared, declared == names[0]) for declared in names} for _ in range(count)]
