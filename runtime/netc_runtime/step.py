"""The training step: state that lives in two sets of device buffers, and two bindings built once."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from netc_runtime.arrays import Array
from netc_runtime.artifact import Artifact
from netc_runtime.data.batches import batch_of
from netc_runtime.data.mapped import Indices
from netc_runtime.engines import host_for_training, load_program
from netc_runtime.errors import DriverError
from netc_runtime.kernel_trace import KernelTrace
from netc_runtime.resident import INDEX, Dataset
from netc_runtime.session import Buffer, Bundle, Host


class TrainingStep:
    """A program of training, `train.onnx` unless there are phases, with its state.

    State that the step changes has two buffers and the step reads one and writes the other, because no engine
    promises to have read an input before it writes an output bound to the same memory. Everything else
    has one buffer. Nothing is bound or allocated again from step to step. `trace` is as in load_program. With a
    `dataset` the program gathers its batches from there.
    """

    def __init__(
        self,
        artifact: Artifact,
        state: Mapping[str, Array],
        host: Host,
        key: str = "train",
        trace: Path | None = None,
        dataset: Dataset | None = None,
    ) -> None:
        path, graph, content = artifact.file(key), artifact.graph(key), artifact.content(key)
        self._sampled, self._split = graph.inputs_of("batch"), None if dataset is None else dataset.split
        if dataset is not None:
            content, graph = dataset.put_in_front(path, content, graph)
        program = load_program(path, host_for_training(artifact, host), graph, content, True, trace)
        self._program = program
        self.device = program.device
        self.engine = program.engine
        self._state, self._packing = artifact.state, artifact.packing
        self._specs = {spec.name: spec for spec in artifact.packing.specs(artifact.state)}
        changing = graph.fed
        self._batch = program.bundle(graph.inputs_of("batch"))
        self._dataset = {} if dataset is None else dataset.buffers(program)
        self._watched: Bundle | None = None if dataset is not None else self._batch
        self._metrics = program.bundle(graph.outputs_of("metric"))
        constant = {name: program.buffer(spec) for name, spec in self._specs.items() if name not in changing}
        self._constant = frozenset(constant)
        # Each set maps all state: what is constant is shared by both.
        self._sets = tuple(
            constant | {name: program.buffer(self._specs[name]) for name in self._specs if name in changing}
            for _ in range(2)
        )
        self._current, self._has_run = 0, False
        self._bindings = (self._bind(0, 1), self._bind(1, 0))
        if program.is_captured:
            # By runs on whatever is there, so that a refusal is known before the first step.
            for run in self._bindings:
                run()
        self.reason = program.reason
        self.load_state(state)

    def _bind(self, source: int, target: int) -> Callable[[], None]:
        available = {**self._sets[source], **self._batch.buffers, **self._dataset}
        inputs = {spec.name: available[spec.name] for spec in self._program.interface.inputs}
        outputs = dict[str, Buffer]()
        for spec in self._program.interface.outputs:
            if spec.role == "metric":
                outputs[spec.name] = self._metrics.buffers[spec.name]
            elif spec.feeds is not None:
                outputs[spec.name] = self._sets[target][spec.feeds]
        return self._program.bind(inputs, outputs)

    def run(self, batch: Mapping[str, Array]) -> dict[str, float]:
        """Do one optimizer step on `batch` (input name to array, any dtype) and return the metrics of the batch.

        Raises DriverError (1) if the engine fails; the state is then what it was before.
        """
        self._batch.write(batch)
        self._bindings[self._current]()
        self._current, self._has_run = 1 - self._current, True
        return {name: float(value) for name, value in self._metrics.read().items()}

    def run_at(self, indices: Indices) -> dict[str, float]:
        """Do one optimizer step on the samples at `indices` of the dataset, without which this is not for; as `run`."""
        return self.run({INDEX: indices})

    def next_inputs(self, batch: Mapping[str, Array]) -> dict[str, Buffer]:
        """Return what the artifact's program would read on `batch`, in buffers that must not be written to."""
        if self._watched is None:
            self._watched = self._program.bundle(self._sampled)
        self._watched.write(batch)
        return {**self._sets[self._current], **self._watched.buffers}

    @property
    def trace(self) -> KernelTrace:
        """The record of the engine's kernels; only for what was made with `trace`."""
        assert self._program.trace is not None, "made without a trace"
        return self._program.trace

    def last_feeds(self) -> dict[str, Array] | None:
        """Return copies of all that the artifact's program read at the last step, state as it was before it.

        None if there was no step.
        """
        if not self._has_run:
            return None
        batch = {name: buffer.read() for name, buffer in self._batch.buffers.items()}
        if self._split is not None:
            batch = batch_of(self._split, self._sampled, batch[INDEX])
        state, inputs = self._sets[1 - self._current], self._program.interface.inputs_of("state")
        return {**{spec.name: state[spec.name].read() for spec in inputs}, **batch}

    def state(self) -> dict[str, Array]:
        """Return copies of all state tensors."""
        return self._packing.unpack({name: buffer.read() for name, buffer in self._sets[self._current].items()})

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Overwrite all state; raises DriverError (1) for a tensor that is missing or of another shape or dtype."""
        for spec in self._state:
            array = state.get(spec.name)
            if array is None or array.shape != spec.static_shape or array.dtype != np.dtype(spec.dtype):
                found = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
                raise DriverError(f'the state "{spec.name}" should be {spec.dtype} {list(spec.shape)}, not {found}')
        self._has_run = False
        packed = self._packing.pack(state)
        for name in self._specs:
            self._sets[self._current][name].write(packed[name])

    def set_constant(self, name: str, value: float) -> None:
        """Fill a state tensor that no step changes (`max_steps`) with `value`.

        Raises KeyError if `name` is no such tensor.
        """
        if name not in self._constant:
            raise KeyError(f"{name} is not constant while training")
        self._sets[0][name].write(np.asarray(value))
