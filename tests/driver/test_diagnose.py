"""Where a divergence began: the first layer whose values went bad, found by running the step again."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from netc_runtime.artifact import Artifact
from netc_runtime.diagnose import origin_of_divergence
from netc_runtime.errors import DriverError
from netc_runtime.step import TrainingStep
from netc_runtime.trainer import TrainOptions, train

from .conftest import CPU, Recorder
from .handmade import first_state, write_artifact

FINITE = "run again on the CPU, the same step gives finite values"


def feeds(**changes: Any) -> dict[str, Any]:
    state = {name: array for name, array in first_state().items() if name != "seed"}
    batch = {"image": np.ones((64, 1, 8, 8), np.float32), "label": np.zeros(64, np.int32)}
    return state | batch | changes


def weight(value: float) -> Any:
    return np.full((64, 10), value, np.float32)


# The scores are 0 and the loss is finite, but the next weight is 2e38 + 2.7e38.
OVERFLOWING = {
    "image": np.zeros((64, 1, 8, 8), np.float32),
    "ip.weight": weight(2e38),
    "ip.weight/velocity": weight(-3e38),
}


@pytest.mark.parametrize(
    ("changes", "clause"),
    [
        ({}, FINITE),
        ({"image": np.full((64, 1, 8, 8), 1e38, np.float32), "ip.weight": weight(1e3)}, "forward pass of ip (ip/for"),
        ({"ip.weight": weight(np.nan)}, "the state was not finite already before this step (ip.weight)"),
        (OVERFLOWING, "the update of ip (ip/update/Sub/ip.weight.next)"),
    ],
)
def test_the_first_bad_values_are_named(artifact: Path, changes: dict[str, Any], clause: str) -> None:
    with np.errstate(over="ignore"):
        found = origin_of_divergence(Artifact.load(artifact), feeds(**changes), 1)
    assert clause in found


def edit_train(folder: Path, *nodes: onnx.NodeProto, bare: bool = False) -> Artifact:
    """Put nodes before the last use of `loss`, which the new value `loss.seen` replaces in `total`."""
    model = onnx.load(folder / "train.onnx")
    index = next(i for i, node in enumerate(model.graph.node) if node.output[0] == "total")
    model.graph.node[index].input[0] = nodes[-1].output[0]
    for node in reversed(nodes):
        model.graph.node.insert(index, node)
    for node in model.graph.node:
        if bare:
            del node.metadata_props[:]
            node.name = ""
    onnx.save(model, folder / "train.onnx")
    return Artifact.load(folder)


def test_values_that_a_later_node_leaves_out_are_no_culprits(tmp_path: Path) -> None:
    loaded = edit_train(
        write_artifact(tmp_path / "a"),
        helper.make_node("Sub", ["loss", "loss"], ["nothing"], name="guard/forward/Sub"),
        helper.make_node("Div", ["loss", "nothing"], ["infinite"], name="guard/forward/Div"),
        helper.make_node("IsInf", ["infinite"], ["is_infinite"], name="guard/forward/IsInf"),
        helper.make_node("Where", ["is_infinite", "loss", "infinite"], ["seen"], name="guard/forward/Where"),
    )
    assert origin_of_divergence(loaded, feeds(), 1) == FINITE
    found = origin_of_divergence(loaded, feeds(**OVERFLOWING), 1)
    assert found == "the first non-finite values are in the update of ip (ip/update/Sub/ip.weight.next)"


def test_nodes_without_metadata_go_by_their_outputs(tmp_path: Path) -> None:
    loaded = edit_train(
        write_artifact(tmp_path / "a"), helper.make_node("Identity", ["loss"], ["loss.seen"]), bare=True
    )
    huge = np.full((64, 1, 8, 8), 3e38, np.float32)
    found = origin_of_divergence(loaded, feeds(image=huge, **{"ip.weight": weight(1e3)}), 1)
    assert found == "the first non-finite values are in the node Gemm -> ip"


def test_a_diagnosis_that_fails_says_so(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "a")
    loaded = Artifact.load(folder)
    for content in (b"\xff" * 60, b""):
        (folder / "train.onnx").write_bytes(content)
        assert origin_of_divergence(loaded, feeds(), 1).startswith("the layer where it began could not be found (")
    (folder / "train.onnx").unlink()
    assert "could not be found (cannot read" in origin_of_divergence(loaded, feeds(), 1)


def test_the_inputs_of_the_last_step_are_those_before_it(artifact: Path) -> None:
    loaded = Artifact.load(artifact)
    step = TrainingStep(loaded, loaded.initial_state(), CPU)
    assert step.last_feeds() is None
    batch = {"image": np.ones((64, 1, 8, 8)), "label": np.arange(64) % 10}
    for _ in range(3):
        before = step.state()
        step.run(batch)
        found = step.last_feeds()
        assert found is not None
        for name, array in found.items():
            np.testing.assert_array_equal(array, (before | batch)[name], err_msg=name)
    step.load_state(before)
    assert step.last_feeds() is None


def test_the_message_of_a_divergence_names_the_layer(tmp_path: Path) -> None:
    changes = {"solver.base_lr": float("inf"), "solver.max_epochs": None, "solver.max_iter": 1}
    wild = write_artifact(tmp_path / "wild", changes)
    with pytest.raises(DriverError) as caught:
        train(TrainOptions(tmp_path / "run", wild, CPU), Recorder())
    assert str(caught.value).startswith(
        "training diverged at step 1: the first non-finite values are in the forward pass of loss "
        "(loss/forward/Mul/lr); ip.weight is not finite"
    )
