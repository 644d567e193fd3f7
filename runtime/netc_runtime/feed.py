"""The batches of a run, in order: which samples each is made of, and, for data on the host, their values."""

import math
from typing import TypeAlias

from netc_runtime.arrays import Array
from netc_runtime.artifact import Artifact
from netc_runtime.data.base import Split
from netc_runtime.data.batches import field_of, gather, sample_count
from netc_runtime.data.mapped import Indices, is_in_memory
from netc_runtime.data.order import permutation
from netc_runtime.data.prefetch import Prefetch
from netc_runtime.interface import TensorSpec
from netc_runtime.plan import Plan

Fed: TypeAlias = tuple[Indices, dict[str, Array] | None]
"""The samples of a batch, and their values by input name unless the program gathers them itself."""

# Values of a batch from which on gathering them takes longer than to wake a thread, some 100 us. The thread does not
# cast them: bytes are cast to where the step reads them in less time than floats would be copied there.
_WORTH_A_THREAD = 1 << 21


class Feed:
    """Batch number n of a run, counted from 0, is a function of n and the seed alone, whatever was taken before it.

    Values are gathered here only if this `gathers`: in a thread, ahead of their use, where they come from files or are
    many, and when they are asked for where they are in memory anyway. To be closed at the end.
    """

    def __init__(self, artifact: Artifact, split: Split, plan: Plan, gathers: bool) -> None:
        self._artifact, self._split, self._plan, self._gathers = artifact, split, plan, gathers
        self._order: tuple[int, Indices] | None = None
        specs = {spec.name: spec for stage in plan.stages for spec in self._inputs(stage.graph)}.values()
        values = sum(math.prod(spec.static_shape) for spec in specs)
        is_slow = values >= _WORTH_A_THREAD or not all(is_in_memory(split[field_of(spec)]) for spec in specs)
        self._ahead: Prefetch[Fed] | None = None
        if gathers and is_slow:
            self._ahead = Prefetch(self._fed, plan.total_steps * artifact.iter_size)

    def take(self, number: int) -> Fed:
        """Return a batch, in the dtypes of the data; raises DriverError if its values cannot be read."""
        return self._fed(number) if self._ahead is None else self._ahead.take(number)

    def close(self) -> None:
        """End the thread."""
        if self._ahead is not None:
            self._ahead.close()

    def _fed(self, number: int) -> Fed:
        indices = self._indices(number)
        return indices, gather(self._split, self._inputs_of(number), indices) if self._gathers else None

    def _indices(self, number: int) -> Indices:
        step, part = divmod(number, self._artifact.iter_size)
        epoch, cursor = divmod(step, self._plan.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, permutation(self._plan.seed, epoch, sample_count(self._split))
        first = cursor * self._plan.batch_size + part * self._artifact.batch_size
        return self._order[1][first : first + self._artifact.batch_size]

    def _inputs_of(self, number: int) -> tuple[TensorSpec, ...]:
        return self._inputs(self._plan.stage_after(number // self._artifact.iter_size).graph)

    def _inputs(self, graph: str) -> tuple[TensorSpec, ...]:
        return self._artifact.graph(graph).inputs_of("batch")
