"""The verdict's words: the message of a report and everything else a reader must know."""

from __future__ import annotations

from collections.abc import Mapping

from analysis.bytes import tokens_differ
from analysis.checks import Check, Status
from analysis.fit_report import FitReport
from analysis.numerals import spell
from analysis.optimum import OptimumRow
from analysis.selection import COMPETITIVE
from analysis.study import Study
from analysis.validation import Outcome


def laws_disagree(study: Study, row: OptimumRow | None) -> bool:
    """Whether a headline of the wider law excludes the ratio by a Chinchilla's law that competes.

    One whose hold-out error is beyond 1.5 times the wider law's has no say here either, as it has
    none in the spread between laws.
    """
    if study.headline != "skaling" or row is None or study.selection is None:
        return False
    scores = {score.name: score for score in study.selection.scores}
    five, six = scores.get("chinchilla"), scores.get("skaling")
    if five is None or six is None or five.holdout > COMPETITIVE * six.holdout:
        return False
    return not row.interval.low <= five.tokens_per_parameter <= row.interval.high


def verdict_message(
    status: Status,
    checks: tuple[Check, ...],
    rows: tuple[OptimumRow, ...],
    study: Study,
) -> str:
    """The verdict in one or two sentences: the ratio and why it is weak, or what refused it.

    Args:
        status: of the checks and the headline.
        checks: every rule's outcome.
        rows: the optimum, target first; empty when refused.
        study: what was computed.
    """
    failed = [c for c in checks if not c.passed and c.severity != "note"]
    if status == "not_identified":
        words = "; ".join(f"{c.rule}: {c.message}" for c in failed if c.severity == "refuse")
        return f"NOT IDENTIFIED. {words}." + ("" if study.law is None else f" Asked: {study.law}.")
    row = rows[0]
    source = {
        "chinchilla": "the surface fit",
        "skaling": "the surface fit of the six-parameter law",
        "tied": "the surface fit with equal exponents (one D/N for all compute)",
        "pinned": "the surface fit with published exponents (Besiroglu et al. 2024)",
        "isoflop": "the line through the isoFLOP minima",
    }
    asked = "" if study.law is None else ", the law that was asked for,"
    text = (
        f"{spell(row.tokens / row.params)} tokens per parameter at {row.flops:.3g} FLOPs "
        f"({row.interval.confidence:.0%} interval {spell(row.interval.low)} to "
        f"{spell(row.interval.high)}), by {source[study.headline or 'chinchilla']}{asked} "
        f"to {study.table.n_points} runs."
    )
    if status == "weak":
        reasons = [f"{c.rule}: {c.message}" for c in failed]
        if study.headline == "pinned":
            reasons.append("the exponents are a published law's, not these runs'")
        if study.headline == "isoflop" and study.law is not None:
            reasons.append("a line through minima gives no more than a weak answer")
        elif study.headline == "isoflop":
            reasons.append("the surface fit's interval is wider still, or open")
        if study.priors:
            reasons.append("a prior helped to decide it")
        if study.headline == "skaling" and laws_disagree(study, row):
            reasons.append("the five-parameter law gives a ratio outside this interval")
        if study.headline == "tied" and study.law is not None:
            reasons.append("equal exponents were asked for, not found")
        elif study.headline == "tied":
            reasons.append("the runs cannot tell the two exponents apart")
        text += " Weak: " + "; ".join(reasons) + "."
    return text


def prior_message(study: Study, without: FitReport) -> str:
    """Which priors were given, and what the same runs say without them."""
    given = ", ".join(map(str, study.priors))
    text = f"a prior was given: {given}; without it the runs say "
    if without.optimum:
        row = without.optimum[0]
        text += (
            f"D/N {spell(row.tokens / row.params)} [{spell(row.interval.low)}, "
            f"{spell(row.interval.high)}] ({without.status})"
        )
    else:
        text += "NOT IDENTIFIED"
    law = without.laws.get(study.surface_name)
    if law is not None:
        text += f", alpha {law['alpha']:.3g}, beta {law['beta']:.3g}, E {law['E']:.4g}"
    if study.headline == "skaling" and any(p.parameter != "E" for p in study.priors):
        text += "; the exponents of the six-parameter law take no prior"
    return text


def report_warnings(study: Study, outcomes: Mapping[str, Outcome]) -> tuple[str, ...]:
    """What was inferred, left out, skewed or failed, a line each."""
    warnings = list(study.table.notes)
    excluded = len(study.table.frame) - study.table.n_points
    if excluded:
        warnings.append(f"{excluded} of {len(study.table.frame)} rows are excluded, with reasons")
    mixed = tokens_differ(study.table)
    if mixed is not None:
        warnings.append(mixed)
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
    if study.law is not None:
        warnings.append(
            f"the headline law was chosen by the caller ({study.law}), not by the data"
            + ("" if study.headline else "; these runs cannot be fitted with it")
        )
    elif study.headline == "skaling":
        warnings.append(
            "the six-parameter law is the headline: it predicts held-out dearer runs clearly better"
        )
    return tuple(warnings)
