"""Times of a training step: whose they are and that they add up. No test looks at how long anything takes."""

import io
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper

from netc.build import build
from netc.emit import write
from netc.spec.load import load
from netc.spec.text import read_tree
from netc_runtime.artifact import Artifact
from netc_runtime.attribution import EngineNode, Origin, kernel_origins, nodes_of, origins
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.openvino_trace import OpenVINOTrace
from netc_runtime.session import Host
from netc_runtime.step import TrainingStep
from netc_runtime.timetable import By, as_dict, print_timing, rows
from netc_runtime.timing import Kernel, Timing, synthetic_batch, time_step

SPECS = Path(__file__).parents[2] / "specs"


def compiled(name: str, folder: Path) -> Artifact:
    write(build(load(read_tree(SPECS / f"{name}.yaml"), SPECS)), folder)
    return Artifact.load(folder)


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return compiled("lenet_dsn", tmp_path_factory.mktemp("timing") / "lenet_dsn")


@pytest.fixture(scope="module")
def timing(lenet: Artifact) -> Timing:
    return time_step(lenet, Host("cpu", threads=1), 3)


def test_every_node_of_the_program_has_a_layer_and_a_part(lenet: Artifact, timing: Timing) -> None:
    graph = onnx.load(lenet.file("train")).graph
    assert timing.nodes.keys() == {node.name for node in graph.node}
    for name, origin in timing.nodes.items():
        assert name.startswith(f"{origin.layer}/{origin.part}/")


@pytest.mark.parametrize("name", ["lenet_dsn", "resnet20_cifar", "nin_dsn_cifar10"])
def test_every_kernel_that_runs_has_an_origin(name: str, tmp_path: Path) -> None:
    # Pooling in blocked layout, with reorders before and after it, fused Gemm and merged Slices are all among them.
    artifact = compiled(name, tmp_path / name)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(artifact.content("train"), options, providers=["CPUExecutionProvider"])
    program, optimized = onnx.load(artifact.file("train")).graph, onnx.load(tmp_path / "optimized.onnx").graph
    found = kernel_origins(program, nodes_of(optimized))
    assert found.keys() == {node.name for node in optimized.node}
    assert set(found.values()) <= set(origins(program).values())


def test_the_times_add_up(timing: Timing) -> None:
    assert timing.steps == 3
    assert timing.step_ms > 0
    assert all(kernel.origin is not None and kernel.milliseconds >= 0 for kernel in timing.kernels)
    for by in ("layer", "operator", "node"):
        assert sum(row.milliseconds for row in rows(timing, by)) == pytest.approx(timing.kernels_ms)
        assert sum(row.kernels for row in rows(timing, by)) == len(timing.kernels)
    assert timing.accounted == pytest.approx(timing.kernels_ms / timing.step_ms)


def test_layers_stand_in_forward_order_each_with_its_own_parts(timing: Timing) -> None:
    found = {row.name: row for row in rows(timing, "layer")}
    names = list(found)
    order = ["image", "conv1", "bn1", "pool1", "conv2", "pool2", "ip1", "relu3", "ip2", "loss", "solver"]
    assert [name for name in names if name in order] == order
    assert {kernel.origin for kernel in timing.kernels if kernel.name == "conv1/forward/Conv"} == {
        Origin("conv1", "forward")
    }
    # ONNX Runtime fuses this ReLU into the product before it.
    assert found["relu3"].parts["forward"] == 0
    assert found["solver"].parts["forward"] == found["solver"].parts["grad"] == 0


HANDMADE = Timing(
    name="two",
    program="train.onnx",
    device="cpu",
    threads=1,
    batch_size=4,
    steps=2,
    step_ms=10.0,
    traced_step_ms=12.0,
    trace_ms=0.001,
    nodes={
        "a/forward/Conv": Origin("a", "forward"),
        "a/grad/Conv": Origin("a", "grad"),
        "b/forward/Relu": Origin("b", "forward"),
        "c/weight/Mul": Origin("c", "weight"),
    },
    kernels=(
        Kernel("a/forward/Conv", "Conv", Origin("a", "forward"), 2.0),
        Kernel("a/grad/Conv", "Conv", Origin("a", "grad"), 5.0),
        Kernel("c/weight/Mul", "Mul", Origin("c", "weight"), 1.0),
        Kernel("new", "Memcpy", None, 1.5),
    ),
)


def test_the_table_of_layers() -> None:
    out = io.StringIO()
    print_timing(HANDMADE, "layer", out=out)
    table = [line.split() for line in out.getvalue().splitlines()]
    last = (
        "two: 10.00 ms a step of 4 samples on cpu, 1 threads, 2 steps; 80.0% accounted for by layers; "
        "12.00 ms with the trace, 66.7% of it"
    )
    assert table == [
        ["layer", "forward", "backward", "update", "other", "ms", "share", "kernels"],
        ["a", "2.00", "5.00", "7.00", "70.0%", "2"],
        ["b", "0.0%"],
        ["c", "1.00", "1.00", "10.0%", "1"],
        ["(not", "attributed)", "1.50", "1.50", "15.0%", "1"],
        ["(between", "kernels)", "0.50", "5.0%"],
        ["step", "2.00", "5.00", "2.50", "10.00", "100.0%", "4"],
        last.split(),
    ]


def test_what_is_computed_again_has_a_column_where_there_is_some() -> None:
    again = Kernel("a/recompute/Conv", "Conv", Origin("a", "recompute"), 1.25)
    out = io.StringIO()
    timing = replace(HANDMADE, kernels=(*HANDMADE.kernels, again))
    print_timing(timing, "layer", out=out)
    table = [line.split() for line in out.getvalue().splitlines()]
    assert table[0][1:5] == ["forward", "recompute", "backward", "update"]
    assert table[1] == ["a", "2.00", "1.25", "5.00", "8.25", "82.5%", "3"]
    rows_of = as_dict(timing, "layer")["rows"]
    assert isinstance(rows_of, list)
    assert rows_of[0]["recompute_ms"] == 1.25


@pytest.mark.parametrize(
    ("by", "slowest", "others"), [("operator", "Conv", "(2 others)"), ("node", "a/grad/Conv", "(3 others)")]
)
def test_the_slowest_rows(by: By, slowest: str, others: str) -> None:
    out = io.StringIO()
    print_timing(HANDMADE, by, 1, out)
    lines = out.getvalue().splitlines()
    assert [line.partition("  ")[0].strip() for line in lines[1:3]] == [slowest, others]
    entries = as_dict(HANDMADE, by, 1)["rows"]
    assert isinstance(entries, list)
    assert [entry[by] for entry in entries] == [slowest]


def test_json_says_the_same() -> None:
    said = json.loads(json.dumps(as_dict(HANDMADE, "node")))
    assert said["accounted"] == 0.8
    assert said["between_kernels_ms"] == 0.5
    assert said["kernels_ms"] == sum(row["ms"] for row in said["rows"])
    assert [row["layer"] for row in said["rows"]] == ["a", "a", None, "c"]


def node(operator: str, name: str, reads: list[str], writes: list[str], origin: str = "") -> onnx.NodeProto:
    made = helper.make_node(operator, reads, writes, name)
    if origin:
        layer, part = origin.split("/")
        helper.set_model_props(made, {"netc.layer": layer, "netc.part": part})
    return made


def test_where_kernels_of_other_names_come_from() -> None:
    before = helper.make_graph(
        [
            node("Conv", "conv1/forward/Conv", ["x"], ["c"], "conv1/forward"),
            node("Conv", "conv1/forward/Conv_1", ["c"], ["d"], "conv1/grad"),  # the longer name must win
            node("Relu", "r/forward/Relu", ["d"], ["e"], "r/forward"),
            node("Mul", "m/update/Mul", ["e"], ["f"], "m/update"),
        ],
        "before",
        [],
        [],
    )
    after = helper.make_graph(
        [
            node("Memcpy", "", ["w"], ["lost"]),  # nobody reads it, and it reads nobody
            node("Reorder", "ReorderInput", ["x"], ["x1"]),
            node("Cast", "Inserted", ["x1"], ["x2"]),
            node("Conv", "conv1/forward/Conv_1_nchwc", ["x2"], ["d1"]),
            node("Reorder", "ReorderOutput", ["d1"], ["d"]),
            node("QuickGelu", "of no such name", ["d"], ["e"]),
            node("Mul", "m/update/Mul", ["e"], ["f"]),
            node("Copy", "Last", ["f"], ["g"]),
            node("Copy", "Very last", ["g"], ["h"]),
        ],
        "after",
        [],
        [],
    )
    grad, update = Origin("conv1", "grad"), Origin("m", "update")
    assert kernel_origins(before, nodes_of(after)) == {
        "ReorderInput": grad,
        "Inserted": grad,
        "conv1/forward/Conv_1_nchwc": grad,
        "ReorderOutput": grad,  # it computes what conv1/forward/Conv_1 computed
        "of no such name": Origin("r", "forward"),
        "m/update/Mul": update,
        "Last": update,
        "Very last": update,
    }


def test_where_kernels_come_from_whose_engine_says_what_they_are_made_of() -> None:
    before = helper.make_graph(
        [
            node("Conv", "c/forward/Conv", ["x"], ["c"], "c/forward"),
            node("Mul", "c/update/Mul", ["w"], ["u"], "c/update"),
            node("Sub", "c/update/Sub", ["u"], ["c.weight.next"], "c/update"),
            node("Pow", "solver/update/Pow", ["step"], ["lr"], "solver/update"),
            node("Add", "solver/update/Add", ["step"], ["step.next"], "solver/update"),
        ],
        "before",
        [],
        [],
    )
    forward, update, solver = Origin("c", "forward"), Origin("c", "update"), Origin("solver", "update")
    after = [
        EngineNode("x", (), ("x",), ("x",)),
        EngineNode("c/update/Mul_abcd_acdb_c/forward/Conv", ("x",), ("1",), ()),  # inserted for the reader
        EngineNode("c/forward/Conv/WithoutBiases", ("1",), ("2",), ("c/forward/Conv/WithoutBiases",)),
        EngineNode("2_acdb_abcd_c/update/Sub", ("2",), ("3",), ()),  # nobody reads it
        EngineNode("lr", ("w",), ("lr",), ("c/update/Mul", "lr")),
        EngineNode("Multiply_7", ("w",), ("4",), ("Multiply_7", "c.weight.next", "solver/update/Pow")),
        EngineNode("step.next.0", ("step",), ("step.next.0",), ("step.next.0", "step.next")),
    ]
    assert kernel_origins(before, after) == {
        "x": forward,
        "c/update/Mul_abcd_acdb_c/forward/Conv": forward,
        "c/forward/Conv/WithoutBiases": forward,
        "2_acdb_abcd_c/update/Sub": forward,
        "lr": solver,  # which it computes, whatever else it does
        "Multiply_7": update,
        "step.next.0": solver,
    }


def test_onnxruntime_counts_runs_in_laps(lenet: Artifact, tmp_path: Path) -> None:
    step = TrainingStep(lenet, lenet.initial_state(), Host("cpu", threads=1), trace=tmp_path)
    batch = synthetic_batch(lenet, "train")
    for laps in (1, 2):
        for _ in range(laps):
            step.run(batch)
        step.trace.end_lap(laps)
    times = step.trace.end()
    assert set(times.names) <= {node.name for node in step.trace.nodes}
    assert times.milliseconds.shape == (len(times.operators), 2)
    microseconds = times.milliseconds * [1e3, 2e3]
    np.testing.assert_allclose(microseconds, np.round(microseconds), atol=1e-6)
    assert (times.milliseconds.sum(axis=0) > 0).all()


def test_runs_that_are_not_in_the_trace(lenet: Artifact, tmp_path: Path) -> None:
    step = TrainingStep(lenet, lenet.initial_state(), Host("cpu", threads=1), trace=tmp_path)
    step.run(synthetic_batch(lenet, "train"))
    step.trace.end_lap(2)
    with pytest.raises(DriverError, match=r"the trace of ONNX Runtime has .* 1 times in 2 steps"):
        step.trace.end()


class Counters:
    """Stands for OpenVINO's compiled model and its request: means over all runs, in whole microseconds."""

    def __init__(self, *means: dict[str, int]) -> None:
        self._means = iter(means)

    def get_runtime_model(self) -> "Counters":
        return self

    def get_ordered_ops(self) -> list[object]:
        return []

    def create_infer_request(self) -> "Counters":
        return self

    @property
    def profiling_info(self) -> list[SimpleNamespace]:
        states = SimpleNamespace(EXECUTED=1, NOT_RUN=0)
        return [
            SimpleNamespace(
                node_name=name,
                node_type="Mul",
                real_time=timedelta(microseconds=mean),
                status=states.EXECUTED if mean else states.NOT_RUN,
                Status=states,
            )
            for name, mean in next(self._means).items()
        ]


def test_means_over_all_runs_become_times_of_laps() -> None:
    # Runs of a that take 9, 1 and 2, and 6 and 2 us; b runs in the second lap alone.
    trace = OpenVINOTrace(Counters({"a": 9, "b": 0, "c": 0}, {"a": 4, "b": 2, "c": 0}, {"a": 4, "b": 1, "c": 0}))
    for runs in (1, 2, 2):
        trace.end_lap(runs)
    times = trace.end()
    assert (times.names, times.operators) == (["a", "b"], ["Mul", "Mul"])
    # The last lap of b is below 0: 2 us of 3 runs are 6 to 9 us, 1 us of 5 runs 5 to 10.
    np.testing.assert_allclose(times.milliseconds, [[9e-3, 1.5e-3, 4e-3], [0, 3e-3, -0.5e-3]])


def test_the_batch_fits_the_program(lenet: Artifact) -> None:
    batch = synthetic_batch(lenet, "train")
    assert batch["image"].shape == (64, 1, 28, 28)
    scaled = batch["image"] * lenet.spec["data"]["scale"]
    assert 0 <= scaled.min() < 0.01 < 0.99 < scaled.max() <= 1
    assert set(np.unique(batch["label"])) == set(range(10))


def test_more_steps_than_a_trace_holds_are_refused(lenet: Artifact) -> None:
    with pytest.raises(DriverError, match=r"at most \d{4} steps") as error:
        time_step(lenet, Host("cpu", threads=1), 100_000)
    assert error.value.exit_code == ExitCode.USAGE
