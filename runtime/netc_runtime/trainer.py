"""The training loop: steps, evaluations, checkpoints, and an exact continuation after any stop."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import numpy as np

from netc_runtime.arrays import Array
from netc_runtime.artifact import Artifact
from netc_runtime.checkpoint import Checkpoint, Newest
from netc_runtime.data import open_source
from netc_runtime.data.base import Source
from netc_runtime.data.batches import check_fit, image_size, sample_count
from netc_runtime.data.mapped import Indices
from netc_runtime.divergence import account, listed
from netc_runtime.engines import host_for_training
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.evaluate import Evaluator, data_section
from netc_runtime.events import EpochDone, Reporter, Started, StepDone, TrainResult
from netc_runtime.interrupts import Interrupts, StopRequestedError
from netc_runtime.judge import Judge
from netc_runtime.metricslog import MetricsLog
from netc_runtime.monitor import Monitor
from netc_runtime.plan import Plan
from netc_runtime.plateau import Plateau, Waiting
from netc_runtime.population import Population
from netc_runtime.run import RunFolder
from netc_runtime.session import Host
from netc_runtime.statistics import data_statistics
from netc_runtime.transfer import InitReport, initialised
from netc_runtime.updates import Updates, not_finite
from netc_runtime.weights import start_of


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
            resumed = run.checkpoint_to_resume(artifact, reporter.warn) if options.resume else None
            if not options.resume:
                run.require_new()
            with closing(_Session(run, artifact, options, resumed, reporter)) as session:
                return session.train(interrupts)
    finally:
        reporter.close()


class _Session:
    """One process's share of a run."""

    def __init__(
        self, run: RunFolder, artifact: Artifact, options: TrainOptions, resumed: Newest | None, reporter: Reporter
    ) -> None:
        self._run = run
        self._artifact = artifact
        self._options = options
        self._reporter = reporter
        tested = artifact.graph("eval").inputs_of("batch")
        self._source: Source = open_source(data_section(artifact.spec), image_size(tested))
        for note in self._source.notes:
            reporter.warn(note)
        for phase in artifact.phases:
            check_fit(self._source, artifact.graph(phase.graph).inputs_of("batch"))
        check_fit(self._source, tested)
        self._plan = Plan.of(artifact, sample_count(self._source.train))
        self._plateau = Plateau.of(artifact)
        if resumed:
            resumed.checkpoint.position.require_epochs_of(self._plan.steps_per_epoch, resumed.path)
            self._plan.require_reach(resumed.checkpoint.position.step, f"the run {run.path}")
        host = self._chosen_host(resumed)
        state, self._init_report = self._first_state(artifact, resumed, reporter.warn)
        start = resumed.checkpoint.position if resumed else start_of(artifact, state, self._plan)
        step = start.step
        self._updates = Updates(artifact, self._source, self._plan, host, state, step, is_new=resumed is None)
        self._evaluator = Evaluator(artifact, host)
        self._population = Population(artifact, host) if artifact.has_population else None
        self._threads = host.thread_count
        if resumed:
            now = self._updates.program.device, self._updates.program.engine, artifact.netc_version
            for change in resumed.checkpoint.changes(*now):
                reporter.warn(change)
        # Only now, when nothing else can be wrong, does the run folder change.
        self._artifact = run.install(artifact)
        self._updates.artifact = self._artifact
        if self._init_report is not None:
            run.record_init(self._init_report.as_dict())
        self._position = start
        self._judge = Judge(artifact.metrics, self._plan.early_stopping)
        self._trained_steps, self._trained_seconds, self._since = 0, 0.0, time.monotonic()
        self._saved = resumed.path if resumed else None
        if resumed:
            run.set_aside(resumed.damaged)
            run.tidy(self._position.best, self._plan.keep)
        rates = artifact.metrics_of("rate")
        self._averaged = [spec.name for spec in artifact.graph("train").outputs_of("metric") if spec.name not in rates]
        self._rates = rates
        self._totals = artifact.metrics_of("total")
        self._log = MetricsLog(run.path, self._averaged, self._evaluator.metric_names, rates)
        self._log.rewind(self._position)
        self._monitor = Monitor(self._artifact, host, self._plan.monitor_every, run.monitor)
        self._monitor.rewind(self._position.step)

    def _first_state(
        self, artifact: Artifact, resumed: Newest | None, warn: Callable[[str], None]
    ) -> tuple[dict[str, Array], InitReport | None]:
        """Return the state to begin with; only a new run needs what its spec starts from."""
        if resumed is not None:
            return dict(resumed.checkpoint.state), None
        state, report = artifact.initial_state(), None
        if artifact.init_from is not None:
            state, report = initialised(artifact, artifact.init_from, warn)
        return state | data_statistics(artifact, self._source.train), report

    def _chosen_host(self, resumed: Newest | None) -> Host:
        asked = host_for_training(self._artifact, self._options.host)
        if resumed is None:
            return asked
        if asked.device == "auto" and resumed.checkpoint.device == "openvino":
            asked = replace(asked, device="openvino")
        recorded = resumed.checkpoint.threads
        if asked.threads is not None and asked.threads != recorded:
            self._reporter.warn(
                f"the run was started with threads={recorded} and continues with {asked.threads}: its bits may differ "
                f"from those of a run that never stopped"
            )
            return asked
        return replace(asked, threads=recorded)

    def train(self, interrupts: Interrupts) -> TrainResult:
        interrupts.wait()
        begun = time.monotonic()
        plan, limit = self._plan, self._options.stop_after_epochs
        self._reporter.started(self._started())
        test: Mapping[str, float] = {}
        self._since = begun
        epochs = 0
        try:
            while not self._finished and (limit is None or epochs < limit):
                before = self._position.epoch
                test = self._advance(interrupts) or test
                epochs += self._position.epoch - before
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
            stopped_early=self._finished and self._position.step < plan.total_steps,
            chosen="best" if plan.early_stopping and plan.early_stopping.restore_best and best else "last",
        )
        self._reporter.finished(result)
        return result

    def close(self) -> None:
        """End what runs beside the training loop."""
        self._updates.close()

    @property
    def _at_end(self) -> bool:
        """Whether no step is left to do, as planned or because evaluations no longer improve."""
        early = self._plan.early_stopping
        is_stale = early is not None and self._position.stale >= early.patience
        return self._position.step >= self._plan.total_steps or is_stale

    @property
    def _lacks_statistics(self) -> bool:
        """Whether training has ended with running statistics; a plan may end now where it went on before."""
        return self._population is not None and self._at_end and not self._position.population

    @property
    def _finished(self) -> bool:
        return self._at_end and self._position.evaluated and not self._lacks_statistics

    def _started(self) -> Started:
        return Started(
            name=self._artifact.name,
            run=self._run.path,
            device=self._updates.program.device,
            device_reason=self._updates.program.reason,
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
            precision=str(self._artifact.spec["solver"].get("precision", "float32")),
        )

    def _advance(self, interrupts: Interrupts) -> Mapping[str, float]:
        """Train to the next evaluation or the end of the epoch, evaluate if it is due, and save.

        Return the metrics of the test split, nothing without an evaluation.
        """
        begun, first = time.monotonic(), self._position.step
        if not self._at_end:
            self._steps(interrupts)
        self._trained_steps += self._position.step - first
        self._trained_seconds += time.monotonic() - begun
        # Checked before it is evaluated: a last update may have overflowed although its loss was finite.
        state = self._sound_state()
        interrupts.check()
        position, event = self._position, None
        scheduled = self._plan.evaluates_at(position.step, position.epoch, position.cursor)
        if self._at_end or (scheduled and not position.evaluated):
            state, event = self._evaluate(state, interrupts)
        position = self._position
        if position.cursor == self._plan.steps_per_epoch:
            self._position = replace(position, epoch=position.epoch + 1, cursor=0)
        self._save(state)
        if event is None:
            return {}
        self._reporter.epoch_done(event)
        return event.test

    def _evaluate(self, state: dict[str, Array], interrupts: Interrupts) -> tuple[dict[str, Array], EpochDone]:
        """Evaluate the state, which gets population statistics at the end of training; return it and what was found."""
        statistics = self._population_statistics(state, interrupts)
        state = state | statistics
        test = self._evaluator.metrics(state, self._source.test, interrupts.check)
        position = self._position
        event = EpochDone(
            epoch=position.epoch + (position.cursor > 0),
            step=position.step,
            # In the order of the graph, which a checkpoint does not keep.
            rates={name: position.rates[name] for name in self._rates if name in position.rates},
            train={name: position.sums[name] / position.counted for name in self._averaged if name in position.sums},
            test=test,
            images_per_second=self._trained_steps * self._plan.batch_size / max(self._trained_seconds, 1e-9),
            seconds=time.monotonic() - self._since,
        )
        if position.evaluated:  # without population statistics
            self._log.rewind(replace(position, evaluated=False))
        self._log.append(event)
        best, stale = self._judge.judge(position, test)
        self._position = replace(
            position, evaluated=True, best=best, stale=stale, sums={}, counted=0, population=bool(statistics)
        )
        if self._plateau is not None:
            self._position = replace(self._position, plateau=self._wait(self._plateau, state, test))
        if statistics:  # only now: a stop before this point leaves them to the run that continues
            self._updates.program.load_state(state)
        self._trained_steps, self._trained_seconds, self._since = 0, 0.0, time.monotonic()
        return state, event

    def _wait(self, plateau: Plateau, state: dict[str, Array], test: Mapping[str, float]) -> Waiting:
        """Let the rate fall, in `state` and in the next step, if `test` says so; return what to remember."""
        waiting, scale = plateau.after(
            self._position.plateau or Waiting(),
            test[plateau.monitor],
            self._position.step,
            float(state[plateau.state]),
        )
        state[plateau.state] = np.asarray(scale, state[plateau.state].dtype)
        self._updates.program.set_constant(plateau.state, scale)
        return waiting

    def _steps(self, interrupts: Interrupts) -> None:
        """Train to the next evaluation, or to the end of the epoch."""
        plan, position = self._plan, self._position
        cursor, step, sums, counted = position.cursor, position.step, dict(position.sums), position.counted
        is_due = not position.evaluated and plan.evaluates_at(step, position.epoch, cursor)
        while cursor < plan.steps_per_epoch and not is_due:
            interrupts.check()
            metrics = self._update()
            cursor, step, counted = cursor + 1, step + 1, counted + 1
            rates = {name: metrics.pop(name) for name in self._rates}
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value
            self._position = replace(
                position,
                step=step,
                cursor=cursor,
                evaluated=False,
                sums=sums,
                counted=counted,
                rates=rates,
                population=False,
            )
            is_due = plan.evaluates_at(step, position.epoch, cursor)
            self._reporter.step_done(StepDone(step, position.epoch + 1, metrics))

    def _update(self) -> dict[str, float]:
        """Make the next update, from one batch or several; return the means of the metrics."""
        sums, batches = dict[str, float](), 0
        metrics: Mapping[str, float] = {}
        watch = self._monitor.watch(self._position.step + 1, self._position.epoch + 1)
        for indices, metrics in self._updates.update_after(self._position.step, watch):
            if not all(math.isfinite(metrics[name]) for name in self._totals):
                bad = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
                self._diverged(bad, self._position.step + 1, indices)
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value
            batches += 1
        # The rates are the same for all batches of an update; a mean might round them.
        return {name: metrics[name] if name in self._rates else total / batches for name, total in sums.items()}

    def _population_statistics(self, state: Mapping[str, Array], interrupts: Interrupts) -> dict[str, Array]:
        """Return the statistics of the training split at the end; nothing before it or without a program."""
        if self._population is None or not self._at_end:
            return {}
        statistics = self._population.statistics(state, self._source.train, self._plan.seed, interrupts.check)
        wrong = not_finite(statistics)
        if wrong:
            raise DriverError(
                f"training diverged at step {self._position.step}: the population statistics of {listed(wrong)} are "
                f"not finite; {self._advice()}",
                ExitCode.DIVERGED,
            )
        return statistics

    def _save(self, state: Mapping[str, Array]) -> Path:
        checkpoint = Checkpoint(
            state=state,
            position=self._position,
            seed=self._plan.seed,
            threads=self._threads,
            device=self._updates.program.device,
            spec=self._artifact.spec,
            spec_hash=self._artifact.spec_hash,
            netc_version=self._artifact.netc_version,
            engine=self._updates.program.engine,
        )
        self._saved = self._run.save(checkpoint, self._plan.keep)
        return self._saved

    def _sound_state(self) -> dict[str, Array]:
        """Return the state; diverges if any of it is not finite, so that no such state is ever saved."""
        state = self._updates.program.state()
        wrong = not_finite(state)
        if wrong:
            self._diverged([f"{name} is not finite" for name in wrong], self._position.step)
        return state

    def _diverged(self, values: list[str], step: int, indices: Indices | None = None) -> NoReturn:
        said = account(self._updates, self._restart, step, values, indices, self._threads)
        raise DriverError(f"{said}; {self._advice()}", ExitCode.DIVERGED)

    def _restart(self) -> int:
        """Take the updates back to the last checkpoint, or to the beginning without one; return its step."""
        if self._saved is None:
            state, _ = self._first_state(self._artifact, None, lambda _: None)
            step = start_of(self._artifact, state, self._plan).step
        else:
            saved = Checkpoint.load(self._saved, self._artifact)
            step, state = saved.position.step, dict(saved.state)
        self._updates.begin(state, step, is_new=self._saved is None)
        return step

    def _advice(self) -> str:
        kept = f"{self._saved} is the last good checkpoint" if self._saved else "no checkpoint was written yet"
        solver = self._artifact.spec["solver"]
        return f"{kept}; start a new run with a lower solver.base_lr (now {solver.get('base_lr')})"
