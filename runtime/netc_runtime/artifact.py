"""The artifact folder as typed, frozen data: what manifest.json says (docs/artifact.md)."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from dataclasses import field as field_of
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from netc_runtime.arrays import Array, shape_text
from netc_runtime.entries import InitFrom, Phase, digests_of, monitors_of
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.files import digest_of, read_bounded
from netc_runtime.interface import Interface, TensorSpec
from netc_runtime.jsonfields import MalformedError, field, objects, optional, parse_object
from netc_runtime.packing import Packing
from netc_runtime.tensorfile import TensorFile

FORMAT = "netc.artifact"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
INITIAL_STATE = "init.safetensors"
GRAPHS = ("train", "eval", "fold", "infer")
POPULATION = "population"
"""The program of population statistics, which only an artifact with such statistics has."""
AUGMENT = "augment"
"""The program of augmented batches, which only an artifact with augmentation has."""
SAMPLE = "sample"
"""The program that draws masks of dropout for predictions, which only an artifact with dropout has."""
COUNTING_KINDS = ("mean_iou", "class_accuracy", "confusion_matrix")
"""The kinds of metric that are made of a confusion matrix; those of a side begin with `SIDE`."""
SIDE = "side_"
_MANIFEST_LIMIT = 64 << 20
_PROGRAM_LIMIT = 2 << 30  # what one protobuf message can hold


@dataclass(frozen=True)
class Metric:
    """A number that a step reports.

    `kind` is total, loss, fuse_loss, side_loss, penalty, accuracy, error, rate or one of COUNTING_KINDS; a kind of
    metric that a side may have too begins with `SIDE` there.
    """

    name: str
    kind: str
    layer: str | None

    @property
    def is_counted(self) -> bool:
        """Whether it is made of a confusion matrix, an output of role count, instead of being a mean."""
        return self.kind.removeprefix(SIDE) in COUNTING_KINDS

    @property
    def larger_is_better(self) -> bool:
        """Whether a model is the better the larger it is."""
        return self.is_counted or self.kind.removeprefix(SIDE) == "accuracy"


@dataclass(frozen=True)
class Artifact:
    """What the compiler wrote, validated; the tensors stay on disk until `initial_state`.

    `target` is the engine that the programs were compiled for; a manifest that names none is for any.
    `population_batches` is how many training batches the population statistics are the averages of; 0 without any.
    `iter_size` is how many runs of the training program, each on `batch_size` samples, make one update.
    `monitors` names for each training program the one that monitors it; empty unless the run is monitored.
    `digests` holds the SHA-256 of files by name; a manifest may have none. `replaced` holds the programs that take the
    place of those on disk.
    `is_package` says that it is a training package, without the programs that serve neither training nor export.
    `packing` says how programs take the state, which everything but them knows by the names of its tensors.
    """

    folder: Path
    name: str
    netc_version: str
    batch_size: int
    spec_hash: str
    spec: Mapping[str, Any]
    state: tuple[TensorSpec, ...]
    metrics: tuple[Metric, ...]
    graphs: Mapping[str, Interface]
    files: Mapping[str, str]
    monitors: Mapping[str, str]
    digests: Mapping[str, str]
    packing: Packing
    target: str | None = None
    population_batches: int = 0
    iter_size: int = 1
    init_from: InitFrom | None = None
    phases: tuple[Phase, ...] = (Phase("train"),)
    is_package: bool = False
    replaced: Mapping[str, bytes] = field_of(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> "Artifact":
        """Read and validate `folder`; raises DriverError (2: no artifact there, 1: a damaged one).

        The digests of the other files are compared when they are read.
        """
        path = folder / MANIFEST
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise DriverError(f"{folder} {what}; give the folder that netc compile wrote", ExitCode.USAGE)
        if not path.is_file():
            raise DriverError(
                f"{folder} is not a netc artifact: it has no {MANIFEST}; give the folder that netc compile wrote",
                ExitCode.USAGE,
            )
        try:
            artifact = cls._parse(folder, parse_object(read_bounded(path, _MANIFEST_LIMIT)))
        except MalformedError as error:
            raise DamagedFileError(f"{path} is not a manifest of netc: {error}; compile the spec again") from error
        for file in (INITIAL_STATE, *artifact.files.values()):
            if not (folder / file).is_file():
                raise DamagedFileError(f"{folder} is incomplete: {file} is missing; compile the spec again")
        return artifact

    @classmethod
    def _parse(cls, folder: Path, manifest: Mapping[str, Any]) -> "Artifact":
        if manifest.get("format") != FORMAT:
            raise MalformedError(f'"format" should be "{FORMAT}"')
        version = field(manifest, "format_version", int)
        if version != FORMAT_VERSION:
            raise MalformedError(f"its format_version is {version}, this driver reads {FORMAT_VERSION}")
        graphs, files = {}, {}
        source = optional(manifest, "init_from", dict)
        entries = field(manifest, "graphs", dict)
        for key in GRAPHS:
            if key not in entries:
                raise MalformedError(f'the graph "{key}" is missing')
        for key, entry in entries.items():
            if not isinstance(entry, dict):
                raise MalformedError(f'the graph "{key}" should be a JSON object')
            graphs[key] = Interface.parse(entry)
            files[key] = field(entry, "file", str)
            if Path(files[key]).name != files[key]:  # a manifest must not reach outside its folder
                raise MalformedError(f'the graph "{key}" has the file "{files[key]}", which is not a plain file name')
        state = tuple(map(TensorSpec.parse, objects(manifest, "state")))
        artifact = cls(
            folder=folder,
            name=field(manifest, "name", str),
            netc_version=field(manifest, "netc_version", str),
            batch_size=field(manifest, "batch_size", int),
            spec_hash=field(manifest, "spec_hash", str),
            spec=field(manifest, "spec", dict),
            state=state,
            packing=Packing.parse(manifest, state),
            metrics=tuple(
                Metric(field(entry, "name", str), field(entry, "kind", str), optional(entry, "layer", str))
                for entry in objects(manifest, "metrics")
            ),
            graphs=graphs,
            files=files,
            target=optional(manifest, "target", str),
            population_batches=optional(manifest, "population_batches", int) or 0,
            iter_size=optional(manifest, "iter_size", int) or 1,
            init_from=None if source is None else InitFrom.parse(source),
            phases=tuple(
                map(Phase.parse, objects(manifest, "phases") if manifest.get("phases") else [{"graph": "train"}])
            ),
            is_package="package" in manifest,
            monitors=monitors_of(manifest),
            digests=digests_of(manifest),
        )
        artifact._check_phases()
        artifact._check_monitors()
        artifact._check_batch()
        artifact._check_references()
        artifact._check_counts()
        artifact._check_population()
        artifact._check_sample()
        artifact._check_data()
        return artifact

    def _check_phases(self) -> None:
        for index, phase in enumerate(self.phases):
            lengths = [length for length in (phase.epochs, phase.iterations) if length is not None]
            if phase.graph not in self.graphs:
                raise MalformedError(f'the graph "{phase.graph}" of a phase is missing')
            if len(lengths) != (index < len(self.phases) - 1):
                raise MalformedError("every phase but the last one should have one length")

    def _check_monitors(self) -> None:
        for phase in self.phases if self.monitors else ():
            key = self.monitors.get(phase.graph, "")
            if key not in self.graphs:
                raise MalformedError(f'there is no graph that monitors "{phase.graph}"')
            known = {(spec.name, spec.shape) for spec in self.graphs[phase.graph].inputs}
            for spec in self.graphs[key].inputs:
                if spec.role not in ("state", "batch") or (spec.name, spec.shape) not in known:
                    raise MalformedError(f'{key} takes "{spec.name}", which {phase.graph} does not take in this shape')
            for spec in self.graphs[key].outputs_of("monitor"):
                if spec.shape != () or None in (spec.layer, spec.tensor, spec.quantity):
                    raise MalformedError(f'"{spec.name}" of {key} should be a scalar that says what it is of')

    def _check_batch(self) -> None:
        if self.batch_size < 1:
            raise MalformedError(f'"batch_size" should be at least 1, not {self.batch_size}')
        if self.iter_size < 1:
            raise MalformedError(f'"iter_size" should be at least 1, not {self.iter_size}')
        training = [phase.graph for phase in self.phases]
        for key in (*training, *(key for key in (POPULATION, SAMPLE, AUGMENT) if key in self.graphs)):
            for spec in self.graphs[key].inputs_of("batch"):
                if spec.shape[:1] != (self.batch_size,):
                    raise MalformedError(
                        f'{key} takes "{spec.name}" with the shape {shape_text(spec.shape)}, which is no batch of '
                        f"{self.batch_size} samples"
                    )

    def _check_references(self) -> None:
        state = {spec.name: spec for spec in self.packing.specs(self.state)}
        training = {phase.graph for phase in self.phases}
        for key, graph in self.graphs.items():
            inputs, outputs = {spec.name for spec in graph.inputs}, {spec.name for spec in graph.outputs}
            for spec in graph.inputs_of("state"):
                if spec.name not in state:
                    what = "is packed" if spec.name in {own.name for own in self.state} else "is not declared"
                    raise MalformedError(f'{key} takes the state "{spec.name}", which {what}')
                if (spec.shape, spec.dtype) != (state[spec.name].shape, state[spec.name].dtype):
                    raise MalformedError(
                        f'{key} takes the state "{spec.name}" as {spec.dtype} {shape_text(spec.shape)}'
                    )
            for spec in graph.outputs_of("next"):
                if spec.feeds not in state:
                    raise MalformedError(
                        f'{key} feeds "{spec.name}" to the state "{spec.feeds}", which is not declared'
                    )
            for spec in (*graph.outputs_of("metric"), *graph.outputs_of("weight")):
                if spec.shape != ():
                    raise MalformedError(f'the metric "{spec.name}" of {key} should be a scalar')
            for spec in graph.outputs_of("metric"):
                if key == "eval" and spec.weight not in outputs:
                    raise MalformedError(f'the metric "{spec.name}" of eval has no output with its weight')
            for spec in self.state:
                if spec.role in ("seed", "max_steps", "phase_start") and key in training and spec.name in graph.fed:
                    raise MalformedError(f'{key} changes the state "{spec.name}", which the host alone sets')
            if key == "fold":
                wanted = {spec.name for spec in self.graphs["infer"].inputs_of("parameter")}
                missing = sorted(wanted - graph.fed)
                if missing:
                    raise MalformedError(f'fold computes no value for the parameter "{missing[0]}" of infer')
            if len(inputs) != len(graph.inputs) or len(outputs) != len(graph.outputs):
                raise MalformedError(f"{key} has two inputs or two outputs of one name")

    def _check_counts(self) -> None:
        counts = {spec.name: spec for spec in self.graphs["eval"].outputs_of("count")}
        counted = {metric.name for metric in self.metrics if metric.is_counted}
        for name, spec in counts.items():
            if len(spec.shape) != 2 or spec.shape[0] != spec.shape[1] or spec.shape[0] in (0, "N"):
                raise MalformedError(
                    f'the count "{name}" of eval has the shape {shape_text(spec.shape)}; a confusion matrix is square'
                )
            if np.dtype(spec.dtype).kind not in "iu":
                raise MalformedError(f'the count "{name}" of eval is {spec.dtype}; a confusion matrix counts integers')
            if name not in counted:
                raise MalformedError(f'"metrics" does not say what is made of the count "{name}" of eval')
        for name in sorted(counted - counts.keys()):
            raise MalformedError(f'the metric "{name}" is made of a confusion matrix, but eval has no count "{name}"')

    def _check_population(self) -> None:
        if self.has_population != (self.population_batches > 0):
            there = "there is a" if self.has_population else "there is no"
            raise MalformedError(f'"population_batches" is {self.population_batches}, but {there} graph "{POPULATION}"')
        if not self.has_population:
            return
        graph, state = self.graphs[POPULATION], {spec.name: spec for spec in self.state}
        fields = {(spec.name, spec.field) for spec in self.graphs["train"].inputs_of("batch")}
        for spec in graph.inputs_of("batch"):
            if (spec.name, spec.field) not in fields:
                raise MalformedError(f'{POPULATION} takes the batch input "{spec.name}", which train does not take')
        for spec in graph.outputs_of("statistic"):
            fed = state.get(spec.feeds or "")
            if fed is None or fed.role != "statistic":
                raise MalformedError(f'{POPULATION} feeds "{spec.name}" to "{spec.feeds}", which is no statistic')
            if fed.shape != spec.shape or np.dtype(spec.dtype).kind != "f":
                raise MalformedError(
                    f'{POPULATION} gives "{spec.name}" as {spec.dtype} {shape_text(spec.shape)}, which does not fit '
                    f'the statistic "{fed.name}"'
                )
        if len(graph.fed) != len(graph.outputs_of("statistic")):
            raise MalformedError(f"{POPULATION} feeds one statistic twice")

    def _check_sample(self) -> None:
        if SAMPLE not in self.graphs:
            return
        graph, infer = self.graphs[SAMPLE], self.graphs["infer"]
        draws = [(spec.shape, spec.dtype) for spec in graph.inputs_of("draw")]
        if draws != [((), "int64")]:
            raise MalformedError(f"{SAMPLE} should take one scalar int64 of the role draw")
        for what, own, theirs in (
            ("takes", graph.inputs_of("batch"), infer.inputs_of("batch")),
            ("gives", graph.outputs, infer.outputs),
        ):
            if [(s.name, s.sample_shape) for s in own] != [(s.name, s.sample_shape) for s in theirs]:
                raise MalformedError(f"{SAMPLE} {what} something else than infer")

    def _check_data(self) -> None:
        """Check what concerns raw batches: statistics of the data, and augmented values."""
        batch = {spec.name: spec for spec in self.graphs["train"].inputs_of("batch")}
        for spec in self.state:
            if spec.role in ("data_mean", "data_std"):
                of = batch.get(spec.name.rpartition(".")[0])
                if of is None or spec.shape != of.shape[1:2]:
                    raise MalformedError(f'the state "{spec.name}" is no statistic of a batch input of train')
        for spec in self.graphs[AUGMENT].outputs if AUGMENT in self.graphs else ():
            of = batch.get(spec.feeds or "")
            if spec.role != "augmented" or of is None or (spec.shape, spec.dtype) != (of.shape, of.dtype):
                raise MalformedError(f'{AUGMENT} gives "{spec.name}", which is no batch input of train')

    @property
    def has_population(self) -> bool:
        """Whether statistics of the whole training split replace the running ones at the end of training."""
        return POPULATION in self.graphs

    def graph(self, key: str) -> Interface:
        """Return the interface of a program: train, eval, fold, infer, population, sample or augment."""
        return self.graphs[key]

    def file(self, key: str) -> Path:
        """Return the path of a program's ONNX file."""
        return self.folder / self.files[key]

    def content(self, key: str) -> bytes:
        """Return the bytes of an ONNX file; raises DamagedFileError unless they are those that were written."""
        if key in self.replaced:
            return self.replaced[key]
        path = self.file(key)
        content = read_bounded(path, _PROGRAM_LIMIT)
        self._require_digest(path, lambda: hashlib.sha256(content).hexdigest())
        return content

    def with_programs(self, programs: Mapping[str, bytes]) -> "Artifact":
        """Return the artifact with other ONNX files for some of its graphs, which describe themselves.

        They take state by the names of its tensors. Of an artifact whose own programs take it packed, they are all that
        is left then. Raises MalformedError if they do not say what goes in and out, or do not fit the rest.
        """
        if not programs:
            return self
        graphs = {} if self.packing.buffers else dict(self.graphs)
        for key, content in programs.items():
            entries = {entry.key: entry.value for entry in onnx.load_model_from_string(content).metadata_props}
            graphs[key] = Interface.parse(parse_object(entries.get("netc.interface", "")))
        changed = replace(self, graphs=graphs, packing=Packing(), replaced={**self.replaced, **programs})
        changed._check_references()
        return changed

    def initial_state(self) -> dict[str, Array]:
        """Return the first state; raises DamagedFileError if the file does not match the manifest."""
        path = self.folder / INITIAL_STATE
        self._require_digest(path, lambda: digest_of(path))
        with TensorFile(path) as file:
            return file.read(self.state)

    def _require_digest(self, path: Path, found: Callable[[], str]) -> None:
        if path.name in self.digests and found() != self.digests[path.name]:
            raise DamagedFileError(
                f"{path} is damaged: its content does not have the digest that {MANIFEST} records; compile the spec "
                f"again"
            )

    def metrics_of(self, kind: str) -> tuple[str, ...]:
        """Return the names of the metrics of one kind."""
        return tuple(metric.name for metric in self.metrics if metric.kind == kind)
