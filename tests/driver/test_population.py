"""Population statistics: averages over training batches at the planned end, exact after any stop."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file

from netc_runtime.artifact import Artifact
from netc_runtime.checkpoint import Checkpoint
from netc_runtime.data.order import permutation
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.evaluate import Evaluator, evaluate_run
from netc_runtime.population import Population
from netc_runtime.run import RunFolder
from netc_runtime.trainer import TrainOptions, train

from . import dense
from .conftest import CPU, Recorder
from .test_trainer import history, last_checkpoint, signal_at

STATISTICS = ("bn.running_mean", "bn.running_var")
LAST = 18


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dense.write_data(tmp_path_factory.mktemp("population") / "data")


@pytest.fixture(scope="module")
def artifact(data: Path) -> Path:
    return dense.write_dense(data.parent / "artifact", data)


@pytest.fixture(scope="module")
def finished(artifact: Path) -> Path:
    """A run that was never stopped."""
    run = artifact.parent / "finished"
    train(TrainOptions(run, artifact, CPU), Recorder())
    return run


def state_of(run: Path, step: int) -> dict[str, Any]:
    return load_file(run / "checkpoints" / f"step_{step}.safetensors")


def population_of(images: Any, step: int) -> tuple[Any, Any]:
    """The oracle: Algorithm 2 of Ioffe & Szegedy in float64, with the batches that the driver documents."""
    means, variances = [], []
    for number in range(dense.POPULATION_BATCHES):
        passed, place = divmod(number, len(images) // dense.BATCH)
        order = permutation(3, (1 << 63) + passed, len(images))
        x = dense.rows(images[order[place * dense.BATCH :][: dense.BATCH]], step + number)
        means.append(x.mean(0))
        variances.append(x.var(0, ddof=1))
    return np.mean(means, 0), np.mean(variances, 0)


def running_of(images: Any) -> Any:
    """The running means after the whole of training, in float64."""
    mean = np.zeros(dense.CHANNELS)
    each = len(images) // dense.BATCH
    for step in range(LAST):
        order = permutation(3, step // each, len(images))
        x = dense.rows(images[order[step % each * dense.BATCH :][: dense.BATCH]], step)
        mean = dense.KEPT * mean + (1 - dense.KEPT) * x.mean(0)
    return mean


def test_the_last_state_has_the_averages_of_the_batches(data: Path, finished: Path) -> None:
    images = np.load(data / "train" / "image.npy")
    state = state_of(finished, LAST)
    mean, variance = population_of(images, LAST)
    # float32 programs: a mean of 160 values and its square round by about 1e-6 of the values, which reach 10.
    np.testing.assert_allclose(state["bn.running_mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(state["bn.running_var"], variance, rtol=1e-5)
    assert state["bn.running_mean"].dtype == np.float32
    # The test can tell: running averages are something else, and a biased variance differs by 1/160.
    assert np.abs(running_of(images) / mean - 1).max() > 1e-2


def test_running_values_are_evaluated_until_then(data: Path, finished: Path) -> None:
    lines = history(finished)
    assert [line["step"] for line in lines] == [6, 12, 18]
    images, labels = (np.load(data / "test" / f"{field}.npy") for field in ("image", "label"))
    for line in lines:
        matrix = dense.confusion(state_of(finished, line["step"]), images, labels)
        assert line["test"]["confusion"] == matrix.trace() / matrix.sum()
    train_images = np.load(data / "train" / "image.npy")
    before = population_of(train_images, 12)[0]
    assert np.abs(state_of(finished, 12)["bn.running_mean"] / before - 1).max() > 1e-2
    metadata = Checkpoint.load(finished / "checkpoints" / "step_12.safetensors", Artifact.load(finished / "artifact"))
    assert not metadata.position.population
    assert evaluate_run(finished, host=CPU).metrics == lines[-1]["test"]


@pytest.mark.parametrize("step", [3, 6, 17, 18])
def test_a_stopped_run_ends_in_the_same_bytes(artifact: Path, finished: Path, tmp_path: Path, step: int) -> None:
    run = tmp_path / "run"
    with pytest.raises(DriverError, match="stopped by SIGINT"):
        train(TrainOptions(run, artifact, CPU), Recorder(signal_at(step, signal.SIGINT)))
    train(TrainOptions(run, resume=True), Recorder())
    assert last_checkpoint(run, LAST) == last_checkpoint(finished, LAST)
    assert history(run) == history(finished)


@pytest.mark.parametrize("when", ["population", "evaluation", "save"])
def test_a_stop_after_the_last_step_loses_nothing(
    artifact: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """In the middle of the statistics, after them in the evaluation, or when all is saved."""
    run = tmp_path / "run"
    train(TrainOptions(run, artifact, CPU, stop_after_epochs=2), Recorder())
    owner, name = {
        "population": (Population, "statistics"),
        "evaluation": (Evaluator, "metrics"),
        "save": (RunFolder, "save"),
    }[when]
    whole: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def interrupted(*arguments: Any) -> Any:
        if when == "evaluation":
            os.kill(os.getpid(), signal.SIGTERM)
            return whole(*arguments)
        if when == "save":
            result = whole(*arguments)
            monkeypatch.setattr(owner, name, whole)
            os.kill(os.getpid(), signal.SIGTERM)
            return result
        *others, check = arguments

        def before_batch() -> None:
            nonlocal calls
            calls += 1
            if calls == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            check()

        return whole(*others, before_batch)

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(DriverError, match="stopped by SIGTERM after step 18 of 18") as caught:
        train(TrainOptions(run, resume=True), Recorder())
    assert caught.value.exit_code == ExitCode.TERMINATED
    assert calls == (5 if when == "population" else 0)
    monkeypatch.undo()
    stopped = Checkpoint.load(run / "checkpoints" / "step_18.safetensors", Artifact.load(artifact))
    assert stopped.position.population == (when == "save")
    if when != "save":
        images = np.load(artifact.parent / "data" / "train" / "image.npy")
        np.testing.assert_allclose(stopped.state["bn.running_mean"], running_of(images), rtol=1e-5)
    recorder = Recorder()
    train(TrainOptions(run, resume=True), recorder)
    assert recorder.steps == []
    assert last_checkpoint(run, LAST) == last_checkpoint(finished, LAST)
    assert history(run) == history(finished)


def test_the_batches_depend_on_the_seed_alone(artifact: Path, data: Path, finished: Path) -> None:
    loaded = Artifact.load(artifact)
    images = {"image": np.load(data / "train" / "image.npy")}
    state = state_of(finished, LAST)
    before = {name: array.copy() for name, array in state.items()}
    population = Population(loaded, CPU)
    first, again = (population.statistics(state, images, 3) for _ in range(2))
    other = population.statistics(state, images, 4)
    assert first.keys() == set(STATISTICS)
    for name in STATISTICS:
        np.testing.assert_array_equal(first[name], state[name])
        np.testing.assert_array_equal(again[name], state[name])
        assert (other[name] != state[name]).any()
    for name, array in state.items():
        np.testing.assert_array_equal(array, before[name])


def test_averages_are_taken_in_float64(artifact: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    population = Population(Artifact.load(artifact), CPU)
    batches = iter([1 << 24, *[1] * (dense.POPULATION_BATCHES - 1)])  # in float32, 2^24 + 1 is 2^24

    def run(feeds: Any, outputs: tuple[str, ...]) -> dict[str, Any]:
        return dict.fromkeys(outputs, np.full(dense.CHANNELS, next(batches), np.float32))

    run.fix = lambda state: None  # type: ignore[attr-defined]
    monkeypatch.setattr(population, "_program", run)
    state = Artifact.load(artifact).initial_state()
    found = population.statistics(state, {"image": np.load(data / "train" / "image.npy")}, 3)
    assert found["bn.running_var"].tolist() == [((1 << 24) + 9) / 10] * 2


def test_a_longer_plan_continues_to_the_weights_of_one_go(data: Path, artifact: Path, tmp_path: Path) -> None:
    longer = dense.write_dense(tmp_path / "longer", data, {"max_epochs": 4})
    train(TrainOptions(tmp_path / "whole", longer, CPU), Recorder())
    train(TrainOptions(tmp_path / "parts", artifact, CPU), Recorder())
    train(TrainOptions(tmp_path / "parts", longer, resume=True), Recorder())
    whole, parts = (state_of(tmp_path / name, 24) for name in ("whole", "parts"))
    for name, array in whole.items():
        np.testing.assert_array_equal(parts[name], array, err_msg=name)


def test_a_plan_that_ends_where_the_run_stands_still_gets_them(data: Path, artifact: Path, tmp_path: Path) -> None:
    short = dense.write_dense(tmp_path / "short", data, {"max_epochs": 2})
    train(TrainOptions(tmp_path / "whole", short, CPU), Recorder())
    train(TrainOptions(tmp_path / "parts", artifact, CPU, stop_after_epochs=2), Recorder())
    recorder = Recorder()
    result = train(TrainOptions(tmp_path / "parts", short, resume=True), recorder)
    assert (result.finished, result.step, result.epochs, recorder.steps) == (True, 12, 2, [])
    whole, parts = (state_of(tmp_path / name, 12) for name in ("whole", "parts"))
    for name, array in whole.items():
        np.testing.assert_array_equal(parts[name], array, err_msg=name)
    lines, expected = history(tmp_path / "parts"), history(tmp_path / "whole")
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 6), (2, 12)]
    assert lines[0] == expected[0]
    assert lines[1]["test"] == expected[1]["test"]
    assert lines[1]["train"] == {}  # the sums of an epoch are gone once it is closed
    again = Recorder()
    assert train(TrainOptions(tmp_path / "parts", short, resume=True), again).test == {}
    assert again.epochs == []


def test_a_plan_that_ends_inside_an_epoch(data: Path, tmp_path: Path) -> None:
    short = dense.write_dense(tmp_path / "short", data, {"max_epochs": None, "max_iter": 8})
    train(TrainOptions(tmp_path / "run", short, CPU), Recorder())
    mean, variance = population_of(np.load(data / "train" / "image.npy"), 8)
    np.testing.assert_allclose(state_of(tmp_path / "run", 8)["bn.running_mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(state_of(tmp_path / "run", 8)["bn.running_var"], variance, rtol=1e-5)


def test_statistics_that_are_not_finite_are_never_saved(artifact: Path, data: Path, tmp_path: Path) -> None:
    broken = dense.write_dense(tmp_path / "broken", data)
    program = onnx.load(broken / "population.onnx")
    last = next(node for node in program.graph.node if "bn.running_mean.batch" in node.output)
    last.op_type = "Log"  # of means that sin(step) makes negative nowhere: a negative one follows
    last.input[0] = "negative"
    program.graph.node.insert(len(program.graph.node) - 1, onnx.helper.make_node("Neg", ["mean"], ["negative"]))
    onnx.save(program, broken / "population.onnx")
    with pytest.raises(DriverError) as caught:
        train(TrainOptions(tmp_path / "run", broken, CPU), Recorder())
    assert caught.value.exit_code == ExitCode.DIVERGED
    kept = tmp_path / "run" / "checkpoints" / "step_12.safetensors"
    assert str(caught.value) == (
        f"training diverged at step 18: the population statistics of bn.running_mean are not finite; {kept} is the "
        f"last good checkpoint; start a new run with a lower solver.base_lr (now 0.5)"
    )
    assert not (tmp_path / "run" / "checkpoints" / "step_18.safetensors").exists()


def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return apply


POPULATION = ("graphs", "population")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (put("population_batches", value=None), '"population_batches" is 0, but there is a graph "population"'),
        (put("population_batches", value=-2), '"population_batches" is -2, but there is a graph "population"'),
        (put("population_batches", value="9"), '"population_batches" should be a JSON integer, not "9"'),
        (
            lambda manifest: manifest["graphs"].pop("population"),
            '"population_batches" is 10, but there is no graph "population"',
        ),
        (
            put(*POPULATION, "inputs", 1, "shape", value=[4, 2, 4, 5]),
            'population takes "image" with the shape [4, 2, 4, 5], which is no batch of 8 samples',
        ),
        (
            put(*POPULATION, "inputs", 1, "field", value="edge"),
            'population takes the batch input "image", which train does not take',
        ),
        (
            put(*POPULATION, "inputs", 0, "name", value="stp"),
            'population takes the state "stp", which is not declared',
        ),
        (
            put(*POPULATION, "outputs", 0, "feeds", value="score.bias"),
            'population feeds "bn.running_mean.batch" to "score.bias", which is no statistic',
        ),
        (
            put(*POPULATION, "outputs", 0, "feeds", value=None),
            'population feeds "bn.running_mean.batch" to "None", which is no statistic',
        ),
        (
            put(*POPULATION, "outputs", 1, "feeds", value="bn.running_mean"),
            "population feeds one statistic twice",
        ),
        (
            put(*POPULATION, "outputs", 0, "shape", value=[3]),
            'population gives "bn.running_mean.batch" as float32 [3], which does not fit the statistic '
            '"bn.running_mean"',
        ),
        (
            put("graphs", "eval", "outputs", 6, "shape", value=[3, 2]),
            'the count "iou" of eval has the shape [3, 2]; a confusion matrix is square',
        ),
        (
            put("graphs", "eval", "outputs", 6, "shape", value=["N", "N"]),
            'the count "iou" of eval has the shape [N, N]; a confusion matrix is square',
        ),
        (
            put("graphs", "eval", "outputs", 6, "dtype", value="float32"),
            'the count "iou" of eval is float32; a confusion matrix counts integers',
        ),
        (put("metrics", 4, "kind", value="iuo"), '"metrics" does not say what is made of the count "iou" of eval'),
        (
            put("metrics", 0, "kind", value="mean_iou"),
            'the metric "total" is made of a confusion matrix, but eval has no count "total"',
        ),
        (
            put("graphs", "eval", "outputs", 0, "ignored", value=[True]),
            '"ignored" should be a list of integers, not [true]',
        ),
        (put("graphs", "eval", "outputs", 0, "ignored", value=255), '"ignored" should be a JSON array, not 255'),
    ],
)
def test_a_wrong_manifest_is_one_sentence(
    data: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], sentence: str
) -> None:
    path = dense.write_dense(tmp_path / "artifact", data) / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(DriverError) as caught:
        Artifact.load(path.parent)
    assert str(caught.value) == f"{path} is not a manifest of netc: {sentence}; compile the spec again"
