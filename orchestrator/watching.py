"""`sweep status --watch`: looks at a running sweep or search from another shell, and only looks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from orchestrator.board import Estimate, Quote, Running, answer_so_far, board, count_words
from orchestrator.estimate import Estimator
from orchestrator.journal import read_state
from orchestrator.operations import is_running
from orchestrator.state import SweepState, TrialStatus
from orchestrator.trial_files import progress_of
from orchestrator.units import format_flops
from orchestrator.views import NOT_BEGUN

LOOK_S = 1.0
"""Pause between two looks, seconds."""


def watch(
    sweep_dir: Path,
    console: Console,
    *,
    pause: Callable[[float], None] = time.sleep,
) -> SweepState:
    """Show a sweep until its driver ends: in place on a terminal, a line per change elsewhere.

    Args:
        sweep_dir: the sweep, or the search for its recipe.
        console: where it is shown.
        pause: waits between two looks.

    Returns:
        The state at the end.
    """
    if console.is_terminal:
        return _in_place(sweep_dir, console, pause)
    return _by_line(sweep_dir, console, pause)


def running_trials(sweep_dir: Path, state: SweepState) -> dict[str, Running]:
    """Latest measurements of the trials under way, by identity."""
    return {
        trial.trial_id: progress_of(sweep_dir, trial.trial_id)
        for trial in state.trials.values()
        if trial.status is TrialStatus.RUNNING
    }


def quote_of(sweep_dir: Path, state: SweepState) -> Quote:
    """What was promised: by the sweep's plan, or of a search by its journal, for it has no plan."""
    assert state.opened is not None
    search = state.opened.get("search")
    if search is not None:
        flops = state.opened["budget_flops"]
        seconds = search["estimated_s"] * flops / search["flops"]
        return Quote(budget_flops=flops, flops=flops, seconds=seconds, slots=search["slots"])
    plan = json.loads((sweep_dir / "plan.json").read_text())
    return Quote(
        budget_flops=state.opened["budget_flops"],
        flops=plan["planned_flops"],
        seconds=plan["estimated_s"],
        slots=plan["slots"],
    )


def _in_place(sweep_dir: Path, console: Console, pause: Callable[[float], None]) -> SweepState:
    estimator = Estimator()
    estimates: tuple[Estimate, ...] = ()
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        while True:
            alive = is_running(sweep_dir)
            state = read_state(sweep_dir)
            running = running_trials(sweep_dir, state)
            live.update(
                board(state, running, quote_of(sweep_dir, state), estimates)
                if state.opened
                else NOT_BEGUN,
                refresh=True,
            )
            if not alive:
                return state
            # Only now: the first picture waits for no fit.
            estimates = estimator(state)
            pause(LOOK_S)


def _by_line(sweep_dir: Path, console: Console, pause: Callable[[float], None]) -> SweepState:
    shown = ""
    estimator = Estimator()
    while True:
        alive = is_running(sweep_dir)
        state = read_state(sweep_dir)
        line = _line(state, estimator(state))
        if line != shown:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
            shown = line
        if not alive:
            return state
        pause(LOOK_S)


def _line(state: SweepState, estimates: Sequence[Estimate]) -> str:
    if state.opened is None:
        return NOT_BEGUN
    so_far = answer_so_far(state, estimates[-1:])
    return (
        f"{count_words(state.trials.values()) or 'nothing started yet'}; charged "
        f"{format_flops(state.charged_flops)} of "
        f"{format_flops(state.opened['budget_flops'])} FLOPs"
        f"{'; ' + so_far if so_far else ''}"
    )
