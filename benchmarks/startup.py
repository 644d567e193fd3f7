"""Time how soon the command line answers: --help of every command, and commands that do little.

    python benchmarks/startup.py [--rounds 7] [--json FILE]

Every run is a process of its own, as on the command line. The medians over the rounds are printed; commands take turns,
so that the noise of the machine falls on all. The first round, which reads files from the disk, is not counted.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from benchmarks.machine import description
from netc.cli import app

CHEAP = (("--help",), ("--version",), ("specs",), ("check", "lenet"))


@dataclass(frozen=True)
class Result:
    """The seconds of every run of one command."""

    command: str
    seconds: list[float]

    @property
    def median(self) -> float:
        """The median of the runs, in seconds."""
        return statistics.median(self.seconds)


def commands() -> list[tuple[str, ...]]:
    """Return the arguments of all timed commands."""
    group = typer.main.get_command(app)
    names = sorted(getattr(group, "commands", {}))
    return [*CHEAP, *((name, "--help") for name in names)]


def run(arguments: tuple[str, ...]) -> float:
    """Return the wall time of one command in seconds; its output is dropped."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "netc.cli", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description="Time how soon the command line answers.")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each command that count (default 7)")
    parser.add_argument("--json", type=Path, help="also write every run here")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds should be at least 1")
    wanted = commands()
    rounds = [[run(each) for each in wanted] for _ in range(arguments.rounds + 1)][1:]
    results = [
        Result(f"netc {' '.join(each)}", list(seconds))
        for each, seconds in zip(wanted, zip(*rounds, strict=True), strict=True)
    ]
    print("| Command | median s | least s |\n| --- | ---: | ---: |")
    for result in results:
        print(f"| `{result.command}` | {result.median:.2f} | {min(result.seconds):.2f} |")
    if arguments.json:
        record = {"machine": description(), "results": [asdict(result) for result in results]}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
