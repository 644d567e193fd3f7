"""What export turns a model into: probabilities, other opsets and precisions, ORT format, weights beside it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import netc_runtime.export.run as export_module
from netc_runtime.data import open_source
from netc_runtime.data.base import Source
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.evaluate import evaluate_model
from netc_runtime.export import ExportOptions, ExportReport, export_run
from netc_runtime.export.ort_format import to_ort_format
from netc_runtime.model import Model
from netc_runtime.seal import require_seal

from .conftest import CPU, classified


def exported(run: Path, out: Path, **options: Any) -> ExportReport:
    return export_run(run, out, host=CPU, options=ExportOptions(**options))


@pytest.fixture(scope="module")
def images() -> Any:
    return np.ascontiguousarray(open_source({"source": "digits"}).test["image"], np.float32)


@pytest.fixture(scope="module")
def plain(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as it is exported without any option."""
    return exported(finished_run, tmp_path_factory.mktemp("formats") / "plain.onnx").path


def output(model: Path, images: Any) -> Any:
    """Run the file itself, without netc."""
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]


def said(model: Path) -> dict[str, Any]:
    """Return `netc.export` of the metadata."""
    return json.loads(next(entry.value for entry in onnx.load(model).metadata_props if entry.key == "netc.export"))


def softmax(scores: Any) -> Any:
    powers = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_probabilities_are_those_of_the_scores_and_are_not_taken_twice(
    finished_run: Path, plain: Path, images: Any, tmp_path: Path
) -> None:
    report = exported(finished_run, tmp_path / "p.onnx", softmax=True)
    session = ort.InferenceSession(report.path, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == ["ip.probabilities"]
    # Float32 exponentials of scores up to 30: 30 roundings of 6e-8.
    np.testing.assert_allclose(output(report.path, images), softmax(output(plain, images)), rtol=2e-6, atol=1e-9)
    (spec,) = Model(report.path, CPU).outputs
    assert (spec.name, spec.activation, spec.label) == ("ip.probabilities", None, "label")
    one, two = (classified(path, ["test:0-9"]) for path in (plain, report.path))
    assert [p.index for p in one] == [p.index for p in two]
    assert [p.probability for p in one] == pytest.approx([p.probability for p in two], rel=1e-5)
    assert evaluate_model(plain, CPU).metrics == evaluate_model(report.path, CPU).metrics
    assert report.agreement is not None
    assert report.agreement.largest <= 1 + 1e-6
    assert report.agreement.difference < 1e-5


def test_a_sigmoid_becomes_part_of_the_model(plain: Path, images: Any) -> None:
    from netc_runtime.export.probabilities import add_probabilities
    from netc_runtime.model import activated

    model = onnx.load(plain)
    entry = next(entry for entry in model.metadata_props if entry.key == "netc.interface")
    entry.value = entry.value.replace('"logits"', '"sigmoid"')
    scores = output(plain, images)
    add_probabilities(model)
    found = ort.InferenceSession(model.SerializeToString()).run(["ip.probabilities"], {"image": images})[0]
    expected = 1 / (1 + np.exp(-scores.astype(np.float64)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(activated(scores.astype(np.float64), "sigmoid"), expected, atol=1e-12)
    with pytest.raises(DriverError, match="--softmax has nothing to do: no output of this model goes into") as caught:
        add_probabilities(model)
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize("opset", [14, 17, 18, 21, 23])
def test_other_opsets_give_the_same_numbers(
    finished_run: Path, plain: Path, images: Any, tmp_path: Path, opset: int
) -> None:
    report = exported(finished_run, tmp_path / "o.onnx", opset=opset)
    model = onnx.load(report.path)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert (report.opset, said(report.path)["opset"]) == (opset, opset)
    # Engines of that time refuse a newer format of the file, whatever the operators.
    assert model.ir_version == {14: 7, 17: 8}.get(opset, 10)
    origins = [{entry.key: entry.value for entry in node.metadata_props} for node in model.graph.node]
    assert all(("netc.layer" in origin) == (opset >= 18) for origin in origins)
    np.testing.assert_array_equal(output(report.path, images), output(plain, images))


def test_opsets_that_cannot_be(finished_run: Path, tmp_path: Path) -> None:
    for opset, sentence in (
        (13, r"--opset should be from 14 to \d+, not 13"),
        (999, r"--opset should be from 14 to \d+, not 999"),
    ):
        with pytest.raises(DriverError, match=sentence) as caught:
            exported(finished_run, tmp_path / "x.onnx", opset=opset)
        assert caught.value.exit_code == ExitCode.USAGE
    assert not list(tmp_path.iterdir())


def test_what_the_converter_does_not_know_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from netc_runtime.export.opset import convert_opset

    node = onnx.helper.make_node("Mul", ["x", "x"], ["y"])
    value = onnx.helper.make_tensor_value_info("x", 1, [2])
    graph = onnx.helper.make_graph([node], "g", [value], [onnx.helper.make_tensor_value_info("y", 1, [2])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    sentence = (
        r"cannot be converted to opset 13, ONNX's converter says \(No Adapter .* for Mul\); choose one nearer to 18"
    )
    with pytest.raises(DriverError, match=sentence) as caught:
        convert_opset(model, 13)
    assert caught.value.exit_code == ExitCode.USAGE

    def silent(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(onnx.version_converter, "convert_version", silent)
    with pytest.raises(DriverError, match=r"ONNX's converter says \(it gives no reason\); choose one nearer to 18"):
        convert_opset(model, 13)


@pytest.mark.parametrize("suffix", ["onnx", "ort"])
def test_an_opset_that_the_engine_does_not_know(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """As ONNX Runtime 1.32 does not know DequantizeLinear of opset 28; here it is one that no engine knows."""
    from netc_runtime.export.opset import convert_opset

    def convert_too_far(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
        converted = convert_opset(model, opset)
        converted.graph.node[0].op_type = "Flattened"
        return converted

    monkeypatch.setattr(export_module, "convert_opset", convert_too_far)
    monkeypatch.setattr(export_module, "require_valid", lambda *_: None)
    sentence = r"ONNX Runtime [\d.]+ does not load the model with --opset 21 \(.*Flattened.*\); give a smaller number$"
    with pytest.raises(DriverError, match=sentence) as caught:
        exported(finished_run, tmp_path / f"o.{suffix}", opset=21)
    assert caught.value.exit_code == ExitCode.USAGE
    assert not list(tmp_path.iterdir())


def test_half_precision_between_float32(finished_run: Path, plain: Path, images: Any, tmp_path: Path) -> None:
    report = exported(finished_run, tmp_path / "h.onnx", precision="float16", softmax=True)
    model = onnx.load(report.path)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert types == {"ip.weight": onnx.TensorProto.FLOAT16, "ip.bias": onnx.TensorProto.FLOAT16}
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert model.graph.node[-1].op_type == "Softmax"  # in float32, after the cast
    assert said(report.path)["precision"] == "float16"
    exact = softmax(output(plain, images))
    difference = np.abs(output(report.path, images) - exact).max()
    # Scores of up to 32 round to 2^-6 at worst; a probability moves by a quarter of that.
    assert 1e-6 < difference < 2**-7
    assert report.agreement is not None
    assert report.agreement.difference == pytest.approx(difference, rel=0.01)


def test_half_precision_that_overflows_is_refused(finished_run: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    state = load_file(finished_run / "checkpoints" / "step_132.safetensors")
    state["ip.bias"][3] = 1e6
    save_file(state, tmp_path / "large.safetensors")
    large, half = str(tmp_path / "large.safetensors"), ExportOptions(precision="float16")
    sentence = (
        r"disagrees with eval\.onnx: .* where 0\.01 is allowed; float16 cannot hold ip\.bias \(1e\+06\); .* not written"
    )
    with pytest.raises(DriverError, match=sentence):
        export_run(finished_run, tmp_path / "x.onnx", large, CPU, options=half)
    assert not (tmp_path / "x.onnx").exists()
    assert export_run(finished_run, tmp_path / "x.onnx", large, CPU).agreement is not None


def halved(data: Any, *_: object) -> Source:
    """Digits whose training samples are half as bright as the others."""
    source = open_source(data)
    source.train = {**source.train, "image": source.train["image"][:] / 2}
    return source


def test_int8_is_calibrated_on_training_samples(
    finished_run: Path, images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "open_source", halved)
    report = exported(finished_run, tmp_path / "q.onnx", precision="int8", calibration_samples=100)
    model = onnx.load(report.path)
    onnx.checker.check_model(model, full_check=True)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (quantize,) = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert quantize.input[0] == "flat"  # the images, as the matrix product reads them
    assert constants[quantize.input[1]] == pytest.approx(8 / 255, rel=1e-6)  # and not 16 / 255, as test samples are
    weights = [array for array in constants.values() if array.shape == (64, 10)]
    assert [array.dtype for array in weights] == [np.int8]
    assert np.abs(weights[0]).max() <= 64  # 7 bits: two products of 8 saturate the 16 bits of old CPUs
    assert (report.calibration_samples, said(report.path)["calibration_samples"]) == (100, 100)
    assert [p.key for p in model.metadata_props].count("netc.interface") == 1
    assert not any(entry.key.startswith("onnx.") for entry in model.metadata_props)


def test_int8_has_a_scale_for_each_channel_and_nothing_that_is_implied(finished_run: Path, tmp_path: Path) -> None:
    model = onnx.load(exported(finished_run, tmp_path / "q.onnx", precision="int8", calibration_samples=8).path)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (weight,) = [node for node in model.graph.node if node.input[0] == "ip.weight/q"]
    assert constants[weight.input[1]].shape == (10,)
    assert len(np.unique(constants[weight.input[1]])) == 10
    # Zero points of 0 are not there, nor what nothing reads, and names are short.
    assert [len(node.input) for node in model.graph.node if node.input[0].startswith("ip.")] == [2, 2]
    assert set(constants) == {
        "flat/zero", "flat/scale", "ip.weight/scale", "ip.weight/q", "ip.bias/q", "ip.bias/scale"
    }  # fmt: skip
    assert not model.graph.value_info
    made = {name for node in model.graph.node for name in node.output}
    assert made == {"flat", "flat/q", "flat/dq", "ip.weight/dq", "ip.bias", "ip"}


@pytest.mark.parametrize("shared", [False, True])
def test_scores_that_a_layer_reads_too_stay_quantized_for_it(shared: bool) -> None:
    """The value before the last quantization becomes the output, unless that would take it from another reader."""
    from netc_runtime.export.int8 import _leave_outputs_exact

    texts = ["x = Relu (a)", "q = QuantizeLinear (x, s, z)", "y = DequantizeLinear (q, s, z)"]
    texts += ["b = Neg (x)"] if shared else []
    results = "float[2] y, float[2] b" if shared else "float[2] y"
    header = '<ir_version: 10, opset_import: ["": 18]>'
    constants = "<float s = {0.5}, uint8 z = {0}>"
    model = onnx.parser.parse_model(f"{header} g (float[2] a) => ({results}) {constants} {{ {' '.join(texts)} }}")
    _leave_outputs_exact(model)
    onnx.checker.check_model(model)
    operators = [node.op_type for node in model.graph.node]
    assert operators == (["Relu", "QuantizeLinear", "DequantizeLinear", "Neg"] if shared else ["Relu"])
    found = ort.InferenceSession(model.SerializeToString()).run(["y"], {"a": np.array([0.3, 7], np.float32)})[0]
    assert found[0] == (0.5 if shared else np.float32(0.3))


def test_int8_scores_are_not_rounded_to_steps(finished_run: Path, plain: Path, images: Any, tmp_path: Path) -> None:
    report = exported(finished_run, tmp_path / "q.onnx", precision="int8")
    scores, exact = output(report.path, images), output(plain, images)
    assert len(np.unique(scores)) > 1000  # with quantized scores at most 256
    assert np.abs(scores - exact).max() < 0.05 * np.abs(exact).max()
    assert report.agreement is not None
    assert report.agreement.before == pytest.approx(float((exact.argmax(1) == truth()).mean()))
    assert report.agreement.after == pytest.approx(float((scores.argmax(1) == truth()).mean()))
    again = exported(finished_run, tmp_path / "again.onnx", precision="int8")
    assert again.path.read_bytes() == report.path.read_bytes()


def truth() -> Any:
    return open_source({"source": "digits"}).test["label"][:]


def test_int8_with_a_limit_or_with_nothing_to_quantize(finished_run: Path, plain: Path, tmp_path: Path) -> None:
    with pytest.raises(DriverError, match=r"a share of 0\.0\d+ where 1e-06 is allowed; .*/q\.onnx was not written"):
        exported(finished_run, tmp_path / "q.onnx", precision="int8", tolerance=1e-6)
    from netc_runtime.export.int8 import quantized

    model = onnx.load(plain)
    for node in model.graph.node:
        if node.op_type == "Gemm":
            node.metadata_props.append(onnx.StringStringEntryProto(key="netc.part", value="preprocess"))
    with pytest.raises(DriverError, match="--int8 finds nothing to quantize") as caught:
        quantized(model, open_source({"source": "digits"}).train, Model(plain, CPU).inputs, 8)
    assert caught.value.exit_code == ExitCode.USAGE


def test_what_int8_and_half_precision_need(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    monkeypatch.setitem(sys.modules, "onnxruntime.transformers.float16", None)
    for precision, sentence in (
        ("int8", "--int8 quantizes with onnxruntime.quantization, which cannot be imported"),
        ("float16", "--fp16 converts with ONNX Runtime, which cannot be imported"),
    ):
        with pytest.raises(DriverError, match=sentence) as caught:
            exported(finished_run, tmp_path / "x.onnx", precision=precision)
        assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_ort_format_runs_and_is_sealed(finished_run: Path, images: Any, tmp_path: Path, precision: str) -> None:
    plain = exported(finished_run, tmp_path / "x.onnx", precision=precision).path
    report = exported(finished_run, tmp_path / "x.ort", precision=precision)
    content = report.path.read_bytes()
    assert content[4:8] == b"ORTM"
    assert report.format == "ort"
    # The same kernels, fused otherwise: sums of 64 products may round differently.
    np.testing.assert_allclose(output(report.path, images), output(plain, images), atol=1e-4)
    assert classified(report.path, ["test:0-9"])[3].index == classified(plain, ["test:3"])[0].index
    assert evaluate_model(report.path, CPU).metrics == evaluate_model(plain, CPU).metrics
    for place in (len(content) // 2, content.index(b"netc.digest") + 3, content.index(b"digits")):
        damaged = bytearray(content)
        damaged[place] ^= 1
        if b"netc.digest" in damaged:
            with pytest.raises(DamagedFileError, match="does not have the digest that it records"):
                require_seal(report.path, bytes(damaged))


def test_ort_format_suits_every_machine() -> None:
    """Beyond its level of optimization, convolutions would get the layout of this CPU's vectors, on x86 at least."""
    weights = onnx.numpy_helper.from_array(np.ones((32, 16, 3, 3), np.float32), "w")
    value = onnx.helper.make_tensor_value_info
    inputs, outputs = [value("x", 1, [1, 16, 8, 8])], [value("y", 1, [1, 32, 6, 6])]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Conv", ["x", "w"], ["y"])], "g", inputs, outputs, [weights])
    opsets = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    content = to_ort_format(model.SerializeToString())
    assert b"Conv" in content
    assert b"ReorderInput" not in content


def test_one_file_that_is_too_large(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DriverError, match="ORT format holds at most 2000 bytes, the model takes 2600") as caught:
        exported(finished_run, tmp_path / "m.ort", external_above=2000)
    assert caught.value.exit_code == ExitCode.USAGE
    monkeypatch.setattr(export_module, "_PROTOBUF_LIMIT", 2000)
    for precision in ("float16", "int8"):
        with pytest.raises(DriverError, match="take 2600 bytes, and what makes them smaller reads at most") as caught:
            exported(finished_run, tmp_path / "m.onnx", precision=precision)
        assert caught.value.exit_code == ExitCode.USAGE
    assert exported(finished_run, tmp_path / "m.onnx").size > 2000


def test_a_limit_that_is_not_met_writes_nothing(finished_run: Path, tmp_path: Path) -> None:
    report = exported(finished_run, tmp_path / "x.onnx", precision="float16")
    assert report.agreement is not None
    relative = report.agreement.relative
    assert relative == pytest.approx(report.agreement.difference / report.agreement.largest)
    report.path.unlink()
    assert exported(finished_run, report.path, precision="float16", tolerance=relative * 1.01).path.exists()
    report.path.unlink()
    with pytest.raises(DriverError, match=r"x\.onnx was not written") as caught:
        exported(finished_run, report.path, precision="float16", tolerance=relative * 0.99)
    assert caught.value.exit_code == ExitCode.FAILED
    assert not report.path.exists()


def test_where_a_model_comes_from_is_in_its_metadata(finished_run: Path, plain: Path) -> None:
    checkpoint = finished_run / "checkpoints" / "step_132.safetensors"
    assert said(plain) == {
        "checkpoint": "step_132.safetensors",
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "step": 132,
        "engine": f"ONNX Runtime {ort.__version__}",
        "precision": "float32",
        "calibration_samples": None,
        "softmax": False,
        "opset": 18,
        "not_folded": {},
    }
