"""The top door: a loss table in, a `FitReport` out.

`fit_table` fits the surface laws and the isoFLOP parabolas, chooses the headline, puts intervals
on the optimal D/N at the target and asks the refusal rules whether the data carry an answer. It
does not raise on odd but valid tables: it returns `not_identified` with the rule's words.

The headline is the Chinchilla surface fit, or Skaling's law where that predicts held-out dearer
runs clearly better. Where the surface fit is unusable (an exponent at a limit, an open profile, an
interval wider than 16x) and three or more isoFLOP minima are interior, the line through the minima
is the headline instead, as it is where its interval is much sharper than a weak surface fit's; the
status is then `weak` at best. Where only two minima are interior, the law with equal exponents
answers, weakly too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from analysis.akima import fit_levels_akima
from analysis.checks import Check, Facts, Status, run_checks, status_of
from analysis.cost import CostCurve, log_ratio, read_cost
from analysis.fit import SurfaceFit
from analysis.identifiability import diagnose
from analysis.isoflop import FrontierLine, LevelFit, fit_line, vertex_bias
from analysis.laws import CHINCHILLA
from analysis.predict import Prediction, predict_optimum
from analysis.sensitivity import Variant, leave_outs, objectives, with_excluded
from analysis.study import Study, fit_law, headline_sd, line_sd_ratio, make_study, replicate_groups
from analysis.table import UNNAMED_CONVENTION, LossTable
from analysis.uncertainty import (
    CONFIDENCE,
    Draws,
    Interval,
    delta_sd,
    log_ratios_at,
    ratio_interval,
)
from analysis.validation import (
    Outcome,
    estimators_agree,
    lack_of_fit,
    largest_compute_holdout,
    leave_one_out,
    missing_terms,
)

SCHEMA = "sweep.fit/1"
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
    """`chinchilla`, `skaling`, `tied` or `isoflop`; None when there is no answer."""
    convention: str
    """Which parameter count is N."""
    fits: Mapping[str, SurfaceFit]
    """The fitted surfaces by law."""
    laws: Mapping[str, Mapping[str, Any]]
    """The fitted surfaces as `fit.json` holds them."""
    isoflop: tuple[LevelFit, ...]
    """The parabola of each level."""
    vertex_biases: Mapping[str, float]
    """Structural bias of each level's vertex in ln N, were the fitted surface the truth."""
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
    detail: Mapping[str, Any]
    """Further sections of `fit.json`: selection, model_form, profile, sensitivity, validation,
    identifiability; empty when not asked for."""

    def isoflop_flops(self) -> list[float]:
        """Compute of each level, cheapest first."""
        return [level.flops for level in self.isoflop]

    def __str__(self) -> str:
        return self.to_text()

    def to_text(self) -> str:
        """The report in words: verdict, laws, failed rules, warnings."""
        lines = [f"status: {self.status}", self.message, ""]
        for name, law in self.laws.items():
            lines.append(
                f"{name}: E {law['E']:.4g}, A {law['A']:.4g}, B {law['B']:.4g}, "
                f"alpha {law['alpha']:.4f}, beta {law['beta']:.4f}, "
                f"D/N {law['tokens_per_parameter']:.3g}"
                + (f"; at a limit: {', '.join(law['at_bound'])}" if law["at_bound"] else "")
            )
        failed = [c for c in self.checks if not c.passed]
        lines += [f"{c.rule} ({c.severity}): {c.message}" for c in failed]
        lines += [f"warning: {w}" for w in self.warnings]
        return "\n".join(lines)

    def to_latex(self) -> str:
        """The fitted laws as a LaTeX table."""
        rows = [
            " & ".join(
                [
                    name,
                    f"{law['E']:.3f}",
                    f"{law['A']:.4g}",
                    f"{law['B']:.4g}",
                    f"{law['alpha']:.3f}",
                    f"{law['beta']:.3f}",
                    f"{law['exponent_N']:.3f}",
                    f"{law['tokens_per_parameter']:.3g}",
                ]
            )
            + r" \\"
            for name, law in self.laws.items()
        ]
        head = r"law & $E$ & $A$ & $B$ & $\alpha$ & $\beta$ & $a$ & $D/N$ \\"
        body = "\n".join([r"\begin{tabular}{lrrrrrrr}", head, r"\hline", *rows])
        return body + "\n" + r"\end{tabular}"

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
                "isoflop": [
                    {**_level_dict(level), "bias_ln_params": self.vertex_biases.get(level.level)}
                    for level in self.isoflop
                ],
                "frontier": _line_dict(self.line),
                "optimum": [row.to_dict() for row in self.optimum],
                "conventions": self.conventions,
                "noise": self.noise,
                "checks": [_check_dict(check) for check in self.checks],
                "warnings": list(self.warnings),
                **self.detail,
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
    detail: bool = True,
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
        detail: also compute the sensitivity, validation and identifiability sections.

    Returns:
        The report; its status says whether there is an answer.
    """
    if convention in table.conventions:
        table = table.with_convention(convention)
    if table.n_points == 0:
        return _refused_empty(table)
    study = make_study(
        table,
        target_flops=target_flops,
        seed=seed,
        resamples=resamples,
        huber_delta=huber_delta,
    )
    return _report(study, confidence, detail)


def _report(study: Study, confidence: float, detail: bool) -> FitReport:
    headline = study.headline
    row = _optimum_row(study, headline, study.target, confidence) if headline else None
    outcomes = _outcomes(study)
    facts = _facts(study, row, outcomes)
    checks = run_checks(facts)
    status = status_of(checks)
    if status == "identified" and (headline in ("isoflop", "tied") or _laws_disagree(study, row)):
        status = "weak"
    refused = status == "not_identified"
    rows = () if refused or headline is None else _optimum_rows(study, headline, confidence)
    conventions = _conventions(study, confidence)
    sections = _detail(study, outcomes, conventions) if detail and study.fits else {}
    return FitReport(
        status=status,
        message=_message(status, checks, rows, study),
        n_points=study.table.n_points,
        headline_law=None if refused else headline,
        convention=study.table.convention,
        fits=study.fits,
        laws={name: _law_dict(study, name, confidence) for name in study.fits},
        isoflop=study.levels,
        vertex_biases=_biases(study),
        line=study.line,
        optimum=rows,
        conventions=conventions,
        checks=checks,
        warnings=_warnings(study, outcomes),
        cost=study.cost,
        noise={**asdict(study.noise), "degrees_of_freedom": study.noise.freedom},
        detail=sections,
    )


def _laws_disagree(study: Study, row: OptimumRow | None) -> bool:
    """Whether a headline of the wider law excludes the ratio by Chinchilla's."""
    if study.headline != "skaling" or row is None or study.selection is None:
        return False
    ratios = {s.name: s.tokens_per_parameter for s in study.selection.scores}
    return not row.interval.low <= ratios.get("chinchilla", math.nan) <= row.interval.high


def _outcomes(study: Study) -> dict[str, Outcome]:
    """Tests T1, T3, T4 and T5 of the headline surface."""
    fit = study.surface_fit
    if fit is None:
        return {}
    table = study.table
    N, D, C, L = table.params, table.tokens, table.flops, table.loss
    widest = study.fits.get("skaling", fit)
    extra = {
        f"ln {name}": np.log(table.column(name))
        for name in ("steps", "batch_tokens")
        if table.has(name) and np.ptp(np.log(table.column(name))) > 1e-9
    }
    own = float(log_ratios_at(fit.theta[None], fit.data.centre, study.target, study.cost)[0])
    by_line = None
    if study.line is not None:
        log_n = np.asarray(study.line.log_params_at(study.target))
        by_line = float(log_ratio(log_n, math.log(study.target), study.cost))
    return {
        "T1": largest_compute_holdout(fit, N, D, C, L),
        "T3": lack_of_fit(widest, replicate_groups(table)),
        "T4": missing_terms(fit, extra),
        "T5": estimators_agree(
            own,
            delta_sd(fit, study.target, study.cost),
            by_line,
            line_sd_ratio(study, study.target),
        ),
    }


def _optimum_rows(study: Study, headline: str, confidence: float) -> tuple[OptimumRow, ...]:
    top = float(study.table.flops.max())
    computes = [study.target, *(f.flops for f in study.levels), *(m * top for m in _MULTIPLES)]
    return tuple(_optimum_row(study, headline, flops, confidence) for flops in computes)


def _optimum_row(study: Study, headline: str, flops: float, confidence: float) -> OptimumRow:
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


def _line_row(study: Study, flops: float, confidence: float) -> OptimumRow:
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


def _line_bands(study: Study, ratio: float, stretch: float) -> dict[str, tuple[float, float]]:
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


def _facts(study: Study, row: OptimumRow | None, outcomes: Mapping[str, Outcome]) -> Facts:
    table, headline = study.table, study.headline
    N, D, C = table.params, table.tokens, table.flops
    ratio = D / N
    fit = study.surface_fit
    draws = study.draws.get(headline or "")
    holdout, lack = outcomes.get("T1"), outcomes.get("T3")
    tested = [f for f in study.levels if f.verdict != "few"]
    fold = None
    if row is not None:
        low, high = row.intervals["0.95"]
        fold = high / low if low > 0 and math.isfinite(high) else None
        on_surface = headline != "isoflop"
        if on_surface and study.profile is not None and study.profile.is_open:
            fold = None
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
        failed_refits=draws.failed if draws else None,
        basins_disagree=_basins_disagree(study),
        replicate_freedom=study.noise.replicate_freedom,
        noise_sd=study.noise.sd,
        convention_named=table.convention != UNNAMED_CONVENTION,
        mixed=_mixed(table),
        min_steps=float(table.column("steps").min()) if table.has("steps") else None,
        max_epochs=float(table.column("epochs").max()) if table.has("epochs") else None,
        lack_of_fit_p=lack.numbers.get("p") if lack else None,
        holdout=(holdout.passed, holdout.message)
        if holdout is not None and holdout.passed is not None
        else None,
        form_sd=study.selection.sd_form
        if study.selection is not None and math.isfinite(study.selection.sd_form)
        else None,
        ratio_sd=headline_sd(study) if math.isfinite(headline_sd(study)) else None,
    )


def _mixed(table: LossTable) -> tuple[str, ...]:
    names = [name for name in _UNIFORM if name in table.frame]
    return tuple(name for name in names if table.used[name].dropna().astype(str).nunique() > 1)


def _basins_disagree(study: Study) -> bool:
    """Whether a second minimum with a BIC within 2 gives a ratio more than one sd away."""
    fit = study.surface_fit
    if fit is None or fit.certificate.runner_up_theta is None or fit.objective <= 0:
        return False
    gap = fit.data.size * math.log(fit.certificate.runner_up / fit.objective)
    if gap >= 2.0:
        return False
    both = np.stack([fit.theta, fit.certificate.runner_up_theta])
    values = log_ratios_at(both, fit.data.centre, study.target, study.cost)
    sd = delta_sd(fit, study.target, study.cost)
    return bool(abs(values[1] - values[0]) > sd)


def _law_dict(study: Study, name: str, confidence: float) -> dict[str, Any]:
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


def _conventions(study: Study, confidence: float) -> dict[str, dict[str, Any]]:
    """The ratio at the target under every reading of N that the table carries."""
    result: dict[str, dict[str, Any]] = {}
    for name in study.table.conventions:
        if name == study.table.convention:
            table, fit, cost = study.table, study.fits.get("chinchilla"), study.cost
        else:
            table = study.table.with_convention(name)
            fit = fit_law(CHINCHILLA, table, study.huber_delta)
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
    study: Study,
) -> str:
    failed = [c for c in checks if not c.passed and c.severity != "note"]
    if status == "not_identified":
        words = "; ".join(f"{c.rule}: {c.message}" for c in failed if c.severity == "refuse")
        return f"NOT IDENTIFIED. {words}."
    row = rows[0]
    source = {
        "chinchilla": "the surface fit",
        "skaling": "the surface fit of the six-parameter law",
        "tied": "the surface fit with equal exponents (one D/N for all compute)",
        "isoflop": "the line through the isoFLOP minima",
    }
    text = (
        f"{row.tokens / row.params:.3g} tokens per parameter at {row.flops:.3g} FLOPs "
        f"({row.interval.confidence:.0%} interval {row.interval.low:.3g} to "
        f"{row.interval.high:.3g}), by {source[study.headline or 'chinchilla']} "
        f"to {study.table.n_points} runs."
    )
    if status == "weak":
        reasons = [f"{c.rule}: {c.message}" for c in failed]
        if study.headline == "isoflop":
            reasons.append("the surface fit's interval is wider still, or open")
        if study.headline == "skaling" and _laws_disagree(study, row):
            reasons.append("the five-parameter law gives a ratio outside this interval")
        if study.headline == "tied":
            reasons.append("the runs cannot tell the two exponents apart")
        text += " Weak: " + "; ".join(reasons) + "."
    return text


def _warnings(study: Study, outcomes: Mapping[str, Outcome]) -> tuple[str, ...]:
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
    warnings += [
        f"{name}: {outcome.message}"
        for name, outcome in outcomes.items()
        if outcome.passed is False and name in ("T4", "T5")
    ]
    if study.headline == "skaling":
        warnings.append(
            "the six-parameter law is the headline: it predicts held-out dearer runs clearly better"
        )
    return tuple(warnings)


def _detail(
    study: Study, outcomes: Mapping[str, Outcome], conventions: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The sections of `fit.json` beyond the answer itself."""
    fit = study.surface_fit
    assert fit is not None
    variants = _variants(study, fit, conventions)
    sd = delta_sd(fit, study.target, study.cost)
    tests = [
        outcomes["T1"],
        leave_one_out(variants, sd),
        outcomes["T3"],
        outcomes["T4"],
        outcomes["T5"],
    ]
    design = diagnose(fit, flops=study.target, cost=study.cost)
    values = [v.tokens_per_parameter for v in variants if math.isfinite(v.tokens_per_parameter)]
    return {
        "selection": _selection_dict(study),
        "model_form": _model_form(study),
        "profile": _profile_dict(study),
        "sensitivity": {
            "target_flops": study.target,
            "law": fit.form.name,
            "range": [min(values), max(values)] if values else None,
            "variants": [v.to_dict() for v in variants],
        },
        "validation": [outcome.to_dict() for outcome in tests],
        "identifiability": None if design is None else design.to_dict(),
    }


def _variants(
    study: Study, fit: SurfaceFit, conventions: Mapping[str, Mapping[str, Any]]
) -> tuple[Variant, ...]:
    """Every entry of the sensitivity page."""
    table = study.table
    N, D, L = table.params, table.tokens, table.loss
    found = leave_outs(fit, N, D, L, table.levels, flops=study.target, cost=study.cost)
    found += objectives(fit, N, D, L, flops=study.target, cost=study.cost)
    found += _with_excluded(study, fit)
    base = float(log_ratios_at(fit.theta[None], fit.data.centre, study.target, study.cost)[0])

    def variant(group: str, name: str, ratio: float) -> Variant:
        shift = math.log(ratio) - base if ratio > 0 and math.isfinite(ratio) else math.nan
        return Variant(
            group=group,
            name=name,
            n_points=table.n_points,
            tokens_per_parameter=ratio,
            shift=shift,
        )

    for name, numbers in conventions.items():
        ratio = float(numbers["tokens_per_parameter"])
        found += (variant("convention", f"N = {name}", ratio),)
    for score in study.selection.scores if study.selection else ():
        name = f"surface fit, {score.name} law"
        found += (variant("estimator", name, score.tokens_per_parameter),)
    for name, line in (("isoFLOP parabolas", study.line), ("isoFLOP, Akima", _akima_line(study))):
        if line is not None:
            log_n = np.asarray(line.log_params_at(study.target))
            ratio = math.exp(float(log_ratio(log_n, math.log(study.target), study.cost)))
            found += (variant("estimator", name, ratio),)
    return found


def _akima_line(study: Study) -> FrontierLine | None:
    table = study.table
    levels = fit_levels_akima(
        table.levels,
        table.params,
        table.flops,
        table.loss,
        noise_sd=study.noise.sd,
        cost=study.cost,
        draws=400,
    )
    return fit_line(levels, noise_freedom=study.noise.freedom)


def _with_excluded(study: Study, fit: SurfaceFit) -> tuple[Variant, ...]:
    """The ratio with the excluded runs put back, where they have a usable loss."""
    frame, column = study.table.frame, study.table.params_name
    numbers = frame[[column, "tokens", "loss"]].to_numpy(dtype=np.float64)
    usable = np.isfinite(numbers).all(axis=1) & (numbers > 0).all(axis=1)
    if usable.sum() <= study.table.n_points or fit.form is not CHINCHILLA:
        return ()
    N, D, L = numbers[usable].T
    return (with_excluded(fit, N, D, L, flops=study.target, cost=study.cost),)


def _biases(study: Study) -> dict[str, float]:
    """Structural bias of every level's vertex under the fitted surface."""
    fit, table = study.surface_fit, study.table
    if fit is None:
        return {}
    biases = {}
    for level in study.levels:
        member = table.levels == level.level
        biases[level.level] = vertex_bias(
            table.params[member], table.flops[member], fit.surface, cost=study.cost
        )
    return biases


def _selection_dict(study: Study) -> dict[str, Any] | None:
    if study.selection is None:
        return None
    return {
        "method": "rolling hold-out in compute: fitted to the cheaper runs, scored on the dearer",
        "cuts": study.selection.cuts,
        "best": study.selection.best,
        "baseline_rms": study.selection.baseline,
        "laws": [asdict(score) for score in study.selection.scores],
        "pooled_tokens_per_parameter": study.selection.pooled,
    }


def _model_form(study: Study) -> dict[str, Any] | None:
    """The ratio with the choice of law added to its own uncertainty, in quadrature."""
    if study.selection is None:
        return None
    own = headline_sd(study)
    form = study.selection.sd_form
    total = math.hypot(own, form)
    pooled = study.selection.pooled
    inside = math.isfinite(pooled) and math.isfinite(total) and 1.645 * total < 600
    half = 1.645 * total if inside else math.nan
    return {
        "pooled_tokens_per_parameter": pooled,
        "sd_ln_ratio_own": own,
        "sd_ln_ratio_form": form,
        "interval": [pooled * math.exp(-half), pooled * math.exp(half)] if inside else None,
        "confidence": 0.9,
    }


def _profile_dict(study: Study) -> dict[str, Any] | None:
    if study.profile is None:
        return None
    return {
        "tokens_per_parameter": [float(v) for v in np.exp(study.profile.log_ratio)],
        "excess": [float(v) for v in study.profile.excess],
        "interval": list(study.profile.interval),
        "confidence": study.profile.confidence,
        "open": study.profile.is_open,
    }


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
        vertex_biases={},
        line=None,
        optimum=(),
        conventions={},
        checks=(check,),
        warnings=tuple(table.notes),
        cost=None,
        noise={},
        detail={},
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
