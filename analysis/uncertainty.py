"""How sure: from a surface fit to an interval on the optimal D/N at a target compute.

Two routes, combined by `ratio_interval`:

    delta      Var(ln r) = g' Sigma g, g = d ln r/d theta, Student quantiles
    bootstrap  refits on resampled clusters of runs; percentiles of ln r

The delta method with Student quantiles covers 89-93 % at a nominal 90 % on isoFLOP designs of 15
to 40 runs when the law is right, and is the shortest that does; it trusts the residuals to be
independent noise. Where the bootstrap is more than 1.35 times wider they are not, and the
bootstrap's interval is taken.

Runs that share a model size or a trajectory share what made them lucky, so they are resampled
together; with fewer than eight such clusters a cluster bootstrap is too coarse and single runs
are resampled instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from analysis.cost import CostCurve, log_optimum, log_ratio
from analysis.fit import SurfaceFit, drawn_penalty, refit
from analysis.laws import FloatArray, LawForm, Surface
from analysis.newton import LARGEST_EXPONENT, LEAST_EXPONENT, Solutions
from analysis.quantiles import student_quantile

DISTRUST = 1.35
"""How much wider the bootstrap must be than the delta method to replace it."""
MIN_CLUSTERS = 8
"""Fewest clusters for which a cluster bootstrap is used."""
_MANY_SIZES = 30
CONFIDENCE = 0.9
"""Confidence of the headline interval."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Refits of one law to resampled runs."""

    theta: FloatArray
    """Centred parameters of each refit, shape (K, p)."""
    form: LawForm
    """The law."""
    centre: tuple[float, float]
    """(n0, d0) of the centred coordinates."""
    kind: str
    """What was resampled: `cluster`, `pairs`, `residual`, `wild` or `wild cluster`."""
    n_clusters: int
    """Number of clusters (runs, for `pairs`, `residual` and `wild`) that were resampled."""
    failed: float
    """Share of refits that did not converge or ended at a limit of an exponent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A two-sided interval of a positive quantity."""

    low: float
    """Lower end."""
    high: float
    """Upper end."""
    confidence: float
    """Nominal coverage."""
    method: str
    """How it was made."""

    @property
    def fold(self) -> float:
        """high/low."""
        return self.high / self.low


def clusters(N: FloatArray, trajectory: np.ndarray | None = None) -> np.ndarray:
    """Cluster number of each run: runs that share a model size or a trajectory are together.

    Args:
        N: parameters, shape (m,).
        trajectory: trajectory label of each run ('' = its own), shape (m,).

    Returns:
        Integers from 0, shape (m,).
    """
    _, size = np.unique(np.round(np.log(N), 9), return_inverse=True)
    if trajectory is None:
        return size
    names, name = np.unique(np.asarray(trajectory, dtype=str), return_inverse=True)
    named = names[name] != ""
    n_sizes = int(size.max()) + 1
    n_nodes = n_sizes + len(names)
    # Sizes and trajectories are the nodes of a graph, runs its edges.
    edges = (np.ones(named.sum()), (size[named], n_sizes + name[named]))
    _, part = connected_components(coo_array(edges, shape=(n_nodes, n_nodes)), directed=False)
    # Numbered by the smallest size of each, so that labels follow N.
    found, first = np.unique(part[:n_sizes], return_index=True)
    number = np.empty(int(found.max()) + 1, dtype=np.int64)
    number[found[np.argsort(first)]] = np.arange(len(found))
    return number[part[size]]


def resample_weights(
    groups: np.ndarray, sizes: FloatArray, *, resamples: int, seed: int
) -> tuple[FloatArray, str, int]:
    """Bootstrap weights: how often each run appears in each resample.

    Args:
        groups: cluster number of each run, shape (m,).
        sizes: N of each run, shape (m,); a resample with fewer than three sizes is redrawn.
        resamples: number of resamples K.
        seed: of the generator.

    Returns:
        Weights of shape (K, m), the kind (`cluster` or `pairs`) and the number of clusters.
    """
    m = len(groups)
    count = int(groups.max()) + 1
    kind = "cluster" if count >= MIN_CLUSTERS and count < m else "pairs"
    units = groups if kind == "cluster" else np.arange(m)
    total = int(units.max()) + 1
    _, size_code = np.unique(np.round(np.log(sizes), 9), return_inverse=True)
    sizes_met = int(size_code.max()) + 1
    # With many sizes a resample always has three; with few, count them.
    membership = np.eye(sizes_met)[size_code] if sizes_met <= _MANY_SIZES else None
    needed = min(3, sizes_met)
    rng = np.random.default_rng(seed)
    kept: list[FloatArray] = []
    have = 0
    for _ in range(50):
        counts = rng.multinomial(total, np.full(total, 1.0 / total), size=resamples)
        weights = counts[:, units].astype(np.float64)
        rich = (weights > 0).sum(axis=1) >= min(m, 6)
        if membership is not None:
            rich &= ((weights @ membership) > 0).sum(axis=1) >= needed
        kept.append(weights[rich])
        have += int(rich.sum())
        if have >= resamples:
            break
    return np.concatenate(kept)[:resamples], kind, total


def bootstrap(
    fit: SurfaceFit, groups: np.ndarray, *, resamples: int = 2000, seed: int = 0
) -> Draws:
    """Refit a law to resampled runs, warm-started at the fit.

    Args:
        fit: the fit to all runs.
        groups: cluster number of each run, shape (m,); see `clusters`.
        resamples: number of refits.
        seed: of the resampling.
    """
    counts, kind, total = resample_weights(
        groups, np.exp(fit.data.n), resamples=resamples, seed=seed
    )
    solved = refit(
        fit, counts * fit.weights, penalty=drawn_penalty(fit, len(counts), seed=seed + 1)
    )
    return gather_draws(fit, solved, kind=kind, n_clusters=total)


def gather_draws(fit: SurfaceFit, solved: Solutions, *, kind: str, n_clusters: int) -> Draws:
    """Refits as draws, with the share that failed.

    Args:
        fit: the fit that was resampled.
        solved: its refits.
        kind: what was resampled.
        n_clusters: how many independent units were.
    """
    exponents = solved.theta[:, 3:5]
    beyond = (exponents < 1.02 * LEAST_EXPONENT) | (exponents > 0.999 * LARGEST_EXPONENT)
    bad = ~solved.converged | beyond.any(axis=1)
    return Draws(
        theta=solved.theta,
        form=fit.form,
        centre=fit.data.centre,
        kind=kind,
        n_clusters=n_clusters,
        failed=float(bad.mean()) if len(bad) else 1.0,
    )


def log_params_at(
    theta: FloatArray, centre: tuple[float, float], flops: float, cost: CostCurve
) -> FloatArray:
    """Ln N_opt at a compute for centred parameters of shape (K, p); result (K,)."""
    alpha, beta = theta[:, 3], theta[:, 4]
    log_a = theta[:, 0] + alpha * centre[0]
    log_b = theta[:, 1] + beta * centre[1]
    return log_optimum(log_a, log_b, alpha, beta, float(np.log(flops)), cost)


def log_ratios_at(
    theta: FloatArray, centre: tuple[float, float], flops: float, cost: CostCurve
) -> FloatArray:
    """ln(D/N) of the optimum at a compute for centred parameters (K, p); result (K,)."""
    return log_ratio(log_params_at(theta, centre, flops, cost), float(np.log(flops)), cost)


def ratio_gradient(fit: SurfaceFit, flops: float, cost: CostCurve) -> FloatArray:
    """D ln(D/N)_opt / d theta by central differences, shape (p,)."""
    step = 1e-5
    p = fit.form.n_params
    shifts = np.vstack([np.eye(p), -np.eye(p)]) * step
    shifted = fit.theta + shifts
    shifted[:, 3:5] = np.maximum(shifted[:, 3:5], 1e-4)
    values = log_ratios_at(shifted, fit.data.centre, flops, cost)
    return (values[:p] - values[p:]) / (2 * step)


def delta_sd(fit: SurfaceFit, flops: float, cost: CostCurve) -> float:
    """Delta-method sd of ln(D/N)_opt at a compute; NaN when the covariance is unknown."""
    gradient = ratio_gradient(fit, flops, cost)
    moving = np.abs(gradient) > 1e-12
    block = fit.covariance[np.ix_(moving, moving)]
    variance = float(gradient[moving] @ block @ gradient[moving])
    return float(np.sqrt(variance)) if variance >= 0 else float("nan")


def ratio_interval(
    fit: SurfaceFit,
    draws: Draws | None,
    flops: float,
    cost: CostCurve,
    *,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Interval of the optimal D/N at a compute: delta method, or bootstrap if much wider.

    Args:
        fit: the fit.
        draws: its bootstrap; None leaves the delta method alone.
        flops: the compute.
        cost: the cost curve.
        confidence: nominal coverage.
    """
    return ratio_intervals(fit, draws, flops, cost, (confidence,))[0]


def ratio_intervals(
    fit: SurfaceFit,
    draws: Draws | None,
    flops: float,
    cost: CostCurve,
    confidences: Sequence[float],
) -> tuple[Interval, ...]:
    """`ratio_interval` at several confidences, with the optima of the draws sought once."""
    centre = float(log_ratios_at(fit.theta[None], fit.data.centre, flops, cost)[0])
    sd = delta_sd(fit, flops, cost)
    values = None
    if draws is not None and len(draws.theta) > 1:
        values = log_ratios_at(draws.theta, draws.centre, flops, cost)
    found = []
    for confidence in confidences:
        quantile = student_quantile(0.5 + confidence / 2, fit.degrees_of_freedom)
        low, high, method = centre - quantile * sd, centre + quantile * sd, "delta"
        if draws is not None and values is not None:
            tail = 50 * (1 - confidence)
            b_low, b_high = (float(v) for v in np.percentile(values, [tail, 100 - tail]))
            if not np.isfinite(sd) or b_high - b_low > DISTRUST * (high - low):
                low, high = min(b_low, centre), max(b_high, centre)
                method = f"{draws.kind} bootstrap"
        found.append(
            Interval(
                low=float(np.exp(np.clip(low, -700, 700))),
                high=float(np.exp(np.clip(high, -700, 700))),
                confidence=confidence,
                method=method,
            )
        )
    return tuple(found)


def near_optimal(
    surface: Surface, params: float, tokens: float, cost: CostCurve, *, waste: float
) -> tuple[float, float]:
    """Range of D/N at fixed compute that wastes at most a share of it.

    Along C = f(N) D the inner sum at N e^x is P e^(-alpha x) + R e^(beta phi x), with
    phi = d ln f/d ln N and alpha P = beta phi R at the optimum; the optimum reaches that sum with
    its power -(alpha + beta phi)/(alpha beta) of the compute.

    Args:
        surface: the law.
        params: N at the optimum.
        tokens: D at the optimum.
        cost: the cost curve.
        waste: share of compute, 0.01 for one per cent.

    Returns:
        (low, high) of D/N.
    """
    phi = float(cost.slope(np.asarray(np.log(params))))
    alpha, tilt = surface.alpha, surface.beta * phi
    allowed = -np.log1p(-waste) * alpha * surface.beta / (alpha + tilt)

    def growth(x: float) -> float:
        mixed = np.logaddexp(np.log(tilt) - alpha * x, np.log(alpha) + tilt * x)
        return float(mixed - np.log(alpha + tilt))

    ends = []
    for side in (1.0, -1.0):
        low, high = 0.0, 30.0
        for _ in range(60):
            middle = 0.5 * (low + high)
            inside = growth(side * middle) < allowed
            low, high = (middle, high) if inside else (low, middle)
        ends.append(side * low)
    ratio = tokens / params
    low_ratio, high_ratio = (ratio * float(np.exp(-(1 + phi) * x)) for x in ends)
    return low_ratio, high_ratio
