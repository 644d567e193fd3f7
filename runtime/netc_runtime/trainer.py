"""The training loop: steps, evaluations, checkpoints, and an exact continuation after any stop."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from netc_runtime.arrays import Array
from netc_runtime.artifact import Artifact
from netc_runtime.checkpoint import Best, Checkpoint, Newest, Position, checkpoint_paths, newest
from netc_runtime.data import open_source
from netc_runtime.data.base import Source
from netc_runtime.data.batches import check_fit, gather, sample_count
from netc_runtime.data.order import permutation
from netc_runtime.diagnose import origin_of_divergence
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.evaluate import Evaluator, data_section
from netc_runtime.events import EpochDone, Reporter, Started, StepDone, TrainResult
from netc_runtime.interrupts import Interrupts, StopRequestedError
from netc_runtime.metricslog import MetricsLog
from netc_runtime.plan import Plan, Stage
from netc_runtime.plateau import Plateau, Waiting
from netc_runtime.population import Population
from netc_runtime.run import RunFolder
from netc_runtime.session import Host
from netc_runtime.specs import require_same_spec
from netc_runtime.step import TrainingStep
from netc_runtime.transfer import InitReport, initialised

_SHOWN = 5  # names of bad values in one sentence
# The kinds of metric that say which checkpoint is the best, the first one first, and whether larger is better.
_JUDGES = {"accuracy": True, "mean_iou": True, "class_accuracy": True, "total": False}


@dataclass(frozen=True)
class TrainOptions:
    """What to train, where to keep it, and how far to go in this session.

    `artifact` None takes the run folder's own copy, which needs `resume`. `host.threads` None takes the number that
    the run was started with. `stop_after_epochs` ends the session cleanly after so many finished epochs.
    """

    run: Path
    artifact: Path | None = None
    host: Host = field(default_factory=Host)
    resume: bool = False
    stop_after_epochs: int | None = None


def train(options: TrainOptions, reporter: Reporter) -> TrainResult:
    """Train until the plan of the spec is fulfilled, `stop_after_epochs` is reached, or a signal comes.

    Raises DriverError: 2 for wrong options or a spec that does not fit its data or the run, 3 for the environment,
    4 if a loss stops being finite, 130 or 143 after SIGINT or SIGTERM (a checkpoint is then written).
    """
    run = RunFolder(options.run)
    if options.artifact is None and not options.resume:
        raise DriverError("an artifact is needed to start a run; give the folder of netc compile", ExitCode.USAGE)
    if options.resume and not (run.is_run and run.checkpoints.is_dir()):
        raise DriverError(f"{run.path} is not a run folder, so there is nothing to resume", ExitCode.USAGE)
    given = Artifact.load(options.artifact) if options.artifact else None
    try:
        with run.locked(), Interrupts(run.how_to_continue) as interrupts:
            artifact = given or run.load_artifact()
            resumed = _find_checkpoint(run, artifact, options, reporter)
            return _Session(run, artifact, options, resumed, reporter).train(interrupts)
    finally:
        reporter.close()


def _find_checkpoint(run: RunFolder, artifact: Artifact, options: TrainOptions, reporter: Reporter) -> Newest | None:
    if options.resume:
        # The whole run first: its spec says more than that of its newest checkpoint.
        if run.artifact.is_dir():
            require_same_spec(f"the run {run.path}", run.load_artifact().spec, artifact.spec)
        found = newest(run.checkpoints, artifact, reporter.warn)
        if found is None:
            raise DriverError(
                f"{run.path} has no checkpoint to resume from; leave out --resume to start anew", ExitCode.USAGE
            )
        return found
    if checkpoint_paths(run.checkpoints):
        raise DriverError(
            f"{run.path} already holds a run; choose another run folder, or continue it with: {run.resume_command}",
            ExitCode.USAGE,
        )
    return None


class _Session:
    """One process's share of a run."""

    def __init__(
        self, run: RunFolder, artifact: Artifact, options: TrainOptions, resumed: Newest | None, reporter: Reporter
    ) -> None:
        self._run = run
        self._options = options
        self._reporter = reporter
        self._source: Source = open_source(data_section(artifact.spec))
        for phase in artifact.phases:
            check_fit(self._source, artifact.graph(phase.graph).inputs_of("batch"))
        check_fit(self._source, artifact.graph("eval").inputs_of("batch"))
        self._plan = Plan.of(artifact, sample_count(self._source.train))
        self._plateau = Plateau.of(artifact)
        if resumed:
            resumed.checkpoint.position.require_epochs_of(self._plan.steps_per_epoch, resumed.path)
            self._plan.require_reach(resumed.checkpoint.position.step, f"the run {run.path}")
        self._host = host = self._chosen_host(resumed)
        state, self._init_report = self._first_state(artifact, resumed)
        self._stage = self._plan.stage_before(resumed.checkpoint.position.step if resumed else 0)
        self._step = TrainingStep(artifact, state, host, self._stage.graph)
        self._evaluator = Evaluator(artifact, host)
        self._population = Population(artifact, host) if artifact.has_population else None
        self._threads = host.thread_count
        self._set_horizon(artifact)
        for spec in artifact.state:
            if spec.role == "seed" and resumed is None:
                self._step.set_constant(spec.name, self._plan.seed % (1 << 32))
        if resumed:
            now = self._step.device, self._step.onnxruntime_version, artifact.netc_version
            for change in resumed.checkpoint.changes(*now):
                reporter.warn(change)
        # Only now, when nothing else can be wrong, does the run folder change.
        self._artifact = run.install(artifact)
        if self._init_report is not None:
            run.record_init(self._init_report.as_dict())
        self._position = self._reopened(resumed.checkpoint.position) if resumed else Position.start()
        self._saved = resumed.path if resumed else None
        if resumed:
            run.set_aside(resumed.damaged)
            run.record_best(self._position.best)
        rates = artifact.metrics_of("rate")
        averaged = [spec.name for spec in artifact.graph("train").outputs_of("metric") if spec.name not in rates]
        self._rates = rates
        self._totals = artifact.metrics_of("total")
        self._log = MetricsLog(run.path, averaged, self._evaluator.metric_names, rates)
        self._log.rewind(self._position)

    def _first_state(self, artifact: Artifact, resumed: Newest | None) -> tuple[dict[str, Array], InitReport | None]:
        """Return the state to begin with; only a new run needs what its spec starts from."""
        if resumed is not None:
            return dict(resumed.checkpoint.state), None
        if artifact.init_from is None:
            return artifact.initial_state(), None
        return initialised(artifact, artifact.init_from, self._reporter.warn)

    def _set_horizon(self, artifact: Artifact) -> None:
        """Tell the step where its phase begins and how long it is."""
        for spec in artifact.state:
            if spec.role == "max_steps":
                self._step.set_constant(spec.name, self._stage.end - self._stage.start)
            elif spec.role == "phase_start":
                self._step.set_constant(spec.name, self._stage.start)

    def _enter(self, stage: Stage) -> None:
        """Begin another phase with the weights of the one before, and without the memory of its solver."""
        state = self._step.state()
        for spec in self._artifact.state:
            if spec.role == "optimizer":
                state[spec.name] = np.zeros_like(state[spec.name])
        self._stage = stage
        self._step = TrainingStep(self._artifact, state, self._host, stage.graph)
        self._set_horizon(self._artifact)

    def _reopened(self, position: Position) -> Position:
        """Return where to continue: a plan may end now where the run stands, still without population statistics."""
        if self._population is None or position.population or position.step < self._plan.total_steps:
            return position
        if position.cursor == 0 and position.epoch > 0:
            # What the epoch's batches gave is no longer known.
            cursor = self._plan.steps_per_epoch
            position = replace(position, epoch=position.epoch - 1, cursor=cursor, sums={})
        return replace(position, evaluated=False)

    def _chosen_host(self, resumed: Newest | None) -> Host:
        asked = self._options.host
        if resumed is None:
            return asked
        recorded = resumed.checkpoint.threads
        if asked.threads is not None and asked.threads != recorded:
            self._reporter.warn(
                f"the run was started with threads={recorded} and continues with {asked.threads}: its bits may differ "
                f"from those of a run that never stopped"
            )
            return asked
        return replace(asked, threads=recorded)

    def train(self, interrupts: Interrupts) -> TrainResult:
        begun = time.monotonic()
        plan, limit = self._plan, self._options.stop_after_epochs
        self._reporter.started(self._started())
        test: Mapping[str, float] = {}
        epochs = 0
        try:
            while not self._finished and (limit is None or epochs < limit):
                test = self._epoch(interrupts)
                epochs += 1
            interrupts.check()  # for a signal during the last evaluation
        except StopRequestedError as stop:
            path = self._save(self._sound_state())
            raise DriverError(
                f"stopped by {stop.name} after step {self._position.step} of {plan.total_steps}; "
                f"{path} holds the state; continue with: {self._run.resume_command}",
                stop.exit_code,
            ) from stop
        best = self._position.best
        result = TrainResult(
            run=self._run.path,
            resume_command=self._run.resume_command,
            step=self._position.step,
            epochs=self._position.epoch,
            finished=self._finished,
            checkpoint=self._saved or self._save(self._sound_state()),
            test=test,
            best_step=None if best is None else best.step,
            seconds=time.monotonic() - begun,
        )
        self._reporter.finished(result)
        return result

    @property
    def _finished(self) -> bool:
        return self._position.step >= self._plan.total_steps and self._position.evaluated

    def _started(self) -> Started:
        return Started(
            name=self._artifact.name,
            run=self._run.path,
            device=self._step.device,
            device_reason=self._step.reason,
            threads=self._threads,
            train_samples=sample_count(self._source.train),
            test_samples=sample_count(self._source.test),
            batch_size=self._plan.batch_size,
            steps_per_epoch=self._plan.steps_per_epoch,
            total_steps=self._plan.total_steps,
            max_epochs=self._plan.max_epochs,
            step=self._position.step,
            metrics=self._artifact.metrics,
            init_from=self._init_report,
        )

    def _epoch(self, interrupts: Interrupts) -> Mapping[str, float]:
        """Do what is left of the running epoch, evaluate, log and save; return the metrics of the test split."""
        begun, first = time.monotonic(), self._position.step
        self._steps(interrupts)
        trained, steps = time.monotonic(), self._position.step - first
        # Checked before it is evaluated: a last update may have overflowed although its loss was finite.
        state = self._sound_state()
        interrupts.check()
        statistics = self._population_statistics(state, interrupts)
        state |= statistics
        test = self._evaluator.metrics(state, self._source.test, interrupts.check)
        position = self._position
        event = EpochDone(
            epoch=position.epoch + 1,
            step=position.step,
            rates=position.rates,
            train={name: total / position.cursor for name, total in position.sums.items()},
            test=test,
            images_per_second=steps * self._plan.batch_size / max(trained - begun, 1e-9),
            seconds=time.monotonic() - begun,
        )
        self._log.append(event)
        position = replace(position, evaluated=True, best=self._better(test), population=bool(statistics))
        if self._plateau is not None:
            waiting, scale = self._plateau.after(
                position.plateau or Waiting(),
                test[self._plateau.monitor],
                position.step,
                float(state[self._plateau.state]),
            )
            position = replace(position, plateau=waiting)
            state[self._plateau.state] = np.asarray(scale, state[self._plateau.state].dtype)
            self._step.set_constant(self._plateau.state, scale)
        if position.cursor == self._plan.steps_per_epoch:
            position = replace(position, epoch=position.epoch + 1, cursor=0, sums={})
        self._position = position
        if statistics:  # only now: a stop before this point leaves them to the run that continues
            self._step.load_state(state)
        self._save(state)
        self._reporter.epoch_done(event)
        return test

    def _steps(self, interrupts: Interrupts) -> None:
        """Train to the end of the epoch or of the plan."""
        plan, position = self._plan, self._position
        order = permutation(plan.seed, position.epoch, sample_count(self._source.train))
        cursor, step, sums = position.cursor, position.step, dict(position.sums)
        while cursor < plan.steps_per_epoch and step < plan.total_steps:
            interrupts.check()
            if step == self._stage.end:
                self._enter(plan.stage_after(step))
            indices = order[cursor * plan.batch_size : (cursor + 1) * plan.batch_size]
            metrics = self._update(step + 1, indices)
            cursor, step = cursor + 1, step + 1
            rates = {name: metrics.pop(name) for name in self._rates}
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value
            self._position = replace(
                position, step=step, cursor=cursor, evaluated=False, sums=sums, rates=rates, population=False
            )
            self._reporter.step_done(StepDone(step, position.epoch + 1, metrics))

    def _update(self, step: int, indices: npt.NDArray[np.intp]) -> dict[str, float]:
        """Make one update from the samples at `indices`, in one batch or several; return the means of the metrics."""
        inputs = self._artifact.graph(self._stage.graph).inputs_of("batch")
        size, sums = self._artifact.batch_size, dict[str, float]()
        for start in range(0, len(indices), size):
            metrics = self._step.run(gather(self._source.train, inputs, indices[start : start + size]))
            if not all(math.isfinite(metrics[name]) for name in self._totals):
                bad = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
                self._diverged(step, bad)
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value
        # The rates are the same for all batches of an update; a mean might round them.
        batches = len(indices) // size
        return {name: metrics[name] if name in self._rates else total / batches for name, total in sums.items()}

    def _population_statistics(self, state: Mapping[str, Array], interrupts: Interrupts) -> dict[str, Array]:
        """Return the statistics of the training split at the planned end; nothing before it or without a program."""
        if self._population is None or self._position.step < self._plan.total_steps:
            return {}
        statistics = self._population.statistics(state, self._source.train, self._plan.seed, interrupts.check)
        wrong = _not_finite(statistics)
        if wrong:
            raise DriverError(
                f"training diverged at step {self._position.step}: the population statistics of {_listed(wrong)} are "
                f"not finite; {self._advice()}",
                ExitCode.DIVERGED,
            )
        return statistics

    def _better(self, test: Mapping[str, float]) -> Best | None:
        """Return the best evaluation so far: by the first metric of the first of `_JUDGES` that the spec has."""
        best, step = self._position.best, self._position.step
        for kind, larger_is_better in _JUDGES.items():
            for name in self._artifact.metrics_of(kind):
                if name not in test:
                    continue
                # An evaluation that is done again, with population statistics, replaces the one before it.
                better = best is None or best.step == step or best.beaten_by(test[name], larger_is_better)
                return Best(name, test[name], step) if better and math.isfinite(test[name]) else best
        return best

    def _save(self, state: Mapping[str, Array]) -> Path:
        checkpoint = Checkpoint(
            state=state,
            position=self._position,
            seed=self._plan.seed,
            threads=self._threads,
            device=self._step.device,
            spec=self._artifact.spec,
            spec_hash=self._artifact.spec_hash,
            netc_version=self._artifact.netc_version,
            onnxruntime_version=self._step.onnxruntime_version,
        )
        self._saved = self._run.save(checkpoint)
        return self._saved

    def _sound_state(self) -> dict[str, Array]:
        """Return the state; diverges if any of it is not finite, so that no such state is ever saved."""
        state = self._step.state()
        wrong = _not_finite(state)
        if wrong:
            self._diverged(self._position.step, [f"{name} is not finite" for name in wrong])
        return state

    def _diverged(self, step: int, values: list[str]) -> NoReturn:
        feeds = self._step.last_feeds()
        origin = ""
        if feeds is not None:
            origin = f"{origin_of_divergence(self._artifact, feeds, self._threads, self._stage.graph)}; "
        raise DriverError(
            f"training diverged at step {step}: {origin}{_listed(values)}; {self._advice()}", ExitCode.DIVERGED
        )

    def _advice(self) -> str:
        kept = f"{self._saved} is the last good checkpoint" if self._saved else "no checkpoint was written yet"
        solver = self._artifact.spec["solver"]
        return f"{kept}; start a new run with a lower solver.base_lr (now {solver.get('base_lr')})"


def _not_finite(state: Mapping[str, Array]) -> list[str]:
    """Return the names of the tensors with a value that is not finite."""
    return [name for name, array in state.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
