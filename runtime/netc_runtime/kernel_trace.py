"""What an engine records of its kernels while a program runs, whichever engine it is."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass

from netc_runtime.arrays import Array
from netc_runtime.attribution import EngineNode


@dataclass(frozen=True)
class KernelTimes:
    """The kernels that ran, in the order of running, and the milliseconds of a run that each took in each lap.

    `milliseconds` has the shape [kernels, laps]. Names are unique: nodes of one name, which nothing forbids, count
    together.
    """

    names: Sequence[str]
    operators: Sequence[str]
    milliseconds: Array


class KernelTrace(abc.ABC):
    """The record of a program's kernels.

    Runs are counted in laps, because OpenVINO rounds what it tells: a lap of many runs loses less.

    Attributes:
        nodes: the graph that the engine runs, in the order of running.
        most_runs: how many runs it can hold.
    """

    nodes: Sequence[EngineNode]
    most_runs: int

    @abc.abstractmethod
    def end_lap(self, runs: int) -> None:
        """Say that `runs` runs, at least one, have been made since the last lap."""

    @abc.abstractmethod
    def end(self) -> KernelTimes:
        """Stop recording and return the times of all laps; there must be one.

        Raises DriverError (1) if the engine's record does not fit the runs.
        """
