"""What is timed: specs with overrides, the same networks in PyTorch, and the data that both see."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks import networks
from netc.build import build, lower_phases
from netc.emit import write
from netc.rewrite.passes import Target
from netc.spec.load import Loaded, load
from netc.spec.overrides import apply_override
from netc.spec.text import read_tree
from netc.summary import summarize
from netc_runtime.artifact import Artifact
from tests.torch_models import resnet50

ZOO = Path(__file__).parents[1] / "specs"
OWN = Path(__file__).parent / "specs"
BATCHES = 8  # different ones, which all engines see in the same order
DSN_WEIGHT = 0.3  # of a companion objective, all the time


@dataclass(frozen=True)
class Workload:
    """A spec with overrides, and the same network in PyTorch.

    Attributes:
        name: what the command line calls it.
        title: what the table calls it.
        spec: the YAML file.
        overrides: as for --set.
        module: makes the PyTorch network; its parameters come in the order of the spec's layers.
        objective: the loss from what the module returns and the labels.
        without_dropout: overrides that set every dropout ratio to 0, for the comparison of losses.
    """

    name: str
    title: str
    spec: Path
    overrides: tuple[str, ...]
    module: Callable[[], nn.Module]
    objective: Callable[[Any, torch.Tensor], torch.Tensor] = cross_entropy
    without_dropout: tuple[str, ...] = ()


def deeply_supervised(scores: tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """Return the loss of the first scores, and of all others times their weight."""
    main, *sides = (cross_entropy(each, labels) for each in scores)
    return main + DSN_WEIGHT * torch.stack(sides).sum()


# A fixed rate: only then is Caffe's momentum, with the rate inside, the same as PyTorch's. It is small, because on
# noise the rates of the zoo diverge, and a run that diverges enlarges rounding.
FIXED = ("solver.lr_policy=fixed", "solver.base_lr=0.01")

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("lenet", "LeNet, batch 64", ZOO / "lenet.yaml", FIXED, networks.lenet),
        Workload(
            "lenet_dsn",
            "LeNet-DSN, batch 64",
            ZOO / "lenet_dsn.yaml",
            (*FIXED, *(f"layers.{name}.side.loss_weight={DSN_WEIGHT}" for name in ("pool1", "pool2"))),
            networks.LeNetDSN,
            deeply_supervised,
        ),
        Workload("resnet20", "ResNet-20 CIFAR, batch 128", ZOO / "resnet20_cifar.yaml", FIXED, networks.resnet20_cifar),
        Workload("mlp", "MLP, batch 256", ZOO / "mlp.yaml", ("data.batch_size=256",), networks.mlp),
        Workload(
            "vgg",
            "VGG with BN and dropout, batch 64",
            OWN / "vgg_bn.yaml",
            FIXED,
            networks.vgg_bn,
            without_dropout=tuple(f"layers.drop{number}.dropout_ratio=0" for number in (1, 2, 3, 4)),
        ),
        # As the paper trains it on augmented images: without dropout.
        Workload(
            "densenet",
            "DenseNet-BC-100 CIFAR, batch 64",
            ZOO / "densenet_bc_cifar.yaml",
            (
                *FIXED,
                *(f"layers.{name}.dropout=0" for name in ("dense1", "transition1", "dense2", "transition2", "dense3")),
            ),
            networks.densenet_bc_cifar,
        ),
        Workload(
            "resnet18",
            "ResNet-18 at 112 pixels, batch 16",
            ZOO / "resnet18.yaml",
            (*FIXED, "inputs.image.shape=[3, 112, 112]", "data.batch_size=16"),
            networks.resnet18,
        ),
        Workload(
            "resnet50",
            "ResNet-50 at 224 pixels, batch 32",
            ZOO / "resnet50.yaml",
            (*FIXED, "data.batch_size=32"),
            resnet50,
        ),
    )
}
FOR_GPU = ("resnet50",)  # minutes of a step on a CPU tell nothing that the others do not


def load_spec(path: Path, overrides: tuple[str, ...]) -> Loaded:
    """Return a validated spec."""
    tree = read_tree(path)
    for option in overrides:
        tree = apply_override(tree, option)
    return load(tree, ZOO)


class Prepared:
    """A workload ready to be built by any engine: artifacts in `folder`, batches, and what PyTorch needs to know.

    Args:
        workload: what to prepare.
        folder: where artifacts lie; what lies there is not compiled again.
        dropout: false sets every dropout ratio to 0.
        tf32: let a GPU round the inputs of float32 products to 10 bits of mantissa.
    """

    def __init__(self, workload: Workload, folder: Path, dropout: bool = True, tf32: bool = False) -> None:
        self.workload, self.dropout, self.tf32 = workload, dropout, tf32
        self._folder = folder
        self.loaded = load_spec(workload.spec, workload.overrides + (() if dropout else workload.without_dropout))
        self.spec = self.loaded.spec
        rng = np.random.default_rng(0)
        image, label = self.spec.inputs["image"], self.spec.inputs["label"]
        size, classes = self.spec.data.batch_size, label.classes
        assert image.shape is not None
        assert classes is not None
        highest = 16 if self.spec.data.source == "digits" else 255  # of a raw value
        self.batches = [
            {
                "image": rng.uniform(0, highest, (size, *image.shape)).astype(np.float32),
                "label": rng.integers(0, classes, size).astype(np.int32),
            }
            for _ in range(BATCHES)
        ]

    def artifact(self, target: Target) -> Artifact:
        """Return the program compiled for one engine."""
        folder = self._folder / target
        if not folder.exists():
            write(build(self.loaded, target), folder)
        return Artifact.load(folder)

    def multiply_adds(self) -> int:
        """Return the multiply-adds of one forward pass over a batch."""
        return summarize(lower_phases(self.loaded)).multiply_adds * self.spec.data.batch_size
