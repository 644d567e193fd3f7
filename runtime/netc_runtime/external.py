"""Weights of an exported model in a second file beside it, where one ONNX file cannot hold them."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx.external_data_helper import ExternalDataInfo, set_external_data

from netc_runtime.arrays import Array
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode, NotExportedError
from netc_runtime.files import read_bounded
from netc_runtime.jsonfields import MalformedError, canonical, field, parse_object

EXTERNAL_KEY = "netc.external"
EXTERNAL_ABOVE = int(1.8 * (1 << 30))
"""Bytes of one ONNX file above which its weights go into a second one: protobuf ends at 2 GiB."""
_LEAST = 1024  # bytes: small tensors stay, because shapes are inferred from some of them
_ALIGNMENT = 4096  # bytes: what mapping a tensor into memory needs


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
    """Move all large initializers of `model` into a file `name`, which its metadata then describes."""
    chunks, size = list[bytes](), 0
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) < _LEAST:
            continue
        gap = -size % _ALIGNMENT
        chunks += [bytes(gap), tensor.raw_data]
        set_external_data(tensor, location=name, offset=size + gap, length=len(tensor.raw_data))
        size += gap + len(tensor.raw_data)
        tensor.ClearField("raw_data")
    content = b"".join(chunks)
    described = {"file": name, "size": size, "sha256": hashlib.sha256(content).hexdigest()}
    model.metadata_props.add(key=EXTERNAL_KEY, value=canonical(described))
    return Weights(name, content)


def read_weights(path: Path, model: bytes) -> Weights | None:
    """Return the file with the weights of the exported model at `path`, whose bytes are `model`; None if it has none.

    Raises DriverError: 2 if the file is not beside the model, 1 if it is another one than the model describes.
    """
    if EXTERNAL_KEY.encode() not in model:
        return None
    try:
        entries = {entry.key: entry.value for entry in onnx.load_model_from_string(model).metadata_props}
        described: dict[str, Any] = parse_object(entries[EXTERNAL_KEY])
        name, size, digest = (
            field(described, "file", str),
            field(described, "size", int),
            field(described, "sha256", str),
        )
        if Path(name).name != name or size < 0:  # a model must not reach outside its folder
            raise MalformedError(f'"{name}" is not a plain file name')
    except (DecodeError, KeyError):
        return None  # these bytes are no such entry; what they are the engine says better
    except MalformedError as error:
        raise NotExportedError(path, EXTERNAL_KEY) from error
    beside = path.with_name(name)
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
