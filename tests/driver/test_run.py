"""The run folder: whose it is, what a crash leaves of it, and a spec.yaml that netc reads back."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc.spec.text import parse_tree
from netc_runtime import run as run_module
from netc_runtime.artifact import Artifact, Metric
from netc_runtime.checkpoint import Checkpoint, Position
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.evaluate import Evaluator
from netc_runtime.events import EpochDone
from netc_runtime.metricslog import MetricsLog
from netc_runtime.run import RunFolder
from netc_runtime.session import Host
from netc_runtime.trainer import TrainOptions, train
from netc_runtime.yamltext import to_yaml

from .conftest import CPU, Recorder
from .handmade import write_artifact


@pytest.mark.parametrize("name", ["spec.yaml", ".notes.tmp", "lock", "checkpoints/mine.bin", "artifact/other.json"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_somebody_else_is_refused_and_not_touched(
    artifact: Path, tmp_path: Path, name: str, resume: bool
) -> None:
    file = tmp_path / "mine" / name
    file.parent.mkdir(parents=True)
    file.write_text("netc: of my own")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DriverError) as caught:
        train(TrainOptions(tmp_path / "mine", artifact, CPU, resume), Recorder())
    assert caught.value.exit_code == ExitCode.USAGE
    if not resume:
        assert str(caught.value) == (
            f"{tmp_path / 'mine'} is not empty and no run folder of netc, which would overwrite what is there; "
            f"choose another folder"
        )
    assert sorted(tmp_path.rglob("*")) == before
    assert file.read_text() == "netc: of my own"


def test_an_empty_folder_and_a_run_without_steps_are_taken(artifact: Path, tmp_path: Path) -> None:
    with RunFolder(tmp_path).locked():
        pass
    with RunFolder(tmp_path).locked():
        pass
    assert train(TrainOptions(tmp_path, artifact, CPU, stop_after_epochs=1), Recorder()).step == 22


@pytest.mark.parametrize("incoming", [False, True])
def test_a_crash_between_the_renames_of_an_artifact_is_undone(artifact: Path, tmp_path: Path, incoming: bool) -> None:
    run = tmp_path / "run"
    train(TrainOptions(run, artifact, CPU, stop_after_epochs=1), Recorder())
    (run / "artifact").rename(run / "artifact.old")
    if incoming:
        shutil.copytree(artifact, run / "artifact.new")
    assert RunFolder(run).load_artifact().name == "handmade"  # readers hold no lock, and change nothing
    assert not (run / "artifact").exists()
    result = train(TrainOptions(run, host=Host("cpu"), resume=True, stop_after_epochs=1), Recorder())
    assert result.step == 44
    assert (run / "artifact").is_dir()
    longer = write_artifact(tmp_path / "longer", {"solver.max_epochs": 9})
    train(TrainOptions(run, longer, Host("cpu"), resume=True, stop_after_epochs=1), Recorder())
    assert RunFolder(run).load_artifact().spec["solver"]["max_epochs"] == 9
    assert not list(run.glob("artifact.*"))


def test_an_installed_artifact_is_synced_before_it_counts(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(run_module, "sync", lambda path: synced.append(path.name))
    run = RunFolder(tmp_path / "run")
    with run.locked():
        run.install(Artifact.load(artifact))
    assert sorted(synced[:6]) == sorted(path.name for path in artifact.iterdir())
    assert synced[6:] == ["artifact.new", "run"]


def test_specs_are_read_back_as_they_were() -> None:
    words = ["1e3", "0o17", "no", "12:30", "", "~", "null", "True", "y", "ON", "0x1F", "1_000", ".inf", "=", "<<", "-"]
    words += ["a", "ip1/weight", "a-b", "2020-01-01", "a: b", "# c", "two\nlines", "ü", "\x07", "é" * 300, "012", "_"]
    numbers: list[Any] = [0, -3, 1e-05, 1e22, 0.1, 1e300, True, False, None, [], {}]
    spec: dict[str, Any] = {"name": "x", "words": words, "numbers": numbers, "again": [words, words]}
    spec |= {"keys": {word: index for index, word in enumerate(words) if word not in ("", "<<", "\x07", "two\nlines")}}
    assert parse_tree(to_yaml(spec), "spec.yaml").value == spec


def test_spec_yaml_of_a_run_is_its_spec(finished_run: Path) -> None:
    text = (finished_run / "spec.yaml").read_text()
    assert parse_tree(text, "spec.yaml").value == RunFolder(finished_run).load_artifact().spec
    assert "name: handmade\n" in text


def test_a_side_accuracy_never_makes_a_checkpoint_the_best(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Artifact.load

    def with_side(folder: Path) -> Artifact:
        loaded = load(folder)
        kinds = {"accuracy": "side_accuracy"}
        return replace(loaded, metrics=tuple(replace(m, kind=kinds.get(m.kind, m.kind)) for m in loaded.metrics))

    monkeypatch.setattr(Artifact, "load", with_side)
    run = tmp_path / "run"
    train(TrainOptions(run, artifact, CPU, stop_after_epochs=1), Recorder())
    best = Checkpoint.load(run / "checkpoints" / "step_22.safetensors", load(artifact)).position.best
    assert best is not None
    assert best.metric == "total"
    assert Metric("accuracy", "side_accuracy", "accuracy") in Artifact.load(artifact).metrics


@pytest.mark.parametrize("when", ["evaluation", "save"])
def test_a_signal_during_the_last_evaluation_or_save_ends_the_session_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    short = write_artifact(tmp_path / "short", {"solver.max_epochs": 1})

    def during(owner: type, name: str) -> None:
        whole = getattr(owner, name)

        def interrupted(*arguments: Any) -> Any:
            result = whole(*arguments)
            monkeypatch.setattr(owner, name, whole)
            os.kill(os.getpid(), signal.SIGTERM)
            return result

        monkeypatch.setattr(owner, name, interrupted)

    during(*((Evaluator, "metrics") if when == "evaluation" else (RunFolder, "save")))
    run = tmp_path / "run"
    with pytest.raises(DriverError, match="stopped by SIGTERM after step 22 of 22") as caught:
        train(TrainOptions(run, short, CPU), Recorder())
    assert caught.value.exit_code == ExitCode.TERMINATED
    again = train(TrainOptions(run, resume=True, host=Host("cpu")), Recorder())
    assert (again.finished, again.step) == (True, 22)


def test_other_versions_are_a_warning(artifact: Path, finished_run: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    loaded = Artifact.load(artifact)
    checkpoint = Checkpoint.load(finished_run / "checkpoints" / "step_132.safetensors", loaded)
    with run.locked():
        run.install(loaded)
        run.save(replace(checkpoint, engine="ONNX Runtime 1.20.0", netc_version="0.0.9"), keep=3)
    recorder = Recorder()
    train(TrainOptions(run.path, resume=True, host=Host("cpu")), recorder)
    assert [warning.split(": its bits may differ")[0] for warning in recorder.warnings] == [
        f"the run was with ONNX Runtime 1.20.0 and continues with {checkpoint.engine}",
        "the run was compiled by netc 0.0.9 and continues compiled by netc 0.1.0",
    ]


@pytest.mark.parametrize(("step", "epoch", "cursor"), [(131, 6, 0), (132, 5, 0), (132, 5, 22), (132, 0, 132)])
def test_a_position_has_to_fit_its_epochs(step: int, epoch: int, cursor: int, tmp_path: Path) -> None:
    position = replace(Position.start(), step=step, epoch=epoch, cursor=cursor)
    if (step, epoch, cursor) == (132, 5, 22):
        position.require_epochs_of(22, tmp_path)
        return
    with pytest.raises(DamagedFileError, match=rf"{epoch} epochs and {cursor} steps are {step} steps, but"):
        position.require_epochs_of(22, tmp_path)


def test_the_step_of_the_state_is_that_of_the_position(artifact: Path, finished_run: Path, tmp_path: Path) -> None:
    loaded = Artifact.load(artifact)
    checkpoint = Checkpoint.load(finished_run / "checkpoints" / "step_132.safetensors", loaded)
    replace(checkpoint, state={**checkpoint.state, "step": np.array(131)}).save(tmp_path / "x")
    with pytest.raises(DamagedFileError, match='is damaged: it says step 132, but "step" is 131'):
        Checkpoint.load(tmp_path / "x", loaded)


@pytest.mark.parametrize("threads", [99999999999, 1025, 0, -1])
def test_an_absurd_number_of_threads_is_one_sentence(artifact: Path, tmp_path: Path, threads: int) -> None:
    with pytest.raises(DriverError, match=rf"^threads should be from 1 to 1024, not {threads}$") as caught:
        train(TrainOptions(tmp_path / "run", artifact, Host("cpu", threads)), Recorder())
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize("line", ['{"step": 2, "epoch": 1, "train": [1]}', '{"step": 2, "test": 3}', "[]", "{"])
def test_a_malformed_line_of_metrics_ends_what_is_kept(tmp_path: Path, line: str) -> None:
    log = MetricsLog(tmp_path, ["loss"], ["loss"], ["lr"])
    log.append(EpochDone(1, 1, {"lr": 0.5}, {"loss": 2.0}, {"loss": 3.0}, 1.0, 1.0))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    log.rewind(replace(Position.start(), step=9))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1].startswith("1,1,0.5,2.0,3.0")
