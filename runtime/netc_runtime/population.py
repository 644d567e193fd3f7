"""Population statistics: what evaluation and inference normalize with once training is over.

Algorithm 2 of Ioffe & Szegedy 2015 (Batch Normalization): with frozen parameters, the averages of the means and of the
unbiased variances of many training batches replace the running values that were good enough while training.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from netc_runtime.arrays import Array
from netc_runtime.artifact import POPULATION, Artifact
from netc_runtime.data.base import Split
from netc_runtime.data.batches import batch_of, sample_count, steps_per_epoch
from netc_runtime.data.order import permutation
from netc_runtime.engines import host_for_training, load_program
from netc_runtime.session import Host

_FIRST_ORDER = 1 << 63  # an epoch that no training reaches, so that its order of samples is another one


class Population:
    """`population.onnx`, loaded once and run at the end of training. The artifact must have one."""

    def __init__(self, artifact: Artifact, host: Host) -> None:
        self._graph = artifact.graph(POPULATION)
        host = host_for_training(artifact, host)
        self._program = load_program(artifact.file(POPULATION), host, self._graph, artifact.content(POPULATION))
        self._batch_size, self._packing = artifact.batch_size, artifact.packing
        self._batches = artifact.population_batches
        self._dtypes = {spec.name: spec.dtype for spec in artifact.state}
        self._feeds = {spec.name: str(spec.feeds) for spec in self._graph.outputs_of("statistic")}
        steps = [spec.name for spec in artifact.state if spec.role == "step"]
        self._steps = [spec for spec in self._graph.inputs_of("state") if spec.name in steps]

    def statistics(
        self, state: Mapping[str, Array], split: Split, seed: int, before_batch: Callable[[], None] = lambda: None
    ) -> dict[str, Array]:
        """Return the new values of the statistics, by name of the state; `state` stays as it is.

        The batches depend on `seed` alone: equal arguments give equal bits. Each batch counts as a step of its own
        for what is random in a layer. Averages are taken in float64. What `before_batch` raises ends the computation.
        """
        self._program.fix(self._packing.pack(state))
        sums = {name: np.zeros(state[name].shape, np.float64) for name in self._feeds.values()}
        for number, indices in enumerate(self._indices(sample_count(split), seed)):
            before_batch()
            feeds = batch_of(split, self._graph.inputs_of("batch"), indices)
            feeds |= {spec.name: np.asarray(state[spec.name] + number, dtype=spec.dtype) for spec in self._steps}
            for output, value in self._program(feeds, tuple(self._feeds)).items():
                sums[self._feeds[output]] += value
        with np.errstate(over="ignore"):  # the caller refuses what is not finite
            return {name: (total / self._batches).astype(self._dtypes[name]) for name, total in sums.items()}

    def _indices(self, samples: int, seed: int) -> Iterator[npt.NDArray[np.intp]]:
        """Yield the samples of one batch after another; passes over the split follow each other, as in training."""
        each = steps_per_epoch(samples, self._batch_size)
        for first in range(0, self._batches, each):
            order = permutation(seed, _FIRST_ORDER + first // each, samples)
            for number in range(min(each, self._batches - first)):
                yield order[number * self._batch_size : (number + 1) * self._batch_size]
