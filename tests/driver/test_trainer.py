"""Training: it learns, it continues exactly after any stop, and what stops it is one sentence."""

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from netc_runtime.artifact import Artifact
from netc_runtime.checkpoint import Best, Checkpoint
from netc_runtime.data import open_source
from netc_runtime.data.order import permutation
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.events import StepDone
from netc_runtime.run import RunFolder
from netc_runtime.session import Host
from netc_runtime.specs import require_same_spec
from netc_runtime.step import TrainingStep
from netc_runtime.trainer import TrainOptions, train

from .conftest import CPU, Recorder
from .handmade import write_artifact


def last_checkpoint(run: Path, step: int = 132) -> bytes:
    return (run / "checkpoints" / f"step_{step}.safetensors").read_bytes()


def signal_at(step: int, number: signal.Signals) -> Callable[[StepDone], None]:
    def send(event: StepDone) -> None:
        if event.step == step:
            os.kill(os.getpid(), number)

    return send


def history(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without wall-clock times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "seconds")} for line in lines]


def test_training_learns_the_digits_and_leaves_a_run_folder(finished_run: Path) -> None:
    lines = history(finished_run)
    assert [(line["epoch"], line["step"]) for line in lines] == [(n, 22 * n) for n in range(1, 7)]
    assert lines[-1]["test"]["accuracy"] > 0.85
    assert lines[-1]["test"]["total"] < lines[0]["test"]["total"]
    assert lines[-1]["rates"]["lr"] == pytest.approx(0.1 / 132)  # max_steps reached the schedule
    assert set(lines[0]["train"]) == {"total", "loss", "l1", "accuracy"}
    names = {path.name for path in finished_run.iterdir()}
    assert names == {"artifact", "spec.yaml", "metrics.jsonl", "metrics.csv", "checkpoints", "best", "lock"}
    with (finished_run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["test_accuracy"]) for row in rows] == [line["test"]["accuracy"] for line in lines]
    state = load_file(finished_run / "checkpoints" / "step_132.safetensors")
    assert state["seed"].tolist() == [7]
    assert state["max_steps"] == 132


def test_every_epoch_has_its_own_order_and_drops_the_incomplete_batch(
    artifact: Path, finished_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(TrainOptions(run, artifact, CPU, stop_after_epochs=2), Recorder())
    loaded, data = Artifact.load(artifact), open_source({"source": "digits"}).train
    step = TrainingStep(loaded, loaded.initial_state(), CPU)
    step.set_constant("max_steps", 132)
    step.set_constant("seed", 7)
    for epoch in range(2):
        for indices in permutation(7, epoch, 1437)[: 22 * 64].reshape(22, 64):
            step.run({name: array[indices] for name, array in data.items()})
    saved = load_file(run / "checkpoints" / "step_44.safetensors")
    for name, array in step.state().items():
        np.testing.assert_array_equal(saved[name], array, err_msg=name)


def test_a_best_checkpoint_older_than_the_last_three_stays(artifact: Path, finished_run: Path, tmp_path: Path) -> None:
    loaded, run = Artifact.load(artifact), RunFolder(tmp_path / "run")
    checkpoint = Checkpoint.load(finished_run / "checkpoints" / "step_132.safetensors", loaded)
    with run.locked():
        for step in range(1, 7):
            best = Best("accuracy", 0.9, min(step, 2))
            position = replace(checkpoint.position, step=step, epoch=0, cursor=step, best=best)
            state = {**checkpoint.state, "step": np.array(step)}
            run.save(replace(checkpoint, state=state, position=position), keep=3)
    assert {path.name for path in run.checkpoints.iterdir()} == {f"step_{n}.safetensors" for n in (2, 4, 5, 6)}
    path, found = run.find("best", loaded, pytest.fail)
    assert (path.name, found.position.step) == ("step_2.safetensors", 2)


def test_the_last_three_and_the_best_checkpoints_stay(finished_run: Path) -> None:
    lines = history(finished_run)
    best = max(lines, key=lambda line: (line["test"]["accuracy"], -line["step"]))
    kept = {int(path.stem.removeprefix("step_")) for path in (finished_run / "checkpoints").iterdir()}
    assert kept == {88, 110, 132, best["step"]}
    assert (finished_run / "best").read_text() == f"step_{best['step']}.safetensors\n"


def test_three_epochs_and_three_more_are_the_same_bytes_as_six(
    artifact: Path, finished_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    half = train(TrainOptions(run, artifact, CPU, stop_after_epochs=3), Recorder())
    assert (half.finished, half.step, half.epochs) == (False, 66, 3)
    rest = train(TrainOptions(run, host=Host("cpu"), resume=True), Recorder())  # the recorded number of threads
    assert (rest.finished, rest.step, rest.epochs) == (True, 132, 6)
    assert last_checkpoint(run) == last_checkpoint(finished_run)
    assert history(run) == history(finished_run)
    assert (run / "best").read_text() == (finished_run / "best").read_text()


@pytest.mark.parametrize(
    ("number", "step", "code"),
    [
        (signal.SIGINT, 30, ExitCode.INTERRUPTED),
        (signal.SIGTERM, 31, ExitCode.TERMINATED),
        (signal.SIGINT, 44, ExitCode.INTERRUPTED),  # the last step of an epoch, before its evaluation
    ],
)
def test_a_signal_inside_an_epoch_continues_to_the_same_bytes(
    artifact: Path, finished_run: Path, tmp_path: Path, number: signal.Signals, step: int, code: ExitCode
) -> None:
    run = tmp_path / "run"
    recorder = Recorder(signal_at(step, number))
    with pytest.raises(DriverError) as caught:
        train(TrainOptions(run, artifact, CPU), recorder)
    path = run / "checkpoints" / f"step_{step}.safetensors"
    assert caught.value.exit_code == code
    assert str(caught.value) == (
        f"stopped by {number.name} after step {step} of 132; {path} holds the state; "
        f"continue with: netc train --run {run} --resume"
    )
    assert recorder.closed == 1
    train(TrainOptions(run, resume=True, host=Host("cpu")), Recorder())
    assert last_checkpoint(run) == last_checkpoint(finished_run)
    assert history(run) == history(finished_run)


def test_handlers_are_restored_and_a_second_signal_stops_at_once(artifact: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)

    def twice(event: StepDone) -> None:
        if event.step == 5:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(DriverError) as caught:
        train(TrainOptions(tmp_path / "run", artifact, CPU), Recorder(twice))
    assert caught.value.exit_code == ExitCode.INTERRUPTED
    assert str(caught.value) == (
        "stopped at once by a second signal; there is no checkpoint yet to continue from, so run the command again"
    )
    assert signal.getsignal(signal.SIGINT) is before
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.TERMINATED)]
)
def test_a_signal_before_the_first_step_stops_at_once(
    artifact: Path, tmp_path: Path, number: signal.Signals, code: ExitCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(number)
    run = tmp_path / "run"

    def signalled(*arguments: object) -> None:
        os.kill(os.getpid(), number)
        pytest.fail("it went on")

    def stopped(**options: Any) -> str:
        with monkeypatch.context() as patch:
            patch.setattr("netc_runtime.trainer.open_source", signalled)
            with pytest.raises(DriverError) as caught:
                train(TrainOptions(run, **options), Recorder())
        assert caught.value.exit_code == code
        assert signal.getsignal(number) is before
        return str(caught.value)

    begun = f"stopped by {number.name} before the first step; "
    assert stopped(artifact=artifact, host=CPU) == (
        f"{begun}there is no checkpoint yet to continue from, so run the command again"
    )
    assert not run.exists()
    train(TrainOptions(run, artifact, CPU, stop_after_epochs=1), Recorder())
    assert stopped(resume=True) == (f"{begun}continue from the last checkpoint with: netc train --run {run} --resume")
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_22.safetensors"]


def test_nothing_takes_a_signal_for_a_mistake_of_its_own(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking for missing data turns what it finds into errors of the spec."""

    def signalled(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it went on")

    monkeypatch.setattr("netc_runtime.data.digits.Digits.missing", signalled)
    with pytest.raises(DriverError) as caught:
        train(TrainOptions(tmp_path / "run", artifact, CPU), Recorder())
    assert caught.value.exit_code == ExitCode.INTERRUPTED


def test_checkpoints_are_the_same_bytes_in_another_process(artifact: Path, tmp_path: Path) -> None:
    train(TrainOptions(tmp_path / "here", artifact, CPU, stop_after_epochs=1), Recorder())
    program = (
        "import sys; from pathlib import Path; from netc_runtime.progress import make_reporter\n"
        "from netc_runtime.session import Host; from netc_runtime.trainer import TrainOptions, train\n"
        "o = TrainOptions(Path(sys.argv[2]), Path(sys.argv[1]), Host('cpu', 1), stop_after_epochs=1)\n"
        "train(o, make_reporter(as_json=True))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "4", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, str(artifact), str(tmp_path / "there")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert last_checkpoint(tmp_path / "here", 22) == last_checkpoint(tmp_path / "there", 22)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["started", "epoch", "finished"]
    assert events[1]["test"]["accuracy"] == history(tmp_path / "there")[0]["test"]["accuracy"]


def test_max_iter_may_end_inside_an_epoch_and_be_raised_later(artifact: Path, tmp_path: Path) -> None:
    short = write_artifact(tmp_path / "short", {"solver.max_epochs": None, "solver.max_iter": 30})
    run = tmp_path / "run"
    result = train(TrainOptions(run, short, CPU), Recorder())
    assert (result.finished, result.step, result.epochs) == (True, 30, 1)
    again = Recorder()
    train(TrainOptions(run, short, resume=True), again)
    assert again.steps == []
    longer = write_artifact(tmp_path / "longer", {"solver.max_epochs": None, "solver.max_iter": 50})
    assert train(TrainOptions(run, longer, resume=True), Recorder()).step == 50
    assert [line["step"] for line in history(run)] == [22, 30, 44, 50]
    assert load_file(run / "checkpoints" / "step_50.safetensors")["max_steps"] == 50


def test_a_used_run_folder_is_not_trained_over(artifact: Path, finished_run: Path) -> None:
    with pytest.raises(DriverError) as caught:
        train(TrainOptions(finished_run, artifact, CPU), Recorder())
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(caught.value) == (
        f"{finished_run} already holds a run; choose another run folder, or continue it with: "
        f"netc train --run {finished_run} --resume"
    )


def test_resuming_needs_a_run_with_a_checkpoint(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="none is not a run folder, so there is nothing to resume"):
        train(TrainOptions(tmp_path / "none", artifact, CPU, resume=True), Recorder())
    assert not (tmp_path / "none").exists()
    with RunFolder(tmp_path / "empty").locked():
        pass
    with pytest.raises(DriverError, match="has no checkpoint to resume from; leave out --resume") as caught:
        train(TrainOptions(tmp_path / "empty", artifact, CPU, resume=True), Recorder())
    assert caught.value.exit_code == ExitCode.USAGE


def test_another_spec_is_refused_naming_the_keys(artifact: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(TrainOptions(run, artifact, CPU, stop_after_epochs=1), Recorder())
    other = write_artifact(tmp_path / "other", {"solver.base_lr": 0.2, "data.mean": 3, "solver.max_epochs": 9})
    with pytest.raises(DriverError) as caught:
        train(TrainOptions(run, other, resume=True), Recorder())
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(caught.value) == (
        f"the run {run} belongs to another spec; it differs in data.mean (0 there, 3 here), "
        f"solver.base_lr (0.1 there, 0.2 here); start a new run, or restore the spec"
    )


def test_another_number_of_threads_is_a_warning(artifact: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(TrainOptions(run, artifact, CPU, stop_after_epochs=1), Recorder())
    recorder = Recorder()
    train(TrainOptions(run, host=Host("cpu", 2), resume=True, stop_after_epochs=1), recorder)
    assert recorder.warnings == [
        "the run was started with threads=1 and continues with 2: its bits may differ from those of a run that never "
        "stopped"
    ]


def test_a_damaged_newest_checkpoint_is_skipped_and_set_aside(
    artifact: Path, finished_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(TrainOptions(run, artifact, CPU, stop_after_epochs=2), Recorder())
    newest = run / "checkpoints" / "step_44.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    recorder = Recorder()
    train(TrainOptions(run, resume=True), recorder)
    assert len(recorder.warnings) == 1
    assert recorder.warnings[0].startswith(f"{newest} is damaged or not a safetensors file")
    assert recorder.steps[0].step == 23
    assert newest.with_name("step_44.safetensors.damaged").exists()
    assert last_checkpoint(run) == last_checkpoint(finished_run)
    assert history(run) == history(finished_run)


def test_two_processes_cannot_train_in_one_run_folder(artifact: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    refused = []

    def second_session(event: StepDone) -> None:
        if event.step == 1:
            with pytest.raises(DriverError) as caught:
                train(TrainOptions(run, artifact, CPU), Recorder())
            refused.append(caught.value)

    train(TrainOptions(run, artifact, CPU, stop_after_epochs=1), Recorder(second_session))
    assert refused[0].exit_code == ExitCode.USAGE
    assert str(refused[0]) == (f"another process is training in {run}; wait for its end or choose another run folder")


def test_a_divergence_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    wild = write_artifact(tmp_path / "wild", {"solver.base_lr": 3e38})
    with pytest.raises(DriverError) as caught:
        train(TrainOptions(tmp_path / "run", wild, CPU), Recorder())
    assert caught.value.exit_code == ExitCode.DIVERGED
    message = str(caught.value)
    assert message.startswith(
        "training diverged at step 2: the first non-finite values are in the forward pass of loss "
        "(loss/forward/LogSoftmax/logp); total is nan, loss is nan, l1 is nan; "
    )
    assert message.endswith("no checkpoint was written yet; start a new run with a lower solver.base_lr (now 3e+38)")
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_a_state_that_overflows_in_the_last_update_is_never_saved(tmp_path: Path) -> None:
    changes = {"solver.base_lr": float("inf"), "solver.max_epochs": None, "solver.max_iter": 1}
    wild = write_artifact(tmp_path / "wild", changes)
    recorder = Recorder()
    with pytest.raises(DriverError, match=r"diverged at step 1: .*ip\.weight is not finite") as caught:
        train(TrainOptions(tmp_path / "run", wild, CPU), recorder)
    assert caught.value.exit_code == ExitCode.DIVERGED
    assert np.isfinite(recorder.steps[0].metrics["total"])
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""


def test_a_spec_that_does_not_fit_its_data_changes_no_run_folder(tmp_path: Path) -> None:
    wrong = write_artifact(tmp_path / "wrong", {"data.resize": [16, 16]})
    with pytest.raises(DriverError) as caught:
        train(TrainOptions(tmp_path / "run", wrong, CPU), Recorder())
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(caught.value) == (
        'the data source gives "image" as [1, 16, 16], the input "image" is declared as [1, 8, 8]; '
        "set data.resize: [8, 8]"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["wrong"]


def test_a_failed_start_removes_only_what_it_made(tmp_path: Path) -> None:
    wrong = write_artifact(tmp_path / "wrong", {"data.resize": [16, 16]})
    mine = tmp_path / "mine"
    mine.mkdir()
    for run in (mine / "deep" / "run", mine):
        with pytest.raises(DriverError, match="is declared as"):
            train(TrainOptions(run, wrong, CPU), Recorder())
        assert list(mine.iterdir()) == []


def test_a_lock_file_that_a_failed_start_removed_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "run")

    def remove_first(descriptor: int, operation: int) -> None:
        (run.path / "lock").unlink()

    monkeypatch.setattr("fcntl.flock", remove_first)
    with pytest.raises(DriverError, match="another process is training"), run.locked():
        pytest.fail("it is not locked")


def test_a_run_folder_that_cannot_be_made(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("mine")

    def start(run: Path) -> tuple[str, ExitCode]:
        with pytest.raises(DriverError) as caught:
            train(TrainOptions(run, artifact, CPU), Recorder())
        return str(caught.value), caught.value.exit_code

    below = file / "run"
    assert start(file) == (f"{file} is a file; choose another run folder", ExitCode.USAGE)
    assert start(below) == (
        f"cannot create the run folder {below}: a part of this path is a file, not a folder; choose another place",
        ExitCode.USAGE,
    )
    assert file.read_text() == "mine"

    def refuse(path: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert start(tmp_path / "run") == (
        f"cannot create the run folder {tmp_path / 'run'}: permission denied; change the permissions or choose another "
        f"place",
        ExitCode.ENVIRONMENT,
    )


def test_a_plan_that_ends_before_the_run_is_refused_and_a_longer_one_is_not(artifact: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(TrainOptions(run, artifact, CPU, stop_after_epochs=3), Recorder())
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    ends = {"solver.max_epochs": (2, 44, 3), "solver.max_iter": (65, 65, 66)}
    for key, (value, last, least) in ends.items():
        changes = {"solver.max_epochs": None, "solver.max_iter": None, key: value}
        short = write_artifact(tmp_path / key, changes)
        with pytest.raises(DriverError) as caught:
            train(TrainOptions(run, short, resume=True), Recorder())
        assert caught.value.exit_code == ExitCode.USAGE
        assert str(caught.value) == (
            f"the run {run} is at step 66 already, but {key}={value} of the spec ends after step {last}; "
            f"pass --set {key}=N with N of at least {least}, or resume without the SPEC"
        )
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    equal = write_artifact(tmp_path / "equal", {"solver.max_epochs": 3})
    result = train(TrainOptions(run, equal, resume=True), Recorder())
    assert (result.step, result.finished, result.test) == (66, True, {})
    longer = write_artifact(tmp_path / "longer", {"solver.max_epochs": 4})
    assert train(TrainOptions(run, longer, resume=True), Recorder()).step == 88


@pytest.mark.parametrize(
    ("value", "larger_is_better", "beaten"),
    [
        (0.9888888955, True, False),  # the accuracy of other batches: equal but for float32
        (0.988888884915 - 1e-9, True, False),
        (0.99, True, True),
        (0.98, True, False),
        (0.98, False, True),
        (0.988888, False, False),
        (float("nan"), True, False),
        (float("nan"), False, False),
    ],
)
def test_rounding_is_no_improvement(value: float, larger_is_better: bool, beaten: bool) -> None:
    assert Best("metric", 0.988888884915, 22).beaten_by(value, larger_is_better) is beaten


def test_a_lost_file_best_is_found_again_in_the_newest_checkpoint(finished_run: Path, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(finished_run, tmp_path / "run")))
    artifact = run.load_artifact()
    named, _ = run.find("best", artifact, pytest.fail)
    run.best.unlink()
    assert run.find("best", artifact, pytest.fail)[0] == named
    train(TrainOptions(run.path, resume=True), Recorder())
    assert run.best.read_text() == f"{named.name}\n"


def test_differing_layers_are_named_as_set_names_them() -> None:
    def layers(*entries: dict[str, Any]) -> dict[str, Any]:
        return {"layers": list(entries)}

    side = {"layers": [{"name": "ip_side", "num_output": 10}]}
    theirs = layers({"name": "conv1", "num_output": 4, "side": side}, {"name": "a"})
    ours = layers(
        {"name": "conv1", "num_output": 5, "side": {"layers": [{"name": "ip_side", "num_output": 9}]}}, {"name": "b"}
    )
    with pytest.raises(DriverError) as caught:
        require_same_spec("the run", theirs, ours)
    assert str(caught.value) == (
        "the run belongs to another spec; it differs in layers.conv1.num_output (4 there, 5 here), "
        "layers.conv1.side.layers.ip_side.num_output (10 there, 9 here), layers[1].name (a there, b here); "
        "start a new run, or restore the spec"
    )
