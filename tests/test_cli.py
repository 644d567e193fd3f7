"""The command line where all goes well: every command, its JSON, and what it leaves on disk."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from PIL import Image

from netc import __version__
from netc.cli import main

from .zoo import DIGITS, SPECS, ZOO

ARTIFACT = {"train.onnx", "eval.onnx", "fold.onnx", "infer.onnx", "init.safetensors", "manifest.json"}
SHORT = ["--batch-size", "100", "--set", "solver.max_epochs=1", "--threads", "1"]

Command = Callable[..., tuple[int, str, str]]
Netc = Callable[..., str]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command inside an empty folder and returns its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["netc", *arguments])
        capsys.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        return code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def netc(command: Command) -> Netc:
    """Runs a command that has to succeed without a warning, and returns its stdout."""

    def run(*arguments: str) -> str:
        code, out, err = command(*arguments)
        assert (code, err) == (0, "")
        return out

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the mlp over one epoch; tests read it."""
    folder = tmp_path_factory.mktemp("cli")
    netc = Path(sys.executable).with_name("netc")
    subprocess.run([netc, "train", "mlp", "--run", "run", *SHORT], cwd=folder, check=True, capture_output=True)
    return folder / "run"


def contents(folder: Path | str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def without_places(folder: Path | str) -> dict[str, bytes]:
    """Return the contents without what differs between equal specs: the lines that nodes come from, and digests."""
    found = contents(folder)
    for name in [name for name in found if name.endswith(".onnx")]:
        model = onnx.load_model_from_string(found[name])
        for node in model.graph.node:
            kept = [entry for entry in node.metadata_props if entry.key != "netc.spec"]
            assert {entry.key for entry in kept} - {"netc.rewrite"} == {"netc.layer", "netc.part"}
            del node.metadata_props[:]
            node.metadata_props.extend(kept)
        found[name] = model.SerializeToString(deterministic=True)
    whole = json.loads(found["manifest.json"])
    found["manifest.json"] = json.dumps({k: v for k, v in whole.items() if k not in ("digest", "digests")}).encode()
    return found


def weights(model: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.raw_data for tensor in onnx.load(model).graph.initializer}


def manifest(folder: Path | str) -> Any:
    return json.loads((Path(folder) / "manifest.json").read_text())


# -- help ------------------------------------------------------------------------------------------------------

COMMANDS = ("check", "compile", "specs", "schema", "train", "eval", "export", "predict", "time", "tune", "doctor")
DATA_COMMANDS = ("data list", "data show", "data fetch")


def test_version(netc: Netc) -> None:
    assert netc("--version") == f"netc {__version__}\n"


def test_help_lists_every_command(netc: Netc) -> None:
    commands = netc("--help").partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in commands if line[2:3] != " "] == [*COMMANDS, "data"]


@pytest.mark.parametrize("name", [*COMMANDS, *DATA_COMMANDS])
def test_help_has_an_example(netc: Netc, name: str) -> None:
    text = netc(*name.split(), "--help")
    assert text.startswith(f"Usage: netc {name} ")
    assert f"Example: netc {name}" in text
    assert netc(*name.split(), "-h") == text


# -- specs -----------------------------------------------------------------------------------------------------


def test_specs(netc: Netc) -> None:
    lines = netc("specs").splitlines()
    assert [line.split()[0] for line in lines] == ZOO
    assert all(len(line.split()) > 3 for line in lines)
    entries = json.loads(netc("specs", "--json"))
    assert [entry["name"] for entry in entries] == ZOO
    assert all(entry.keys() == {"name", "summary"} and entry["summary"] for entry in entries)


def test_schema(netc: Netc) -> None:
    shipped = (SPECS / "netc.schema.json").read_text(encoding="utf-8")
    assert netc("schema") == shipped
    assert netc("schema", "-o", "language.json") == ""
    assert Path("language.json").read_text(encoding="utf-8") == shipped


# -- check -----------------------------------------------------------------------------------------------------


def test_check(netc: Netc) -> None:
    lines = netc("check", "mlp").splitlines()
    assert lines[0].split() == ["layer", "type", "output", "parameters", "multiply-adds", "activations"]
    assert lines[1].split() == ["hidden1", "InnerProduct", "128", "8,320", "8,192", "16.0", "KiB"]
    assert lines[-2].split()[:5] == ["total", "batch", "of", "32", "26,122"]
    assert lines[-1] == "mlp: 7 layers, 26,122 parameters"


def test_check_json(netc: Netc) -> None:
    report = json.loads(netc("check", "mlp", "--json"))
    assert report["precision"] == "float32"
    assert report.keys() == {
        "ok",
        "name",
        "rows",
        "parameters",
        "trained",
        "phases",
        "multiply_adds",
        "activation_bytes",
        "batch_size",
        "precision",
        "step_memory",
        "warnings",
    }
    assert (report["ok"], report["name"], report["parameters"], report["warnings"]) == (True, "mlp", 26122, [])
    assert report["rows"][0] == {
        "name": "hidden1",
        "type": "InnerProduct",
        "output": "128",
        "parameters": 8320,
        "trained": 8320,
        "multiply_adds": 8192,
        "activation_bytes": 32 * 128 * 4,
        "companion": False,
    }


def test_check_json_of_mistakes(command: Command) -> None:
    code, out, err = command("check", "mlp", "--json", "--set", "solver.type=SDG", "--set", "data.batch_size=0")
    assert (code, err) == (2, "")
    report = json.loads(out)
    assert report["ok"] is False
    assert report["errors"] == [
        {
            "file": "--set data.batch_size=0",
            "line": 0,
            "column": 0,
            "used_at": None,
            "message": "batch_size: must be greater than 0, got 0",
        },
        {
            "file": "--set solver.type=SDG",
            "line": 0,
            "column": 0,
            "used_at": None,
            "message": 'unknown solver type "SDG"; did you mean "SGD"?',
        },
    ]


@pytest.mark.parametrize(
    ("option", "path", "value"),
    [
        ("name=renamed", ["name"], "renamed"),
        ("inputs.label.classes=7", ["inputs", "label", "classes"], 7),
        ("data.scale=0.5", ["data", "scale"], 0.5),
        ("data.mean=[8]", ["data", "mean"], [8.0]),
        ("layers.hidden1.num_output=9", ["layers", 0, "num_output"], 9),
        ("layers.2.weight_filler=msra", ["layers", 2, "weight_filler", "type"], "msra"),
        ("layers.hidden1.param=[{lr_mult: 0}]", ["layers", 0, "param", 0, "lr_mult"], 0.0),
        ("solver.base_lr=0.5", ["solver", "base_lr"], 0.5),
        ("solver.lr_policy={type: step, gamma: 0.1, stepsize: 5}", ["solver", "lr_policy", "stepsize"], 5),
        ("solver.random_seed=3", ["solver", "random_seed"], 3),
    ],
)
def test_set_reaches_every_section(netc: Netc, option: str, path: list[str | int], value: object) -> None:
    netc("compile", "mlp", "-o", "out", "--set", option)
    found = manifest("out")["spec"]
    for part in path:
        found = found[part]
    assert found == value


def test_warnings_go_to_stderr(command: Command) -> None:
    code, out, err = command("check", "mlp", "--set", "layers.hidden1.weight_filler=constant", "--json")
    assert code == 0
    assert err.startswith("warning: ")
    assert len(err.splitlines()) == 1
    assert "hidden1: all weights start at 0" in json.loads(out)["warnings"][0]


# -- compile ---------------------------------------------------------------------------------------------------


# The others have tens of millions of parameters to draw and write, or many layers: tests/test_zoo.py compiles those.
SMALL = [*DIGITS, "resnet20_cifar", "squeezenet"]


@pytest.mark.parametrize("name", SMALL)
def test_compile(netc: Netc, name: str) -> None:
    out = netc("compile", name)
    assert out.startswith(f"compiled {name} to build/{name}: train.onnx ")
    sampled = {"sample.onnx"} if "type: Dropout" in (SPECS / f"{name}.yaml").read_text() else set()
    assert contents(f"build/{name}").keys() == ARTIFACT | sampled
    for path in Path(f"build/{name}").glob("*.onnx"):
        onnx.checker.check_model(path, full_check=True)


def test_compile_json(netc: Netc) -> None:
    report = json.loads(netc("compile", "mlp", "-o", "out", "--target", "cuda", "--json"))
    assert report.keys() == {"out", "name", "target", "nodes"}
    assert (report["out"], report["name"], report["target"]) == ("out", "mlp", "cuda")
    assert report["nodes"].keys() == {"train", "eval", "fold", "infer"}
    assert all(count > 0 for count in report["nodes"].values())
    assert manifest("out")["target"] == "cuda"


def test_compiling_twice_gives_the_same_bytes(netc: Netc) -> None:
    netc("compile", "lenet_dsn", "-o", "one")
    # Another process has other hashes of strings, and so other orders of sets.
    command = [sys.executable, "-m", "netc.cli", "compile", str(SPECS / "lenet_dsn.yaml"), "-o", "two"]
    subprocess.run(command, check=True, capture_output=True)
    assert contents("one") == contents("two")


def test_recompiling_replaces_the_artifact(netc: Netc) -> None:
    netc("compile", "lenet_dsn", "-o", "out")
    (Path("out") / "notes.txt").write_text("of the user")
    netc("compile", "mlp", "-o", "out")
    netc("compile", "mlp", "-o", "fresh")
    assert contents("out") == contents("fresh") | {"notes.txt": b"of the user"}
    assert {path.name for path in Path().iterdir()} == {"out", "fresh"}


@pytest.mark.parametrize("name", SMALL)
def test_an_artifact_compiles_to_itself(netc: Netc, name: str) -> None:
    netc("compile", name, "-o", "first")
    netc("compile", "first", "-o", "second")
    Path("resolved.yaml").write_text(yaml.safe_dump(manifest("first")["spec"], sort_keys=False))
    netc("compile", "resolved.yaml", "-o", "third")
    assert without_places("first") == without_places("second") == without_places("third")
    places = {
        p.value for n in onnx.load("first/train.onnx").graph.node for p in n.metadata_props if p.key == "netc.spec"
    }
    blocks = Path(SPECS / "blocks").glob("*.yaml")
    files = "|".join(re.escape(file) for file in (f"{name}.yaml", *(f"blocks/{path.name}" for path in blocks)))
    assert all(re.fullmatch(rf"({files}):\d+", place) for place in places), "a folder of this machine"
    assert len(places) > 4


def test_what_a_spec_may_be(netc: Netc) -> None:
    # A name of the zoo, a file, an artifact; with --set an artifact's spec is compiled again.
    (Path("mine.yaml")).write_text((SPECS / "mlp.yaml").read_text())
    netc("compile", "mlp", "-o", "artifact")
    for spec in ("mlp", "mine.yaml", "artifact"):
        assert netc("check", spec).endswith("mlp: 7 layers, 26,122 parameters\n")
        assert netc("check", spec, "--set", "layers.hidden1.num_output=1").endswith("mlp: 7 layers, 1,611 parameters\n")


def test_a_file_goes_before_the_zoo(netc: Netc) -> None:
    Path("lenet").write_text((SPECS / "mlp.yaml").read_text())
    assert netc("check", "lenet").endswith("mlp: 7 layers, 26,122 parameters\n")


# -- train -----------------------------------------------------------------------------------------------------


def test_train(trained: Path) -> None:
    expected = {"artifact", "best", "checkpoints", "lock", "metrics.csv", "metrics.jsonl", "model.onnx", "spec.yaml"}
    assert {path.name for path in trained.iterdir()} == expected
    assert contents(trained / "artifact").keys() == ARTIFACT
    assert [path.name for path in (trained / "checkpoints").iterdir()] == ["step_14.safetensors"]
    assert (trained / "best").read_text() == "step_14.safetensors\n"
    onnx.checker.check_model(trained / "model.onnx", full_check=True)
    assert yaml.safe_load((trained / "spec.yaml").read_text()) == manifest(trained / "artifact")["spec"]


def test_train_json(netc: Netc) -> None:
    events = [json.loads(line) for line in netc("train", "mlp", *SHORT, "--json").splitlines()]
    assert [event["event"] for event in events] == ["started", "epoch", "finished", "exported"]
    assert {"name", "run", "device", "total_steps", "batch_size", "metrics"} <= events[0].keys()
    assert {"epoch", "step", "train", "test", "rates", "images_per_second"} <= events[1].keys()
    assert {"run", "step", "epochs", "finished", "checkpoint", "test", "best_step"} <= events[2].keys()
    assert {"path", "checkpoint", "step", "parameters", "size", "agreement"} <= events[3].keys()
    assert events[2]["run"] == "runs/mlp"


def test_train_numbers_its_runs(netc: Netc) -> None:
    for _ in range(2):
        netc("train", "mlp", *SHORT)
    assert {path.name for path in Path("runs").iterdir()} == {"mlp", "mlp-2"}
    # Equal commands give equal weights.
    assert (Path("runs/mlp/model.onnx")).read_bytes() == (Path("runs/mlp-2/model.onnx")).read_bytes()


def test_train_an_artifact(netc: Netc, trained: Path) -> None:
    netc("compile", "mlp", "-o", "artifact", "--batch-size", "100", "--set", "solver.max_epochs=1")
    netc("train", "artifact", "--run", "plain", "--threads", "1")
    netc("train", "artifact", "--run", "again", "--threads", "1", "--set", "solver.max_epochs=1")
    for run in ("plain", "again"):
        assert without_places(Path(run) / "artifact") == without_places(trained / "artifact")
        assert weights(Path(run) / "model.onnx") == weights(trained / "model.onnx")


def test_train_seed(netc: Netc, trained: Path) -> None:
    netc("train", "mlp", "--run", "run", "--seed", "1", *SHORT)
    assert manifest("run/artifact")["spec"]["solver"]["random_seed"] == 1
    assert Path("run/model.onnx").read_bytes() != (trained / "model.onnx").read_bytes()


def test_stop_and_resume(netc: Netc) -> None:
    options = ["--batch-size", "100", "--set", "solver.max_epochs=2", "--threads", "1"]
    netc("train", "mlp", "--run", "whole", *options)
    netc("train", "mlp", "--run", "parts", "--stop-after-epochs", "1", *options)
    assert not Path("parts/model.onnx").exists()
    netc("train", "--run", "parts", "--resume")
    assert Path("parts/model.onnx").read_bytes() == Path("whole/model.onnx").read_bytes()


# -- eval, export, predict ---------------------------------------------------------------------------------------


def test_eval(netc: Netc, trained: Path) -> None:
    for checkpoint in ("last", "best", str(trained / "checkpoints" / "step_14.safetensors")):
        out = netc("eval", str(trained), "--checkpoint", checkpoint, "--device", "cpu")
        assert out.startswith(f"{trained}: total ")
        assert out.endswith("(360 samples, cpu)\n")


def test_eval_json(netc: Netc, trained: Path) -> None:
    run = json.loads(netc("eval", str(trained), "--json"))
    assert run.keys() == {"metrics", "samples", "device", "step", "checkpoint"}
    assert run["metrics"].keys() == {"total", "loss", "accuracy"}
    assert (run["samples"], run["step"]) == (360, 14)
    model = json.loads(netc("eval", str(trained / "model.onnx"), "--json"))
    assert model["metrics"] == {"top-1 accuracy": pytest.approx(run["metrics"]["accuracy"])}


def test_export(netc: Netc, trained: Path) -> None:
    out = netc("export", str(trained), "-o", "out.onnx").splitlines()
    assert out[0] == "exported out.onnx: 26,122 parameters, 107 kB, float32, opset 18"
    assert out[1].startswith("on 360 test samples it differs from the evaluation graph by at most ")
    assert Path("out.onnx").read_bytes() == (trained / "model.onnx").read_bytes()


def test_export_json(netc: Netc, trained: Path) -> None:
    report = json.loads(netc("export", str(trained), "-o", "out.onnx", "--checkpoint", "best", "--json"))
    assert report.keys() == {
        "event", "path", "checkpoint", "step", "parameters", "size", "precision", "opset", "format", "softmax",
        "calibration_samples", "weights", "not_folded", "agreement",
    }  # fmt: skip
    assert report["agreement"].keys() == {
        "samples", "difference", "largest", "relative", "output", "accuracy", "before", "after",
    }  # fmt: skip
    assert (report["path"], report["parameters"]) == ("out.onnx", 26122)
    assert report["size"] == Path("out.onnx").stat().st_size


def test_predict(netc: Netc, trained: Path) -> None:
    lines = netc("predict", str(trained), "test:0-2", "train:5").splitlines()
    assert [line.split()[0] for line in lines] == ["test:0", "test:1", "test:2", "train:5"]
    assert all(line.endswith("(right)") or "(wrong, it is " in line for line in lines)


def test_predict_json(netc: Netc, trained: Path) -> None:
    (found,) = json.loads(netc("predict", str(trained / "model.onnx"), "test:7", "--json"))
    assert found.keys() == {"input", "index", "name", "probability", "truth", "truth_name"}
    assert found["input"] == "test:7"
    assert 0 <= found["index"] < 10
    assert 0 < found["probability"] <= 1


def test_predict_arrays_and_images(netc: Netc, trained: Path) -> None:
    # A digit as array, as batch and as image is the digit in the data.
    from netc_runtime.data import open_source

    image = open_source({"source": "digits"}).test["image"][3, 0]
    np.save("one.npy", image)
    np.save("batch.npy", np.stack([image, image])[:, np.newaxis])
    Image.fromarray(np.round(image / 16 * 255).astype(np.uint8)).save("digit.png")
    predictions = json.loads(netc("predict", str(trained), "test:3", "one.npy", "batch.npy", "digit.png", "--json"))
    assert [p["input"] for p in predictions] == ["test:3", "one.npy", "batch.npy[0]", "batch.npy[1]", "digit.png"]
    assert {p["index"] for p in predictions} == {predictions[0]["index"]}
    for p in predictions[1:]:
        assert p["probability"] == pytest.approx(predictions[0]["probability"], abs=0.02)
        assert p["truth"] is None


def test_predict_with_dropout(command: Command, netc: Netc, trained: Path) -> None:
    netc("train", "lenet_bn_dropout", "--run", "sampled", *SHORT)
    options = ["predict", "sampled", "test:0-1", "--mc-dropout", "3"]
    lines = netc(*options).splitlines()
    assert [re.sub(r"\d\.\d{3}", "#", line).split()[2:5] for line in lines] == [["#", "+-", "#"]] * 2
    found = json.loads(netc(*options, "--json"))
    assert [one.keys() for one in found] == [
        {"input", "index", "name", "probability", "truth", "truth_name", "deviation"}
    ] * 2
    assert found == json.loads(netc(*options, "--json", "--seed", "0", "--checkpoint", "best"))
    assert found != json.loads(netc(*options, "--json", "--seed", "1"))
    gone = "sampled/model.onnx is no run: dropout is gone from an exported model; name the run folder instead"
    alone = "chooses what --mc-dropout samples: add --mc-dropout K, or leave it out"
    for arguments, sentence in (
        (["sampled/model.onnx", "test:0", "--mc-dropout", "3"], f"error: {gone}\n"),
        (["sampled", "test:0", "--seed", "3"], f"error: --seed {alone}\n"),
        (["sampled", "test:0", "--checkpoint", "best"], f"error: --checkpoint {alone}\n"),
        (["none", "test:0", "--mc-dropout", "3"], "error: none does not exist; name a run folder"),
        ([str(trained), "test:0", "--mc-dropout", "3"], f"error: {trained} has no dropout to sample: "),
        (["sampled", "test:0", "--mc-dropout", "0"], "Usage: netc predict"),
        (["sampled", "test:0", "--mc-dropout", "3", "-o", "maps"], "error: there are no class maps to write to maps"),
    ):
        code, out, err = command("predict", *arguments)
        assert (code, out) == (2, "")
        assert err.startswith(sentence)


def test_predictions_agree_with_the_accuracy(netc: Netc, trained: Path) -> None:
    accuracy = json.loads(netc("eval", str(trained / "model.onnx"), "--json"))["metrics"]["top-1 accuracy"]
    predictions = json.loads(netc("predict", str(trained), "test:0-359", "--json"))
    assert np.mean([p["index"] == p["truth"] for p in predictions]) == pytest.approx(accuracy)


# -- time and doctor -------------------------------------------------------------------------------------------


def test_time_of_a_spec_and_of_an_artifact(netc: Netc) -> None:
    said = json.loads(netc("time", "mlp", "--steps", "2", "--threads", "1", "--batch-size", "8", "--json"))
    assert (said["name"], said["batch_size"], said["steps"], said["by"]) == ("mlp", 8, 2, "layer")
    netc("compile", "mlp", "-o", "mlp")
    lines = netc("time", "mlp", "--steps", "1", "--threads", "1", "--by", "operator", "--top", "2").splitlines()
    first = [line.split()[0] for line in lines]
    assert len(first) == 7
    assert (first[0], *first[4:]) == ("operator", "(between", "step", "mlp:")


def test_time_needs_no_data(netc: Netc) -> None:
    data = "{source: mnist, path: nowhere, batch_size: 2}"
    said = netc("time", "lenet", "--set", f"data={data}", "--steps", "1", "--threads", "1")
    assert said.splitlines()[-1].startswith("lenet: ")


def test_doctor(netc: Netc) -> None:
    said = json.loads(netc("doctor", "--json"))
    assert said["ok"] is True
    assert "cpu" in said["engines"]
    names = [finding["name"] for finding in said["findings"]]
    assert {"python", "netc", "onnx", "specs", "onnxruntime", "cpu", "cuda", "openvino", "cpus", "pillow"} <= {*names}
    assert netc("doctor").splitlines()[-1].startswith("can train on: cpu")


def test_doctor_without_onnxruntime(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    code, out, err = command("doctor")
    assert (code, err) == (3, "")
    assert "pip install" in out
    assert out.splitlines()[-1] == "cannot train: no engine works"
