"""Train a compiled folder as `netc train` does, in this process of its own, and print what it took as JSON.

    python -m benchmarks.data_steps ARTIFACT RUN THREADS [--first]

With --first it ends after the first step. benchmarks/data.py calls this; nothing is imported that training does not
need, since that would count.
"""

import contextlib
import io
import json
import sys
import time
from pathlib import Path

from netc_runtime.events import StepDone
from netc_runtime.progress import PlainReporter
from netc_runtime.session import Host
from netc_runtime.trainer import TrainOptions, train

STATUS = Path("/proc/self/status")


class EnoughError(Exception):
    """The first step is done, and no other is wanted."""


class Clock(PlainReporter):
    """Reads the clock at the end of the first step."""

    def __init__(self, first_only: bool) -> None:
        super().__init__(io.StringIO())
        self._first_only = first_only
        self.first: float | None = None

    def step_done(self, event: StepDone) -> None:
        """Note the time of the first step."""
        if self.first is None:
            self.first = time.perf_counter()
        if self._first_only:
            raise EnoughError


def peak() -> int:
    """Return the most bytes that this process has held, 0 where the system does not say."""
    if not STATUS.exists():
        return 0
    found = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(found.split()[1]) * 1024


def main() -> int:
    artifact, run, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    clock = Clock("--first" in sys.argv)
    begun = time.perf_counter()
    with contextlib.suppress(EnoughError):
        train(TrainOptions(run, artifact, Host("cpu", threads)), clock)
    assert clock.first is not None
    print(json.dumps({"first_step": clock.first - begun, "all": time.perf_counter() - begun, "peak": peak()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
