"""Finishing the fits that `analysis.newton` leaves on their way, so that all starts can agree.

Where the runs hardly tell E from a slow power, the objective is a long curved valley along which E
shrinks and a Newton step, which is straight, can only be short: hundreds of steps to an end that is
often E at its lower limit. That end is tried outright; what is still on its way then may take as
many steps as it needs.
"""

from __future__ import annotations

import numpy as np

from analysis.laws import FloatArray, LawForm
from analysis.newton import LOG_FLOOR, Data, Penalty, Restriction, Solutions, bounds, minimise

_MOST_STEPS = 300
"""Of a fit that does not converge sooner; the slowest published tables need about two hundred."""


def settle(
    form: LawForm,
    data: Data,
    solved: Solutions,
    *,
    weights: FloatArray,
    delta: float,
    restriction: Restriction | None = None,
    penalty: Penalty | None = None,
) -> Solutions:
    """The same problems with those that had not converged carried to their ends.

    Args:
        form: the law.
        data: the points.
        solved: of `minimise`, all under the same objective.
        weights: shape (m,).
        delta: Huber width.
        restriction: as in the fit.
        penalty: as in the fit, with one centre for all.

    Returns:
        Solutions whose objectives are nowhere above the given ones.
    """

    def again(theta: FloatArray, under: Restriction | None, max_steps: int = 60) -> Solutions:
        return minimise(
            form,
            data,
            theta,
            weights=weights,
            delta=delta,
            restriction=under,
            penalty=penalty,
            continuation=False,
            max_steps=max_steps,
        )

    slow = np.flatnonzero(~solved.converged)
    if len(slow):
        least = float(bounds(form, data)[0][LOG_FLOOR])
        without = (restriction or Restriction.none(form)).with_floor(least)
        ends = again(solved.theta[slow], without)
        solved = _lower(solved, slow, again(ends.theta, restriction))
    slow = np.flatnonzero(~solved.converged)
    if len(slow):
        solved = _lower(solved, slow, again(solved.theta[slow], restriction, _MOST_STEPS))
    return solved


def _lower(solved: Solutions, rows: np.ndarray, other: Solutions) -> Solutions:
    """The solutions with those rows replaced whose objective the other's do not exceed."""
    wins = other.objective <= solved.objective[rows]
    at = rows[wins]
    merged = []
    for ours, theirs in (
        (solved.theta, other.theta),
        (solved.objective, other.objective),
        (solved.gradient, other.gradient),
        (solved.converged, other.converged),
    ):
        whole = ours.copy()
        whole[at] = theirs[wins]
        merged.append(whole)
    theta, objective, gradient, converged = merged
    return Solutions(theta=theta, objective=objective, gradient=gradient, converged=converged)
