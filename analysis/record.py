"""Laws, levels, lines and checks as the plain values that `fit.json` holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.checks import MAX_FAILED, Check
from analysis.fit import SurfaceFit
from analysis.floor import profile_floor
from analysis.isoflop import FrontierLine, LevelFit
from analysis.quantiles import normal_quantile
from analysis.study import Study
from analysis.table import LossTable
from analysis.uncertainty import Draws, log_ratios_at, ratio_interval

_EXPONENTS = {"alpha", "beta", "kappa"}


def law_record(
    study: Study, name: str, confidence: float, *, profiled: bool = True
) -> dict[str, Any]:
    """One fitted surface: its numbers, its D/N at the target, certificate and intervals.

    Args:
        study: the fits and their refits.
        name: of the law.
        confidence: of the intervals.
        profiled: whether E is profiled where the refits do not tell it, which takes a while.
    """
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
            **_floor_interval(fit, draws, confidence, evaluation_sd(study.table), profiled),
            "tokens_per_parameter": [at_target.low, at_target.high],
            "confidence": confidence,
            "method": at_target.method,
        },
    }
    if fit.form.n_params == 6:
        record["k"] = surface.k
    return record


def evaluation_sd(table: LossTable) -> float:
    """Standard error of ln L that all runs share: they are evaluated on one held-out text.

    It moves every loss alike, so no residual shows it, and the irreducible loss with them. The
    median of `loss_sd` over the loss; 0 where the table does not tell it.
    """
    if not table.has("loss_sd"):
        return 0.0
    return float(np.median(table.column("loss_sd") / table.loss))


def _parameter_intervals(
    fit: SurfaceFit, draws: Draws | None, confidence: float
) -> dict[str, list[float]]:
    """Percentile intervals of the law's parameters but E; empty without a bootstrap.

    A parameter that ended at a limit would have a falsely narrow one, for its resamples end there
    too; where that is an exponent, none is given.
    """
    if draws is None or _EXPONENTS & {*fit.at_bound}:
        return {}
    a, b, _, alpha, beta = (draws.theta[:, j] for j in range(5))
    values = {
        "A": np.exp(np.clip(a + alpha * draws.centre[0], -700, 700)),
        "B": np.exp(np.clip(b + beta * draws.centre[1], -700, 700)),
        "alpha": alpha,
        "beta": beta,
        "exponent_N": beta / (alpha + beta),
        "exponent_D": alpha / (alpha + beta),
    }
    tails = _tails(confidence)
    return {name: [float(v) for v in np.percentile(x, tails)] for name, x in values.items()}


def _floor_interval(
    fit: SurfaceFit, draws: Draws | None, confidence: float, shared: float, profiled: bool
) -> dict[str, Any]:
    """The interval of E and how it was made; empty where neither refits nor a profile tell it.

    Percentiles of the refits, where they stay inside the limits of the exponents; else, or without
    refits, the profile likelihood, whose lower end is 0 where the runs do not keep E from it.
    Pinned exponents are an assumption, and E under them no measurement. Either carries the shared
    error of the evaluation, an sd of ln L.
    """
    restriction = fit.restriction
    if restriction is not None and not restriction.basis[:, 3:5].any():
        return {}
    at_limit = {"e", "kappa"} & {*fit.at_bound}  # a refit at one of these did not fail
    if draws is not None and draws.failed <= MAX_FAILED and not at_limit:
        low, high = (float(v) for v in np.percentile(np.exp(draws.theta[:, 2]), _tails(confidence)))
        method = f"{draws.kind} bootstrap"
    else:
        found = profile_floor(fit, confidence=confidence) if profiled else None
        if found is None or not math.isfinite(found[1]):
            return {}
        (low, high), method = found, "profile"
    extra = normal_quantile(0.5 + confidence / 2) * shared
    if extra > 0:
        estimate = fit.surface.E
        up = math.hypot(max(0.0, math.log(high / estimate)), extra)
        high = estimate * math.exp(up)
        if low > 0:
            low = estimate * math.exp(-math.hypot(max(0.0, math.log(estimate / low)), extra))
    return {"E": [low, high], "E_method": method}


def _tails(confidence: float) -> list[float]:
    """The two percentiles that leave the same out on both sides."""
    return [50 * (1 - confidence), 50 * (1 + confidence)]


def level_record(level: LevelFit) -> dict[str, Any]:
    """One isoFLOP level: its minimum, whether it counts, and the parabola."""
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


def line_record(line: FrontierLine | None) -> dict[str, Any] | None:
    """The line through the isoFLOP minima; None without one."""
    if line is None:
        return None
    return {
        "exponent_N": line.exponent,
        "exponent_N_sd": math.sqrt(line.variance[1]),
        "params_at": {"flops": math.exp(line.log_flops), "params": math.exp(line.log_params)},
        "n_levels": line.n_levels,
    }


def check_record(check: Check) -> dict[str, Any]:
    """One refusal rule's outcome."""
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
