"""The timed networks as a PyTorch user writes them: modules, rectifiers in place, layers in the order of the spec."""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (the name that everyone knows)

from tests.torch_models import DenseLayer, stem


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(inplace=True),
        nn.Linear(500, 10),
    )


def normalized(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """Return a convolution that keeps the plane, divided by `stride`, and batch normalization."""
    return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)]


class LeNetDSN(nn.Module):
    """LeNet with a companion classifier behind each pooling layer (Lee et al., 2015): the scores of all three."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden1 = nn.Sequential(
            nn.Conv2d(1, 20, 5, bias=False), nn.BatchNorm2d(20), nn.ReLU(inplace=True), nn.MaxPool2d(2)
        )
        self.side1 = nn.Linear(20 * 12 * 12, 10)
        self.hidden2 = nn.Sequential(
            nn.Conv2d(20, 50, 5, bias=False), nn.BatchNorm2d(50), nn.ReLU(inplace=True), nn.MaxPool2d(2)
        )
        self.side2 = nn.Linear(50 * 4 * 4, 10)
        self.head = nn.Sequential(nn.Linear(800, 500), nn.ReLU(inplace=True), nn.Linear(500, 10))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        first = self.hidden1(x)
        second = self.hidden2(first)
        flat = second.flatten(1)
        return self.head(flat), self.side1(first.flatten(1)), self.side2(flat)


class Halved(nn.Module):
    """The shortcut without parameters (He et al., 2016, option A): every second row and column, and zero channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, ::2, ::2], [0, 0, 0, 0, 0, self.channels])


class Basic(nn.Module):
    """Two 3x3 convolutions past a shortcut (He, Zhang, Ren & Sun, 2016, figure 5)."""

    def __init__(self, inputs: int, outputs: int, projected: bool) -> None:
        super().__init__()
        stride = outputs // inputs
        branch = [*normalized(inputs, outputs, 3, stride), nn.ReLU(inplace=True), *normalized(outputs, outputs)]
        self.branch = nn.Sequential(*branch)
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            projection = nn.Sequential(*normalized(inputs, outputs, 1, 2))
            self.shortcut = projection if projected else Halved(outputs - inputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.branch(x)
        y += self.shortcut(x)
        return self.relu(y)


def resnet(first: nn.Module, stages: tuple[int, ...], depth: int, projected: bool, classes: int) -> nn.Module:
    """Return stages of `depth` basic blocks behind the first layers, and a classifier."""
    blocks: list[nn.Module] = []
    inputs = stages[0]
    for channels in stages:
        for _ in range(depth):
            blocks.append(Basic(inputs, channels, projected))
            inputs = channels
    return nn.Sequential(first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def resnet20_cifar() -> nn.Module:
    return resnet(nn.Sequential(*normalized(3, 16), nn.ReLU()), (16, 32, 64), 3, projected=False, classes=10)


def resnet18() -> nn.Module:
    return resnet(stem(64), (64, 128, 256, 512), 2, projected=True, classes=1000)


def vgg_bn() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 64), (64, 128), (128, 256)):
        layers += [*normalized(inputs, outputs), nn.ReLU(inplace=True)]
        layers += [*normalized(outputs, outputs), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout(0.25)]
    layers += [nn.Flatten(), nn.Linear(256 * 4 * 4, 512), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(512, 10)]
    return nn.Sequential(*layers)


def densenet_bc_cifar() -> nn.Module:
    """Return the network of depth 100 and growth 12 (Huang et al., 2017), which halves the channels between blocks."""
    growth, channels = 12, 24
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
    for block in range(3):
        if block:
            half = nn.Conv2d(channels, channels // 2, 1, bias=False)
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), half, nn.AvgPool2d(2)]
            channels //= 2
        for _ in range(16):
            layers.append(DenseLayer(channels, growth))
            channels += growth
    layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return nn.Sequential(*layers)


def mlp() -> nn.Module:
    hidden = [nn.Flatten(), nn.Linear(64, 128), nn.ReLU(inplace=True), nn.Linear(128, 128), nn.ReLU(inplace=True)]
    return nn.Sequential(*hidden, nn.Linear(128, 10))


def lenet_bn_dropout() -> nn.Module:
    layers = [nn.Conv2d(1, 20, 5, bias=False), nn.BatchNorm2d(20), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(20, 50, 5, bias=False), nn.BatchNorm2d(50), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    layers += [nn.Dropout(0.25), nn.Flatten(), nn.Linear(800, 500), nn.ReLU(inplace=True), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(500, 10))


def rectify_in_place(module: nn.Module) -> nn.Module:
    """Let every rectifier overwrite its input, which no gradient of these networks reads; saves memory and time."""
    for part in module.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = True
    return module
