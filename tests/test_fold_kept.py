"""What the fold keeps as one scale and one shift, and the reason that it gives."""

import pytest

from tests.folding import Layers, Position, bn, check, conv, deconv, layer, left, position, reasons

RELU, RELU2 = layer("relu", "ReLU"), layer("relu2", "ReLU")
ONE = {"kernel_size": 1, "pad": 0}
BEFORE, AFTER = "relu (Relu) cannot absorb it", "relu2 (Relu) cannot absorb it"
SUM = "sum (Add) cannot absorb it"
PADS = "c pads its input with zeros"
UNEVEN = "d adds fewer elements of its kernel at some places than at others"


def joined(*bottoms: str, **fields: int) -> Layers:
    """Join tops, and normalise before a rectifier."""
    return [layer("join", "Concat", bottom=list(bottoms), **fields), bn("b"), RELU2]


def total(*bottoms: str) -> dict[str, object]:
    return layer("sum", "Eltwise", bottom=list(bottoms))


POSITIONS = [
    position("between rectifiers", [RELU, bn("b"), RELU2], "Relu Mul Add Relu", b=(BEFORE, AFTER)),
    position("two between", [RELU, bn("b1"), bn("b2"), RELU2], "Relu Mul Add Relu", b2=(BEFORE, AFTER)),
    position(
        "with a scale and a bias between",
        [RELU, layer("s", "Scale"), bn("b"), layer("s2", "Bias"), RELU2],
        "Relu Mul Add Relu",
        b=(BEFORE, AFTER),
    ),
    position(
        "on the input before pads",
        [bn("b"), conv("c"), RELU],
        "Mul Add Conv Relu",
        b=("image is an input of the model", PADS),
    ),
    position("before pads", [RELU, bn("b"), conv("c"), RELU2], "Relu Mul Add Conv Relu", b=(BEFORE, PADS)),
    position(
        "before pads of one place",
        [RELU, bn("b"), conv("c", kernel_size=1, pad=1), RELU2],
        "Relu Mul Add Conv Relu",
        b=(BEFORE, PADS),
    ),
    position(
        "before the strides of a deconvolution",
        [RELU, bn("b"), deconv("d", stride=2, pad=2), RELU2],
        "Relu Mul Add ConvTranspose Relu",
        b=(BEFORE, UNEVEN),
    ),
    position(
        "before the borders of a deconvolution",
        [RELU, bn("b"), deconv("d", dilation=2, pad=3), RELU2],
        "Relu Mul Add ConvTranspose Relu",
        b=(BEFORE, UNEVEN),
    ),
    position(
        "behind a convolution that a sum reads too",
        [conv("c"), bn("b"), RELU, total("relu", "c")],
        "Conv Mul Add Relu Add",
        b=("c is also read by sum", BEFORE),
    ),
    position(
        "two behind one convolution",
        [conv("c"), bn("b1"), bn("b2", bottom="c"), total("b1", "b2")],
        "Conv Mul Add Mul Add Add",
        b1=("c is also read by b2", SUM),
        b2=("c is also read by b1", SUM),
    ),
    position(
        "before a convolution and a sum",
        [RELU, bn("b"), conv("c", **ONE), total("c", "b")],
        "Relu Mul Add Conv Add",
        b=(BEFORE, SUM),
    ),
    position(
        "behind another with two readers",
        [RELU, bn("b1"), bn("b2"), total("b1", "b2")],
        "Relu Mul Add Mul Add Add",
        b1=(BEFORE, "b2 (BatchNormalization) cannot absorb it"),
        b2=("b1 is also read by sum", SUM),
    ),
    position(
        "behind a join with a rectifier",
        [conv("c"), conv("e", bottom="image"), RELU, *joined("c", "relu")],
        "Conv Conv Relu Concat Mul Add Relu",
        b=("relu (Relu) cannot absorb it (joined by join)", AFTER),
    ),
    position(
        "behind a join with the input",
        [conv("c"), *joined("c", "image")],
        "Conv Concat Mul Add Relu",
        b=("image is an input of the model (joined by join)", AFTER),
    ),
    position(
        "behind a join with another that is kept",
        [conv("c"), RELU, bn("b1"), conv("e", bottom="image"), *joined("b1", "e")],
        "Conv Relu Mul Add Conv Concat Mul Add Relu",
        b1=(BEFORE, "join (Concat) cannot absorb it"),
        b=("b1 (BatchNormalization) cannot absorb it (joined by join)", AFTER),
    ),
    position(
        "behind a join of one with itself",
        [conv("c"), *joined("c", "c")],
        "Conv Concat Mul Add Relu",
        b=("c is read twice (joined by join)", AFTER),
    ),
    position(
        "behind a join that a sum reads too",
        [conv("c"), conv("e", bottom="image"), *joined("c", "e"), total("join", "relu2")],
        "Conv Conv Concat Mul Add Relu Add",
        b=("join is also read by sum", AFTER),
    ),
    position(
        "behind a join of rows",
        [conv("c"), conv("e", bottom="image"), *joined("c", "e", axis=2)],
        "Conv Conv Concat Mul Add Relu",
        b=("join (Concat) cannot absorb it", AFTER),
    ),
    position(
        "around an inner product of another axis",
        [RELU, bn("b1"), layer("ip", "InnerProduct", num_output=5, axis=3), bn("b2"), RELU2],
        "Relu Mul Add MatMul Add Mul Add Relu",
        b1=(BEFORE, "ip (MatMul) cannot absorb it"),
        b2=("ip (Add) cannot absorb it", AFTER),
    ),
    position(
        "before a scale of each element",
        [RELU, bn("b"), layer("s", "Scale", num_axes=-1)],
        "Relu Mul Add Mul",
        b=(BEFORE, "s (Mul) cannot absorb it"),
    ),
    position(
        "behind a constant",
        [conv("c"), layer("p", "Power", scale=2.0), bn("b"), RELU2],
        "Conv Mul Mul Add Relu",
        b=("p (Mul) cannot absorb it", AFTER),
    ),
    position(
        "before a reshape to other channels",
        [RELU, bn("b"), layer("r", "Reshape", shape=[8, 18]), conv("c", **ONE), RELU2],
        "Relu Mul Add Reshape Conv Relu",
        b=(BEFORE, "r (Reshape) cannot absorb it"),
    ),
    position("a bias alone before pads", [RELU, layer("s", "Bias"), conv("c"), RELU2], "Relu Add Conv Relu"),
    position("not a normalization", [RELU, layer("s", "Scale"), layer("s2", "Bias"), RELU2], "Relu Mul Add Relu"),
]


@pytest.mark.parametrize("row", POSITIONS, ids=lambda row: row.id)
def test_kept(row: Position) -> None:
    infer = check(row.layers, seed=1).infer.graph
    assert left(infer) == row.operators
    said = {name: f"kept as scale and shift: before it, {b}; after it, {a}" for name, (b, a) in row.kept.items()}
    assert reasons(infer) == said


def test_an_output_of_the_model_is_kept() -> None:
    parts = check([RELU, bn("b"), conv("c", bottom="relu"), RELU2], seed=1)
    assert left(parts.infer.graph) == "Relu Mul Add Conv Relu"
    said = f"kept as scale and shift: before it, {BEFORE}; after it, b is an output of the model"
    assert reasons(parts.infer.graph) == {"b": said}
