"""The top door: a loss table in, a `FitReport` out.

`fit_table` fits the surface laws and the isoFLOP parabolas, chooses the headline, puts intervals
on the optimal D/N at the target and asks the refusal rules whether the data carry an answer. It
does not raise on odd but valid tables: it returns `not_identified` with the rule's words.

The headline is the Chinchilla surface fit. Where that fit is unusable (an exponent at a limit, an
interval wider than 16x) and three or more isoFLOP minima are interior, the line through the
minima is the headline instead, and the status is `weak` at best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.checks import Check, Facts, Status, run_checks, status_of
from analysis.cost import CostCurve, read_cost
from analysis.fit import SurfaceFit, fit_surface
from analysis.isoflop import FrontierLine, LevelFit, fit_levels, fit_line
from analysis.laws import CHINCHILLA, SKALING, LawForm
from analysis.predict import Prediction, predict_optimum
from analysis.table import UNNAMED_CONVENTION, LossTable
from analysis.uncertainty import (
    CONFIDENCE,
    Draws,
    Interval,
    bootstrap,
    clusters,
    delta_sd,
    log_ratios_at,
    ratio_interval,
)

SCHEMA = "sweep.fit/1"
ASSUMED_NOISE_SD = 0.005
"""sd of ln L of one run where the data cannot say: half a per cent."""
_CONFIDENCES = (0.5, 0.8, 0.9, 0.95)
_MULTIPLES = (3.0, 10.0, 30.0)
_UNIFORM = ("tokenizer", "loss_unit", "precision")


@dataclass(frozen=True, kw_only=True)
class OptimumRow:
    """The headline estimator's optimum at one compute."""

    flops: float
    """C, FLOPs."""
    params: float
    """N_opt."""
    tokens: float
    """D_opt."""
    loss: float
    """Loss there; NaN when the estimator gives none."""
    interval: Interval
    """Of D/N."""
    intervals: Mapping[str, tuple[float, float]]
    """Of D/N by confidence, as `{"0.5": (low, high), ...}`."""
    near_optimal: Mapping[str, tuple[float, float]]
    """Ranges of D/N that waste at most 1 % and 5 % of compute."""
    extrapolation: float
    """C over the largest C of the runs."""

    def to_dict(self) -> dict[str, Any]:
        """The row as `fit.json` holds it."""
        return {
            "flops": self.flops,
            "params": self.params,
            "tokens": self.tokens,
            "tokens_per_parameter": self.tokens / self.params,
            "interval": [self.interval.low, self.interval.high],
            "confidence": self.interval.confidence,
            "method": self.interval.method,
            "intervals": {k: list(v) for k, v in self.intervals.items()},
            "near_optimal": {k: list(v) for k, v in self.near_optimal.items()},
            "extrapolation": self.extrapolation,
            "loss": self.loss,
        }


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """Everything that `sweep fit` says about one table."""

    status: Status
    """`identified`, `weak` or `not_identified`."""
    message: str
    """The verdict in one or two sentences."""
    n_points: int
    """Runs in the fit."""
    headline_law: str | None
    """`chinchilla` or `isoflop`; None when there is no answer."""
    convention: str
    """Which parameter count is N."""
    fits: Mapping[str, SurfaceFit]
    """The fitted surfaces by law."""
    laws: Mapping[str, Mapping[str, Any]]
    """The fitted surfaces as `fit.json` holds them."""
    isoflop: tuple[LevelFit, ...]
    """The parabola of each level."""
    line: FrontierLine | None
    """The line through the accepted vertices."""
    optimum: tuple[OptimumRow, ...]
    """Target first, then each level and 3x, 10x, 30x the largest run; empty when refused."""
    conventions: Mapping[str, Mapping[str, Any]]
    """The ratio at the target under every reading of N, and under the 6ND closed form."""
    checks: tuple[Check, ...]
    """Outcome of every refusal rule."""
    warnings: tuple[str, ...]
    """Everything else a reader must know."""
    cost: CostCurve | None
    """FLOPs per token as a function of N."""
    noise: Mapping[str, Any]
    """`sd` of ln L and where it comes from."""

    def isoflop_flops(self) -> list[float]:
        """Compute of each level, cheapest first."""
        return [level.flops for level in self.isoflop]

    def to_dict(self) -> dict[str, Any]:
        """The report as `fit.json` holds it: plain values, None where a number is not finite."""
        return finite(
            {
                "schema": SCHEMA,
                "status": self.status,
                "message": self.message,
                "n_points": self.n_points,
                "headline_law": self.headline_law,
                "convention": self.convention,
                "laws": self.laws,
                "isoflop": [_level_dict(level) for level in self.isoflop],
                "frontier": _line_dict(self.line),
                "optimum": [row.to_dict() for row in self.optimum],
                "conventions": self.conventions,
                "noise": self.noise,
                "checks": [_check_dict(check) for check in self.checks],
                "warnings": list(self.warnings),
            }
        )


def fit_table(
    table: LossTable,
    *,
    target_flops: float | None = None,
    convention: str = "matmul",
    seed: int = 0,
    resamples: int = 2000,
    huber_delta: float | None = None,
    confidence: float = CONFIDENCE,
) -> FitReport:
    """Fit a loss table and say what it carries.

    Args:
        table: the runs; excluded rows stay out.
        target_flops: compute at which the ratio is wanted; None = the largest run's.
        convention: which parameter count is N; where the table lacks it, the table's own.
        seed: of the resampling.
        resamples: number of bootstrap refits.
        huber_delta: width of the objective in ln L; None chooses it from the residuals.
        confidence: of the headline interval.

    Returns:
        The report; its status says whether there is an answer.
    """
    if convention in table.conventions:
        table = table.with_convention(convention)
    if table.n_points == 0:
        return _refused_empty(table)
    study = _study(table, target_flops, seed, resamples, huber_delta)
    return _report(study, confidence)


@dataclass(frozen=True, kw_only=True)
class _Study:
    """Intermediate results of one table."""

    table: LossTable
    target: float
    cost: CostCurve
    fits: dict[str, SurfaceFit]
    draws: dict[str, Draws]
    levels: tuple[LevelFit, ...]
    line: FrontierLine | None
    noise_sd: float
    noise_source: str
    noise_freedom: int
    replicate_freedom: int
    huber_delta: float | None


def _study(
    table: LossTable,
    target_flops: float | None,
    seed: int,
    resamples: int,
    huber_delta: float | None,
) -> _Study:
    N, D, C, L = table.params, table.tokens, table.flops, table.loss
    cost = read_cost(N, D, C)
    fits = {
        form.name: fit for form in (CHINCHILLA, SKALING) if (fit := _fit(form, table, huber_delta))
    }
    sd, source, freedom, replicated = _noise(table, fits.get("chinchilla"))
    levels = fit_levels(table.levels, N, C, L, noise_sd=sd, cost=cost)
    trajectory = None
    if "trajectory_id" in table.frame:
        trajectory = table.used["trajectory_id"].fillna("").to_numpy(dtype=str)
    groups = clusters(N, trajectory)
    draws = {
        name: bootstrap(fit, groups, resamples=resamples, seed=seed)
        for name, fit in fits.items()
        if name == "chinchilla" and resamples > 0
    }
    return _Study(
        table=table,
        target=float(C.max()) if target_flops is None else float(target_flops),
        cost=cost,
        fits=fits,
        draws=draws,
        levels=levels,
        line=fit_line(levels, noise_freedom=freedom),
        noise_sd=sd,
        noise_source=source,
        noise_freedom=freedom,
        replicate_freedom=replicated,
        huber_delta=huber_delta,
    )


def _fit(form: LawForm, table: LossTable, huber_delta: float | None) -> SurfaceFit | None:
    """A law fitted to the table; None when it has fewer runs than the law needs."""
    N, D = table.params, table.tokens
    sizes, lengths = (len(np.unique(np.round(np.log(v), 6))) for v in (N, D))
    if table.n_points <= form.n_params or sizes < 3 or lengths < 3:
        return None
    return fit_surface(N, D, table.loss, form=form, huber_delta=huber_delta)


def replicate_noise(table: LossTable) -> tuple[float, int]:
    """Seed noise from runs that differ in nothing but the seed.

    Returns:
        sd of ln L pooled over groups of equal (N, D), and its degrees of freedom; (NaN, 0)
        without such groups.
    """
    keys = np.round(np.stack([np.log(table.params), np.log(table.tokens)], axis=1), 6)
    _, group = np.unique(keys, axis=0, return_inverse=True)
    group = group.ravel()
    y = np.log(table.loss)
    counts = np.bincount(group)
    means = np.bincount(group, weights=y) / counts
    freedom = int((counts - 1).sum())
    if freedom == 0:
        return float("nan"), 0
    return float(np.sqrt(((y - means[group]) ** 2).sum() / freedom)), freedom


def _noise(table: LossTable, fit: SurfaceFit | None) -> tuple[float, str, int, int]:
    """Noise sd of ln L, its source, its degrees of freedom and those from replicates.

    The residuals' sd is used when it is larger than the replicates': lack of fit is noise too as
    far as an interval is concerned.
    """
    sd, freedom = replicate_noise(table)
    residual = fit.noise_sd if fit is not None else float("nan")
    if fit is not None and math.isfinite(residual) and not (freedom >= 2 and sd >= residual):
        return residual, "residuals", fit.degrees_of_freedom, freedom
    if freedom > 0 and sd > 0:
        return sd, "replicates", freedom, freedom
    return ASSUMED_NOISE_SD, "assumed", 1_000_000, 0


def _report(study: _Study, confidence: float) -> FitReport:
    headline = _headline(study)
    row = _optimum_row(study, headline, study.target, confidence) if headline else None
    facts = _facts(study, headline, row)
    checks = run_checks(facts)
    status = status_of(checks)
    if status == "identified" and headline == "isoflop":
        status = "weak"
    refused = status == "not_identified"
    rows = () if refused or headline is None else _optimum_rows(study, headline, confidence)
    return FitReport(
        status=status,
        message=_message(status, checks, rows, headline, study),
        n_points=study.table.n_points,
        headline_law=None if refused else headline,
        convention=study.table.convention,
        fits=study.fits,
        laws={name: _law_dict(study, name, confidence) for name in study.fits},
        isoflop=study.levels,
        line=study.line,
        optimum=rows,
        conventions=_conventions(study, confidence),
        checks=checks,
        warnings=_warnings(study, headline, row),
        cost=study.cost,
        noise={
            "sd": study.noise_sd,
            "source": study.noise_source,
            "degrees_of_freedom": study.noise_freedom,
        },
    )


def _headline(study: _Study) -> str | None:
    """The estimator that answers: `chinchilla` unless unusable and the parabolas are not."""
    fit = study.fits.get("chinchilla")
    line_usable = study.line is not None and study.line.n_levels >= 3
    if fit is not None and not {"alpha", "beta"} & set(fit.at_bound):
        fold = ratio_interval(
            fit, study.draws.get("chinchilla"), study.target, study.cost, confidence=0.95
        ).fold
        if math.isfinite(fold) and fold <= 16.0:
            return "chinchilla"
        if not line_usable:
            return "chinchilla"
    return "isoflop" if line_usable else ("chinchilla" if fit is not None else None)


def _optimum_rows(study: _Study, headline: str, confidence: float) -> tuple[OptimumRow, ...]:
    top = float(study.table.flops.max())
    computes = [study.target, *(f.flops for f in study.levels), *(m * top for m in _MULTIPLES)]
    return tuple(_optimum_row(study, headline, flops, confidence) for flops in computes)


def _optimum_row(study: _Study, headline: str, flops: float, confidence: float) -> OptimumRow:
    if headline == "isoflop":
        return _line_row(study, flops, confidence)
    fit, draws = study.fits[headline], study.draws.get(headline)
    top = float(study.table.flops.max())
    found: Prediction = predict_optimum(
        fit, flops, cost=study.cost, draws=draws, max_flops=top, confidence=confidence
    )
    intervals = {
        f"{c:g}": (i.low, i.high)
        for c in _CONFIDENCES
        if (i := ratio_interval(fit, draws, flops, study.cost, confidence=c))
    }
    return OptimumRow(
        flops=flops,
        params=found.optimum.params,
        tokens=found.optimum.tokens,
        loss=found.optimum.loss,
        interval=found.interval,
        intervals=intervals,
        near_optimal=found.near_optimal,
        extrapolation=found.extrapolation,
    )


def _line_row(study: _Study, flops: float, confidence: float) -> OptimumRow:
    """The optimum by the line through the isoFLOP minima."""
    line = study.line
    assert line is not None
    log_n = min(max(line.log_params_at(flops), 0.0), math.log(flops))
    params = math.exp(log_n)
    tokens = flops / float(study.cost(np.asarray(params)))
    ratio = tokens / params
    stretch = 1.0 + float(study.cost.slope(np.asarray(log_n)))

    def ends(level: float) -> tuple[float, float]:
        half = min(stretch * line.quantile(level) * line.sd_at(flops), 300.0)
        return ratio * math.exp(-half), ratio * math.exp(half)

    low, high = ends(confidence)
    fit = study.fits.get("chinchilla")
    loss = float(fit.surface.loss(np.asarray(params), np.asarray(tokens))) if fit else math.nan
    return OptimumRow(
        flops=flops,
        params=params,
        tokens=tokens,
        loss=loss,
        interval=Interval(low=low, high=high, confidence=confidence, method="isoflop line"),
        intervals={f"{c:g}": ends(c) for c in _CONFIDENCES},
        near_optimal=_line_bands(study, ratio, stretch),
        extrapolation=flops / float(study.table.flops.max()),
    )


def _line_bands(study: _Study, ratio: float, stretch: float) -> dict[str, tuple[float, float]]:
    """Near-optimal ratios from the parabolas: loss excess p x^2 against d ln L/d ln C."""
    good = [f for f in study.levels if f.accepted]
    if len(good) < 2:
        return {}
    slope = np.polyfit(np.log([f.flops for f in good]), np.log([f.loss_opt for f in good]), 1)[0]
    curvature = float(np.mean([f.curve[0] for f in good]))
    if not slope < 0 < curvature:
        return {}
    bands = {}
    for percent in (1, 5):
        x = math.sqrt(-math.log1p(-percent / 100) * -float(slope) / curvature)
        reach = stretch * x
        bands[f"waste_{percent}pct"] = (ratio * math.exp(-reach), ratio * math.exp(reach))
    return bands


def _facts(study: _Study, headline: str | None, row: OptimumRow | None) -> Facts:
    table = study.table
    N, D, C = table.params, table.tokens, table.flops
    ratio = D / N
    fit = study.fits.get("chinchilla")
    draws = study.draws.get("chinchilla")
    tested = [f for f in study.levels if f.verdict != "few"]
    fold = None
    if row is not None:
        low, high = row.intervals["0.95"]
        fold = high / low if low > 0 and math.isfinite(high) else None
    points = np.round(np.stack([np.log(N), np.log(D)], axis=1), 6)
    return Facts(
        n_points=table.n_points,
        n_distinct=len(np.unique(points, axis=0)),
        n_sizes=len(np.unique(points[:, 0])),
        n_tokens=len(np.unique(points[:, 1])),
        levels_tested=len(tested),
        levels_accepted=sum(f.accepted for f in study.levels),
        levels_at_edge=sum(f.verdict in ("edge", "concave") for f in tested),
        span_flops=float(C.max() / C.min()),
        span_ratio=float(ratio.max() / ratio.min()),
        ratio_range=(float(ratio.min()), float(ratio.max())),
        extrapolation=study.target / float(C.max()),
        ratio=row.tokens / row.params if row else None,
        fold95=fold,
        headline=headline,
        at_bound=fit.at_bound if fit else (),
        floor_share=fit.surface.E / float(table.loss.min()) if fit else None,
        failed_refits=draws.failed if draws and headline == "chinchilla" else None,
        basins_disagree=_basins_disagree(study),
        replicate_freedom=study.replicate_freedom,
        noise_sd=study.noise_sd,
        convention_named=table.convention != UNNAMED_CONVENTION,
        mixed=_mixed(table),
        min_steps=float(table.column("steps").min()) if table.has("steps") else None,
        max_epochs=float(table.column("epochs").max()) if table.has("epochs") else None,
    )


def _mixed(table: LossTable) -> tuple[str, ...]:
    names = [name for name in _UNIFORM if name in table.frame]
    return tuple(name for name in names if table.used[name].dropna().astype(str).nunique() > 1)


def _basins_disagree(study: _Study) -> bool:
    """Whether a second minimum with a BIC within 2 gives a ratio more than one sd away."""
    fit = study.fits.get("chinchilla")
    if fit is None or fit.certificate.runner_up_theta is None or fit.objective <= 0:
        return False
    gap = fit.data.size * math.log(fit.certificate.runner_up / fit.objective)
    if gap >= 2.0:
        return False
    both = np.stack([fit.theta, fit.certificate.runner_up_theta])
    values = log_ratios_at(both, fit.data.centre, study.target, study.cost)
    sd = delta_sd(fit, study.target, study.cost)
    return bool(abs(values[1] - values[0]) > sd)


def _law_dict(study: _Study, name: str, confidence: float) -> dict[str, Any]:
    fit, draws = study.fits[name], study.draws.get(name)
    surface = fit.surface
    ratio = float(
        np.exp(log_ratios_at(fit.theta[None], fit.data.centre, study.target, study.cost)[0])
    )
    at_target = ratio_interval(fit, draws, study.target, study.cost, confidence=confidence)
    record: dict[str, Any] = {
        "E": surface.E,
        "A": surface.A,
        "B": surface.B,
        "alpha": surface.alpha,
        "beta": surface.beta,
        "exponent_N": surface.exponent_N,
        "exponent_D": surface.exponent_D,
        "objective": fit.objective,
        "huber_delta": fit.huber_delta,
        "tokens_per_parameter": ratio,
        "noise_sd": fit.noise_sd,
        "at_bound": list(fit.at_bound),
        "certificate": {
            "starts": fit.certificate.starts,
            "agreeing": fit.certificate.agreeing,
            "gradient": fit.certificate.gradient,
            "minima": fit.certificate.minima,
        },
        "interval": {
            **_parameter_intervals(fit, draws, confidence),
            "tokens_per_parameter": [at_target.low, at_target.high],
            "confidence": confidence,
            "method": at_target.method,
        },
    }
    if fit.form.n_params == 6:
        record["k"] = surface.k
    return record


def _parameter_intervals(
    fit: SurfaceFit, draws: Draws | None, confidence: float
) -> dict[str, list[float]]:
    """Percentile intervals of the law's natural parameters; empty without a bootstrap."""
    if draws is None:
        return {}
    a, b, e, alpha, beta = (draws.theta[:, j] for j in range(5))
    values = {
        "E": np.exp(e),
        "A": np.exp(np.clip(a + alpha * draws.centre[0], -700, 700)),
        "B": np.exp(np.clip(b + beta * draws.centre[1], -700, 700)),
        "alpha": alpha,
        "beta": beta,
        "exponent_N": beta / (alpha + beta),
        "exponent_D": alpha / (alpha + beta),
    }
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]
    return {name: [float(v) for v in np.percentile(x, tails)] for name, x in values.items()}


def _conventions(study: _Study, confidence: float) -> dict[str, dict[str, Any]]:
    """The ratio at the target under every reading of N that the table carries."""
    result: dict[str, dict[str, Any]] = {}
    for name in study.table.conventions:
        if name == study.table.convention:
            table, fit, cost = study.table, study.fits.get("chinchilla"), study.cost
        else:
            table = study.table.with_convention(name)
            fit = _fit(CHINCHILLA, table, study.huber_delta)
            cost = read_cost(table.params, table.tokens, table.flops)
        if fit is None:
            continue
        ratio = float(
            np.exp(log_ratios_at(fit.theta[None], fit.data.centre, study.target, cost)[0])
        )
        interval = ratio_interval(fit, None, study.target, cost, confidence=confidence)
        closed = fit.surface.optimum(study.target)
        result[name] = {
            "tokens_per_parameter": ratio,
            "interval": [interval.low, interval.high],
            "exponent_N": fit.surface.exponent_N,
            "tokens_per_parameter_6nd": closed.tokens_per_parameter,
            "cost": "6ND" if cost.is_six_n else "measured FLOPs per token",
        }
    return result


def _message(
    status: Status,
    checks: tuple[Check, ...],
    rows: tuple[OptimumRow, ...],
    headline: str | None,
    study: _Study,
) -> str:
    failed = [c for c in checks if not c.passed and c.severity != "note"]
    if status == "not_identified":
        words = "; ".join(f"{c.rule}: {c.message}" for c in failed if c.severity == "refuse")
        return f"NOT IDENTIFIED. {words}."
    row = rows[0]
    source = {"chinchilla": "the surface fit", "isoflop": "the line through the isoFLOP minima"}
    text = (
        f"{row.tokens / row.params:.3g} tokens per parameter at {row.flops:.3g} FLOPs "
        f"({row.interval.confidence:.0%} interval {row.interval.low:.3g} to "
        f"{row.interval.high:.3g}), by {source[headline or 'chinchilla']} "
        f"to {study.table.n_points} runs."
    )
    if status == "weak":
        reasons = [f"{c.rule}: {c.message}" for c in failed]
        if headline == "isoflop":
            reasons.append("the surface fit is not usable")
        text += " Weak: " + "; ".join(reasons) + "."
    return text


def _warnings(study: _Study, headline: str | None, row: OptimumRow | None) -> tuple[str, ...]:
    warnings = list(study.table.notes)
    excluded = len(study.table.frame) - study.table.n_points
    if excluded:
        warnings.append(f"{excluded} of {len(study.table.frame)} rows are excluded, with reasons")
    for level in study.levels:
        if not level.accepted:
            warnings.append(f"level {level.level}: {level.reason}")
        elif abs(level.cubic_t) > 2:
            warnings.append(
                f"level {level.level}: the curve is skewed (cubic t = {level.cubic_t:.1f}); "
                "its vertex is biased"
            )
    if headline == "chinchilla" and row is not None and study.line is not None:
        log_n = study.line.log_params_at(study.target)
        gap = log_n - math.log(row.params)
        fit = study.fits["chinchilla"]
        sd = math.hypot(
            study.line.sd_at(study.target), 0.5 * delta_sd(fit, study.target, study.cost)
        )
        if abs(gap) > 2 * sd:
            warnings.append(
                f"the isoFLOP line puts N at {math.exp(gap):.2g}x the surface fit's at the target: "
                "the estimators disagree"
            )
    return tuple(warnings)


def _refused_empty(table: LossTable) -> FitReport:
    check = Check(
        rule="R1", passed=False, severity="refuse", message="no run is left after exclusions"
    )
    return FitReport(
        status="not_identified",
        message=f"NOT IDENTIFIED. R1: {check.message}.",
        n_points=0,
        headline_law=None,
        convention=table.convention,
        fits={},
        laws={},
        isoflop=(),
        line=None,
        optimum=(),
        conventions={},
        checks=(check,),
        warnings=tuple(table.notes),
        cost=None,
        noise={},
    )


def _level_dict(level: LevelFit) -> dict[str, Any]:
    p, q, c, x0 = level.curve
    return {
        "level": level.level,
        "flops": level.flops,
        "n_points": level.n_points,
        "params_opt": level.params_opt,
        "tokens_opt": level.tokens_opt,
        "tokens_per_parameter": level.tokens_per_parameter,
        "loss_opt": level.loss_opt,
        "sd_ln_params": level.sd_ln_params,
        "accepted": level.accepted,
        "reason": level.reason,
        "curve": {
            "formula": "ln loss = p (ln params - x0)^2 + q (ln params - x0) + c",
            "p": p,
            "q": q,
            "c": c,
            "x0": x0,
            "params_range": list(level.range_params),
        },
        "cubic_t": level.cubic_t,
    }


def _line_dict(line: FrontierLine | None) -> dict[str, Any] | None:
    if line is None:
        return None
    return {
        "exponent_N": line.exponent,
        "exponent_N_sd": math.sqrt(line.variance[1]),
        "params_at": {"flops": math.exp(line.log_flops), "params": math.exp(line.log_params)},
        "n_levels": line.n_levels,
    }


def _check_dict(check: Check) -> dict[str, Any]:
    return {
        "rule": check.rule,
        "passed": check.passed,
        "severity": check.severity,
        "message": check.message,
    }


def finite(value: Any) -> Any:
    """The same structure in plain types, with None for NaN and infinities."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
