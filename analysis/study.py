"""Everything that is computed about one loss table, before anything is concluded.

`make_study` runs the fits, bootstraps, parabolas, hold-outs and the profile of a table once; the
verdict is `analysis.answer`'s, its words `analysis.verdict`'s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.cost import CostCurve, read_cost
from analysis.fit import SurfaceFit, fit_surface
from analysis.isoflop import FrontierLine, LevelFit, fit_levels, fit_line
from analysis.laws import CHINCHILLA, SKALING, LawForm
from analysis.noise import Noise, estimate_noise
from analysis.priors import Prior
from analysis.profile import Profile, profile_ratio
from analysis.quantiles import fisher_tail
from analysis.selection import Selection, compare_laws, fit_candidates
from analysis.table import LossTable
from analysis.uncertainty import Draws, bootstrap, clusters, delta_sd, ratio_interval

MAX_FOLD = 16.0
"""Widest usable 95 % interval of D/N, high over low: beyond it the waste exceeds 16 %."""
WEAK_FOLD = 4.0
"""A surface fit with a wider 95 % interval than this yields to a much sharper isoFLOP line."""
LINE_SHARE = 0.75
"""Much sharper: ln of the line's fold is below this share of the surface fit's."""
TELL_APART = 0.1
"""Probability below which the runs are said to reject equal exponents."""
HEADLINES = ("chinchilla", "skaling", "tied", "pinned", "isoflop")
"""What may answer: the laws of `analysis.selection`, and the line through the isoFLOP minima."""
_MANY_POINTS = 20_000
"""Above this many runs laws are not compared by hold-out."""
_RESAMPLED_CELLS = 2_000_000
_FEWEST_RESAMPLES = 50


@dataclass(frozen=True, kw_only=True)
class Study:
    """Intermediate results of one table."""

    table: LossTable
    """The runs."""
    target: float
    """Compute at which the ratio is wanted, FLOPs."""
    cost: CostCurve
    """FLOPs per token as a function of N."""
    fits: dict[str, SurfaceFit]
    """Fitted surface laws by name."""
    draws: dict[str, Draws]
    """Bootstraps by law."""
    levels: tuple[LevelFit, ...]
    """Parabola of each level."""
    line: FrontierLine | None
    """Line through the accepted vertices."""
    noise: Noise
    """Seed noise."""
    selection: Selection | None
    """Laws compared by hold-out; None when there is nothing to compare."""
    profile: Profile | None
    """Profile likelihood of the headline law's ratio."""
    headline: str | None
    """Which estimator answers: a law's name, `isoflop`, or None."""
    law: str | None
    """Headline that the caller asked for; None = chosen by the data."""
    huber_delta: float | None
    """Requested Huber width."""
    groups: np.ndarray
    """Cluster number of each run, shape (n_points,)."""
    resamples: int
    """Refits of each bootstrap."""
    seed: int
    """Of the resampling."""
    priors: tuple[Prior, ...] = ()
    """Priors that the caller gave."""

    @property
    def surface_name(self) -> str:
        """The headline law, or Chinchilla's where the headline is the isoFLOP line or nothing."""
        return self.headline if self.headline in self.fits else "chinchilla"

    @property
    def surface_fit(self) -> SurfaceFit | None:
        """The fit of `surface_name`; None when there is none."""
        return self.fits.get(self.surface_name)


def make_study(
    table: LossTable,
    *,
    target_flops: float | None,
    seed: int,
    resamples: int,
    huber_delta: float | None,
    law: str | None = None,
    priors: Sequence[Prior] = (),
) -> Study:
    """Compute everything about a table with at least one run.

    Args:
        table: the runs.
        target_flops: compute at which the ratio is wanted; None = the largest run's.
        seed: of the resampling.
        resamples: bootstrap refits of the headline law, fewer above `most_resamples` of its runs.
        huber_delta: width of the objective; None chooses it per law.
        law: one of `HEADLINES` that must answer, where it could be fitted; None = the data choose.
        priors: as for `fit_surface`.
    """
    N, D, C, L = table.params, table.tokens, table.flops, table.loss
    target = float(C.max()) if target_flops is None else float(target_flops)
    cost = read_cost(N, D, C)
    fits = {
        form.name: fit
        for form in (CHINCHILLA, SKALING)
        if (fit := fit_law(form, table, huber_delta, priors)) is not None
    }
    noise = estimate_noise(table, fits.get("chinchilla"))
    levels = fit_levels(table.levels, N, C, L, noise_sd=noise.sd, cost=cost)
    line = fit_line(levels, noise_freedom=noise.freedom)
    selection = None
    few = len(N) <= _MANY_POINTS
    if fits and (few or law in ("pinned", "tied")):
        fits = fit_candidates(N, D, L, given=fits, huber_delta=huber_delta, priors=priors)
    if fits and few:
        selection = compare_laws(fits, C, L, target_flops=target, cost=cost)
    groups = clusters(N, _trajectories(table))
    count = min(resamples, most_resamples(len(N)))
    draws: dict[str, Draws] = {}

    def resample(name: str) -> Draws | None:
        if resamples <= 0:
            return None
        if name not in draws:
            draws[name] = bootstrap(fits[name], groups, resamples=count, seed=seed)
        return draws[name]

    profile: Profile | None = None
    headline: str | None = None
    for name in _preference(fits, selection) if law is None else ():
        fit = fits[name]
        profile = profile_ratio(fit, target, cost)
        if _usable(fit, resample(name), profile, target, cost):
            fold = ratio_interval(fit, draws.get(name), target, cost, confidence=0.95).fold
            headline = "isoflop" if _line_much_surer(fold, line, target, cost) else name
            break
    if law in fits:
        headline = law
        resample(law)
        profile = profile_ratio(fits[law], target, cost)
    elif law is not None:
        headline = law if law == "isoflop" and line is not None else None
    elif headline is None:
        profile = profile if "chinchilla" in fits else None
        headline = _fallback(fits, levels, line, target, cost)
    return Study(
        table=table,
        target=target,
        cost=cost,
        fits=fits,
        draws=draws,
        levels=levels,
        line=line,
        noise=noise,
        selection=selection,
        profile=profile,
        headline=headline,
        law=law,
        huber_delta=huber_delta,
        groups=groups,
        resamples=max(0, count),
        seed=seed,
        priors=tuple(priors),
    )


def most_resamples(runs: int) -> int:
    """Bootstrap refits that a table of so many runs is given at most: 2,000 up to 1,000 runs.

    Refits cost in proportion to their number times the runs, and of an interval as narrow as that
    of thousands of runs the one digit that 50 refits give of its width is plenty.
    """
    return max(_FEWEST_RESAMPLES, _RESAMPLED_CELLS // runs)


def _preference(fits: dict[str, SurfaceFit], selection: Selection | None) -> list[str]:
    """Laws to try as headline: Chinchilla's, unless the wider law predicts clearly better."""
    if "chinchilla" not in fits:
        return []
    better = selection.clearly_better_than_chinchilla() if selection is not None else None
    return [better, "chinchilla"] if better else ["chinchilla"]


def _line_much_surer(
    fold: float, line: FrontierLine | None, target: float, cost: CostCurve
) -> bool:
    """Whether the isoFLOP line answers where a weak surface fit (95 % beyond 4x) hardly does.

    The parabolas do not care how loss falls with compute, so they stay sharp where few runs of
    very small models leave a global law with large structured residuals.
    """
    if fold <= WEAK_FOLD or line is None or line.n_levels < 3:
        return False
    return _line_log_fold(line, target, cost) < LINE_SHARE * math.log(fold)


def _line_log_fold(line: FrontierLine, target: float, cost: CostCurve) -> float:
    """Logarithm of high over low of the line's 95 % interval of D/N at the target."""
    stretch = 1.0 + float(cost.slope(np.asarray(line.log_params_at(target))))
    return 2 * line.quantile(0.95) * stretch * line.sd_at(target)


def _fallback(
    fits: dict[str, SurfaceFit],
    levels: tuple[LevelFit, ...],
    line: FrontierLine | None,
    target: float,
    cost: CostCurve,
) -> str | None:
    """The headline when no surface with free exponents is usable.

    The line through three or more interior minima; else, where at least two levels have one, the
    law with equal exponents, whose one ratio the few runs can still place; else Chinchilla's fit,
    for the refusal to speak about.
    """
    with_line = line is not None and line.n_levels >= 3
    if line is not None and with_line and _line_log_fold(line, target, cost) <= math.log(MAX_FOLD):
        return "isoflop"
    accepted = sum(level.accepted for level in levels)
    tied = fits.get("tied")
    if (
        accepted >= 2
        and tied is not None
        and _usable(tied, None, None, target, cost)
        and not _told_apart(fits)
    ):
        return "tied"
    if with_line:
        return "isoflop"
    return "chinchilla" if "chinchilla" in fits else None


def _told_apart(fits: dict[str, SurfaceFit]) -> bool:
    """Whether the runs reject equal exponents: an F test at 10 % against Chinchilla's law.

    Equal exponents give a far narrower ratio at a compute that was never sampled. Where the runs
    speak against them, that narrowness is an assumption and no measurement.
    """
    free, tied = fits.get("chinchilla"), fits.get("tied")
    if free is None or tied is None:
        return False
    least = _squares(free)
    statistic = max(0.0, _squares(tied) - least) / (least / free.degrees_of_freedom)
    return fisher_tail(statistic, 1, free.degrees_of_freedom) < TELL_APART


def _squares(fit: SurfaceFit) -> float:
    """Sum of squared residuals of ln L."""
    residuals = fit.form.log_loss(fit.theta, fit.data.n, fit.data.d) - fit.data.y
    return float(residuals @ residuals)


def _usable(
    fit: SurfaceFit, draws: Draws | None, profile: Profile | None, target: float, cost: CostCurve
) -> bool:
    """Whether a fit gives a closed ratio interval: no exponent at a limit, 95 % within 16x."""
    if {"alpha", "beta", "kappa"} & set(fit.at_bound) or (profile is not None and profile.is_open):
        return False
    fold = ratio_interval(fit, draws, target, cost, confidence=0.95).fold
    return math.isfinite(fold) and fold <= MAX_FOLD


def _trajectories(table: LossTable) -> np.ndarray | None:
    if "trajectory_id" not in table.frame:
        return None
    return table.used["trajectory_id"].fillna("").to_numpy(dtype=str)


def fit_law(
    form: LawForm, table: LossTable, huber_delta: float | None, priors: Sequence[Prior] = ()
) -> SurfaceFit | None:
    """A law fitted to the table; None with fewer runs than parameters plus one, or two sizes."""
    N, D = table.params, table.tokens
    sizes, lengths = (len(np.unique(np.round(np.log(v), 6))) for v in (N, D))
    if table.n_points <= form.n_params or sizes < 3 or lengths < 3:
        return None
    return fit_surface(N, D, table.loss, form=form, huber_delta=huber_delta, priors=priors)


def line_sd_ratio(study: Study, flops: float) -> float:
    """Sd of ln(D/N) by the isoFLOP line at a compute; NaN without a line."""
    if study.line is None:
        return float("nan")
    log_n = study.line.log_params_at(flops)
    return float((1.0 + study.cost.slope(np.asarray(log_n))) * study.line.sd_at(flops))


def headline_sd(study: Study) -> float:
    """Sd of ln(D/N) at the target by the headline estimator, by the delta method."""
    if study.headline is None:
        return float("nan")
    if study.headline == "isoflop":
        return line_sd_ratio(study, study.target)
    return delta_sd(study.fits[study.headline], study.target, study.cost)
