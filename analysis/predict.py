"""What a fitted law says at a compute: the optimal N, D and loss, each with an interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from analysis.cost import CostCurve, log_ratio
from analysis.fit import SurfaceFit
from analysis.laws import FloatArray, Optimum
from analysis.numerals import spell
from analysis.quantiles import student_quantile
from analysis.uncertainty import (
    CONFIDENCE,
    Draws,
    Interval,
    log_params_at,
    near_optimal,
    ratio_interval,
)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The optimum at one compute, and how sure it is."""

    optimum: Optimum
    """N, D and loss."""
    interval: Interval
    """Of D/N."""
    near_optimal: dict[str, tuple[float, float]]
    """`waste_1pct`, `waste_5pct`: ranges of D/N that waste at most that share of compute."""
    extrapolation: float
    """C over the largest C of the runs."""

    def __str__(self) -> str:
        at, interval = self.optimum, self.interval
        return (
            f"{at.flops:.3g} FLOPs: N = {at.params:.3g}, D = {at.tokens:.3g}, loss {at.loss:.4f}, "
            f"{spell(at.tokens / at.params)} tokens per parameter [{spell(interval.low)}, "
            f"{spell(interval.high)}] ({interval.confidence:.0%} interval, {interval.method}), "
            f"{spell(self.extrapolation)} times the largest run"
        )


@dataclass(frozen=True, kw_only=True)
class LossPrediction:
    """The loss of a run that was not made."""

    loss: float
    """Predicted loss."""
    confidence_interval: tuple[float, float]
    """Of the law's mean loss there."""
    prediction_interval: tuple[float, float]
    """Of one run's loss there: mean and seed noise."""
    confidence: float
    """Nominal coverage of both."""
    extrapolation: float
    """Largest factor by which N or D leaves the range of the runs (1 = inside)."""

    def __str__(self) -> str:
        low, high = self.prediction_interval
        return (
            f"loss {self.loss:.4f} [{low:.4f}, {high:.4f}] ({self.confidence:.0%} interval of one "
            f"run), {spell(self.extrapolation)} times beyond the runs"
        )


def predict_optimum(
    fit: SurfaceFit,
    flops: float,
    *,
    cost: CostCurve,
    draws: Draws | None = None,
    max_flops: float,
    confidence: float = CONFIDENCE,
) -> Prediction:
    """The compute-optimal point at C with its interval.

    Args:
        fit: the law.
        flops: C, FLOPs.
        cost: FLOPs per token as a function of N.
        draws: bootstrap of the fit.
        max_flops: largest C of the runs.
        confidence: nominal coverage.
    """
    log_n = float(log_params_at(fit.theta[None], fit.data.centre, flops, cost)[0])
    ratio = float(np.exp(log_ratio(np.asarray(log_n), float(np.log(flops)), cost)))
    params = float(np.exp(log_n))
    tokens = ratio * params
    loss = float(fit.surface.loss(np.asarray(params), np.asarray(tokens)))
    bands = {
        f"waste_{percent}pct": near_optimal(fit.surface, params, tokens, cost, waste=percent / 100)
        for percent in (1, 5)
    }
    return Prediction(
        optimum=Optimum(flops=flops, params=params, tokens=tokens, loss=loss),
        interval=ratio_interval(fit, draws, flops, cost, confidence=confidence),
        near_optimal=bands,
        extrapolation=flops / max_flops,
    )


def predict_loss(
    fit: SurfaceFit, N: float, D: float, *, confidence: float = CONFIDENCE
) -> LossPrediction:
    """The loss at (N, D) with confidence and prediction intervals in ln L.

    Args:
        fit: the law.
        N: parameters.
        D: tokens.
        confidence: nominal coverage.
    """
    n = np.array([np.log(N) - fit.data.centre[0]])
    d = np.array([np.log(D) - fit.data.centre[1]])
    mean = float(fit.form.log_loss(fit.theta, n, d)[0])
    gradient = fit.form.jacobian(fit.theta, n, d)[0]
    moving = np.abs(gradient) > 0
    block = fit.covariance[np.ix_(moving, moving)]
    variance = float(gradient[moving] @ block @ gradient[moving])
    quantile = student_quantile(0.5 + confidence / 2, fit.degrees_of_freedom)

    def ends(total: float) -> tuple[float, float]:
        half = quantile * float(np.sqrt(total)) if total >= 0 else float("nan")
        return float(np.exp(mean - half)), float(np.exp(mean + half))

    return LossPrediction(
        loss=float(np.exp(mean)),
        confidence_interval=ends(variance),
        prediction_interval=ends(variance + fit.noise_sd**2),
        confidence=confidence,
        extrapolation=max(_outside(n[0], fit.data.n), _outside(d[0], fit.data.d)),
    )


def compute_for(
    fit: SurfaceFit,
    *,
    cost: CostCurve,
    params: float | None = None,
    tokens: float | None = None,
    loss: float | None = None,
) -> float:
    """The compute whose optimum has a given N, D or loss (give exactly one).

    Args:
        fit: the law.
        cost: FLOPs per token as a function of N.
        params: N at the optimum.
        tokens: D at the optimum.
        loss: L at the optimum; must exceed E.

    Returns:
        C, FLOPs, between 1e6 and 1e32.

    Raises:
        ValueError: unless exactly one is given, or when no compute in range reaches it.
    """
    given = {"params": params, "tokens": tokens, "loss": loss}
    wanted = {k: v for k, v in given.items() if v is not None}
    if len(wanted) != 1:
        raise ValueError(f"give exactly one of params, tokens, loss; got {sorted(wanted)}")
    name, value = next(iter(wanted.items()))

    def excess(log_c: float) -> float:
        log_n = log_params_at(fit.theta[None], fit.data.centre, float(np.exp(log_c)), cost)
        log_d = log_c - cost.log_cost(log_n)
        if name == "params":
            return float(log_n[0] - np.log(value))
        if name == "tokens":
            return float(log_d[0] - np.log(value))
        n, d = log_n - fit.data.centre[0], log_d - fit.data.centre[1]
        return float(np.log(value) - fit.form.log_loss(fit.theta, n, d)[0])

    low, high = float(np.log(1e6)), float(np.log(1e32))
    if not value > 0 or excess(low) > 0 or excess(high) < 0:
        raise ValueError(
            f"no compute between 1e6 and 1e32 FLOPs has an optimum with {name} {value}"
        )
    return float(np.exp(brentq(excess, low, high, xtol=1e-10)))


def _outside(value: float, sampled: FloatArray) -> float:
    return float(np.exp(max(0.0, value - sampled.max(), sampled.min() - value)))
