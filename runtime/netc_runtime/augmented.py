"""What augmentation makes of training samples, for people to look at: `augment.onnx` run on some of them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from netc_runtime.arrays import Array
from netc_runtime.artifact import AUGMENT, Artifact
from netc_runtime.data.base import Source
from netc_runtime.data.batches import check_fit, gather
from netc_runtime.data.sheet import Variants
from netc_runtime.engines import load_program
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.session import Host
from netc_runtime.statistics import data_statistics


def augmented_samples(artifact: Artifact, source: Source, draws: int, host: Host | None = None) -> Variants:
    """Return a function from indices of n training samples to what each of `draws` draws makes of their image.

    It gives arrays [n, C, H, W] of raw values. Numbers are drawn as in training, with the draw in the place of the
    step, so that they are the same in every call. The samples fill batches of the size of a training step, since a
    mixed sample is mixed with its neighbour. Raises DriverError (2) if the artifact augments no image.
    """
    if AUGMENT not in artifact.graphs and artifact.is_package:
        raise DriverError(
            f"{artifact.folder} is a training package, which has no {AUGMENT}.onnx; use the artifact that netc compile "
            "writes",
            ExitCode.USAGE,
        )
    if AUGMENT not in artifact.graphs:
        raise DriverError(f"{artifact.name} has no augmentation; give the spec data.augment", ExitCode.USAGE)
    graph = artifact.graph(AUGMENT)
    inputs = graph.inputs_of("batch")
    check_fit(source, inputs)
    images = {spec.name for spec in inputs if (spec.field or spec.name) == "image"}
    output = next((spec.name for spec in graph.outputs_of("augmented") if spec.feeds in images), None)
    if output is None:
        raise DriverError(f"the augmentation of {artifact.name} changes no image", ExitCode.USAGE)
    program = load_program(artifact.file(AUGMENT), host or Host("cpu"), graph, artifact.content(AUGMENT))
    program.fix(artifact.packing.pack(artifact.initial_state() | data_statistics(artifact, source.train)))
    size = artifact.batch_size

    def run(indices: npt.NDArray[np.intp], number: int) -> Array:
        batch = gather(source.train, inputs, np.resize(indices, size))  # filled up by the same samples again
        feeds = {spec.name: batch[spec.name].astype(spec.dtype) for spec in inputs}
        # None where nothing is left to chance.
        feeds |= {spec.name: np.asarray(number, spec.dtype) for spec in graph.inputs_of("draw")}
        return program(feeds, (output,))[output][: len(indices)]

    def variants(indices: npt.NDArray[np.intp]) -> Sequence[Array]:
        parts = [indices[start : start + size] for start in range(0, len(indices), size)]
        # A draw of its own for each batch: the same place of another one would repeat the numbers.
        return [
            np.concatenate([run(part, number * len(parts) + place) for place, part in enumerate(parts)])
            for number in range(draws)
        ]

    return variants
