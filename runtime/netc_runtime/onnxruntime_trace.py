"""ONNX Runtime's own trace: a file with an event for each kernel of each run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from netc_runtime.arrays import Array
from netc_runtime.attribution import nodes_of
from netc_runtime.errors import DriverError
from netc_runtime.kernel_trace import KernelTimes, KernelTrace

_MOST_EVENTS = 1_000_000  # after which ONNX Runtime's trace drops what follows
_EVENTS_OF_A_RUN = 2  # beside those of the kernels
_SUFFIX = "_kernel_time"
_OPTIMIZED = "optimized.onnx"  # the graph that ONNX Runtime runs


class OnnxRuntimeTrace(KernelTrace):
    """The trace of one session, whose options `record` has set, in a folder of its own."""

    def __init__(self, session: Any, folder: Path) -> None:
        self._session = session
        self.nodes = nodes_of(onnx.load(folder / _OPTIMIZED).graph)
        self.most_runs = _MOST_EVENTS // (len(self.nodes) + _EVENTS_OF_A_RUN)
        self._laps = list[int]()

    @staticmethod
    def record(options: Any, folder: Path) -> None:
        """Let a session with these `onnxruntime.SessionOptions` write its trace and its graph to `folder`."""
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        options.optimized_model_filepath = str(folder / _OPTIMIZED)

    def end_lap(self, runs: int) -> None:
        """Say that `runs` runs have been made since the last lap."""
        self._laps.append(runs)

    def end(self) -> KernelTimes:
        """Stop recording and return the times of all laps; see KernelTrace.

        Building the entry of the trace falls into the time of the kernel.
        """
        durations, operators = dict[str, list[int]](), dict[str, str]()
        for event in _events(Path(self._session.end_profiling())):
            name = str(event.get("name"))
            if event.get("cat") == "Node" and name.endswith(_SUFFIX):
                name = name.removesuffix(_SUFFIX)
                durations.setdefault(name, []).append(int(event["dur"]))
                operators[name] = str(event["args"]["op_name"])
        total, starts = sum(self._laps), np.cumsum([0, *self._laps[:-1]])
        by_lap = list[Array]()
        for name, all_runs in durations.items():
            if len(all_runs) % total:
                raise DriverError(f'the trace of ONNX Runtime has "{name}" {len(all_runs)} times in {total} steps')
            by_lap.append(np.add.reduceat(np.reshape(all_runs, (total, -1)).sum(axis=1), starts))
        return KernelTimes(list(durations), list(operators.values()), np.array(by_lap) / self._laps / 1e3)


def _events(trace: Path) -> Iterator[dict[str, Any]]:
    """Read a trace, which may be larger than memory, event by event: ONNX Runtime writes one on each line."""
    with trace.open(encoding="utf-8") as lines:
        for line in lines:
            text = line.strip().rstrip(",")
            if text not in ("", "[", "]"):
                yield json.loads(text)
