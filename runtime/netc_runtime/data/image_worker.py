"""A process that decodes its part of many image files: `python -m netc_runtime.data.image_worker JOB`."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from netc_runtime.data.image_files import Decoding, Failure, Task
from netc_runtime.errors import DriverError


def main(job: Path) -> None:
    """Run the job that `image_files` wrote, and write beside it which files gave no sample."""
    told = json.loads(job.read_bytes())
    how = told["how"]
    size = None if how["size"] is None else (how["size"][0], how["size"][1])
    task = Task(
        Path(told["target"]),
        told["offset"],
        tuple(told["shape"]),
        Decoding(how["channels"], size, how["skip"]),
        told["example"],
    )
    try:
        failures = task.run([Path(path) for path in told["paths"]], told["first"])
    except DriverError as error:  # such as a full disk
        failures = [Failure(told["first"], str(error), int(error.exit_code))]
    job.with_suffix(".result").write_text(json.dumps([asdict(failure) for failure in failures]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
