"""The envelope of training curves (Approach 1).

In: loss against compute of whole runs. Out: the compute-optimal line.

Hoffmann et al. 2022, section 3.1: every curve is smoothed and interpolated to L(C); at each of
1,500 compute values the run with the least loss gives (N, D); straight lines in logs give the
exponents. Meaningful only for curves whose learning rate was decayed to each horizon, or nearly
constant: an unfinished decay favours large models, and the least loss is also the luckiest. The
points share runs, so the interval comes from resampling runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.laws import FloatArray

_GRID = 1500
_SMOOTHING = 10.0
_MIN_DRAWS = 20


@dataclass(frozen=True, kw_only=True)
class EnvelopeFit:
    """The compute-optimal line read off the envelope."""

    exponent_N: float
    """a of N_opt ~ C^a."""
    exponent_D: float
    """b of D_opt ~ C^b."""
    log_N: float
    """ln N_opt at `log_C`."""
    log_D: float
    """ln D_opt at `log_C`."""
    log_C: float
    """Mean ln C of the envelope."""
    sd_exponent_N: float
    """sd of a over resampled runs; NaN with too few."""
    points: FloatArray
    """Envelope as (C, N, D, L), shape (K, 4)."""
    n_runs: int
    """Runs that are the best somewhere."""
    draws: FloatArray
    """Lines of resampled runs as (a, ln N, b, ln D, ln C), shape (K, 5); K = 0 without."""

    def tokens_per_parameter(self, flops: float) -> float:
        """D/N on the line at a compute."""
        lever = float(np.log(flops)) - self.log_C
        return float(np.exp(self.log_D - self.log_N + (self.exponent_D - self.exponent_N) * lever))

    def log_ratio_at(self, flops: float) -> tuple[float, float]:
        """ln(D/N) at a compute and its sd over resampled runs; NaN with under 20 resamples."""
        value = float(np.log(self.tokens_per_parameter(flops)))
        if len(self.draws) < _MIN_DRAWS:
            return value, float("nan")
        return value, float(np.std(self._log_ratios(flops), ddof=1))

    def _log_ratios(self, flops: float) -> FloatArray:
        """ln(D/N) at a compute by every resample, shape (K,)."""
        a, log_n, b, log_d, log_c = self.draws.T
        return log_d - log_n + (b - a) * (np.log(flops) - log_c)

    def ratio_interval(self, flops: float, *, confidence: float) -> tuple[float, float] | None:
        """Percentiles of D/N at a compute over resampled runs; None with under 20 resamples.

        Args:
            flops: C, FLOPs.
            confidence: nominal coverage.
        """
        if len(self.draws) < _MIN_DRAWS:
            return None
        values = self._log_ratios(flops)
        tails = [50 * (1 - confidence), 50 * (1 + confidence)]
        low, high = np.exp(np.clip(np.percentile(values, tails), -700, 700))
        return float(low), float(high)


def fit_envelope(
    run: np.ndarray,
    N: FloatArray,
    D: FloatArray,
    C: FloatArray,
    L: FloatArray,
    *,
    smoothing: float = _SMOOTHING,
    drop_edges: bool = True,
    resamples: int = 200,
    seed: int = 0,
) -> EnvelopeFit | None:
    """The envelope of training curves.

    Args:
        run: run label of each curve point, shape (m,).
        N: parameters, shape (m,).
        D: tokens seen so far, shape (m,).
        C: FLOPs spent so far, shape (m,).
        L: loss there, shape (m,).
        smoothing: Gaussian smoothing of each curve, in points; 0 = none.
        drop_edges: leave out compute at which the smallest or largest model is the best.
        resamples: bootstrap resamples of runs.
        seed: of the resampling.

    Returns:
        The line; None when fewer than three runs are ever the best.
    """
    from scipy.ndimage import gaussian_filter1d  # slow to import, and few fits have curves

    labels, code = np.unique(run, return_inverse=True)
    grid = np.linspace(np.log(C.min()), np.log(C.max()), _GRID)
    loss = np.full((len(labels), _GRID), np.inf)
    size, per_token = np.empty(len(labels)), np.empty(len(labels))
    in_order = np.lexsort((C, code))
    of_runs = np.split(in_order, np.flatnonzero(np.diff(code[in_order])) + 1)
    for i, points in enumerate(of_runs):
        x, y = np.log(C[points]), np.log(L[points])
        size[i] = np.log(N[points[0]])
        per_token[i] = np.median(C[points] / D[points])
        if len(x) < 2:
            continue
        inside = (grid >= x[0]) & (grid <= x[-1])
        width = min(smoothing, len(x) / 6)
        smooth = gaussian_filter1d(y, width, mode="nearest") if width > 0 else y
        loss[i, inside] = np.interp(grid[inside], x, smooth)
    found = _line(loss, size, per_token, grid, drop_edges)
    if found is None:
        return None
    a, b, log_n, log_d, log_c, points, winners = found
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(resamples):
        chosen = np.unique(rng.integers(0, len(labels), len(labels)))
        again = _line(loss[chosen], size[chosen], per_token[chosen], grid, drop_edges)
        if again is not None:
            lines.append([again[0], again[2], again[1], again[3], again[4]])
    draws = np.array(lines).reshape(-1, 5)
    return EnvelopeFit(
        exponent_N=a,
        exponent_D=b,
        log_N=log_n,
        log_D=log_d,
        log_C=log_c,
        sd_exponent_N=float(np.std(draws[:, 0])) if len(draws) >= _MIN_DRAWS else float("nan"),
        points=points,
        n_runs=winners,
        draws=draws,
    )


def _line(
    loss: FloatArray, size: FloatArray, per_token: FloatArray, grid: FloatArray, drop_edges: bool
) -> tuple[float, float, float, float, float, FloatArray, int] | None:
    """Exponents, centre, envelope points and number of winning runs; None with fewer than 3."""
    best = loss.argmin(axis=0)
    least = loss.min(axis=0)
    # Compute that only one run has reached compares nothing.
    usable = np.isfinite(least) & (np.isfinite(loss).sum(axis=0) >= 2)
    if drop_edges:
        usable &= (size[best] > size.min()) & (size[best] < size.max())
    if len(np.unique(best[usable])) < 3:
        return None
    log_n = size[best[usable]]
    log_c = grid[usable]
    log_d = log_c - np.log(per_token[best[usable]])
    centre = float(log_c.mean())
    a, at_n = np.polyfit(log_c - centre, log_n, 1)
    b, at_d = np.polyfit(log_c - centre, log_d, 1)
    points = np.exp(np.column_stack([log_c, log_n, log_d, least[usable]]))
    winners = len(np.unique(best[usable]))
    return float(a), float(b), float(at_n), float(at_d), centre, points, winners
