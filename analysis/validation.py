"""Tests of a fit against its own data: T1 to T5, and the frozen forecast T6.

T1  leave the dearest runs out, predict their losses
T2  leave one level and one size out: largest move of the ratio in its own sds
T3  lack of fit against replicate seeds (F test)
T4  terms that the law lacks: t statistic of each when added to the fit
T5  agreement of the surface fit with the isoFLOP line and the envelope
T6  a forecast, hashed before the run that tests it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.fit import SurfaceFit, fit_surface
from analysis.laws import FloatArray
from analysis.numerals import spell
from analysis.quantiles import fisher_tail, student_quantile
from analysis.sensitivity import Variant

T2_LIMIT = 1.5
"""Shift of ln(D/N), in its sd, beyond which one level or size decides the answer."""
T4_LIMIT = 3.0
"""|t| beyond which a missing term is flagged."""
T5_LIMIT = 2.0
"""Disagreement of estimators, in their joint sd, that is flagged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One test's outcome."""

    test: str
    """`T1` to `T6`."""
    passed: bool | None
    """Whether it passed; None when the data do not allow the test."""
    message: str
    """What was found, in words."""
    numbers: Mapping[str, float]
    """The figures behind the words."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `fit.json`."""
        return {
            "test": self.test,
            "passed": self.passed,
            "message": self.message,
            "numbers": dict(self.numbers),
        }


def largest_compute_holdout(
    fit: SurfaceFit, N: FloatArray, D: FloatArray, C: FloatArray, L: FloatArray
) -> Outcome:
    """T1: refit without the dearest fifth (or level) of the runs and predict their losses."""
    limit = np.log(C).max() - 0.02
    held = np.log(C) >= min(limit, float(np.quantile(np.log(C), 0.8)))
    train = ~held
    if train.sum() < fit.n_free + 3 or len(np.unique(N[train])) < 3:
        return Outcome(
            test="T1",
            passed=None,
            message="too few cheaper runs to predict the dearest ones",
            numbers={},
        )
    part = fit_surface(
        N[train],
        D[train],
        L[train],
        form=fit.form,
        huber_delta=fit.huber_delta,
        restriction=fit.restriction,
        priors=fit.priors,
    )
    n, d = np.log(N[held]) - part.data.centre[0], np.log(D[held]) - part.data.centre[1]
    error = part.form.log_loss(part.theta, n, d) - np.log(L[held])
    jacobian = part.form.jacobian(part.theta, n, d)
    covariance = np.nan_to_num(part.covariance, nan=0.0)
    mean_variance = np.einsum("mi,ij,mj->m", jacobian, covariance, jacobian)
    sd = np.sqrt(np.maximum(mean_variance, 0.0) + part.noise_sd**2)
    quantile = student_quantile(0.975, part.degrees_of_freedom)
    inside = float(np.mean(np.abs(error) <= quantile * sd))
    bias = float(error.mean())
    bias_sd = float(
        np.sqrt(np.mean(np.maximum(mean_variance, 0.0)) + part.noise_sd**2 / len(error))
    )
    passed = bool(inside >= 0.6 and abs(bias) <= 3 * bias_sd)
    return Outcome(
        test="T1",
        passed=passed,
        message=f"{int(held.sum())} dearest runs predicted from the rest: error "
        f"{np.sqrt(np.mean(error**2)):.2%} (mean {bias:+.2%}), {inside:.0%} inside the 95 % "
        "prediction interval",
        numbers={
            "n_held_out": float(held.sum()),
            "rms": float(np.sqrt(np.mean(error**2))),
            "bias": bias,
            "bias_sd": bias_sd,
            "inside_95": inside,
        },
    )


def leave_one_out(variants: Sequence[Variant], sd_ln_ratio: float) -> Outcome:
    """T2: the largest move of the ratio when one level or one size is left out."""
    moves = [v for v in variants if v.group in ("leave_one_level", "leave_one_size")]
    if not moves or not sd_ln_ratio > 0:
        return Outcome(test="T2", passed=None, message="nothing to leave out", numbers={})
    worst = max(moves, key=lambda v: abs(v.shift))
    size = abs(worst.shift) / sd_ln_ratio
    return Outcome(
        test="T2",
        passed=size <= T2_LIMIT,
        message=f"{worst.name}, D/N moves to {spell(worst.tokens_per_parameter)}: {size:.1f} of "
        f"its standard deviations (limit {T2_LIMIT})",
        numbers={"shift": worst.shift, "shift_in_sd": size},
    )


def lack_of_fit(fit: SurfaceFit, group: np.ndarray) -> Outcome:
    """T3: residual variance against the variance of replicates.

    F = [(SSR - SS_pe)/(m - p - nu)]/(SS_pe/nu) with nu replicate degrees of freedom.

    Args:
        fit: the fit.
        group: replicate group of each run, shape (m,), integers from 0.
    """
    y = fit.data.y
    counts = np.bincount(group)
    means = np.bincount(group, weights=y) / counts
    pure = float(((y - means[group]) ** 2).sum())
    freedom = int((counts - 1).sum())
    rest = fit.data.size - fit.n_free - freedom
    if freedom < 1 or rest < 1 or pure <= 0:
        return Outcome(
            test="T3",
            passed=None,
            message="no replicate seeds: lack of fit cannot be told from noise",
            numbers={},
        )
    ssr = float((fit.residuals**2).sum())
    statistic = max(ssr - pure, 0.0) / rest / (pure / freedom)
    p = fisher_tail(statistic, rest, freedom)
    return Outcome(
        test="T3",
        passed=p >= 0.01,
        message=f"lack of fit: F = {statistic:.3g} on {rest} and {freedom} degrees of freedom, "
        f"p = {p:.2g}; residuals {np.sqrt(ssr / max(1, fit.data.size - fit.n_free)):.2%}, "
        f"seeds {np.sqrt(pure / freedom):.2%}",
        numbers={"F": statistic, "p": p, "seed_sd": float(np.sqrt(pure / freedom))},
    )


def missing_terms(fit: SurfaceFit, extra: Mapping[str, FloatArray] | None = None) -> Outcome:
    """T4: t statistics of terms that the law lacks, each added alone to the fit.

    Args:
        fit: the fit.
        extra: other candidate terms by name (ln steps, ln batch), shape (m,) each.
    """
    n, d = fit.data.n, fit.data.d
    terms = {"ln N * ln D": n * d, "(ln N)^2": n * n, "(ln D)^2": d * d, "(ln D/N)^2": (d - n) ** 2}
    terms.update(extra or {})
    jacobian = fit.form.jacobian(fit.theta, n, d)
    freedom = fit.data.size - fit.n_free - 1
    if freedom < 2:
        return Outcome(test="T4", passed=None, message="too few runs to add a term", numbers={})
    orthogonal, _ = np.linalg.qr(jacobian)
    values = {}
    for name, term in terms.items():
        centred = term - term.mean()
        own = centred - orthogonal @ (orthogonal.T @ centred)
        norm = float(own @ own)
        if norm <= 1e-9 * max(float(centred @ centred), 1e-300):
            continue
        slope = float(own @ fit.residuals) / norm
        left = fit.residuals - orthogonal @ (orthogonal.T @ fit.residuals) - slope * own
        sd = float(np.sqrt(left @ left / freedom))
        values[name] = float(slope / max(sd / np.sqrt(norm), 1e-300))
    if not values:
        return Outcome(test="T4", passed=None, message="no term can be told apart", numbers={})
    worst = max(values, key=lambda k: abs(values[k]))
    return Outcome(
        test="T4",
        passed=bool(abs(values[worst]) <= T4_LIMIT),
        message=f"largest missing term: {worst}, t = {values[worst]:.1f} (limit {T4_LIMIT:.0f})",
        numbers=values,
    )


def estimators_agree(
    log_ratio_surface: float,
    sd_surface: float,
    others: Mapping[str, tuple[float, float]],
) -> Outcome:
    """T5: every other estimator's ln(D/N) within two joint sds of the surface fit's.

    Args:
        log_ratio_surface: ln(D/N) by the surface fit.
        sd_surface: its standard deviation.
        others: by estimator (`isoFLOP line`, `envelope`), its ln(D/N) and standard deviation.
    """
    apart = {
        name: (value - log_ratio_surface, float(np.hypot(sd_surface, sd)))
        for name, (value, sd) in others.items()
        if np.isfinite(sd + sd_surface)
    }
    if not apart:
        return Outcome(
            test="T5", passed=None, message="no isoFLOP line to compare with", numbers={}
        )
    words = ", ".join(
        f"{name} {spell(np.exp(log_ratio_surface + gap))} ({abs(gap) / joint:.1f} joint standard "
        "deviations apart)"
        for name, (gap, joint) in apart.items()
    )
    worst = max(apart, key=lambda name: abs(apart[name][0]) / apart[name][1])
    gap, joint = apart[worst]
    return Outcome(
        test="T5",
        passed=bool(abs(gap) <= T5_LIMIT * joint),
        message=f"tokens per parameter: surface fit {spell(np.exp(log_ratio_surface))}, {words}",
        numbers={"gap": gap, "joint_sd": joint},
    )


def freeze_forecast(forecast: Mapping[str, Any]) -> dict[str, Any]:
    """T6: a forecast with the SHA-256 of its canonical JSON, to be stored before the run.

    Args:
        forecast: plain values: what is forecast (params, tokens, flops), `loss`, `interval`, and
            the date, which the caller supplies.
    """
    body = dict(forecast)
    return {"forecast": body, "sha256": _digest(body)}


def check_forecast(frozen: Mapping[str, Any], observed_loss: float) -> Outcome:
    """T6: a frozen forecast against what the run then gave.

    Raises:
        ValueError: when the record no longer matches its hash, or lacks loss or interval.
    """
    body = frozen.get("forecast")
    if not isinstance(body, Mapping) or _digest(body) != frozen.get("sha256"):
        raise ValueError("the forecast does not match its hash: it was changed after freezing")
    if "loss" not in body or "interval" not in body:
        raise ValueError("a forecast needs 'loss' and 'interval'")
    loss, (low, high) = float(body["loss"]), (float(v) for v in body["interval"])
    return Outcome(
        test="T6",
        passed=low <= observed_loss <= high,
        message=f"forecast {loss:.4f} [{low:.4f}, {high:.4f}], observed {observed_loss:.4f} "
        f"({observed_loss / loss - 1:+.2%})",
        numbers={"forecast": loss, "observed": observed_loss},
    )


def _digest(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
