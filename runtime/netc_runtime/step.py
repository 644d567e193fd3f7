"""The training step: state that lives in two sets of device buffers, and two bindings built once."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from netc_runtime.arrays import Array
from netc_runtime.artifact import Artifact, TensorSpec
from netc_runtime.errors import DriverError
from netc_runtime.session import Host, Program


class _Buffer:
    """One tensor at a fixed address of a device, so that a binding made once stays right.

    On the CPU the value aliases `host`: writing there is all that is needed.
    """

    def __init__(self, ort: ModuleType, spec: TensorSpec, device: str) -> None:
        self.host: Array = np.zeros(spec.static_shape, dtype=spec.dtype)
        self.value = ort.OrtValue.ortvalue_from_numpy(self.host, device, 0)
        self._aliased = device == "cpu"

    def write(self, array: Array) -> None:
        # Unsafe casting, because narrowing (int64 labels to int32) is wanted; check_fit has proven the range.
        np.copyto(self.host, array, casting="unsafe")
        if not self._aliased:
            self.value.update_inplace(self.host)

    def read(self) -> Array:
        if self._aliased:
            return self.host.copy()
        array: Array = self.value.numpy()
        return array


class TrainingStep:
    """A program of training, `train.onnx` unless there are phases, with its state.

    State that the step changes has two buffers and the step reads one and writes the other, because ONNX Runtime
    does not promise to have read an input before it writes an output bound to the same memory. Everything else
    has one buffer. Nothing is bound or allocated again from step to step.
    """

    def __init__(self, artifact: Artifact, state: Mapping[str, Array], host: Host, key: str = "train") -> None:
        graph = artifact.graph(key)
        self._program = Program(artifact.file(key), host, graph, artifact.content(key))
        self.device = self._program.device
        self.onnxruntime_version: str = self._program.ort.__version__
        self.reason = self._program.reason
        self._specs = {spec.name: spec for spec in artifact.state}
        ort, device = self._program.ort, self.device
        changing = graph.fed
        self._batch = {spec.name: _Buffer(ort, spec, device) for spec in graph.inputs_of("batch")}
        self._metrics = {spec.name: _Buffer(ort, spec, "cpu") for spec in graph.outputs_of("metric")}
        constant = {name: _Buffer(ort, spec, device) for name, spec in self._specs.items() if name not in changing}
        self._constant = frozenset(constant)
        # Each set maps all state: what is constant is shared by both.
        self._sets = tuple(
            constant | {name: _Buffer(ort, self._specs[name], device) for name in self._specs if name in changing}
            for _ in range(2)
        )
        self._current, self._has_run = 0, False
        self.load_state(state)
        self._bindings = (self._bind(0, 1), self._bind(1, 0))

    def _bind(self, source: int, target: int) -> object:
        graph = self._program.interface
        binding = self._program.session.io_binding()
        for spec in graph.inputs:
            buffer = self._batch[spec.name] if spec.role == "batch" else self._sets[source][spec.name]
            binding.bind_ortvalue_input(spec.name, buffer.value)
        for spec in graph.outputs:
            if spec.role == "metric":
                binding.bind_ortvalue_output(spec.name, self._metrics[spec.name].value)
            elif spec.feeds is not None:
                binding.bind_ortvalue_output(spec.name, self._sets[target][spec.feeds].value)
        return binding

    def run(self, batch: Mapping[str, Array]) -> dict[str, float]:
        """Do one optimizer step on `batch` (input name to array, any dtype) and return the metrics of the batch.

        Raises DriverError (1) if ONNX Runtime fails; the state is then what it was before.
        """
        self._write(batch)
        with self._program.failures("failed"):
            self._program.session.run_with_iobinding(self._bindings[self._current])
        self._current, self._has_run = 1 - self._current, True
        return {name: float(buffer.host) for name, buffer in self._metrics.items()}

    def next_inputs(self, batch: Mapping[str, Array]) -> dict[str, Any]:
        """Return what the step on `batch` would read, as values on its device that must not be written to."""
        self._write(batch)
        return {name: buffer.value for name, buffer in (self._sets[self._current] | self._batch).items()}

    def _write(self, batch: Mapping[str, Array]) -> None:
        for name, buffer in self._batch.items():
            buffer.write(batch[name])

    def last_feeds(self) -> dict[str, Array] | None:
        """Return copies of all inputs of the last step, as they were before it; None if there was no step."""
        if not self._has_run:
            return None
        state = self._sets[1 - self._current]
        inputs = self._program.interface.inputs
        return {spec.name: (self._batch if spec.role == "batch" else state)[spec.name].read() for spec in inputs}

    def state(self) -> dict[str, Array]:
        """Return copies of all state tensors."""
        return {name: buffer.read() for name, buffer in self._sets[self._current].items()}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Overwrite all state; raises DriverError (1) for a tensor that is missing or of another shape or dtype."""
        for name, spec in self._specs.items():
            array = state.get(name)
            if array is None or array.shape != spec.static_shape or array.dtype != np.dtype(spec.dtype):
                found = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
                raise DriverError(f'the state "{name}" should be {spec.dtype} {list(spec.shape)}, not {found}')
        self._has_run = False
        for name in self._specs:
            self._sets[self._current][name].write(state[name])

    def set_constant(self, name: str, value: float) -> None:
        """Fill a state tensor that no step changes (`max_steps`) with `value`.

        Raises KeyError if `name` is no such tensor.
        """
        if name not in self._constant:
            raise KeyError(f"{name} is not constant while training")
        self._sets[0][name].write(np.asarray(value))
