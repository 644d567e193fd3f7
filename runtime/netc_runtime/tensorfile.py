"""Safetensors files read against the tensors that a manifest promises."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open

from netc_runtime.arrays import SAFETENSORS_DTYPES, Array, shape_text
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.files import storage_errors


class Declared(Protocol):
    """What a manifest says of one tensor."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def dtype(self) -> str:
        """A key of SAFETENSORS_DTYPES."""

    @property
    def static_shape(self) -> tuple[int, ...]:
        """All axes as integers."""


class TensorFile:
    """One safetensors file, opened: its header is proven against the file's size before any tensor is read.

    Raises DriverError (2) if the file is absent and DamagedFileError if it is truncated or of another kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise DriverError(f"{path} does not exist or is not a file", ExitCode.USAGE)
        try:
            with storage_errors("read", path):
                self._file: Any = safe_open(path, framework="np")
        except SafetensorError as error:
            raise DamagedFileError(f"{path} is damaged or not a safetensors file ({error})") from error

    def __enter__(self) -> "TensorFile":
        self._file.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    @property
    def metadata(self) -> Mapping[str, str]:
        """The strings that stand beside the tensors."""
        return self._file.metadata() or {}

    def read(self, declared: Iterable[Declared]) -> dict[str, Array]:
        """Return all tensors; raises DamagedFileError unless they are exactly the declared ones."""
        expected = {spec.name: spec for spec in declared}
        present = set(self._file.keys())
        for name in sorted(expected.keys() - present):
            raise DamagedFileError(f'{self.path} lacks the tensor "{name}"')
        for name in sorted(present - expected.keys()):
            raise DamagedFileError(f'{self.path} holds the tensor "{name}", which the manifest does not declare')
        for name, spec in expected.items():
            header = self._file.get_slice(name)
            found, shape = header.get_dtype(), tuple(header.get_shape())
            if found != SAFETENSORS_DTYPES[spec.dtype] or shape != spec.static_shape:
                raise DamagedFileError(
                    f'{self.path} holds "{name}" as {found} {shape_text(shape)}, the manifest declares '
                    f"{SAFETENSORS_DTYPES[spec.dtype]} {shape_text(spec.static_shape)}"
                )
        return {name: self._file.get_tensor(name) for name in expected}

    def read_all(self) -> dict[str, Array]:
        """Return all tensors; raises DriverError (2) for one of a type that numpy does not have."""
        known = set(SAFETENSORS_DTYPES.values())
        for name in self._file.keys():  # noqa: SIM118 (it is no mapping)
            if (found := self._file.get_slice(name).get_dtype()) not in known:
                raise DriverError(
                    f'{self.path} holds "{name}" as {found}, which is not read; save it as F32', ExitCode.USAGE
                )
        return {name: self._file.get_tensor(name) for name in self._file.keys()}  # noqa: SIM118
