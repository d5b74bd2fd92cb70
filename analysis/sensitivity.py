"""What the headline ratio depends on: every leave-out, objective and estimator in one table.

Each leave-out is a refit with some weights set to zero, so all of them run as one batch. Runs are
dropped by *outcome* (the k highest losses) and by *design* (a floor on D/N): the published
reconstruction of Chinchilla's data moves from 6.8 to 31.2 tokens per parameter over the first and
only from 17 to 23 over the second, which is why exclusions must never follow outcomes silently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.cost import CostCurve
from analysis.fit import SurfaceFit, fit_surface, refit
from analysis.laws import CHINCHILLA, FloatArray
from analysis.spread import HUBER_PUBLISHED
from analysis.uncertainty import log_ratios_at

_DROPS = (1, 3, 5, 10, 20)
_FLOORS = (0.5, 1.0, 2.0, 5.0)
_MAX_GROUPS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """The ratio under one changed decision."""

    group: str
    """`drop_by_outcome`, `drop_by_design`, `leave_one_level`, `leave_one_size`, `objective`, ..."""
    name: str
    """What was changed."""
    n_points: int
    """Runs left."""
    tokens_per_parameter: float
    """D/N at the target."""
    shift: float
    """Change of ln(D/N) against the headline fit."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `fit.json`."""
        return {
            "group": self.group,
            "name": self.name,
            "n_points": self.n_points,
            "tokens_per_parameter": self.tokens_per_parameter,
            "shift": self.shift,
        }


def leave_outs(
    fit: SurfaceFit,
    N: FloatArray,
    D: FloatArray,
    L: FloatArray,
    levels: np.ndarray,
    *,
    flops: float,
    cost: CostCurve,
) -> tuple[Variant, ...]:
    """The ratio at a compute when runs are left out, by outcome, design, level and size.

    Args:
        fit: the fit to all runs; leave-outs keep its law and objective.
        N: parameters, shape (m,).
        D: tokens, shape (m,).
        L: losses, shape (m,).
        levels: level labels ('' = none), shape (m,).
        flops: the target compute.
        cost: FLOPs per token as a function of N.
    """
    cases: list[tuple[str, str, np.ndarray]] = []
    by_loss = np.argsort(-L, kind="stable")
    for k in _DROPS:
        if k <= 0.1 * len(L) + 1:
            keep = np.ones(len(L), dtype=bool)
            keep[by_loss[:k]] = False
            cases.append(("drop_by_outcome", f"without the {k} highest losses", keep))
    ratio = D / N
    for floor in sorted({*_FLOORS, round(float(np.quantile(ratio, 0.1)), 3)}):
        keep = ratio > floor
        if not keep.all():
            cases.append(("drop_by_design", f"D/N above {floor:g}", keep))
    for label in sorted({str(v) for v in levels if str(v)}):
        cases.append(("leave_one_level", f"without level {label}", levels != label))
    sizes = np.unique(N)
    if 3 < len(sizes) <= _MAX_GROUPS:
        cases += [("leave_one_size", f"without N = {s:.4g}", s != N) for s in sizes]
    cases = [c for c in cases if c[2].sum() > fit.n_free and len(np.unique(N[c[2]])) >= 3]
    if not cases:
        return ()
    solved = refit(fit, np.stack([c[2] for c in cases]) * fit.weights)
    values = log_ratios_at(solved.theta, fit.data.centre, flops, cost)
    base = float(log_ratios_at(fit.theta[None], fit.data.centre, flops, cost)[0])
    return tuple(
        Variant(
            group=group,
            name=name,
            n_points=int(keep.sum()),
            tokens_per_parameter=float(np.exp(value)),
            shift=float(value) - base,
        )
        for (group, name, keep), value in zip(cases, values, strict=True)
    )


def objectives(
    fit: SurfaceFit, N: FloatArray, D: FloatArray, L: FloatArray, *, flops: float, cost: CostCurve
) -> tuple[Variant, ...]:
    """The ratio of the same law under other objectives, from least squares to least deviations."""
    base = float(log_ratios_at(fit.theta[None], fit.data.centre, flops, cost)[0])
    variants = []
    for name, delta in (
        ("least squares in ln L", np.inf),
        ("Huber 1e-2", 1e-2),
        ("Huber 1e-3 (published)", HUBER_PUBLISHED),
        ("least absolute deviations", 1e-6),
    ):
        other = fit_surface(
            N,
            D,
            L,
            form=fit.form,
            huber_delta=delta,
            restriction=fit.restriction,
            priors=fit.priors,
        )
        value = float(log_ratios_at(other.theta[None], other.data.centre, flops, cost)[0])
        variants.append(
            Variant(
                group="objective",
                name=name,
                n_points=len(N),
                tokens_per_parameter=float(np.exp(value)),
                shift=value - base,
            )
        )
    return tuple(variants)


def with_excluded(
    fit: SurfaceFit, N: FloatArray, D: FloatArray, L: FloatArray, *, flops: float, cost: CostCurve
) -> Variant:
    """The ratio when excluded runs with a finite loss are fitted too.

    Args:
        fit: the fit without them.
        N: parameters of all runs with a finite loss, shape (m,).
        D: their tokens, shape (m,).
        L: their losses, shape (m,).
        flops: the target compute.
        cost: FLOPs per token as a function of N.
    """
    base = float(log_ratios_at(fit.theta[None], fit.data.centre, flops, cost)[0])
    other = fit_surface(N, D, L, form=CHINCHILLA, huber_delta=fit.huber_delta, priors=fit.priors)
    value = float(log_ratios_at(other.theta[None], other.data.centre, flops, cost)[0])
    return Variant(
        group="exclusions",
        name="with the excluded runs",
        n_points=len(N),
        tokens_per_parameter=float(np.exp(value)),
        shift=value - base,
    )
