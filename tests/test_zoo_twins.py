"""One step of published networks against PyTorch modules, written by hand, in float64.

The networks are whole, the images small: a layer computes the same at every place of a plane, and images of 224 pixels
would take ten times as long.

Deep networks of rectifiers magnify rounding: an input of a ReLU that float32 puts on the other side of 0 switches a
unit, and among tens of millions of units some always are that near. One switched unit in a million changes a gradient
by a thousandth (the root of their fraction), which says nothing about either implementation. So the comparison is made
at a point where no unit is near its kink, and its bound stays: the module first runs once, and the shift of every
channel in front of a ReLU is moved by at most 0.02 of its standard deviation, to where 0 lies in the middle of the
widest gap between the channel's values. A shift cannot part the elements of a pooling window; there the seed of the
images is one without near ties. The test asserts both distances.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn

from netc.build import Lowered, step_programs
from netc.graph.builder import IR_VERSION
from netc.network import Network, lower
from netc.programs import output_entries
from netc.rewrite.passes import Platform
from netc.spec.load import Loaded
from tests.torch_models import GoogLeNet, densenet121, resnet50, vgg16
from tests.zoo import State, loaded

BATCH = 2
# With rate 1, no decay and a velocity of 0 before, the velocity after the step is the gradient.
GRADIENTS = (
    f"data.batch_size={BATCH}",
    "solver.base_lr=1",
    "solver.lr_policy=fixed",
    "solver.weight_decay=0",
    "solver.momentum=0.9",
)
# Of the L2 norm of a tensor, since single elements may be differences of nearly equal sums.
BOUND = 1e-3
# In standard deviations of what a ReLU or a pooling layer reads.
WINDOW = 0.02
NEAREST_KINK = 2e-6
THREADS = 2


@dataclass(frozen=True)
class Twin:
    """A module and how it meets a spec.

    Attributes:
        module: makes the module, which returns the scores, or a tuple with the scores first.
        spec_name: the spec's name of a parameter or statistic from the module's.
        seed: of the images, the labels and the scales of BatchNorm.
        overrides: what has to be set in the spec, such as a dropout_ratio of 0.
        objective: the total loss from what the module returns and the labels.
        scores: the layer of the spec that gives the scores.
        nearest_kink: by how much rounding surely moves no unit, in standard deviations of what reads it.
    """

    module: Callable[[], nn.Module]
    spec_name: Callable[[str], str]
    seed: int
    overrides: tuple[str, ...] = ()
    objective: Callable[..., torch.Tensor] = nn.functional.cross_entropy
    scores: str = "scores"
    nearest_kink: float = NEAREST_KINK


def resnet_name(name: str) -> str:
    """stage3.1.narrow.0.weight is conv3/next/1/branch/conv1.weight; number 0 is the first block of the stage."""
    owner, _, tensor = name.rpartition(".")
    match = re.fullmatch(r"stage(\d)\.(\d+)\.(\w+)\.(\d)", owner)
    if match is None:
        return {"stem.0": "conv1", "stem.1": "bn1", "scores": "scores"}[owner] + f".{tensor}"
    stage, block, part, index = match.groups()
    kind = ("conv", "bn")[int(index)]
    number = {"narrow": 1, "spatial": 2, "widen": 3}
    layer = f"project/{kind}" if part == "shortcut" else f"branch/{kind}{number[part]}"
    return f"conv{stage}/{'' if block == '0' else f'next/{block}/'}{layer}.{tensor}"


def densenet_name(name: str) -> str:
    """dense2.4.spatial.0.bias is dense2/5/bn2.bias; transition1.2.weight is transition1/conv.weight."""
    owner, _, tensor = name.rpartition(".")
    match = re.fullmatch(r"(dense\d)\.(\d+)\.(\w+)\.(\d)", owner)
    if match is not None:
        block, layer, part, index = match.groups()
        kind = {"0": "bn", "2": "conv"}[index]
        return f"{block}/{int(layer) + 1}/{kind}{ {'narrow': 1, 'spatial': 2}[part] }.{tensor}"
    transition, _, index = owner.partition(".")
    if transition.startswith("transition"):
        return f"{transition}/{ {'0': 'bn', '2': 'conv'}[index] }.{tensor}"
    return {"stem.0": "conv0", "stem.1": "bn0", "bn": "bn5", "scores": "scores"}[owner] + f".{tensor}"


def vgg_name(name: str) -> str:
    """conv4_2.bias is conv4/2/conv.bias; fc6.weight is itself."""
    return re.sub(r"conv(\d)_(\d)", r"conv\1/\2/conv", name)


def googlenet_name(name: str) -> str:
    """to4a.3b.three.0.0.weight is inception_3b/3x3_reduce.weight; auxiliary2.fc.bias is loss2/fc.bias."""
    owner, _, tensor = name.rpartition(".")
    module, _, part = owner.partition(".")
    if module.startswith("auxiliary"):
        layer = {"conv.0": "conv", "fc": "fc", "scores": "classifier"}[part]
        return f"loss{module[-1]}/{layer}.{tensor}"
    if module.startswith("to"):
        inception, _, path = part.partition(".")
        branch = {"one.0": "1x1", "three.0.0": "3x3_reduce", "three.1.0": "3x3"}
        branch |= {"five.0.0": "5x5_reduce", "five.1.0": "5x5", "pooled.1.0": "pool_proj"}
        return f"inception_{inception}/{branch[path]}.{tensor}"
    stem = {"stem.0.0": "conv1/7x7_s2", "stem.3.0": "conv2/3x3_reduce", "stem.4.0": "conv2/3x3"}
    return (stem | {"classifier.2": "loss3/classifier"})[owner] + f".{tensor}"


def with_auxiliaries(returned: tuple[torch.Tensor, torch.Tensor, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Return the objective of Szegedy et al., section 6."""
    main, *auxiliaries = (nn.functional.cross_entropy(scores, labels) for scores in returned)
    return main + 0.3 * torch.stack(auxiliaries).sum()


SMALL = ("inputs.image.shape=[3,96,96]",)
TWINS = {
    "resnet50": Twin(resnet50, resnet_name, seed=1, overrides=SMALL),
    "densenet121": Twin(densenet121, densenet_name, seed=1, overrides=SMALL),
    "googlenet": Twin(
        partial(GoogLeNet, plane=3),
        googlenet_name,
        seed=15,
        overrides=(
            *SMALL,
            "layers.pool5/7x7_s1.kernel_size=3",
            "layers.pool5/drop_7x7_s1.dropout_ratio=0",
            "blocks.auxiliary.layers.trunk.side.layers.drop_fc.dropout_ratio=0",
        ),
        objective=with_auxiliaries,
        scores="loss3/classifier",
    ),
    "vgg16": Twin(
        partial(vgg16, plane=2),
        vgg_name,
        seed=1,
        overrides=("inputs.image.shape=[3,64,64]", "layers.drop6.dropout_ratio=0", "layers.drop7.dropout_ratio=0"),
        scores="fc8",
        nearest_kink=1e-6,  # nothing but sums here, whose rounding is below 1e-7
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_a_step_agrees_with_the_module(name: str) -> None:
    twin = TWINS[name]
    spec = loaded(name, *GRADIENTS, *twin.overrides)
    network = lower(spec, "train", BATCH)
    session = training_session(network, spec)
    rng = np.random.default_rng(twin.seed)
    state = initial_state(network, rng)
    image, label = batch(spec, rng)
    expected = run_module(twin, spec, state, image, label)  # and moves the shifts in the state
    outputs = [y.name for y in session.get_outputs()]
    feed = {**state, "image": image, "label": label}
    actual = dict(zip(outputs, session.run(outputs, {x.name: feed[x.name] for x in session.get_inputs()}), strict=True))
    rates = {t.name: t.lr_mult for t in network.net.state.values() if t.role == "parameter"}
    for parameter, rate in rates.items():
        expected[f"{parameter}/velocity.next"] *= rate
    differences = {key: relative(actual[key], value) for key, value in expected.items()}
    assert max(differences.values()) < BOUND, sorted(differences.items(), key=lambda item: -item[1])[:5]


def training_session(network: Network, spec: Loaded) -> ort.InferenceSession:
    """Compile the training program alone, with the scores among its outputs."""
    output_entries(network)
    program = step_programs(Lowered([spec], [network], testing=network), Platform("cpu"))["train"]
    model = ir.to_proto(ir.Model(program.graph, ir_version=IR_VERSION))
    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def initial_state(network: Network, rng: np.random.Generator) -> State:
    """Return the first state, but with random scales and shifts: with 1 and 0, mistakes around them could hide."""
    state: State = {}
    for tensor in network.net.state.values():
        value = tensor.filler.fill(0, tensor.name, tensor.shape)
        if tensor.role == "parameter" and len(tensor.shape) == 1:
            scale = tensor.name.endswith(".weight")
            value = rng.uniform(0.5, 1.5, tensor.shape) if scale else rng.normal(0, 0.2, tensor.shape)
        state[tensor.name] = value.astype(tensor.dtype.numpy())
    return state


def batch(spec: Loaded, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return images in the raw range, and labels."""
    shape, classes = spec.spec.inputs["image"].shape, spec.spec.inputs["label"].classes
    assert shape is not None
    assert classes is not None
    image = rng.normal(120, 60, [BATCH, *shape]).astype(np.float32)
    return image, rng.integers(0, classes, BATCH).astype(np.int32)


def run_module(twin: Twin, spec: Loaded, state: State, image: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
    """Return scores, total, gradients and new statistics of the module in float64, under the program's names.

    Moves the shifts in `state` away from the kinks first.
    """
    module = twin.module().double().train()
    tensors = dict(module.named_parameters()) | {
        name: buffer for name, buffer in module.named_buffers() if not name.endswith("num_batches_tracked")
    }
    names = {name: twin.spec_name(name) for name in tensors}
    data = spec.spec.data
    mean = torch.tensor(data.mean, dtype=torch.float64).reshape(-1, 1, 1)
    x = (torch.tensor(image, dtype=torch.float64) - mean) * data.scale
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        load_state(tensors, names, state)
        leave_kinks(module, x)
        state |= {names[name]: tensor.detach().numpy().astype(np.float32) for name, tensor in module.named_parameters()}
        load_state(tensors, names, state)
        nearest = watch_kinks(module)
        returned = module(x)
        total = twin.objective(returned, torch.tensor(label.astype(np.int64)))
        torch.autograd.backward(total)
    finally:
        torch.set_num_threads(threads)
    assert min(nearest) > twin.nearest_kink, "rounding may switch a unit; take another seed"
    scores = returned[0] if isinstance(returned, tuple) else returned
    results = {twin.scores: scores.detach().numpy(), "total": total.detach().numpy()}
    for name, tensor in tensors.items():
        if isinstance(tensor, nn.Parameter):
            assert tensor.grad is not None, name
            results[f"{names[name]}/velocity.next"] = tensor.grad.numpy()
        else:
            results[f"{names[name]}.next"] = tensor.numpy()
    return results


def load_state(tensors: dict[str, torch.Tensor], names: dict[str, str], state: State) -> None:
    """Give the tensors of a module the values that the state has under their names there."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(torch.tensor(state[names[name]]))


def leave_kinks(module: nn.Module, x: torch.Tensor) -> None:
    """Run the module and move the shift of every channel that a ReLU reads into the widest gap of its values near 0."""
    last: list[nn.Parameter] = []

    def remember(part: nn.Module, inputs: object, output: object) -> None:
        last[:] = [parameter for name, parameter in part.named_parameters() if name == "bias"] or last

    def move(part: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        (y,) = inputs
        offsets = torch.tensor([to_gap(channel) for channel in y.transpose(0, 1).flatten(1).numpy()])
        last[0].add_(offsets)
        return (y + offsets.reshape([-1] + [1] * (y.ndim - 2)),)

    handles = []
    for part in module.modules():
        if isinstance(part, nn.ReLU):
            handles.append(part.register_forward_pre_hook(move))
        elif not list(part.children()):
            handles.append(part.register_forward_hook(remember))
    with torch.no_grad():
        module(x)
    for handle in handles:
        handle.remove()


def to_gap(values: np.ndarray) -> float:
    """Return the smallest offset in a window that makes the gap around 0 as wide as any that it holds."""
    reach = WINDOW * values.std()
    near = np.sort(values[np.abs(values) < reach])
    edges = np.concatenate([[-reach], near, [reach]])
    widest = np.diff(edges).argmax()
    return -float(edges[widest : widest + 2].mean())


def watch_kinks(module: nn.Module) -> list[float]:
    """Return a list that every further run extends by the distance to the nearest kink of each part that has kinks.

    That is how near an input of a ReLU comes to 0, or the two largest of a window to each other, in standard
    deviations. Equal values do not count: they are zeros behind a ReLU, through which no gradient flows.
    """
    nearest: list[float] = []

    def measure(part: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        x = inputs[0].detach()
        distances = x.abs()
        if isinstance(part, nn.MaxPool2d):
            size, stride, pad = part.kernel_size, part.stride, part.padding
            assert isinstance(size, int)
            assert isinstance(stride, int)
            assert isinstance(pad, int)
            end = pad + (stride - 1 if part.ceil_mode else 0)
            padded = nn.functional.pad(x, [pad, end, pad, end], value=-torch.inf)
            windows = padded.unfold(2, size, stride).unfold(3, size, stride)
            first, second = windows.flatten(-2).topk(2).values.unbind(-1)
            distances = (first - second)[first != second]
        nearest.append(float(distances.min() / x.std()))

    for part in module.modules():
        if isinstance(part, nn.ReLU | nn.MaxPool2d):
            part.register_forward_pre_hook(measure)
    return nearest


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the L2 norm of the difference over that of the expected values."""
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
