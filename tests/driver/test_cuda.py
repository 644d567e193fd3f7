"""What of CUDA can be tested without a GPU: options, refusals, captures that fail, tensors that move together."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from netc_runtime import onnxruntime_program
from netc_runtime.artifact import Artifact
from netc_runtime.engines import host_for_training, load_program
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.onnxruntime_program import DeviceBundle, OnnxRuntimeProgram
from netc_runtime.session import Cuda, Host
from netc_runtime.step import TrainingStep

from .conftest import CPU
from .test_session import batch_of


@pytest.fixture
def loaded(artifact: Path) -> Artifact:
    return Artifact.load(artifact)


def program_of(loaded: Artifact) -> OnnxRuntimeProgram:
    program = load_program(loaded.file("train"), CPU, loaded.graph("train"), steady=True)
    assert isinstance(program, OnnxRuntimeProgram)
    return program


def test_products_are_not_rounded_unless_asked() -> None:
    options = onnxruntime_program._cuda_options
    assert options(Cuda(), captured=True) == {
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "enable_cuda_graph": "1",
    }
    assert options(Cuda(tf32=True, convolution="exhaustive"), captured=False) == {
        "use_tf32": "1",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "enable_cuda_graph": "0",
    }


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_cuda_does_not_train_what_was_compiled_for_another_engine(loaded: Artifact, target: str) -> None:
    other = replace(loaded, target=target)
    with pytest.raises(DriverError) as caught:
        TrainingStep(other, other.initial_state(), Host("cuda", 1))
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(caught.value) == (
        f"{loaded.folder} was compiled for {target} and does not train on CUDA; compile the spec with netc compile "
        f"--target cuda, or use --device cpu"
    )


@pytest.mark.parametrize("target", ["cuda", "web", None])
def test_cuda_trains_what_was_compiled_for_it_or_for_any_engine(loaded: Artifact, target: str | None) -> None:
    for device in ("auto", "cpu", "cuda"):
        host = Host(device, 1)
        assert host_for_training(replace(loaded, target=target), host) == host


def test_auto_takes_the_cpu_for_it_and_says_why(loaded: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(loaded, target="cpu")
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    step = TrainingStep(other, other.initial_state(), Host("auto", 1))
    assert (step.device, step.reason) == ("cpu", "the artifact was compiled for cpu")


def test_tensors_that_move_together_train_to_the_same_bits(loaded: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = TrainingStep(loaded, loaded.initial_state(), CPU)
    monkeypatch.setattr(OnnxRuntimeProgram, "bundle", lambda self, specs: DeviceBundle(self.ort, specs, self.device))
    packed = TrainingStep(loaded, loaded.initial_state(), CPU)
    for index in range(3):
        assert packed.run(batch_of(index)) == plain.run(batch_of(index))
    for name, array in plain.state().items():
        np.testing.assert_array_equal(packed.state()[name], array)
    expected, found = plain.last_feeds(), packed.last_feeds()
    assert expected is not None
    assert found is not None
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_tensors_of_a_bundle_do_not_overlap(loaded: Artifact) -> None:
    specs = loaded.state
    bundle = DeviceBundle(onnxruntime, specs, "cpu")
    rng = np.random.default_rng(0)
    arrays = {spec.name: rng.integers(0, 100, spec.static_shape).astype(spec.dtype) for spec in specs}
    bundle.write(arrays)
    for name, array in bundle.read().items():
        np.testing.assert_array_equal(array, arrays[name], err_msg=name)


def refusing(program: OnnxRuntimeProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the program believe that it captures, and fail as it does where ONNX Runtime may not."""
    run = program.run_bound

    def run_bound(binding: Any, options: Any) -> None:
        if options is not None:
            raise onnxruntime.capi.onnxruntime_pybind11_state.Fail("not permitted when stream is capturing\nmore")
        run(binding, options)

    program.is_captured = True
    monkeypatch.setattr(program, "run_bound", run_bound)
    load: Callable[..., Any] = program._load
    monkeypatch.setattr(program, "_load", lambda offered, captured: load(False, captured))


def test_a_refused_capture_is_given_up_before_the_first_step(loaded: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: Any, **options: Any) -> OnnxRuntimeProgram:
        program = program_of(loaded)
        refusing(program, monkeypatch)
        return program

    plain = TrainingStep(loaded, loaded.initial_state(), CPU)
    monkeypatch.setattr("netc_runtime.step.load_program", load)
    step = TrainingStep(loaded, loaded.initial_state(), CPU)
    assert step.reason == "as asked, without CUDA graphs: not permitted when stream is capturing"
    for index in range(4):
        assert step.run(batch_of(index)) == plain.run(batch_of(index))


def test_every_binding_is_a_capture_of_its_own(loaded: Artifact) -> None:
    program = program_of(loaded)
    program.is_captured = True
    interface = loaded.graph("train")
    inputs = {spec.name: program.buffer(spec) for spec in interface.inputs}
    outputs = {spec.name: program.buffer(spec) for spec in interface.outputs}
    numbers = [
        program.new_binding(inputs, outputs)[1].get_run_config_entry("gpu_graph_id")  # both as one step has them
        for _ in range(2)
    ]
    assert numbers == ["1", "2"]
