"""Measure what augmentation adds to a training step, as a share of the step without it.

    python benchmarks/augment.py [--spec SPEC] [--rounds 9] [--steps 2] [--threads 2] [--only NAME] [--json FILE]

The same batch of random images is trained on with and without operations, in turns of single blocks of steps, so that
the noise of the machine falls on both. The first step of a block, in which threads of the session before may still
spin, is not counted. The share of a round is (median of its block with) / (median of its block without) - 1.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import description
from netc.arguments import read_spec
from netc.build import build
from netc.emit import write
from netc_runtime.artifact import Artifact
from netc_runtime.session import Host
from netc_runtime.step import TrainingStep

LIMIT = 0.10  # of a step, for USUAL
USUAL = "pad-crop, flip and color"
COLOR: list[Any] = [{"type": name, "factor": 0.4} for name in ("Brightness", "Contrast", "Saturation")]
MOVES: list[Any] = ["HorizontalFlip", {"type": "PadCrop", "pad": 4}]
OPERATIONS: dict[str, list[Any]] = {
    "pad-crop and flip": MOVES,
    USUAL: [*MOVES, *COLOR],
    "the same with hue": [*MOVES, *COLOR, {"type": "Hue", "shift": 0.1}],
    "affine and flip": ["HorizontalFlip", {"type": "Affine", "rotation": 10, "translation": 0.1}],
    "noise, blur and cutout": [{"type": "GaussianNoise", "std": 0.05}, "GaussianBlur", {"type": "Cutout", "size": 16}],
    "mixup": ["Mixup"],
}


@dataclass(frozen=True)
class Result:
    """Medians over the rounds: milliseconds of a step, and the share that the operations add to it."""

    name: str
    plain_ms: float
    augmented_ms: float
    share: float
    shares: list[float]


def step_of(spec: str, operations: list[Any], folder: Path, threads: int) -> tuple[TrainingStep, dict[str, np.ndarray]]:
    """Return a training step, ready to run, and a batch of raw values for it."""
    loaded = read_spec(spec, [f"data.augment={json.dumps(operations)}", "data.range=[0, 255]"])
    write(build(loaded), folder)
    artifact = Artifact.load(folder)
    rng = np.random.default_rng(0)
    batch = {
        entry.name: rng.integers(0, entry.classes or 256, [n for n in entry.shape if isinstance(n, int)])
        for entry in artifact.graph("train").inputs_of("batch")
    }
    fed = {entry.name: batch[entry.name].astype(entry.dtype) for entry in artifact.graph("train").inputs_of("batch")}
    return TrainingStep(artifact, artifact.initial_state(), Host("cpu", threads)), fed


def block(step: TrainingStep, batch: dict[str, np.ndarray], steps: int) -> float:
    """Return the median milliseconds of some steps, after one that does not count."""
    times: list[float] = []
    for _ in range(steps + 1):
        begun = time.perf_counter()
        step.run(batch)
        times.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(times[1:])


def measure(spec: str, names: list[str], rounds: int, steps: int, threads: int) -> list[Result]:
    """Time all chosen lists of operations beside the plain step."""
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as scratch:
        plain, batch = step_of(spec, [], Path(scratch) / "plain", threads)
        for name in names:
            augmented, _ = step_of(spec, OPERATIONS[name], Path(scratch) / name.replace(" ", "_"), threads)
            pairs: list[tuple[float, float]] = []
            for number in range(rounds):
                turns = [plain, augmented] if number % 2 else [augmented, plain]
                times = {id(step): block(step, batch, steps) for step in turns}
                pairs.append((times[id(plain)], times[id(augmented)]))
            shares = [after / before - 1.0 for before, after in pairs[1:]]  # the first round warms up
            medians = [statistics.median(column) for column in zip(*pairs[1:], strict=True)]
            results.append(Result(name, medians[0], medians[1], statistics.median(shares), shares))
    return results


def main() -> int:
    """Print the table; return 1 if USUAL costs more than LIMIT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", default="resnet20_cifar")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=OPERATIONS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = [options.only] if options.only else list(OPERATIONS)
    results = measure(options.spec, names, options.rounds, options.steps, options.threads)
    for result in results:
        low, high = min(result.shares), max(result.shares)
        print(
            f"{result.name}: {result.plain_ms:.1f} -> {result.augmented_ms:.1f} ms a step, "
            f"{100 * result.share:+.1f} % ({100 * low:+.1f} to {100 * high:+.1f})",
            flush=True,
        )
    if options.json:
        record = {"machine": description(), "options": vars(options), "results": [asdict(r) for r in results]}
        options.json.write_text(json.dumps(record, indent=1, default=str) + "\n")
    usual = [result for result in results if result.name == USUAL]
    return int(any(result.share > LIMIT for result in usual))


if __name__ == "__main__":
    sys.exit(main())
