"""Starting from other weights: `init_from` of a spec, carried out before the first step of a run.

Tensors are matched by name. What is read is untrusted: no pickle, no file beside the one that is named, bounded sizes.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from netc_runtime.arrays import Array, shape_text
from netc_runtime.artifact import MANIFEST, Artifact
from netc_runtime.checkpoint import load_state
from netc_runtime.entries import InitFrom
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.files import read_bounded, refuse_spec
from netc_runtime.run import RunFolder

_ONNX_LIMIT = 2 << 30  # of protobuf itself
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
_PICKLES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npz", ".h5", ".caffemodel"})
_SHOWN = 5  # names in one sentence


@dataclass(frozen=True)
class Mismatch:
    """A tensor that has a shape there and another one here."""

    name: str
    there: tuple[int, ...]
    here: tuple[int, ...]


@dataclass(frozen=True)
class InitReport:
    """What became of `init_from`; names are those of this network, but for `ignored`, which are those of the file.

    `missing` is not in the file, `ignored` not in this network, `drawn` left to the fillers by `reinit`. Whole numbers,
    scalars and the memory of solvers are never loaded and not listed.
    """

    source: Path
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    ignored: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    drawn: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """Return plain data for JSON."""
        shapes = [{"name": m.name, "there": list(m.there), "here": list(m.here)} for m in self.mismatched]
        lists = {key: list(getattr(self, key)) for key in ("loaded", "missing", "ignored", "drawn")}
        return {"source": str(self.source), **lists, "mismatched": shapes}

    def lines(self) -> Iterator[str]:
        """Yield the report for people, one line for each kind of tensor."""
        yield f"init_from {self.source}: {len(self.loaded)} tensors loaded"
        shapes = [f"{m.name} {shape_text(m.there)} there, {shape_text(m.here)} here" for m in self.mismatched]
        for what, names in (
            ("not in the file", self.missing),
            ("of another shape", shapes),
            ("drawn anew", self.drawn),
            ("of the file not used", self.ignored),
        ):
            if names:
                yield f"  {len(names)} {what}: {_listed(names)}"


def initialised(
    artifact: Artifact, wanted: InitFrom, warn: Callable[[str], None]
) -> tuple[dict[str, Array], InitReport]:
    """Return the first state of a run that starts from other weights, and what was taken from where.

    Raises DriverError: 2 if there is nothing at the path or nothing there fits, 1 for a damaged file.
    """
    source, found = read_tensors(Path(wanted.path).expanduser(), wanted.checkpoint, warn)
    tensors = _renamed(found, wanted.rename, source)
    state = artifact.initial_state()
    own = {spec.name: spec for spec in artifact.state if spec.role in ("parameter", "statistic")}
    drawn = [name for name in own if name in wanted.drawn]
    loaded, missing, mismatched = list[str](), list[str](), list[Mismatch]()
    for name, spec in own.items():
        if name in wanted.drawn:
            continue
        there = tensors.get(name)
        if there is None:
            missing.append(name)
        elif there[1].shape != spec.static_shape:
            mismatched.append(Mismatch(name, there[1].shape, spec.static_shape))
        else:
            with np.errstate(over="ignore"):  # refused below
                state[name] = there[1].astype(spec.dtype)
            if not np.isfinite(state[name]).all():
                raise DamagedFileError(
                    f'{source}: "{there[0]}" has values that are not finite; start from other weights'
                )
            loaded.append(name)
    used = {there for here, (there, _) in tensors.items() if here in own}
    ignored = [name for name in found if name not in used and not _is_bookkeeping(name, found)]
    report = InitReport(source, tuple(loaded), tuple(missing), tuple(ignored), tuple(mismatched), tuple(drawn))
    if not loaded:
        raise DriverError(_nothing(report, artifact), ExitCode.USAGE)
    return state, report


def read_tensors(path: Path, checkpoint: str, warn: Callable[[str], None]) -> tuple[Path, dict[str, Array]]:
    """Return the floating-point tensors of a run folder, an artifact folder, a safetensors or an ONNX file.

    The path that comes first is that of the file in which they were found.
    Raises DriverError: 2 if there is no such thing at `path`, 1 if it is damaged.
    """
    if path.is_dir():
        run = RunFolder(path)
        if run.is_run:
            source, found = run.find(checkpoint, run.load_artifact(), warn)
            return source, _floats(found.state)
        if (path / MANIFEST).is_file():
            return path, _floats(Artifact.load(path).initial_state())
        raise DriverError(
            f"init_from: {path} is neither a run folder nor a compiled one; name one of them", ExitCode.USAGE
        )
    if not path.exists():
        raise DriverError(f"init_from: {path} does not exist; check the path", ExitCode.USAGE)
    refuse_spec(path)
    if path.suffix.lower() in _PICKLES:
        raise DriverError(
            f"init_from: {path} is of a kind that netc does not open ({path.suffix}); save its tensors as safetensors",
            ExitCode.USAGE,
        )
    return path, _read_onnx(path) if path.suffix.lower() == ".onnx" else _floats(load_state(path))


def _read_onnx(path: Path) -> dict[str, Array]:
    """Return the floating-point initializers of a model."""
    try:
        model = onnx.load_model_from_string(read_bounded(path, _ONNX_LIMIT))
    except DecodeError as error:
        raise DamagedFileError(f"{path} is damaged or not an ONNX file ({error})") from error
    tensors: dict[str, Array] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise DriverError(
                f'{path} keeps "{tensor.name}" in another file, which netc does not open; save the model as one file',
                ExitCode.USAGE,
            )
        if tensor.data_type not in _FLOATS:
            continue
        try:
            tensors[tensor.name] = onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, OverflowError, MemoryError) as error:
            raise DamagedFileError(f'{path} is damaged: its tensor "{tensor.name}" cannot be read ({error})') from error
    return tensors


def _floats(state: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array for name, array in state.items() if array.dtype.kind == "f"}


def _renamed(found: Mapping[str, Array], rename: Mapping[str, str], source: Path) -> dict[str, tuple[str, Array]]:
    """Return tensors by the name that they have here, each with the name that it has there."""
    rules = [(re.compile("(.*)".join(map(re.escape, there.split("*")))), here) for there, here in rename.items()]
    unused = set(rename)
    tensors: dict[str, tuple[str, Array]] = {}
    for name, array in found.items():
        new = name
        for (pattern, here), there in zip(rules, rename, strict=True):
            if match := pattern.fullmatch(name):
                parts = here.split("*")
                new = parts[0] + "".join(text + part for text, part in zip(match.groups(), parts[1:], strict=True))
                unused.discard(there)
                break
        if new in tensors:
            raise DriverError(
                f'init_from: "{tensors[new][0]}" and "{name}" of {source} are both called "{new}" here; correct rename',
                ExitCode.USAGE,
            )
        tensors[new] = name, array
    if unused:
        message = f'init_from: rename has "{min(unused)}", which no tensor of {source} matches'
        raise DriverError(
            f"{message}; it has {_listed(list(found))}",
            ExitCode.USAGE,
        )
    return tensors


def _is_bookkeeping(name: str, found: Mapping[str, Array]) -> bool:
    """Whether a tensor of a file is a scalar, or the memory of a solver: NAME/slot beside NAME."""
    return found[name].ndim == 0 or name.rpartition("/")[0] in found


def _nothing(report: InitReport, artifact: Artifact) -> str:
    if report.mismatched:
        first = report.mismatched[0]
        shapes = f"{first.name} is {shape_text(first.there)} there and {shape_text(first.here)} here"
        why = f"its tensors have other shapes ({shapes})"
    elif report.drawn and not report.missing:
        why = "reinit leaves everything to the fillers"
    else:
        has = f"it has {_listed(report.ignored)}" if report.ignored else "it has no tensor of numbers"
        why = f"no name there is one of {artifact.name} ({has}; wanted: {_listed(report.missing)})"
    return f"init_from: nothing in {report.source} fits: {why}; name another file, or give init_from a rename"


def _listed(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
