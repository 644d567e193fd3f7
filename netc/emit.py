"""Graphs to files: check what is emitted, then write the artifact as a whole or not at all.

The format is described in docs/artifact.md, the only thing that compiler and driver share.
"""

import contextlib
import hashlib
import json
import math
import os
import struct
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from netc import __version__
from netc.errors import Diagnostic, EnvironmentProblem, UsageError
from netc.graph import shape_of
from netc.graph.builder import IR_VERSION, OPSET
from netc.graph.rules import broken_rule
from netc.graph.verify import VerificationError
from netc.layers.context import StateTensor
from netc.network import Network
from netc.spec.model import InitFrom, NetSpec
from netc.transfer import drawn

Entry = dict[str, Any]
FORMAT = "netc.artifact"
STATE_TYPES = ("I64", "F64", "F32", "U32")  # of state tensors, in the order in which the safetensors library writes
STATIC_PROGRAMS = ("train", "monitor", "population", "sample", "augment")  # programs that take a batch of one size
DRAWN_AHEAD = 8  # state tensors that are drawn while others are written


@dataclass
class Program:
    """One graph of the artifact; `inputs` and `outputs` say of each what the manifest says beside its type."""

    graph: ir.Graph
    inputs: Mapping[str, Entry]
    outputs: Mapping[str, Entry]


@dataclass
class Artifact:
    """Everything that an artifact consists of, before it is written.

    `network` is the lowered training network; `packed` are the flat buffers that programs take state in; `tuning` is
    what the manifest says of lowerings that were measured.
    """

    spec: NetSpec
    target: str
    programs: dict[str, Program]
    state: Sequence[StateTensor]
    metrics: Sequence[Entry]
    network: Network
    packed: Sequence[Entry] = ()
    tuning: Entry | None = None

    @property
    def warnings(self) -> Sequence[Diagnostic]:
        """What is allowed but hardly meant."""
        return self.network.warnings

    def manifest(self) -> Entry:
        """Return the content of manifest.json."""
        return {
            "format": FORMAT,
            "format_version": 1,
            "netc_version": __version__,
            "name": self.spec.name,
            "target": self.target,
            "opset": OPSET,
            "ir_version": IR_VERSION,
            "batch_size": self.spec.data.batch_size,
            "iter_size": self.spec.solver.iter_size,
            "spec_hash": self.spec.hash(),
            "spec": self.spec.resolved(),
            "state": [
                {"name": t.name, "dtype": t.dtype.numpy().name, "shape": list(t.shape), "role": t.role}
                for t in self.state
            ],
            **({"packed": list(self.packed)} if self.packed else {}),
            "metrics": list(self.metrics),
            **({"population_batches": self.spec.solver.population_batches} if "population" in self.programs else {}),
            **({"init_from": self._init_from(self.spec.init_from)} if self.spec.init_from else {}),
            **({"phases": self._phases()} if self.spec.phases else {}),
            **({"monitors": self._monitors()} if self.spec.run.monitor_every is not None else {}),
            **({"tuning": self.tuning} if self.tuning else {}),
            "graphs": graph_entries(self.programs),
        }

    def _init_from(self, source: InitFrom) -> Entry:
        """Return what the host loads before the first step, and which tensors it leaves as they are."""
        return {**source.model_dump(), "drawn": drawn(self.spec.reinit, self.state)}

    def _phases(self) -> list[Entry]:
        """Return the program of each phase of training and its length, the last one's open."""
        graphs = train_graphs(len(self.spec.phases))
        return [
            {"graph": graph, "epochs": phase.epochs, "iterations": phase.iterations}
            for graph, phase in zip(graphs, self.spec.phases, strict=True)
        ]

    def _monitors(self) -> Entry:
        """Return the program that monitors each training program."""
        return {graph: monitor_graph(graph) for graph in train_graphs(len(self.spec.phases))}

    def models(self) -> dict[str, onnx.ModelProto]:
        """Return the ONNX models by graph name, checked.

        Raises:
            VerificationError: a graph breaks a rule of emitted graphs, or the ONNX checker refuses it.
        """
        programs = self.programs.items()
        return {name: model_of(self.spec, self.target, name, program, self.packed) for name, program in programs}

    def initial_state(self) -> dict[str, np.ndarray]:
        """Return the first value of every state tensor."""
        return {tensor.name: tensor.first_value(self._seed) for tensor in self.state}

    def state_file(self) -> Iterator[bytes | memoryview]:
        """Yield init.safetensors piece by piece, since the state of a large network is large.

        The bytes are those of the safetensors library: the length of the header, the header, and the values without
        gaps, wider types first and names in order within a type.
        """
        tensors = sorted(self.state, key=lambda tensor: (STATE_TYPES.index(_type_name(tensor)), tensor.name))
        header: dict[str, Entry] = {}
        end = 0
        for tensor in tensors:
            start, end = end, end + math.prod(tensor.shape) * tensor.dtype.numpy().itemsize
            header[tensor.name] = {"dtype": _type_name(tensor), "shape": tensor.shape, "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        yield struct.pack("<Q", len(text)) + text
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            drawn: deque[Future[np.ndarray]] = deque()
            for tensor in tensors:
                drawn.append(pool.submit(tensor.first_value, self._seed))
                if len(drawn) > DRAWN_AHEAD:
                    yield _little_endian(drawn.popleft().result())
            for future in drawn:
                yield _little_endian(future.result())

    @property
    def _seed(self) -> int:
        return self.spec.solver.random_seed


@dataclass(frozen=True)
class Inference:
    """The programs `fold` and `infer` of a spec, and `eval` too if they return scores of sides."""

    spec: NetSpec
    target: str
    programs: Mapping[str, Program]

    def files(self) -> dict[str, bytes]:
        """Return the content of the ONNX files by name, checked, as in an artifact.

        Raises:
            VerificationError: a graph breaks a rule of emitted graphs, or the ONNX checker refuses it.
        """
        return {
            f"{name}.onnx": _serialized(model_of(self.spec, self.target, name, program))
            for name, program in self.programs.items()
        }

    def graphs(self) -> dict[str, Entry]:
        """Return what a manifest says of the programs under `graphs`."""
        return graph_entries(self.programs)


def graph_entries(programs: Mapping[str, Program]) -> dict[str, Entry]:
    """Return what a manifest says of programs under `graphs`: the file of each, its inputs and its outputs."""
    return {name: {"file": f"{name}.onnx", **interface(program)} for name, program in programs.items()}


def model_of(spec: NetSpec, target: str, name: str, program: Program, buffers: Sequence[Entry] = ()) -> onnx.ModelProto:
    """Return the ONNX model of a program of an artifact, checked; `buffers` are those that the artifact packs state in.

    Raises:
        VerificationError: the graph breaks a rule of emitted graphs, or the ONNX checker refuses it.
    """
    for node in program.graph:
        reason = broken_rule(node, name.partition(".")[0] in STATIC_PROGRAMS, target)
        if reason is not None:
            raise VerificationError(f"{name}.onnx: {node.name} ({node.op_type}): {reason}")
    taken = {value.name for value in program.graph.inputs}
    packed = [buffer for buffer in buffers if buffer["name"] in taken]
    model = ir.Model(
        program.graph,
        ir_version=IR_VERSION,
        producer_name="netc",
        producer_version=__version__,
        doc_string=f"{name} program of {spec.name}, compiled by netc",
        metadata_props={
            "netc.graph": name,
            "netc.name": spec.name,
            "netc.version": __version__,
            "netc.spec_hash": spec.hash(),
            "netc.interface": json.dumps(interface(program), sort_keys=True),
            **({"netc.packed": json.dumps(packed, sort_keys=True)} if packed else {}),
        },
    )
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _serialized(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def _type_name(tensor: StateTensor) -> str:
    """Return how safetensors calls the type of a tensor, such as F32."""
    dtype = tensor.dtype.numpy()
    return f"{dtype.kind.upper()}{8 * dtype.itemsize}"


def _little_endian(array: np.ndarray) -> memoryview:
    return array.astype(array.dtype.newbyteorder("<"), order="C", copy=False).data


def train_graphs(phases: int) -> list[str]:
    """Return the names of the training programs of so many phases: that of the last one is `train`."""
    return [*(f"train.{number}" for number in range(1, phases)), "train"]


def is_training(graph: str) -> bool:
    """Whether a program of this name makes updates."""
    return graph.partition(".")[0] == "train"


def monitor_graph(train_graph: str) -> str:
    """Return the name of the program that monitors a training program: `monitor.1` for `train.1`."""
    return train_graph.replace("train", "monitor", 1)


def interface(program: Program) -> Entry:
    """Return names, dtypes, shapes and roles of a program's inputs and outputs."""
    return {
        side: [
            {
                "name": str(value.name),
                "dtype": (value.dtype or ir.DataType.FLOAT).numpy().name,
                "shape": shape_of(value),
                **said[str(value.name)],
            }
            for value in values
        ]
        for side, values, said in (
            ("inputs", program.graph.inputs, program.inputs),
            ("outputs", program.graph.outputs, program.outputs),
        )
    }


def write(artifact: Artifact, folder: Path) -> None:
    """Write an artifact; an older artifact at the same place is replaced, other files in its folder stay.

    Everything is written beside first. The manifest, without which a folder is no artifact, goes first and comes last,
    so that a folder never holds parts of two artifacts under one manifest.

    Raises:
        UsageError: the folder holds something else than an artifact.
        EnvironmentProblem: the folder cannot be written.
    """
    given, folder = folder, folder.resolve()
    if folder.exists() and not _replaceable(folder):
        raise UsageError(f"{given} exists and is not a compiled artifact; choose another folder with -o")
    files: dict[str, Iterable[bytes | memoryview]] = {
        f"{name}.onnx": [_serialized(model)] for name, model in artifact.models().items()
    }
    files["init.safetensors"] = artifact.state_file()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".netc-", dir=folder) as scratch:
            digests = {name: _write(Path(scratch) / name, pieces) for name, pieces in files.items()}
            manifest = {**artifact.manifest(), "digests": digests}
            manifest["digest"] = hashlib.sha256(_canonical(manifest)).hexdigest()
            files["manifest.json"] = [(json.dumps(manifest, indent=1) + "\n").encode()]
            _write(Path(scratch) / "manifest.json", files["manifest.json"])
            (folder / "manifest.json").unlink(missing_ok=True)
            for name in files:
                (Path(scratch) / name).replace(folder / name)
    except OSError as error:
        with contextlib.suppress(OSError):  # only if it is empty: then it was made here
            folder.rmdir()
        message = f"cannot write {given}: {error.strerror}; choose another folder with -o"
        raise EnvironmentProblem(message) from error


def _write(path: Path, pieces: Iterable[bytes | memoryview]) -> str:
    """Write a file to the disk and return its SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _canonical(manifest: Entry) -> bytes:
    """Return the canonical JSON that a manifest's digest is taken of."""
    return json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()


def _replaceable(folder: Path) -> bool:
    """Whether a folder is empty, or holds an artifact that netc wrote."""
    if not folder.is_dir():
        return False
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
    except FileNotFoundError:
        return not any(folder.iterdir())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT
