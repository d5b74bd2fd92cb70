"""A law over named inputs fitted to a table: what it says, how sure, and what the data left out.

In: a table with the law's own columns. Out: a `FamilyReport`, in the form of `fit.json`: fitted
parameters with standard errors, checks by the rules' names, the plain five-parameter law on the
same runs beside it, and the optimum along the runs' own cost where the law has one.

How many parameters are fitted is chosen by the data: one that no run touches (repetition where
nothing is repeated) keeps its published value, and so do those that a law sheds first where the
runs are fewer than its parameters plus two. What was held is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.checks import Check, Status, status_of
from analysis.family import Family, FamilyFit, fit_family
from analysis.family_optimum import find_optimum
from analysis.fit import SurfaceFit, fit_surface
from analysis.law_inputs import LawInputs
from analysis.laws import FloatArray, Optimum
from analysis.numerals import spell
from analysis.record import check_record, finite
from analysis.uncertainty import CONFIDENCE, Interval

_SPARE = 2
"""Runs beyond the fitted parameters without which nothing can be said about the fit."""
_HELD_OUT = 0.25
"""Dearest share of the runs that the hold-out predicts."""


@dataclass(frozen=True, kw_only=True)
class FamilyReport:
    """What one law says about one table."""

    family: Family
    """The law."""
    status: Status
    """`identified`, `weak` or `not_identified`."""
    message: str
    """The verdict in words."""
    n_points: int
    """Runs in the fit."""
    fit: FamilyFit | None
    """The fitted law; None with too few runs."""
    sd: Mapping[str, float]
    """Standard errors of the fitted parameters; NaN where the runs do not determine one."""
    held: Mapping[str, float]
    """Parameters kept at their published values."""
    plain: SurfaceFit | None
    """Chinchilla's law on the same runs; None where they have no N and D, or too few."""
    optimum: Optimum | None
    """Of the target compute; None where the law has none, or the rules refuse it."""
    interval: Interval | None
    """Of D/N at the optimum."""
    max_flops: float | None
    """Largest C of the runs."""
    checks: tuple[Check, ...]
    """Outcome of every rule that applies."""
    warnings: tuple[str, ...]
    """Everything else a reader must know."""

    def __str__(self) -> str:
        lines = [f"status: {self.status}", self.message, *self.law_lines()]
        lines += [f"{c.rule} ({c.severity}): {c.message}" for c in self.checks if not c.passed]
        return "\n".join([*lines, *(f"warning: {w}" for w in self.warnings)])

    def law_lines(self) -> list[str]:
        """The fitted parameters in words."""
        if self.fit is None:
            return []
        values = dict(zip(self.family.parameters, map(float, self.fit.theta), strict=True))
        shown = [
            f"{name} {value:.4g} (held)"
            if name in self.held
            else f"{name} {value:.4g} +- {self.sd[name]:.2g}"
            if math.isfinite(self.sd[name])
            else f"{name} {value:.4g} (not determined)"
            for name, value in values.items()
        ]
        return [f"{self.family.name}: {', '.join(shown)}"]

    def to_dict(self) -> dict[str, Any]:
        """The report as `fit.json` holds it."""
        laws: dict[str, Any] = {}
        if self.fit is not None:
            laws[self.family.name] = {
                **dict(zip(self.family.parameters, map(float, self.fit.theta), strict=True)),
                "sd": dict(self.sd),
                "held": dict(self.held),
                "objective": self.fit.objective,
                "rms": self.fit.rms,
                "at_bound": list(self.fit.at_bound),
                "starts_agreeing": self.fit.starts_agreeing,
                "source": self.family.source,
            }
        if self.plain is not None:
            laws["chinchilla"] = {**self.plain.to_dict(), "rms": _rms(self.plain.residuals)}
        return finite(
            {
                "schema": "sweep.fit/1",
                "status": self.status,
                "message": self.message,
                "n_points": self.n_points,
                "headline_law": self.family.name if self.status != "not_identified" else None,
                "laws": laws,
                "isoflop": [],
                "optimum": [] if self.optimum is None else [self._optimum_record()],
                "conventions": {},
                "checks": [check_record(check) for check in self.checks],
                "warnings": list(self.warnings),
            }
        )

    def _optimum_record(self) -> dict[str, Any]:
        at, interval = self.optimum, self.interval
        assert at is not None
        assert interval is not None
        assert self.max_flops is not None
        return {
            "flops": at.flops,
            "params": at.params,
            "tokens": at.tokens,
            "tokens_per_parameter": at.tokens_per_parameter,
            "interval": [interval.low, interval.high],
            "confidence": interval.confidence,
            "method": interval.method,
            "near_optimal": {},
            "extrapolation": at.flops / self.max_flops,
            "loss": at.loss,
        }


def fit_law_to_inputs(
    family: Family,
    data: LawInputs,
    *,
    target_flops: float | None = None,
    huber_delta: float | None = None,
    confidence: float = CONFIDENCE,
) -> FamilyReport:
    """Fit a law to its inputs and say what the runs carry.

    Args:
        family: the law.
        data: of `read_law_inputs`.
        target_flops: compute at which the optimum is wanted; None = the largest run's.
        huber_delta: Huber width in ln L; None = least squares.
        confidence: of the interval of D/N.
    """
    warnings = list(data.notes)
    held = _held(family, data, warnings)
    n_free = len(family.parameters) - len(held)
    count = len(data.loss)
    enough = count >= n_free + _SPARE
    checks = [
        Check(
            rule="R1",
            passed=enough,
            severity="refuse",
            message=f"{count} runs for {n_free} parameters; needs {n_free + _SPARE}",
        )
    ]
    fit: FamilyFit | None = None
    covariance: FloatArray | None = None
    sd: dict[str, float] = dict.fromkeys(family.parameters, math.nan)
    plain = _plain(data, huber_delta)
    if enough:
        width = np.inf if huber_delta is None else huber_delta
        every: dict[str, Any] = dict(data.inputs)
        fit = fit_family(family, data.loss, huber_delta=width, held=held, **every)
        covariance = _covariance(fit, data, held)
        sd = {
            name: math.sqrt(v) if v >= 0 else math.nan
            for name, v in zip(family.parameters, np.diag(covariance), strict=True)
        }
        checks += _fit_checks(fit, sd, held)
        checks += _holdout_check(family, data, held, width, plain, fit.theta)
    found, top = None, None
    if fit is not None and covariance is not None and family.has_optimum and data.flops is not None:
        top = float(data.flops.max())
        target = top if target_flops is None else target_flops
        found = find_optimum(fit, covariance, data, held, target, confidence=confidence)
        warnings += found.notes
        checks += found.checks
    elif target_flops is not None and not family.has_optimum:
        warnings.append(
            f"{family.name} does not know model size and data both: it has no optimum at a compute"
        )
    status = status_of(checks)
    optimum = interval = None
    if found is not None and status != "not_identified":
        optimum, interval = found.optimum, found.interval
    return FamilyReport(
        family=family,
        status=status,
        message=_message(family, status, checks, fit, plain, held, optimum, interval, count),
        n_points=count,
        fit=fit,
        sd=sd,
        held=held,
        plain=plain,
        optimum=optimum,
        interval=interval,
        max_flops=top,
        checks=tuple(checks),
        warnings=tuple(warnings),
    )


def _held(family: Family, data: LawInputs, warnings: list[str]) -> dict[str, float]:
    """Parameters to keep at published values: untouched by the runs, or too many for them."""
    published = dict(zip(family.parameters, family.published, strict=True))
    slopes = family.jacobian(np.array(family.published), **data.inputs)
    reach = np.abs(slopes).max(axis=0)
    held = {
        name: published[name]
        for name, largest in zip(family.parameters, reach, strict=True)
        if name in family.shed and largest == 0.0
    }
    if held:
        named = ", ".join(f"{name} at {value:g}" for name, value in held.items())
        warnings.append(
            f"no run depends on {', '.join(held)}: kept at the published value ({named})"
        )
    few = []
    for name in family.shed:
        if len(data.loss) >= len(family.parameters) - len(held) + _SPARE:
            break
        if name not in held:
            held[name] = published[name]
            few.append(f"{name} at {published[name]:g}")
    if few:
        warnings.append(
            f"{len(data.loss)} runs are too few for all {len(family.parameters)} parameters: "
            f"{', '.join(few)} kept at published values"
        )
    return held


def _plain(data: LawInputs, huber_delta: float | None) -> SurfaceFit | None:
    """Chinchilla's law on the same runs, for comparison."""
    N, D = data.params, data.tokens
    if N is None or D is None or len(N) < 6 or min(len(np.unique(N)), len(np.unique(D))) < 3:
        return None
    width = np.inf if huber_delta is None else huber_delta
    return fit_surface(N, D, data.loss, huber_delta=width)


def _covariance(fit: FamilyFit, data: LawInputs, held: Mapping[str, float]) -> FloatArray:
    """sigma^2 (J'J)^-1 over the fitted parameters, shape (p, p); NaN where not determined."""
    names = fit.family.parameters
    free = [i for i, n in enumerate(names) if n not in held and n not in fit.at_bound]
    covariance = np.full((len(names), len(names)), np.nan)
    jacobian = fit.family.jacobian(fit.theta, **data.inputs)[:, free]
    scale = np.sqrt((jacobian**2).sum(axis=0))
    if (scale <= 0).any() or len(data.loss) <= len(free):
        return covariance
    information = (jacobian / scale).T @ (jacobian / scale)
    if np.linalg.cond(information) > 1e14:
        return covariance
    spread = float(fit.residuals @ fit.residuals) / (len(data.loss) - len(free))
    inverse = np.linalg.inv(information) / np.outer(scale, scale)
    covariance[np.ix_(free, free)] = spread * inverse
    for i, name in enumerate(names):
        if name in held:
            covariance[i, :] = covariance[:, i] = 0.0
    return covariance


def _fit_checks(fit: FamilyFit, sd: Mapping[str, float], held: Mapping[str, float]) -> list[Check]:
    lost = [n for n, v in sd.items() if n not in held and n not in fit.at_bound and not v >= 0]
    return [
        Check(
            rule="R5",
            passed=not fit.at_bound,
            severity="warn",
            message=f"ended at a limit: {', '.join(fit.at_bound)}; the runs do not determine it"
            if fit.at_bound
            else "no parameter at a limit",
        ),
        Check(
            rule="R5",
            passed=not lost,
            severity="refuse",
            message="the runs do not determine the parameters: their effects cannot be told apart"
            if lost
            else "every fitted parameter is determined",
        ),
        Check(
            rule="R6",
            passed=fit.starts_agreeing > 1,
            severity="warn",
            message=f"{fit.starts_agreeing} starts reached the least objective",
        ),
    ]


def _holdout_check(
    family: Family,
    data: LawInputs,
    held: Mapping[str, float],
    width: float,
    plain: SurfaceFit | None,
    theta: FloatArray,
) -> list[Check]:
    """R7: the dearest quarter predicted from the rest, beside the plain law's prediction."""
    if plain is None or data.flops is None:
        return []
    assert data.params is not None
    assert data.tokens is not None
    train = data.flops < np.quantile(data.flops, 1.0 - _HELD_OUT)
    n_free = len(family.parameters) - len(held)
    N, D, L = data.params, data.tokens, data.loss
    few = train.sum() < max(n_free, 5) + _SPARE or (~train).sum() == 0
    if few or min(len(np.unique(N[train])), len(np.unique(D[train]))) < 3:
        return []

    def rows(keep: np.ndarray) -> dict[str, Any]:
        return {name: values[keep] for name, values in data.inputs.items()}

    part = fit_family(
        family, L[train], huber_delta=width, held=held, start=theta, starts=3, **rows(train)
    )
    own = _rms(np.log(family.loss(part.theta, **rows(~train)) / L[~train]))
    other = fit_surface(N[train], D[train], L[train], huber_delta=width).surface
    theirs = _rms(np.log(other.loss(N[~train], D[~train]) / L[~train]))
    return [
        Check(
            rule="R7",
            passed=own <= theirs,
            severity="warn",
            message=f"{int((~train).sum())} dearest runs predicted from the rest: this law errs by "
            f"{own:.2%}, the five-parameter law by {theirs:.2%}",
        )
    ]


def _message(
    family: Family,
    status: Status,
    checks: list[Check],
    fit: FamilyFit | None,
    plain: SurfaceFit | None,
    held: Mapping[str, float],
    optimum: Optimum | None,
    interval: Interval | None,
    count: int,
) -> str:
    failed = [c for c in checks if not c.passed and c.severity != "note"]
    if status == "not_identified":
        words = "; ".join(f"{c.rule}: {c.message}" for c in failed if c.severity == "refuse")
        text = f"NOT IDENTIFIED. {words}. Asked: {family.name}"
        return f"{text}." if fit is None else f"{text}, which leaves residuals of {fit.rms:.2%}."
    assert fit is not None
    text = (
        f"{family.name}, the law that was asked for, fitted with "
        f"{len(family.parameters) - len(held)} parameters to {count} runs: residuals {fit.rms:.2%}"
    )
    if plain is not None:
        text += f", the five-parameter law {_rms(plain.residuals):.2%} on the same runs"
    if optimum is not None and interval is not None:
        text += (
            f"; {spell(optimum.tokens_per_parameter)} tokens per parameter at "
            f"{optimum.flops:.3g} FLOPs ({interval.confidence:.0%} interval {spell(interval.low)} "
            f"to {spell(interval.high)})"
        )
    text += "."
    if status == "weak":
        text += " Weak: " + "; ".join(f"{c.rule}: {c.message}" for c in failed) + "."
    return text


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.asarray(values) ** 2)))
