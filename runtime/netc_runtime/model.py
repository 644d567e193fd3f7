"""An exported model.onnx: one file that says what to feed it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netc_runtime.artifact import TensorSpec
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.jsonfields import MalformedError, parse_object
from netc_runtime.session import Host, Program

DATA_KEY = "netc.data"
INTERFACE_KEY = "netc.interface"


class Model:
    """A model.onnx, loaded.

    Raises DriverError: 2 if the file does not exist, 3 without ONNX Runtime, 1 if netc did not write it.
    `content` holds the bytes of a model that is not written yet.
    """

    def __init__(self, path: Path, host: Host, content: bytes | None = None) -> None:
        self.path = path
        self.program = Program(path, host, content=content)
        self.inputs = self.program.interface.inputs_of("batch")
        self.outputs = self.program.interface.outputs_of("output")
        try:
            self.data: Mapping[str, Any] = parse_object(self.program.metadata.get(DATA_KEY, ""))
        except MalformedError as error:
            raise DamagedFileError(
                f"{path} was not exported by netc: its metadata has no usable {DATA_KEY} ({error})"
            ) from error

    @property
    def class_scores(self) -> TensorSpec:
        """The first output with one score for each class; raises DriverError (2) if there is none."""
        for spec in self.outputs:
            if classifies(spec):
                return spec
        shapes = ", ".join(f"{spec.name} {json.dumps(spec.shape)}" for spec in self.outputs)
        raise DriverError(
            f"{self.path} does not classify: none of its outputs gives scores [N, classes] ({shapes})",
            ExitCode.USAGE,
        )


def classifies(spec: TensorSpec) -> bool:
    """Whether an output gives one score for each of at least two classes: [N, classes]."""
    return len(spec.shape) == 2 and isinstance(spec.shape[1], int) and spec.shape[1] > 1
