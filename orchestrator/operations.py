"""What a person does to sweeps that exist: list, look into, stop, retry, resume, clean, project."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.budget import Budget, parse_budget
from orchestrator.chronicle import words
from orchestrator.errors import BadInput, Fault, StateRefused, nearest
from orchestrator.executors.base import STOP_FILE
from orchestrator.journal import JOURNAL, Journal, is_held, read_events, read_state
from orchestrator.opening import TUNING_FOLDER
from orchestrator.state import EventKind, SweepState, TrialState, TrialStatus, at_rest
from orchestrator.submission import SUBMISSION, has_driver, is_submitted

RETRIABLE = (TrialStatus.FAILED, TrialStatus.DIVERGED, TrialStatus.ABANDONED)
"""States that `sweep retry` can undo."""


def list_sweeps(outputs: Path, *, searches: bool = False) -> list[dict[str, Any]]:
    """Every sweep of a folder: how far it is, what it cost, what it found.

    Args:
        outputs: folder of all sweeps.
        searches: whether also the search for a recipe whose sweep has not begun, as `NAME/tuning`.
    """
    found = {path.parent for name in (JOURNAL, SUBMISSION) for path in outputs.glob(f"*/{name}")}
    if searches:
        tuned = {path.parent for path in outputs.glob(f"*/{TUNING_FOLDER}/{JOURNAL}")}
        found |= {folder for folder in tuned if folder.parent not in found}
    return [_summary(folder) for folder in sorted(found)]


def standing(sweep_dir: Path, state: SweepState) -> str:
    """`running`, `starting`, `finished` or `stopped`: what a sweep does at this moment."""
    if is_running(sweep_dir):
        return "running"
    if state.finished:
        return "finished"
    return "starting" if has_driver(sweep_dir) else "stopped"


def is_running(sweep_dir: Path) -> bool:
    """Whether a driver holds the sweep."""
    return is_held(sweep_dir)


def present_state(sweep_dir: Path) -> SweepState:
    """A sweep's state as it is now: without a driver nothing runs, whatever the journal ends with.

    A driver that was killed could not write down that its trials stopped with it.
    """
    if is_submitted(sweep_dir) and not (sweep_dir / JOURNAL).exists():
        return SweepState()
    alive = is_running(sweep_dir)
    state = read_state(sweep_dir)
    return state if alive else at_rest(state)


def frozen_budget(sweep_dir: Path) -> tuple[Budget, str, Path]:
    """The budget a sweep began with, its text, and the folder its relative paths are taken from."""
    file = sweep_dir / "budget.yaml"
    opened = read_state(sweep_dir).opened
    if opened is None or not file.is_file():
        raise StateRefused(
            Fault(
                code="SWP-5006",
                rule="a sweep that goes on has begun: its journal and its budget.yaml are there",
                place=str(sweep_dir),
                remedy="start it with `sweep run budget.yaml`",
            )
        )
    text = file.read_text()
    return parse_budget(text, file=str(file)), text, Path(opened["base"])


def find_trial(state: SweepState, wanted: str) -> TrialState:
    """A trial by the beginning of its identity or by its label.

    Raises:
        BadInput: when none or several match.
    """
    matches = [
        trial
        for trial in state.trials.values()
        if trial.trial_id.startswith(wanted) or trial.label == wanted
    ]
    if len(matches) == 1:
        return matches[0]
    found = "none" if not matches else f"{len(matches)} of them"
    raise BadInput(
        Fault(
            code="SWP-1309",
            rule=f"a trial is named by its label or the beginning of its id; {found} match",
            place=wanted,
            remedy=nearest(wanted, [trial.trial_id for trial in state.trials.values()][:20]),
        )
    )


def stop(sweep_dir: Path) -> bool:
    """Ask a running sweep to checkpoint and end; False when none is running."""
    if not is_running(sweep_dir):
        return False
    (sweep_dir / STOP_FILE).touch()
    return True


def retry(sweep_dir: Path, wanted: str | None) -> list[str]:
    """Set trials that ended badly back to be trained anew by the next `sweep resume`.

    Their files are kept beside the new ones; what they cost stays charged.

    Args:
        sweep_dir: the sweep.
        wanted: one trial; None: every trial that ended badly.

    Returns:
        Labels of the trials set back.

    Raises:
        BadInput: when the trial did not end badly.
    """
    with Journal(sweep_dir) as journal:
        if wanted is None:
            chosen = [t for t in journal.state.trials.values() if t.status in RETRIABLE]
        else:
            chosen = [find_trial(journal.state, wanted)]
        for trial in chosen:
            if trial.status not in RETRIABLE:
                raise BadInput(
                    Fault(
                        code="SWP-1310",
                        rule=f"only a trial that ended badly is trained anew; {trial.label} is "
                        f"{trial.status.value}",
                        place=trial.trial_id,
                        remedy="`sweep status` shows the state of every trial",
                    )
                )
            _set_aside(sweep_dir / "trials" / trial.trial_id)
            journal.append(EventKind.TRIAL_RESET, trial_id=trial.trial_id)
    return [trial.label for trial in chosen]


def clean(sweep_dir: Path, *, dry: bool) -> tuple[int, int]:
    """Remove checkpoints of trials that are over: (trials, bytes). Results and metrics stay.

    Raises:
        StateRefused: while the sweep is running.
    """
    with Journal(sweep_dir) as journal:
        folders = [
            sweep_dir / "trials" / trial_id / "checkpoints"
            for trial_id in journal.state.trials
            if journal.state.is_final(trial_id)
        ]
        folders = [folder for folder in folders if folder.is_dir()]
        size = sum(f.stat().st_size for folder in folders for f in folder.rglob("*") if f.is_file())
        if not dry:
            for folder in folders:
                shutil.rmtree(folder)
    return len(folders), size


def log_lines(sweep_dir: Path) -> Iterator[str]:
    """The journal in words, one line per event."""
    state = read_state(sweep_dir)
    for event in read_events(sweep_dir):
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
        yield f"{clock}  {words(event, state)}"


def trial_record(sweep_dir: Path, trial: TrialState) -> dict[str, Any]:
    """Everything about one trial, as plain values."""
    folder = sweep_dir / "trials" / trial.trial_id
    return {
        "trial_id": trial.trial_id,
        "label": trial.label,
        "level": trial.level,
        "status": trial.status.value,
        "reason": trial.reason,
        "attempts": trial.attempts,
        "lost_workers": trial.losses_of_workers,
        "cached_from": trial.cached_from,
        "charged_flops": trial.charged_flops,
        "config": json.loads(trial.config.to_json()),
        "result": json.loads(trial.result.to_json()) if trial.result else None,
        "folder": str(folder),
        "files": sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()),
    }


def sweep_name(sweep_dir: Path) -> str:
    """What a sweep is called: its folder, and of a search for a recipe the sweep's before it."""
    inner = sweep_dir.name == TUNING_FOLDER
    return f"{sweep_dir.parent.name}/{sweep_dir.name}" if inner else sweep_dir.name


def _summary(sweep_dir: Path) -> dict[str, Any]:
    state = present_state(sweep_dir)
    opened = state.opened or {}
    fit = state.fit or {}
    return {
        "name": sweep_name(sweep_dir),
        "standing": standing(sweep_dir, state),
        "trials": state.counts,
        "charged_flops": state.charged_flops,
        "budget_flops": opened.get("budget_flops"),
        "verdict": fit.get("status"),
        "tokens_per_parameter": fit.get("tokens_per_parameter"),
        "interval": fit.get("interval"),
    }


def _set_aside(folder: Path) -> None:
    """Keep a failed trial's files under a name that no trial has."""
    if folder.is_dir():
        number = len(list(folder.parent.glob(f"{folder.name}.failed-*"))) + 1
        folder.rename(folder.with_name(f"{folder.name}.failed-{number}"))
