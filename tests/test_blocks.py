"""Blocks: what a use expands to, and what is said where one is wrong."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.errors import SpecError
from netc.spec.blocks import expand_blocks
from netc.spec.text import parse_tree

RESIDUAL = """
blocks:
  residual:
    parameters: {channels: null, stride: 1}
    layers:
      - {name: conv1, type: Convolution, num_output: $channels, kernel_size: 3, pad: 1, stride: $stride}
      - {type: ReLU}
      - {name: conv2, type: Convolution, num_output: "${channels * 2}", kernel_size: 3, pad: 1}
      - {name: sum, type: Eltwise, bottom: [conv2, $in]}
"""


def expanded(text: str, folder: Path | None = None) -> list[dict[str, Any]]:
    value = expand_blocks(parse_tree(text, "net.yaml"), folder).value
    assert not {"blocks", "use"} & value.keys()
    layers: Any = value["layers"]
    return list(layers)


def mistakes(text: str, folder: Path | None = None) -> list[str]:
    with pytest.raises(SpecError) as caught:
        expand_blocks(parse_tree(text, "net.yaml"), folder)
    return str(caught.value).splitlines()


def test_a_use_becomes_scoped_layers() -> None:
    layers = expanded(RESIDUAL + "layers:\n  - {name: res, block: residual, channels: 8, bottom: image}\n")
    conv = {"type": "Convolution", "kernel_size": 3, "pad": 1}
    assert layers == [
        {"name": "res/in", "type": "Split", "bottom": "image"},
        {"name": "res/conv1", "num_output": 8, "stride": 1, **conv},
        {"name": "res/relu1", "type": "ReLU"},
        {"name": "res/conv2", "num_output": 16, **conv},
        {"name": "res/sum", "type": "Eltwise", "bottom": ["res/conv2", "res/in"]},
        {"name": "res", "type": "Split"},
    ]


def test_repeat_numbers_the_copies() -> None:
    layers = expanded(RESIDUAL + "layers:\n  - {name: r, block: residual, channels: 4, repeat: 2, bottom: image}\n")
    names = [layer["name"] for layer in layers]
    assert names[:2] == ["r/1/in", "r/1/conv1"]
    assert names[5:8] == ["r/1", "r/2/in", "r/2/conv1"]
    assert names[-2:] == ["r/2", "r"]
    assert [layer.get("bottom") for layer in layers if layer["name"] in ("r/1/in", "r/2/in")] == ["image", None]


def test_blocks_nest_and_hold_sides() -> None:
    text = (
        RESIDUAL
        + """
  stage:
    parameters: {width: null}
    layers:
      - {name: body, block: residual, channels: "${width // 2}", repeat: 2}
      - name: head
        type: ReLU
        side:
          layers:
            - {name: scores, type: InnerProduct, num_output: $width}
            - {name: loss_$index, type: SoftmaxWithLoss, bottom: [scores, label]}
layers:
  - {name: s, block: stage, width: 6}
"""
    )
    layers = {layer["name"]: layer for layer in expanded(text)}
    assert layers["s/body/2/conv1"]["num_output"] == 3
    assert list(layers)[-3:] == ["s/body", "s/head", "s"]
    side = layers["s/head"]["side"]["layers"]
    assert [layer["name"] for layer in side] == ["s/scores", "s/loss_1"]
    assert side[1]["bottom"] == ["s/scores", "label"]
    assert side[0]["num_output"] == 6


def test_tops_are_scoped_too() -> None:
    block = "blocks: {b: {layers: [{name: cut, type: Slice, top: [l, r]}, {type: Eltwise, bottom: [l, r]}]}}\n"
    layers = expanded(block + "layers: [{name: x, block: b, repeat: 2}]\n")
    assert [layer["top"] for layer in layers if "top" in layer] == [["x/1/l", "x/1/r"], ["x/2/l", "x/2/r"]]
    assert layers[2]["bottom"] == ["x/1/l", "x/1/r"]


@pytest.mark.parametrize(
    ("expression", "value"),
    [("2 * 3 + 1", 7), ("-(n - 10)", 6), ("n / 2", 2), ("n / 8", 0.5), ("n // 3", 1), ("n % 3", 1), ("0.5 * n", 2.0)],
)
def test_arithmetic(expression: str, value: float) -> None:
    block = f"blocks: {{b: {{parameters: {{n: 4}}, layers: [{{type: Power, scale: '${{{expression}}}'}}]}}}}\n"
    found = expanded(block + "layers: [{name: x, block: b}]\n")[1]["scale"]
    assert found == value
    assert type(found) is type(value)


def test_blocks_from_another_file(tmp_path: Path) -> None:
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / "a.yaml").write_text("use: [b.yaml]\n" + RESIDUAL)
    (tmp_path / "blocks" / "b.yaml").write_text("blocks: {other: {layers: [{type: ReLU}]}}\n")
    text = "use: [blocks/a.yaml]\nlayers:\n  - {name: x, block: residual, channels: 2}\n  - {name: y, block: other}\n"
    assert [layer["name"] for layer in expanded(text, tmp_path)][-3:] == ["y/in", "y/relu1", "y"]


def test_a_mistake_in_a_block_names_both_places() -> None:
    text = RESIDUAL.replace("$stride", "$strde") + "layers:\n  - {name: r, block: residual, channels: 4, repeat: 3}\n"
    assert mistakes(text) == [
        'net.yaml:6:97: the block "residual" has no parameter "strde"; did you mean "stride"? '
        "(in a block used at net.yaml:11:5)"
    ]


USE = "layers:\n  - {name: r, block: residual, channels: 4}\n"
BAD = [
    (USE.replace("residual", "residul"), '11:22: unknown block "residul"; did you mean "residual"?'),
    (
        USE.replace("channels", "chanels"),
        '11:32: the block "residual" has no parameter "chanels"; did you mean "channels"?',
    ),
    (USE.replace(", channels: 4", ""), '11:5: the block "residual" needs channels'),
    (USE.replace("name: r, ", ""), '11:5: this use of the block "residual" needs a name'),
    (USE.replace("4}", "4, repeat: 0}"), "11:53: repeat: should be an integer from 1 on"),
    (
        USE.replace("4}", "four}"),
        '8:54: "channels * 2": channels is no number but "four" (in a block used at net.yaml:11:5)',
    ),
    ("  empty: {}\n" + USE, '10:10: the block "empty" needs layers'),
    (
        "  self: {layers: [{name: a, block: self}]}\nlayers: [{name: r, block: self}]\n",
        "10:36: blocks are nested in a circle or too deep: self uses self (in a block used at net.yaml:11:10)",
    ),
    ("use: [a.yaml]\n" + USE, '10:7: "a.yaml" cannot be found: this spec is no file'),
    ("use: [/etc/passwd]\n" + USE, "10:7: use takes paths relative to this file, such as blocks/resnet.yaml"),
]


@pytest.mark.parametrize(("rest", "message"), BAD)
def test_bad_blocks(rest: str, message: str) -> None:
    assert f"net.yaml:{message}" in mistakes(RESIDUAL + rest)


def test_files_that_use_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("use: [b.yaml]\nblocks: {}\n")
    (tmp_path / "b.yaml").write_text("use: [a.yaml]\nblocks: {}\nlayers: []\n")
    found = mistakes("use: [a.yaml, none.yaml]\nlayers: []\n", tmp_path)
    assert any('"a.yaml" uses this file again; files cannot use each other in a circle' in line for line in found)
    assert any('"none.yaml" cannot be used' in line for line in found)
    assert any('a file for `use` holds only blocks and use, not "layers"' in line for line in found)


def test_blocks_that_multiply_are_stopped() -> None:
    blocks = "".join(f"  b{n}: {{layers: [{{name: x, block: b{n + 1}, repeat: 1000}}]}}\n" for n in range(4))
    text = "blocks:\n" + blocks + "  b4: {layers: [{type: ReLU}]}\nlayers: [{name: r, block: b0}]\n"
    assert "blocks expand to more than 20,000 layers" in mistakes(text)[0]


def test_a_layer_whose_type_is_a_parameter_is_named_after_the_parameter() -> None:
    text = "blocks: {b: {parameters: {kind: ReLU}, layers: [{type: $kind}, {type: $kind}]}}\n"
    names = [layer["name"] for layer in expanded(text + "layers: [{name: x, block: b}]\n")]
    assert names == ["x/in", "x/kind1", "x/kind2", "x"]


def test_a_use_with_the_name_of_a_layer_inside() -> None:
    block = "blocks: {b: {layers: [{name: conv, type: X, bottom: $in}, {name: s, type: Y, bottom: [conv, $in]}]}}\n"
    layers = expanded(block + "layers: [{name: conv, block: b}]\n")
    assert [layer["name"] for layer in layers] == ["conv/in", "conv/conv", "conv/s", "conv"]
    assert layers[1]["bottom"] == "conv/in"
    assert layers[2]["bottom"] == ["conv/conv", "conv/in"]


def test_the_include_of_a_use_meets_those_inside() -> None:
    inside = "{name: a, type: X, include: {phase: test}}"
    block = f"blocks: {{b: {{layers: [{inside}, {{name: c, type: Y}}]}}}}\n"
    both = expanded(block + "layers: [{name: u, block: b, include: {phase: test}}]\n")
    assert all(layer["include"] == {"phase": "test"} for layer in both)
    (message,) = mistakes(block + "layers: [{name: u, block: b, include: {phase: train}}]\n")
    assert "the use of the block has another include, so that this layer never takes part" in message


def test_a_side_of_a_use_branches_off_behind_it() -> None:
    side = "side: {layers: [{name: loss, type: SoftmaxWithLoss}, {name: in_side, block: tail}]}"
    tail = "  tail: {layers: [{name: l, type: SoftmaxWithLoss}]}\n"
    use = f"layers: [{{name: r, block: residual, channels: 4, repeat: 2, {side}}}]\n"
    layers = expanded(RESIDUAL + tail + use)
    assert layers[-1]["name"] == "r"
    assert [layer["name"] for layer in layers[-1]["side"]["layers"]] == ["loss", "in_side/in", "in_side/l", "in_side"]
    assert not any("side" in layer for layer in layers[:-1])
    nested = "  outer: {layers: [{name: i, block: residual, channels: 4, side: {layers: [{name: l, type: X}]}}]}\n"
    layers = expanded(RESIDUAL + nested + "layers: [{name: o, block: outer}]\n")
    assert layers[-2]["name"] == "o/i"
    assert layers[-2]["side"]["layers"] == [{"name": "o/l", "type": "X"}]


@given(st.text(st.sampled_from("n0123456789+-*/%().$ {}_aeL[]'\"=<,:")))
def test_any_expression_is_a_number_or_refused(expression: str) -> None:
    text = f"blocks: {{b: {{parameters: {{n: 3}}, layers: [{{type: X, v: '{expression.replace(chr(39), '')}'}}]}}}}\n"
    with contextlib.suppress(SpecError):
        expanded(text + "layers: [{name: x, block: b}]\n")
