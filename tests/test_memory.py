"""The memory of a step, against lifetimes and chunks counted by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from typer.testing import CliRunner

from netc.allocation_plan import allocation_plan, execution_order
from netc.arena import ALIGNMENT, FIRST_REGION, LARGEST_GROWTH, Arena
from netc.build import build, lower_phases, step_programs
from netc.cli import app
from netc.graph import GraphBuilder, shape_of
from netc.graph.builder import IR_VERSION
from netc.graph.sizes import size
from netc.memory import scratch_bytes, step_memory, working_bytes
from netc.rewrite.passes import Platform
from tests.zoo import compiled, loaded

KIB = 1 << 10


def test_nodes_run_depth_first() -> None:
    """From the last node that nothing reads; of a node's inputs, first the last in the file with all that it needs."""
    g = GraphBuilder("order")
    x = g.input("x", g.dtype, [2])
    a, b = g.Exp(x), g.Neg(x)
    c = g.Abs(b)
    g.output("early", g.Sqrt(a))
    g.output("late", g.Add(a, c))
    assert [node.op_type for node in execution_order(g.graph)] == ["Neg", "Abs", "Exp", "Add", "Sqrt"]


def test_a_buffer_is_overwritten_by_the_last_reader_of_its_tensor() -> None:
    """Of the chain x -> a -> b -> c -> y, all but the output is one buffer; where y reads a as well, a has its own."""
    g = GraphBuilder("chain")
    x = g.input("x", g.dtype, [256])  # 1 KiB, as everything else
    g.output("y", g.Exp(g.Neg(g.Exp(g.Relu(x)))))
    assert working_bytes(g.graph)[0] == KIB
    g = GraphBuilder("skip")
    x = g.input("x", g.dtype, [256])
    a = g.Relu(x)
    g.output("y", g.Add(a, g.Neg(g.Exp(a))))
    assert working_bytes(g.graph)[0] == 2 * KIB


def test_a_kernel_that_cannot_overwrite_needs_two_buffers() -> None:
    g = GraphBuilder("apart")
    x = g.input("x", g.dtype, [256])
    g.output("y", g.Transpose(g.Transpose(g.Transpose(g.Relu(x), perm=[0]), perm=[0]), perm=[0]))
    assert working_bytes(g.graph)[0] == 2 * KIB


@pytest.mark.parametrize(("length", "most"), [(256, 7), (255, 6)])
def test_a_buffer_that_is_taken_again_stays_between(length: int, most: int) -> None:
    """Nothing reads a, of 1 KiB, when c is computed from b; but what has its shape takes its buffer after that."""
    g = GraphBuilder("again")
    x = g.input("x", g.dtype, [256])
    a = g.Exp(x)
    b = g.Concat(a, x, axis=0)
    c = g.Concat(b, b, axis=0)
    later = g.Slice(c, np.array([0]), np.array([length]))
    g.output("y", g.Exp(later))
    assert working_bytes(g.graph)[0] == most * KIB


@pytest.mark.parametrize("name", ["lenet", "lenet_dsn", "resnet20_cifar"])
def test_onnxruntime_runs_in_this_order_with_these_buffers(name: str, tmp_path: Path) -> None:
    """Its profile tells in which order nodes ran, and what its arena had given out before each gave its inputs back."""
    graph = build(loaded(name, "data.batch_size=16")).programs["train"].graph
    events = _profile(graph, tmp_path)
    ran = [event["name"].removesuffix("_kernel_time") for event in events]
    plan = allocation_plan(graph)
    planned = [step.node.name for step in plan]
    assert ran == planned
    given = {each: int(event["args"]["mem_bytes_requested_in_use"]) for each, event in zip(ran, events, strict=True)}
    live, differ = 0, list[str]()
    for step in plan:
        live += sum(map(size, step.begun))
        if abs(given[str(step.node.name)] - live) > 8 * KIB:  # constants that ONNX Runtime copies
            differ.append(f"{step.node.name}: planned {live}, given {given[str(step.node.name)]}")
        live -= sum(map(size, step.ended))
    assert not differ


def _profile(graph: ir.Graph, folder: Path) -> list[dict[str, Any]]:
    """Run a training program once, on zeros and without fusions; return what ONNX Runtime says of each node."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_mem_pattern, options.enable_profiling = False, True
    options.profile_file_prefix = str(folder / "profile")
    content = ir.to_proto(ir.Model(graph, ir_version=IR_VERSION)).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for values, bind in ((graph.inputs, binding.bind_ortvalue_input), (graph.outputs, binding.bind_ortvalue_output)):
        for value in values:
            assert value.dtype is not None
            zeros = np.zeros([int(n) for n in shape_of(value)], value.dtype.numpy())
            bind(value.name, onnxruntime.OrtValue.ortvalue_from_numpy(zeros))
    session.run_with_iobinding(binding)
    events = json.loads(Path(session.end_profiling()).read_text())
    return [event for event in events if event["cat"] == "Node" and event["name"].endswith("_kernel_time")]


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
    assert (third - second, arena.written) == (1024, 4096)
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


def test_regions_double_up_to_1_gib() -> None:
    """The fourth region is as large as the third, so that the fifth tensor finds nothing left of it."""
    arena = Arena()
    sizes = [LARGEST_GROWTH // 2, LARGEST_GROWTH, LARGEST_GROWTH, LARGEST_GROWTH, ALIGNMENT]
    chunks = [arena.allocate(size) for size in sizes]
    assert len({chunk // (1 << 48) for chunk in chunks}) == 5


def test_of_two_regions_of_one_size_the_later_is_taken() -> None:
    """A tensor that needs a larger region gets one, and the next region has the same size again."""
    arena = Arena()
    first, second = arena.allocate(3 * FIRST_REGION), arena.allocate(3 * FIRST_REGION)
    arena.release(second)
    arena.release(first)
    assert arena.allocate(3 * FIRST_REGION) == second


def test_scratch_of_convolutions() -> None:
    """As the gradient of LeNet's second weights: 50 filters of 64 x 8 x 8 elements at 25 places, all at once."""
    g = GraphBuilder("scratch")
    gradient = g.Conv(g.input("x", g.dtype, [20, 64, 12, 12]), g.input("dy", g.dtype, [50, 64, 8, 8]))
    forward = g.Conv(g.input("image", g.dtype, [64, 1, 28, 28]), g.input("w", g.dtype, [20, 1, 5, 5]))
    point = g.Conv(forward, g.input("v", g.dtype, [5, 20, 1, 1]))
    strided = g.Conv(forward, g.input("u", g.dtype, [700, 10, 1, 1]), strides=[2, 2], group=2)
    transposed = g.ConvTranspose(g.input("dy2", g.dtype, [8, 6, 5, 7]), g.input("t", g.dtype, [6, 4, 3, 3]), group=2)
    nodes = [value.producer() for value in (gradient, forward, point, strided, transposed)]
    windows, given = 25 * 64 * 8 * 8 * 4, 4 * 3 * 3 * 5 * 7 * 4
    assert [scratch_bytes(n) for n in nodes if n is not None] == [windows, 2 * 65536 * 4, 0, 12 * 12 * 10 * 4, given]


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
    program = compiled("lenet").programs["train"]
    memory = step_memory(program)
    assert memory.program > 5 * KIB * program.graph.num_nodes()
    assert memory.total == memory.working + memory.state + memory.batch + memory.program
    assert memory.state == 2 * (2 * 431_080 * 4 + 8)
    assert memory.batch == 64 * 28 * 28 * 4 + 64 * 4
    conv1, pool1 = 64 * 20 * 24 * 24 * 4, 64 * 20 * 12 * 12 * 4
    assert 2 * conv1 + pool1 < memory.live <= memory.working < 2 * memory.live


def test_memory_grows_with_the_batch() -> None:
    programs = (build(loaded("resnet20_cifar", f"data.batch_size={n}")).programs["train"] for n in (16, 64))
    small, large = map(step_memory, programs)
    assert large.state == small.state
    assert large.live == pytest.approx(4 * small.live, rel=0.05)  # some temporaries have the size of the weights


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
