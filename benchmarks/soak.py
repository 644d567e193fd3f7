"""Kill training with SIGKILL at random moments, resume it each time, and compare its end with an uninterrupted run.

    python benchmarks/soak.py [--kills 100] [--seed 0] [--json results.json]

Each session is a process of its own, which tells through one shared byte what it is doing: starting, training a step,
evaluating, collecting population statistics, writing metrics or a checkpoint. The kills are shared out over these
moments: the soak waits until the session is there for the n-th time, a little longer, and kills. Runs are resumed until
they finish; then the last checkpoint has to be the same bytes as that of a run that was never killed, and so has the
history of metrics but for wall-clock times. Exits with 1 if a run ends otherwise.
"""

import argparse
import json
import mmap
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SPECS = Path(__file__).parents[1] / "specs"
SESSION_LIMIT = 600.0  # seconds that no session needs
START, STEP, EVALUATION, STATISTICS, HISTORY, WRITING = MOMENTS = (
    "start",
    "step",
    "evaluation",
    "population statistics",
    "writing metrics",
    "writing a checkpoint",
)
# Seconds that a kill comes later than the beginning of a moment, at most.
DELAYS = {START: 0.5, STEP: 0.2, EVALUATION: 0.02, STATISTICS: 0.02, HISTORY: 0.002, WRITING: 0.004}
ADAM_DROPOUT = """
netc: 1
name: adam_dropout
inputs:
  image: {shape: [1, 8, 8]}
  label: {classes: 10}
data: {source: digits, scale: 0.0625, batch_size: 16}
layers:
  - {name: ip1, type: InnerProduct, num_output: 64}
  - {type: ReLU}
  - {name: drop1, type: Dropout, dropout_ratio: 0.5}
  - {name: ip2, type: InnerProduct, num_output: 10}
  - {name: loss, type: SoftmaxWithLoss}
  - {name: accuracy, type: Accuracy, bottom: [ip2, label]}
solver: {type: Adam, base_lr: 0.001, max_epochs: 4}
"""


@dataclass(frozen=True)
class Workload:
    """A spec, by name or as text, with overrides."""

    name: str
    spec: str
    overrides: tuple[str, ...]
    threads: int = 1


WORKLOADS = (
    Workload(
        "SGD with momentum and a side loss", "lenet_dsn", ("data.batch_size=128", "solver.max_epochs=4", "run.keep=1")
    ),
    Workload("Adam with dropout, two threads", ADAM_DROPOUT, ("run.evaluate_every.steps=50",), threads=2),
    Workload(
        "batch normalization, dropout and accumulation",
        "lenet_bn_dropout",
        ("data.batch_size=32", "solver.iter_size=4", "solver.max_epochs=3", "run.evaluate_every.steps=7"),
    ),
    Workload(  # the rate falls after evaluations without an improvement
        "plateau and average of weights",
        ADAM_DROPOUT,
        (
            "solver.base_lr=0.02",
            "solver.lr_policy={type: plateau, factor: 0.5, patience: 1, cooldown: 1, monitor: loss}",
            "solver.weight_average=0.9",
            "run.evaluate_every.steps=20",
        ),
    ),
    Workload(  # long before the planned end
        "early stopping",
        ADAM_DROPOUT,
        (
            "solver.base_lr=0.02",
            "solver.max_epochs=100",
            "run.evaluate_every.steps=30",
            "run.early_stopping={patience: 4, min_delta: 0.002, restore_best: true}",
        ),
    ),
    Workload(
        "population statistics",
        "resnet_tiny",
        (
            "data.batch_size=64",
            "solver.max_epochs=2",
            "solver.population_batches=12",
            "layers.bn0.statistics=population",
            "run.evaluate_every.steps=10",
        ),
    ),
)


@dataclass
class Result:
    """What happened to one workload.

    `kills` counts by moment, `wrong` lists what differed at the end of `runs` runs. `steps` and `rates`, the number of
    different learning rates, are those of the run that was never killed.
    """

    workload: str
    steps: int = 0
    rates: int = 0
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MOMENTS, 0))
    runs: int = 0
    wrong: list[str] = field(default_factory=list)


def compile_to(workload: Workload, folder: Path) -> None:
    """Compile a workload; the sessions, which are many, do without the compiler."""
    from netc.build import build
    from netc.emit import write
    from netc.spec.load import load
    from netc.spec.overrides import apply_override
    from netc.spec.text import parse_tree, read_tree

    path = SPECS / f"{workload.spec}.yaml"
    tree = parse_tree(workload.spec, workload.name) if "\n" in workload.spec else read_tree(path)
    for option in workload.overrides:
        tree = apply_override(tree, option)
    write(build(load(tree, SPECS)), folder)


def _let_tell(owner: Any, name: str, tell: Callable[[str], None], moment: str) -> None:
    """Let a method tell when it runs; what it interrupts goes on afterwards as a step."""
    whole = getattr(owner, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        tell(moment)
        try:
            return whole(*arguments, **options)
        finally:
            tell(STEP)

    setattr(owner, name, wrapped)


def session(artifact: Path, run: Path, byte: Path, threads: int) -> None:
    """Start or resume a run in this process, telling in the file `byte` what it is doing and how often it was."""
    from netc_runtime.checkpoint import checkpoint_paths
    from netc_runtime.evaluate import Evaluator
    from netc_runtime.metricslog import MetricsLog
    from netc_runtime.population import Population
    from netc_runtime.progress import make_reporter
    from netc_runtime.run import RunFolder
    from netc_runtime.session import Host
    from netc_runtime.step import TrainingStep
    from netc_runtime.trainer import TrainOptions, train

    with byte.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), len(MOMENTS) + 1)

    def tell(moment: str) -> None:
        number = MOMENTS.index(moment)
        if shared[0] != number:
            shared[number + 1] = min(shared[number + 1] + 1, 255)
        shared[0] = number

    places = (
        (TrainingStep, "run", STEP),
        (Evaluator, "metrics", EVALUATION),
        (Population, "statistics", STATISTICS),
        (MetricsLog, "append", HISTORY),
        (RunFolder, "save", WRITING),
        (RunFolder, "install", WRITING),
    )
    for owner, name, moment in places:
        _let_tell(owner, name, tell, moment)
    resume = bool(checkpoint_paths(run / "checkpoints"))
    train(TrainOptions(run, artifact, Host("cpu", threads), resume), make_reporter(as_json=True))


class Soak:
    """Kills and resumes the runs of one workload."""

    def __init__(self, workload: Workload, folder: Path, seed: int) -> None:
        self._folder, self._threads = folder, workload.threads
        self._random = random.Random(seed)
        self.result = Result(workload.name)
        self._artifact = folder / "artifact"
        compile_to(workload, self._artifact)
        self._moments = [moment for moment in MOMENTS if moment != STATISTICS]
        if (self._artifact / "population.onnx").exists():
            self._moments.append(STATISTICS)
        self._queue: list[str] = []
        whole = folder / "whole"
        while not self._train(whole, None):
            pass
        self._expected = _end(whole)
        lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
        self.result.steps, self.result.rates = lines[-1]["step"], len({line["rates"]["lr"] for line in lines})
        self._run = folder / "run"

    def kill_once(self) -> None:
        """Kill sessions until one kill has struck; a run that finished before is compared and begun anew."""
        while True:
            if not self._queue:  # every moment once, in another order each time
                self._queue = self._random.sample(self._moments, len(self._moments))
            if not self._train(self._run, self._queue[-1]):
                self._queue.pop()
                return
            self._compare()

    def finish(self) -> None:
        """Let the last run come to its end, and compare it."""
        while not self._train(self._run, None):
            pass
        self._compare()

    def _compare(self) -> None:
        self.result.runs += 1
        found = _end(self._run)
        self.result.wrong += [f"run {self.result.runs}: {key}" for key in found if found[key] != self._expected[key]]
        shutil.rmtree(self._run)

    def _train(self, run: Path, moment: str | None) -> bool:
        """Run one session, killed at `moment` unless it is None; return whether it finished."""
        byte = self._folder / "byte"
        byte.write_bytes(bytes(len(MOMENTS) + 1))
        command = [sys.executable, __file__, "--session", str(self._artifact), str(run), str(byte), str(self._threads)]
        with (self._folder / "said").open("w+b") as said:
            process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
            try:
                if moment is not None:
                    self._wait_for(moment, byte, process)
                    process.kill()
                code = process.wait(SESSION_LIMIT)
            finally:
                process.kill()
            said.seek(0)
            text = said.read().decode(errors="replace")
        if code == -signal.SIGKILL:
            self.result.kills[MOMENTS[byte.read_bytes()[0]]] += 1
            return False
        if code != 0 or "Traceback" in text:
            raise SystemExit(f"a session of {self.result.workload} ended with {code}: {text[-2000:]}")
        return True

    def _wait_for(self, moment: str, byte: Path, process: "subprocess.Popen[bytes]") -> None:
        """Return when the session has been at `moment` so many times, and a little later; or when it has ended."""
        if moment != START:
            times = 1 if moment == STATISTICS else self._random.randint(1, 3)  # these come once, at the end
            number = MOMENTS.index(moment)
            with byte.open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
                while process.poll() is None and (shared[number + 1] < times or shared[0] != number):
                    time.sleep(0.0001)
        time.sleep(self._random.uniform(0, DELAYS[moment]))


def _end(run: Path) -> dict[str, bytes]:
    """Return what has to be the same at the end of a run."""
    paths = sorted((run / "checkpoints").iterdir(), key=lambda path: int(path.stem.removeprefix("step_")))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"], line["images_per_second"]
    return {
        "the last checkpoint": paths[-1].read_bytes(),
        "the checkpoints kept": " ".join(path.name for path in paths).encode(),
        "the best checkpoint": (run / "best").read_bytes(),
        "metrics.jsonl": json.dumps(lines).encode(),
    }


def soak(kills: int, seed: int, workloads: tuple[Workload, ...] = WORKLOADS) -> Iterator[Result]:
    """Share out so many kills over the workloads; yield what happened to one after another."""
    for index, workload in enumerate(workloads):
        with tempfile.TemporaryDirectory(prefix="netc-soak-") as folder:
            one = Soak(workload, Path(folder), seed + index)
            for _ in range(kills // len(workloads) + (index < kills % len(workloads))):
                one.kill_once()
            one.finish()
        yield one.result


def main() -> int:
    if sys.argv[1:2] == ["--session"]:
        artifact, run, byte, threads = sys.argv[2:]
        session(Path(artifact), Path(run), Path(byte), int(threads))
        return 0
    parser = argparse.ArgumentParser(description="Kill and resume training, and compare its end.")
    parser.add_argument("--kills", type=int, default=100, help="kills in all (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default 0)")
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    begun = time.monotonic()
    results = []
    for result in soak(arguments.kills, arguments.seed):
        results.append(result)
        moments = ", ".join(f"{result.kills[moment]} at {moment}" for moment in MOMENTS if result.kills[moment])
        print(
            f"{result.workload}: {sum(result.kills.values())} kills ({moments}), {result.runs} runs finished, "
            f"{len(result.wrong)} differences{''.join(f'; {wrong}' for wrong in result.wrong)}",
            flush=True,
        )
    total = sum(sum(result.kills.values()) for result in results)
    print(f"{total} kills in {time.monotonic() - begun:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    return 1 if any(result.wrong for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
