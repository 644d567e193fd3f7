"""examples/cpp builds without a warning and trains as the driver does, by packed programs and by plain ones."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.command_line import in_process
from tests.javascript import (
    AGREEMENTS,
    EXAMPLES,
    FIRST,
    STEPS,
    package_of_a_checkpoint,
    prepare,
    program,
    require_agreement,
    spoilt,
    trained_by_the_driver,
)


def library() -> list[str]:
    """Return the option that names the library of the Python package, if that has one that others can link."""
    spec = find_spec("onnxruntime")
    found = (
        [] if spec is None or spec.origin is None else sorted(Path(spec.origin).parent.glob("capi/libonnxruntime.so*"))
    )
    return [f"-DONNXRUNTIME_LIBRARY={path}" for path in found[:1]]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built where CMake finds all that it needs."""
    cmake, build = program("cmake"), tmp_path_factory.mktemp("cpp")
    if not (os.environ.get("CXX") or shutil.which("c++")):
        pytest.skip("there is no C++ compiler")
    # -O0: what is measured here is the engine, and the compiler takes half the time.
    command = [cmake, "-S", str(EXAMPLES / "cpp"), "-B", str(build), "-DCMAKE_CXX_FLAGS=-O0", *library()]
    configured = subprocess.run(command, capture_output=True, text=True, check=False)
    missing = re.search(r"(ONNXRUNTIME_\w+|nlohmann_json) was not found", configured.stderr)
    if missing is not None:
        pytest.skip(f"CMake: {missing[0]}: make examples, or examples/cpp/README.md")
    assert configured.returncode == 0, configured.stderr
    built = subprocess.run([cmake, "--build", str(build)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return build / "train"


@pytest.fixture(scope="module")
def generated(train: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("cpp_data") / "generated")


def run(train: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([train, *arguments], capture_output=True, text=True, check=False)


@AGREEMENTS
def test_weights_agree_with_the_driver(
    overrides: Sequence[str], steps: int, tolerance: float, train: Path, generated: Path, tmp_path: Path
) -> None:
    folder = prepare(tmp_path / "generated", overrides) if overrides else generated
    weights = tmp_path / "weights.safetensors"
    options = ["--steps", str(steps), "--threads", "1", "--out", str(weights)]
    result = run(train, folder / "model", folder / "digits.safetensors", *options)
    assert result.returncode == 0, result.stderr
    # Measured: equal bits with the library of the Python package.
    require_agreement(weights, trained_by_the_driver(folder, steps), tolerance, "C++")
    if steps == STEPS:
        accuracy = re.search(r"^test: .* accuracy (\d\.\d+)", result.stdout, flags=re.MULTILINE)
        assert accuracy is not None, result.stdout
        assert float(accuracy[1]) > 0.9
        assert "test:0  1  (right)\n" in result.stdout


def test_a_package_of_a_checkpoint_goes_on_where_that_ended(train: Path, generated: Path, tmp_path: Path) -> None:
    """Its updates of two runs count on from there, by data without metadata and with statistics computed before."""
    folder, weights = package_of_a_checkpoint(generated, tmp_path), tmp_path / "weights.safetensors"
    data = folder / "digits.safetensors"
    save_file(load_file(data), data)
    result = run(train, folder / "model", data, "--steps", "3", "--threads", "1", "--out", str(weights))
    assert result.returncode == 0, result.stderr
    assert f"step {FIRST + 3}/{FIRST + 3}  total " in result.stdout
    require_agreement(weights, trained_by_the_driver(folder, 3), 1e-5, "C++")
    assert len(re.findall(r"^test:\d  \d  ", result.stdout, flags=re.MULTILINE)) == 5


def test_training_that_diverges_leaves_no_weights(train: Path, generated: Path, tmp_path: Path) -> None:
    data = spoilt(generated, tmp_path)
    result = run(train, generated / "model", data, "--threads", "1", "--out", tmp_path / "weights.safetensors")
    assert (result.returncode, result.stderr) == (4, "training diverged: total is nan at step 1\n")
    assert [path.name for path in tmp_path.iterdir()] == ["digits.safetensors"]


def test_plain_programs_train_too_and_netc_exports_the_weights(
    train: Path, generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    netc, folder, weights = in_process(monkeypatch, capsys), tmp_path / "plain", tmp_path / "weights.safetensors"
    assert netc("compile", "lenet_dsn", "-o", str(folder / "model")).code == 0
    shutil.copy(generated / "digits.safetensors", folder)
    options = ["--steps", "5", "--threads", "1", "--out", str(weights)]
    result = run(train, folder / "model", folder / "digits.safetensors", *options)
    assert result.returncode == 0, result.stderr
    require_agreement(weights, trained_by_the_driver(folder, 5), 1e-5, "C++, plain programs")
    exported = netc("export", str(folder / "model"), "--checkpoint", str(weights), "-o", str(tmp_path / "model.onnx"))
    assert exported.code == 0, exported.err


def test_mistakes_are_said_in_a_sentence(train: Path, generated: Path, tmp_path: Path) -> None:
    model, data = generated / "model", generated / "digits.safetensors"
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(data.read_bytes()[:1000])
    nowhere, tensors = tmp_path / "nowhere", load_file(data)
    empty, few, number = (tmp_path / f"{name}.safetensors" for name in ("empty", "few", "number"))
    save_file({name: array[:0] if "test" in name else array for name, array in tensors.items()}, empty)
    save_file(tensors | {"test.label": tensors["test.label"][:7]}, few)
    save_file(tensors | {"train.image": np.array(1, np.float32)}, number)
    for arguments, said in (
        ([], "an artifact and a file of data are needed"),
        ([model, data, "--color", "red"], "there is no option --color"),
        ([model, data, "--steps"], "--steps needs a value"),
        ([model, data, "--steps", "few"], "--steps should be a whole number from 1 to 2147483647, not few"),
        ([model, data, "--threads", "9999"], "--threads should be a whole number from 0 to 256, not 9999"),
        ([nowhere, data], f"{nowhere / 'manifest.json'} does not exist"),
        ([model, nowhere], f"{nowhere} does not exist"),
        ([model, cut], f"{cut} is not a complete safetensors file"),
        ([model, model / "init.safetensors"], "the data have no split train"),
        ([model, empty], "the field test.image of the data has no samples"),
        ([model, few], "fields of the split test differ in their number of samples: 360, but 7 of test.label"),
        ([model, number], "the field train.image of the data has no samples"),
        ([model, data, "--out", model], f"--out {model} is a folder; name a file"),
        ([model, data, "--out", nowhere / "w"], f"{nowhere}, the folder of --out, does not exist"),
    ):
        result = run(train, *arguments)
        assert result.returncode == 2, result.stdout
        assert said in result.stderr, result.stderr
