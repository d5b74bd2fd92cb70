"""FLOPs per token as a smooth function of N, read off a loss table.

The 6N rule misses attention and the output layer, which for models below about 1e9 parameters
is most of the compute, so an optimum must be sought along the cost curve that the runs really
had. In: N, D, C of the runs. Out: a `CostCurve`, callable as f(N) = C/D.

Inside the sampled range ln(f/(6N)) is a polynomial in ln N of degree two at most; outside it the
edge value fades with the width of the model, as N^(-1/3): attention and head cost grow with the
width d while the body grows with d^3 at a fixed shape (so f -> 6N for ever larger models).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.laws import FloatArray

_FADE = 1.0 / 3.0
_SAME = 1e-6
"""Relative deviation from 6ND below which the cost curve counts as the 6N rule itself."""
_MIN_SLOPE = 0.05


@dataclass(frozen=True, kw_only=True)
class CostCurve:
    """Training FLOPs per token as a function of N."""

    coefficients: tuple[float, ...]
    """Polynomial of ln(f/(6N)) in ln N - centre, highest power first; (0.0,) is the 6N rule."""
    centre: float
    """Mean ln N of the runs."""
    low: float
    """Smallest ln N of the runs."""
    high: float
    """Largest ln N of the runs."""
    scatter: float
    """Root mean square of ln(C/D) about the curve."""

    @property
    def is_six_n(self) -> bool:
        """Whether the curve is the 6N rule, for which closed forms hold."""
        return not any(self.coefficients)

    def log_excess(self, log_n: FloatArray) -> FloatArray:
        """ln(f/(6N)) at ln N, any shape."""
        log_n = np.asarray(log_n, dtype=np.float64)
        inside = np.clip(log_n, self.low, self.high)
        edge = np.polyval(self.coefficients, inside - self.centre)
        return edge * np.exp(-_FADE * np.abs(log_n - inside))

    def log_cost(self, log_n: FloatArray) -> FloatArray:
        """Ln f at ln N, any shape."""
        return np.log(6.0) + log_n + self.log_excess(log_n)

    def slope(self, log_n: FloatArray) -> FloatArray:
        """D ln f/d ln N at ln N, by central differences, at least 0.05."""
        step = 1e-4
        rise = self.log_cost(np.asarray(log_n) + step) - self.log_cost(np.asarray(log_n) - step)
        return np.maximum(rise / (2 * step), _MIN_SLOPE)

    def __call__(self, N: FloatArray) -> FloatArray:
        """FLOPs per token at N, any shape."""
        return np.exp(self.log_cost(np.log(np.asarray(N, dtype=np.float64))))


SIX_N = CostCurve(coefficients=(0.0,), centre=0.0, low=-np.inf, high=np.inf, scatter=0.0)
"""C = 6ND."""


def read_cost(N: FloatArray, D: FloatArray, C: FloatArray) -> CostCurve:
    """The cost curve of a table's runs.

    Args:
        N: parameters, shape (m,).
        D: tokens, shape (m,).
        C: training FLOPs, shape (m,).
    """
    log_n = np.log(N)
    excess = np.log(C) - np.log(D) - log_n - np.log(6.0)
    if np.abs(excess).max() < _SAME:
        return SIX_N
    centre = float(log_n.mean())
    distinct = len(np.unique(np.round(log_n, 6)))
    span = float(np.ptp(log_n))
    degree = min(2 if distinct >= 6 else 1, distinct - 1) if span > 0.2 else 0
    fitted = np.polyfit(log_n - centre, excess, degree)
    curve = CostCurve(
        coefficients=tuple(float(c) for c in fitted),
        centre=centre,
        low=float(log_n.min()),
        high=float(log_n.max()),
        scatter=float(np.sqrt(np.mean((np.polyval(fitted, log_n - centre) - excess) ** 2))),
    )
    return curve


def log_optimum(
    log_a: FloatArray,
    log_b: FloatArray,
    alpha: FloatArray,
    beta: FloatArray,
    log_c: float,
    cost: CostCurve,
) -> FloatArray:
    """Ln N of the compute-optimal model of many laws at once, along one cost curve.

    Solves alpha A N^-alpha = beta B D^-beta (d ln f/d ln N) with D = C/f(N) by bisection; the
    closed form where f = 6N.

    Args:
        log_a: ln A, shape (K,).
        log_b: ln B, shape (K,).
        alpha: exponent of N, shape (K,).
        beta: exponent of D, shape (K,).
        log_c: ln C.
        cost: the cost curve.

    Returns:
        ln N_opt, shape (K,).
    """
    total = alpha + beta
    start = (log_a + np.log(alpha) - log_b - np.log(beta) + beta * (log_c - np.log(6.0))) / total
    # Degenerate exponents put the optimum at absurd sizes: keep N between 1 and C.
    start = np.clip(start, 0.0, log_c)
    if cost.is_six_n:
        return start
    low, high = start - 8.0, start + 8.0

    def tilt(x: FloatArray) -> FloatArray:
        log_d = log_c - cost.log_cost(x)
        gain = np.log(alpha) + log_a - alpha * x
        return gain - (np.log(beta) + log_b - beta * log_d + np.log(cost.slope(x)))

    for _ in range(50):
        middle = 0.5 * (low + high)
        up = tilt(middle) > 0
        low, high = np.where(up, middle, low), np.where(up, high, middle)
    return 0.5 * (low + high)


def log_ratio(log_n: FloatArray, log_c: float, cost: CostCurve) -> FloatArray:
    """ln(D/N) on the cost curve at ln N and compute C, any shape."""
    return log_c - cost.log_cost(log_n) - log_n
