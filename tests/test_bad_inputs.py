"""What users get wrong in commands, data and runs: the exact message, the exit code, and nothing left behind.

Every row goes through the real command line, most of them in this process so that the suite stays quick.
"""

# ruff: noqa: E501 (a row is a line, and messages are whole sentences)

import errno
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from tests.command_line import Netc
from tests.small_spec import SPEC, edited, files
from tests.zoo import ZOO

FIT = "use a smaller kernel, more padding or less pooling before it"
NO_CLOCK = "lowerings are chosen by the times of kernels, which are measured on the CPU alone; use --device cpu or openvino, or do not tune"


# -- commands called wrongly, beside spec.yaml; no run, no artifact is needed ----------------------------------

KNOWN_SPECS = f"known: {', '.join(ZOO)}"
BAD_COMMANDS: list[tuple[list[str], int, list[str]]] = [
    (["check", "lennet"], 2, ['there is no file "lennet" and no spec of that name in the zoo; did you mean "lenet"?']),
    (["check", "my.yaml"], 2, [f'there is no file "my.yaml" and no spec of that name in the zoo; {KNOWN_SPECS}']),
    (["check", "a/b.yaml"], 2, ['there is no file "a/b.yaml"']),
    (["check", "."], 2, [".: this is a directory; name a spec file in it"]),
    (["check", "x" * 300], 3, [f"cannot access {'x' * 40}... (300 characters): File name too long; check the path"]),
    # --set: the option is the place of its mistakes
    (["check", "spec.yaml", "--set", "solver.base_lr"], 2, ['--set solver.base_lr: "=" is missing; write key=value, as in solver.base_lr=0.1']),
    (["check", "spec.yaml", "--set", "=1"], 2, ['--set =1: the key "" has an empty part; write it as in solver.base_lr=0.1']),
    (["check", "spec.yaml", "--set", "solver..x=1"], 2, ['--set solver..x=1: the key "solver..x" has an empty part; write it as in solver.base_lr=0.1']),
    (["check", "spec.yaml", "--set", "solver.base_l=1"], 2, ['--set solver.base_l=1: SGD has no field "base_l"; did you mean "base_lr"?']),
    (["check", "spec.yaml", "--set", "solver.base_lr=high"], 2, ['--set solver.base_lr=high: base_lr: expected a number, got "high"']),
    (["check", "spec.yaml", "--set", "layers.cnv.num_output=3"], 2, ['--set layers.cnv.num_output=3: no entry of layers is named "cnv"; did you mean "conv"?']),
    (["check", "spec.yaml", "--set", "layers.9.num_output=3"], 2, ["--set layers.9.num_output=3: layers has 5 entries, counted from 0; there is no 9"]),
    (["check", "spec.yaml", "--set", "layers.conv.kernel_size=9"], 2, [f"--set layers.conv.kernel_size=9: conv: kernel_size 9 is larger than the input 1x8x8 with pad 0; {FIT}"]),
    (["check", "spec.yaml", "--set", "name.x=1"], 2, ['--set name.x=1: cannot set "x" inside "small"; set the whole of it, as in name={x: ...}']),
    (["check", "spec.yaml", "--set", "solver.base_lr=[1"], 2, ['--set solver.base_lr=[1: this "[" is never closed; add "]"']),
    (["check", "spec.yaml", "--set", "name=a\nb"], 2, ["--set 'name=a\\nb': name: \"a b\" is not a valid name (letters, digits and _ - / only)"]),
    (["check", "spec.yaml", "--set", "netc=2", "--set", "data.batch_size=x"], 2, ['--set data.batch_size=x: batch_size: expected an integer, got "x"', "--set netc=2: netc: this netc reads version 1 of the language, not 2; write netc: 1"]),
    # output
    (["compile", "spec.yaml", "-o", "spec.yaml"], 2, ["spec.yaml exists and is not a compiled artifact; choose another folder with -o"]),
    (["compile", "spec.yaml", "-o", "."], 2, [". exists and is not a compiled artifact; choose another folder with -o"]),
    (["compile", "spec.yaml", "-o", "spec.yaml/out"], 3, ["cannot write spec.yaml/out: Not a directory; choose another folder with -o"]),
    (["compile", "spec.yaml", "-o", "/proc/none/out"], 3, ["cannot write /proc/none/out: No such file or directory; choose another folder with -o"]),
    # training
    (["train"], 2, ["name the SPEC to train, or continue a run with --run DIR --resume"]),
    (["train", "--run", "r", "--resume", "--tune"], 2, ["--tune chooses lowerings for a new run: a resumed run keeps its lowerings; leave it out"]),
    (["train", "spec.yaml", "--device", "cuda", "--tune"], 2, [NO_CLOCK]),
    (["tune", "spec.yaml", "--device", "cuda"], 2, [NO_CLOCK]),
    (["train", "--resume"], 2, ["--resume continues a run: name it with --run DIR"]),
    (["train", "--run", "none", "--resume"], 2, ["none is not a run folder, so there is nothing to resume"]),
    (["train", "--run", "none", "--resume", "--seed", "1"], 2, ["--set, --seed, --batch-size and --init-from change a spec: name the SPEC too"]),
    (["train", "spec.yaml", "--run", "none", "--resume"], 2, ["none is not a run folder, so there is nothing to resume"]),
    (["train", "lennet"], 2, ['there is no file "lennet" and no spec of that name in the zoo; did you mean "lenet"?']),
    # what comes after it
    (["eval", "none"], 2, ["none does not exist; name an exported model or a run folder"]),
    (["eval", "."], 2, [". is not a run folder: it has no artifact/; name a run folder, which netc train makes"]),
    (["eval", "none", "--set", "solver.base_lr=1"], 2, ["--set solver.base_lr=1: only keys of data can be changed here, such as data.path=FOLDER"]),
    (["eval", "spec.yaml"], 2, ["spec.yaml is a spec; name the run folder that netc train made of it, or an exported model"]),
    (["predict", "spec.yaml", "test:0"], 2, ["spec.yaml is a spec; name the run folder that netc train made of it, or an exported model"]),
    (["train", "spec.yaml", "--init-from", "spec.yaml", "--run", "made"], 2, ["spec.yaml is a spec; name the run folder that netc train made of it, or an exported model"]),
    (["export", "none"], 2, ["none does not exist; name a run folder, which netc train makes"]),
    (["export", "."], 2, [". is not a run folder: it has no artifact/; name a run folder, which netc train makes"]),
    (["predict", "none.onnx", "test:0"], 2, ["none.onnx does not exist; name an exported model or a run folder"]),
    (["predict", ".", "test:0"], 2, [". has no model.onnx; write one with: netc export ."]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "messages"), BAD_COMMANDS, ids=[" ".join(row[0])[:60] for row in BAD_COMMANDS])  # fmt: skip
def test_bad_command(netc: Netc, arguments: list[str], code: int, messages: list[str]) -> None:
    result = netc(*arguments)
    assert result.errors == [f"error: {message}" for message in messages]
    assert (result.code, result.out) == (code, "")
    assert files() == {"spec.yaml"}


USAGE: list[tuple[list[str], str]] = [
    (["chek"], "No such command 'chek'. Did you mean 'check'"),
    (["check"], "Missing argument 'SPEC'."),
    (["check", "mlp", "--sett", "a=1"], "No such option: --sett (Possible options: --set)"),
    (["compile", "mlp", "--target", "tpu"], "'tpu' is not one of 'cpu', 'cuda', 'web', 'openvino'."),
    (["train", "mlp", "--device", "gpu"], "'gpu' is not one of 'auto', 'cpu', 'cuda', 'openvino'."),
    (["train", "mlp", "--batch-size", "0"], "Invalid value for '--batch-size'"),
    (["train", "mlp", "--seed", "-1"], "Invalid value for '--seed'"),
    (["predict", "model.onnx"], "Missing argument 'INPUT...'."),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), USAGE, ids=[" ".join(row[0]) for row in USAGE])
def test_usage(netc: Netc, arguments: list[str], message: str) -> None:
    # The words are click's own; the command line adds nothing to them.
    result = netc(*arguments)
    assert message in result.err
    assert result.err.startswith("Usage: netc")
    assert (result.code, result.out) == (2, "")
    assert files() == {"spec.yaml"}


def test_spec_inside_a_damaged_artifact(netc: Netc) -> None:
    folder = Path("artifact")
    folder.mkdir()
    for content in ("{", "{}", "[]"):
        (folder / "manifest.json").write_text(content)
        result = netc("check", "artifact")
        message = "artifact/manifest.json is not the manifest of an artifact; compile the spec again"
        assert (result.code, result.errors) == (2, [f"error: {message}"])
    (folder / "manifest.json").write_text('{"format": "netc.artifact", "spec": 5}')
    result = netc("check", "artifact")
    assert (result.code, result.errors) == (2, ["error: artifact/manifest.json has no spec; compile it again"])


# -- data that does not fit ------------------------------------------------------------------------------------


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def mnist() -> Path:
    """A folder with 40 and 20 samples of 8 x 8 in the format of MNIST."""
    folder = Path("mnist")
    folder.mkdir()
    for part, count in (("train", 40), ("t10k", 20)):
        write_idx(folder / f"{part}-images-idx3-ubyte", np.zeros((count, 8, 8)))
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    return folder


BAD_DATA: list[tuple[str, list[str], int, str]] = [
    ("shape with a remedy", ["inputs.image.shape=[1, 28, 28]"], 2, 'the data source gives "image" as [1, 8, 8], the input "image" is declared as [1, 28, 28]; ' "set data.resize: [28, 28]"),
    ("channels", ["inputs.image.shape=[3, 8, 8]"], 2, 'the data source gives "image" as [1, 8, 8], the input "image" is declared as [3, 8, 8]; ' "declare the input with shape: [1, 8, 8]"),
    ("resize beyond all memory", ["data.resize=[100000, 100000]"], 2, "data.resize: 1437 images resized to [100000, 100000] would take 53532 GiB of memory, the limit is 16; choose a smaller size"),
    ("labels beyond the classes", ["inputs.label.classes=5"], 2, "sample 2 of the train split has the label 8, but the spec declares 5 classes (0 to 4); correct `classes` of the input, or give every loss and metric of it that ignore_label"),
    ("batch larger than the data", ["data.batch_size=2000"], 2, "data.batch_size: the training split has 1437 samples, fewer than one batch of 2000; choose a batch_size of at most 1437"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "code", "message"), [row[1:] for row in BAD_DATA], ids=[row[0] for row in BAD_DATA]
)
def test_data_that_does_not_fit(netc: Netc, options: list[str], code: int, message: str) -> None:
    sets = [word for option in options for word in ("--set", option)]
    result = netc("train", "spec.yaml", "--run", "run", *sets)
    assert (result.code, result.errors) == (code, [f"error: {message}"])
    assert files() == {"spec.yaml"}


def truncate(path: Path, end: int) -> None:
    path.write_bytes(path.read_bytes()[:end])


BAD_IDX: list[tuple[str, Callable[[Path], object], int, str]] = [
    ("truncated", lambda folder: truncate(folder / "train-images-idx3-ubyte", -5), 1, "mnist/train-images-idx3-ubyte is truncated: 2560 bytes of data expected, 2555 found"),
    ("truncated header", lambda folder: truncate(folder / "train-labels-idx1-ubyte", 6), 1, "mnist/train-labels-idx1-ubyte is truncated: a header of 8 bytes expected, 6 found"),
    ("of another format", lambda folder: (folder / "train-images-idx3-ubyte").write_text("JPEG and more"), 1, "mnist/train-images-idx3-ubyte is not an IDX file of unsigned bytes with 3 axes: it should begin with 00 00 08 03, not 4a 50 45 47"),
    ("claims more than memory", lambda folder: (folder / "train-images-idx3-ubyte").write_bytes(bytes((0, 0, 8, 3)) + b"\xff" * 12), 1, f"mnist/train-images-idx3-ubyte claims {(2**32 - 1) ** 3} bytes of data, the limit is 2147483648"),
    ("label out of range", lambda folder: write_idx(folder / "t10k-labels-idx1-ubyte", np.full(20, 11)), 2, "sample 0 of the test split has the label 11, but the spec declares 10 classes (0 to 9); correct `classes` of the input, or give every loss and metric of it that ignore_label"),
    ("of different lengths", lambda folder: write_idx(folder / "train-labels-idx1-ubyte", np.zeros(39)), 1, "mnist/train-images-idx3-ubyte holds 40 images but mnist/train-labels-idx1-ubyte holds 39 labels; they must be of one set"),
    ("missing", lambda folder: (folder / "t10k-labels-idx1-ubyte").unlink(), 2, "--set data.path=mnist: mnist lacks t10k-labels-idx1-ubyte (each plain, with .gz or with .xz)"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "code", "message"), [row[1:] for row in BAD_IDX], ids=[row[0] for row in BAD_IDX])
def test_bad_idx(netc: Netc, mnist: Path, damage: Callable[[Path], object], code: int, message: str) -> None:
    damage(mnist)
    before = files()
    options = ["--set", "data.source=mnist", "--set", "data.path=mnist"]
    result = netc("train", "spec.yaml", "--run", "run", *options)
    assert (result.code, result.errors) == (code, [f"error: {message}"])
    assert files() == before


# -- runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run; tests take copies."""
    folder = tmp_path_factory.mktemp("bad_inputs")
    (folder / "spec.yaml").write_text(SPEC)
    command = [sys.executable, "-m", "netc.cli", "train", "spec.yaml", "--run", "run", "--threads", "1"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def run(netc: Netc, finished: Path) -> Path:
    """A copy of a finished run, at ./run."""
    shutil.copytree(finished / "run", "run")
    return Path("run")


def make_inputs() -> None:
    """Write what rows want to be predicted."""
    np.save("small.npy", np.zeros((3, 3)))
    np.save("nan.npy", np.full((2, 1, 8, 8), [[[[0.0]]], [[[np.nan]]]]))
    np.save("nothing.npy", np.zeros((0, 1, 8, 8)))
    np.save("text.npy", np.array(["a"]))
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    Path("empty.npy").write_bytes(b"")
    Path("text.png").write_text("not an image")
    Path("folder").mkdir()


BAD_RUNS: list[tuple[list[str], int, str]] = [
    (["train", "spec.yaml", "--run", "run"], 2, "run already holds a run; choose another run folder, or continue it with: netc train --run run --resume"),
    (["train", "spec.yaml", "--run", "run", "--resume", "--set", "layers.conv.num_output=5", "--set", "solver.base_lr=0.1"], 2, "the run run belongs to another spec; it differs in layers.conv.num_output (4 there, 5 here), solver.base_lr (0.01 there, 0.1 here); start a new run, or restore the spec"),
    (["eval", "run", "--checkpoint", "none"], 2, "there is no checkpoint none; give last, best, or the path of a file such as run/checkpoints/step_N.safetensors"),
    (["eval", "nope"], 2, "nope does not exist; name an exported model or a run folder"),
    (["eval", "run", "--set", "data.source=mnist", "--set", "data.path=5"], 2, "data.path: path should be the folder with the four IDX files, as a text, not 5"),
    (["export", "spec.yaml"], 2, "spec.yaml is a spec, and only what is trained can be exported; name a run folder, which netc train spec.yaml makes, or pack its training programs with --what train"),
    (["export", "run", "-o", "folder"], 2, "folder is a folder; name the file to write, such as folder/model.onnx"),
    (["export", "run", "-o", "spec.yaml/out.onnx"], 2, "cannot create spec.yaml: a part of this path is a file, not a folder; choose another place"),
    (["train", "spec.yaml", "--run", "spec.yaml"], 2, "spec.yaml is a file; choose another run folder"),
    (["eval", "run", "--set", "data.foo=1"], 2, 'data.foo: unknown option "foo" of the source "digits"; known: augment, batch_size, classes, limit, mean, range, resident, resize, scale, source, split, std, test_views'),
    (["eval", "run", "--set", "data.source=mnist"], 2, 'data.path: the source "mnist" needs `path`: the folder with the four IDX files; or fetch them with: netc data fetch mnist'),
    (["predict", "run", "none.png"], 2, "none.png does not exist or is not a file; give an image, a .npy file, or a sample such as test:17"),
    (["predict", "run", "folder"], 2, "folder does not exist or is not a file; give an image, a .npy file, or a sample such as test:17"),
    (["predict", "run", "test:360"], 2, "test:360 is out of range: the test split has the samples 0 to 359"),
    (["predict", "run", "test:5-2"], 2, "test:5-2 is reversed; write test:2-5"),
    (["predict", "run", "nothing.npy"], 1, "nothing.npy holds an array [0, 1, 8, 8]: no sample at all"),
    (["predict", "run", "valid:3"], 2, "valid:3 does not exist or is not a file; give an image, a .npy file, or a sample such as test:17"),
    (["predict", "run", "small.npy"], 2, "small.npy holds an array [3, 3]; the model takes one sample [1, 8, 8] or a batch [N, 1, 8, 8]"),
    (["predict", "run", "nan.npy"], 1, "sample 1 of nan.npy has a value that is not finite"),
    (["predict", "run", "text.npy"], 1, "text.npy holds <U1 values; real numbers are needed"),
    (["predict", "run", "objects.npy"], 1, "objects.npy holds Python objects; real numbers are needed"),
    (["predict", "run", "empty.npy"], 1, "empty.npy is not an array that numpy can read: EOF: reading magic string, expected 8 bytes got 0"),
    (["predict", "run", "text.png"], 1, "text.png is not an image (PNG, JPEG, BMP, GIF, PPM, TIFF, WEBP)"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "message"), BAD_RUNS, ids=[" ".join(row[0])[:60] for row in BAD_RUNS])
def test_bad_use_of_a_run(netc: Netc, run: Path, arguments: list[str], code: int, message: str) -> None:
    make_inputs()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    result = netc(*arguments)
    assert (result.code, result.errors) == (code, [f"error: {message}"])
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_truncated_model(netc: Netc, run: Path) -> None:
    truncate(run / "model.onnx", -200)
    for command in (["eval", "run/model.onnx"], ["predict", "run", "test:0"]):
        result = netc(*command)
        message = "run/model.onnx is not a readable ONNX model (damaged or truncated); export or compile it again"
        assert (result.code, result.errors) == (1, [f"error: {message}"])


def test_model_that_was_not_exported(netc: Netc, run: Path) -> None:
    result = netc("eval", "run/artifact/infer.onnx")
    message = (
        "run/artifact/infer.onnx is not a model exported by netc: its metadata has no usable netc.data; write one with: "
        "netc export RUN"
    )
    assert (result.code, result.errors) == (1, [f"error: {message}"])


def test_truncated_checkpoint(netc: Netc, run: Path) -> None:
    truncate(run / "checkpoints" / "step_71.safetensors", 100)
    for command in (["eval", "run"], ["export", "run", "-o", "out.onnx"], ["train", "--run", "run", "--resume"]):
        result = netc(*command)
        assert result.code == 1
        assert result.errors[0].startswith("warning: run/checkpoints/step_71.safetensors is damaged")
        assert result.errors[1:] == ["error: all 1 checkpoints in run/checkpoints are damaged; start a new run"]
        assert not Path("out.onnx").exists()


def test_checkpoint_of_another_spec(netc: Netc, run: Path) -> None:
    assert netc("train", "spec.yaml", "--run", "other", "--set", "solver.base_lr=0.02").code == 0
    for command in ("eval", "export"):
        result = netc(command, "run", "--checkpoint", "other/checkpoints/step_71.safetensors")
        assert (result.code, result.errors) == (
            2,
            [
                "error: the checkpoint other/checkpoints/step_71.safetensors belongs to another spec; it differs in "
                "solver.base_lr (0.02 there, 0.01 here); start a new run, or restore the spec"
            ],
        )


def test_diverged(netc: Netc) -> None:
    result = netc("train", "spec.yaml", "--run", "run", "--set", "solver.base_lr=1e30")
    assert (result.code, result.errors) == (
        4,
        [
            "error: training diverged at step 2: the first non-finite values are in the forward pass of ip "
            "(ip/forward/Gemm); total is nan, loss is nan; no checkpoint was written yet; start a new run with a lower "
            "solver.base_lr (now 1e+30)"
        ],
    )
    assert not list(Path("run/checkpoints").iterdir())
    assert not Path("run/model.onnx").exists()


def test_artifact_with_a_damaged_program(netc: Netc) -> None:
    assert netc("compile", "spec.yaml", "-o", "artifact").code == 0
    Path("artifact/train.onnx").write_bytes(b"damaged")
    result = netc("train", "artifact", "--run", "run")
    assert result.code == 1
    assert result.errors == [
        "error: artifact/train.onnx is damaged: its content does not have the digest that manifest.json records; compile "
        "the spec again"
    ]
    Path("artifact/train.onnx").unlink()
    result = netc("train", "artifact", "--run", "run")
    assert (result.code, result.errors) == (
        1,
        ["error: artifact is incomplete: train.onnx is missing; compile the spec again"],
    )
    assert not Path("run").exists()


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this machine may have CUDA")
def test_cuda_without_cuda(netc: Netc) -> None:
    result = netc("train", "spec.yaml", "--run", "run", "--device", "cuda")
    assert (result.code, result.errors) == (
        3,
        [
            "error: CUDA was asked for but is not active: this ONNX Runtime has no CUDA provider; use --device cpu, or "
            "repair the installation of the NVIDIA driver, CUDA and cuDNN"
        ],
    )
    assert files() == {"spec.yaml"}


# -- a disk that fills ---------------------------------------------------------------------------------------


def test_disk_full_while_compiling(netc: Netc, monkeypatch: pytest.MonkeyPatch) -> None:
    assert netc("compile", "spec.yaml", "-o", "out").code == 0
    before = {path: path.read_bytes() for path in Path("out").iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for folder in ("out", "new"):
        result = netc("compile", "spec.yaml", "-o", folder, "--set", "layers.conv.num_output=5")
        message = f"cannot write {folder}: No space left on device; choose another folder with -o"
        assert (result.code, result.errors) == (3, [f"error: {message}"])
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before
    assert {path.name for path in Path().iterdir()} == {"spec.yaml", "out"}


def test_artifact_that_cannot_be_replaced(netc: Netc, monkeypatch: pytest.MonkeyPatch) -> None:
    """What remains is no artifact, rather than parts of two under one manifest."""
    assert netc("compile", "spec.yaml", "-o", "out").code == 0
    replace = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if target.name == "infer.onnx":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    result = netc("compile", "spec.yaml", "-o", "out", "--set", "layers.conv.num_output=5")
    assert (result.code, result.errors) == (
        3,
        ["error: cannot write out: Permission denied; choose another folder with -o"],
    )
    assert "manifest.json" not in {path.name for path in Path("out").iterdir()}
    assert not any(path.name.startswith(".netc-") for path in Path("out").iterdir())


def fill_disk(monkeypatch: pytest.MonkeyPatch, folder: str, after: int = 0) -> None:
    """Let writes into files below `folder` fail half way, all but the first `after`."""
    write, left = os.write, [after]

    def refuse(descriptor: int, content: bytes) -> int:
        if f"/{folder}" not in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            return write(descriptor, content)
        left[0] -= 1
        if left[0] >= 0:
            return write(descriptor, content)
        write(descriptor, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", refuse)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs to know which file a descriptor is")
def test_disk_full_while_saving_a_checkpoint(netc: Netc, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch, "checkpoints", after=1)
    result = netc("train", "spec.yaml", "--run", "run", "--set", "solver.max_epochs=3")
    message = (
        "cannot write run/checkpoints/step_142.safetensors: the disk is full; free some space and run the command again"
    )
    assert (result.code, result.errors) == (3, [f"error: {message}"])
    assert files(Path("run/checkpoints")) == {"step_71.safetensors"}
    monkeypatch.undo()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs to know which file a descriptor is")
def test_disk_full_while_exporting(netc: Netc, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (run / "model.onnx").read_bytes()
    fill_disk(monkeypatch, "run/")
    result = netc("export", "run")
    message = "cannot write run/model.onnx: the disk is full; free some space and run the command again"
    assert (result.code, result.errors) == (3, [f"error: {message}"])
    assert (run / "model.onnx").read_bytes() == before
    assert not list(run.glob("*.tmp")) + list(run.glob(".*.tmp"))


# -- the installed command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["check", "bad.yaml"], 2, 'error: bad.yaml:10:24: unknown layer type "Convolutoin"; did you mean "Convolution"?'),
        (["check", "binary"], 2, "error: binary: the byte at offset 0 is zero, so this is no text; name a spec file, saved as UTF-8"),
        (["compile", "good.yaml", "-o", "good.yaml"], 2, "error: good.yaml exists and is not a compiled artifact; choose another folder with -o"),
        (["train", "--run", "none", "--resume"], 2, "error: none is not a run folder, so there is nothing to resume"),
    ],
    ids=["spec", "binary", "output", "resume"],
)  # fmt: skip
def test_command(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    (tmp_path / "good.yaml").write_text(SPEC)
    (tmp_path / "bad.yaml").write_text(edited(("Convolution", "Convolutoin")))
    (tmp_path / "binary").write_bytes(b"\0\1\2")
    netc = Path(sys.executable).with_name("netc")
    result = subprocess.run([netc, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr, result.stdout) == (code, f"{message}\n", "")
    assert files(tmp_path) == {"good.yaml", "bad.yaml", "binary"}
