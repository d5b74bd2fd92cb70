"""The one loop with effects: plan minus done -> submit -> watch -> collect -> fit -> report.

The sweep directory is the state. Running a sweep again does what is left; running a finished one
does nothing.
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.advice import worth_making
from orchestrator.background import BackgroundProjection
from orchestrator.collect import measurements, progress
from orchestrator.designs.base import Designer
from orchestrator.display import Display
from orchestrator.errors import Exit
from orchestrator.executors.base import STOP_FILE, Executor
from orchestrator.hardware import remember
from orchestrator.interim import InterimReport
from orchestrator.journal import DISK_REFUSES, Journal, disk_refuses
from orchestrator.opening import open_sweep
from orchestrator.outcome import (
    FULL_ANSWER,
    RESAMPLES,
    Answer,
    fit_losses,
    write_losses,
    write_outcome,
    write_page,
)
from orchestrator.preflight import Ask, admit
from orchestrator.rounds import design_of, plan_round
from orchestrator.setting import Setting
from orchestrator.stacks import settle_stacks
from orchestrator.state import EventKind, LevelState, Purpose, SweepState, TrialStatus
from orchestrator.stopping import Stop
from orchestrator.tracking.note import sweep_note
from orchestrator.trial import Trial, added_record
from orchestrator.trial_files import steps_executed
from orchestrator.trial_runner import TrialRunner
from orchestrator.validating import forecast, score
from orchestrator.verifying import checks, records, refuse, runs_to_check, verdict

TRACKER_GRACE_S = 60.0
"""How long the end of a sweep waits for MLflow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a run of a sweep ended."""

    exit_code: Exit
    """As the command's."""
    state: SweepState
    """The state of the sweep."""
    fit: dict[str, Any] | None
    """The fit, as `fit.json`; None when the sweep was stopped before one."""
    report: Path | None
    """The report, if one was written."""
    trained: int
    """Trials that ended during this run."""
    tracker_trouble: str = ""
    """The tracker's last error; empty when everything is in MLflow."""


def run_sweep(
    setting: Setting,
    *,
    make_executor: Callable[[], Executor],
    tracker: BackgroundProjection | None,
    display: Display,
    answer: Answer = FULL_ANSWER,
    ask: Ask | None = None,
) -> Outcome:
    """Run a sweep, or what is left of it, to its answer.

    Args:
        setting: budget, plan, data and machine.
        make_executor: called only when there is something to train.
        tracker: MLflow's projection, not yet started; None to do without.
        display: what listens.
        answer: how much is made of the losses.
        ask: reaches the trainer for the checks before a sweep and for what pays when trials are
            trained together; None to do without.

    Raises:
        BadInput: when the architecture fails a check.
        StateRefused: when the directory is in use, or budget or data are not those it began with.
        EnvironmentUnusable: when the executor cannot run, or the disk takes no more.
    """
    try:
        setting.sweep_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with Journal(setting.sweep_dir) as journal:
            stop = Stop(setting.sweep_dir / STOP_FILE)
            stop.forget_earlier()
            open_sweep(setting, journal)
            if ask is not None and not journal.state.finished:
                admit(setting, journal, display, ask)
            sweep = _Sweep(setting, journal, stop, make_executor, tracker, display, answer, ask)
            return sweep.run()
    except OSError as error:
        if error.errno in DISK_REFUSES:
            where = error.filename or setting.sweep_dir
            raise disk_refuses(f"{where}: {error.strerror}") from error
        raise


class _Sweep:
    """One run of a sweep."""

    def __init__(
        self,
        setting: Setting,
        journal: Journal,
        stop: Stop,
        make_executor: Callable[[], Executor],
        tracker: BackgroundProjection | None,
        display: Display,
        answer: Answer,
        ask: Ask | None,
    ) -> None:
        self._answer = answer
        self._ask = ask
        self._setting = setting
        self._tracker = tracker
        self._display = display
        self._stop = stop
        self._runner = TrialRunner(
            setting,
            journal,
            make_executor=make_executor,
            tracker=tracker,
            display=display,
            stop=stop,
        )
        self._append = self._runner.append
        self._given_up: set[str] = set()
        self._unfitted: set[int] = set()
        self._interim = InterimReport(self._write_page)

    @property
    def _state(self) -> SweepState:
        return self._runner.state

    def run(self) -> Outcome:
        """Train what is left, level by level, then fit and report."""
        if self._state.finished:
            return self._stored_outcome()
        if self._tracker is not None:
            self._tracker.show(self._state)
            self._tracker.start()
        try:
            with self._stop.listening(), self._runner:
                if not self._stop.asked:
                    self._verify()
                    self._all_rounds()
                    self._validate()
            if self._stop.asked:
                return self._interrupted()
            return self._finish()
        finally:
            self._interim.close()
            self._display.close()
            if self._tracker is not None:
                self._tracker.show(self._state)
                self._tracker.stop(TRACKER_GRACE_S)

    def _all_rounds(self) -> None:
        """Open rounds as soon as their design may choose them, and train what they hold."""
        assert self._state.opened is not None
        setting = self._setting
        opened = self._state.opened
        aside = opened.get("tuning_flops", 0.0) + opened.get("aside_flops", 0.0)
        first = opened.get("first_budget_flops")
        design = design_of(
            setting.budget,
            setting.data.facts,
            budget_flops=opened["budget_flops"] - aside,
            first_budget_flops=None if first is None else first - aside,
        )
        for level in self._state.levels:
            self._begin(level, design)
        more = not self._state.precise
        while not self._stop.asked:
            if self._setting.budget.target.precision is not None:
                # Whether a further round is opened at all rests on the fit.
                self._fit_rounds_over()
                more = more and not self._precise()
            while more and self._may_open(len(self._state.levels) + 1, design):
                more = self._open_round(design)
            # The next round is at work while this one is looked at.
            self._fit_rounds_over()
            self._retry_unpaid()
            if not self._runner.in_flight:
                if self._runner.unpaid:
                    self._give_up_unpaid()
                    continue
                if not more:
                    return
            self._runner.watch()
        self._runner.watch()

    def _verify(self) -> None:
        """Check the recipe before anything is spent on it.

        Raises:
            BadInput: when its learning rate is worse than a neighbour's.
        """
        sizes, plan = self._setting.budget.recipe.verify, self._setting.plan
        if not sizes:
            return
        if self._state.verified is None:
            if Purpose.VERIFY not in self._state.added:
                runs = records(runs_to_check(plan.levels, sizes))
                self._append(EventKind.TRIALS_ADDED, purpose=Purpose.VERIFY.value, trials=runs)
                self._display.note(f"Checking the recipe with {len(runs)} runs ...")
            self._train(self._state.added[Purpose.VERIFY])
            if self._stop.asked:
                return
            self._append(EventKind.RECIPE_VERIFIED, **verdict(checks(self._state)))
        assert self._state.verified is not None
        for line in self._state.verified["messages"]:
            self._display.note(f"recipe check, {line}")
        if not self._state.verified["passed"]:
            raise refuse(self._state.verified)

    def _validate(self) -> None:
        """Freeze the forecast of the predicted optimum, train it, and score the forecast."""
        state, setting = self._state, self._setting
        if not setting.budget.target.validate or self._stop.asked or state.validation is not None:
            return
        if state.forecast is None:
            found = forecast(setting, state, resamples=self._answer.resamples or RESAMPLES)
            if found is None:
                self._display.note("No forecast to validate: there is no answer, or no money left.")
                return
            run = added_record(found.trial)
            self._append(EventKind.FORECAST_FROZEN, **found.record)
            self._append(EventKind.TRIALS_ADDED, purpose=Purpose.VALIDATE.value, trials=[run])
        assert self._state.forecast is not None
        self._train([self._state.forecast["trial_id"]])
        scored = score(self._state)
        if scored is not None:
            self._append(EventKind.FORECAST_SCORED, **scored)
            self._display.note(scored["message"])

    def _train(self, trial_ids: Iterable[str]) -> None:
        """Train runs that no round asked for to their end, as far as the money goes."""
        left = [t for t in trial_ids if not self._state.is_final(t)]
        left = [t for t in left if not self._runner.take_over(t)]
        self._runner.unpaid += self._runner.dispatch_all(left)
        while not self._stop.asked:
            self._retry_unpaid()
            if not self._runner.in_flight:
                if self._runner.unpaid:
                    self._give_up_unpaid()
                return
            self._runner.watch()
        self._runner.watch()

    def _precise(self) -> bool:
        """Whether the answer is as sharp as was asked for; journalled once."""
        wanted, fit = self._setting.budget.target.precision, self._state.fit or {}
        if wanted is None or fit.get("status") != "identified" or not fit.get("interval"):
            return False
        low, high = fit["interval"]
        if high > wanted * low:
            return False
        if not self._state.precise:
            message = f"[{low:.3g}, {high:.3g}] is narrower than {wanted:g}-fold"
            self._append(EventKind.PRECISION_REACHED, message=message)
            self._display.note(f"The interval {message}: no further round is opened.")
        return True

    def _may_open(self, number: int, design: Designer) -> bool:
        """Whether every round that round `number` waits for is over."""
        settled = self._settled(number, design)
        return all(self._is_over(level) for level in self._state.levels[:settled])

    def _settled(self, number: int, design: Designer) -> int:
        """How many rounds, from the first, round `number` waits for and rests on."""
        return number - 1 - design.lag(number, lambda: measurements(self._state))

    def _is_over(self, level: LevelState) -> bool:
        return all(self._state.is_final(t) or t in self._given_up for t in level.trial_ids)

    def _open_round(self, design: Designer) -> bool:
        """Ask the design for its next round and begin it; False when it has none."""
        setting, number = self._setting, len(self._state.levels) + 1
        settled = self._settled(number, design)
        asked = design.propose(progress(self._state, settled=settled))
        if asked is None:
            return False
        trials, notes = plan_round(setting.budget, setting.data.facts, setting.hardware, asked)
        for line in notes:
            self._display.note(line)
        known = {
            trial_id
            for trial_id, trial in self._state.trials.items()
            if trial.purpose is Purpose.DESIGN
        }
        fresh = {trial.trial_id: trial for trial in trials if trial.trial_id not in known}
        if not fresh and not asked.even:
            return False
        records = [
            {
                "trial_id": trial_id,
                "label": trial.label,
                "config": json.loads(trial.config.to_json()),
                **({} if asked.even else {"flops_target": trial.flops_target}),
                **({"why": trial.why} if trial.why else {}),
            }
            for trial_id, trial in fresh.items()
        ]
        stacks = self._settle_stacks(list(fresh.values()))
        self._append(
            EventKind.LEVEL_OPENED,
            level=number,
            flops=asked.flops,
            centre={
                "tokens_per_parameter": asked.centre.tokens_per_parameter,
                "reason": asked.centre.reason,
            },
            trials=records,
            **({} if asked.even else {"even": False}),
            **({"stacks": stacks} if stacks else {}),
        )
        self._begin(self._state.levels[-1], design)
        return True

    def _settle_stacks(self, trials: list[Trial]) -> list[dict[str, Any]]:
        """Which trials of a new round are trained together."""
        if self._ask is None:
            return []
        setting = self._setting
        slots = setting.hardware.slots
        stacks = settle_stacks(trials, setting.budget, setting.machine, self._ask, slots=slots)
        if stacks:
            together = sum(stack["together"] for stack in stacks)
            self._display.note(f"{together} of {len(stacks)} groups of one shape train as a stack")
        return stacks

    def _begin(self, level: LevelState, design: Designer) -> None:
        """Submit what is left of a round; what cannot be paid now waits."""
        left = [t for t in level.trial_ids if not self._state.is_final(t)]
        if not left:
            return
        self._display.level_opened(level, design.rounds or level.level)
        self._unfitted.add(level.level)
        left = [t for t in left if not self._runner.take_over(t)]
        self._runner.unpaid += self._runner.dispatch_all(left)

    def _retry_unpaid(self) -> None:
        """What did not fit beside the trials in flight may fit now that they have ended."""
        if self._runner.unpaid and not self._runner.in_flight and not self._stop.asked:
            self._runner.unpaid = self._runner.dispatch_all(self._runner.unpaid)

    def _give_up_unpaid(self) -> None:
        unpaid, self._runner.unpaid = self._runner.unpaid, []
        self._given_up |= set(unpaid)
        executed = {t: steps_executed(self._runner.folder(t)) for t in unpaid}
        self._append(EventKind.BUDGET_SPENT, trial_ids=unpaid, steps_executed=executed)
        for trial_id in unpaid:
            self._display.trial_over(self._state.trials[trial_id], self._state)

    def _fit_rounds_over(self) -> None:
        """Fit when a round ended, so that a person sees the answer form; never ends a sweep."""
        if not self._answer.interim and self._setting.budget.target.precision is None:
            return
        over = {n for n in self._unfitted if self._is_over(self._state.levels[n - 1])}
        if not over or self._stop.asked or not self._has_ended_trials:
            return
        self._unfitted -= over
        fit = fit_losses(self._state, resamples=self._answer.resamples, detail=False)
        self._append(EventKind.SWEEP_FITTED, **_summary(fit))
        if self._answer.report and self._answer.interim and self._runner.in_flight:
            self._interim.offer(self._state, fit)

    def _write(self, fit: Mapping[str, Any]) -> Path:
        """The table, the fit and the whole report."""
        setting = self._setting
        runs = worth_making(self._state, setting.budget)
        return write_outcome(self._state, setting.sweep_dir, setting.budget, fit, next_runs=runs)

    def _write_page(self, state: SweepState, fit: Mapping[str, Any]) -> None:
        """The report of a sweep that is still running; called in a thread of its own."""
        setting = self._setting
        write_page(state, setting.sweep_dir, setting.budget, fit, planned=len(setting.plan.trials))

    @property
    def _has_ended_trials(self) -> bool:
        """Whether the loss table has a row."""
        return any(self._state.is_final(trial_id) for trial_id in self._state.trials)

    def _finish(self) -> Outcome:
        setting = self._setting
        if not self._has_ended_trials:
            # The budget went into attempts that all died: there is nothing to fit yet.
            return Outcome(
                exit_code=Exit.BUDGET_SPENT,
                state=self._state,
                fit=None,
                report=None,
                trained=self._runner.trained,
            )
        self._display.note("Fitting and writing the report ...")
        self._interim.close()
        fit = fit_losses(
            self._state,
            resamples=self._answer.resamples,
            sweep_dir=setting.sweep_dir,
            detail=self._answer.report,
        )
        self._append(EventKind.SWEEP_FITTED, **_summary(fit))
        report = None
        if self._answer.report:
            report = self._write(fit)
            remember(setting.outputs, setting.hardware.throughput, self._state.trials.values())
        code = _exit_code(self._state, fit)
        if code is not Exit.BUDGET_SPENT:
            self._append(EventKind.SWEEP_FINISHED, exit_code=int(code))
        trouble = self._project(report)
        return Outcome(
            exit_code=code,
            state=self._state,
            fit=fit,
            report=report,
            trained=self._runner.trained,
            tracker_trouble=trouble,
        )

    def _project(self, report: Path | None) -> str:
        """Hand everything to MLflow; an absent tracker is a note, not an error."""
        if self._tracker is None or report is None:
            return ""
        note = sweep_note(self._state)
        self._tracker.conclude(self._state, note=note, report=report.parent)
        self._tracker.stop(TRACKER_GRACE_S)
        return self._tracker.trouble

    def _interrupted(self) -> Outcome:
        write_losses(self._state, self._setting.sweep_dir)
        self._append(EventKind.SWEEP_INTERRUPTED, signal=self._stop.signal)
        terminated = self._stop.signal in (signal.SIGTERM, signal.SIGHUP)
        return Outcome(
            exit_code=Exit.TERMINATED if terminated else Exit.INTERRUPTED,
            state=self._state,
            fit=None,
            report=None,
            trained=self._runner.trained,
        )

    def _stored_outcome(self) -> Outcome:
        """The answer of a finished sweep; whatever of it was deleted is written again."""
        setting = self._setting
        self._display.close()
        fit_file, report = setting.sweep_dir / "fit.json", setting.sweep_dir / "report/report.html"
        if fit_file.exists() and report.exists():
            fit = json.loads(fit_file.read_text())
        else:
            fit = fit_losses(
                self._state, resamples=self._answer.resamples, sweep_dir=setting.sweep_dir
            )
            report = self._write(fit)
        return Outcome(
            exit_code=_exit_code(self._state, fit),
            state=self._state,
            fit=fit,
            report=report,
            trained=0,
        )


def _exit_code(state: SweepState, fit: Mapping[str, Any]) -> Exit:
    counts = Counter(t.status for t in state.trials.values() if t.purpose is Purpose.DESIGN)
    if counts[TrialStatus.UNAFFORDABLE]:
        return Exit.BUDGET_SPENT
    bad = sum(counts[s] for s in (TrialStatus.DIVERGED, TrialStatus.FAILED, TrialStatus.ABANDONED))
    return Exit.WITH_FAILURES if bad or fit["status"] == "not_identified" else Exit.COMPLETE


def _summary(fit: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a fit that the journal keeps."""
    optimum = fit["optimum"][0] if fit["optimum"] else {}
    return {
        "status": fit["status"],
        "message": fit["message"],
        "n_points": fit["n_points"],
        "tokens_per_parameter": optimum.get("tokens_per_parameter"),
        "interval": optimum.get("interval"),
        "flops": optimum.get("flops"),
    }
