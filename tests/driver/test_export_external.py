"""Models whose weights lie in a second file: what is found where, and that no export harms another model."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import netc_runtime.export.run as export_module
from netc_runtime.data import open_source
from netc_runtime.errors import DamagedFileError, DriverError
from netc_runtime.evaluate import evaluate_model
from netc_runtime.export import ExportOptions, ExportReport, export_run
from netc_runtime.external import moved_out
from netc_runtime.files import write_atomically
from netc_runtime.seal import sealed

from .conftest import CPU, classified


def exported(run: Path, out: Path, checkpoint: str = "last", above: int = 2000) -> ExportReport:
    return export_run(run, out, checkpoint, CPU, options=ExportOptions(external_above=above))


@pytest.fixture(scope="module")
def images() -> Any:
    return np.ascontiguousarray(open_source({"source": "digits"}).test["image"], np.float32)


@pytest.fixture(scope="module")
def plain(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in one file."""
    return export_run(finished_run, tmp_path_factory.mktemp("external") / "plain.onnx", host=CPU).path


@pytest.fixture(scope="module")
def first(finished_run: Path) -> str:
    """The oldest checkpoint that is left, whose weights are not those of the last one."""
    return str(finished_run / "checkpoints" / "step_110.safetensors")


def output(model: Path, images: Any) -> Any:
    """Run the file itself, without netc."""
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_weights_beside_the_model(finished_run: Path, plain: Path, images: Any, tmp_path: Path) -> None:
    report = exported(finished_run, tmp_path / "m.onnx")
    beside = report.weights
    assert beside is not None
    assert report.size == report.path.stat().st_size + beside.stat().st_size
    digest = hashlib.sha256(beside.read_bytes()).hexdigest()
    assert beside == tmp_path / f"m.onnx.{digest[:16]}.data"
    assert names(tmp_path) == ["m.onnx", beside.name]
    onnx.checker.check_model(report.path, full_check=True)
    np.testing.assert_array_equal(output(report.path, images), output(plain, images))  # ONNX Runtime finds the file
    assert classified(report.path, ["test:0-4"]) == classified(plain, ["test:0-4"])
    assert evaluate_model(report.path, CPU).metrics == evaluate_model(plain, CPU).metrics
    (external,) = [
        json.loads(entry.value) for entry in onnx.load(report.path).metadata_props if entry.key == "netc.external"
    ]
    content = beside.read_bytes()
    assert external == {"file": beside.name, "size": 2560, "sha256": digest}
    for changed, error, sentence, code in (
        (content[:-4], DamagedFileError, r"m\.onnx\.\w+\.data is damaged or of another export", 1),
        (bytes(len(content)), DamagedFileError, r"m\.onnx\.\w+\.data is damaged or of another export", 1),
        (
            None,
            DriverError,
            r"m\.onnx keeps its weights in m\.onnx\.\w+\.data, which is not beside it; copy both files",
            2,
        ),
    ):
        beside.unlink()
        if changed is not None:
            beside.write_bytes(changed)
        with pytest.raises(error, match=sentence) as caught:
            classified(report.path, ["test:0"])
        assert caught.value.exit_code == code


@pytest.mark.parametrize("name", ["../secret.data", "/etc/passwd", "a/b.data", ""])
def test_weights_lie_in_no_other_folder(finished_run: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    report = exported(finished_run, folder / "m.onnx")
    path = report.path
    assert report.weights is not None
    (tmp_path / "secret.data").write_bytes(report.weights.read_bytes())
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name
    path.write_bytes(sealed(model))
    with pytest.raises(DamagedFileError, match=r'its tensor "ip\.weight" cannot be found'):
        classified(path, ["test:0"])
    for entry in model.metadata_props:
        if entry.key == "netc.external":
            entry.value = json.dumps({**json.loads(entry.value), "file": name})
    path.write_bytes(sealed(model))
    with pytest.raises(DamagedFileError, match=r"has no usable netc\.external"):
        classified(path, ["test:0"])


def test_large_tensors_begin_where_memory_can_be_mapped() -> None:
    arrays = [np.full(n, n, np.float32) for n in (300, 10, 2000, 500)]
    tensors = [onnx.numpy_helper.from_array(array, f"t{array.size}") for array in arrays]
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], tensors))
    weights = moved_out(model, "m.onnx")
    found = weights.arrays(Path("m.onnx"), model.SerializeToString())
    assert list(found) == ["t300", "t2000", "t500"]  # small tensors stay
    for array in arrays:
        if array.size > 10:
            np.testing.assert_array_equal(found[f"t{array.size}"], array)
    places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in model.graph.initializer]
    # 8,000 bytes from 4,096 on end in the third block.
    assert [place.get("offset") for place in places] == ["0", None, "4096", "12288"]


@pytest.mark.parametrize("fails", [".data", ".onnx"])
def test_an_export_that_breaks_off_leaves_the_model_before(
    finished_run: Path, first: str, images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """Killed after any file, or with a full disk: the first leaves what was written, the second clears it away."""
    exported(finished_run, tmp_path / "m.onnx", first)
    before, expected = names(tmp_path), output(tmp_path / "m.onnx", images)
    for error in (KeyboardInterrupt(), DriverError("the disk is full")):

        def breaking(path: Path, content: bytes, error: BaseException = error) -> None:
            if path.suffix == fails:
                raise error
            write_atomically(path, content)

        monkeypatch.setattr(export_module, "write_atomically", breaking)
        with pytest.raises(type(error)):
            exported(finished_run, tmp_path / "m.onnx")
        np.testing.assert_array_equal(output(tmp_path / "m.onnx", images), expected)
        assert set(names(tmp_path)) >= set(before)
        if isinstance(error, DriverError):
            assert names(tmp_path) == before
    monkeypatch.undo()
    exported(finished_run, tmp_path / "m.onnx")
    assert np.abs(output(tmp_path / "m.onnx", images) - expected).max() > 0.01


def test_weights_that_no_model_needs_any_more_are_removed(
    finished_run: Path, first: str, plain: Path, images: Any, tmp_path: Path
) -> None:
    old = exported(finished_run, tmp_path / "m.onnx", first).weights
    (tmp_path / "empty").touch()
    again = exported(finished_run, tmp_path / "m.onnx", first)
    assert again.weights == old  # the same weights have the same name
    new = exported(finished_run, tmp_path / "m.onnx").weights
    assert old is not None
    assert new is not None
    assert names(tmp_path) == ["empty", "m.onnx", new.name]
    exported(finished_run, tmp_path / "m.onnx", above=10**9)
    assert names(tmp_path) == ["empty", "m.onnx"]
    np.testing.assert_array_equal(output(tmp_path / "m.onnx", images), output(plain, images))


def test_renamed_and_copied_models_stay_whole(finished_run: Path, first: str, images: Any, tmp_path: Path) -> None:
    path = exported(finished_run, tmp_path / "m.onnx", first).path
    expected = output(path, images)
    shutil.copy(path, tmp_path / "copied.backup")
    path.rename(tmp_path / "n.onnx")
    exported(finished_run, path)
    exported(finished_run, tmp_path / "n.onnx")  # of the old weights, the copy is left
    for name in ("m.onnx", "n.onnx"):
        assert np.abs(output(tmp_path / name, images) - expected).max() > 0.01
    (tmp_path / "copied.backup").rename(tmp_path / "copied.onnx")
    np.testing.assert_array_equal(output(tmp_path / "copied.onnx", images), expected)


def test_files_that_netc_did_not_name_are_never_removed(finished_run: Path, first: str, tmp_path: Path) -> None:
    path = exported(finished_run, tmp_path / "m.onnx", first).path
    model = onnx.load(path, load_external_data=False)
    entry = next(entry for entry in model.metadata_props if entry.key == "netc.external")
    (tmp_path / "precious.data").write_text("mine")
    entry.value = json.dumps({**json.loads(entry.value), "file": "precious.data"})
    path.write_bytes(sealed(model))
    exported(finished_run, path)
    assert (tmp_path / "precious.data").read_text() == "mine"
    entry.value = "{}"
    path.write_bytes(sealed(model))
    exported(finished_run, path)
    for junk in (b"netc.external", b"", b"\xff" * 9 + b"netc.external"):  # what is replaced may be anything
        path.write_bytes(junk)
        exported(finished_run, path)
    (tmp_path / "link.onnx").symlink_to(path)
    exported(finished_run, tmp_path / "link.onnx", first)  # takes the place of the link, not of the model
    assert evaluate_model(path, CPU).samples == 360


def test_a_link_finds_the_weights_beside_the_model(finished_run: Path, plain: Path, tmp_path: Path) -> None:
    path = exported(finished_run, tmp_path / "there" / "m.onnx").path
    (tmp_path / "link.onnx").symlink_to(path)
    assert classified(tmp_path / "link.onnx", ["test:0-4"]) == classified(plain, ["test:0-4"])
