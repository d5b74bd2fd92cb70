"""Trials in flight: submitted while the budget pays, watched, and every event of theirs journalled.

What is to be trained, and in which order, is somebody else's decision: `service` runs a sweep on
it, `tuning` a search for a recipe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Self

from orchestrator.background import BackgroundProjection
from orchestrator.board import Running
from orchestrator.display import Display
from orchestrator.executors.base import (
    STOP_FILE,
    AtRung,
    Blocked,
    Executor,
    Finished,
    Interrupted,
    Job,
    Lost,
    Pruned,
    Race,
    Started,
)
from orchestrator.hardware import placement_of
from orchestrator.journal import Journal, disk_refuses
from orchestrator.placement import processes_of
from orchestrator.preflight import kernels_for
from orchestrator.pruning import LOG_POINTS, PROTECTED
from orchestrator.setting import Setting
from orchestrator.state import EventKind, Purpose, SweepState, TrialState, TrialStatus
from orchestrator.stopping import Stop
from orchestrator.storage import storage_refuses
from orchestrator.trial_files import paid_elsewhere, progress_of, steps_executed, steps_in_all
from orchestrator.vigil import Vigil
from trainer.config import RunOptions
from trainer.pulse import read_pulse
from trainer.result import RunResult
from trainer.shapes import count_parameters

POLL_S = 0.25
"""How long the loop waits for an event before it redraws."""
STOP_GRACE_S = 30.0
"""How long running trials get to write a checkpoint after a first Ctrl-C."""
PREFIX_FOLDER = "prefixes"
"""Training prefixes that runs of one trajectory share, across the sweeps of a folder."""


class TrialRunner:
    """The trials in flight. A context manager: leaving it ends the executor, if one was started."""

    def __init__(
        self,
        setting: Setting,
        journal: Journal,
        *,
        make_executor: Callable[[], Executor],
        tracker: BackgroundProjection | None,
        display: Display,
        stop: Stop,
    ) -> None:
        """Describe the run; the executor starts with the first trial.

        Args:
            setting: budget, data and machine.
            journal: where what happens is recorded; open.
            make_executor: called only when there is something to train.
            tracker: shown every state; None to do without.
            display: what listens.
            stop: the wish to end.
        """
        self._setting = setting
        self._journal = journal
        self._make_executor = make_executor
        self._tracker = tracker
        self._display = display
        self._stop = stop
        self._executor: Executor | None = None
        self._announced = False
        self._resources = contextlib.ExitStack()
        self._vigil = Vigil(patience_s=setting.budget.run.stalled_after)
        self.in_flight: dict[str, float] = {}
        """Trials submitted and not over, with what each will still charge, FLOPs."""
        self._jobs: dict[str, tuple[str, ...]] = {}
        self._lost_ones: set[str] = set()
        self.unpaid: list[str] = []
        """Trials that wait, because what is left of the budget does not pay for them now."""
        self.trained = 0
        """Trials that ended since the beginning."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    @property
    def state(self) -> SweepState:
        """The state after every event so far."""
        return self._journal.state

    def append(self, kind: EventKind, **data: Any) -> None:
        """Journal an event, and show it and the new state to who listens."""
        event = self._journal.append(kind, **data)
        self._display.event(event, self.state)
        if self._tracker is not None:
            self._tracker.show(self.state)

    def folder(self, trial_id: str) -> Path:
        """A trial's folder."""
        return self._setting.sweep_dir / "trials" / trial_id

    def dispatch_all(self, trial_ids: Iterable[str]) -> list[str]:
        """Submit trials, each with its stack; those that what is left does not pay for.

        Where the money does not pay for what is left of a stack, its trials go alone.
        """
        unpaid: list[str] = []
        asked = dict.fromkeys(trial_ids)
        while asked:
            trial_id = next(iter(asked))
            stack = self._stack(trial_id)
            together = [t for t in stack if t in asked] or [trial_id]
            for one in together:
                del asked[one]
            if not (stack and self._submit(together, stack)):
                unpaid += [t for t in together if not self.dispatch(t)]
        return unpaid

    def dispatch(self, trial_id: str) -> bool:
        """Submit a trial by itself if what is left of the budget pays for it."""
        return self._submit([trial_id], [trial_id])

    def _submit(self, left: list[str], members: list[str]) -> bool:
        """Submit one job if what is left of the budget pays for it, lost attempts included.

        Args:
            left: its trials that are not over.
            members: all trials of its stack, in order.
        """
        assert self.state.opened is not None
        costs = {}
        for trial_id in left:
            trial = self.state.trials[trial_id]
            steps = steps_in_all(self.folder(trial_id), steps=trial.config.steps)
            still = trial.flops_per_step * max(0, steps - trial.lost_steps)
            costs[trial_id] = still + trial.evaluation_flops
        committed = self.state.charged_flops + sum(self.in_flight.values()) + self._owed(left)
        if committed + sum(costs.values()) > self.state.opened["budget_flops"]:
            return False
        if self._executor is None:
            self._executor = self._resources.enter_context(self._make_executor())
        self.in_flight.update(costs)
        self._jobs.update(dict.fromkeys(left, tuple(left)))
        jobs = [self._job(self.state.trials[trial_id]) for trial_id in members]
        if len(jobs) > 1:
            jobs[0] = dataclasses.replace(jobs[0], stack=tuple(jobs))
        self._executor.submit(jobs[0])
        return True

    def _stack(self, trial_id: str) -> list[str]:
        """Trials that one is trained with as one stack, itself among them; empty: alone.

        Who takes part decides the last bits of all. So those that are over take their places again,
        with the results that they have; but not what another sweep has trained, nor what failed.
        """
        trials = self.state.trials
        own = trials[trial_id].stack
        stack = [t for t in own if trials[t].stack == own and _takes_part(trials[t], self.state)]
        return stack if len(stack) > 1 else []

    def _owed(self, but: Collection[str]) -> float:
        """FLOPs that trials which wait have spent, and that no event says: their driver died."""
        waiting = (
            trial
            for trial in self.state.trials.values()
            if trial.attempts
            and trial.trial_id not in self.in_flight
            and trial.trial_id not in but
            and not self.state.is_final(trial.trial_id)
        )
        return sum(
            trial.flops_per_step
            * max(0, steps_executed(self.folder(trial.trial_id)) - trial.lost_steps)
            for trial in waiting
        )

    def watch(self) -> None:
        """Take events until a trial is over; after a stop, until all are or its grace ends."""
        while self.in_flight and self._executor is not None:
            event = self._executor.next_event(POLL_S)
            if event is not None and event.trial_id not in self.in_flight:
                continue  # a member of a stack that was over before
            match event:
                case Started():
                    self.append(EventKind.TRIAL_STARTED, trial_id=event.trial_id)
                case Finished():
                    self._finished(event.trial_id, event.result)
                case Lost():
                    self._lost(event.trial_id, event.reason)
                case Interrupted():
                    self.in_flight.pop(event.trial_id)
                case Blocked():
                    self._stop.ask_trials()
                    refused = storage_refuses if event.by_storage else disk_refuses
                    raise refused(event.reason)
                case AtRung():
                    self.append(
                        EventKind.TRIAL_AT_RUNG,
                        trial_id=event.trial_id,
                        percent=event.percent,
                        loss=event.loss,
                    )
                case Pruned():
                    self._pruned(event.trial_id)
                case None:
                    pass
            running = self._running()
            self._display.tick(self.state, running)
            self._end_stalled(running)
            if self._stop.asked:
                self._announce_stop(len(running))
                if not running or time.monotonic() - self._stop.at > STOP_GRACE_S:
                    self.in_flight.clear()
            elif isinstance(event, Finished | Lost | Interrupted | Pruned):
                return

    def take_over(self, trial_id: str) -> bool:
        """Use the result of a run that another sweep has already paid for."""
        found = paid_elsewhere(self._setting.outputs, self._setting.sweep_dir, trial_id)
        if found is None:
            return False
        source, result = found
        folder = self.folder(trial_id)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "metrics.jsonl", "result.json"):
            shutil.copy2(source / "trials" / trial_id / name, folder / name)
        self.append(
            EventKind.TRIAL_CACHED, trial_id=trial_id, result=_record(result), source=source.name
        )
        self._display.trial_over(self.state.trials[trial_id], self.state)
        return True

    def _end_stalled(self, running: Iterable[str]) -> None:
        """End the workers of trials that do not move; each is lost then, and tried again."""
        pulses = {trial_id: read_pulse(self.folder(trial_id)) for trial_id in running}
        for trial_id, silence in self._vigil.stalled(pulses).items():
            step = f"step {silence.step}" if silence.step is not None else "its start"
            reason = f"stood still at {step} for {silence.seconds:.0f} s; its worker was ended"
            self.append(EventKind.TRIAL_STALLED, trial_id=trial_id, reason=reason)
            self._display.note(f"{self.state.trials[trial_id].label}: {reason}")
            assert self._executor is not None
            self._executor.kill(trial_id)

    def _finished(self, trial_id: str, result: RunResult) -> None:
        self.in_flight.pop(trial_id)
        self.append(EventKind.TRIAL_FINISHED, trial_id=trial_id, result=_record(result))
        self._over(trial_id)

    def _lost(self, trial_id: str, reason: str) -> None:
        self.in_flight.pop(trial_id)
        if self.state.trials[trial_id].status is TrialStatus.STALLED:
            reason = self.state.trials[trial_id].reason
        executed = steps_executed(self.folder(trial_id))
        self.append(EventKind.TRIAL_LOST, trial_id=trial_id, reason=reason, steps_executed=executed)
        trial = self.state.trials[trial_id]
        if self._stop.asked:
            return
        if trial.losses_of_workers <= self._setting.budget.run.retries:
            self._lost_ones.add(trial_id)
        else:
            self.append(
                EventKind.TRIAL_ABANDONED,
                trial_id=trial_id,
                reason=f"{reason} ({trial.losses_of_workers} times)",
                steps_executed=executed,
            )
            self._over(trial_id)
        if self.in_flight.keys().isdisjoint(self._jobs[trial_id]):
            self._retry(self._jobs[trial_id], reason)

    def _retry(self, job: tuple[str, ...], reason: str) -> None:
        """Submit again what a job's dead worker left, as the stack that it was."""
        again = [t for t in job if t in self._lost_ones]
        self._lost_ones.difference_update(again)
        unpaid = self.dispatch_all(again)
        self.unpaid += unpaid
        for trial_id in again:
            if trial_id not in unpaid:
                label = self.state.trials[trial_id].label
                self._display.note(f"{label}: {reason}; going on from its last checkpoint")

    def _pruned(self, trial_id: str) -> None:
        self.in_flight.pop(trial_id)
        executed = steps_executed(self.folder(trial_id))
        self.append(EventKind.TRIAL_PRUNED, trial_id=trial_id, steps_executed=executed)
        self._over(trial_id)

    def _over(self, trial_id: str) -> None:
        self.trained += 1
        self._display.trial_over(self.state.trials[trial_id], self.state)

    def _job(self, trial: TrialState) -> Job:
        setting, run = self._setting, self._setting.budget.run
        placement = placement_of(setting.budget, setting.machine)
        params = count_parameters(trial.config.shape).matmul
        sequences = trial.config.batch_sequences
        gpus = placement.gpus_of(params, batch_sequences=sequences)
        processes = processes_of(sequences, gpus)
        branches = self._branches(trial)
        race = self._race(trial)
        options = RunOptions(
            data_dir=setting.data.folder,
            device="cuda" if gpus > 0 else "cpu",
            threads=max(1, int(run.cpus_per_trial) // processes),
            checkpoint_every_s=run.checkpoint_every,
            prefix_dir=setting.outputs / PREFIX_FOLDER if branches else None,
            prefix_steps=branches,
            stalled_after_s=run.stalled_after,
            kernels=kernels_for(setting.kernels, trial.config.shape.d_model),
            memory_share=min(1.0, gpus or run.cpus_per_trial / setting.machine.cores),
            devices=placement.devices_of(params, batch_sequences=sequences),
        )
        if race is not None:
            options = dataclasses.replace(options, log_points=LOG_POINTS, samples=False)
        return Job(
            trial_id=trial.trial_id,
            config=trial.config,
            options=options,
            out_dir=self.folder(trial.trial_id),
            stop_file=setting.sweep_dir / STOP_FILE,
            cpus=run.cpus_per_trial,
            gpus=gpus,
            processes=processes,
            race=race,
        )

    def _race(self, trial: TrialState) -> Race | None:
        """The trials of its search and size, which it is compared with on its way."""
        if trial.purpose is not Purpose.TUNE:
            return None
        rivals = [
            other
            for other in self.state.trials.values()
            if other.purpose is Purpose.TUNE and other.config.shape == trial.config.shape
        ]
        earlier = [other.trial_id for other in rivals].index(trial.trial_id)
        return Race(
            protected=earlier < PROTECTED,
            group=str(count_parameters(trial.config.shape).matmul),
            earlier=tuple(
                (other.trial_id, percent, loss) for other in rivals for percent, loss in other.rungs
            ),
        )

    def _branches(self, trial: TrialState) -> tuple[int, ...]:
        """Steps at which trials of the same trajectory, this one included, begin to cool down."""
        if trial.config.schedule.name != "wsd":
            return ()
        shared = trial.config.trajectory_id
        return tuple(
            sorted(
                {
                    other.config.steps - other.config.schedule.cooldown_steps
                    for other in self.state.trials.values()
                    if other.config.trajectory_id == shared
                }
            )
        )

    def _running(self) -> dict[str, Running]:
        """Trials under way with their latest measurements, read from their files."""
        return {
            trial_id: progress_of(self._setting.sweep_dir, trial_id)
            for trial_id in self.in_flight
            if self.state.trials[trial_id].status is TrialStatus.RUNNING
        }

    def _announce_stop(self, running: int) -> None:
        if not self._announced:
            self._announced = True
            self._display.note(stopping_note(running))


def stopping_note(running: int) -> str:
    """What a person is told who asked a sweep to stop, so many trials being under way."""
    if not running:
        return "Stopping."
    who = "1 running trial writes its checkpoint"
    if running > 1:
        who = f"{running} running trials write their checkpoints"
    return f"Stopping: {who} (Ctrl-C again to leave at once)."


def _takes_part(trial: TrialState, state: SweepState) -> bool:
    if trial.cached_from:
        return False
    has_result = trial.status in (TrialStatus.COMPLETED, TrialStatus.DIVERGED)
    return has_result or not state.is_final(trial.trial_id)


def _record(result: RunResult) -> dict[str, Any]:
    return dict(json.loads(result.to_json()))
