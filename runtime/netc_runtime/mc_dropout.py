"""Monte Carlo dropout: how sure a trained network is, from predictions under many masks (Gal & Ghahramani, 2016)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from netc_runtime.arrays import Array
from netc_runtime.artifact import SAMPLE, Artifact
from netc_runtime.classmap import ClassMap
from netc_runtime.data import class_names_of, require_sound, value_range_of
from netc_runtime.engines import load_program
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.evaluate import data_section
from netc_runtime.model import class_names, class_scores, probabilities
from netc_runtime.predict import Prediction, Reader, described, only_input
from netc_runtime.run import RunFolder
from netc_runtime.session import Host

MOST_SEED = (1 << 32) - 1


class DropoutSampler:
    """`sample.onnx` with one state: predictions under masks of dropout. The artifact must have the program.

    `seed` None keys the masks by the seed in the state, which is the run's own.
    """

    def __init__(
        self, artifact: Artifact, state: Mapping[str, Array], host: Host, seed: int | None, where: Path
    ) -> None:
        graph = artifact.graph(SAMPLE)
        self._program = load_program(artifact.file(SAMPLE), host, graph, artifact.content(SAMPLE))
        self.input = only_input(where, graph.inputs_of("batch"))
        self.scores = class_scores(where, graph.outputs_of("output"))
        (self._draw,) = graph.inputs_of("draw")
        self._batch_size = artifact.batch_size
        if seed is not None:
            seeds = [spec for spec in artifact.state if spec.role == "seed"]
            state = {**state, **{spec.name: np.full(spec.static_shape, seed, spec.dtype) for spec in seeds}}
        self._program.fix(artifact.packing.pack(state))

    def moments(self, samples: Sequence[Array], masks: int) -> Iterator[tuple[Array, Array]]:
        """Yield mean and standard deviation of each sample's probabilities over `masks` masks, in float64.

        The deviation divides by `masks`, so that of a single mask is 0. Mask k of sample i is the one that draw
        (i * masks + k) // B has at the place (i * masks + k) % B of a batch of B: no two share it, and equal
        arguments give equal bits. The rest of the last batch is filled up and thrown away.
        """
        total, size = len(samples) * masks, self._batch_size
        seen, mean, squares = 0, np.zeros(0), np.zeros(0)
        for number, start in enumerate(range(0, total, size)):
            rows = range(start, min(start + size, total))
            for one in self._run(number, [samples[row // masks] for row in rows]):
                if seen == 0:
                    mean, squares = np.zeros(one.shape), np.zeros(one.shape)
                seen += 1
                off = one - mean  # Welford (1962): exact where all masks agree, and no mask is kept
                mean = mean + off / seen
                squares = squares + off * (one - mean)
                if seen == masks:
                    yield mean, np.sqrt(squares / masks)
                    seen = 0

    def _run(self, number: int, samples: list[Array]) -> Array:
        """Return the probabilities of at most a batch of samples under the masks of one draw, in float64."""
        filled = samples + [samples[-1]] * (self._batch_size - len(samples))
        batch = np.stack(filled).astype(self.input.dtype)
        feeds = {self.input.name: batch, self._draw.name: np.asarray(number, self._draw.dtype)}
        result = self._program(feeds, (self.scores.name,))[self.scores.name]
        return probabilities(result[: len(samples)].astype(np.float64), self.scores)


def predict_with_dropout(
    run: Path,
    inputs: Sequence[str],
    masks: int,
    seed: int | None = None,
    checkpoint: str = "last",
    host: Host | None = None,
    data_overrides: Mapping[str, Any] | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> list[Prediction | ClassMap]:
    """Classify inputs, as `predict` does, by the mean over `masks` masks of dropout; all else is in test mode.

    Raises DriverError: 2 for a run without dropout, fewer than 1 mask or a seed out of range, and what `predict` and
    finding a checkpoint of `run` raise.
    """
    if masks < 1:
        raise DriverError(f"the number of masks should be at least 1, not {masks}", ExitCode.USAGE)
    if seed is not None and not 0 <= seed <= MOST_SEED:
        raise DriverError(f"the seed of the masks should be from 0 to {MOST_SEED}, not {seed}", ExitCode.USAGE)
    folder = RunFolder(run)
    artifact = folder.load_artifact()
    if SAMPLE not in artifact.graphs and artifact.is_package:
        raise DriverError(
            f"{run} was trained by a training package, which has no {SAMPLE}.onnx; predict without masks, or use the "
            "artifact that netc compile writes",
            ExitCode.USAGE,
        )
    if SAMPLE not in artifact.graphs:
        raise DriverError(
            f"{run} has no dropout to sample: no Dropout or StochasticDepth of the test phase acts on the outputs of "
            f"{artifact.name}, so that every prediction would be the same; predict without masks",
            ExitCode.USAGE,
        )
    _, found = folder.find(checkpoint, artifact, warn)
    sampler = DropoutSampler(artifact, found.state, host or Host(), seed, run)
    data = data_section(artifact.spec, data_overrides)
    require_sound(data)
    scores = sampler.scores
    names = class_names(class_names_of(data), (scores,))
    reader = Reader(sampler.input, scores, data, value_range_of(data))
    samples = [sample for given in inputs for sample in reader.read(given)]
    moments = sampler.moments([sample.values for sample in samples], masks)
    return [
        described(sample, mean, names, scores.ignored, deviation)
        for sample, (mean, deviation) in zip(samples, moments, strict=True)
    ]
