"""The fold of affine maps of channels: what stands before or behind takes them in, and computes the same."""

import pytest

from tests.folding import (
    Layers,
    Position,
    bn,
    check,
    conv,
    deconv,
    halves_of,
    inference,
    layer,
    left,
    position,
    reasons,
)

RELU, RELU2 = layer("relu", "ReLU"), layer("relu2", "ReLU")
IP = layer("ip", "InnerProduct", num_output=4)
ONE = {"kernel_size": 1, "pad": 0}
SHARED = {"param": [{"name": "w"}], "bias_term": False}
JOIN = layer("join", "Concat", bottom=["c1", "c2"])
JOINED: Layers = [conv("c1", num_output=2), conv("c2", bottom="image"), JOIN]
SUM = layer("sum", "Eltwise", bottom=["b", "relu"])

POSITIONS = [
    # Into what stands before it.
    position("behind a convolution", [conv("c"), bn("b"), RELU], "Conv Relu"),
    position("behind one without bias", [conv("c", bias_term=False), bn("b"), RELU], "Conv Relu"),
    position("without affine", [conv("c"), bn("b", affine=False), RELU], "Conv Relu"),
    position("behind groups", [conv("c", group=2, num_output=6), bn("b"), RELU], "Conv Relu"),
    position("behind depthwise", [conv("c", group=4, num_output=8), bn("b"), RELU], "Conv Relu"),
    position(
        "behind strides and dilation", [conv("c", stride=2, dilation=2, pad=2), bn("b", eps=0.125), RELU], "Conv Relu"
    ),
    position("behind a deconvolution", [deconv("d"), bn("b"), RELU], "ConvTranspose Relu"),
    position("behind deconvolved groups", [deconv("d", group=2, stride=2), bn("b"), RELU], "ConvTranspose Relu"),
    position("behind one without a bias", [deconv("d", bias_term=False), bn("b"), RELU], "ConvTranspose Relu"),
    position(
        "along one axis",
        [layer("line", "Reshape", shape=[24, 6]), conv("c", group=2), bn("b"), RELU],
        "Reshape Conv Relu",
    ),
    position(
        "along three axes",
        [layer("cube", "Reshape", shape=[2, 2, 6, 6]), conv("c"), bn("b"), RELU, bn("b2"), deconv("d", kernel_size=1)],
        "Reshape Conv Relu ConvTranspose",
    ),
    position("behind an inner product", [IP, bn("b"), RELU], "Flatten Gemm Relu"),
    position("behind its transpose", [{**IP, "transpose": True}, bn("b"), RELU], "Flatten Gemm Relu"),
    position("behind one without bias_term", [{**IP, "bias_term": False}, bn("b"), RELU], "Flatten Gemm Relu"),
    position(
        "behind an embedding",
        [layer("e", "Embed", bottom="label", input_dim=3, num_output=4), bn("b"), RELU],
        "Cast Unsqueeze Equal Cast Gemm Relu",
    ),
    position("before a scale", [conv("c"), bn("b"), layer("s", "Scale"), RELU], "Conv Relu"),
    position("before a bias", [conv("c"), bn("b"), layer("s", "Bias"), RELU], "Conv Relu"),
    position(
        "around scale and bias", [conv("c"), layer("s", "Scale"), bn("b"), layer("s2", "Bias"), RELU], "Conv Relu"
    ),
    position(
        "before one number", [conv("c"), bn("b"), layer("s", "Scale", num_axes=0, bias_term=True), RELU], "Conv Relu"
    ),
    position("three in a row", [conv("c"), bn("b1"), bn("b2"), bn("b3"), RELU], "Conv Relu"),
    position("behind each of two", [conv("c1"), bn("b1"), RELU, conv("c2"), bn("b2"), RELU2], "Conv Relu Conv Relu"),
    position("behind joined convolutions", [*JOINED, bn("b"), RELU], "Conv Conv Concat Relu"),
    position(
        "behind joined normalizations",
        [
            conv("a"),
            bn("ba"),
            deconv("b", bottom="image", kernel_size=1),
            layer("join", "Concat", bottom=["ba", "b"]),
            bn("b2"),
            RELU,
        ],
        "Conv ConvTranspose Concat Relu",
    ),
    position(
        "behind nested joins",
        [*JOINED, conv("e", bottom="image"), layer("all", "Concat", bottom=["join", "e"]), bn("b"), RELU],
        "Conv Conv Concat Conv Concat Relu",
    ),
    position(
        "with two readers behind a convolution",
        [conv("c"), bn("b"), RELU, SUM],
        "Conv Relu Add",
    ),
    position(
        "behind weights that two share",
        [conv("c1", **SHARED), bn("b"), RELU, conv("c2", **SHARED), RELU2],
        "Conv Relu Conv Relu",
    ),
    # Into what stands after it.
    position("before a convolution", [RELU, bn("b"), conv("c", **ONE), RELU2], "Relu Conv Relu"),
    position("before one without bias", [RELU, bn("b"), conv("c", bias_term=False, pad=0), RELU2], "Relu Conv Relu"),
    position("before groups", [RELU, bn("b"), conv("c", group=2, num_output=6, pad=0), RELU2], "Relu Conv Relu"),
    position(
        "before strides and dilation", [RELU, bn("b"), conv("c", dilation=2, stride=2, pad=0), RELU2], "Relu Conv Relu"
    ),
    position(
        "before a deconvolution of one place",
        [RELU, bn("b"), deconv("d", kernel_size=1, group=2), RELU2],
        "Relu ConvTranspose Relu",
    ),
    position("before a deconvolution that cuts", [RELU, bn("b"), deconv("d", pad=2), RELU2], "Relu ConvTranspose Relu"),
    position("before an inner product", [RELU, bn("b")], "Relu"),
    position("before its transpose", [RELU, bn("b"), {**IP, "transpose": True}, RELU2], "Relu Flatten Gemm Relu"),
    position("before one of a vector", [layer("flat", "Flatten"), bn("b"), IP, RELU], "Flatten Gemm Relu"),
    position(
        "before a pooled one",
        [RELU, layer("pool", "Pooling", pool="average", global_pooling=True), bn("b")],
        "Relu GlobalAveragePool",
    ),
    position(
        "before a reshaped one",
        [RELU, bn("b"), layer("flat", "Reshape", shape=[-1]), IP, RELU2],
        "Relu Reshape Gemm Relu",
    ),
    position("on the input", [bn("b"), conv("c", **ONE), RELU], "Conv Relu"),
    position("two before one", [RELU, bn("b1"), bn("b2"), conv("c", **ONE), RELU2], "Relu Conv Relu"),
    position("both sides", [RELU, bn("b1"), conv("c", pad=0, group=2), bn("b2"), RELU2], "Relu Conv Relu"),
    position(
        "before two that share weights",
        [
            RELU,
            bn("b"),
            conv("c1", **ONE, **SHARED),
            conv("c2", bottom="b", **ONE, param=SHARED["param"]),
            layer("sum", "Eltwise", bottom=["c1", "c2"]),
        ],
        "Relu Conv Conv Add",
    ),
    position("a scale alone before pads", [RELU, layer("s", "Scale"), conv("c"), RELU2], "Relu Conv Relu"),
    position(
        "a scale alone before strides",
        [RELU, layer("s", "Scale"), deconv("d", stride=2, group=2), RELU2],
        "Relu ConvTranspose Relu",
    ),
    position(
        "another normalization's scale before a convolution",
        [layer("i", "InstanceNorm"), conv("c", pad=0), RELU],
        "ReduceMean Sub Mul ReduceMean Add Sqrt Div Conv Relu",
    ),
    position(
        "learned weights of a sum",
        [conv("c1"), conv("c2", bottom="image"), layer("w", "WeightedSum", bottom=["c1", "c2"]), RELU],
        "Conv Conv Add Relu",
    ),
    # Not a normalization.
    position("nothing to fold", [conv("c"), RELU], "Conv Relu"),
    position("one shift alone", [conv("c", bias_term=False), layer("s", "Bias", num_axes=0), RELU], "Conv Relu"),
    position(
        "one factor behind a concat",
        [
            conv("c1"),
            conv("c2", bottom="image"),
            layer("cat", "Concat", bottom=["c1", "c2"]),
            layer("s", "Scale", num_axes=0),
            RELU,
        ],
        "Conv Conv Concat Relu",
    ),
    position("a scale behind a convolution", [conv("c"), layer("s", "Scale", bias_term=True), RELU], "Conv Relu"),
    position("a scale that stays", [RELU, layer("s", "Scale"), layer("s2", "Bias"), RELU2], "Relu Mul Add Relu"),
]


@pytest.mark.parametrize("row", POSITIONS, ids=lambda row: row.id)
def test_position(row: Position) -> None:
    infer = check(row.layers, seed=1).infer.graph
    assert left(infer) == row.operators
    assert reasons(infer) == {}


def test_parameters_are_named_after_the_spec() -> None:
    parts = halves_of(inference([conv("c"), bn("b"), RELU, bn("b2"), RELU2]))
    names = {"c.weight", "c.bias", "b2.scale", "b2.shift", "last.weight", "last.bias"}
    assert set(parts.feeds.values()) == names
    assert {str(x.name) for x in parts.infer.graph.inputs} == {"image", "label", *names}
    assert {str(x.name) for x in parts.fold.graph.outputs} == set(parts.feeds)


def test_the_normalization_of_the_data_stays() -> None:
    """A network that starts from the exported weights normalises its data in the same way."""
    network = inference([conv("c", **ONE), RELU], data={"mean": "computed", "std": "computed", "scale": 2.0})
    assert left(halves_of(network).infer.graph) == "Sub Div Mul Conv Relu"


def test_a_layer_that_takes_in_a_chain_has_a_copy_of_shared_weights() -> None:
    layers = [conv("c1", **SHARED), bn("b"), RELU, conv("c2", **SHARED), RELU2]
    assert set(halves_of(inference(layers)).feeds.values()) == {"c1.weight", "c1.bias", "w", "last.weight", "last.bias"}
