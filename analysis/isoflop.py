"""IsoFLOP parabolas (Approach 2): runs of equal compute in, the best size of each level out.

    per level   ln L = p x^2 + q x + c,  x = ln N - mean,   vertex  ln N_opt = -q/(2p)
    over levels ln N_opt = intercept + a ln C               (weights 1/sd^2)

A level's vertex is accepted only where the data bracket it: see `LevelFit.reason`. The parabola
is a cross-check and a picture: its vertex is biased by a few per cent when the law is asymmetric
and the grid wide (Czech et al. 2026, arXiv 2603.22339), so the surface fit is the headline.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analysis.cost import SIX_N, CostCurve, log_optimum
from analysis.laws import FloatArray, Surface
from analysis.quantiles import fisher_quantile, student_quantile

_MIN_POINTS = 4
_FLANK_SIGMAS = 2.0
REASONS = {
    "accepted": "",
    "few": f"fewer than {_MIN_POINTS} distinct sizes",
    "concave": "the losses do not curve upwards: no minimum",
    "edge": "the minimum lies at or beyond the grid's edge (outside its second and last but one"
    " sizes)",
    "flat": "one flank rises by less than two standard deviations of the noise",
}
"""Words for each verdict on a level."""


@dataclass(frozen=True, kw_only=True)
class LevelFit:
    """The parabola of one compute level."""

    level: str
    """The level's label in the table."""
    flops: float
    """Its compute, FLOPs: the geometric mean of its runs."""
    n_points: int
    """Number of runs."""
    params_opt: float
    """N at the vertex; NaN when there is none."""
    tokens_opt: float
    """D at the vertex on the cost curve; NaN when there is none."""
    loss_opt: float
    """Loss at the vertex; NaN when there is none."""
    sd_ln_params: float
    """Standard deviation of ln params_opt; NaN when unknown."""
    verdict: str
    """`accepted`, `edge`, `concave`, `flat` or `few`."""
    reason: str
    """Why the vertex does not count, in words; '' when it does."""
    curve: tuple[float, float, float, float]
    """(p, q, c, x0): ln L = p (ln N - x0)^2 + q (ln N - x0) + c; NaN when not fitted."""
    cubic_t: float
    """t statistic of an added cubic term; NaN with fewer than 5 points."""
    range_params: tuple[float, float]
    """Smallest and largest N of the level."""

    @property
    def accepted(self) -> bool:
        """Whether the vertex counts."""
        return self.verdict == "accepted"

    @property
    def tokens_per_parameter(self) -> float:
        """D/N at the vertex."""
        return self.tokens_opt / self.params_opt


@dataclass(frozen=True, kw_only=True)
class FrontierLine:
    """ln N_opt = ln N0 + a (ln C - ln C0), through accepted vertices."""

    exponent: float
    """a."""
    log_params: float
    """ln N_opt at `log_flops`."""
    log_flops: float
    """Weighted mean ln C of the vertices."""
    variance: tuple[float, float]
    """Variances of `log_params` and of `exponent` (uncorrelated at the mean)."""
    n_levels: int
    """Number of vertices."""
    freedom: float
    """Degrees of freedom behind the variances."""

    def log_params_at(self, flops: float) -> float:
        """Ln N_opt at a compute."""
        return self.log_params + self.exponent * (float(np.log(flops)) - self.log_flops)

    def sd_at(self, flops: float) -> float:
        """Standard deviation of ln N_opt at a compute."""
        lever = float(np.log(flops)) - self.log_flops
        return float(np.sqrt(self.variance[0] + lever**2 * self.variance[1]))

    def quantile(self, confidence: float) -> float:
        """Two-sided Student quantile at the line's degrees of freedom."""
        return student_quantile(0.5 + confidence / 2, self.freedom)


def fit_levels(
    levels: np.ndarray,
    N: FloatArray,
    C: FloatArray,
    L: FloatArray,
    *,
    noise_sd: float,
    cost: CostCurve = SIX_N,
    logarithmic: bool = True,
) -> tuple[LevelFit, ...]:
    """One parabola per level, cheapest first.

    Args:
        levels: level label of each run ('' = none), shape (m,).
        N: parameters, shape (m,).
        C: FLOPs, shape (m,).
        L: losses, shape (m,).
        noise_sd: standard deviation of ln L of one run, for flank tests and vertex errors.
        cost: FLOPs per token as a function of N, to turn a vertex into tokens.
        logarithmic: fit ln L (the noise is then the same everywhere); False fits L itself, as
            Hoffmann et al. 2022 do, with the noise scaled to the level's mean loss.
    """
    fits = []
    for label in sorted({str(v) for v in levels if str(v)}):
        member = levels == label
        unit = float(L[member].mean())
        y = np.log(L[member]) if logarithmic else L[member] / unit
        fit = _fit_level(label, N[member], C[member], y, noise_sd, cost)
        if not logarithmic:
            fit = replace(fit, loss_opt=unit * float(np.log(fit.loss_opt)))
        fits.append(fit)
    return tuple(sorted(fits, key=lambda f: f.flops))


def _fit_level(
    label: str, N: FloatArray, C: FloatArray, y: FloatArray, noise_sd: float, cost: CostCurve
) -> LevelFit:
    flops = float(np.exp(np.log(C).mean()))
    x0 = float(np.log(N).mean())
    x = np.log(N) - x0
    sizes = np.unique(np.round(x, 9))
    nan = float("nan")
    params = tokens = loss = sd = cubic_t = nan
    curve = (nan, nan, nan, x0)
    verdict = "few"
    if len(sizes) >= 3:
        p, q, c = (float(v) for v in np.polyfit(x, y, 2))
        curve = (p, q, c, x0)
        vertex = -q / (2 * p) if p > 0 else nan
        verdict = _verdict(x, sizes, vertex, p, noise_sd)
        if p > 0 and abs(vertex) < 50:
            params = float(np.exp(vertex + x0))
            tokens = flops / float(cost(np.asarray(params)))
            loss = float(np.exp(c + q * vertex + p * vertex * vertex))
            sd = _vertex_sd(x, p, vertex, noise_sd)
        cubic_t = _cubic_t(x, y, sizes, noise_sd)
    return LevelFit(
        level=label,
        flops=flops,
        n_points=len(N),
        params_opt=params,
        tokens_opt=tokens,
        loss_opt=loss,
        sd_ln_params=sd,
        verdict=verdict,
        reason=REASONS[verdict],
        curve=curve,
        cubic_t=cubic_t,
        range_params=(float(N.min()), float(N.max())),
    )


def _verdict(x: FloatArray, sizes: FloatArray, vertex: float, p: float, noise_sd: float) -> str:
    """Whether a parabola's vertex counts, and if not why: a key of `REASONS`."""
    if len(sizes) < _MIN_POINTS:
        return "few"
    if not p > 0:
        return "concave"
    if not sizes[1] < vertex < sizes[-2]:
        return "edge"
    rise = min(p * (edge - vertex) ** 2 for edge in (float(x.min()), float(x.max())))
    return "flat" if rise < _FLANK_SIGMAS * noise_sd else "accepted"


def _vertex_sd(x: FloatArray, p: float, vertex: float, noise_sd: float) -> float:
    """Delta-method sd of -q/(2p) for independent noise on ln L."""
    design = np.stack([x * x, x, np.ones_like(x)], axis=1)
    covariance = noise_sd**2 * np.linalg.inv(design.T @ design)
    slope = np.array([-vertex / p, -1.0 / (2 * p), 0.0])
    return float(np.sqrt(slope @ covariance @ slope))


def _cubic_t(x: FloatArray, y: FloatArray, sizes: FloatArray, noise_sd: float) -> float:
    """T of the cubic coefficient: |t| > 2 asks for a narrower grid or a wider model."""
    if len(sizes) < 5 or not noise_sd > 0:
        return float("nan")
    design = np.stack([x**3, x * x, x, np.ones_like(x)], axis=1)
    coefficient = np.linalg.lstsq(design, y, rcond=None)[0][0]
    variance = noise_sd**2 * np.linalg.inv(design.T @ design)[0, 0]
    return float(coefficient / np.sqrt(variance))


def fit_line(levels: tuple[LevelFit, ...], *, noise_freedom: float = np.inf) -> FrontierLine | None:
    """The line through the accepted vertices; None with fewer than two.

    Weights are 1/sd^2. Where the vertices scatter about the line more than their sds allow (F
    test at 5 %), the variances come from the scatter and have levels - 2 degrees of freedom;
    otherwise from the sds, with the degrees of freedom of the noise estimate.

    Args:
        levels: the parabolas.
        noise_freedom: degrees of freedom of the noise sd that the vertex sds rest on.
    """
    good = [f for f in levels if f.accepted and np.isfinite(f.sd_ln_params)]
    if len(good) < 2:
        return None
    x = np.log([f.flops for f in good])
    y = np.log([f.params_opt for f in good])
    sd = np.maximum([f.sd_ln_params for f in good], 1e-9)
    w = 1.0 / sd**2
    centre = float((w * x).sum() / w.sum())
    spread = float((w * (x - centre) ** 2).sum())
    if spread <= 0:
        return None
    level = float((w * y).sum() / w.sum())
    exponent = float((w * (x - centre) * y).sum() / spread)
    inflation, freedom = 1.0, max(1.0, noise_freedom)
    if len(good) > 2:
        misfit = y - level - exponent * (x - centre)
        chi2 = float((w * misfit**2).sum() / (len(good) - 2))
        if chi2 > fisher_quantile(0.95, len(good) - 2, min(freedom, 1e6)):
            inflation, freedom = chi2, float(len(good) - 2)
    return FrontierLine(
        exponent=exponent,
        log_params=level,
        log_flops=centre,
        variance=(inflation / float(w.sum()), inflation / spread),
        n_levels=len(good),
        freedom=freedom,
    )


def vertex_bias(N: FloatArray, C: FloatArray, surface: Surface, *, cost: CostCurve) -> float:
    """Structural bias of a level's vertex in ln N, were the surface the truth.

    The parabola through noise-free losses of the surface at the level's own sizes has its vertex
    off the surface's optimum when alpha differs from beta or the sizes are off centre (Czech et al.
    2026, arXiv 2603.22339). Subtracting the bias corrects the vertex.

    Args:
        N: sizes of the level's runs, shape (m,).
        C: their FLOPs, shape (m,).
        surface: the law.
        cost: FLOPs per token as a function of N.

    Returns:
        ln of the parabola's vertex over the optimum; NaN when the parabola has none.
    """
    flops = float(np.exp(np.log(C).mean()))
    if len(np.unique(N)) < 3:
        return float("nan")
    x0 = float(np.log(N).mean())
    y = np.log(surface.loss(N, flops / cost(N)))
    p, q, _ = np.polyfit(np.log(N) - x0, y, 2)
    if not p > 0:
        return float("nan")
    optimum = log_optimum(
        np.array([np.log(surface.A)]),
        np.array([np.log(surface.B)]),
        np.array([surface.alpha]),
        np.array([surface.beta]),
        float(np.log(flops)),
        cost,
    )
    return float(-q / (2 * p) + x0 - optimum[0])
