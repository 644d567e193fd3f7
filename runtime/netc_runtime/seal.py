"""The digest inside an exported model, which is one file alone and may be damaged on its way."""

import hashlib
from pathlib import Path

import onnx

from netc_runtime.errors import DamagedFileError

DIGEST_KEY = "netc.digest"
_LENGTH = 64  # of a SHA-256 in hexadecimal
# A StringStringEntryProto up to its value: the key as field 1, then the length of field 2.
_ENTRY = bytes([0x0A, len(DIGEST_KEY)]) + DIGEST_KEY.encode() + bytes([0x12, _LENGTH])
_BLANK = b"0" * _LENGTH


def sealed(model: onnx.ModelProto) -> bytes:
    """Return the bytes of a model with `netc.digest`: the SHA-256 of all of them, with zeros for the digest itself."""
    for entry in [entry for entry in model.metadata_props if entry.key == DIGEST_KEY]:
        model.metadata_props.remove(entry)
    model.metadata_props.add(key=DIGEST_KEY, value=_BLANK.decode())
    content: bytes = model.SerializeToString(deterministic=True)
    start = content.rindex(_ENTRY) + len(_ENTRY)
    return content[:start] + hashlib.sha256(content).hexdigest().encode() + content[start + _LENGTH :]


def require_seal(path: Path, content: bytes) -> None:
    """Raise DamagedFileError if the bytes of `path` have a digest and it is not theirs."""
    entry = content.rfind(_ENTRY)
    if entry < 0:
        return
    start = entry + len(_ENTRY)
    digest = hashlib.sha256(content[:start])
    digest.update(_BLANK)
    digest.update(memoryview(content)[start + _LENGTH :])
    if digest.hexdigest().encode() != content[start : start + _LENGTH]:
        raise DamagedFileError(
            f"{path} is damaged: its content does not have the digest that it records; export it again"
        )
