"""From losses at tried learning rates to a rule: the best rate per size, and a power law of N.

Per size ln L is a parabola in ln(learning rate) near its minimum (with a second one in ln(batch)
where batches were tried); across sizes the minima follow rate = c (N / N0)^-k, the form of Porian
et al. 2024 (arXiv 2406.19146) at a fixed D/N. Every number has an interval, and a minimum at an
edge of what was tried is called that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Standing = Literal["fitted", "bracketed", "edge"]

NOISE_LN_LOSS = 0.005
"""Prior sd of ln L of one run: the upper end of the 0.1 to 0.5 % between seeds of clean runs."""
_MODEL_SD = 0.1
"""No parabola is trusted closer than this, sd of ln(rate): ln L is steeper towards high rates."""
_PRIOR_DOF = 3
"""Runs that the prior noise is worth, where a parabola leaves few to judge it by."""
_WINDOW = 6.0
"""Rates within this factor of the best one enter the parabola: further out ln L is none."""
_DRAWS = 4000
_LEAST_VALID = 0.9
"""Share of the draws whose parabola must open upwards for its minimum to be one."""
PRIOR_EXPONENT, PRIOR_EXPONENT_SD = 0.3, 0.1
"""k is drawn towards what was published, for two sizes close to each other say little about it. At
a fixed D/N: 0.36 (Porian et al. 2024, arXiv 2406.19146), 0.713 - 0.307 (Li et al. 2025, arXiv
2503.04715), 0.25 (DeepSeek-AI 2024, arXiv 2401.02954: C^-0.125)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TriedRun:
    """One run of a search."""

    learning_rate: float
    """Peak learning rate."""
    batch_tokens: float
    """Tokens per step."""
    loss: float | None
    """Held-out loss, nats per token; None when it was ended early or diverged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeOptimum:
    """The best learning rate at one size."""

    params: float
    """N, matmul parameters."""
    standing: Standing
    """`fitted`: minimum of a parabola. `bracketed`: the best run, with worse ones on both sides but
    no parabola. `edge`: the best run is the least or the greatest rate tried."""
    learning_rate: float
    """Best peak learning rate."""
    interval: tuple[float, float]
    """95 % interval of it; of a bracketed one the nearest rates that are clearly worse; of one at
    an edge what was tried."""
    sd_ln: float
    """Standard deviation of its logarithm."""
    batch_tokens: float
    """Best tokens per step."""
    batch_standing: Standing | Literal["fixed"]
    """As `standing`; `fixed` where one batch was tried."""
    loss: float
    """Least loss found, nats per token."""
    curvature: float
    """Second derivative of ln L by ln(rate), 0 when there is no parabola."""
    n_finished: int
    """Runs that went to their end."""
    n_tried: int
    """Runs in all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RateRule:
    """rate = c (N / N0)^-k."""

    constant: float
    """c, the rate at N0."""
    at_params: float
    """N0, matmul parameters."""
    exponent: float
    """k."""
    exponent_interval: tuple[float, float]
    """95 % interval of k, published exponents included as prior knowledge."""
    batch_tokens: float | None
    """Best batch, tokens per step; None where the batch was not tuned."""
    batch_exponent: float
    """m of batch = batch_tokens (N / N0)^m; 0 unless its 95 % interval leaves 0 out."""

    def rate(self, params: float) -> float:
        """Peak learning rate at N matmul parameters."""
        return self.constant * (params / self.at_params) ** -self.exponent

    @property
    def learning_rate_text(self) -> str:
        """As an expression of a budget file."""
        return f"{self.constant:.4g} * (N/{self.at_params:.4g})**{-self.exponent:.4g}"

    @property
    def batch_text(self) -> str | None:
        """As an expression of a budget file; None where the batch was not tuned."""
        if self.batch_tokens is None:
            return None
        if not self.batch_exponent:
            return f"{self.batch_tokens:.6g}"
        return f"{self.batch_tokens:.4g} * (N/{self.at_params:.4g})**{self.batch_exponent:.4g}"


def size_optimum(params: float, runs: Sequence[TriedRun], *, seed: int = 0) -> SizeOptimum:
    """The best learning rate, and batch, among runs of one size and token count.

    Args:
        params: N, matmul parameters.
        runs: every run tried; at least one has a loss.
        seed: of the draws behind the interval.

    Raises:
        ValueError: when no run has a loss.
    """
    finished = [run for run in runs if run.loss is not None]
    if not finished:
        raise ValueError(f"no run of N = {params:g} has a loss")
    best = min(finished, key=lambda run: run.loss or math.inf)
    rates = sorted({run.learning_rate for run in runs})
    at_edge = best.learning_rate in (rates[0], rates[-1])
    batches = {run.batch_tokens for run in runs}
    parabola = None if at_edge else _parabola(best, finished, seed)
    if parabola is not None:
        middle, (low, high), sd, curvature, batch = parabola
        rate, standing = middle, "fitted"
    else:
        rate, curvature, batch = best.learning_rate, 0.0, best.batch_tokens
        low, high = (rates[0], rates[-1]) if at_edge else _worse_ones(best, runs)
        standing = "edge" if at_edge else "bracketed"
        sd = max(math.log(high / low), math.log(2)) / 4
    batch_standing: Standing | Literal["fixed"] = "fixed"
    if len(batches) > 1:
        inside = min(batches) < batch < max(batches)
        batch_standing = ("fitted" if parabola else "bracketed") if inside else "edge"
    return SizeOptimum(
        params=params,
        standing=standing,  # type: ignore[arg-type]  # one of the three words above
        learning_rate=rate,
        interval=(low, high),
        sd_ln=sd,
        batch_tokens=batch,
        batch_standing=batch_standing,
        loss=best.loss or math.nan,
        curvature=curvature,
        n_finished=len(finished),
        n_tried=len(runs),
    )


def _worse_ones(best: TriedRun, runs: Sequence[TriedRun]) -> tuple[float, float]:
    """The nearest rates on both sides whose runs were ended early or are worse beyond noise."""
    clear = math.log(best.loss or math.nan) + 2 * math.sqrt(2) * NOISE_LN_LOSS
    worse = [run for run in runs if run.loss is None or math.log(run.loss) > clear]
    rates = [run.learning_rate for run in runs]
    below = [run.learning_rate for run in worse if run.learning_rate < best.learning_rate]
    above = [run.learning_rate for run in worse if run.learning_rate > best.learning_rate]
    return max(below, default=min(rates)), min(above, default=max(rates))


def rate_rule(optima: Sequence[SizeOptimum], *, seed: int = 0) -> RateRule:
    """The power law through the best rates of several sizes, weighted by their certainty.

    Args:
        optima: one per size.
        seed: of the draws behind the intervals.
    """
    n = np.log([item.params for item in optima])
    x = np.log([item.learning_rate for item in optima])
    sd = np.array([item.sd_ln for item in optima])
    middle = float(n.mean())
    prior = (-PRIOR_EXPONENT, PRIOR_EXPONENT_SD)
    constant, slope, (low, high) = _line(n - middle, x, sd, seed, prior=prior)
    tuned = [item for item in optima if item.batch_standing != "fixed"]
    batch, batch_exponent = None, 0.0
    if tuned:
        b = np.log([item.batch_tokens for item in tuned])
        batch = math.exp(float(b.mean()))
        if len(tuned) > 1 and all(item.batch_standing == "fitted" for item in tuned):
            at = np.log([item.params for item in tuned]) - middle
            sd_batch = np.full(len(b), math.log(2) / 2)
            level, rise, (least, most) = _line(at, b, sd_batch, seed, prior=None)
            if least > 0 or most < 0:
                batch, batch_exponent = math.exp(level), rise
    return RateRule(
        constant=math.exp(constant),
        at_params=math.exp(middle),
        exponent=-slope,
        exponent_interval=(-high, -low),
        batch_tokens=batch,
        batch_exponent=batch_exponent,
    )


def _line(
    n: NDArray[np.float64],
    x: NDArray[np.float64],
    sd: NDArray[np.float64],
    seed: int,
    *,
    prior: tuple[float, float] | None,
) -> tuple[float, float, tuple[float, float]]:
    """Weighted line x = level + slope n, and the 95 % interval of its slope.

    Args:
        n: abscissae.
        x: ordinates.
        sd: their standard deviations.
        seed: of the draws.
        prior: mean and sd of the slope before any data, taken as one more observation.
    """
    design = np.stack([np.ones_like(n), n], axis=1)
    if prior is not None:
        design = np.vstack([design, [0.0, 1.0]])
        x, sd = np.append(x, prior[0]), np.append(sd, prior[1])
    solve = np.linalg.pinv(design / sd[:, None])
    level, slope = solve @ (x / sd)
    draws = x + sd * np.random.default_rng(seed).standard_normal((_DRAWS, len(x)))
    low, high = np.percentile((draws / sd) @ solve[1], [2.5, 97.5])
    return float(level), float(slope), (float(low), float(high))


def _parabola(
    best: TriedRun, finished: Sequence[TriedRun], seed: int
) -> tuple[float, tuple[float, float], float, float, float] | None:
    """Minimum, 95 % interval, sd of its logarithm, curvature and batch; None when there is none."""
    near = [
        run
        for run in finished
        if max(run.learning_rate, best.learning_rate)
        <= _WINDOW * min(run.learning_rate, best.learning_rate)
    ]
    batches = len({run.batch_tokens for run in near})
    two = batches >= 3 and len(near) >= 7
    if not two:
        near = [run for run in near if run.batch_tokens == best.batch_tokens]
    if len({run.learning_rate for run in near}) < 3:
        return None
    x = np.log([run.learning_rate / best.learning_rate for run in near])
    z = np.log([run.batch_tokens / best.batch_tokens for run in near])
    y = np.log([run.loss or math.nan for run in near])
    columns = [np.ones_like(x), x, x**2]
    if two:
        columns += [z, z**2, x * z]
    design = np.stack(columns, axis=1)
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    theta, *_ = np.linalg.lstsq(design, y, rcond=None)
    spare = len(y) - len(theta)
    squares = float(((y - design @ theta) ** 2).sum())
    variance = (squares + _PRIOR_DOF * NOISE_LN_LOSS**2) / (spare + _PRIOR_DOF)
    covariance = variance * np.linalg.inv(design.T @ design)
    rng = np.random.default_rng(seed)
    draws = rng.multivariate_normal(theta, covariance, size=_DRAWS, method="cholesky")
    limits = (float(x.min()), float(x.max())), (float(z.min()), float(z.max()))
    middle = _minimum(theta[None, :], limits[1])
    found = _minimum(draws, limits[1])
    valid = np.isfinite(found[:, 0])
    if not np.isfinite(middle[0, 0]) or valid.mean() < _LEAST_VALID:
        return None
    if not limits[0][0] <= middle[0, 0] <= limits[0][1]:
        return None
    low, high = np.percentile(found[valid, 0], [2.5, 97.5])
    centre = float(middle[0, 0])
    low = centre - math.hypot(centre - low, 1.96 * _MODEL_SD)
    high = centre + math.hypot(high - centre, 1.96 * _MODEL_SD)
    scale = best.learning_rate
    return (
        scale * math.exp(float(middle[0, 0])),
        (scale * math.exp(float(low)), scale * math.exp(float(high))),
        float(high - low) / 3.92,
        2 * float(theta[2]),
        best.batch_tokens * math.exp(float(middle[0, 1])),
    )


def _minimum(theta: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.float64]:
    """Minima (ln rate, ln batch) of parabolas, the batch held within limits; NaN without one.

    Args:
        theta: coefficients (draws, 3) of 1, x, x^2, or (draws, 6) with z, z^2 and x z too.
        limits: least and greatest z.
    """
    b, c = theta[:, 1], theta[:, 2]
    if theta.shape[1] == 3:
        x = np.where(c > 0, -b / (2 * np.where(c > 0, c, 1.0)), np.nan)
        return np.stack([x, np.zeros_like(x)], axis=1)
    d, e, f = theta[:, 3], theta[:, 4], theta[:, 5]
    determinant = 4 * c * e - f**2
    inside = (c > 0) & (determinant > 0)
    z = np.where(inside, (f * b - 2 * c * d) / np.where(inside, determinant, 1.0), 0.0)
    # Without a minimum in the batch the better end of what was tried stands in for it.
    ends = np.array(limits)
    at_ends = d[:, None] * ends + e[:, None] * ends**2
    z = np.where(inside, np.clip(z, *limits), ends[np.argmin(at_ends, axis=1)])
    x = np.where(c > 0, -(b + f * z) / (2 * np.where(c > 0, c, 1.0)), np.nan)
    return np.stack([x, z], axis=1)
