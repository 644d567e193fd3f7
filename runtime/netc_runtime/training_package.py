"""The training package: what another host needs to train, evaluate and export, in one folder or zip.

It is an artifact again (docs/artifact.md), with a first state that is complete: what the driver would read elsewhere
before the first step of a run, the weights of `init_from` and the statistics of the data, is in it already.
"""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from safetensors.numpy import save as to_safetensors

from netc_runtime.arrays import Array
from netc_runtime.artifact import INITIAL_STATE, MANIFEST, POPULATION, Artifact
from netc_runtime.data import class_names_of, missing_data, open_source, value_range_of
from netc_runtime.data.base import Source
from netc_runtime.data.batches import image_size, sample_count
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.evaluate import data_section
from netc_runtime.files import read_bounded, storage_errors, temporary_name, write_atomically
from netc_runtime.jsonfields import canonical, parse_object
from netc_runtime.model import CLASSES_KEY, DATA_KEY, RANGE_KEY, class_names
from netc_runtime.plan import Plan
from netc_runtime.run import RunFolder
from netc_runtime.statistics import ROLES as STATISTICS
from netc_runtime.statistics import data_statistics
from netc_runtime.transfer import initialised
from netc_runtime.weights import step_of

INIT = "init"
"""The checkpoint that stands for the first state of a run."""
_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold: equal content gives equal bytes
_MANIFEST_LIMIT = 64 << 20


@dataclass(frozen=True)
class PackageReport:
    """What was packed: the state of `checkpoint` after `step` updates, in so many files and bytes."""

    path: Path
    checkpoint: str
    step: int
    files: int
    size: int


def pack_training(
    source: Path,
    out: Path,
    checkpoint: str = INIT,
    compiled: Path | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> PackageReport:
    """Write the training package of a run or an artifact to `out`, a folder, or a zip file if that is its ending.

    Args:
        source: a run folder, or an artifact folder.
        out: a folder that does not exist or is empty, or a zip file, in place of an older one.
        checkpoint: `init`, `last`, `best`, or the path of a checkpoint or of weights that another host saved.
        compiled: the artifact to pack instead of that of `source`: the same spec, for another target.
        warn: is told what the host has to fill in yet.

    Raises DriverError: 2 for a wrong path or checkpoint, or data or weights to start from that are not at hand, 1 for
    a damaged file, 3 for a storage that refuses.
    """
    is_zip = out.suffix.lower() == ".zip"
    _require_free(out, is_zip)
    folder = RunFolder(source)
    own = folder.load_artifact()
    if checkpoint == INIT:
        state, step = _first_state(own, warn), 0
    else:
        _, found = folder.find(checkpoint, own, warn)
        state, step = dict(found.state), found.position.step
    artifact = own if compiled is None else Artifact.load(compiled)
    if set(artifact.state) != set(own.state):
        raise DriverError(
            f"{source} has another state than its spec has when this version of netc compiles it, so that it cannot be "
            "packed for another target; leave out the target",
            ExitCode.USAGE,
        )
    step = step_of(artifact, state) or step
    files = _files(artifact, state, {"checkpoint": checkpoint, "step": step})
    if is_zip:
        with storage_errors("create", out.parent):
            out.parent.mkdir(parents=True, exist_ok=True)
        _write_zip(out, files)
    else:
        _write_folder(out, files)
    return PackageReport(out, checkpoint, step, len(files), sum(map(len, files.values())))


def _require_free(out: Path, is_zip: bool) -> None:
    """Raise DriverError (2) unless a package can be written there without touching anything else."""
    with storage_errors("read", out):
        if is_zip and out.is_dir():
            raise DriverError(f"{out} is a folder; name a zip file, or a folder without .zip", ExitCode.USAGE)
        if not is_zip and out.exists() and not out.is_dir():
            raise DriverError(f"{out} is a file; name a folder, or a file that ends in .zip", ExitCode.USAGE)
        if not is_zip and out.is_dir() and any(out.iterdir()):
            raise DriverError(f"{out} is not empty; name another folder", ExitCode.USAGE)


def _first_state(artifact: Artifact, warn: Callable[[str], None]) -> dict[str, Array]:
    """Return the state that a new run begins with, all of it that the driver fills in included."""
    state = artifact.initial_state()
    if artifact.init_from is not None:
        state, _ = initialised(artifact, artifact.init_from, warn)
    roles = {spec.role for spec in artifact.state}
    data, size = data_section(artifact.spec), image_size(artifact.graph("eval").inputs_of("batch"))
    source: Source | None = None
    if not roles.isdisjoint(STATISTICS):
        source = open_source(data, size)
        state |= data_statistics(artifact, source.train)
    if (
        "max_steps" in roles and step_of(artifact, state) == 0
    ):  # what has begun, as a package may have, keeps its length
        length = _first_length(artifact, source or (None if missing_data(data) else open_source(data, size)))
        for spec in artifact.state:
            if spec.role == "max_steps" and length is not None:
                state[spec.name] = np.full(spec.static_shape, length, spec.dtype)
        if length is None:
            warn(
                "the training data is not on this machine, so that the length of training is not known: the host has "
                'to set "max_steps" to the number of steps before the first one'
            )
    return state


def _first_length(artifact: Artifact, source: Source | None) -> int | None:
    """Return the number of steps of the first phase; None where it counts epochs of data that are not at hand."""
    counts_epochs = artifact.spec.get("solver", {}).get("max_epochs") is not None
    if source is None and (counts_epochs or any(phase.epochs for phase in artifact.phases)):
        return None
    samples = artifact.batch_size * artifact.iter_size if source is None else sample_count(source.train)
    first = Plan.of(artifact, samples).stages[0]
    return first.end - first.start


def _files(artifact: Artifact, state: Mapping[str, Array], said: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of a package by name; equal arguments give equal bytes."""
    training = [phase.graph for phase in artifact.phases]
    monitors = [artifact.monitors[graph] for graph in training if graph in artifact.monitors]
    kept = [*training, "eval", "fold", "infer", *monitors, *([POPULATION] if artifact.has_population else [])]
    manifest = parse_object(read_bounded(artifact.folder / MANIFEST, _MANIFEST_LIMIT))
    manifest["graphs"] = {key: entry for key, entry in manifest["graphs"].items() if key in kept}
    manifest.pop("init_from", None)  # which is in the state now
    data = data_section(artifact.spec)
    classes = class_names(class_names_of(data), artifact.graph("infer").outputs_of("output"))
    manifest["package"] = {**said, "classes": list(classes), "value_range": list(value_range_of(data))}
    properties = {
        "netc.state": canonical(manifest["state"]),
        "netc.metrics": canonical(manifest["metrics"]),
        "netc.iter_size": canonical(artifact.iter_size),
        DATA_KEY: canonical(data),
        RANGE_KEY: canonical(value_range_of(data)),
        CLASSES_KEY: canonical(classes),
    }
    files = {artifact.files[key]: artifact.content(key) for key in kept}
    for key in (*training, "eval"):
        files[artifact.files[key]] = _described(files[artifact.files[key]], properties)
    ordered = {spec.name: np.ascontiguousarray(state[spec.name]) for spec in artifact.state}
    files[INITIAL_STATE] = to_safetensors({name: array.reshape(state[name].shape) for name, array in ordered.items()})
    manifest["digests"] = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    manifest.pop("digest", None)
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    manifest["digest"] = hashlib.sha256(text.encode()).hexdigest()
    files[MANIFEST] = (json.dumps(manifest, indent=1) + "\n").encode()
    return dict(sorted(files.items()))


def _described(content: bytes, properties: Mapping[str, str]) -> bytes:
    """Return a program that says of itself what is in `properties` too."""
    model = onnx.load_model_from_string(content)
    own = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, own | dict(properties))
    described: bytes = model.SerializeToString(deterministic=True)
    return described


def _write_folder(out: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder that is complete or absent."""
    scratch = temporary_name(out)
    try:
        with storage_errors("write", out):
            out.parent.mkdir(parents=True, exist_ok=True)
            scratch.mkdir()
        for name, content in files.items():
            write_atomically(scratch / name, content)
        with storage_errors("write", out):
            scratch.replace(out)  # an empty folder there makes room
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_zip(out: Path, files: Mapping[str, bytes]) -> None:
    """Write a zip file that is complete or absent; it is stored as it is, so that a host reads it without inflating."""
    scratch = temporary_name(out)
    try:
        with storage_errors("write", out):
            with zipfile.ZipFile(scratch, "w", zipfile.ZIP_STORED) as file:
                for name, content in files.items():
                    entry = zipfile.ZipInfo(name, _DATE)
                    entry.create_system = 3  # the same whatever system writes it
                    entry.external_attr = 0o644 << 16
                    file.writestr(entry, content)
            scratch.replace(out)
    finally:
        scratch.unlink(missing_ok=True)
