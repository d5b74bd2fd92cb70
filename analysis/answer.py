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

from collections.abc import Sequence
from dataclasses import asdict

from analysis.checks import Check, run_checks, status_of
from analysis.curves import Curves, read_envelope
from analysis.findings import gather_facts, validation_outcomes
from analysis.fit_report import FitReport
from analysis.optimum import optimum_row, optimum_rows
from analysis.priors import Prior
from analysis.record import finite, law_record
from analysis.sections import detail_sections, ratios_by_convention, vertex_biases
from analysis.study import HEADLINES, Study, make_study
from analysis.table import LossTable
from analysis.uncertainty import CONFIDENCE
from analysis.verdict import laws_disagree, prior_message, report_warnings, verdict_message

__all__ = ["FitReport", "finite", "fit_table"]


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
    law: str | None = None,
    curves: Curves | None = None,
    priors: Sequence[Prior] = (),
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
        detail: also compute the sensitivity, validation and identifiability sections, and profile E
            where refits do not tell it.
        law: what must answer, one of `HEADLINES` (`chinchilla`, `skaling`, `tied`, `pinned`,
            `isoflop`); None lets the data choose. The refusal rules hold all the same.
        curves: training curves by trial_id, for the envelope beside the other estimators: equally
            long arrays `tokens`, `flops`, `loss` and `learning_rate` (see `analysis.curves`).
        priors: what is known of E and the exponents beforehand; none by default. The report says
            that there were some and what the runs say without them, and its status is no better
            than theirs.

    Returns:
        The report; its status says whether there is an answer.

    Raises:
        ValueError: when the law is unknown, a training curve is malformed, or a parameter has two
            priors.
    """
    if law is not None and law not in HEADLINES:
        raise ValueError(f"law must be one of {', '.join(HEADLINES)}; got {law!r}")
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
        law=law,
        priors=priors,
    )
    if not priors:
        return _report(study, confidence, detail, curves)
    without = fit_table(
        table,
        target_flops=target_flops,
        convention=convention,
        seed=seed,
        resamples=resamples,
        huber_delta=huber_delta,
        confidence=confidence,
        detail=False,
        law=law,
    )
    return _report(study, confidence, detail, curves, without=without)


def _report(
    study: Study,
    confidence: float,
    detail: bool,
    curves: Curves | None,
    *,
    without: FitReport | None = None,
) -> FitReport:
    headline = study.headline
    row = optimum_row(study, headline, study.target, confidence) if headline else None
    envelope = None if curves is None else read_envelope(study.table, curves, seed=study.seed)
    outcomes = validation_outcomes(study, envelope)
    facts = gather_facts(study, row, outcomes)
    checks = run_checks(facts)
    status = status_of(checks)
    if status == "identified" and (
        headline in ("isoflop", "pinned", "tied") or laws_disagree(study, row)
    ):
        status = "weak"
    if status == "identified" and without is not None:
        # What a prior decides is not found in the runs.
        status = without.status if without.status == "identified" else "weak"
    refused = status == "not_identified"
    rows = () if refused or headline is None else optimum_rows(study, headline, confidence)
    conventions = ratios_by_convention(study, confidence)
    sections = (
        detail_sections(study, outcomes, conventions, envelope, confidence=confidence)
        if detail and study.fits
        else {}
    )
    if envelope is not None:
        record = envelope.to_dict(target_flops=study.target, confidence=confidence)
        sections = {**sections, "envelope": record}
    warnings = report_warnings(study, outcomes)
    if without is not None:
        words = prior_message(study, without)
        sections = {**sections, "priors": _prior_record(study, without, words)}
        warnings = (words, *warnings)
    return FitReport(
        status=status,
        message=verdict_message(status, checks, rows, study),
        n_points=study.table.n_points,
        headline_law=None if refused else headline,
        convention=study.table.convention,
        fits=study.fits,
        laws={name: law_record(study, name, confidence, profiled=detail) for name in study.fits},
        isoflop=study.levels,
        vertex_biases=vertex_biases(study),
        line=study.line,
        optimum=rows,
        conventions=conventions,
        checks=checks,
        warnings=warnings,
        cost=study.cost,
        noise={**asdict(study.noise), "degrees_of_freedom": study.noise.freedom},
        detail=sections,
        study=study,
    )


def _prior_record(study: Study, without: FitReport, words: str) -> dict[str, object]:
    """The priors that were given, and the answer of the same runs without them."""
    row = without.optimum[0] if without.optimum else None
    return {
        "given": [asdict(prior) for prior in study.priors],
        "message": words,
        "without": {
            "status": without.status,
            "headline_law": without.headline_law,
            "tokens_per_parameter": None if row is None else row.tokens / row.params,
            "interval": None if row is None else [row.interval.low, row.interval.high],
            "laws": without.laws,
        },
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
