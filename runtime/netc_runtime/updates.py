"""The updates of a run: by which program each is made, from which samples, and the same ones once more."""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np

from netc_runtime.arrays import Array
from netc_runtime.artifact import Artifact
from netc_runtime.data.base import Source
from netc_runtime.data.batches import gather
from netc_runtime.data.mapped import Indices
from netc_runtime.feed import Feed
from netc_runtime.plan import Plan
from netc_runtime.resident import dataset_of
from netc_runtime.session import Buffer, Host
from netc_runtime.step import TrainingStep

Watch: TypeAlias = Callable[[str, Mapping[str, Buffer]], None]
"""Told of a step that is about to be made: the key of its program, and the buffers of all its inputs."""


class Updates:
    """Makes updates of the state; number n is always made from the same samples by the program of the same phase.

    `artifact` may be replaced by a copy of it that lies elsewhere. To be closed at the end.
    """

    def __init__(
        self,
        artifact: Artifact,
        source: Source,
        plan: Plan,
        host: Host,
        state: Mapping[str, Array],
        step: int,
        is_new: bool,
    ) -> None:
        self.artifact = artifact
        self._source, self._plan, self._host = source, plan, host
        self._dataset = dataset_of(artifact, source.train, host)
        self._feed = Feed(artifact, source.train, plan, gathers=self._dataset is None)
        self._stage = plan.stage_before(step)
        self.program = TrainingStep(artifact, state, host, self._stage.graph, dataset=self._dataset)
        self.begin(state, step, is_new)

    def begin(self, state: Mapping[str, Array], step: int, is_new: bool) -> None:
        """Stand after `step` updates with `state`; only a new run gets its seed."""
        self._load(state, step)
        for spec in self.artifact.state:
            if spec.role == "seed" and is_new:
                self.program.set_constant(spec.name, self._plan.seed % (1 << 32))

    def _load(self, state: Mapping[str, Array], step: int, entering: bool = False) -> None:
        """Load the program of the last update, or if `entering` of the next, and tell it of its phase."""
        stage = self._plan.stage_after(step) if entering else self._plan.stage_before(step)
        if stage == self._stage:
            self.program.load_state(state)
        else:
            self.program = TrainingStep(self.artifact, state, self._host, stage.graph, dataset=self._dataset)
        self._stage = stage
        for spec in self.artifact.state:
            if spec.role == "max_steps":
                self.program.set_constant(spec.name, self._stage.end - self._stage.start)
            elif spec.role == "phase_start":
                self.program.set_constant(spec.name, self._stage.start)

    def _enter_phase_after(self, step: int) -> None:
        """Begin the next phase with the weights of the one before, and without the memory of its solver."""
        state = self.program.state()
        for spec in self.artifact.state:
            if spec.role == "optimizer":
                state[spec.name] = np.zeros_like(state[spec.name])
        self._load(state, step, entering=True)

    @property
    def graph(self) -> str:
        """The key of the program that makes the running phase's updates."""
        return self._stage.graph

    def update_after(self, step: int, watch: Watch | None = None) -> Iterator[tuple[Indices, dict[str, float]]]:
        """Make the update that follows `step` updates; yield each of its batches' samples and metrics, once it ran.

        `watch` is called before the last of the batches, with which the parameters change. Raises DriverError (1) if
        the engine fails.
        """
        if step == self._stage.end:
            self._enter_phase_after(step)
        each = self.artifact.iter_size
        for number in range(step * each, (step + 1) * each):
            indices, batch = self._feed.take(number)
            if watch is not None and number + 1 == (step + 1) * each:
                inputs = self.artifact.graph(self.graph).inputs_of("batch")
                watch(self.graph, self.program.next_inputs(batch or gather(self._source.train, inputs, indices)))
            yield indices, self.program.run_at(indices) if batch is None else self.program.run(batch)

    def close(self) -> None:
        """End whatever gathers batches in the background."""
        self._feed.close()

    def first_bad(self, first: int, last: int) -> tuple[int, Indices, list[str]] | None:
        """Make the updates after `first` up to `last`; stop at the first batch after which the state is not finite.

        Return the number of its update, its samples and the names of what is not finite. None if all stays finite, as
        it may where kernels are not deterministic.
        """
        for step in range(first, last):
            for indices, _ in self.update_after(step):
                wrong = not_finite(self.program.state())
                if wrong:
                    return step + 1, indices, wrong
        return None


def not_finite(state: Mapping[str, Array]) -> list[str]:
    """Return the names of the tensors with a value that is not finite."""
    return [name for name, array in state.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
