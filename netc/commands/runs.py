"""The commands about runs: train, eval, predict."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from netc.commands.common import (
    BatchOption,
    CheckpointOption,
    CudaGraphOption,
    DataSetOption,
    Device,
    DeviceOption,
    JsonOption,
    SetOption,
    Tf32Option,
    ThreadsOption,
    artifact_folder,
    drive,
    print_json,
    warn,
)
from netc.commands.data_options import data_to_evaluate, data_to_predict
from netc.commands.export import show_export
from netc.commands.tuning import host_to_tune, tuned
from netc.errors import UsageError
from netc.stopping import remedied

ViewsOption = Annotated[
    bool, typer.Option("--tta", help="Average over the test-time views that data.test_views declares.")
]


def train(
    spec: Annotated[
        str | None,
        typer.Argument(metavar="SPEC|ARTIFACT", help="A YAML file, a name of the zoo, or a compiled folder."),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder; default runs/NAME, numbered if taken.")] = None,
    device: DeviceOption = Device.AUTO,
    threads: ThreadsOption = None,
    tf32: Tf32Option = False,
    cuda_graph: CudaGraphOption = True,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --run exactly.")] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, metavar="N", help="Override solver.random_seed.")
    ] = None,
    batch_size: BatchOption = None,
    init_from: Annotated[
        str | None, typer.Option(metavar="PATH", help="Start from a run, a compiled folder, safetensors or ONNX.")
    ] = None,
    stop_after_epochs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after N epochs; --resume continues exactly.")
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="First measure which lowerings are fastest on this machine's CPU.")
    ] = False,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a spec; at the end evaluate it and export RUN/model.onnx.

    Example: netc train lenet_dsn --run runs/first --set solver.max_epochs=3
    """
    from netc.arguments import free_folder, spec_overrides
    from netc.emit import write

    options = spec_overrides(overrides, batch_size, seed, init_from)
    if spec is None and not resume:
        raise UsageError("name the SPEC to train, or continue a run with --run DIR --resume")
    if resume and run is None:
        raise UsageError("--resume continues a run: name it with --run DIR")
    if spec is None and options:
        raise UsageError("--set, --seed, --batch-size and --init-from change a spec: name the SPEC too")

    if tune and resume:
        raise UsageError("--tune chooses lowerings for a new run: a resumed run keeps its lowerings; leave it out")

    from netc_runtime.engines import require_engine
    from netc_runtime.export import export_run
    from netc_runtime.progress import make_reporter
    from netc_runtime.session import Cuda, Host
    from netc_runtime.trainer import TrainOptions
    from netc_runtime.trainer import train as run_training

    drive(lambda: require_engine(device.value))
    host = Host(device.value, threads, Cuda(tf32=tf32, graph=cuda_graph))
    if tune:
        host = host_to_tune(device, threads)
    reporter = make_reporter(as_json)
    with tempfile.TemporaryDirectory(prefix="netc-") as scratch:
        artifact: Path | None = None
        if spec is not None:
            if tune:
                found = tuned(spec, options, host, need_data=True)
                compiled = found.artifact
                if not as_json:
                    print(found.sentence)
                artifact, name = Path(scratch) / "artifact", compiled.spec.name
                write(compiled, artifact)
            else:
                like = run / "artifact" if resume and run is not None else None
                artifact, name = artifact_folder(spec, options, Path(scratch), device, like)
            run = run or free_folder(Path("runs"), name)
        assert run is not None, "checked above: without a spec there is --run"
        result = drive(lambda: run_training(TrainOptions(run, artifact, host, resume, stop_after_epochs), reporter))
    if result.finished:
        with remedied(f"training is; export the model with: netc export {run}"):
            report = drive(lambda: export_run(run, checkpoint=result.chosen, host=host, warn=warn))
        show_export(report, as_json)


def eval_(
    what: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="A run folder, or an exported model.")],
    checkpoint: CheckpointOption = "last",
    device: DeviceOption = Device.AUTO,
    threads: ThreadsOption = None,
    tta: ViewsOption = False,
    overrides: DataSetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a run or an exported model on the test split.

    Example: netc eval runs/lenet_dsn --checkpoint best
    """
    from netc_runtime.counttable import print_counts
    from netc_runtime.evaluate import evaluate_model, evaluate_run, evaluate_run_views
    from netc_runtime.session import Host

    host, data = Host(device.value, threads), data_to_evaluate(overrides, tta)
    if what.is_dir():
        evaluate = evaluate_run_views if tta else evaluate_run
        report = drive(lambda: evaluate(what, checkpoint, host, data, warn))
    else:
        report = drive(lambda: evaluate_model(what, host, data, tta))
    if as_json:
        print_json(report.as_dict())
        return
    values = "  ".join(f"{name} {value:.4f}" for name, value in report.metrics.items())
    print(f"{what}: {values}  ({report.samples} samples, {report.device})")
    print_counts(report.counts)


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An exported model, or a run folder that has one.")],
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Images, .npy arrays, or test:0-9.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder to write class maps to, as .npy files.")
    ] = None,
    mc_dropout: Annotated[
        int | None,
        typer.Option(min=1, metavar="K", help="Mean +- standard deviation over K masks of dropout; needs a run."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, metavar="N", help="Seed of the masks; default that of the run."),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="With --mc-dropout: last (the default), best, or the path of a checkpoint.")
    ] = None,
    tta: ViewsOption = False,
    overrides: DataSetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Classify images, arrays, or samples of the model's own data by index.

    Example: netc predict runs/lenet_dsn/model.onnx test:0-4
    """
    from netc_runtime.classmap import save_maps
    from netc_runtime.engines import cpu_device
    from netc_runtime.mc_dropout import predict_with_dropout
    from netc_runtime.predict import predict as run_predict
    from netc_runtime.session import Host

    data = data_to_predict(overrides, inputs, tta, of_run=mc_dropout is not None)
    host = Host(cpu_device())
    if mc_dropout is None:
        for option, value in (("--seed", seed), ("--checkpoint", checkpoint)):
            if value is not None:
                raise UsageError(f"{option} chooses what --mc-dropout samples: add --mc-dropout K, or leave it out")
        predictions = drive(lambda: run_predict(_exported(model), inputs, host, data, tta))
    elif tta:
        raise UsageError("--tta averages over views and --mc-dropout over masks; leave one of them out")
    elif model.is_file():
        raise UsageError(f"{model} is no run: dropout is gone from an exported model; name the run folder instead")
    else:
        predictions = drive(
            lambda: predict_with_dropout(model, inputs, mc_dropout, seed, checkpoint or "last", host, data, warn)
        )
    if out is not None:
        drive(lambda: save_maps(predictions, out))
    if as_json:
        print_json([prediction.as_dict() for prediction in predictions])
        return
    for prediction in predictions:
        print(prediction.as_text())


def _exported(model: Path) -> Path:
    """Return the exported model that MODEL means: the file itself, or that of a run folder."""
    if not model.is_dir():
        return model
    if not (model / "model.onnx").is_file():
        raise UsageError(f"{model} has no model.onnx; write one with: netc export {model}")
    return model / "model.onnx"
