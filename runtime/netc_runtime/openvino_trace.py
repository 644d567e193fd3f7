"""OpenVINO's own counters of its kernels.

They hold the mean of each kernel over all runs since the program was compiled, in whole microseconds: what one lap took
is the difference of two sums, each of them off by up to a microsecond for every run so far.
"""

import re
import sys
from typing import Any

import numpy as np

from netc_runtime.arrays import Array
from netc_runtime.attribution import EngineNode
from netc_runtime.kernel_trace import KernelTimes, KernelTrace

_NUMBER = re.compile(r"(\.\d+)+$")  # of each of the nodes that stand for one: step.next.0


class OpenVINOTrace(KernelTrace):
    """The counters of one compiled model, which `OPTIONS` were given."""

    OPTIONS = {"PERF_COUNT": True}

    def __init__(self, compiled: Any) -> None:
        self.nodes = [_engine_node(node) for node in compiled.get_runtime_model().get_ordered_ops()]
        self.most_runs = sys.maxsize
        self._request = compiled.create_infer_request()  # all requests read the same counters
        self._runs, self._laps = 0, list[int]()
        self._operators = dict[str, str]()
        self._sums: list[dict[str, float]] = [{}]  # after each lap, microseconds by kernel

    def end_lap(self, runs: int) -> None:
        """Say that `runs` runs have been made since the last lap."""
        self._runs += runs
        self._laps.append(runs)
        # What never ran is a name for another node's work, or an input or output.
        ran = [entry for entry in self._request.profiling_info if entry.status == entry.Status.EXECUTED]
        self._operators |= {entry.node_name: entry.node_type for entry in ran}
        self._sums.append({entry.node_name: entry.real_time.total_seconds() * 1e6 * self._runs for entry in ran})

    def end(self) -> KernelTimes:
        """Return the times of all laps; see KernelTrace. Small ones may be below 0 by rounding."""
        names = [node.name for node in self.nodes if node.name in self._operators]
        names += sorted(self._operators.keys() - set(names))
        sums: Array = np.array([[lap.get(name, 0.0) for lap in self._sums] for name in names])
        milliseconds = np.diff(sums, axis=1) / self._laps / 1e3
        return KernelTimes(names, [self._operators[name] for name in names], milliseconds)


def _engine_node(node: Any) -> EngineNode:
    """Describe a node of a runtime model; values have the names of the nodes that compute them."""
    name, about = node.get_friendly_name(), node.get_rt_info()
    merged = about["originalLayersNames"].value if "originalLayersNames" in about else ""
    made_of = [part for part in merged.split(",") if part]
    return EngineNode(
        name,
        reads=tuple(value.get_source_output().get_node().get_friendly_name() for value in node.inputs()),
        computes=(name,),
        made_of=(*made_of, *(_NUMBER.sub("", part) for part in made_of)),
    )
