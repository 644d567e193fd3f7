"""Sessions and the training step: ping-pong buffers against a numpy twin, and the choice of a device."""

import sys
from pathlib import Path

import numpy as np
import pytest

from netc_runtime.arrays import Array
from netc_runtime.artifact import Artifact
from netc_runtime.data import open_source
from netc_runtime.data.order import permutation
from netc_runtime.engines import load_program
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.session import Host
from netc_runtime.step import TrainingStep

from .conftest import CPU
from .handmade import BATCH, twin


def batch_of(index: int) -> dict[str, Array]:
    train = open_source({"source": "digits"}).train
    order = permutation(1, 0, len(train["image"]))[index * BATCH : (index + 1) * BATCH]
    return {"image": train["image"][order], "label": train["label"][order]}


def test_twenty_steps_equal_the_numpy_twin(artifact: Path) -> None:
    loaded = Artifact.load(artifact)
    step = TrainingStep(loaded, loaded.initial_state(), CPU)
    step.set_constant("max_steps", 30)
    state = {name: array.astype(np.float64) for name, array in step.state().items()}
    assert state["max_steps"] == 30
    for index in range(20):
        batch = batch_of(index)
        state, expected = twin(state, batch["image"], batch["label"].astype(int), 0.1)
        metrics = step.run(batch)
        assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-6), index
    found = step.state()
    assert found["step"] == 20
    for name, array in state.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-6, err_msg=name)


def test_state_is_a_copy_and_can_be_loaded_back_after_an_odd_number_of_steps(artifact: Path) -> None:
    loaded = Artifact.load(artifact)
    step = TrainingStep(loaded, loaded.initial_state(), CPU)
    step.run(batch_of(0))
    saved = step.state()
    first = step.run(batch_of(1))
    after = step.state()
    step.run(batch_of(2))
    assert saved["step"] == 1
    assert after["step"] == 2
    step.load_state(saved)
    assert step.run(batch_of(1)) == first
    for name, array in step.state().items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)


def test_only_constant_state_can_be_set(artifact: Path) -> None:
    loaded = Artifact.load(artifact)
    step = TrainingStep(loaded, loaded.initial_state(), CPU)
    with pytest.raises(KeyError, match=r"ip\.weight is not constant"):
        step.set_constant("ip.weight", 1)


def test_a_state_of_another_shape_is_refused(artifact: Path) -> None:
    loaded = Artifact.load(artifact)
    state = loaded.initial_state()
    with pytest.raises(DriverError) as caught:
        TrainingStep(loaded, {**state, "ip.bias": np.zeros((2, 5), np.float32)}, CPU)
    assert str(caught.value) == 'the state "ip.bias" should be float32 [10], not float32 [2, 5]'


def test_cuda_that_is_not_active_fails_hard_and_auto_says_what_it_chose(artifact: Path) -> None:
    loaded = Artifact.load(artifact)
    automatic = load_program(loaded.file("fold"), Host("auto", 1), loaded.graph("fold"))
    if automatic.device == "cuda":
        assert automatic.reason == "CUDA is active"
        assert load_program(loaded.file("fold"), Host("cuda", 1), loaded.graph("fold")).device == "cuda"
        return
    assert automatic.reason in (
        "this ONNX Runtime has no CUDA provider",
        "ONNX Runtime could not start its CUDA provider",
    )
    with pytest.raises(DriverError, match=r"^CUDA was asked for but is not active: .*; use --device cpu") as caught:
        load_program(loaded.file("fold"), Host("cuda", 1), loaded.graph("fold"))
    assert caught.value.exit_code == ExitCode.ENVIRONMENT


def test_a_missing_onnxruntime_is_one_sentence(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    loaded = Artifact.load(artifact)
    with pytest.raises(DriverError) as caught:
        TrainingStep(loaded, loaded.initial_state(), CPU)
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert str(caught.value) == (
        'ONNX Runtime is not installed; install it with: pip install "netc[cpu]" (or "netc[gpu]" for NVIDIA GPUs)'
    )


def test_a_damaged_or_foreign_program_is_one_sentence(artifact: Path, tmp_path: Path) -> None:
    graph = Artifact.load(artifact).graph("fold")
    broken = tmp_path / "fold.onnx"
    broken.write_bytes((artifact / "fold.onnx").read_bytes()[:100])
    for content in (broken.read_bytes(), b"", b"some text"):
        broken.write_bytes(content)
        with pytest.raises(DamagedFileError) as damaged:
            load_program(broken, CPU, graph)
        assert str(damaged.value) == (
            f"{broken} is not a readable ONNX model (damaged or truncated); export or compile it again"
        )
    with pytest.raises(DamagedFileError, match="does not have the inputs that its description lists"):
        load_program(artifact / "eval.onnx", CPU, graph)
    with pytest.raises(DriverError, match="does not exist or is not a file") as caught:
        load_program(tmp_path / "none.onnx", CPU, graph)
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_failing_run_is_one_sentence(artifact: Path) -> None:
    loaded = Artifact.load(artifact)
    fold = load_program(loaded.file("fold"), CPU, loaded.graph("fold"))
    with pytest.raises(DriverError, match=r"fold\.onnx failed: .*Got: 3 Expected: 2"):
        fold({"ip.weight": np.zeros((1, 2, 3), np.float32), "ip.bias": np.zeros(10, np.float32)}, ["ip.bias.folded"])
