"""Profile likelihood of the irreducible loss E.

For a given E the rest of the law is minimised; the interval is {E : S(E) <= S_min (1 + F/(m - p))}
with F the quantile of F(1, m - p), as in `analysis.profile`. Refits of resampled runs say as much
only where they stay inside the exponents' limits. The lower end is often open: a power law with an
exponent near zero is next to a constant, and the runs may not tell how much of E it is.
"""

from __future__ import annotations

import numpy as np

from analysis.fit import SurfaceFit
from analysis.laws import FloatArray
from analysis.newton import LOG_FLOOR, Restriction, bounds, minimise
from analysis.quantiles import fisher_quantile

MAX_POINTS = 1000
"""Beyond this many points the profile takes seconds: E has no interval there but that of refits."""
_FIRST_STEP = 0.002
"""First step in ln E from the estimate, doubled until the profile passes its threshold."""
_HALVINGS = 8
"""Of the bracket about an end, which is as wide as its distance from the estimate."""


def profile_floor(fit: SurfaceFit, *, confidence: float = 0.9) -> tuple[float, float] | None:
    """Profile likelihood interval of E.

    Args:
        fit: the fit; its objective (least squares or Huber) is profiled, under its restriction.
        confidence: nominal coverage.

    Returns:
        (low, high); low is 0 where the runs do not keep E from zero, high infinite where they do
        not bound it. None with as many parameters as points, more than 1,000 points, or an exact
        fit.
    """
    size, p = fit.data.size, fit.n_free
    if size <= p or size > MAX_POINTS or fit.misfit <= 0:
        return None
    allowed = fit.misfit * fisher_quantile(confidence, 1, size - p) / (size - p)
    least, most = (float(ends[LOG_FLOOR]) for ends in bounds(fit.form, fit.data))
    low = _end(fit, least, allowed)
    high = _end(fit, most, allowed)
    return (
        0.0 if low is None else float(np.exp(low)),
        np.inf if high is None else float(np.exp(high)),
    )


def _end(fit: SurfaceFit, bound: float, allowed: float) -> float | None:
    """Where the profile first passes its threshold on the way to a bound of ln E; None: nowhere."""
    inside, theta = float(fit.theta[LOG_FLOOR]), fit.theta
    step = _FIRST_STEP if bound > inside else -_FIRST_STEP
    while True:
        outside = inside + step
        if abs(step) >= abs(bound - inside):
            outside = bound
        excess, found = _excess(fit, outside, theta)
        if excess > allowed:
            break
        if outside == bound:
            return None
        inside, theta, step = outside, found, 2 * step
    for _ in range(_HALVINGS):
        middle = 0.5 * (inside + outside)
        excess, found = _excess(fit, middle, theta)
        if excess > allowed:
            outside = middle
        else:
            inside, theta = middle, found
    return 0.5 * (inside + outside)


def _excess(fit: SurfaceFit, log_floor: float, near: FloatArray) -> tuple[float, FloatArray]:
    """S(E) - S_min and the theta that has it, sought from a neighbour's and from the estimate."""
    starts = np.vstack([near, fit.theta])
    starts[:, LOG_FLOOR] = log_floor
    solved = minimise(
        fit.form,
        fit.data,
        starts,
        weights=fit.weights,
        delta=fit.huber_delta,
        restriction=(fit.restriction or Restriction.none(fit.form)).with_floor(log_floor),
        penalty=fit.penalty,
        max_steps=40,
        tolerance=1e-9,
    )
    best = int(np.argmin(solved.objective))
    return float(solved.objective[best]) - fit.objective, solved.theta[best]
