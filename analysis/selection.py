"""Which law: rolling hold-out in compute, and the ratio under every law.

The form of the law moves the optimal D/N more than sampling noise does, and in-sample fit always
prefers more parameters. So each candidate is fitted to the cheaper runs and asked for the losses of
the dearer ones, at several cuts; its score is the root mean square of those errors in ln L. The
laws' ratios at the target are pooled with weights 1/score^2, and half their spread over sqrt(3)
is the standard deviation that the choice of form adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.cost import CostCurve
from analysis.fit import SurfaceFit, fit_surface, pinned_exponents, refit, tied_exponents
from analysis.laws import CHINCHILLA, SKALING, FloatArray, LawForm
from analysis.newton import Restriction
from analysis.priors import Prior
from analysis.uncertainty import delta_sd, log_ratios_at

PINNED = (0.3478, 0.3658)
"""Exponents of the 3-parameter law: Besiroglu et al. 2024, table 1."""
_CUTS = (0.5, 0.6, 0.7, 0.8)
"""Shares of the runs, cheapest first, that the hold-out fits are given."""
COMPETITIVE = 1.5
"""Laws within this factor of the best hold-out error count for the spread of the ratio."""
CLEARLY_BETTER = 0.75
"""A law replaces Chinchilla's as headline when its hold-out error is below this share of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A law that may be fitted."""

    name: str
    """`pinned`, `tied`, `chinchilla` or `skaling`."""
    form: LawForm
    """Its form."""
    n_params: int
    """Fitted parameters."""
    formula: str
    """The law in words."""


CANDIDATES = (
    Candidate(
        name="pinned",
        form=CHINCHILLA,
        n_params=3,
        formula="E + A N^-0.3478 + B D^-0.3658 (exponents of Besiroglu et al. 2024)",
    ),
    Candidate(
        name="tied",
        form=CHINCHILLA,
        n_params=4,
        formula="E + A N^-alpha + B D^-alpha (D/N constant)",
    ),
    Candidate(name="chinchilla", form=CHINCHILLA, n_params=5, formula="E + A N^-alpha + B D^-beta"),
    Candidate(name="skaling", form=SKALING, n_params=6, formula="E + (A N^-alpha + B D^-beta)^k"),
)
"""Laws compared, fewest parameters first."""


@dataclass(frozen=True, kw_only=True)
class LawScore:
    """One law's record."""

    name: str
    """The law."""
    n_params: int
    """Fitted parameters."""
    in_sample: float
    """Root mean square residual in ln L over all runs."""
    holdout: float
    """Root mean square error in ln L on held-out dearer runs; NaN when not testable."""
    bias: float
    """Mean held-out error in ln L (positive = losses predicted too high)."""
    bic: float
    """n ln(SSR/n) + p ln n."""
    tokens_per_parameter: float
    """D/N at the target."""
    sd_ln_ratio: float
    """Its delta-method sd in ln."""
    weight: float
    """Share in the pooled ratio."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """All laws compared on one table."""

    scores: tuple[LawScore, ...]
    """One per fitted law, fewest parameters first."""
    best: str | None
    """Law with the smallest hold-out error; None when nothing could be held out."""
    baseline: float
    """Hold-out error of predicting the smallest loss seen so far; NaN when not testable."""
    pooled: float
    """Pooled D/N at the target."""
    sd_form: float
    """sd of ln(D/N) that the choice of law adds: half the spread of the laws whose hold-out error
    is within 1.5 times the least (two laws at least), over sqrt(3)."""
    cuts: int
    """Number of hold-out cuts."""

    def clearly_better_than_chinchilla(self) -> str | None:
        """A wider law whose hold-out error is under three quarters of Chinchilla's, if any."""
        by_name = {s.name: s for s in self.scores}
        five, six = by_name.get("chinchilla"), by_name.get("skaling")
        if five is None or six is None or self.cuts < 2:
            return None
        return "skaling" if six.holdout < CLEARLY_BETTER * five.holdout else None


def restriction_of(name: str) -> Restriction | None:
    """The linear restriction that makes a candidate of its form."""
    if name == "tied":
        return tied_exponents()
    return pinned_exponents(*PINNED) if name == "pinned" else None


def fit_candidates(
    N: FloatArray,
    D: FloatArray,
    L: FloatArray,
    *,
    given: Mapping[str, SurfaceFit],
    huber_delta: float | None = None,
    priors: Sequence[Prior] = (),
) -> dict[str, SurfaceFit]:
    """Every candidate that has fewer parameters than there are runs.

    Args:
        N: parameters, shape (m,).
        D: tokens, shape (m,).
        L: losses, shape (m,).
        given: fits that exist already, by candidate name.
        huber_delta: width of the objective; None chooses it per law.
        priors: as for `fit_surface`.
    """
    fits = {}
    for candidate in CANDIDATES:
        if candidate.name in given:
            fits[candidate.name] = given[candidate.name]
        elif len(N) > candidate.n_params and len(np.unique(N)) >= 2 and len(np.unique(D)) >= 2:
            fits[candidate.name] = fit_surface(
                N,
                D,
                L,
                form=candidate.form,
                huber_delta=huber_delta,
                restriction=restriction_of(candidate.name),
                priors=priors,
            )
    return fits


def compare_laws(
    fits: Mapping[str, SurfaceFit],
    C: FloatArray,
    L: FloatArray,
    *,
    target_flops: float,
    cost: CostCurve,
) -> Selection:
    """Score every fitted law by rolling hold-out, and pool their ratios at the target.

    Args:
        fits: the candidates fitted to all runs, in the same order.
        C: FLOPs, shape (m,); the hold-out goes from cheap to dear.
        L: losses, shape (m,).
        target_flops: where the ratios are compared.
        cost: FLOPs per token as a function of N.
    """
    train_sets = _train_sets(C)
    errors = {name: _holdout_errors(fit, train_sets) for name, fit in fits.items()}
    naive = [np.log(L[t].min()) - np.log(L[~t]) for t in train_sets]
    rms = {name: _rms(e) for name, e in errors.items()}
    tested = {name: value for name, value in rms.items() if np.isfinite(value)}
    # A law whose exponents come from elsewhere predicts losses, but has no say in the ratio.
    own = [name for name in fits if name != "pinned"]
    weights = {name: 1.0 / max(tested[name], 1e-9) ** 2 for name in own if name in tested}
    if not weights:
        weights = dict.fromkeys(own, 1.0)
    total = sum(weights.values())
    ratios = {
        name: float(log_ratios_at(fit.theta[None], fit.data.centre, target_flops, cost)[0])
        for name, fit in fits.items()
    }
    ranked = sorted((n for n in own if n in tested), key=lambda name: tested[name])
    near = [n for n in ranked if tested[n] <= COMPETITIVE * tested[ranked[0]]]
    # At least two laws are compared, and all of them where fewer could be held out.
    compared = near if len(near) > 1 else ranked[:2] if len(ranked) > 1 else own
    spread = [ratios[name] for name in compared]
    scores = []
    for name, fit in fits.items():
        size, p = fit.data.size, fit.n_free
        mean_square = float(np.mean(fit.residuals**2))
        scores.append(
            LawScore(
                name=name,
                n_params=p,
                in_sample=float(np.sqrt(mean_square)),
                holdout=rms[name],
                bias=float(np.mean(np.concatenate(errors[name]))) if errors[name] else np.nan,
                bic=size * float(np.log(max(mean_square, 1e-300))) + p * float(np.log(size)),
                tokens_per_parameter=float(np.exp(ratios[name])),
                sd_ln_ratio=delta_sd(fit, target_flops, cost),
                weight=weights.get(name, 0.0) / total if total > 0 else 0.0,
            )
        )
    return Selection(
        scores=tuple(scores),
        best=min(tested, key=lambda name: tested[name]) if tested else None,
        baseline=_rms(naive),
        pooled=float(np.exp(sum(ratios[n] * w for n, w in weights.items()) / total))
        if total > 0
        else np.nan,
        sd_form=float((max(spread) - min(spread)) / 2 / np.sqrt(3)) if len(spread) > 1 else np.nan,
        cuts=len(train_sets),
    )


def _train_sets(C: FloatArray) -> list[np.ndarray]:
    """Boolean masks of the cheaper runs, cut between levels of compute, each with dearer runs."""
    order = np.sort(np.log(C))
    sets: list[np.ndarray] = []
    for share in _CUTS:
        index = int(np.ceil(share * len(C)))
        if not 0 < index < len(C):
            continue
        # Runs within 2 % of each other are one level: never cut through it.
        limit = order[index - 1] + 0.02
        train = np.log(C) <= limit
        if (~train).sum() > 0 and not any((train == s).all() for s in sets):
            sets.append(train)
    return sets


def _holdout_errors(fit: SurfaceFit, train_sets: list[np.ndarray]) -> list[FloatArray]:
    """Ln of predicted over observed loss of the held-out runs, per cut; empty if untestable.

    Every cut is a refit with the held-out runs' weights at zero, so all of them are one batch.
    """
    if not train_sets or min(train.sum() for train in train_sets) < fit.n_free + 2:
        return []
    solved = refit(fit, np.stack(train_sets) * fit.weights)
    values = fit.form.log_loss(solved.theta, fit.data.n, fit.data.d) - fit.data.y
    return [row[~train] for row, train in zip(values, train_sets, strict=True)]


def _rms(errors: list[FloatArray]) -> float:
    if not errors:
        return float("nan")
    return float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))
