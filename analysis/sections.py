"""The sections of `fit.json` beyond the answer itself, from a study.

Ratios by convention, biases of the isoFLOP vertices, the comparison of laws, the model-form band,
the profile, the sensitivity page and the validation tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from analysis.akima import fit_levels_akima
from analysis.cost import log_ratio, read_cost
from analysis.curves import EnvelopeReading
from analysis.fit import SurfaceFit
from analysis.identifiability import diagnose
from analysis.isoflop import FrontierLine, fit_line, vertex_bias
from analysis.laws import CHINCHILLA
from analysis.resampling import residual_bootstrap, wild_bootstrap
from analysis.sensitivity import Variant, leave_outs, objectives, with_excluded
from analysis.study import Study, fit_law, headline_sd
from analysis.uncertainty import (
    CONFIDENCE,
    Draws,
    bootstrap,
    delta_sd,
    log_params_at,
    log_ratios_at,
    ratio_interval,
)
from analysis.validation import Outcome, leave_one_out


def ratios_by_convention(study: Study, confidence: float) -> dict[str, dict[str, Any]]:
    """The ratio at the target under every reading of N that the table carries."""
    result: dict[str, dict[str, Any]] = {}
    for name in study.table.conventions:
        if name == study.table.convention:
            table, fit, cost = study.table, study.fits.get("chinchilla"), study.cost
        else:
            table = study.table.with_convention(name)
            fit = fit_law(CHINCHILLA, table, study.huber_delta, study.priors)
            cost = read_cost(table.params, table.tokens, table.flops)
        if fit is None:
            continue
        ratio = float(
            np.exp(log_ratios_at(fit.theta[None], fit.data.centre, study.target, cost)[0])
        )
        interval = ratio_interval(fit, None, study.target, cost, confidence=confidence)
        closed = fit.surface.optimum(study.target)
        params = math.exp(
            float(log_params_at(fit.theta[None], fit.data.centre, study.target, cost)[0])
        )
        result[name] = {
            "tokens_per_parameter": ratio,
            "tokens_per_parameter_as_reported": reported_ratio(study, ratio * params),
            "interval": [interval.low, interval.high],
            "exponent_N": fit.surface.exponent_N,
            "tokens_per_parameter_6nd": closed.tokens_per_parameter,
            "cost": "6ND" if cost.is_six_n else "measured FLOPs per token",
        }
    return result


def reported_ratio(study: Study, tokens: float) -> float:
    """D/N in the report's own counting when a fit under another one asks for `tokens`.

    The runs do not care how their parameters are counted, so what two countings advise is compared
    by the tokens: D and the target's compute give N along the report's own cost curve.
    """
    log_c = math.log(study.target)
    low, high = 0.0, log_c
    for _ in range(80):
        middle = 0.5 * (low + high)
        cheap = float(study.cost.log_cost(np.asarray(middle))) + math.log(tokens) < log_c
        low, high = (middle, high) if cheap else (low, middle)
    return tokens / math.exp(0.5 * (low + high))


def vertex_biases(study: Study) -> dict[str, float]:
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


def detail_sections(
    study: Study,
    outcomes: Mapping[str, Outcome],
    conventions: Mapping[str, Mapping[str, Any]],
    envelope: EnvelopeReading | None = None,
    *,
    confidence: float = CONFIDENCE,
) -> dict[str, Any]:
    """The sections of `fit.json` beyond the answer itself.

    Args:
        study: what was computed; needs a fitted surface.
        outcomes: of the validation tests.
        conventions: of `ratios_by_convention`.
        envelope: what the training curves say, a further estimator on the sensitivity page.
        confidence: of the intervals of the uncertainty section.
    """
    fit = study.surface_fit
    assert fit is not None
    variants = _variants(study, fit, conventions, envelope)
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
        "model_form": _model_form(study, conventions),
        "profile": _profile_dict(study),
        "uncertainty": _uncertainty(study, fit, confidence),
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
    study: Study,
    fit: SurfaceFit,
    conventions: Mapping[str, Mapping[str, Any]],
    envelope: EnvelopeReading | None,
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
    if envelope is not None and envelope.fit is not None:
        ratio = envelope.fit.tokens_per_parameter(study.target)
        found += (variant("estimator", "envelope of training curves", ratio),)
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


def _uncertainty(study: Study, fit: SurfaceFit, confidence: float) -> dict[str, Any]:
    """The ratio's interval at the target by every route, beside the one that the headline took."""
    taken = ratio_interval(
        fit, study.draws.get(study.surface_name), study.target, study.cost, confidence=confidence
    )
    delta = ratio_interval(fit, None, study.target, study.cost, confidence=confidence)
    methods = [
        {
            "method": "delta",
            "interval": [delta.low, delta.high],
            "sd_ln_ratio": delta_sd(fit, study.target, study.cost),
        }
    ]
    for draws in _all_draws(study, fit):
        values = log_ratios_at(draws.theta, draws.centre, study.target, study.cost)
        tails = np.percentile(values, [50 * (1 - confidence), 50 * (1 + confidence)])
        methods.append(
            {
                "method": f"{draws.kind} bootstrap",
                "interval": [float(v) for v in np.exp(np.clip(tails, -700, 700))],
                "sd_ln_ratio": float(np.std(values, ddof=1)),
                "resamples": len(values),
                "units": draws.n_clusters,
                "failed": draws.failed,
            }
        )
    return {
        "target_flops": study.target,
        "law": study.surface_name,
        "confidence": confidence,
        "taken": taken.method,
        "methods": methods,
    }


def _all_draws(study: Study, fit: SurfaceFit) -> tuple[Draws, ...]:
    """Bootstraps of runs and of residuals; none with fewer than two resamples."""
    count, seed, name = study.resamples, study.seed, study.surface_name
    if count < 2:
        return ()
    runs = study.draws.get(name) or bootstrap(fit, study.groups, resamples=count, seed=seed)
    if fit.data.size <= fit.n_free:
        return (runs,)
    found = (
        runs,
        residual_bootstrap(fit, resamples=count, seed=seed),
        wild_bootstrap(fit, resamples=count, seed=seed),
    )
    if int(study.groups.max()) + 1 == fit.data.size:
        return found
    return (*found, wild_bootstrap(fit, groups=study.groups, resamples=count, seed=seed))


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


def _model_form(
    study: Study, conventions: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The ratio with the choices of law and of counting added to its own uncertainty.

    In quadrature; of the countings the spread of the advice counts, in the report's own D/N.
    """
    if study.selection is None:
        return None
    own = headline_sd(study)
    form = study.selection.sd_form
    advice = [math.log(c["tokens_per_parameter_as_reported"]) for c in conventions.values()]
    counting = (max(advice) - min(advice)) / 2 / math.sqrt(3) if len(advice) > 1 else 0.0
    total = math.hypot(own, form, counting)
    pooled = study.selection.pooled
    inside = math.isfinite(pooled) and math.isfinite(total) and 1.645 * total < 600
    half = 1.645 * total if inside else math.nan
    return {
        "pooled_tokens_per_parameter": pooled,
        "sd_ln_ratio_own": own,
        "sd_ln_ratio_form": form,
        "sd_ln_ratio_counting": counting,
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
