"""Time a training step of netc beside PyTorch's: same cores, same mathematics, interleaved in one run.

    python benchmarks/step.py [WORKLOAD ...] [--rounds 7] [--steps 5] [--threads 2] [--engines cpu,eager,compiled]
                              [--device cuda [--tf32]] [--json FILE] [--markdown FILE] [--no-memory]

All engines start from the same weights and see the same batches. Before they are timed, their losses on one batch,
trained on again and again, are compared, so that an engine that computes less is found out. Then rounds follow: in
each, every engine does a block of steps, in turns of who begins. The first step of a block, in which the threads of the
engine before may still be spinning, is not counted; neither is the first round. A ratio is the median over the rounds
of (median of netc's block) / (median of PyTorch's block): below 1, netc is faster. docs/benchmarks.md says more.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks import memory
from benchmarks.engines import ENGINES, Engine
from benchmarks.engines_cuda import CUDA_ENGINES
from benchmarks.machine import CudaMatrixPeak, MatrixPeak, description
from benchmarks.workloads import BATCHES, FOR_GPU, WORKLOADS, Prepared, Workload

# What netc's engines are compared with.
REFERENCES = ("eager", "compiled", "cuda-eager", "cuda-compiled", "cuda-eager-graph", "cuda-compiled-graph")
ALL_ENGINES = ENGINES | CUDA_ENGINES
CHECKED = 10  # updates whose losses are compared
# Of the first loss. Sums of float32 in another order differ by 1e-7; rectifiers and pooling windows whose inputs lie
# that near their kink switch, and ten updates carry it on: PyTorch in float32 differs from itself in float64 by 3e-4.
BOUND = 1e-3
BOUND_TF32 = 1e-2  # products of inputs that are rounded to 10 bits differ by 1e-3
FALL = 0.02  # of the loss over those updates, at least: many times the bound, so that the comparison says something


@dataclass(frozen=True)
class Round:
    """Median milliseconds a step of each engine, and the peak of matrix products measured beside, in GFLOP/s."""

    milliseconds: dict[str, float]
    peak: float


@dataclass(frozen=True)
class Result:
    """One workload.

    Attributes:
        flops: operations of a step: two a multiply-add, three times those of the forward pass.
        rounds: those that count.
        memory: peak bytes of a step beyond the libraries, by engine.
        losses: of the compared updates, by engine.
        bound: of the losses' relative difference.
    """

    name: str
    title: str
    flops: int
    rounds: list[Round]
    memory: dict[str, int]
    losses: dict[str, list[float]]
    bound: float = BOUND

    @property
    def engines(self) -> list[str]:
        """The engines that were timed."""
        return list(self.rounds[0].milliseconds)

    @property
    def peak(self) -> float:
        """The best rate of matrix products in any round, in GFLOP/s."""
        return max(each.peak for each in self.rounds)

    def milliseconds(self, engine: str) -> float:
        """Return the median over the rounds."""
        return statistics.median(each.milliseconds[engine] for each in self.rounds)

    def ratios(self, engine: str, reference: str) -> list[float]:
        """Return the ratio of each round, sorted."""
        return sorted(each.milliseconds[engine] / each.milliseconds[reference] for each in self.rounds)

    def share(self, engine: str) -> float:
        """Return which part of the peak of matrix products a step reaches."""
        return self.flops / (self.milliseconds(engine) * 1e6) / self.peak

    def difference(self) -> float:
        """Return the largest difference of two engines' losses, as a part of the first loss."""
        losses = np.array(list(self.losses.values()))
        return float(np.ptp(losses, axis=0).max() / losses[0, 0])  # which a NaN passes through

    def mistakes(self) -> list[str]:
        """Return what shows that the engines do not train the same network."""
        found = []
        if not self.difference() <= self.bound:
            found.append(f"the losses differ by {self.difference():.1e}, the bound is {self.bound:.0e}")
        for engine, losses in self.losses.items():
            if not losses[-1] < (1 - FALL) * losses[0]:
                found.append(f"the loss of {engine} went from {losses[0]:.4f} to {losses[-1]:.4f}: it does not train")
        return [f"{self.title}: {mistake}" for mistake in found]


def build(engines: list[str], prepared: Prepared, threads: int) -> dict[str, Engine]:
    return {name: ALL_ENGINES[name](prepared, threads) for name in engines}


def measure(
    workload: Workload, engines: list[str], rounds: int, steps: int, threads: int, with_memory: bool, tf32: bool
) -> Result:
    """Compare and time the engines on one workload."""
    with tempfile.TemporaryDirectory(prefix="netc-step-") as folder:
        prepared = Prepared(workload, Path(folder) / "timed", tf32=tf32)
        built = build(engines, prepared, threads)
        checked = built
        if workload.without_dropout:  # the engines draw different masks
            checked = build(engines, Prepared(workload, Path(folder) / "checked", False, tf32), threads)
        losses = {name: [engine.step(0) for _ in range(CHECKED)] for name, engine in checked.items()}
        del checked
        on_gpu = ALL_ENGINES[engines[0]].device == "cuda"
        peak = CudaMatrixPeak(tf32) if on_gpu else MatrixPeak(threads)
        timed = [_round(built, peak, steps, number) for number in range(rounds + 1)][1:]
        built.clear()
        held = {}
        if with_memory:
            measured = [name for name in engines if name != "compiled"]  # whose compiler would be measured
            held = {name: memory.of_step(workload.name, name, Path(folder) / "timed", threads) for name in measured}
        bound = BOUND_TF32 if tf32 else BOUND
        return Result(workload.name, workload.title, 6 * prepared.multiply_adds(), timed, held, losses, bound)


def _round(engines: dict[str, Engine], peak: MatrixPeak | CudaMatrixPeak, steps: int, number: int) -> Round:
    names = list(engines)
    first = number % len(names)
    medians = {}
    for name in names[first:] + names[:first]:
        block = []
        for index in range(steps + 1):
            start = time.perf_counter()
            engines[name].step(index % BATCHES)
            block.append((time.perf_counter() - start) * 1e3)
        medians[name] = statistics.median(block[1:])
    return Round({name: medians[name] for name in names}, peak.measure())


def table(results: list[Result]) -> str:
    """Return the results as Markdown."""
    engines = results[0].engines
    pairs = [(one, other) for one in engines if one not in REFERENCES for other in REFERENCES if other in engines]
    head = ["Workload", *(f"{name} ms" for name in engines), *(f"{one} / {other}" for one, other in pairs)]
    head += [f"{name} of peak" for name in engines] + [f"{name} MiB" for name in results[0].memory]
    head += ["peak GFLOP/s", "losses differ by"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for result in results:
        line = [result.title, *(f"{result.milliseconds(name):.2f}" for name in engines)]
        for one, other in pairs:
            ratios = result.ratios(one, other)
            line.append(f"**{statistics.median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})")
        line += [f"{result.share(name):.0%}" for name in engines]
        line += [f"{count / 2**20:.0f}" for count in result.memory.values()]
        lines.append([*line, f"{result.peak:.0f}", f"{result.difference():.0e}"])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Time a training step of netc beside PyTorch's.")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"from {', '.join(WORKLOADS)}; default all")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count (default 7)")
    parser.add_argument("--steps", type=int, default=5, help="steps of each engine in a round that count (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="threads of every engine (default 2)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="whose engines to time (default cpu)")
    parser.add_argument("--tf32", action="store_true", help="let the GPU round the inputs of products")
    parser.add_argument("--engines", help=f"default {','.join(ENGINES)}, or with cuda {','.join(CUDA_ENGINES)}")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory of a step")
    parser.add_argument("--json", type=Path, help="also write everything measured here")
    parser.add_argument("--markdown", type=Path, help="write the table here instead of to stdout")
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    offered = CUDA_ENGINES if on_gpu else ENGINES
    engines = arguments.engines.split(",") if arguments.engines else list(offered)
    for kind, names, known in (("workload", arguments.workloads, WORKLOADS), ("engine", engines, offered)):
        if unknown := [name for name in names if name not in known]:
            parser.error(f'unknown {kind} "{unknown[0]}"; choose from {", ".join(known)}')
    if min(arguments.rounds, arguments.steps, arguments.threads) < 1:
        parser.error("--rounds, --steps and --threads should be at least 1")
    for name in list(engines):
        if lacking := offered[name].missing():
            print(f"left out {name}: this machine has no {lacking}", file=sys.stderr)
            engines.remove(name)
    if not engines:
        return 1
    versions = sorted({offered[name].version() for name in engines})
    head = f"{', '.join(versions)}; {arguments.threads} threads; {arguments.rounds} rounds of {arguments.steps} steps"
    results, mistakes = [], []
    # The memory of a process says nothing of a GPU's.
    with_memory = not (arguments.no_memory or on_gpu)
    for name in arguments.workloads or [name for name in WORKLOADS if on_gpu or name not in FOR_GPU]:
        result = measure(
            WORKLOADS[name],
            engines,
            arguments.rounds,
            arguments.steps,
            arguments.threads,
            with_memory,
            arguments.tf32,
        )
        results.append(result)
        mistakes += result.mistakes()
        print(f"{result.title} done", file=sys.stderr)
        if arguments.json:  # after each, since a run may be cut short
            record = {"machine": description(), "versions": versions, "threads": arguments.threads}
            record |= {"steps": arguments.steps, "results": [asdict(each) for each in results]}
            arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    text = f"{head}\n\n{table(results)}"
    if arguments.markdown:
        arguments.markdown.write_text(text)
    else:
        print(text)
    for mistake in mistakes:
        print(mistake, file=sys.stderr)
    return 1 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
