"""Where a fitted law over named inputs has its optimum at a compute, and how sure that is.

In: a `FamilyFit`, the covariance of its parameters and the runs' inputs. Out: a `FoundOptimum`: the
point of least loss along the runs' own cost, its delta-method interval, and the rules R2 (inside
what was sampled), R3 (not far beyond it) and R4 (narrow enough).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from analysis.checks import (
    EXTRAPOLATION_REFUSE,
    EXTRAPOLATION_WARN,
    FOLD_REFUSE,
    FOLD_WARN,
    Check,
)
from analysis.cost import read_cost
from analysis.family import FamilyFit, optimum_along
from analysis.law_inputs import LawInputs
from analysis.laws import FloatArray, FlopsPerToken, Optimum
from analysis.numerals import spell
from analysis.quantiles import student_quantile
from analysis.uncertainty import CONFIDENCE, Interval

_BELOW, _ABOVE = 1e-2, 1e4
"""How far beyond the smallest and the largest model of the runs the optimum is sought."""
_STEP = 1e-4
"""Relative step of the central difference of ln(D/N) by a parameter."""


@dataclass(frozen=True, kw_only=True)
class FoundOptimum:
    """The optimum of a fitted law at a compute, with what the rules say of it."""

    optimum: Optimum | None
    """None where the law has no minimum there, or no interval of D/N can be computed."""
    interval: Interval | None
    """Of D/N at the optimum."""
    checks: tuple[Check, ...]
    """R2, R3, R4."""
    notes: tuple[str, ...]
    """What was held fixed, and at what."""


def find_optimum(
    fit: FamilyFit,
    covariance: FloatArray,
    data: LawInputs,
    held: Mapping[str, float],
    target: float,
    *,
    confidence: float = CONFIDENCE,
) -> FoundOptimum:
    """The optimum along the runs' cost, its delta-method interval, and the rules on both.

    Args:
        fit: of a law that knows model size and data.
        covariance: of its parameters, shape (p, p); NaN where the runs do not determine one.
        data: inputs of the runs, with N, D and C.
        held: parameters that were not fitted.
        target: compute, FLOPs.
        confidence: of the interval of D/N.
    """
    assert data.params is not None
    assert data.tokens is not None
    assert data.flops is not None
    cost, notes = _cost(data.params, data.tokens, data.flops, data.active)
    kept, more = _kept(fit, data, data.tokens)
    notes += more
    reach = _reach(target / float(data.flops.max()))
    low, high = float(data.params.min()) * _BELOW, float(data.params.max()) * _ABOVE

    def at(theta: FloatArray) -> Optimum:
        return optimum_along(fit.family, theta, target, cost, low=low, high=high, **kept)

    try:
        best = at(fit.theta)
        gradient = _gradient(fit, held, lambda theta: math.log(at(theta).tokens_per_parameter))
    except ValueError as error:
        nowhere = Check(rule="R2", passed=False, severity="refuse", message=str(error))
        return _refused([nowhere, reach], notes)
    inside = _inside(best.tokens_per_parameter, data.tokens / data.params)
    moving = np.abs(gradient) > 0
    variance = float(gradient[moving] @ covariance[np.ix_(moving, moving)] @ gradient[moving])
    if not variance >= 0:
        words = "the interval of D/N at the target cannot be computed"
        unknown = Check(rule="R4", passed=False, severity="refuse", message=words)
        return _refused([inside, unknown, reach], notes)
    freedom = max(1, len(data.loss) - len(fit.theta) + len(held))

    def interval(level: float) -> Interval:
        half = student_quantile(0.5 + level / 2, freedom) * math.sqrt(variance)
        return Interval(
            low=best.tokens_per_parameter * math.exp(-min(half, 300.0)),
            high=best.tokens_per_parameter * math.exp(min(half, 300.0)),
            confidence=level,
            method="delta",
        )

    return FoundOptimum(
        optimum=best,
        interval=interval(confidence),
        checks=(inside, _narrow(interval(0.95).fold), reach),
        notes=tuple(notes),
    )


def _refused(checks: list[Check], notes: list[str]) -> FoundOptimum:
    return FoundOptimum(optimum=None, interval=None, checks=tuple(checks), notes=tuple(notes))


def _gradient(
    fit: FamilyFit, held: Mapping[str, float], value: Callable[[FloatArray], float]
) -> FloatArray:
    """Central differences by the parameters that were fitted and are at no limit, shape (p,)."""
    gradient = np.zeros(len(fit.theta))
    for i, name in enumerate(fit.family.parameters):
        if name in held or name in fit.at_bound:
            continue
        step = np.zeros(len(fit.theta))
        step[i] = _STEP * max(abs(fit.theta[i]), 1e-2)
        gradient[i] = (value(fit.theta + step) - value(fit.theta - step)) / (2 * step[i])
    return gradient


def _cost(
    N: FloatArray, D: FloatArray, C: FloatArray, active: FloatArray | None
) -> tuple[FlopsPerToken, list[str]]:
    """FLOPs per token by N: as the table's flops say, of the active share of N where that is told.

    What a token costs beyond 6 per active parameter fades with size; the share that is active does
    not, so the two are read apart.
    """
    if active is None:
        return read_cost(N, D, C), []
    share = float(np.exp(np.mean(np.log(active / N))))
    curve = read_cost(active, D, C)
    note = f"a token costs what {share:.3g} of the parameters cost, the active share"
    return (lambda size: curve(share * np.asarray(size))), [note]


def _kept(fit: FamilyFit, data: LawInputs, D: FloatArray) -> tuple[dict[str, float], list[str]]:
    """The other inputs of the optimum, held at what the runs had, and that in words."""
    kept: dict[str, float] = {}
    notes = []
    for name in fit.family.kept_inputs:
        values = data.inputs[name]
        # Of unique tokens more is always better: the most that a run had is what there is.
        kept[name] = float(values.max() if name == "U" else np.median(values))
        which = "the largest" if name == "U" else "the median"
        notes.append(f"the optimum is for {name} = {kept[name]:.4g}, {which} of the runs")
    if fit.family.remark is not None:
        notes.append(fit.family.remark(fit.theta, float(D.max())))
    return kept, notes


def _inside(found: float, ratios: FloatArray) -> Check:
    low, high = float(ratios.min()), float(ratios.max())
    return Check(
        rule="R2",
        passed=low / 2 <= found <= 2 * high,
        severity="refuse",
        message=f"D/N at the target is {spell(found)}; sampled are {spell(low)} to {spell(high)}",
    )


def _narrow(fold: float) -> Check:
    return Check(
        rule="R4",
        passed=fold <= FOLD_WARN,
        severity="refuse" if fold > FOLD_REFUSE else "warn",
        message=f"the 95 % interval of D/N at the target spans {spell(fold)}x; beyond "
        f"{FOLD_WARN:.0f}x is weak, beyond {FOLD_REFUSE:.0f}x refused",
    )


def _reach(times: float) -> Check:
    return Check(
        rule="R3",
        passed=times <= EXTRAPOLATION_WARN,
        severity="refuse" if times > EXTRAPOLATION_REFUSE else "warn",
        message=f"the target is {spell(times)}x the largest run; beyond {EXTRAPOLATION_WARN:.0f}x "
        f"is weak, beyond {EXTRAPOLATION_REFUSE:.0f}x refused",
    )
