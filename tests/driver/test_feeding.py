"""Feeding: data that stay on the device, what a thread prepares, and what reading mapped files leaves in memory."""

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from netc_runtime import feed, resident
from netc_runtime.arrays import Array
from netc_runtime.artifact import Artifact
from netc_runtime.data import batches, open_source
from netc_runtime.data.mapped import is_in_memory
from netc_runtime.data.prefetch import DEPTH, Prefetch
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.feed import Feed
from netc_runtime.onnxruntime_program import OnnxRuntimeProgram
from netc_runtime.plan import Plan
from netc_runtime.resident import DATASET, INDEX, Dataset, dataset_of
from netc_runtime.session import Host
from netc_runtime.step import TrainingStep
from netc_runtime.trainer import TrainOptions, train

from .conftest import CPU, Recorder
from .handmade import BATCH, write_artifact

ROOT = Path(__file__).parents[2]


@pytest.fixture
def loaded(artifact: Path) -> Artifact:
    return Artifact.load(artifact)


def asking(loaded: Artifact, resident: object) -> Artifact:
    return replace(loaded, spec={**loaded.spec, "data": {**loaded.spec["data"], "resident": resident}})


def digits(image: str = "uint8", label: str = "uint8") -> dict[str, Array]:
    train = open_source({"source": "digits"}).train
    return {"image": train["image"].astype(image), "label": train["label"].astype(label)}


def test_the_batch_of_the_program_is_a_vector_of_indices(loaded: Artifact) -> None:
    path, graph = loaded.file("train"), loaded.graph("train")
    content, interface = Dataset(digits()).put_in_front(path, loaded.content("train"), graph)
    onnx.checker.check_model(onnx.load_model_from_string(content), full_check=True)
    (index,) = interface.inputs_of("batch")
    assert (index.name, index.dtype, index.shape) == (INDEX, "int64", (BATCH,))
    found = {spec.name: (spec.dtype, spec.shape, spec.field) for spec in interface.inputs_of("dataset")}
    assert found == {
        f"{DATASET}image": ("uint8", (1437, 1, 8, 8), "image"),
        f"{DATASET}label": ("uint8", (1437,), "label"),
    }
    assert interface.inputs_of("state") == graph.inputs_of("state")
    assert interface.outputs == graph.outputs


@pytest.mark.parametrize(
    ("image", "label", "kept"),
    [
        ("uint8", "uint8", ("uint8", "uint8")),
        ("int8", "int64", ("int8", "int32")),
        ("bool", "int16", ("uint8", "int32")),
        ("float64", "int32", ("float32", "int32")),
        (">f4", ">i8", ("float32", "int32")),
        ("float16", "uint16", ("float32", "int32")),
    ],
)
def test_data_of_any_type_give_the_bits_that_the_host_gives(
    loaded: Artifact, image: str, label: str, kept: tuple[str, str]
) -> None:
    split = digits(image, label)
    dataset, indices = Dataset(split), np.random.default_rng(5).integers(0, 1437, BATCH)
    steps = [TrainingStep(loaded, loaded.initial_state(), CPU, dataset=d) for d in (dataset, None)]
    assert tuple(spec.dtype for spec in steps[0]._program.interface.inputs_of("dataset")) == kept
    for step in steps:
        step.set_constant("max_steps", 9)
    for _ in range(2):
        batch = {name: array[indices] for name, array in split.items()}
        assert steps[0].run_at(indices) == steps[1].run(batch)
    for name, array in steps[0].state().items():
        assert array.tobytes() == steps[1].state()[name].tobytes(), name
    ours, theirs = (step.last_feeds() for step in steps)
    assert ours is not None
    assert theirs is not None
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert (ours[name].dtype, ours[name].tobytes()) == (theirs[name].dtype, theirs[name].tobytes()), name


def test_programs_share_what_is_on_the_device_and_on_the_cpu_it_is_the_data(loaded: Artifact) -> None:
    split = digits()
    dataset = Dataset(split)
    first, second = (TrainingStep(loaded, loaded.initial_state(), CPU, dataset=dataset) for _ in range(2))
    for name, buffer in first._dataset.items():
        assert second._dataset[name] is buffer
        assert buffer.host is split[name.removeprefix(DATASET)]


def test_where_the_data_stay_by_default(loaded: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    split = digits()
    np.save(tmp_path / "image.npy", split["image"])
    mapped = {**split, "image": np.load(tmp_path / "image.npy", mmap_mode="r")}
    for asked, expected in ((None, False), (False, False), (True, True)):
        assert (dataset_of(asking(loaded, asked), split, CPU) is not None) is expected, asked
    monkeypatch.setattr(resident, "offers_cuda", lambda host: host.not_cuda is None)
    cuda = replace(loaded, target="cuda")
    for asked, expected in ((None, True), (False, False), (True, True)):
        assert (dataset_of(asking(cuda, asked), mapped, Host("auto")) is not None) is expected, asked
    assert dataset_of(loaded, split, Host("auto")) is None  # for the CPU, as the artifact says
    monkeypatch.setattr(resident, "LIMIT", 65 * 1437 - 1)  # 64 pixels and a label
    assert dataset_of(cuda, split, Host("auto")) is None
    monkeypatch.setattr(resident, "LIMIT", 65 * 1437)
    assert dataset_of(cuda, split, Host("auto")) is not None


def test_a_wrong_choice_of_where_the_data_stay(loaded: Artifact) -> None:
    with pytest.raises(DriverError, match=r"data\.resident should be true, false or null, not 'yes'") as caught:
        dataset_of(asking(loaded, "yes"), digits(), CPU)
    assert caught.value.exit_code == ExitCode.USAGE


def test_data_that_do_not_fit_on_the_device(loaded: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: OnnxRuntimeProgram, *arguments: object) -> None:
        with self.failures("failed"):
            raise RuntimeError("Failed to allocate memory for requested buffer")

    monkeypatch.setattr(OnnxRuntimeProgram, "constant", refuse)
    with pytest.raises(DriverError) as caught:
        TrainingStep(loaded, loaded.initial_state(), CPU, dataset=Dataset(digits()))
    assert str(caught.value) == (
        f'data.resident: the field "image" of the training split does not fit on the device ({loaded.file("train")} '
        "failed: Failed to allocate memory for requested buffer); set data.resident: false"
    )
    assert caught.value.exit_code == ExitCode.ENVIRONMENT


def test_a_program_that_is_no_model_has_nothing_put_in_front(loaded: Artifact) -> None:
    with pytest.raises(DamagedFileError, match=r"train.onnx is not a readable ONNX model"):
        Dataset(digits()).put_in_front(loaded.file("train"), b"\xff" * 60, loaded.graph("train"))


def test_results_are_prepared_in_order_and_never_far_ahead() -> None:
    done, started = list[int](), threading.Semaphore(0)

    def compute(number: int) -> str:
        done.append(number)
        started.release()
        return f"result {number}"

    prefetch = Prefetch(compute, 9)
    for number in range(5):
        assert prefetch.take(number) == f"result {number}"
        assert len(done) <= number + DEPTH + 1
    for _ in range(5 + DEPTH):  # all that is allowed to be ready is made without being asked for
        assert started.acquire(timeout=60)
    assert done == list(range(5 + DEPTH))
    assert prefetch.take(2) == "result 2"  # anew from there
    assert [prefetch.take(number) for number in range(3, 9)] == [f"result {number}" for number in range(3, 9)]
    assert done[5 + DEPTH :] == list(range(2, 9))
    prefetch.close()
    prefetch.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("netc-prefetch")]


def test_every_batch_is_a_function_of_its_number(loaded: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "_WORTH_A_THREAD", 0)
    split, plan = digits(), Plan.of(loaded, 1437)
    ahead, inline = (Feed(loaded, split, plan, gathers=gathers) for gathers in (True, False))
    for number in (0, 1, 2, 21, 22, 23, 3, 131):  # 22 to an epoch, 132 in all
        indices, batch = ahead.take(number)
        assert indices.tolist() == inline.take(number)[0].tolist(), number
        assert batch is not None
        np.testing.assert_array_equal(batch["image"], split["image"][indices])
        np.testing.assert_array_equal(batch["label"], split["label"][indices])
    assert len(set(inline.take(22)[0].tolist())) == BATCH
    assert inline.take(22)[0].tolist() != inline.take(0)[0].tolist()
    ahead.close()


def test_what_fails_in_the_thread_is_said_by_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "_WORTH_A_THREAD", 0)
    calls = 0

    def failing(*arguments: Any) -> dict[str, Array]:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise DriverError("data/7.png is damaged", ExitCode.FAILED)
        return batches.gather(*arguments)

    monkeypatch.setattr(feed, "gather", failing)
    recorder = Recorder()
    with pytest.raises(DriverError, match=r"data/7\.png is damaged"):
        train(TrainOptions(tmp_path / "run", write_artifact(tmp_path / "made"), CPU), recorder)
    assert [event.step for event in recorder.steps] == [1, 2, 3, 4]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("netc-prefetch")]


def test_arrays_of_files_are_told_from_those_in_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(24.0).reshape(6, 4))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    for array in (mapped, mapped[2:], np.asarray(mapped)[:, 1]):
        assert not is_in_memory(array)
    assert is_in_memory(mapped[[1, 2]])
    assert is_in_memory(np.frombuffer(bytes(8), np.uint8))
    assert not is_in_memory([1, 2])


MEASURE = """
import re, sys
from pathlib import Path
import numpy as np
from netc_runtime.data import batches, mapped
from netc_runtime.data.digits import Digits
from netc_runtime.interface import TensorSpec

def peak():
    return int(re.search(r"VmHWM:\\s*([0-9]+) kB", Path("/proc/self/status").read_text())[1]) >> 10

mapped.KEPT = int(sys.argv[2])
image = np.lib.format.open_memmap(sys.argv[1], mode="r")
split = {"image": image}
spec = TensorSpec("image", "float32", (64, *image.shape[1:]), "batch")
before = peak()
batches.check_fit(Digits(split, split, ()), (spec,))
print(peak() - before)
before = peak()
indices = np.random.default_rng(1).integers(0, len(image), (150, 64))
for some in indices:
    batches.gather(split, (spec,), some)
for _ in batches.evaluation_batches(split, (spec,), 4096):
    pass
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system alone decides what leaves memory")
def test_a_large_file_is_read_without_staying_in_memory(tmp_path: Path) -> None:
    """Of 400 MiB, which are sparse; the bounds are what one chunk takes, with the arrays that it is checked with."""
    path = tmp_path / "image.npy"
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(102400, 32, 32))
    array.flush()

    def measured(kept: int) -> list[int]:
        command = [sys.executable, "-c", MEASURE, str(path), str(kept)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "runtime"), *sys.path])}
        result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return [int(word) for word in result.stdout.split()]

    checked, read = measured(1 << 20)
    assert checked < 200
    assert read < 100
    assert sum(measured(1 << 40)) > 350  # as it would be otherwise
