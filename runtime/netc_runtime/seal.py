"""The digest inside an exported model, which may be damaged on its way."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import onnx

from netc_runtime.errors import DamagedFileError

DIGEST_KEY = "netc.digest"
_LENGTH = 64  # of a SHA-256 in hexadecimal
# A StringStringEntryProto up to its value: the key as field 1, then the length of field 2.
_ENTRY = bytes([0x0A, len(DIGEST_KEY)]) + DIGEST_KEY.encode() + bytes([0x12, _LENGTH])
_BLANK = b"0" * _LENGTH
# A string of FlatBuffers, of which files in ORT format are made: its length, its bytes, a zero. Keys lie elsewhere.
_STRING = re.compile(re.escape(_LENGTH.to_bytes(4, "little")) + rb"(?=[0-9a-f]{64}\x00)")
_KEY = DIGEST_KEY.encode() + b"\x00"


def unsealed(model: onnx.ModelProto) -> bytes:
    """Return the bytes of a model with zeros for its digest."""
    for entry in [entry for entry in model.metadata_props if entry.key == DIGEST_KEY]:
        model.metadata_props.remove(entry)
    model.metadata_props.add(key=DIGEST_KEY, value=_BLANK.decode())
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def sealed(model: onnx.ModelProto) -> bytes:
    """Return the bytes of a model with `netc.digest`: the SHA-256 of all of them, with zeros for the digest itself."""
    return with_digest(unsealed(model))


def with_digest(content: bytes) -> bytes:
    """Return the bytes of `unsealed`, or what ONNX Runtime made of them in ORT format, with the digest in place."""
    start = next(start for start in _places(content) if content[start : start + _LENGTH] == _BLANK)
    return content[:start] + hashlib.sha256(content).hexdigest().encode() + content[start + _LENGTH :]


def is_ort_format(content: bytes) -> bool:
    """Whether these are the bytes of a file in ORT format."""
    return content[4:8] == b"ORTM"


def require_seal(path: Path, content: bytes) -> None:
    """Raise DamagedFileError if the bytes of `path` have a digest and it is not theirs."""
    places = list(_places(content))
    has_digest = bool(places) if not is_ort_format(content) else _KEY in content
    if has_digest and not any(_fits(content, start) for start in places):
        raise DamagedFileError(
            f"{path} is damaged: its content does not have the digest that it records; export it again"
        )


def _places(content: bytes) -> Iterator[int]:
    """Yield where a digest may stand: one place in an ONNX file, all strings of its kind in one in ORT format."""
    if is_ort_format(content):
        yield from (match.end() for match in _STRING.finditer(content))
    elif (entry := content.rfind(_ENTRY)) >= 0:
        yield entry + len(_ENTRY)


def _fits(content: bytes, start: int) -> bool:
    digest = hashlib.sha256(content[:start])
    digest.update(_BLANK)
    digest.update(memoryview(content)[start + _LENGTH :])
    return digest.hexdigest().encode() == content[start : start + _LENGTH]
