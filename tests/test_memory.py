"""The memory of a step, against lifetimes and chunks counted by hand."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from netc.arena import ALIGNMENT, FIRST_REGION, Arena
from netc.build import build, lower_phases, step_programs
from netc.cli import app
from netc.graph import GraphBuilder
from netc.memory import scratch_bytes, step_memory, working_bytes
from netc.rewrite.passes import Platform
from tests.zoo import compiled, loaded

KIB = 1 << 10


def test_a_tensor_lives_until_its_last_reader() -> None:
    """Of the chain x -> a -> b -> c, two live at once; a is read again by the last node, and then three do."""
    g = GraphBuilder("chain")
    x = g.input("x", g.dtype, [256])  # 1 KiB, as everything else
    a = g.Relu(x)
    b = g.Exp(a)
    c = g.Neg(b)
    g.output("y", g.Exp(c))
    assert working_bytes(g.graph)[0] == 2 * KIB
    g = GraphBuilder("skip")
    x = g.input("x", g.dtype, [256])
    a = g.Relu(x)
    b = g.Exp(a)
    c = g.Neg(b)
    g.output("y", g.Add(a, c))
    assert working_bytes(g.graph)[0] == 3 * KIB


def test_a_view_keeps_what_it_views_and_takes_nothing() -> None:
    g = GraphBuilder("view")
    x = g.input("x", g.dtype, [256])
    flat = g.Reshape(g.Relu(x), np.array([16, 16], np.int64))
    a = g.Exp(g.Reshape(x, np.array([16, 16], np.int64)))
    g.output("y", g.Add(a, flat))
    assert working_bytes(g.graph)[0] == 2 * KIB


def test_a_hole_too_small_for_the_next_tensor_is_lost() -> None:
    arena = Arena()
    first, second = arena.allocate(1024), arena.allocate(1024)
    arena.release(first)
    third = arena.allocate(2048)
    assert (third, arena.written) == (2048, 4096)
    arena.release(third)
    arena.release(second)
    assert arena.allocate(4096) == first, "free neighbours are one chunk"
    assert arena.written == 4096


def test_a_chunk_is_cut_where_half_would_be_left() -> None:
    arena = Arena()
    big, behind = arena.allocate(4 * ALIGNMENT), arena.allocate(1)
    arena.release(big)
    assert arena.allocate(3 * ALIGNMENT) == big
    assert arena.allocate(1) == behind + ALIGNMENT, "the rest of the first chunk was not cut off"


def test_regions_double() -> None:
    arena = Arena()
    arena.allocate(FIRST_REGION)
    arena.allocate(FIRST_REGION)
    arena.allocate(FIRST_REGION)
    assert arena.written == 3 * FIRST_REGION


def test_scratch_of_convolutions() -> None:
    """As the gradient of LeNet's second weights: 50 filters of 64 x 8 x 8 elements at 25 places, all at once."""
    g = GraphBuilder("scratch")
    gradient = g.Conv(g.input("x", g.dtype, [20, 64, 12, 12]), g.input("dy", g.dtype, [50, 64, 8, 8]))
    forward = g.Conv(g.input("image", g.dtype, [64, 1, 28, 28]), g.input("w", g.dtype, [20, 1, 5, 5]))
    point = g.Conv(forward, g.input("v", g.dtype, [5, 20, 1, 1]))
    strided = g.Conv(forward, g.input("u", g.dtype, [700, 10, 1, 1]), strides=[2, 2], group=2)
    nodes = [value.producer() for value in (gradient, forward, point, strided)]
    windows = 25 * 64 * 8 * 8 * 4
    assert [scratch_bytes(n) for n in nodes if n is not None] == [windows, 2 * 65536 * 4, 0, 12 * 12 * 10 * 4]


def test_the_arena_lends_scratch_memory() -> None:
    """The windows of a gradient are larger than all tensors together, and gone when its kernel has run."""
    g = GraphBuilder("lent")
    gradient = g.Conv(g.Relu(g.input("x", g.dtype, [1, 64, 9, 9])), g.input("dy", g.dtype, [50, 64, 5, 5]))
    g.output("y", g.Relu(gradient))
    live, taken = working_bytes(g.graph)
    assert live == (64 * 9 * 9 + 50 * 25) * 4
    assert live + 25 * 64 * 25 * 4 <= taken < live + 25 * 64 * 25 * 4 + 4 * ALIGNMENT


def test_lenet() -> None:
    """Parameters and velocity twice, the step counter twice; the peak is not below what conv1's backward pass needs."""
    memory = step_memory(compiled("lenet").programs["train"])
    assert memory.state == 2 * (2 * 431_080 * 4 + 8)
    assert memory.batch == 64 * 28 * 28 * 4 + 64 * 4
    conv1, pool1 = 64 * 20 * 24 * 24 * 4, 64 * 20 * 12 * 12 * 4
    assert 2 * conv1 + pool1 < memory.live <= memory.working < 2 * memory.live


def test_memory_grows_with_the_batch() -> None:
    small, large = (step_memory(build(loaded("lenet", f"data.batch_size={n}")).programs["train"]) for n in (64, 256))
    assert large.state == small.state
    assert large.live == pytest.approx(4 * small.live, rel=0.25)  # some temporaries have the size of the weights


def _check(*options: str) -> str:
    result = CliRunner().invoke(app, ["check", "lenet", *options])
    assert result.exit_code == 0
    return result.stdout


def test_check_says_it_on_demand() -> None:
    plain = json.loads(_check("--json"))
    asked = json.loads(_check("--memory", "--json"))
    expected = step_memory(compiled("lenet").programs["train"])
    assert plain["step_memory"] is None
    assert asked["step_memory"]["working"] == expected.working
    assert "a training step holds" in _check("--memory")


def test_graphs_grow_in_proportion_to_depth() -> None:
    """Each further block adds the same nodes to the training program, however deep the network is."""
    counts: list[int] = []
    for repeat in (2, 3, 4):
        lowered = lower_phases(loaded("resnet20_cifar", f"layers.conv2.repeat={repeat}"))
        counts.append(step_programs(lowered, Platform("cpu"))["train"].graph.num_nodes())
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0
