"""What the refusal rules look at: tests of the headline surface, and the facts of a study.

In: a study, its headline optimum, and the envelope of its training curves. Out: outcomes of T1,
T3, T4, T5 and the `Facts` of `analysis.checks`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from analysis.checks import Facts
from analysis.cost import log_ratio
from analysis.curves import EnvelopeReading
from analysis.noise import replicate_groups
from analysis.optimum import OptimumRow
from analysis.study import Study, headline_sd, line_sd_ratio
from analysis.table import UNNAMED_CONVENTION, LossTable
from analysis.uncertainty import delta_sd, log_ratios_at
from analysis.validation import (
    Outcome,
    estimators_agree,
    lack_of_fit,
    largest_compute_holdout,
    missing_terms,
)

_UNIFORM = ("tokenizer", "loss_unit", "precision")


def validation_outcomes(
    study: Study, envelope: EnvelopeReading | None = None
) -> dict[str, Outcome]:
    """Tests T1, T3, T4 and T5 of the headline surface.

    Args:
        study: what was computed.
        envelope: what the training curves say, a further estimator for T5.
    """
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
    others: dict[str, tuple[float, float]] = {}
    if study.line is not None:
        log_n = np.asarray(study.line.log_params_at(study.target))
        by_line = float(log_ratio(log_n, math.log(study.target), study.cost))
        others["isoFLOP line"] = (by_line, line_sd_ratio(study, study.target))
    if envelope is not None and envelope.fit is not None:
        others["envelope"] = envelope.fit.log_ratio_at(study.target)
    return {
        "T1": largest_compute_holdout(fit, N, D, C, L),
        "T3": lack_of_fit(widest, replicate_groups(table)),
        "T4": missing_terms(fit, extra),
        "T5": estimators_agree(own, delta_sd(fit, study.target, study.cost), others),
    }


def gather_facts(study: Study, row: OptimumRow | None, outcomes: Mapping[str, Outcome]) -> Facts:
    """The plain numbers that `analysis.checks` decides on.

    Args:
        study: what was computed.
        row: the headline optimum at the target; None when no estimator was usable.
        outcomes: of `validation_outcomes`.
    """
    table, headline = study.table, study.headline
    N, D, C = table.params, table.tokens, table.flops
    ratio = D / N
    fit = study.surface_fit
    draws = study.draws.get(headline or "")
    holdout, lack = outcomes.get("T1"), outcomes.get("T3")
    tested = [f for f in study.levels if f.verdict != "few"]
    if 2 * int(np.isin(table.levels, [f.level for f in tested]).sum()) < table.n_points:
        # Levels that are a minor part of the runs do not say whether the optimum was bracketed.
        tested = []
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
        noise_sd=study.noise.replicate_sd if study.noise.replicate_freedom else study.noise.sd,
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
