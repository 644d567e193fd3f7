"""OpenVINO as the engine: steps against ONNX Runtime's, exact integers, exact resume, and honest refusals."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from netc.emit import write
from netc_runtime.arrays import Array
from netc_runtime.artifact import Artifact
from netc_runtime.checkpoint import Checkpoint
from netc_runtime.engines import load_program
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.evaluate import evaluate_run
from netc_runtime.export import ExportOptions, export_run
from netc_runtime.interface import Interface
from netc_runtime.model import Model
from netc_runtime.resident import DATASET, Dataset
from netc_runtime.run import RunFolder
from netc_runtime.session import Host
from netc_runtime.step import TrainingStep
from netc_runtime.trainer import TrainOptions, train
from tests.oracle import to_model
from tests.test_openvino_lowerings import bits_against_thresholds, draws, expected_bits, reduction
from tests.zoo import build_for, reduced

from .conftest import CPU, Recorder

pytest.importorskip("openvino", reason='needs the extra "openvino"')
from netc_runtime.openvino_program import OpenVINOProgram

OPENVINO = Host("openvino", threads=1)


@pytest.fixture(scope="module")
def dropout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet with batch normalization and dropout, compiled for OpenVINO."""
    folder = tmp_path_factory.mktemp("openvino") / "artifact"
    write(build_for("lenet_bn_dropout", "openvino", "solver.max_epochs=2"), folder)
    return folder


def batch_of(artifact: Artifact, index: int) -> dict[str, Array]:
    rng = np.random.default_rng(index)
    inputs = {spec.name: spec for spec in artifact.graph("train").inputs_of("batch")}
    image = rng.uniform(0, 16, inputs["image"].static_shape).astype(np.float32)
    return {"image": image, "label": rng.integers(0, 10, inputs["label"].static_shape)}


def program_of(model: onnx.ModelProto, path: Path) -> OpenVINOProgram:
    """Load a model whose inputs have one element each."""
    specs = [
        {"name": x.name, "dtype": helper.tensor_dtype_to_np_dtype(x.type.tensor_type.elem_type).name, "role": "state"}
        for x in model.graph.input
    ]
    shapes = [[dim.dim_value for dim in x.type.tensor_type.shape.dim] for x in model.graph.input]
    inputs = [{**spec, "shape": shape} for spec, shape in zip(specs, shapes, strict=True)]
    interface = Interface.parse({"inputs": inputs, "outputs": []})
    program = load_program(path, OPENVINO, interface, model.SerializeToString())
    assert isinstance(program, OpenVINOProgram)
    return program


def test_signed_arithmetic_is_exact_at_every_threshold(tmp_path: Path) -> None:
    expected = expected_bits()
    program = program_of(to_model(bits_against_thresholds()), tmp_path / "bits.onnx")
    found = program({"seed": np.ones(1, np.uint32)}, tuple(expected))
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
def test_masks_are_those_of_onnxruntime(seed: int, tmp_path: Path) -> None:
    import onnxruntime as ort

    model = to_model(draws())
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    program = program_of(model, tmp_path / "draws.onnx")
    for count in (0, 41, 2**31 - 1):
        feed: dict[str, Array] = {"seed": np.array([seed], np.uint32), "step": np.array(count, np.int64)}
        expected, found = session.run(["mask", "noise"], feed), program(feed, ("mask", "noise"))
        np.testing.assert_array_equal(found["mask"], np.asarray(expected[0]))
        np.testing.assert_allclose(found["noise"], np.asarray(expected[1]), rtol=1e-4, atol=1e-5)


def test_steps_equal_those_of_onnxruntime(dropout: Path) -> None:
    artifact = Artifact.load(dropout)
    ours, theirs = (TrainingStep(artifact, artifact.initial_state(), host) for host in (OPENVINO, CPU))
    assert (ours.device, ours.reason) == ("openvino", "as asked")
    assert ours.engine.startswith("OpenVINO 20")
    for step in (ours, theirs):
        step.set_constant("seed", 3)
    for index in range(4):
        batch = batch_of(artifact, index)
        # Float32 sums in another order: 2e-6 after a step, which training makes larger from step to step.
        assert ours.run(batch) == pytest.approx(theirs.run(batch), rel=1e-3), index
    found, expected = ours.state(), theirs.state()
    assert found["step"] == 4
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_allclose(found[name], array, rtol=0, atol=2e-2 * np.abs(array).max() + 1e-6, err_msg=name)


@pytest.mark.parametrize("dtype", ["uint8", "bool", "float32"])
def test_data_that_stay_are_gathered_and_never_copied_whole(dropout: Path, dtype: str) -> None:
    artifact, rng = Artifact.load(dropout), np.random.default_rng(2)
    shapes = {spec.name: spec.sample_shape for spec in artifact.graph("train").inputs_of("batch")}
    image = rng.integers(0, 2, (500, *shapes["image"])).astype(dtype)
    image.flags.writeable = False
    split = {"image": image, "label": rng.integers(0, 10, 500)}
    step = TrainingStep(artifact, artifact.initial_state(), OPENVINO, dataset=Dataset(split))
    plain = TrainingStep(artifact, artifact.initial_state(), OPENVINO)
    for _ in range(2):
        indices = rng.integers(0, 500, artifact.batch_size)
        assert step.run_at(indices) == plain.run({name: array[indices] for name, array in split.items()})
    program = step._program
    assert isinstance(program, OpenVINOProgram)
    readers = {
        source.get_friendly_name(): node.get_rt_info()["layerType"].value
        for node in program.compiled.get_runtime_model().get_ordered_ops()
        for source in (value.get_source_output().get_node() for value in node.inputs())
        if source.get_friendly_name().startswith(DATASET)
    }
    assert readers == {f"{DATASET}image": "Gather", f"{DATASET}label": "Gather"}


def test_a_step_leaves_the_state_before_it_alone(dropout: Path) -> None:
    artifact = Artifact.load(dropout)
    step = TrainingStep(artifact, artifact.initial_state(), OPENVINO)
    for index in range(3):
        before = step.state()
        step.run(batch_of(artifact, index))
        feeds = step.last_feeds()
        assert feeds is not None
        for name in before.keys() & feeds.keys():
            np.testing.assert_array_equal(feeds[name], before[name], err_msg=name)
    saved = step.state()
    first = step.run(batch_of(artifact, 3))
    after = step.state()
    step.load_state(saved)
    assert step.run(batch_of(artifact, 3)) == first
    for name, array in step.state().items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)


def test_a_stopped_and_resumed_run_is_the_same_bytes(dropout: Path, tmp_path: Path) -> None:
    """On two threads; evaluation, folding and export run in the engine too."""
    host = Host("openvino", threads=2)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(TrainOptions(whole, dropout, host), Recorder())
    half = train(TrainOptions(halves, dropout, host, stop_after_epochs=1), Recorder())
    assert not half.finished
    recorder = Recorder()
    # `auto` goes on with the engine that began.
    assert train(TrainOptions(halves, resume=True), recorder).finished
    assert recorder.warnings == []
    assert last_bytes(halves) == last_bytes(whole)
    artifact = Artifact.load(dropout)
    _, checkpoint = RunFolder(whole).find("last", artifact, pytest.fail)
    assert (checkpoint.device, checkpoint.threads) == ("openvino", 2)
    assert checkpoint.engine.startswith("OpenVINO ")
    metrics = [evaluate_run(whole, host=host).metrics for host in (host, CPU)]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-4)
    report = export_run(whole, host=host)
    assert report.agreement is not None
    # Scores of infer.onnx, whose folded weights OpenVINO computes in float32.
    assert report.agreement.difference <= 1e-5 * report.agreement.largest


def last_bytes(run: Path) -> bytes:
    return max((run / "checkpoints").iterdir(), key=lambda path: int(path.stem.removeprefix("step_"))).read_bytes()


def test_a_run_that_changes_its_engine_says_so(dropout: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(TrainOptions(run, dropout, OPENVINO, stop_after_epochs=1), Recorder())
    recorder = Recorder()
    train(TrainOptions(run, host=Host("cpu"), resume=True), recorder)
    assert recorder.warnings[0].startswith("the run was on openvino and continues on cpu: its bits may differ")
    assert recorder.warnings[1].startswith("the run was with OpenVINO 20")
    assert " and continues with ONNX Runtime 1." in recorder.warnings[1]
    folder = RunFolder(run)
    assert isinstance(folder.find("last", folder.load_artifact(), pytest.fail)[1], Checkpoint)


@pytest.mark.parametrize("name", ["lenet", "alexnet", "resnet18"])
def test_every_node_has_a_kernel(name: str, tmp_path: Path) -> None:
    write(build_for(name, "openvino", *reduced(name)), tmp_path / "artifact")
    artifact = Artifact.load(tmp_path / "artifact")
    program = load_program(artifact.file("train"), OPENVINO, artifact.graph("train"), artifact.content("train"))
    assert isinstance(program, OpenVINOProgram)
    assert program.without_kernel() == []


def test_sums_over_large_planes_are_as_exact_as_reductions(tmp_path: Path) -> None:
    """5e-6: the reduction of this many numbers errs by 1.5e-6, one product of them all by 2.2e-5."""
    x = np.random.default_rng(3).normal(1, 1, (1, 16, 512, 512)).astype(np.float32)
    graph = reduction("ReduceMean", x.shape, [0, 2, 3], 0)
    found = program_of(to_model(graph), tmp_path / "mean.onnx")({"x": x}, ["y"])["y"]
    expected = x.astype(np.float64).mean((0, 2, 3))
    assert np.abs(found / expected - 1).max() < 5e-6


@pytest.mark.parametrize(
    "solver", [(), ("solver={type: Adam, base_lr: 0.001, max_epochs: 1}",), ("solver.weight_average=0.9",)], ids=str
)
def test_a_weight_changes_before_the_gradients_of_earlier_layers(solver: tuple[str, ...], tmp_path: Path) -> None:
    """Or the gradients of all activations would wait in memory until the whole backward pass has been."""
    write(build_for("resnet_tiny", "openvino", *solver), tmp_path / "artifact")
    artifact = Artifact.load(tmp_path / "artifact")
    program = load_program(artifact.file("train"), OPENVINO, artifact.graph("train"), artifact.content("train"))
    assert isinstance(program, OpenVINOProgram)
    about = {node.get_friendly_name(): node.get_rt_info() for node in program.compiled.get_runtime_model().get_ops()}
    order = {name: int(info["execOrder"].value) for name, info in about.items() if "execOrder" in info}
    names = [spec.name for spec in program.interface.inputs if spec.name.endswith("conv2.weight")]
    changes = [order[f"{name}.next/sink_port_0"] for name in names]
    assert len(changes) > 1
    assert changes == sorted(changes, reverse=True)
    backward = [place for name, place in order.items() if name.endswith("grad/ConvTranspose")]
    assert changes[-1] < max(backward)


def test_pooling_with_indices_has_no_kernel(tmp_path: Path) -> None:
    """The reason of two lowerings, and what the test before this one would find."""
    write(build_for("lenet", "cuda"), tmp_path / "artifact")
    artifact = Artifact.load(tmp_path / "artifact")
    program = load_program(artifact.file("train"), OPENVINO, artifact.graph("train"), artifact.content("train"))
    assert isinstance(program, OpenVINOProgram)
    assert program.without_kernel() == ["pool1/forward/MaxPool", "pool2/forward/MaxPool"]


def test_uint32_arithmetic_is_refused(tmp_path: Path) -> None:
    """It would be computed as that of int32, without a word."""
    write(build_for("lenet_bn_dropout", "cpu"), tmp_path / "artifact")
    artifact = Artifact.load(tmp_path / "artifact")
    with pytest.raises(DriverError) as caught:
        TrainingStep(artifact, artifact.initial_state(), OPENVINO)
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(caught.value) == (
        f"{artifact.file('train')} computes random/keys/Cast (Cast) in unsigned integers, which OpenVINO's CPU plugin "
        f"does not do exactly; compile it with --target openvino"
    )


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (helper.make_node("Conv", ["a", "b"], ["y"], name="conv1/forward/Conv"), [2, 4, 3, 3]),
        (helper.make_node("MaxUnpool", ["a", "b"], ["y"], name="pool/grad/MaxUnpool", kernel_shape=[2, 2]), [1]),
    ],
)
def test_a_node_that_the_engine_refuses_is_named(node: onnx.NodeProto, shape: list[int], tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("a", [1, 3, 5, 5]), ("b", shape))]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph([node], "g", values, [output]), opset_imports=[helper.make_opsetid("", 18)]
    )
    with pytest.raises(DriverError) as caught:
        program_of(model, tmp_path / "model.onnx")
    name = f"{node.name} ({node.op_type})"
    where = f"{tmp_path / 'model.onnx'} cannot be loaded"
    assert str(caught.value) == f"{where}: OpenVINO does not take the node {name}; use another --device"


def test_a_damaged_program_is_one_sentence(dropout: Path, tmp_path: Path) -> None:
    broken = tmp_path / "fold.onnx"
    for content in ((dropout / "fold.onnx").read_bytes()[:100], b"", b"some text"):
        broken.write_bytes(content)
        with pytest.raises(DamagedFileError, match=r"is not a readable ONNX model \(damaged or truncated\)"):
            load_program(broken, OPENVINO, Artifact.load(dropout).graph("fold"))
    with pytest.raises(DamagedFileError, match="does not have the inputs that its description lists"):
        load_program(dropout / "eval.onnx", OPENVINO, Artifact.load(dropout).graph("fold"))


def test_a_failing_run_is_one_sentence(dropout: Path) -> None:
    artifact = Artifact.load(dropout)
    program = load_program(artifact.file("eval"), OPENVINO, artifact.graph("eval"))
    with pytest.raises(DriverError, match=r"eval\.onnx failed: its inputs image, label, .* were not given"):
        program({}, ["loss"])
    program.fix(artifact.initial_state())
    wrong = {"image": np.zeros((1, 2, 3), np.float32), "label": np.zeros(1, np.int32)}
    with pytest.raises(DriverError, match=r"eval\.onnx failed: .*shape"):
        program(wrong, ["loss"])


def test_auto_is_openvino_where_it_is_alone(dropout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    artifact = Artifact.load(dropout)
    step = TrainingStep(artifact, artifact.initial_state(), Host("auto", 1))
    assert (step.device, step.reason) == ("openvino", "ONNX Runtime is not installed")


def test_a_missing_openvino_is_one_sentence(dropout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    artifact = Artifact.load(dropout)
    with pytest.raises(DriverError) as caught:
        TrainingStep(artifact, artifact.initial_state(), OPENVINO)
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert str(caught.value) == 'OpenVINO is not installed; install it with: pip install "netc[openvino]"'


def test_weights_beside_a_model_are_read(dropout: Path, tmp_path: Path) -> None:
    """An export on this engine alone is verified by it, from what is not written yet."""
    weights = str(dropout / "init.safetensors")
    small = ExportOptions(external_above=1000)
    report = export_run(dropout, tmp_path / "m.onnx", weights, OPENVINO, options=small)
    assert report.weights is not None
    images = np.random.default_rng(0).uniform(0, 16, (3, 1, 28, 28)).astype(np.float32)
    model, other = Model(report.path, OPENVINO), Model(report.path, CPU)
    names = [spec.name for spec in model.outputs]
    found, expected = (each.program({"image": images}, names) for each in (model, other))
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5 * np.abs(expected[name]).max())


def test_ort_format_is_not_for_this_engine(dropout: Path, tmp_path: Path) -> None:
    path = export_run(dropout, tmp_path / "m.ort", str(dropout / "init.safetensors"), CPU).path
    with pytest.raises(DriverError, match=r"m\.ort is in ORT format, which only ONNX Runtime runs") as caught:
        Model(path, OPENVINO)
    assert caught.value.exit_code == ExitCode.USAGE
