"""The manifest: what it must say, and the sentence for each way in which it can be wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from netc_runtime.artifact import GRAPHS, Artifact
from netc_runtime.errors import DriverError, ExitCode

from .handmade import first_state

Manifest = dict[str, Any]


@pytest.fixture
def copy(artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifact, tmp_path / "copy"))


def test_the_handmade_artifact_is_read(artifact: Path) -> None:
    loaded = Artifact.load(artifact)
    assert (loaded.name, loaded.batch_size) == ("handmade", 64)
    assert loaded.metrics_of("side_loss") == ("l1",)
    label = loaded.graph("train").inputs_of("batch")[1]
    assert (label.field, label.classes, label.static_shape, label.sample_shape) == ("label", 10, (64,), ())
    assert loaded.graph("eval").outputs_of("output")[0].activation == "logits"
    for name, array in loaded.initial_state().items():
        np.testing.assert_array_equal(array, first_state()[name])


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path, what in ((tmp_path / "none", "does not exist"), (file, "is not a folder")):
        with pytest.raises(DriverError) as caught:
            Artifact.load(path)
        assert str(caught.value) == f"{path} {what}; give the folder that netc compile wrote"
        assert caught.value.exit_code == ExitCode.USAGE
    with pytest.raises(DriverError, match=r"is not a netc artifact: it has no manifest\.json") as caught:
        Artifact.load(tmp_path)
    assert caught.value.exit_code == ExitCode.USAGE


INIT_FROM = {"path": "x", "checkpoint": "last", "rename": {}, "drawn": []}
TRAIN = {"graph": "train"}


def put(*path: Any, value: Any) -> Callable[[Manifest], None]:
    def apply(manifest: Manifest) -> None:
        place: Any = manifest
        for key in path[:-1]:
            place = place[key]
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = value

    return apply


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (put("format", value="onnx"), '"format" should be "netc.artifact"'),
        (put("format_version", value=2), "its format_version is 2, this driver reads 1"),
        (put("spec", value=None), 'the key "spec" is missing'),
        (put("init_from", value={"path": "x"}), 'the key "rename" is missing'),
        (
            put("init_from", value=INIT_FROM | {"checkpoint": "/etc/passwd"}),
            '"checkpoint" of "init_from" should be last or best, not "/etc/passwd"',
        ),
        (put("init_from", value=INIT_FROM | {"rename": {"a": 1}}), '"a" should be a JSON string, not 1'),
        (
            put("init_from", value=INIT_FROM | {"rename": {"a*": "b"}}),
            '"rename" of "init_from" has "a*" and "b" with different numbers of *',
        ),
        (put("phases", value=[{"graph": "train.1"}]), 'the graph "train.1" of a phase is missing'),
        (put("phases", value=[{"graph": "train", "epochs": 0}]), "a phase has the length [0, None]"),
        (put("phases", value=[TRAIN, TRAIN]), "every phase but the last one should have one length"),
        (put("phases", value=[TRAIN | {"epochs": 1}]), "every phase but the last one should have one length"),
        (put("phases", value=3), '"phases" should be a JSON array, not 3'),
        (put("batch_size", value=True), '"batch_size" should be a JSON integer, not true'),
        (put("batch_size", value=0), '"batch_size" should be at least 1, not 0'),
        (put("batch_size", value=-1), '"batch_size" should be at least 1, not -1'),
        (
            put("batch_size", value=32),
            'train takes "image" with the shape [64, 1, 8, 8], which is no batch of 32 samples',
        ),
        (
            put("graphs", "train", "inputs", 7, "shape", value=[]),
            'train takes "label" with the shape [], which is no batch of 64 samples',
        ),
        *((put("graphs", key, value=None), f'the graph "{key}" is missing') for key in GRAPHS),
        (put("state", value=[3]), '"state" should be a list of JSON objects'),
        (put("state", 0, "dtype", value="bfloat16"), 'has the dtype "bfloat16", which this driver does not know'),
        (put("state", 0, "shape", value=[-1]), 'the tensor "ip.weight" has the shape [-1]'),
        (put("graphs", "train", value=[]), 'the graph "train" should be a JSON object'),
        (put("graphs", "train", "file", value="../x.onnx"), 'has the file "../x.onnx", which is not a plain file name'),
        (
            put("graphs", "train", "inputs", 0, "name", value="w"),
            'train takes the state "w", which is not declared',
        ),
        (
            put("graphs", "train", "outputs", 0, "feeds", value="w"),
            'train feeds "ip.weight.next" to the state "w", which is not declared',
        ),
        (
            put("graphs", "train", "outputs", 0, "feeds", value="seed"),
            'train changes the state "seed", which the host alone sets',
        ),
        (
            put("graphs", "eval", "outputs", 1, "weight", value=None),
            'the metric "total" of eval has no output with its weight',
        ),
        (
            put("graphs", "eval", "outputs", 1, "shape", value=[1]),
            'the metric "total" of eval should be a scalar',
        ),
        (
            put("graphs", "fold", "outputs", 0, "feeds", value="ip.bias"),
            'fold computes no value for the parameter "ip.weight" of infer',
        ),
    ],
)
def test_a_wrong_manifest_is_one_sentence(copy: Path, change: Callable[[Manifest], None], sentence: str) -> None:
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(DriverError) as caught:
        Artifact.load(copy)
    message = str(caught.value)
    assert message.startswith(f"{path} is not a manifest of netc: ")
    assert message.endswith(f"{sentence}; compile the spec again")
    assert caught.value.exit_code == ExitCode.FAILED


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"format": ' + b"9" * 5000 + b"}"]
)
def test_a_manifest_that_is_no_json_object(copy: Path, content: bytes) -> None:
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(DriverError, match=r"is not a manifest of netc: it is not (JSON|a JSON object)"):
        Artifact.load(copy)


def test_a_missing_file_and_a_first_state_that_does_not_match(copy: Path) -> None:
    save_file({**first_state(), "ip.bias": np.zeros(11, np.float32)}, copy / "init.safetensors")
    with pytest.raises(DriverError, match=r'holds "ip.bias" as F32 \[11\], the manifest declares F32 \[10\]'):
        Artifact.load(copy).initial_state()
    (copy / "fold.onnx").unlink()
    with pytest.raises(DriverError, match=r"is incomplete: fold\.onnx is missing; compile the spec again"):
        Artifact.load(copy)


def test_an_output_may_lack_its_label(copy: Path) -> None:
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    assert Artifact.load(copy).graph("infer").outputs[0].label == "label"
    del manifest["graphs"]["infer"]["outputs"][0]["label"]
    path.write_text(json.dumps(manifest))
    assert Artifact.load(copy).graph("infer").outputs[0].label is None
