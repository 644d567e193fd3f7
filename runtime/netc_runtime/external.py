"""Weights of an exported model in a second file beside it, where one ONNX file cannot hold them.

The name of that file has a digest of its content, so that no other export replaces it while a model needs it: a crash
between the writing of the two leaves the model before whole, and a model may be renamed.
"""

import hashlib
import math
import mmap
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx.external_data_helper import ExternalDataInfo, set_external_data

from netc_runtime.arrays import Array
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode, NotExportedError
from netc_runtime.files import read_bounded, storage_errors
from netc_runtime.jsonfields import MalformedError, canonical, field, parse_object

EXTERNAL_KEY = "netc.external"
EXTERNAL_ABOVE = int(1.8 * (1 << 30))
"""Bytes of one ONNX file above which its weights go into a second one: protobuf ends at 2 GiB."""
_LEAST = 1024  # bytes: small tensors stay, because shapes are inferred from some of them
_ALIGNMENT = 4096  # bytes: what mapping a tensor into memory needs
_LIMIT = 2 << 30  # bytes of one protobuf message
_DIGITS = 16  # of the digest in a name: 64 bits
_NAME = re.compile(rf".+\.[0-9a-f]{{{_DIGITS}}}\.data")


@dataclass(frozen=True)
class Weights:
    """The file with the weights of a model: its name, without any folder, and its content."""

    name: str
    content: bytes

    def arrays(self, path: Path, model: bytes) -> dict[str, Array]:
        """Return the initializers of `model` that lie here, as views of the content, by name.

        Raises DamagedFileError about the model `path` if one lies elsewhere or not wholly inside.
        """
        found: dict[str, Array] = {}
        for tensor in onnx.load_model_from_string(model).graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                continue
            try:
                place = ExternalDataInfo(tensor)
                dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
                start, size = int(place.offset or 0), math.prod(tensor.dims)
                if place.location != self.name or start < 0:
                    raise ValueError(f"it should lie in {self.name}")
                flat = np.frombuffer(self.content, dtype, size, start)
            except (ValueError, KeyError, TypeError) as error:
                raise DamagedFileError(
                    f'{path} is damaged: its tensor "{tensor.name}" cannot be found ({error}); export it again'
                ) from error
            found[tensor.name] = flat.reshape(tuple(tensor.dims))
        return found


def moved_out(model: onnx.ModelProto, name: str) -> Weights:
    """Move all large initializers of `model`, which will be called `name`, into a file that its metadata describes."""
    large = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) >= _LEAST]
    chunks, offsets, size = list[bytes](), list[int](), 0
    for tensor in large:
        gap = -size % _ALIGNMENT
        chunks += [bytes(gap), tensor.raw_data]
        offsets.append(size + gap)
        size += gap + len(tensor.raw_data)
    content = b"".join(chunks)
    digest = hashlib.sha256(content).hexdigest()
    name = f"{name}.{digest[:_DIGITS]}.data"
    for tensor, offset in zip(large, offsets, strict=True):
        set_external_data(tensor, location=name, offset=offset, length=len(tensor.raw_data))
        tensor.ClearField("raw_data")
    described = {"file": name, "size": size, "sha256": digest}
    model.metadata_props.add(key=EXTERNAL_KEY, value=canonical(described))
    return Weights(name, content)


def read_weights(path: Path, model: bytes) -> Weights | None:
    """Return the file with the weights of the exported model at `path`, whose bytes are `model`; None if it has none.

    Raises DriverError: 2 if the file is not beside the model, 1 if it is another one than the model describes.
    """
    try:
        described = _described(model)
    except MalformedError as error:
        raise NotExportedError(path, EXTERNAL_KEY) from error
    if described is None:
        return None
    name, size, digest = described
    beside = path.with_name(name)
    if not beside.is_file():
        beside = path.resolve().with_name(name)  # of a link, the file may lie where it leads to
    if not beside.is_file():
        raise DriverError(
            f"{path} keeps its weights in {name}, which is not beside it; copy both files into one folder",
            ExitCode.USAGE,
        )
    content = read_bounded(beside, size) if beside.stat().st_size == size else b""
    if hashlib.sha256(content).hexdigest() != digest:
        raise DamagedFileError(
            f"{beside} is damaged or of another export: it does not have the digest that {path} records; copy both "
            f"files again, or export again"
        )
    return Weights(name, content)


def weights_of(path: Path) -> Path | None:
    """Return the file that the exported model at `path` keeps its weights in, None without one or without a model."""
    if not path.is_file() or not _mentions(path, EXTERNAL_KEY):
        return None
    try:
        described = _described(read_bounded(path, _LIMIT))
    except (DriverError, MalformedError):  # a file that is replaced may be anything
        return None
    return None if described is None else path.with_name(described[0])


def remove_unneeded(weights: Path) -> None:
    """Remove a file of weights, unless it is not called as netc calls one, or a file in its folder still names it."""
    if not _NAME.fullmatch(weights.name) or not weights.is_file():
        return
    with storage_errors("clean", weights.parent):
        others = [path for path in weights.parent.iterdir() if path != weights and path.is_file()]
        if not any(_mentions(path, weights.name) for path in others):
            weights.unlink()


def _described(model: bytes) -> tuple[str, int, str] | None:
    """Return name, size and SHA-256 of the file with the weights of a model; raises MalformedError."""
    if EXTERNAL_KEY.encode() not in model:
        return None
    try:
        entries = {entry.key: entry.value for entry in onnx.load_model_from_string(model).metadata_props}
        described: dict[str, Any] = parse_object(entries[EXTERNAL_KEY])
    except (DecodeError, KeyError):
        return None  # these bytes are no such entry; what they are the engine says better
    name, size, digest = field(described, "file", str), field(described, "size", int), field(described, "sha256", str)
    if not name or Path(name).name != name or size < 0:  # a model must not reach outside its folder
        raise MalformedError(f'"{name}" is not a plain file name')
    return name, size, digest


def _mentions(path: Path, text: str) -> bool:
    """Whether the bytes of a file hold a text, whatever its size; what cannot be read may."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(text.encode()) >= 0
    except ValueError:  # an empty file cannot be mapped
        return False
    except OSError:
        return True
