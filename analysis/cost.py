"""FLOPs per token as a smooth function of N, read off a loss table.

The 6N rule misses attention and the output layer, which for models below about 1e9 parameters
is most of the compute, so an optimum must be sought along the cost curve that the runs really
had. In: N, D, C of the runs. Out: a `CostCurve`, callable as f(N) = C/D.

The excess over the rule, g = f/(6N) - 1, comes from attention and lookups, which grow with the
width d of a model while its body grows with d^2 and its depth: along one family of shapes g falls
about as N^(-1/3), whatever the fine steps of width and depth do. So g is a power of N where the
runs' excess is one; its exponent leans on 1/3 unless the runs say otherwise, for a few sizes of a
lattice mislead about the slope, and the slope of f moves the optimum. Where the excess is no power
(N that counts embeddings, kernels that change), ln(f/(6N)) is a polynomial in ln N of degree two at
most inside the sampled range, continued by that power outside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.laws import FloatArray

_FADE = 1.0 / 3.0
"""Exponent by which g falls with N: one width over a body of the width's cube."""
_FADE_SD = 0.03
"""How far a family's own exponent may lie from it (0.2 to 0.4 over a family line of llamas)."""
_STEP_SD = 0.15
"""Scatter of ln g about a power that the steps of a lattice of shapes make."""
_AS_GOOD = 2.0
"""A power of N is taken where its scatter is at most this many times the polynomial's, whose
curvature follows the steps of the lattice."""
_CLOSE = 0.01
"""Scatter of ln f below which a power of N is good enough in any case."""
_LEAST_LEFT = 0.05
"""Least share of the 6N rule that a cost below it is continued to."""
_SAME = 1e-6
"""Relative deviation from 6ND below which the cost curve counts as the 6N rule itself."""
_MIN_SLOPE = 0.05
_CONVERGED = 1e-12
"""Step in ln N at which an optimum is found."""


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
    power: tuple[float, float] | None = None
    """(g at the centre, exponent s) where f/(6N) = 1 + g (N/N_centre)^-s, in the polynomial's
    place."""

    @property
    def is_six_n(self) -> bool:
        """Whether the curve is the 6N rule, for which closed forms hold."""
        return self.power is None and not any(self.coefficients)

    def log_excess(self, log_n: FloatArray) -> FloatArray:
        """ln(f/(6N)) at ln N, any shape."""
        log_n = np.asarray(log_n, dtype=np.float64)
        if self.power is not None:
            return _log_above(self.power[0], log_n - self.centre, self.power[1])
        inside = np.clip(log_n, self.low, self.high)
        edge = np.polyval(self.coefficients, inside - self.centre)
        return _log_above(np.expm1(edge), log_n - inside, _FADE)

    def log_cost(self, log_n: FloatArray) -> FloatArray:
        """Ln f at ln N, any shape."""
        return np.log(6.0) + log_n + self.log_excess(log_n)

    def slope(self, log_n: FloatArray) -> FloatArray:
        """D ln f/d ln N at ln N, any shape, at least 0.05."""
        log_n = np.asarray(log_n, dtype=np.float64)
        if self.power is not None:
            rise = _slope_above(self.power[0], log_n - self.centre, self.power[1])
        else:
            inside = np.clip(log_n, self.low, self.high)
            at = inside - self.centre
            edge = np.polyval(self.coefficients, at)
            rise = np.where(
                inside == log_n,
                np.polyval(np.polyder(np.asarray(self.coefficients)), at),
                _slope_above(np.expm1(edge), log_n - inside, _FADE),
            )
        return np.maximum(1.0 + rise, _MIN_SLOPE)

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
    low, high = float(log_n.min()), float(log_n.max())
    x = log_n - centre
    distinct = len(np.unique(np.round(log_n, 6)))
    degree = min(2 if distinct >= 6 else 1, distinct - 1) if high - low > 0.2 else 0
    fitted = np.polyfit(x, excess, degree)
    scatter = float(np.sqrt(np.mean((np.polyval(fitted, x) - excess) ** 2)))
    power = _power(x, np.expm1(excess))
    if power is not None:
        missed = float(np.sqrt(np.mean((_log_above(power[0], x, power[1]) - excess) ** 2)))
        if missed <= max(_CLOSE, _AS_GOOD * scatter):
            fitted, scatter = np.zeros(1), missed
        else:
            power = None
    return CostCurve(
        coefficients=tuple(float(c) for c in fitted),
        centre=centre,
        low=low,
        high=high,
        scatter=scatter,
        power=power,
    )


def _log_above(g: FloatArray | float, x: FloatArray, exponent: float) -> FloatArray:
    """ln(1 + g e^(-exponent x)); a negative g is kept from growing past the rule itself."""
    return np.log1p(np.maximum(g * np.exp(-exponent * np.clip(x, -60.0, None)), _LEAST_LEFT - 1.0))


def _slope_above(g: FloatArray | float, x: FloatArray, exponent: float) -> FloatArray:
    """Derivative of `_log_above` in x."""
    above = g * np.exp(-exponent * np.clip(x, -60.0, None))
    return np.where(above > _LEAST_LEFT - 1.0, -exponent * above / (1.0 + above), 0.0)


def _power(x: FloatArray, g: FloatArray) -> tuple[float, float] | None:
    """(g at x = 0, exponent) of g ~ e^(-exponent x); None when g changes its sign.

    Least squares in ln|g| over the distinct sizes, each known to the lattice's scatter, with the
    exponent drawn towards a third.
    """
    if not ((g > 1e-12).all() or (g < -1e-12).all()):
        return None
    sizes, which = np.unique(np.round(x, 6), return_inverse=True)
    values = np.bincount(which, weights=np.log(np.abs(g))) / np.bincount(which)
    spread = sizes - sizes.mean()
    pull = (_STEP_SD / _FADE_SD) ** 2
    exponent = float((_FADE * pull - spread @ values) / (pull + spread @ spread))
    level = float(values.mean() + exponent * sizes.mean())
    return float(np.sign(g[0]) * np.exp(level)), exponent


def log_optimum(
    log_a: FloatArray,
    log_b: FloatArray,
    alpha: FloatArray,
    beta: FloatArray,
    log_c: float,
    cost: CostCurve,
) -> FloatArray:
    """Ln N of the compute-optimal model of many laws at once, along one cost curve.

    Solves alpha A N^-alpha = beta B D^-beta (d ln f/d ln N) with D = C/f(N) by Newton's method
    inside a bracket; the closed form where f = 6N.

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
    x, last = start, np.full_like(start, np.inf)
    gain, loss = np.log(alpha) + log_a, np.log(beta) + log_b
    for _ in range(60):
        slope = cost.slope(x)
        log_d = log_c - cost.log_cost(x)
        # Falls with x by about alpha + beta (d ln f/d ln N): f bends little over one step.
        tilt = gain - alpha * x - (loss - beta * log_d + np.log(slope))
        low, high = np.where(tilt > 0, x, low), np.where(tilt > 0, high, x)
        step = tilt / (alpha + beta * slope)
        steady = (low < x + step) & (x + step < high) & (np.abs(step) < 0.5 * np.abs(last))
        step = np.where(steady | (step == 0.0), step, 0.5 * (low + high) - x)
        x, last = x + step, step
        if (np.abs(step) < _CONVERGED).all():
            break
    return x


def log_ratio(log_n: FloatArray, log_c: float, cost: CostCurve) -> FloatArray:
    """ln(D/N) on the cost curve at ln N and compute C, any shape."""
    return log_c - cost.log_cost(log_n) - log_n
