"""Print how many bytes a training step needs beyond the libraries and the batches, in this process of its own.

    python -m benchmarks.memory WORKLOAD ENGINE FOLDER THREADS

FOLDER holds the compiled artifact, since compiling would count. benchmarks/step.py calls this.
"""

import subprocess
import sys
from pathlib import Path

from benchmarks.engines import ENGINES
from benchmarks.machine import peak, resident
from benchmarks.workloads import WORKLOADS, Prepared

STEPS = 3  # with both sets of buffers, and once more
ROOT = Path(__file__).parents[1]


def of_step(workload: str, engine: str, folder: Path, threads: int) -> int:
    """Return the bytes, measured in a new process."""
    command = [sys.executable, "-m", "benchmarks.memory", workload, engine, str(folder), str(threads)]
    return int(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> int:
    workload, engine, folder, threads = sys.argv[1:]
    prepared = Prepared(WORKLOADS[workload], Path(folder))
    ENGINES[engine].load()
    before = resident()
    one = ENGINES[engine](prepared, int(threads))
    for index in range(STEPS):
        one.step(index)
    print(peak() - before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
