"""The state of a sweep as a pure function of its journal's events."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from trainer.config import TrainConfig
from trainer.flops import training_flops_per_token
from trainer.result import RunResult, RunStatus


class EventKind(StrEnum):
    """What the journal records."""

    SWEEP_OPENED = "sweep_opened"
    """First event: name, budget, ceiling, data digest, versions."""
    LEVEL_OPENED = "level_opened"
    """A level's centre and all its trials, before any of them starts."""
    TRIALS_ADDED = "trials_added"
    """Trials that no round of the design asked for, and what they are for."""
    TRIAL_AT_RUNG = "trial_at_rung"
    """A trial of a search was compared with the others of its size."""
    TRIAL_PRUNED = "trial_pruned"
    """A trial of a search was ended early: it lagged behind."""
    SWEEP_EXAMINED = "sweep_examined"
    """What the checks of the architecture found, and what they cost."""
    TRIAL_STARTED = "trial_started"
    """An attempt began."""
    TRIAL_FINISHED = "trial_finished"
    """A trial ended with a result."""
    TRIAL_CACHED = "trial_cached"
    """A result that another sweep paid for was taken over."""
    TRIAL_STALLED = "trial_stalled"
    """A trial's step stood still for too long; its worker is being ended."""
    TRIAL_LOST = "trial_lost"
    """An attempt's worker died; the trial goes on in another one."""
    TRIAL_ABANDONED = "trial_abandoned"
    """Attempts are used up."""
    BUDGET_EXTENDED = "budget_extended"
    """The ceiling was raised; what was left out for want of money may be trained."""
    BUDGET_SPENT = "budget_spent"
    """Trials that no longer fit were left out."""
    TRIAL_RESET = "trial_reset"
    """A person wants a trial that ended badly to be trained anew; what it cost stays charged."""
    RECIPE_VERIFIED = "recipe_verified"
    """What the check of the recipe said; a recipe that failed ends the sweep."""
    FORECAST_FROZEN = "forecast_frozen"
    """What is expected of the predicted optimum, before it is trained."""
    FORECAST_SCORED = "forecast_scored"
    """The forecast beside what was measured."""
    PRECISION_REACHED = "precision_reached"
    """The answer is as sharp as was asked for; no further round is opened."""
    SWEEP_FITTED = "sweep_fitted"
    """The fit over everything finished so far."""
    SWEEP_INTERRUPTED = "sweep_interrupted"
    """A person or the system stopped the sweep; it can go on."""
    SWEEP_FINISHED = "sweep_finished"
    """Nothing is left to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One line of the journal."""

    seq: int
    """Position, from 0."""
    time: float
    """Wall clock of the driver, unix seconds: for people; order is by `seq` alone."""
    kind: EventKind
    """What happened."""
    data: dict[str, Any]
    """Its record."""


class TrialStatus(StrEnum):
    """Where a trial stands."""

    PLANNED = "planned"
    """Not started, or waiting for another attempt."""
    RUNNING = "running"
    """An attempt is under way (or was, when the driver died)."""
    STALLED = "stalled"
    """An attempt is under way, but its step does not move; it is being ended and tried again."""
    COMPLETED = "completed"
    """Its loss is a datum."""
    DIVERGED = "diverged"
    """Its loss became non-finite."""
    FAILED = "failed"
    """An error that no retry cures."""
    ABANDONED = "abandoned"
    """Its worker died more often than the budget retries."""
    PRUNED = "pruned"
    """It lagged behind the others of its search and was ended early."""
    UNAFFORDABLE = "unaffordable"
    """What is left of the budget does not pay for it."""


FINAL = frozenset(
    {
        TrialStatus.COMPLETED,
        TrialStatus.DIVERGED,
        TrialStatus.FAILED,
        TrialStatus.ABANDONED,
        TrialStatus.PRUNED,
    }
)
"""States that nothing more follows."""

_STATUS_OF_RUN = {
    RunStatus.COMPLETED: TrialStatus.COMPLETED,
    RunStatus.DIVERGED: TrialStatus.DIVERGED,
    RunStatus.FAILED: TrialStatus.FAILED,
}


class Purpose(StrEnum):
    """What a trial is for."""

    DESIGN = "design"
    """A point of the design: a datum of the fit."""
    TUNE = "tune"
    """A step of a search for a recipe."""
    VERIFY = "verify"
    """A check of the recipe's learning rate."""
    VALIDATE = "validate"
    """A run of the predicted optimum, which scores the forecast."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialState:
    """One trial of the sweep."""

    trial_id: str
    """Identity."""
    level: int
    """Level, from 1."""
    label: str
    """Readable name."""
    flops_target: float
    """Compute of the level, FLOPs."""
    config: TrainConfig
    """What is trained."""
    even: bool = True
    """Whether its round is a level: all of its trials of equal compute."""
    why: str = ""
    """Why the design asked for it; empty when the round's reason says it all."""
    purpose: Purpose = Purpose.DESIGN
    """What it is for; only trials of the design enter a fit."""
    rungs: tuple[tuple[int, float], ...] = ()
    """Where it was compared with others: (percent of its steps, training loss)."""
    status: TrialStatus = TrialStatus.PLANNED
    """Where it stands."""
    attempts: int = 0
    """Attempts started."""
    started_at: float = 0.0
    """When its first attempt started, Unix seconds; 0 where none was."""
    losses_of_workers: int = 0
    """Attempts whose worker died."""
    result: RunResult | None = None
    """Its result, once finished."""
    reason: str = ""
    """Why it is not a datum, when it is over and is not."""
    cached_from: str = ""
    """Name of the sweep that paid for it, if another did."""
    lost_steps: int = 0
    """Steps executed by lost attempts; part of the result's own count once there is one."""
    sunk_flops: float = 0.0
    """Compute of earlier lives, before it was reset, FLOPs."""
    stack: tuple[str, ...] = ()
    """Trials that it is trained with as one stack, itself among them, in order; empty: alone."""

    @property
    def flops_per_step(self) -> float:
        """Training FLOPs of one step."""
        return training_flops_per_token(self.config.shape).total * self.config.batch_tokens

    @property
    def evaluation_flops(self) -> float:
        """FLOPs of the held-out evaluation."""
        return training_flops_per_token(self.config.shape).forward * self.config.validation_tokens

    @property
    def cost_flops(self) -> float:
        """What the trial charges when nothing goes wrong."""
        return self.flops_per_step * self.config.steps + self.evaluation_flops

    @property
    def charged_flops(self) -> float:
        """Compute really spent on it, replayed steps included; nothing when another sweep paid."""
        if self.cached_from:
            return self.sunk_flops
        if self.result is None:
            return self.sunk_flops + self.flops_per_step * self.lost_steps
        evaluations = float(self.result.status is RunStatus.COMPLETED)
        evaluations += self.result.train_loss_without_noise is not None
        evaluated = evaluations * self.evaluation_flops
        return self.sunk_flops + self.flops_per_step * self.result.steps_executed + evaluated


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelState:
    """One level of the sweep."""

    level: int
    """Level, from 1."""
    flops: float
    """Compute of each of its trials, of the dearest one in a round that is not even, FLOPs."""
    tokens_per_parameter: float
    """Its centre."""
    reason: str
    """What the centre rests on."""
    trial_ids: tuple[str, ...]
    """Its trials, in the order of dispatch."""
    even: bool = True
    """Whether all of its trials are of equal compute."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepState:
    """Everything that the journal says."""

    opened: dict[str, Any] | None = None
    """Record of the opening event."""
    opened_at: float = 0.0
    """Wall clock of the opening, unix seconds."""
    levels: tuple[LevelState, ...] = ()
    """Levels opened so far, cheapest first."""
    trials: dict[str, TrialState] = field(default_factory=dict)
    """Trials by identity, in the order of planning."""
    examination: dict[str, Any] | None = None
    """The latest outcome of the checks of the architecture."""
    examined_flops: float = 0.0
    """What all checks of the architecture have cost, FLOPs."""
    fit: dict[str, Any] | None = None
    """Summary of the latest fit."""
    added: dict[Purpose, tuple[str, ...]] = field(default_factory=dict)
    """Trials that no round asked for, by what they are for."""
    verified: dict[str, Any] | None = None
    """What the check of the recipe said; None before it."""
    forecast: dict[str, Any] | None = None
    """What is expected of the predicted optimum; None before it was frozen."""
    validation: dict[str, Any] | None = None
    """The forecast beside what was measured; None before it was scored."""
    precise: bool = False
    """Whether the answer was as sharp as asked for, so that the design ended early."""
    finished: bool = False
    """Whether nothing is left to do."""

    @property
    def charged_flops(self) -> float:
        """FLOPs spent so far on checks, the search for a recipe and trials that are over."""
        before = self.examined_flops + float((self.opened or {}).get("tuning_flops", 0.0))
        return before + sum(trial.charged_flops for trial in self.trials.values())

    @property
    def counts(self) -> dict[str, int]:
        """Trials by status, every status present."""
        counted = Counter(trial.status for trial in self.trials.values())
        return {status.value: counted.get(status, 0) for status in TrialStatus}

    def is_final(self, trial_id: str) -> bool:
        """Whether a trial is over."""
        return self.trials[trial_id].status in FINAL


def at_rest(state: SweepState) -> SweepState:
    """The state when nobody drives the sweep: what was under way waits for another attempt."""
    state = dataclasses.replace(state, trials=dict(state.trials))
    for trial in state.trials.values():
        if trial.status in (TrialStatus.RUNNING, TrialStatus.STALLED):
            state = _with(state, trial, status=TrialStatus.PLANNED)
    return state


def fold(events: Iterable[Event], state: SweepState | None = None) -> SweepState:
    """Apply events to a state, in order; the given one stays as it is."""
    given = state if state is not None else SweepState()
    # One copy for all events, changed in place below: a copy for each is quadratic in trials.
    current = dataclasses.replace(given, trials=dict(given.trials))
    for event in events:
        current = _apply(current, event)
    return current


def _apply(state: SweepState, event: Event) -> SweepState:
    data = event.data
    match event.kind:
        case EventKind.SWEEP_OPENED:
            return dataclasses.replace(state, opened=data, opened_at=event.time)
        case EventKind.LEVEL_OPENED:
            return _open_level(state, data)
        case EventKind.TRIALS_ADDED:
            return _add(state, data)
        case EventKind.TRIAL_AT_RUNG:
            trial = state.trials[data["trial_id"]]
            return _with(state, trial, rungs=(*trial.rungs, (data["percent"], data["loss"])))
        case EventKind.TRIAL_PRUNED:
            return _with(
                state,
                state.trials[data["trial_id"]],
                status=TrialStatus.PRUNED,
                reason="it lagged behind the others at a rung",
                lost_steps=data["steps_executed"],
            )
        case EventKind.TRIAL_STARTED:
            trial = state.trials[data["trial_id"]]
            return _with(
                state,
                trial,
                status=TrialStatus.RUNNING,
                attempts=trial.attempts + 1,
                started_at=trial.started_at if trial.attempts else event.time,
                reason="",
            )
        case EventKind.TRIAL_FINISHED | EventKind.TRIAL_CACHED:
            trial = state.trials[data["trial_id"]]
            result = result_from(data["result"])
            return _with(
                state,
                trial,
                status=_STATUS_OF_RUN[result.status],
                result=result,
                reason=_why_no_datum(result),
                cached_from=data.get("source", ""),
            )
        case EventKind.TRIAL_STALLED:
            trial = state.trials[data["trial_id"]]
            return _with(state, trial, status=TrialStatus.STALLED, reason=data["reason"])
        case EventKind.TRIAL_LOST:
            trial = state.trials[data["trial_id"]]
            return _with(
                state,
                trial,
                status=TrialStatus.PLANNED,
                losses_of_workers=trial.losses_of_workers + 1,
                reason=data["reason"],
                lost_steps=data.get("steps_executed", 0),
            )
        case EventKind.TRIAL_ABANDONED:
            trial = state.trials[data["trial_id"]]
            return _with(
                state,
                trial,
                status=TrialStatus.ABANDONED,
                reason=data["reason"],
                lost_steps=data["steps_executed"],
            )
        case EventKind.BUDGET_EXTENDED:
            raised = {k: v for k, v in data.items() if k in ("budget_flops", "first_budget_flops")}
            opened = {**(state.opened or {}), **raised}
            return dataclasses.replace(
                state, opened=opened, finished=False, precise=False, forecast=None, validation=None
            )
        case EventKind.RECIPE_VERIFIED:
            return dataclasses.replace(state, verified=data)
        case EventKind.FORECAST_FROZEN:
            return dataclasses.replace(state, forecast=data)
        case EventKind.FORECAST_SCORED:
            return dataclasses.replace(state, validation=data)
        case EventKind.PRECISION_REACHED:
            return dataclasses.replace(state, precise=True)
        case EventKind.BUDGET_SPENT:
            for trial_id in data["trial_ids"]:
                state = _with(
                    state,
                    state.trials[trial_id],
                    status=TrialStatus.UNAFFORDABLE,
                    reason="what was left of the budget did not pay for it",
                    lost_steps=data.get("steps_executed", {}).get(trial_id, 0),
                )
            return state
        case EventKind.TRIAL_RESET:
            trial = state.trials[data["trial_id"]]
            fresh = TrialState(
                trial_id=trial.trial_id,
                level=trial.level,
                label=trial.label,
                flops_target=trial.flops_target,
                config=trial.config,
                even=trial.even,
                why=trial.why,
                purpose=trial.purpose,
                sunk_flops=trial.charged_flops,
            )
            reset = {**state.trials, trial.trial_id: fresh}
            return dataclasses.replace(state, trials=reset, finished=False)
        case EventKind.SWEEP_EXAMINED:
            spent = sum(check["flops"] for check in data["checks"])
            return dataclasses.replace(
                state, examination=data, examined_flops=state.examined_flops + spent
            )
        case EventKind.SWEEP_FITTED:
            return dataclasses.replace(state, fit=data)
        case EventKind.SWEEP_INTERRUPTED:
            return at_rest(state)
        case EventKind.SWEEP_FINISHED:
            return dataclasses.replace(state, finished=True)


def _add(state: SweepState, data: dict[str, Any]) -> SweepState:
    trials = {
        record["trial_id"]: TrialState(
            trial_id=record["trial_id"],
            level=0,
            label=record["label"],
            flops_target=record["flops_target"],
            config=TrainConfig.from_dict(record["config"]),
            even=False,
            purpose=Purpose(data["purpose"]),
        )
        for record in data["trials"]
        if record["trial_id"] not in state.trials
    }
    purpose = Purpose(data["purpose"])
    ids = tuple(record["trial_id"] for record in data["trials"])
    return dataclasses.replace(
        state,
        trials={**state.trials, **trials},
        added={**state.added, purpose: (*state.added.get(purpose, ()), *ids)},
        finished=False,
    )


def _open_level(state: SweepState, data: dict[str, Any]) -> SweepState:
    trials = [_of_round(state, data, record) for record in data["trials"]]
    stacks = [tuple(s["trials"]) for s in data.get("stacks", ()) if s["together"]]
    stack_of = {trial_id: stack for stack in stacks for trial_id in stack}
    trials = [dataclasses.replace(t, stack=stack_of.get(t.trial_id, ())) for t in trials]
    level = LevelState(
        level=data["level"],
        flops=data["flops"],
        tokens_per_parameter=data["centre"]["tokens_per_parameter"],
        reason=data["centre"]["reason"],
        trial_ids=tuple(trial.trial_id for trial in trials),
        even=data.get("even", True),
    )
    return dataclasses.replace(
        state,
        levels=(*state.levels, level),
        trials={**state.trials, **{trial.trial_id: trial for trial in trials}},
        finished=False,
    )


def _of_round(state: SweepState, data: dict[str, Any], record: dict[str, Any]) -> TrialState:
    """A trial of a round; one that was trained for another purpose keeps what became of it."""
    planned = TrialState(
        trial_id=record["trial_id"],
        level=data["level"],
        label=record["label"],
        flops_target=record.get("flops_target", data["flops"]),
        config=TrainConfig.from_dict(record["config"]),
        even=data.get("even", True),
        why=record.get("why", ""),
    )
    known = state.trials.get(planned.trial_id)
    if known is None:
        return planned
    return dataclasses.replace(
        known,
        level=planned.level,
        label=planned.label,
        flops_target=planned.flops_target,
        even=planned.even,
        why=planned.why,
        purpose=Purpose.DESIGN,
    )


def _with(state: SweepState, trial: TrialState, **changes: Any) -> SweepState:
    """The state with a changed trial; its trials are the caller's own copy."""
    state.trials[trial.trial_id] = dataclasses.replace(trial, **changes)
    return state


def result_from(record: dict[str, Any]) -> RunResult:
    """A stored result as a value."""
    return RunResult(**{**record, "status": RunStatus(record["status"])})


def _why_no_datum(result: RunResult) -> str:
    if result.status is RunStatus.COMPLETED:
        return ""
    return f"{result.status.value}: {result.message}" if result.message else result.status.value
