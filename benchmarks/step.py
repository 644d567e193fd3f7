"""Time a training step of netc beside PyTorch eager: same cores, same mathematics, interleaved in one run.

    python benchmarks/step.py [--steps 60] [--threads 2] [--json results.json]

Both sides start from the same weights and see the same batches; the losses of all steps are compared at the end, so
that a side that computes less is found out. Blocks of steps alternate; the first step of a block, in which the threads
of the other side may still be spinning, is not counted. The ratio is netc / PyTorch, the median over rounds: below 1,
netc is faster.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from netc.build import build
from netc.emit import write
from netc.spec.load import load
from netc.spec.overrides import apply_override
from netc.spec.text import read_tree
from netc_runtime.artifact import Artifact
from netc_runtime.session import Host
from netc_runtime.step import TrainingStep

SPECS = Path(__file__).parents[1] / "specs"
BLOCK = 6  # steps a side and round, the first not counted


class Residual(nn.Module):
    """A basic block of He et al. (2016) with a projection where the shape changes."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        if stride != 1 or channels != out:
            self.project: nn.Module = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.bn3: nn.Module = nn.BatchNorm2d(out)
        else:
            self.project = self.bn3 = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(f(x) + shortcut(x))."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.bn3(self.project(x)))


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.MaxPool2d(2, 2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2, 2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )


def resnet_tiny() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Residual(16, 16, 1),
        Residual(16, 32, 2),
        Residual(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


@dataclass(frozen=True)
class Workload:
    """A spec with overrides, and the same network in PyTorch; `order` lists the layers as PyTorch's parameters come."""

    name: str
    spec: str
    overrides: tuple[str, ...]
    module: Callable[[], nn.Module]
    order: tuple[str, ...]


def _block(name: str, projected: bool) -> tuple[str, ...]:
    parts = ("conv1", "bn1", "conv2", "bn2", *(("project", "bn3") if projected else ()))
    return tuple(f"{name}/{part}" for part in parts)


# A fixed rate: only then is Caffe's momentum, with the rate inside, the same as PyTorch's.
WORKLOADS = (
    Workload(
        "LeNet, batch 64",
        "lenet",
        ("solver.lr_policy=fixed", "data.batch_size=64"),
        lenet,
        ("conv1", "conv2", "ip1", "ip2"),
    ),
    Workload(
        "resnet_tiny at CIFAR's shape, batch 128",
        "resnet_tiny",
        ("solver.lr_policy=fixed", "solver.base_lr=0.01", "data.batch_size=128", "inputs.image.shape=[3, 32, 32]"),
        resnet_tiny,
        ("conv0", "bn0", *_block("res1", False), *_block("res2", True), *_block("res3", True), "scores"),
    ),
)


@dataclass(frozen=True)
class Result:
    """Medians in milliseconds a step over `steps` counted steps, and the median ratio netc / PyTorch of the rounds."""

    workload: str
    steps: int
    netc_ms: float
    torch_ms: float
    ratio: float
    rounds: list[float]
    loss_difference: float


def measure(workload: Workload, steps: int, threads: int) -> Result:
    """Interleave both sides on one workload."""
    tree = read_tree(SPECS / f"{workload.spec}.yaml")
    for option in workload.overrides:
        tree = apply_override(tree, option)
    loaded = load(tree)
    with tempfile.TemporaryDirectory() as folder:
        write(build(loaded), Path(folder) / "artifact")
        artifact = Artifact.load(Path(folder) / "artifact")
        state = artifact.initial_state()
        ours = TrainingStep(artifact, state, Host("cpu", threads))
    torch.set_num_threads(threads)
    model = workload.module()
    _copy(state, model, workload.order)
    solver = loaded.spec.solver
    optimizer = torch.optim.SGD(
        model.parameters(), solver.base_lr, momentum=0.9, weight_decay=solver.weight_decay, foreach=True
    )
    criterion = nn.CrossEntropyLoss()
    rounds = -(-steps // (BLOCK - 1))
    rng = np.random.default_rng(0)
    shape = next(x.static_shape for x in artifact.graph("train").inputs if x.name == "image")
    images = rng.uniform(0, 16, (rounds + 1, *shape)).astype(np.float32)
    labels = rng.integers(0, 10, (rounds + 1, shape[0])).astype(np.int32)
    scale = float(loaded.spec.data.scale)

    def netc_step(image: np.ndarray, label: np.ndarray) -> float:
        return ours.run({"image": image, "label": label})["loss"]

    def torch_step(image: np.ndarray, label: np.ndarray) -> float:
        loss = criterion(model(torch.from_numpy(image) * scale), torch.from_numpy(label).long())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    times: dict[str, list[float]] = {"netc": [], "torch": []}
    ratios: list[float] = []
    losses: dict[str, list[float]] = {"netc": [], "torch": []}
    for index in range(rounds + 1):
        medians = {}
        sides = [("netc", netc_step), ("torch", torch_step)]
        for name, step in sides if index % 2 else reversed(sides):
            block = []
            for _ in range(BLOCK):
                start = time.perf_counter()
                losses[name].append(step(images[index], labels[index]))
                block.append((time.perf_counter() - start) * 1e3)
            medians[name] = statistics.median(block[1:])
            if index:  # the first round warms up
                times[name] += block[1:]
        if index:
            ratios.append(medians["netc"] / medians["torch"])
    difference = max(abs(a / b - 1) for a, b in zip(losses["netc"], losses["torch"], strict=True))
    return Result(
        workload.name,
        len(times["netc"]),
        statistics.median(times["netc"]),
        statistics.median(times["torch"]),
        statistics.median(ratios),
        ratios,
        difference,
    )


def _copy(state: dict[str, np.ndarray], model: nn.Module, order: tuple[str, ...]) -> None:
    """Give PyTorch's parameters netc's values; they come layer by layer, weight before bias."""
    ours = [state[f"{layer}.{part}"] for layer in order for part in ("weight", "bias") if f"{layer}.{part}" in state]
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), ours, strict=True):
            parameter.copy_(torch.from_numpy(value))


def main() -> int:
    parser = argparse.ArgumentParser(description="Time a training step of netc beside PyTorch eager.")
    parser.add_argument("--steps", type=int, default=60, help="counted steps a side (default 60)")
    parser.add_argument("--threads", type=int, default=2, help="threads of both sides (default 2)")
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    print(f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, {arguments.threads} threads")
    results = [measure(workload, arguments.steps, arguments.threads) for workload in WORKLOADS]
    for result in results:
        low, high = min(result.rounds), max(result.rounds)
        print(
            f"{result.workload}: netc {result.netc_ms:.2f} ms, PyTorch {result.torch_ms:.2f} ms a step, ratio "
            f"{result.ratio:.2f} ({low:.2f} to {high:.2f} over {len(result.rounds)} rounds of {BLOCK - 1} steps; "
            f"losses differ by at most {result.loss_difference:.1e})"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    # Losses that drift apart mean that the two sides do not train the same network.
    return 0 if all(result.loss_difference < 1e-2 for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
