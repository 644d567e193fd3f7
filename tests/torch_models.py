"""Networks of the papers as PyTorch modules, written from the papers and not from the specs.

Rectifiers and pooling are modules, never functions, so that a test can look at what they read.
"""

import math
from collections import OrderedDict

import torch
from torch import nn

WIDENING = 4  # of a residual bottleneck's output over its inside, and of a dense 1x1 convolution over the growth


def stem(channels: int) -> nn.Sequential:
    """Return what both ImageNet networks begin with: it leaves a quarter of the plane along each axis."""
    first = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
    return nn.Sequential(first, nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(3, 2, 1))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions past a shortcut (He, Zhang, Ren & Sun, 2016, figure 5), the stride in the 3x3."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        outputs = WIDENING * channels
        self.narrow = nn.Sequential(nn.Conv2d(inputs, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        spatial = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.spatial = nn.Sequential(spatial, nn.BatchNorm2d(channels), nn.ReLU())
        self.widen = nn.Sequential(nn.Conv2d(channels, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.rectifier = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rectifier(self.widen(self.spatial(self.narrow(x))) + self.shortcut(x))


def resnet50() -> nn.Module:
    """Return the network with 50 layers of table 1: stem, four stages of bottlenecks, classifier."""
    parts: list[tuple[str, nn.Module]] = [("stem", stem(64))]
    inputs = 64
    for number, (channels, depth) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=2):
        blocks: list[nn.Module] = []
        for index in range(depth):
            blocks.append(Bottleneck(inputs, channels, 2 if number > 2 and index == 0 else 1))
            inputs = WIDENING * channels
        parts.append((f"stage{number}", nn.Sequential(*blocks)))
    parts += [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("scores", nn.Linear(inputs, 1000))]
    return nn.Sequential(OrderedDict(parts))


class DenseLayer(nn.Module):
    """`growth` more channels behind the input, by a 1x1 and a 3x3 convolution (Huang & others, 2017, section 3)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        middle = WIDENING * growth
        narrow = nn.Conv2d(inputs, middle, 1, bias=False)
        self.narrow = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), narrow)
        spatial = nn.Conv2d(middle, growth, 3, padding=1, bias=False)
        self.spatial = nn.Sequential(nn.BatchNorm2d(middle), nn.ReLU(), spatial)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.spatial(self.narrow(x))], 1)


def densenet121() -> nn.Module:
    """Return the network with 121 layers of table 1: stem, dense blocks with transitions between, classifier."""
    growth, channels = 32, 64
    parts: list[tuple[str, nn.Module]] = [("stem", stem(channels))]
    for number, depth in enumerate((6, 12, 24, 16), start=1):
        if number > 1:
            half = nn.Conv2d(channels, channels // 2, 1, bias=False)
            between = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), half, nn.AvgPool2d(2))
            parts.append((f"transition{number - 1}", between))
            channels //= 2
        layers = [DenseLayer(channels + growth * index, growth) for index in range(depth)]
        parts.append((f"dense{number}", nn.Sequential(*layers)))
        channels += growth * depth
    parts += [("bn", nn.BatchNorm2d(channels)), ("relu", nn.ReLU()), ("pool", nn.AdaptiveAvgPool2d(1))]
    parts += [("flatten", nn.Flatten()), ("scores", nn.Linear(channels, 1000))]
    return nn.Sequential(OrderedDict(parts))


def vgg16(plane: int = 7) -> nn.Module:
    """Return configuration D (Simonyan & Zisserman, 2015, table 1), without dropout; the last pool gives a plane."""
    parts: list[tuple[str, nn.Module]] = []
    inputs = 3
    for stage, (channels, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1):
        for number in range(1, depth + 1):
            parts.append((f"conv{stage}_{number}", nn.Conv2d(inputs, channels, 3, padding=1)))
            parts.append((f"relu{stage}_{number}", nn.ReLU()))
            inputs = channels
        parts.append((f"pool{stage}", nn.MaxPool2d(2)))
    parts.append(("flatten", nn.Flatten()))
    parts += [("fc6", nn.Linear(512 * plane * plane, 4096)), ("relu6", nn.ReLU())]
    parts += [("fc7", nn.Linear(4096, 4096)), ("relu7", nn.ReLU()), ("fc8", nn.Linear(4096, 1000))]
    return nn.Sequential(OrderedDict(parts))


def rectified(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the plane, divided by `stride`, and a rectifier."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.ReLU())


def halving() -> nn.MaxPool2d:
    """Return overlapping maxima with a stride of 2 that leave half the plane, rounded up."""
    return nn.MaxPool2d(3, 2, ceil_mode=True)


class Inception(nn.Module):
    """Four looks at one input side by side (Szegedy et al., 2015, figure 2b), with the columns of table 1 in order."""

    def __init__(self, inputs: int, one: int, reduce3: int, three: int, reduce5: int, five: int, pooled: int) -> None:
        super().__init__()
        self.one = rectified(inputs, one, 1)
        self.three = nn.Sequential(rectified(inputs, reduce3, 1), rectified(reduce3, three, 3))
        self.five = nn.Sequential(rectified(inputs, reduce5, 1), rectified(reduce5, five, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), rectified(inputs, pooled, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pooled(x)], 1)


def auxiliary(inputs: int, plane: int) -> nn.Sequential:
    """Return a classifier on a hidden plane of `plane` x `plane` (section 5), without dropout."""
    pool = nn.AvgPool2d(5, 3, ceil_mode=True)
    features = 128 * (math.ceil((plane - 5) / 3) + 1) ** 2
    parts: list[tuple[str, nn.Module]] = [("pool", pool), ("conv", rectified(inputs, 128, 1))]
    parts += [("flatten", nn.Flatten()), ("fc", nn.Linear(features, 1024)), ("relu", nn.ReLU())]
    return nn.Sequential(OrderedDict([*parts, ("scores", nn.Linear(1024, 1000))]))


class GoogLeNet(nn.Module):
    """The network of table 1 without dropout: the scores, and those of both auxiliary classifiers.

    `plane` is the size of the last plane, 7 for images of 224x224.
    """

    def __init__(self, plane: int = 7) -> None:
        super().__init__()
        norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
        first = [rectified(3, 64, 7, 2), halving(), norm, rectified(64, 64, 1), rectified(64, 192, 3), norm, halving()]
        self.stem = nn.Sequential(*first)
        self.to4a = nn.Sequential(
            OrderedDict(
                {
                    "3a": Inception(192, 64, 96, 128, 16, 32, 32),
                    "3b": Inception(256, 128, 128, 192, 32, 96, 64),
                    "pool": halving(),
                    "4a": Inception(480, 192, 96, 208, 16, 48, 64),
                }
            )
        )
        self.to4d = nn.Sequential(
            OrderedDict(
                {
                    "4b": Inception(512, 160, 112, 224, 24, 64, 64),
                    "4c": Inception(512, 128, 128, 256, 24, 64, 64),
                    "4d": Inception(512, 112, 144, 288, 32, 64, 64),
                }
            )
        )
        self.to5b = nn.Sequential(
            OrderedDict(
                {
                    "4e": Inception(528, 256, 160, 320, 32, 128, 128),
                    "pool": halving(),
                    "5a": Inception(832, 256, 160, 320, 32, 128, 128),
                    "5b": Inception(832, 384, 192, 384, 48, 128, 128),
                }
            )
        )
        self.classifier = nn.Sequential(nn.AvgPool2d(plane), nn.Flatten(), nn.Linear(1024, 1000))
        self.auxiliary1, self.auxiliary2 = auxiliary(512, 2 * plane), auxiliary(528, 2 * plane)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        a = self.to4a(self.stem(x))
        b = self.to4d(a)
        return self.classifier(self.to5b(b)), self.auxiliary1(a), self.auxiliary2(b)
