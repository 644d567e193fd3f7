"""What the fold leaves of the normalizations of whole networks."""

import re

import pytest

from netc.build import build_inference
from tests.folding import operators, reasons
from tests.zoo import loaded

# In DenseNet a normalization stands between what all layers before have given, which later layers read too, and a
# rectifier: nothing there could take it in. So it is in each of 58 layers and 3 transitions, and behind the last block.
KEPT = {"lenet_bn_dropout": 0, "resnet20_cifar": 0, "resnet50": 0, "googlenet_bn": 0, "densenet121": 58 + 3 + 1}
DENSE = re.compile(
    r"kept as scale and shift: before it, "
    r"(\S+ is also read by \S+|\S+ \((MaxPool|AveragePool)\) cannot absorb it|.* \(joined by \S+\)); "
    r"after it, \S+ \(Relu\) cannot absorb it"
)


@pytest.mark.parametrize("name", KEPT)
def test_no_normalization_is_left(name: str) -> None:
    programs = build_inference(loaded(name)).programs
    for program in programs.values():
        assert "BatchNormalization" not in operators(program.graph)
    kept = reasons(programs["infer"].graph)
    assert len(kept) == KEPT[name]
    assert all(DENSE.fullmatch(reason) for reason in kept.values())
