"""The answer while it forms: a quick fit after every run that ended, for whoever watches.

Nothing is decided by it: the fits after a round and at the end are the service's.
"""

from __future__ import annotations

from analysis.answer import fit_table
from analysis.table import read_rows
from orchestrator.board import Estimate
from orchestrator.outcome import loss_frame
from orchestrator.state import Purpose, SweepState

MIN_RUNS = 6
"""Runs from which a fit is tried; fewer never determine a ratio (rule R1)."""
RESAMPLES = 100
"""Bootstrap refits behind a passing look: enough for an interval of two digits, in 0.3 s of CPU."""


class Estimator:
    """Fits again whenever another run of the design has ended; in a search for a recipe never."""

    def __init__(self) -> None:
        self._found: list[Estimate] = []

    def __call__(self, state: SweepState) -> tuple[Estimate, ...]:
        """Every estimate so far, oldest first."""
        runs = sum(
            trial.purpose is Purpose.DESIGN and trial.result is not None and trial.result.is_datum
            for trial in state.trials.values()
        )
        if runs >= MIN_RUNS and (not self._found or self._found[-1].runs != runs):
            self._found.append(_estimate(state, runs))
        return tuple(self._found)


def _estimate(state: SweepState, runs: int) -> Estimate:
    assert state.opened is not None
    fit = fit_table(
        read_rows(loss_frame(state)),
        target_flops=state.opened["target_flops"],
        resamples=RESAMPLES,
        detail=False,
    )
    if fit.status == "not_identified" or not fit.optimum:
        why = next((f"{c.rule}: {c.message}" for c in fit.checks if not c.passed), fit.message)
        return Estimate(runs=runs, ratio=None, interval=None, why=why)
    best = fit.optimum[0]
    return Estimate(
        runs=runs,
        ratio=best.tokens / best.params,
        interval=(best.interval.low, best.interval.high),
        why="",
    )
