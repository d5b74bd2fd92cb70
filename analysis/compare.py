"""Two sweeps side by side: whose losses are lower at equal compute, and what that is worth.

Per compute level that both tables reach, the least loss of each (on its parabola where accepted,
else on its fitted frontier) gives a difference, and the effective compute multiplier: how much more
compute the first would need to reach the second's loss. Intervals rest on both noise estimates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.fit_report import FitReport
from analysis.predict import predict_optimum
from analysis.record import finite
from analysis.table import LossTable
from analysis.uncertainty import log_params_at

_Z90 = 1.645


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelDifference:
    """Two sweeps at one compute."""

    flops: float
    """Compute, FLOPs."""
    loss_a: float
    """Least loss of the first at that compute."""
    loss_b: float
    """Least loss of the second."""
    difference: float
    """loss_b - loss_a; negative = the second is better."""
    interval: tuple[float, float]
    """90 % interval of the difference."""
    compute_multiplier: float
    """Compute the first needs for the second's loss, over this compute; above 1 = second better."""
    multiplier_interval: tuple[float, float]
    """90 % interval of the multiplier."""
    extrapolated: bool
    """Whether the compute lies outside the runs of either table."""


def compare_reports(
    a: FitReport, b: FitReport, table_a: LossTable, table_b: LossTable
) -> tuple[LevelDifference, ...]:
    """Differences at every level of either sweep.

    Args:
        a: fit of the first table.
        b: fit of the second.
        table_a: the first table.
        table_b: the second.

    Raises:
        ValueError: when either table has no fitted surface.
    """
    computes = sorted({*a.isoflop_flops(), *b.isoflop_flops()}) or [
        float(math.sqrt(table_a.flops.max() * table_b.flops.max()))
    ]
    merged = [computes[0]]
    for flops in computes[1:]:
        # Levels within 10 % are the same level of two plans with other shapes.
        if flops > 1.1 * merged[-1]:
            merged.append(flops)
    return tuple(_difference(a, b, table_a, table_b, flops) for flops in merged)


def _frontier(report: FitReport, flops: float) -> tuple[float, float, float]:
    """Ln of the least loss, its sd, and -d ln L/d ln C on the fitted frontier."""
    name = report.headline_law if report.headline_law in report.fits else "chinchilla"
    fit = report.fits.get(name or "chinchilla")
    cost = report.cost
    if fit is None or cost is None:
        raise ValueError("a comparison needs a fitted surface in both tables (R1: too few runs)")

    def log_loss(compute: float) -> float:
        found = predict_optimum(fit, compute, cost=cost, max_flops=compute)
        return math.log(found.optimum.loss)

    log_n = log_params_at(fit.theta[None], fit.data.centre, flops, cost)
    log_d = np.log(flops) - cost.log_cost(log_n)
    j = fit.form.jacobian(fit.theta, log_n - fit.data.centre[0], log_d - fit.data.centre[1])[0]
    variance = float(j @ np.nan_to_num(fit.covariance) @ j)
    step = 0.02
    slope = (log_loss(flops * math.exp(-step)) - log_loss(flops * math.exp(step))) / (2 * step)
    return log_loss(flops), math.sqrt(max(variance, 0.0)), slope


def _difference(
    a: FitReport, b: FitReport, table_a: LossTable, table_b: LossTable, flops: float
) -> LevelDifference:
    log_a, sd_a, slope_a = _frontier(a, flops)
    log_b, sd_b, _ = _frontier(b, flops)
    gap, sd = log_b - log_a, math.hypot(sd_a, sd_b)
    loss_a, loss_b = math.exp(log_a), math.exp(log_b)
    low, high = (loss_a * math.expm1(gap + z * sd) for z in (-_Z90, _Z90))

    def multiplier(value: float) -> float:
        power = -value / slope_a if slope_a > 0 else math.nan
        return math.exp(min(max(power, -300.0), 300.0)) if math.isfinite(power) else math.nan

    return LevelDifference(
        flops=flops,
        loss_a=loss_a,
        loss_b=loss_b,
        difference=loss_b - loss_a,
        interval=(low, high),
        compute_multiplier=multiplier(gap),
        multiplier_interval=(multiplier(gap + _Z90 * sd), multiplier(gap - _Z90 * sd)),
        extrapolated=any(
            not t.flops.min() / 1.1 <= flops <= t.flops.max() * 1.1 for t in (table_a, table_b)
        ),
    )


def comparison_dict(levels: tuple[LevelDifference, ...]) -> dict[str, Any]:
    """The comparison as `sweep compare --json` prints it."""
    return finite(
        {
            "schema": "sweep.compare/1",
            "levels": [
                {
                    "flops": v.flops,
                    "loss_a": v.loss_a,
                    "loss_b": v.loss_b,
                    "difference": v.difference,
                    "interval": list(v.interval),
                    "compute_multiplier": v.compute_multiplier,
                    "multiplier_interval": list(v.multiplier_interval),
                    "confidence": 0.9,
                    "extrapolated": v.extrapolated,
                }
                for v in levels
            ],
        }
    )
