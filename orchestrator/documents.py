"""What reading verbs print with `--json` and the service answers: one form, one name each."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from orchestrator.journal import read_state
from orchestrator.operations import (
    find_trial,
    list_sweeps,
    log_lines,
    present_state,
    standing,
    sweep_name,
    trial_record,
)
from orchestrator.state import TrialState
from orchestrator.sweep_files import metric_lines
from orchestrator.trial_files import progress_of
from trainer.shapes import count_parameters

Standing = Literal["running", "starting", "finished", "stopped"]


class SweepRow(TypedDict):
    """A sweep in a list."""

    name: str
    standing: Standing
    trials: dict[str, int]
    charged_flops: float
    budget_flops: float | None
    verdict: str | None
    tokens_per_parameter: float | None
    interval: list[float] | None


class SweepsDocument(TypedDict):
    """Every sweep of a folder."""

    schema: Literal["sweep.ls/1"]
    sweeps: list[SweepRow]


class RunRow(TypedDict):
    """A trial in the status of its sweep."""

    trial_id: str
    label: str
    level: int
    status: str
    attempts: int
    loss: float | None
    reason: str


class StatusDocument(TypedDict):
    """Where a sweep stands."""

    schema: Literal["sweep.status/1"]
    name: str
    standing: Standing
    finished: bool
    trials: dict[str, int]
    charged_flops: float
    budget_flops: float | None
    fit: dict[str, Any] | None
    runs: list[RunRow]


class TrialRow(TypedDict):
    """A trial with its size, its cost and how far it is."""

    trial_id: str
    label: str
    level: int
    purpose: str
    status: str
    attempts: int
    params: float
    tokens: int
    tokens_per_parameter: float
    flops: float
    charged_flops: float
    step: int
    steps: int
    loss: float | None
    tokens_per_s: float
    reason: str
    cached_from: str


class TrialsDocument(TypedDict):
    """Every trial of a sweep."""

    schema: Literal["sweep.trials/1"]
    name: str
    trials: list[TrialRow]


class TrialDocument(TypedDict):
    """Everything about one trial."""

    schema: Literal["sweep.show/1"]
    trial_id: str
    label: str
    level: int
    status: str
    reason: str
    attempts: int
    lost_workers: int
    cached_from: str
    charged_flops: float
    config: dict[str, Any]
    result: dict[str, Any] | None
    folder: str
    files: list[str]


class MetricsDocument(TypedDict):
    """Points of a trial's training, in the order in which they were measured."""

    schema: Literal["sweep.metrics/1"]
    trial_id: str
    points: list[dict[str, Any]]
    more: bool


class LogsDocument(TypedDict):
    """What happened in a sweep, in words."""

    schema: Literal["sweep.logs/1"]
    lines: list[str]


def sweeps_document(outputs: Path, *, searches: bool = False) -> SweepsDocument:
    """Every sweep of a folder.

    Args:
        outputs: folder of all sweeps.
        searches: whether also searches for a recipe whose sweep has not begun.
    """
    rows: Any = list_sweeps(outputs, searches=searches)
    return {"schema": "sweep.ls/1", "sweeps": rows}


def status_document(sweep_dir: Path) -> StatusDocument:
    """Where a sweep stands."""
    state = present_state(sweep_dir)
    opened = state.opened or {}
    stands: Any = standing(sweep_dir, state)
    return {
        "schema": "sweep.status/1",
        "name": opened.get("name", sweep_name(sweep_dir)),
        "standing": stands,
        "finished": state.finished,
        "trials": state.counts,
        "charged_flops": state.charged_flops,
        "budget_flops": opened.get("budget_flops"),
        "fit": state.fit,
        "runs": [
            {
                "trial_id": trial.trial_id,
                "label": trial.label,
                "level": trial.level,
                "status": trial.status.value,
                "attempts": trial.attempts,
                "loss": trial.result.loss if trial.result else None,
                "reason": trial.reason,
            }
            for trial in state.trials.values()
        ],
    }


def trials_document(sweep_dir: Path) -> TrialsDocument:
    """Every trial of a sweep, with what its own files say of how far it is."""
    state = present_state(sweep_dir)
    return {
        "schema": "sweep.trials/1",
        "name": sweep_dir.name,
        "trials": [_row(sweep_dir, trial) for trial in state.trials.values()],
    }


def trial_document(sweep_dir: Path, wanted: str) -> TrialDocument:
    """Everything about one trial, named by its label or the beginning of its id.

    Raises:
        BadInput: when none or several match.
    """
    record = trial_record(sweep_dir, find_trial(read_state(sweep_dir), wanted))
    document: TrialDocument = {"schema": "sweep.show/1", **record}  # type: ignore[typeddict-item]
    return document


def metrics_document(sweep_dir: Path, wanted: str, *, skip: int, limit: int) -> MetricsDocument:
    """Points of a trial's training.

    Args:
        sweep_dir: the sweep.
        wanted: the trial.
        skip: points that are left out at the beginning.
        limit: most points that are given.

    Raises:
        BadInput: when no trial, or several, are meant.
    """
    trial = find_trial(read_state(sweep_dir), wanted)
    points = list(islice(metric_lines(sweep_dir, trial.trial_id), skip, skip + limit + 1))
    return {
        "schema": "sweep.metrics/1",
        "trial_id": trial.trial_id,
        "points": points[:limit],
        "more": len(points) > limit,
    }


def logs_document(sweep_dir: Path) -> LogsDocument:
    """What happened in a sweep, in words."""
    return {"schema": "sweep.logs/1", "lines": list(log_lines(sweep_dir))}


def _row(sweep_dir: Path, trial: TrialState) -> TrialRow:
    params = count_parameters(trial.config.shape).matmul
    begun = progress_of(sweep_dir, trial.trial_id) if trial.attempts else None
    result = trial.result
    return {
        "trial_id": trial.trial_id,
        "label": trial.label,
        "level": trial.level,
        "purpose": trial.purpose.value,
        "status": trial.status.value,
        "attempts": trial.attempts,
        "params": params,
        "tokens": trial.config.tokens,
        "tokens_per_parameter": trial.config.tokens / params,
        "flops": trial.flops_per_step * trial.config.steps,
        "charged_flops": trial.charged_flops,
        "step": result.steps if result else (begun.step if begun else 0),
        "steps": trial.config.steps,
        "loss": result.loss if result else None,
        "tokens_per_s": result.tokens_per_s if result else (begun.tokens_per_s if begun else 0.0),
        "reason": trial.reason,
        "cached_from": trial.cached_from,
    }
