"""What is exported: runs, finished or not, weights of another host, and programs in place of the artifact's."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from safetensors.numpy import load_file, save_file

from netc_runtime.artifact import Artifact
from netc_runtime.data import open_source
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.export import ExportOptions, export_run
from netc_runtime.export.trained import find_trained
from netc_runtime.export.verify import _Output as Compared
from netc_runtime.interface import TensorSpec
from netc_runtime.jsonfields import MalformedError
from netc_runtime.trainer import TrainOptions, train

from .conftest import CPU, Recorder
from .handmade import SCALE, write_artifact

State = dict[str, Any]
LAST = Path("checkpoints") / "step_132.safetensors"


@pytest.fixture(scope="module")
def state(finished_run: Path) -> State:
    return load_file(finished_run / LAST)


def parameters(model: Path) -> State:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(model).graph.initializer}


# -- weights of another host -------------------------------------------------------------------------------------


def test_weights_of_another_host_are_exported_from_a_compiled_folder(
    artifact: Path, finished_run: Path, state: State, tmp_path: Path
) -> None:
    """As a browser saves them that trained `train.onnx`: the state by name, without what netc says in a checkpoint."""
    path = tmp_path / "browser.safetensors"
    needed = {name: state[name] for name in ("ip.weight", "ip.bias")}
    save_file({**needed, "other": np.zeros(3, np.float32)}, path)
    report = export_run(artifact, tmp_path / "m.onnx", str(path), CPU)
    assert (report.checkpoint, report.step) == (path, None)
    found = parameters(report.path)
    np.testing.assert_array_equal(found["ip.weight"], state["ip.weight"] * np.float32(SCALE))
    np.testing.assert_array_equal(found["ip.bias"], state["ip.bias"])
    assert "with the weights of browser.safetensors" in onnx.load(report.path).doc_string
    own = export_run(finished_run, tmp_path / "own.onnx", host=CPU)
    assert own.agreement == report.agreement
    # A run folder takes them too, and the number of steps is known where the file has it.
    save_file({**needed, "step": state["step"]}, path)
    assert export_run(finished_run, tmp_path / "m.onnx", str(path), CPU).step == 132


def test_weights_in_double_precision_are_rounded(artifact: Path, state: State, tmp_path: Path) -> None:
    path = tmp_path / "double.safetensors"
    save_file({name: array.astype(np.float64) for name, array in state.items() if array.dtype.kind == "f"}, path)
    report = export_run(artifact, tmp_path / "m.onnx", str(path), CPU)
    np.testing.assert_array_equal(parameters(report.path)["ip.bias"], state["ip.bias"])


def test_a_checkpoint_of_the_same_spec_is_exported_from_a_compiled_folder(
    artifact: Path, finished_run: Path, tmp_path: Path
) -> None:
    report = export_run(artifact, tmp_path / "m.onnx", str(finished_run / LAST), CPU)
    assert (report.step, report.checkpoint) == (132, finished_run / LAST)
    other = write_artifact(tmp_path / "other", {"solver.base_lr": 0.2})
    with pytest.raises(DriverError, match=r"belongs to another spec; it differs in solver\.base_lr"):
        export_run(other, tmp_path / "m.onnx", str(finished_run / LAST), CPU)


Change = Callable[[State], Any]


@pytest.mark.parametrize(
    ("change", "sentence", "code"),
    [
        (lambda s: s.pop("ip.bias"), "does not hold the weights of handmade: it lacks ip.bias; save the state", 2),
        (lambda s: s.clear() or s.update(x=np.zeros(1)), "it lacks ip.weight, ip.bias; save the state under", 2),
        (
            lambda s: s.update({"ip.weight": np.zeros((10, 64), np.float32)}),
            "of another shape or type are ip.weight (float32 [10, 64] there, float32 [64, 10] here)",
            2,
        ),
        (
            lambda s: s.update({"ip.bias": np.zeros(10, np.int64)}),
            "of another shape or type are ip.bias (int64 [10] there, float32 [10] here)",
            2,
        ),
        (
            lambda s: s.pop("ip.bias") is None or s.update({"ip.weight": np.zeros(3, np.float32)}),
            "it lacks ip.bias; of another shape or type are ip.weight (float32 [3] there",
            2,
        ),
        (lambda s: s["ip.bias"].fill(np.nan), "has values that are not finite in ip.bias; give other weights", 1),
        (lambda s: s.update({"ip.bias": np.full(10, 1e300)}), "has values that are not finite in ip.bias", 1),
    ],
)
def test_weights_that_do_not_fit(
    artifact: Path, state: State, tmp_path: Path, change: Change, sentence: str, code: int
) -> None:
    changed = {name: state[name].copy() for name in ("ip.weight", "ip.bias")}
    change(changed)
    save_file(changed, tmp_path / "w.safetensors")
    with pytest.raises(DriverError) as caught:
        export_run(artifact, tmp_path / "m.onnx", str(tmp_path / "w.safetensors"), CPU)
    assert f"{tmp_path / 'w.safetensors'} " in str(caught.value)
    assert sentence in str(caught.value)
    assert caught.value.exit_code == code
    assert not (tmp_path / "m.onnx").exists()


def test_files_that_hold_no_weights(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(DamagedFileError, match="is damaged or not a safetensors file"):
        export_run(artifact, tmp_path / "m.onnx", str(tmp_path / "text.safetensors"), CPU)
    with pytest.raises(DriverError, match=r"there is no checkpoint none\.safetensors; give last, best, or") as caught:
        export_run(artifact, tmp_path / "m.onnx", "none.safetensors", CPU)
    assert caught.value.exit_code == ExitCode.USAGE
    for which in ("last", "best"):
        with pytest.raises(
            DriverError, match="a compiled folder, which holds nothing trained to export; name"
        ) as caught:
            export_run(artifact, tmp_path / "m.onnx", which, CPU)
        assert caught.value.exit_code == ExitCode.USAGE


# -- runs that are not finished ----------------------------------------------------------------------------------


def test_an_unfinished_run_is_exported_with_a_warning(artifact: Path, finished_run: Path, tmp_path: Path) -> None:
    run, warnings = tmp_path / "run", list[str]()
    train(TrainOptions(run, artifact, CPU, stop_after_epochs=2), Recorder())
    report = export_run(run, host=CPU, warn=warnings.append)
    assert report.step == 44
    assert warnings == [
        f"{run} is not finished: its last checkpoint is of step 44 of 132; export again after netc train --run {run} "
        f"--resume"
    ]
    for which in ("best", str(run / "checkpoints" / "step_44.safetensors")):  # whoever names a state means it
        export_run(run, checkpoint=which, host=CPU, warn=warnings.append)
    export_run(finished_run, tmp_path / "m.onnx", host=CPU, warn=warnings.append)
    assert len(warnings) == 1


def test_a_run_that_stopped_early_is_finished(tmp_path: Path) -> None:
    early = {"monitor": None, "patience": 1, "min_delta": 10.0, "restore_best": False}
    artifact = write_artifact(tmp_path / "artifact", {"run.early_stopping": early})
    recorder, warnings = Recorder(), list[str]()
    train(TrainOptions(tmp_path / "run", artifact, CPU), recorder)
    assert recorder.result is not None
    assert recorder.result.step < 132
    export_run(tmp_path / "run", host=CPU, warn=warnings.append)
    assert warnings == []


# -- programs in place of those of the artifact -----------------------------------------------------------------


def renamed(path: Path, change: Callable[[onnx.ModelProto, Any], None]) -> bytes:
    """Return a program with another graph and interface."""
    model = onnx.load(path)
    entry = next(entry for entry in model.metadata_props if entry.key == "netc.interface")
    interface = json.loads(entry.value)
    change(model, interface)
    entry.value = json.dumps(interface)
    return model.SerializeToString()


def with_side(model: onnx.ModelProto, interface: Any) -> None:
    model.graph.node.append(helper.make_node("Neg", ["ip"], ["side"], name="side/forward/Neg"))
    model.graph.output.append(helper.make_tensor_value_info("side", onnx.TensorProto.FLOAT, ["N", 10]))
    interface["outputs"].append({**interface["outputs"][0], "name": "side"})


def test_other_programs_take_the_place_of_the_artifacts(finished_run: Path, tmp_path: Path) -> None:
    infer = renamed(finished_run / "artifact" / "infer.onnx", with_side)
    report = export_run(finished_run, tmp_path / "m.onnx", host=CPU, programs={"infer": infer})
    assert [value.name for value in onnx.load(report.path).graph.output] == ["ip", "side"]
    # The evaluation graph of the artifact has no such output; one that has it is compared with.
    eval_ = renamed(finished_run / "artifact" / "eval.onnx", with_side)
    wrong = onnx.load_model_from_string(infer)
    wrong.graph.node[-1].op_type = "Abs"
    for content, agrees in ((infer, True), (wrong.SerializeToString(), False)):
        programs = {"infer": content, "eval": eval_}
        if agrees:
            export_run(finished_run, tmp_path / "m.onnx", host=CPU, programs=programs)
        else:
            with pytest.raises(
                DriverError, match=r"disagrees with eval\.onnx: .*, side by a share of .* where 0\.001 is"
            ):
                export_run(finished_run, tmp_path / "m.onnx", host=CPU, programs=programs)
    loaded, other = Artifact.load(finished_run / "artifact"), infer.replace(b'"ip.bias"', b'"ip.bios"')
    with pytest.raises(MalformedError, match=r'fold computes no value for the parameter "ip\.bios" of infer'):
        loaded.with_programs({"infer": other})
    with pytest.raises(DriverError, match=r"was compiled by netc .*\(fold computes no value .*; leave out") as caught:
        export_run(finished_run, tmp_path / "m.onnx", host=CPU, programs={"infer": other})
    assert caught.value.exit_code == ExitCode.USAGE


def test_what_is_not_folded_is_said_with_the_reason(finished_run: Path, tmp_path: Path) -> None:
    def unfolded(model: onnx.ModelProto, _: Any) -> None:
        for node in model.graph.node:
            entries = {"netc.layer": "bn1", "netc.part": "forward", "netc.fold": "two layers read its bottom"}
            helper.set_model_props(node, entries)

    infer = renamed(finished_run / "artifact" / "infer.onnx", unfolded)
    report = export_run(finished_run, tmp_path / "m.onnx", host=CPU, programs={"infer": infer})
    assert report.not_folded == {"bn1": "two layers read its bottom"}
    lines = list(report.lines())
    assert lines[0] == f"exported {tmp_path / 'm.onnx'}: 650 parameters, 4 kB, float32, opset 18"
    assert lines[1] == "bn1 is not folded: two layers read its bottom"
    assert lines[2].startswith("on 360 test samples it differs from the evaluation graph by at most ")
    assert json.loads(json.dumps(report.as_dict()))["not_folded"] == {"bn1": "two layers read its bottom"}


# -- where to, and with which data -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "form", "sentence"),
    [
        ("m", None, "m does not say its format; name it m.onnx, or m.ort for ORT format"),
        ("m.pb", None, "m.pb does not say its format; name it m.pb.onnx, or m.pb.ort for ORT format"),
        ("m.onnx", "ort", "m.onnx is not called like a file of --format ort; name it {}/m.ort"),
        ("m.ort", "onnx", "m.ort is not called like a file of --format onnx; name it {}/m.onnx"),
    ],
)
def test_names_and_formats_that_do_not_fit(
    finished_run: Path, tmp_path: Path, name: str, form: Any, sentence: str
) -> None:
    with pytest.raises(DriverError) as caught:
        export_run(finished_run, tmp_path / name, host=CPU, options=ExportOptions(format=form))
    assert sentence.replace("{}", str(tmp_path)) in str(caught.value)
    assert caught.value.exit_code == ExitCode.USAGE
    assert not list(tmp_path.iterdir())


def test_the_format_is_what_the_name_says(finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    for out, form, expected in (
        (tmp_path / "a.ort", None, tmp_path / "a.ort"),
        (None, "ort", run / "model.ort"),
        (None, None, run / "model.onnx"),
    ):
        report = export_run(run, out, host=CPU, options=ExportOptions(format=form))  # type: ignore[arg-type]
        assert report.path == expected
        assert (report.path.read_bytes()[4:8] == b"ORTM") == (report.format == "ort") == (expected.suffix == ".ort")


def test_only_the_plain_model_takes_the_place_of_the_runs_own(finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    own = export_run(run, host=CPU).path.read_bytes()
    infer = renamed(run / "artifact" / "infer.onnx", with_side)
    for given, programs, name in (
        ({"precision": "int8"}, {}, "model.int8.onnx"),
        ({"precision": "float16"}, {}, "model.fp16.onnx"),
        ({"softmax": True}, {}, "model.softmax.onnx"),
        ({}, {"infer": infer}, "model.sides.onnx"),
        ({"opset": 21, "softmax": True, "format": "ort", "precision": "float16"}, {}, "model.fp16.softmax.opset21.ort"),
    ):
        report = export_run(run, host=CPU, verify=False, options=ExportOptions(**given), programs=programs)
        assert report.path == run / name
        assert report.path.is_file()
    assert (run / "model.onnx").read_bytes() == own


@pytest.mark.parametrize(("expected", "given", "share"), [(0, 0, 0), (0, 1e-9, math.inf), (4, 3, 0.25)])
def test_the_share_of_an_output_that_is_nothing_but_zeros(expected: float, given: float, share: float) -> None:
    spec = TensorSpec("y", "float32", ("N", 2), "output")
    output = Compared(spec, spec)
    output.add(np.full((3, 2), given), np.full((3, 2), expected))
    output.add(np.zeros((1, 2)), np.zeros((1, 2)))
    assert output.relative == share


def test_exports_without_their_data(finished_run: Path, tmp_path: Path) -> None:
    gone = {"source": "mnist", "path": str(tmp_path / "gone")}
    for precision, why, without in (
        ("int8", "--int8 is calibrated on training samples", ""),
        ("float32", "an export is verified", ", or leave that out with --no-verify"),
    ):
        options = ExportOptions(precision=precision)  # type: ignore[arg-type]
        with pytest.raises(DriverError) as caught:
            export_run(finished_run, tmp_path / "m.onnx", host=CPU, data_overrides=gone, options=options)
        first, second = str(caught.value).splitlines()
        assert first.startswith("data.path: ")
        assert second == f"{why}: name the data with --set data.path=FOLDER{without}"
        assert caught.value.exit_code == ExitCode.USAGE


def test_data_of_another_run_say_nothing_of_its_length(artifact: Path, tmp_path: Path) -> None:
    run, warnings = tmp_path / "run", list[str]()
    train(TrainOptions(run, artifact, CPU, stop_after_epochs=1), Recorder())
    source = open_source({"source": "digits"})
    source.train = {name: field[:10] for name, field in source.train.items()}  # fewer than one batch
    trained = find_trained(run, "last", {}, warnings.append)
    assert list(trained.unfinished(source)) == []
    assert len(list(trained.unfinished(open_source({"source": "digits"})))) == 1


def test_the_accuracy_after_is_that_of_what_is_written(finished_run: Path, state: State, tmp_path: Path) -> None:
    def negated(model: onnx.ModelProto, _: Any) -> None:
        (gemm,) = (node for node in model.graph.node if node.op_type == "Gemm")
        del gemm.attribute[:]
        gemm.attribute.extend(helper.make_attribute(name, -1.0) for name in ("alpha", "beta"))

    programs = {"infer": renamed(finished_run / "artifact" / "infer.onnx", negated)}
    generous = ExportOptions(tolerance=3.0)
    report = export_run(finished_run, tmp_path / "m.onnx", host=CPU, options=generous, programs=programs)
    test = open_source({"source": "digits"}).test
    scores = test["image"][:].reshape(360, 64) * SCALE @ state["ip.weight"].astype(np.float64) + state["ip.bias"]
    labels = test["label"][:]
    assert report.agreement is not None
    assert report.agreement.before == pytest.approx((scores.argmax(1) == labels).mean())
    assert report.agreement.after == pytest.approx((scores.argmin(1) == labels).mean())
    assert report.agreement.after == 0 != report.agreement.before
    assert report.agreement.difference == pytest.approx(2 * np.abs(scores).max(), rel=1e-5)
    assert report.agreement.relative == pytest.approx(2, rel=1e-5)
    (line,) = list(report.lines())[1:]
    assert line.endswith(f"accuracy {report.agreement.before:.4f} before, {report.agreement.after:.4f} after")
