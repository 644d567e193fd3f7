"""Export from a run or a compiled folder to a file: convert, prove what will be written, write."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from netc_runtime.artifact import Artifact
from netc_runtime.data import open_source
from netc_runtime.data.base import Source
from netc_runtime.data.batches import check_fit, image_size, sample_count
from netc_runtime.engines import require_engine
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.evaluate import data_section
from netc_runtime.export.bake import bake, fold, load_infer, not_folded, require_valid
from netc_runtime.export.float16 import beyond_float16, in_float16
from netc_runtime.export.int8 import quantized
from netc_runtime.export.opset import convert_opset, opset_of
from netc_runtime.export.options import ExportOptions
from netc_runtime.export.ort_format import refuse_too_large, to_ort_format
from netc_runtime.export.probabilities import add_probabilities
from netc_runtime.export.report import ExportReport
from netc_runtime.export.trained import Trained, find_trained
from netc_runtime.export.verify import Agreement, compare, require
from netc_runtime.external import Weights, moved_out, remove_unneeded, weights_of
from netc_runtime.files import digest_of, storage_errors, write_atomically
from netc_runtime.jsonfields import canonical
from netc_runtime.model import Model
from netc_runtime.seal import unsealed, with_digest
from netc_runtime.session import Host

EXPORT_KEY = "netc.export"
_PROTOBUF_LIMIT = (2 << 30) - (1 << 20)


def export_run(
    run: Path,
    out: Path | None = None,
    checkpoint: str = "last",
    host: Host | None = None,
    verify: bool = True,
    data_overrides: Mapping[str, Any] | None = None,
    warn: Callable[[str], None] = lambda message: None,
    options: ExportOptions | None = None,
    programs: Mapping[str, bytes] | None = None,
) -> ExportReport:
    """Write the inference model of a checkpoint to `out`, by default model.onnx in the folder `run`.

    What is not the plain model has another default, such as model.int8.softmax.onnx.

    `run` is a run folder or a compiled one, `checkpoint` "last", "best" or a file: a checkpoint, or safetensors of any
    origin with the state. `programs` are the bytes of fold.onnx and infer.onnx, and of eval.onnx perhaps, that take the
    place of the artifact's, by key. Unless `verify` is false, the model and eval.onnx first run over the whole test
    split; a model that disagrees is not written. Raises DriverError.
    """
    host, options = host or Host(), options or ExportOptions()
    trained = find_trained(run, checkpoint, programs or {}, warn)
    target = out or run / options.file_name(has_sides=bool(programs))
    if target.is_dir():
        raise DriverError(
            f"{target} is a folder; name the file to write, such as {target / 'model.onnx'}", ExitCode.USAGE
        )
    file_format = options.format_of(target)
    source = _open(trained, data_overrides, options) if verify or options.precision == "int8" else None
    made = _make(trained, source, host, options)
    with _opset_blamed(options, host):
        content, weights = _to_bytes(made, target, trained.artifact, options)
    agreement: Agreement | None = None
    if verify and source is not None:
        for sentence in trained.unfinished(source):
            warn(sentence)
        with _opset_blamed(options, host):
            model = Model(target, host, content, weights)
        agreement = compare(trained, model, source.test, host)
        require(agreement, model, options.limit, made.beyond)
    beside = _write(target, content, weights)
    return ExportReport(
        path=target,
        checkpoint=trained.path,
        step=trained.step,
        parameters=made.parameters,
        size=len(content) + (0 if weights is None else len(weights.content)),
        precision=options.precision,
        opset=opset_of(made.model),
        format=file_format,
        softmax=options.softmax,
        calibration_samples=made.calibration_samples,
        weights=beside,
        not_folded=made.not_folded,
        agreement=agreement,
    )


def _write(target: Path, content: bytes, weights: Weights | None) -> Path | None:
    """Write a model and the file of its weights, which it returns; the model before is whole until it is replaced."""
    with storage_errors("create", target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    before = weights_of(target)
    beside = None if weights is None else target.with_name(weights.name)
    try:
        if weights is not None and beside is not None:
            write_atomically(beside, weights.content)
        write_atomically(target, content)
    except DriverError:
        if beside is not None:
            remove_unneeded(beside)
        raise
    if before is not None:
        remove_unneeded(before)
    return beside


@contextmanager
def _opset_blamed(options: ExportOptions, host: Host) -> Iterator[None]:
    """Name the opset that was asked for where the engine does not load a model: it may know nothing as new."""
    try:
        yield
    except DriverError as error:
        _, refused, reason = str(error).partition(" cannot be loaded: ")
        if options.opset is None or not refused:
            raise
        raise DriverError(
            f"{require_engine(host.device)} does not load the model with --opset {options.opset} ({reason}); give a "
            f"smaller number",
            ExitCode.USAGE,
        ) from error


@dataclass(frozen=True)
class _Made:
    """A model that is not written yet; `beyond` are the constants that its precision cannot hold."""

    model: onnx.ModelProto
    parameters: int
    not_folded: Mapping[str, str]
    calibration_samples: int | None
    beyond: list[str]


def _open(trained: Trained, overrides: Mapping[str, Any] | None, options: ExportOptions) -> Source:
    """Return the data; an error says what they are for, since what is exported needs none."""
    inputs = trained.artifact.graph("eval").inputs_of("batch")
    try:
        source = open_source(data_section(trained.artifact.spec, overrides), image_size(inputs))
    except DriverError as error:
        needs, remedy = "an export is verified", ", or leave that out with --no-verify"
        if options.precision == "int8":
            needs, remedy = "--int8 is calibrated on training samples", ""
        sentence = f"{needs}: name the data with --set data.path=FOLDER{remedy}"
        raise DriverError(f"{error}\n{sentence}", error.exit_code) from error
    check_fit(source, inputs)
    return source


def _make(trained: Trained, source: Source | None, host: Host, options: ExportOptions) -> _Made:
    artifact = trained.artifact
    parameters = fold(artifact, trained.state, host)
    model = load_infer(artifact, host)
    left = not_folded(model)
    if options.opset is not None:
        model = convert_opset(model, options.opset)  # before the weights are inside: the converter takes 2 GiB at most
    bake(model, artifact, parameters)
    size = sum(array.nbytes for array in parameters.values())
    if options.precision != "float32" and size > _PROTOBUF_LIMIT:
        raise DriverError(
            f"the parameters of {artifact.name} take {size} bytes, and what makes them smaller reads at most 2 GiB; "
            f"leave out --fp16 and --int8",
            ExitCode.USAGE,
        )
    beyond, samples = list[str](), None
    if options.precision == "float16":
        beyond = beyond_float16(model)
        model = in_float16(model)
    elif options.precision == "int8":
        assert source is not None, "opened for it"
        samples = min(options.calibration_samples, sample_count(source.train))
        model = quantized(model, source.train, artifact.graph("infer").inputs_of("batch"), samples)
    if options.softmax:
        add_probabilities(model)
    _describe(model, trained, host, options, samples, left)
    return _Made(model, sum(array.size for array in parameters.values()), left, samples, beyond)


def _to_bytes(made: _Made, target: Path, artifact: Artifact, options: ExportOptions) -> tuple[bytes, Weights | None]:
    """Return the content of the file and of that beside it, which is made of what one file cannot hold."""
    size = sum(len(tensor.raw_data) for tensor in made.model.graph.initializer)
    weights: Weights | None = None
    if options.format_of(target) == "ort":
        refuse_too_large(size, options.external_above)
    elif size > options.external_above:
        weights = moved_out(made.model, target.name)
    require_valid(made.model, artifact)
    content = unsealed(made.model)
    if options.format_of(target) == "ort":
        content = to_ort_format(content)
    return with_digest(content), weights


def _describe(
    model: onnx.ModelProto,
    trained: Trained,
    host: Host,
    options: ExportOptions,
    calibration_samples: int | None,
    left: Mapping[str, str],
) -> None:
    """Say in the metadata where the model comes from and what was done to it."""
    artifact, step = trained.artifact, trained.step
    said = {
        "checkpoint": trained.path.name,
        "checkpoint_sha256": digest_of(trained.path),
        "step": step,
        "engine": require_engine(host.device),
        "precision": options.precision,
        "calibration_samples": calibration_samples,
        "softmax": options.softmax,
        "opset": opset_of(model),
        "not_folded": dict(left),
    }
    model.metadata_props.add(key=EXPORT_KEY, value=canonical(said))
    model.doc_string = (
        f"{artifact.name} {f'at step {step}' if step is not None else f'with the weights of {trained.path.name}'}, "
        f"exported by netc {artifact.netc_version}. Inputs take raw values of the data source; mean and scale are part "
        f"of the graph."
    )
