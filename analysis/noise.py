"""How much the loss of one run varies for no reason of the law's: from replicates or residuals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.fit import SurfaceFit
from analysis.table import LossTable

ASSUMED_NOISE_SD = 0.005
"""sd of ln L of one run where the data cannot say: half a per cent."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How much the loss of one run varies for no reason of the law's."""

    sd: float
    """sd of ln L."""
    source: str
    """`residuals`, `replicates` or `assumed`."""
    freedom: int
    """Degrees of freedom behind `sd`."""
    replicate_sd: float
    """sd of ln L among replicates; NaN without any."""
    replicate_freedom: int
    """Degrees of freedom of the replicates; 0 without any."""


def replicate_groups(table: LossTable) -> np.ndarray:
    """Group number of each run: runs that differ in nothing but the seed are together.

    Equal N and D, and equal learning rate and batch where the table has them, shape (n_points,).
    """
    columns = [np.log(table.params), np.log(table.tokens)]
    for name in ("learning_rate", "batch_tokens"):
        if table.has(name):
            columns.append(np.log(np.maximum(table.column(name), 1e-300)))
    keys = np.round(np.stack(columns, axis=1), 6)
    return np.unique(keys, axis=0, return_inverse=True)[1].ravel()


def replicate_noise(table: LossTable) -> tuple[float, int]:
    """Seed noise from runs that differ in nothing but the seed.

    Returns:
        sd of ln L pooled over `replicate_groups`, and its degrees of freedom; (NaN, 0) without
        groups of two.
    """
    group = replicate_groups(table)
    y = np.log(table.loss)
    counts = np.bincount(group)
    means = np.bincount(group, weights=y) / counts
    freedom = int((counts - 1).sum())
    if freedom == 0:
        return float("nan"), 0
    return float(np.sqrt(((y - means[group]) ** 2).sum() / freedom)), freedom


def estimate_noise(table: LossTable, fit: SurfaceFit | None) -> Noise:
    """Noise of ln L: the residuals' sd or the replicates', whichever is larger.

    Lack of fit is noise too as far as an interval is concerned.
    """
    sd, freedom = replicate_noise(table)
    residual = fit.noise_sd if fit is not None else float("nan")
    if fit is not None and math.isfinite(residual) and not (freedom >= 2 and sd >= residual):
        chosen, source, behind = residual, "residuals", fit.degrees_of_freedom
    elif freedom > 0 and sd > 0:
        chosen, source, behind = sd, "replicates", freedom
    else:
        chosen, source, behind = ASSUMED_NOISE_SD, "assumed", 1_000_000
    return Noise(
        sd=chosen,
        source=source,
        freedom=behind,
        replicate_sd=sd,
        replicate_freedom=freedom,
    )
