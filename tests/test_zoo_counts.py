"""The published networks of the zoo have exactly the published numbers of parameters; the deepest fits on a page."""

from math import prod

import pytest

from netc.network import lower
from tests.zoo import SPECS, loaded

# Trainable parameters: weights, biases, scales and shifts; running statistics do not count.
PUBLISHED = {
    "alexnet": 60_965_224,  # Caffe's bvlc_alexnet
    "densenet121": 7_978_856,  # as torchvision builds it
    "densenet_bc_cifar": 769_162,  # as the authors' own implementation and its ports build it
    "googlenet": 6_998_552 + 3_188_840 + 3_190_888,  # Caffe's bvlc_googlenet: the network and its auxiliary classifiers
    "lenet": 431_080,  # Caffe's
    "nin_dsn_cifar10": 966_986 + 10 * (192 * (32**2 + 16**2 + 8**2) + 3),  # Lin, Chen & Yan's, and three companions
    "resnet18": 11_689_512,  # this and the next four as torchvision builds them
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet20_cifar": 269_722,  # the paper says 0.27 million
    "resnet56_cifar": 853_018,  # 0.85 million
    "resnet110_cifar": 1_727_962,  # 1.7 million
    "squeezenet": 1_235_496,  # the authors' version 1.1
    "vgg16": 138_357_544,  # as torchvision builds it
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_number_of_parameters(name: str) -> None:
    """Counted where the parameters are declared, so that no gradient has to be built."""
    state = lower(loaded(name), "train", 2).net.state.values()
    assert sum(prod(tensor.shape) for tensor in state if tensor.role == "parameter") == PUBLISHED[name]


def test_resnet152_reads_as_a_page() -> None:
    """Together with the file of blocks that it uses."""
    files = [SPECS / "resnet152.yaml", SPECS / "blocks" / "resnet.yaml"]
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) < 120


def test_googlenet_is_short() -> None:
    """Nine inception modules and two auxiliary classifiers, each declared once."""
    assert len((SPECS / "googlenet.yaml").read_text(encoding="utf-8").splitlines()) < 150
