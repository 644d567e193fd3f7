"""The table of `netc check` against numbers counted by hand."""

import numpy as np
import pytest

from netc.graph import GraphBuilder
from netc.summary import multiply_adds, summarize
from tests.zoo import ZOO, compiled, reduced


def test_lenet() -> None:
    """Caffe's LeNet: 431,080 parameters and 2,293,000 multiply-adds a sample."""
    artifact = compiled("lenet")
    summary = summarize(artifact.spec, artifact.network, artifact.state)
    rows = {row.name: row for row in summary.rows}
    assert (summary.parameters, summary.multiply_adds) == (431_080, 2_293_000)
    assert rows["conv2"].multiply_adds == 8 * 8 * 50 * 20 * 5 * 5
    assert rows["conv1"].output == "20x24x24"
    assert rows["conv1"].activation_bytes == 64 * 20 * 24 * 24 * 4
    assert rows["ip1"].parameters == 500 * 800 + 500
    assert rows["loss"].output == "scalar"


@pytest.mark.parametrize("name", ZOO)
def test_totals(name: str) -> None:
    artifact = compiled(name, *reduced(name))
    summary = summarize(artifact.spec, artifact.network, artifact.state)
    learned = sum(int(np.prod(t.shape)) for t in artifact.state if t.role == "parameter")
    assert summary.parameters == learned == sum(row.parameters for row in summary.rows)
    assert summary.activation_bytes == sum(row.activation_bytes for row in summary.rows) > 0


def test_multiply_adds_of_operators() -> None:
    g = GraphBuilder("count")
    x = g.input("x", g.dtype, [2, 4, 5, 5])
    w = g.input("w", g.dtype, [6, 2, 3, 3])
    u = g.input("u", g.dtype, [4, 3, 2, 2])
    a, b = g.input("a", g.dtype, [7, 2]), g.input("b", g.dtype, [7, 3])
    grouped = g.Conv(x, w, group=2).producer()
    transposed = g.ConvTranspose(x, u, group=2, strides=[2, 2]).producer()
    product = g.Gemm(a, b, transA=1).producer()
    other = g.Relu(x).producer()
    assert grouped is not None
    assert multiply_adds(grouped) == 2 * 6 * 3 * 3 * (2 * 3 * 3)
    assert transposed is not None
    assert multiply_adds(transposed) == 2 * 4 * 5 * 5 * (3 * 2 * 2)
    assert product is not None
    assert multiply_adds(product) == 2 * 3 * 7
    assert other is not None
    assert multiply_adds(other) == 0


def test_the_ends_of_blocks_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    artifact = compiled("resnet20_cifar")
    summary = summarize(artifact.spec, artifact.network, artifact.state)
    summary.print()
    lines = capsys.readouterr().out.splitlines()
    assert {"conv2/1/in", "conv2"} <= {row.name for row in summary.rows}
    assert not [line for line in lines if " Split " in line]
    assert len(lines) == 3 + sum(row.type != "Split" for row in summary.rows)
    assert "40,551,040" in lines[-2], "numbers are never cut"


def test_mixed_precision_halves_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    artifact = compiled("lenet", "solver.precision=mixed")
    summary = summarize(artifact.spec, artifact.network, artifact.state)
    rows = {row.name: row for row in summary.rows}
    assert rows["conv1"].activation_bytes == 64 * 20 * 24 * 24 * 2
    summary.print()
    assert capsys.readouterr().out.splitlines()[-1] == "lenet: 9 layers, 431,080 parameters, mixed precision"
    assert summary.as_dict()["precision"] == "mixed"


def test_sides_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    artifact = compiled("lenet_dsn")
    summary = summarize(artifact.spec, artifact.network, artifact.state)
    summary.print()
    marked = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "(side)" in line]
    assert marked == [row.name for row in summary.rows if row.companion] == ["ip1_side", "l1", "ip2_side", "l2"]
