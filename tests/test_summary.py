"""The table of `netc check` against numbers counted by hand."""

import numpy as np
import pytest

from netc.build import lower_phases
from netc.emit import Artifact
from netc.graph import GraphBuilder
from netc.summary import Summary, multiply_adds, summarize
from tests.zoo import ZOO, compiled, loaded, reduced


def summary_of(name: str, *overrides: str) -> Summary:
    return summarize(lower_phases(loaded(name, *overrides)))


def updated(artifact: Artifact, graph: str) -> int:
    """Return how many parameters a training program gives new values to."""
    sizes = {tensor.name: int(np.prod(tensor.shape)) for tensor in artifact.state if tensor.role == "parameter"}
    return sum(sizes.get(str(entry.get("feeds")), 0) for entry in artifact.programs[graph].outputs.values())


def test_lenet() -> None:
    """Caffe's LeNet: 431,080 parameters and 2,293,000 multiply-adds a sample."""
    summary = summary_of("lenet")
    rows = {row.name: row for row in summary.rows}
    assert (summary.parameters, summary.multiply_adds) == (431_080, 2_293_000)
    assert rows["conv2"].multiply_adds == 8 * 8 * 50 * 20 * 5 * 5
    assert rows["conv1"].output == "20x24x24"
    assert rows["conv1"].activation_bytes == 64 * 20 * 24 * 24 * 4
    assert rows["ip1"].parameters == 500 * 800 + 500
    assert rows["loss"].output == "scalar"


@pytest.mark.parametrize("name", ZOO)
def test_totals(name: str) -> None:
    artifact, summary = compiled(name, *reduced(name)), summary_of(name, *reduced(name))
    learned = sum(int(np.prod(t.shape)) for t in artifact.state if t.role == "parameter")
    assert summary.parameters == learned == sum(row.parameters for row in summary.rows)
    assert summary.trained == updated(artifact, "train") == sum(row.trained for row in summary.rows)
    assert summary.phases == []
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
    summary = summary_of("resnet20_cifar")
    summary.print()
    lines = capsys.readouterr().out.splitlines()
    assert {"conv2/1/in", "conv2"} <= {row.name for row in summary.rows}
    assert not [line for line in lines if " Split " in line]
    assert len(lines) == 3 + sum(row.type != "Split" for row in summary.rows)
    assert "40,551,040" in lines[-2], "numbers are never cut"


def test_mixed_precision_halves_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    summary = summary_of("lenet", "solver.precision=mixed")
    rows = {row.name: row for row in summary.rows}
    assert rows["conv1"].activation_bytes == 64 * 20 * 24 * 24 * 2
    summary.print()
    assert capsys.readouterr().out.splitlines()[-1] == "lenet: 9 layers, 431,080 parameters, mixed precision"
    assert summary.as_dict()["precision"] == "mixed"


def test_sides_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    summary = summary_of("lenet_dsn")
    summary.print()
    marked = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "(side)" in line]
    assert marked == [row.name for row in summary.rows if row.companion] == ["ip1_side", "l1", "ip2_side", "l2"]


PHASES = "phases=[{epochs: 2, freeze: 'conv*', sides: false}, {iterations: 1, solver: {type: Adam, base_lr: 0.5}}, {}]"


@pytest.mark.parametrize(
    ("overrides", "marks"),
    [
        ((), []),
        (("freeze=conv1",), ["conv1 (frozen)"]),
        (("freeze=[bn1.bias, ip2_side]",), ["bn1 (partly frozen)", "ip2_side (side) (frozen)"]),
        (("lr_mult={'conv*': 0.0}",), ["conv1 (frozen)", "conv2 (frozen)"]),
        (("layers.ip1.param=[{lr_mult: 0}, {lr_mult: 0}]",), ["ip1 (frozen)"]),
        (("layers.pool1.side.loss_weight=0.0",), ["ip1_side (side) (frozen)"]),
        ((PHASES,), []),
        (("freeze=conv1", PHASES), ["conv1 (frozen)"]),
    ],
)  # fmt: skip
def test_what_training_leaves_as_it_is_is_marked(
    overrides: tuple[str, ...], marks: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    artifact, summary = compiled("lenet_dsn", *overrides), summary_of("lenet_dsn", *overrides)
    summary.print()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in lines if "frozen)" in line] == marks
    (last,) = (line for line in lines if line.startswith("lenet_dsn: "))
    kept = summary.parameters - summary.trained
    assert last == "lenet_dsn: 17 layers, 467,970 parameters" + (
        f", {summary.trained:,} of them trained" if kept else ""
    )
    if not summary.phases:
        assert summary.trained == updated(artifact, "train")


def test_phases_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ("freeze=[conv1, bn1, bn2, ip1, ip2_side, ip1_side]", PHASES)
    artifact, summary = compiled("lenet_dsn", *overrides), summary_of("lenet_dsn", *overrides)
    summary.print()
    first, second, third = (updated(artifact, graph) for graph in ("train.1", "train.2", "train"))
    assert [phase.trained for phase in summary.phases] == [first, second, third]
    assert second == third < first < summary.trained == first + 25_000  # conv2, which the first phase leaves alone
    frozen = "conv1, bn1, ip1_side, bn2, ip2_side and 1 more"
    assert capsys.readouterr().out.splitlines()[-3:] == [
        f"phase 1 of 3: 2 epochs, SGD with base_lr 0.03, without sides, {first:,} of 467,970 parameters trained; "
        "frozen: conv1, ip1_side, conv2, ip2_side",
        f"phase 2 of 3: 1 step, Adam with base_lr 0.5, {second:,} of 467,970 parameters trained; frozen: {frozen}",
        f"phase 3 of 3: to the end, SGD with base_lr 0.03, {third:,} of 467,970 parameters trained; frozen: {frozen}",
    ]
    assert summary.phases[2].frozen == ["conv1", "bn1", "ip1_side", "bn2", "ip2_side", "ip1"]
