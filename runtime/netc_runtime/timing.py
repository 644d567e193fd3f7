"""Where the time of a training step goes: the engine's own record of its kernels beside a clock.

One program runs with the record, the trace, and one without, in turns on the same synthetic batch, because the trace
itself takes time: the clock of the program without it says how long a step is, the trace says what its kernels are.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from netc_runtime.arrays import Array
from netc_runtime.artifact import Artifact
from netc_runtime.attribution import Origin, kernel_origins, origins
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.interface import TensorSpec
from netc_runtime.kernel_trace import KernelTrace
from netc_runtime.session import Host
from netc_runtime.step import TrainingStep

_TURN = 2  # laps that a program runs before it is the other one's turn, so that a busy machine falls on both
_WARM_UP = 1  # steps before them: caches are filled, and the other program's threads come to rest
_MOST_LAPS = 20  # that the steps are divided into; a middle half of more is no better
_PLANNED_STEPS = 1000  # what schedules that end with the run are told; any number does


@dataclass(frozen=True)
class Kernel:
    """One node of the graph that the engine runs; `milliseconds` are of one step."""

    name: str
    operator: str
    origin: Origin | None
    milliseconds: float


@dataclass(frozen=True)
class Timing:
    """What a training step takes.

    `step_ms` is the time of a whole step without the trace, `traced_step_ms` with it. All times are means over the
    middle half of the laps, each of one step, or of several where there are many: as deaf to a busy moment as a median,
    but the times of kernels add up. `trace_ms` is what the trace adds to a kernel: the time of the shortest one, of a
    scalar or a new shape, which was taken from all.
    `nodes` has the origin of every node of the program as it was compiled, in its order, and `kernels` all that ran.
    """

    name: str
    program: str
    device: str
    threads: int
    batch_size: int
    steps: int
    step_ms: float
    traced_step_ms: float
    trace_ms: float
    nodes: Mapping[str, Origin]
    kernels: tuple[Kernel, ...]

    @property
    def kernels_ms(self) -> float:
        """The sum over all kernels."""
        return sum(kernel.milliseconds for kernel in self.kernels)

    @property
    def accounted(self) -> float:
        """The share of the step without the trace that kernels of known origin take.

        It may be above 1 where other programs keep the machine busy, which falls on steps with and without the trace
        by chance.
        """
        return self._attributed_ms / self.step_ms

    @property
    def accounted_with_trace(self) -> float:
        """The same share of the steps that the kernels were measured in, which no chance makes larger than it is.

        What the trace itself takes counts as not accounted for.
        """
        return self._attributed_ms / self.traced_step_ms

    @property
    def _attributed_ms(self) -> float:
        return sum(kernel.milliseconds for kernel in self.kernels if kernel.origin is not None)


def time_step(artifact: Artifact, host: Host, steps: int) -> Timing:
    """Time the training step of the last phase over `steps` steps.

    Raises DriverError: 2 for more steps than a trace can hold, 3 without the engine or the device, 1 if a step fails.
    """
    key = artifact.phases[-1].graph
    state, batch = _first_state(artifact), synthetic_batch(artifact, key)
    with tempfile.TemporaryDirectory(prefix="netc-trace-") as folder:
        plain = TrainingStep(artifact, state, host, key)
        traced = TrainingStep(artifact, state, host, key, Path(folder))
        _require_fitting(steps, traced)
        clocks: tuple[list[float], list[float]] = ([], [])
        measured = list[bool]()  # of each lap in the trace, whether it was no warm-up
        for laps in _turns(steps):
            for program, clock, trace in ((plain, clocks[0], None), (traced, clocks[1], traced.trace)):
                program.load_state(state)  # random labels would lead far away in many steps
                clock.extend(_run(program, batch, laps, trace))
            measured += [False] + [True] * len(laps)
        kernels, trace_ms = _kernels(traced.trace, measured)
    compiled = onnx.load_model_from_string(artifact.content(key)).graph
    known = kernel_origins(compiled, traced.trace.nodes)
    return Timing(
        name=artifact.name,
        program=artifact.files[key],
        device=plain.device,
        threads=host.thread_count,
        batch_size=artifact.batch_size,
        steps=steps,
        step_ms=float(np.mean(np.asarray(clocks[0])[_middle(clocks[0])])),
        traced_step_ms=float(np.mean(np.asarray(clocks[1])[_middle(clocks[1])])),
        trace_ms=trace_ms,
        nodes=origins(compiled),
        kernels=tuple(Kernel(name, operator, known.get(name), ms) for name, operator, ms in kernels),
    )


def layer_times(artifact: Artifact, host: Host, steps: int) -> dict[str, float]:
    """Return the milliseconds of a step that each layer's kernels take, of all its parts, by the trace alone.

    Raises DriverError as `time_step` does.
    """
    key = artifact.phases[-1].graph
    batch, laps = synthetic_batch(artifact, key), _laps(steps)
    with tempfile.TemporaryDirectory(prefix="netc-trace-") as folder:
        traced = TrainingStep(artifact, _first_state(artifact), host, key, Path(folder))
        _require_fitting(steps, traced)
        _run(traced, batch, laps, traced.trace)
        kernels, _ = _kernels(traced.trace, [False] + [True] * len(laps))
    known = kernel_origins(onnx.load_model_from_string(artifact.content(key)).graph, traced.trace.nodes)
    found: dict[str, float] = {}
    for name, _, milliseconds in kernels:
        if name in known:
            found[known[name].layer] = found.get(known[name].layer, 0.0) + milliseconds
    return found


def step_times(artifacts: Sequence[Artifact], host: Host, steps: int) -> list[float]:
    """Return the median milliseconds of a step of each artifact, in turns on one synthetic batch, without a trace."""
    programs: list[tuple[TrainingStep, dict[str, Array], dict[str, Array]]] = []
    for artifact in artifacts:
        key = artifact.phases[-1].graph
        state = _first_state(artifact)
        programs.append((TrainingStep(artifact, state, host, key), state, synthetic_batch(artifact, key)))
    clocks: list[list[float]] = [[] for _ in programs]
    for _ in range(0, steps, _TURN):
        for (program, state, batch), clock in zip(programs, clocks, strict=True):
            program.load_state(state)
            clock.extend(_run(program, batch, [1] * _TURN))
    return [float(np.median(clock)) for clock in clocks]


def _laps(steps: int) -> list[int]:
    """Return the number of steps of each lap."""
    most = -(-steps // _MOST_LAPS)
    return [min(most, steps - first) for first in range(0, steps, most)]


def _turns(steps: int) -> Iterator[list[int]]:
    """Yield the laps of each turn."""
    laps = _laps(steps)
    yield from (laps[first : first + _TURN] for first in range(0, len(laps), _TURN))


def _require_fitting(steps: int, traced: TrainingStep) -> None:
    """Raise DriverError (2) for more steps than a trace can hold."""
    most = traced.trace.most_runs * _TURN // (_TURN + _WARM_UP) - _WARM_UP
    if steps > most:
        raise DriverError(f"{traced.engine} traces at most {most} steps of this network; use fewer", ExitCode.USAGE)


def _first_state(artifact: Artifact) -> dict[str, Array]:
    state = artifact.initial_state()
    for spec in artifact.state:
        if spec.role == "max_steps":
            state[spec.name] = np.full_like(state[spec.name], _PLANNED_STEPS)
    return state


def synthetic_batch(artifact: Artifact, key: str) -> dict[str, Array]:
    """Return a batch for a program: labels in range, and numbers that are near 0 to 1 after `data.mean` and `scale`."""
    random = np.random.default_rng(0)
    return {spec.name: _synthetic(artifact, spec, random) for spec in artifact.graph(key).inputs_of("batch")}


def _synthetic(artifact: Artifact, spec: TensorSpec, random: np.random.Generator) -> Array:
    if spec.classes is not None:
        return random.integers(0, spec.classes, spec.static_shape).astype(spec.dtype)
    data: Mapping[str, Any] = artifact.spec.get("data", {})
    values = random.random(spec.static_shape) / (data.get("scale") or 1.0)
    mean = np.asarray(data.get("mean", 0.0), dtype=np.float64)
    if mean.ndim == 1:  # one a channel
        mean = mean.reshape(-1, *[1] * (values.ndim - 2)) if len(mean) == values.shape[1] else mean.mean()
    return (values + mean).astype(spec.dtype)


def _run(
    program: TrainingStep, batch: Mapping[str, Array], laps: Sequence[int], trace: KernelTrace | None = None
) -> list[float]:
    """Return the milliseconds of a step in each lap; a lap of the warm-up comes before them."""
    found = list[float]()
    for steps in (_WARM_UP, *laps):
        begun = time.perf_counter()
        for _ in range(steps):
            program.run(batch)
        found.append((time.perf_counter() - begun) * 1e3 / steps)
        if trace is not None:
            trace.end_lap(steps)
    return found[1:]


def _kernels(trace: KernelTrace, measured: list[bool]) -> tuple[list[tuple[str, str, float]], float]:
    """Return name, operator and milliseconds of each kernel, in the order of running, and what the trace added to each.

    `measured` says of each lap whether it counts.
    """
    times = trace.end()
    table = times.milliseconds[:, measured]
    milliseconds = np.maximum(table[:, _middle(table.sum(axis=0))].mean(axis=1), 0.0)  # engines round
    added = float(milliseconds.min())
    kernels = zip(times.names, times.operators, milliseconds, strict=True)
    return [(name, operator, float(ms) - added) for name, operator, ms in kernels], added


def _middle(values: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Return the indices of the middle half of `values` by size, at least one."""
    order = np.argsort(values)
    cut = len(order) // 4
    return order[cut : len(order) - cut]
