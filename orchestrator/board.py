"""A sweep in progress on one screen: its levels, what trains, money, time left, the answer so far.

`sweep run` draws it in place, `sweep status --watch` from another shell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.state import FINAL, LevelState, SweepState, TrialState, TrialStatus
from orchestrator.units import format_count, format_duration, format_flops

TRUST_RATE = 0.05
"""Share of the planned compute from which the measured rate says something about what is left."""
BAR_WIDTH = 24
"""Columns of a bar."""
TRAIL = 2
"""Earlier intervals shown beside the present one, so that it can be seen to narrow."""
_FIRST = {TrialStatus.COMPLETED: "done", TrialStatus.RUNNING: "training"}
_LAST = {TrialStatus.PLANNED: "waiting"}
_WORDS = {
    **_FIRST,
    **{status: status.value for status in TrialStatus if status not in {**_FIRST, **_LAST}},
    **_LAST,
}
"""What each state is called, in the order of counting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """How far a running trial is."""

    step: int
    """Steps done."""
    loss: float | None
    """Latest training loss, nats per token."""
    tokens_per_s: float
    """Latest throughput."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quote:
    """What the plan promised."""

    budget_flops: float
    """Ceiling of the sweep, FLOPs."""
    flops: float
    """Compute of everything planned, FLOPs."""
    seconds: float
    """Duration that was estimated."""
    slots: int
    """Trials at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """The answer as far as some runs tell it."""

    runs: int
    """Runs behind it."""
    ratio: float | None
    """D/N at the target; None when the runs do not determine it yet."""
    interval: tuple[float, float] | None
    """Its 90 % interval."""
    why: str
    """What is missing, where there is no ratio."""


def board(
    state: SweepState,
    running: Mapping[str, Running],
    quote: Quote,
    estimates: Sequence[Estimate] = (),
) -> Group:
    """Everything about a running sweep that a person looks for, for `rich` to draw.

    Args:
        state: the sweep.
        running: latest measurements of the trials under way.
        quote: what was planned.
        estimates: the answer as it formed, oldest first.
    """
    answer = answer_so_far(state, estimates)
    return Group(
        _level_table(state),
        _running_table(state, running),
        _account(state, running, quote),
        *([Text(answer, style="bold")] if answer else []),
    )


def answer_so_far(state: SweepState, estimates: Sequence[Estimate]) -> str:
    """The answer as far as it is known, and what it was before; empty while there is none."""
    known = [*estimates]
    journalled = _journalled(state)
    if journalled is not None and (not known or journalled.runs >= known[-1].runs):
        known = [*(one for one in known if one.runs < journalled.runs), journalled]
    if not known:
        return ""
    *earlier, last = known
    runs = f"{last.runs} run{'s' * (last.runs != 1)}"
    if last.ratio is None or last.interval is None:
        return f"D/N so far: none from {runs}; {last.why}"
    before = [_ends(one.interval) for one in reversed(earlier) if one.interval is not None][:TRAIL]
    trail = f"  ·  before: {', '.join(before)}" if before else ""
    return f"D/N so far {last.ratio:.3g} {_ends(last.interval)} from {runs}{trail}"


def _journalled(state: SweepState) -> Estimate | None:
    """The fit after the last round that ended."""
    fit = state.fit
    if not fit:
        return None
    ratio, ends = fit.get("tokens_per_parameter"), fit.get("interval")
    return Estimate(
        runs=fit["n_points"],
        ratio=ratio,
        interval=None if ends is None else (ends[0], ends[1]),
        why=str(fit.get("message", "")),
    )


def _ends(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:.3g}, {interval[1]:.3g}]"


def seconds_left(
    state: SweepState, running: Mapping[str, Running], quote: Quote
) -> tuple[float, float]:
    """How much longer a sweep takes: by the plan's estimate and by the speed of its own trials.

    Returns:
        The shorter and the longer of the two, seconds; equal while too little has run to measure.
    """
    left = max(0.0, quote.flops - _spent(state, running))
    planned = quote.seconds * left / quote.flops if quote.flops else 0.0
    trained = [
        trial.result
        for trial in state.trials.values()
        if trial.result is not None and not trial.cached_from and trial.result.wall_s > 0
    ]
    flops = sum(trial.charged_flops for trial in state.trials.values() if trial.result in trained)
    if flops < TRUST_RATE * quote.flops or not trained:
        return planned, planned
    measured = left * sum(result.wall_s for result in trained) / flops / quote.slots
    return min(planned, measured), max(planned, measured)


def _spent(state: SweepState, running: Mapping[str, Running]) -> float:
    """Compute charged so far, with the steps that running trials have done, FLOPs."""
    under_way = (
        state.trials[trial_id].flops_per_step * progress.step
        for trial_id, progress in running.items()
    )
    return state.charged_flops + sum(under_way)


def count_words(trials: Iterable[TrialState]) -> str:
    """States of trials in words: `5 done, 1 training, 1 failed`."""
    counted = Counter(trial.status for trial in trials)
    return ", ".join(
        f"{counted[status]} {word}" for status, word in _WORDS.items() if counted[status]
    )


def level_name(level: LevelState) -> str:
    """`Level 2`, or `Round 2` where its trials differ in compute."""
    return f"{'Level' if level.even else 'Round'} {level.level}"


def _level_table(state: SweepState) -> Table:
    table = Table.grid(padding=(0, 2))
    for level in state.levels:
        trials = [state.trials[trial_id] for trial_id in level.trial_ids]
        over = sum(trial.status in FINAL for trial in trials)
        table.add_row(
            level_name(level),
            f"{'' if level.even else 'up to '}{format_flops(level.flops)} FLOPs",
            _bar(over, len(trials)),
            count_words(trials),
        )
    return table


def _running_table(state: SweepState, running: Mapping[str, Running]) -> Table:
    table = Table.grid(padding=(0, 2))
    for trial_id, progress in running.items():
        trial = state.trials[trial_id]
        steps = trial.config.steps
        table.add_row(
            "  " + trial.label,
            _bar(progress.step, steps),
            f"{progress.step / steps:>4.0%}",
            "" if progress.loss is None else f"loss {progress.loss:.3f}",
            f"{format_count(progress.tokens_per_s)} tok/s" if progress.tokens_per_s else "",
        )
    return table


def _account(state: SweepState, running: Mapping[str, Running], quote: Quote) -> Text:
    """Trials, speed, money and time in one line."""
    spent = _spent(state, running)
    share = spent / quote.budget_flops if quote.budget_flops else 0.0
    together = sum(progress.tokens_per_s for progress in running.values())
    parts = [
        count_words(state.trials.values()) or "nothing started yet",
        *([f"{format_count(together)} tok/s in all"] if together else []),
        f"charged {format_flops(spent)} of {format_flops(quote.budget_flops)} FLOPs ({share:.0%})",
        _time_left(*seconds_left(state, running, quote)),
    ]
    return Text("  ·  ".join(parts), style="dim")


def _time_left(shorter: float, longer: float) -> str:
    if longer < 1:
        return "about to end"
    low, high = format_duration(shorter), format_duration(longer)
    return f"about {low} left" if low == high else f"{low} to {high} left"


def _bar(done: int, total: int) -> ProgressBar:
    return ProgressBar(total=max(total, 1), completed=done, width=BAR_WIDTH)
