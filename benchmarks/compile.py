"""Time `netc check` and `netc compile` by depth, and measure the most memory that each holds.

    python benchmarks/compile.py [--depths 20,56,110] [--rounds 3] [--json FILE] [SPEC ...]

Every measurement is a process of its own, as on the command line: the start of Python and all imports are counted.
Seconds are of the clock, the least of the rounds, since other work on the machine only adds; CPU seconds are those of
all threads. Without arguments: the ResNets for CIFAR of 20 to 1202 layers (He et al., 2016, section 4.2: 6n + 2).
Their times are also compared with those of the depth before: `by doubling` is by what seconds and memory would have
been multiplied if the depth had doubled exactly, 2 where the cost of a layer does not depend on the others.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path

DEPTHS = (20, 56, 110, 218, 434, 1202)
COMMANDS = ("check", "compile")


@dataclass(frozen=True)
class Result:
    """One command: wall seconds, CPU seconds, and the largest resident memory in MiB; `depth` None for a given spec."""

    command: str
    spec: str
    depth: int | None
    seconds: float
    cpu_seconds: float
    memory: float


def run(*arguments: str) -> tuple[float, float, float]:
    """Return wall seconds, CPU seconds and MiB of one `netc` command, whose output is shown only if it fails."""
    command = [sys.executable, "-m", "netc.cli", *arguments]
    with tempfile.TemporaryFile() as said:
        actions = [(os.POSIX_SPAWN_DUP2, said.fileno(), stream) for stream in (1, 2)]
        start = time.perf_counter()
        process = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
        _, status, usage = os.wait4(process, 0)
        seconds = time.perf_counter() - start
        if status:
            said.seek(0)
            raise SystemExit(f"netc {' '.join(arguments)} failed: {said.read().decode(errors='replace')}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def measure(command: str, spec: str, rounds: int, depth: int | None = None) -> Result:
    """Return the best round of a command on a spec, or on the ResNet for CIFAR of this depth."""
    arguments = [command, spec]
    if depth is not None:
        blocks = (depth - 2) // 6  # of each of the three stages
        for key in ("conv2.repeat", "conv3.depth", "conv4.depth"):
            arguments += ["--set", f"layers.{key}={blocks}"]
    best = (float("inf"), 0.0, 0.0)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            best = min(best, run(*arguments, *(("-o", str(Path(folder) / "out")) if command == "compile" else ())))
    return Result(command, spec, depth, *best)


def by_doubling(before: float, after: float, depths: tuple[int, int]) -> float:
    """Return the factor of a cost for twice the depth, from that between two depths."""
    return float((after / before) ** (log(2) / log(depths[1] / depths[0])))


def rows(results: list[Result]) -> list[str]:
    """Return the table as lines; results of one command follow each other by depth."""
    lines = ["| Command | spec | s | CPU s | MiB | s by doubling | MiB by doubling |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    before: Result | None = None
    for r in results:
        growth = ["", ""]
        if before is not None and before.command == r.command and before.depth is not None and r.depth is not None:
            depths = before.depth, r.depth
            pairs = ((before.seconds, r.seconds), (before.memory, r.memory))
            growth = [f"{by_doubling(old, new, depths):.2f}" for old, new in pairs]
        name = r.spec if r.depth is None else f"ResNet-{r.depth}"
        lines.append(
            f"| {r.command} | {name} | {r.seconds:.2f} | {r.cpu_seconds:.2f} | {r.memory:.0f} | {' | '.join(growth)} |"
        )
        before = r
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description="Time netc check and netc compile by depth.")
    parser.add_argument("specs", nargs="*", metavar="SPEC", help="YAML files or names of the zoo, instead of depths")
    parser.add_argument("--depths", help=f"6n + 2 each, in order; default {','.join(map(str, DEPTHS))}")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each command, of which the fastest counts")
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    try:
        depths = [int(depth) for depth in arguments.depths.split(",")] if arguments.depths else list(DEPTHS)
    except ValueError:
        parser.error(f"--depths should be numbers with commas between, not {arguments.depths!r}")
    if wrong := [depth for depth in depths if depth < 14 or depth % 6 != 2]:
        parser.error(f"--depths: {wrong[0]} is not 6n + 2 with n of at least 2")
    if arguments.rounds < 1:
        parser.error("--rounds should be at least 1")
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}; the fastest of {arguments.rounds}\n")
    cases: list[tuple[str, int | None]] = [(spec, None) for spec in arguments.specs]
    cases = cases or [("resnet20_cifar", depth) for depth in depths]
    results = [measure(command, spec, arguments.rounds, depth) for command in COMMANDS for spec, depth in cases]
    print("\n".join(rows(results)))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
