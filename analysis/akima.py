"""IsoFLOP minima without a parabola: Akima interpolation and resampled seed noise.

The non-parametric Approach 2 of Porian et al. 2024 (arXiv 2406.19146): per level ln L over ln N is
interpolated, its minimum is taken on a fine grid for many draws of seed noise, draws with the
minimum at an edge are dropped, and the median and sd of ln N_opt go into the line of
`analysis.isoflop.fit_line`. A level with fewer than half of its draws interior is refused.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from analysis.cost import SIX_N, CostCurve
from analysis.isoflop import REASONS, LevelFit
from analysis.laws import FloatArray

_GRID_PER_GAP = 25


def fit_levels_akima(
    levels: np.ndarray,
    N: FloatArray,
    C: FloatArray,
    L: FloatArray,
    *,
    noise_sd: float,
    cost: CostCurve = SIX_N,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[LevelFit, ...]:
    """The interpolated minimum of each level, cheapest first.

    Args:
        levels: level label of each run ('' = none), shape (m,).
        N: parameters, shape (m,).
        C: FLOPs, shape (m,).
        L: losses, shape (m,).
        noise_sd: sd of ln L of one run.
        cost: FLOPs per token as a function of N.
        draws: noise draws per level.
        seed: of the draws.
    """
    fits: list[LevelFit] = []
    for label in sorted({str(v) for v in levels if str(v)}):
        member = levels == label
        rng = np.random.default_rng([seed, len(fits)])
        fits.append(_fit_level(label, N[member], C[member], L[member], noise_sd, cost, draws, rng))
    return tuple(sorted(fits, key=lambda f: f.flops))


def _fit_level(
    label: str,
    N: FloatArray,
    C: FloatArray,
    L: FloatArray,
    noise_sd: float,
    cost: CostCurve,
    draws: int,
    rng: np.random.Generator,
) -> LevelFit:
    flops = float(np.exp(np.log(C).mean()))
    sizes, group = np.unique(np.log(N), return_inverse=True)
    counts = np.bincount(group)
    y = np.bincount(group, weights=np.log(L)) / counts
    nan = float("nan")
    params = sd = loss = nan
    verdict = "few"
    if len(sizes) >= 4:
        noisy = y[:, None] + noise_sd / np.sqrt(counts)[:, None] * rng.standard_normal(
            (len(sizes), max(draws, 1))
        )
        grid = np.linspace(sizes[0], sizes[-1], _GRID_PER_GAP * (len(sizes) - 1) + 1)
        curves = Akima1DInterpolator(sizes, noisy, axis=0)(grid)
        at = curves.argmin(axis=0)
        interior = (at > 0) & (at < len(grid) - 1)
        # The point estimate itself must be interior too: half of the draws is not a minimum.
        centre = int(Akima1DInterpolator(sizes, y)(grid).argmin())
        verdict = "edge"
        if interior.mean() >= 0.5 and 0 < centre < len(grid) - 1:
            found = grid[at[interior]]
            step = float(grid[1] - grid[0])
            params = float(np.exp(np.median(found)))
            sd = max(float(found.std()), step / 3) / float(interior.mean())
            loss = float(np.exp(np.median(curves.min(axis=0)[interior])))
            verdict = "accepted"
    return LevelFit(
        level=label,
        flops=flops,
        n_points=len(N),
        params_opt=params,
        tokens_opt=flops / float(cost(np.asarray(params))) if np.isfinite(params) else nan,
        loss_opt=loss,
        sd_ln_params=sd,
        verdict=verdict,
        reason=REASONS[verdict],
        curve=(nan, nan, nan, nan),
        cubic_t=nan,
        range_params=(float(N.min()), float(N.max())),
    )
