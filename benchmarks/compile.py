"""Time `netc check` and `netc compile` by depth, and measure the most memory that each holds.

    python benchmarks/compile.py [--rounds 3] [--json results.json] [SPEC...]

Every measurement is a process of its own, as on the command line: the start of Python and all imports are counted.
Seconds are of the clock, the least of the rounds, since other work on the machine only adds; CPU seconds are those of
all threads. Without arguments: ResNets of 18 to 152 layers (He et al., 2016).
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

SPECS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


@dataclass(frozen=True)
class Result:
    """One command: wall seconds, CPU seconds, and the largest resident memory in MiB."""

    command: str
    spec: str
    seconds: float
    cpu_seconds: float
    memory: float


def run(*arguments: str) -> tuple[float, float, float]:
    """Return wall seconds, CPU seconds and MiB of one `netc` command, whose output is dropped."""
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    start = time.perf_counter()
    command = [sys.executable, "-m", "netc.cli", *arguments]
    process = os.posix_spawn(sys.executable, command, os.environ, file_actions=silent)
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"netc {' '.join(arguments)} failed")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def measure(command: str, spec: str, rounds: int) -> Result:
    """Return the best round of a command on a spec."""
    best = (float("inf"), 0.0, 0.0)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            best = min(best, run(command, spec, *(("-o", str(Path(folder) / "out")) if command == "compile" else ())))
    return Result(command, spec, *best)


def main() -> int:
    parser = argparse.ArgumentParser(description="Time netc check and netc compile by depth.")
    parser.add_argument("specs", nargs="*", default=SPECS, metavar="SPEC", help="YAML files or names of the zoo")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each command, of which the fastest counts")
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores; the fastest of {arguments.rounds}")
    results = [measure(command, spec, arguments.rounds) for spec in arguments.specs for command in ("check", "compile")]
    for r in results:
        print(f"{r.command:<8}{r.spec:<12}{r.seconds:7.2f} s {r.cpu_seconds:7.2f} s CPU {r.memory:7.0f} MiB")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
