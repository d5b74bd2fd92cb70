"""Tables of a fit: estimators, levels, frontier, conventions, other choices, published laws.

In: an `Evidence`. Out: `Table`s of plain strings; None where there is nothing to say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.numerals import spell_range
from analysis.published import PUBLISHED
from analysis.report.evidence import Evidence
from analysis.report.text_table import Table
from analysis.report.words import (
    MISSING,
    confidence,
    count,
    interval,
    known,
    percent,
    power,
    si,
    significant,
)

CONVENTION_WORDS = {
    "matmul": "every weight that multiplies a token: layers and output head, no embedding table",
    "total": "all parameters, embedding tables too (Hoffmann)",
    "body": "layers only, no embedding and no output head (Kaplan)",
    "active": "parameters that one token uses (mixture of experts)",
    "params": "the table's own count; it does not say which",
}
"""What N counts under each convention."""
_STRONGEST = 8
_LAW_WORDS = {
    "chinchilla": "Surface E + A/Nᵅ + B/Dᵝ (Chinchilla, Approach 3)",
    "skaling": "Surface E + (A/Nᵅ + B/Dᵝ)ᵏ (Skaling)",
    "tied": "Surface with α = β",
    "pinned": "Surface with α and β as Besiroglu found them",
    "isoflop": "Line through the isoFLOP minima (Approach 2)",
}


def estimator_table(evidence: Evidence) -> Table | None:
    """Every estimator's exponent and optimum at the target; None when refused."""
    best = evidence.answer
    if best is None:
        return None
    headline = str(evidence.fit.get("headline_law") or "chinchilla")
    rows = []
    laws = evidence.fit.get("laws") or {}
    for name in sorted(laws, key=lambda n: (n != headline, [*_LAW_WORDS, n].index(n))):
        law = laws[name]
        ends = (law.get("interval") or {}).get("tokens_per_parameter")
        mark = " — the answer above" if name == headline else ""
        rows.append(
            (
                _LAW_WORDS.get(name, f"Surface law {name}") + mark,
                count(law.get("tokens_per_parameter")),
                interval(ends),
                significant(law.get("exponent_N"), 3),
                _floor(law),
                *(count(law.get(n)) for n in ("A", "B")),
                *(significant(law.get(n), 3) for n in ("alpha", "beta", "k")),
            )
        )
    line = evidence.fit.get("frontier") or {}
    at = line.get("params_at") or {}
    exponent = line.get("exponent_N")
    if known(exponent) and known(at.get("params")) and evidence.cost is not None:
        params = at["params"] * (best.flops / at["flops"]) ** exponent
        tokens = best.flops / float(evidence.cost(np.asarray(params)))
        mark = " — the answer above" if headline == "isoflop" else ""
        ends = interval((best.low, best.high)) if headline == "isoflop" else MISSING
        rows.append(
            (
                _LAW_WORDS["isoflop"] + mark,
                count(tokens / params),
                ends,
                significant(exponent, 3),
                *[MISSING] * 6,
            )
        )
    return Table(
        caption=f"By estimator, at {power(best.flops)} FLOPs",
        headings=(
            "Estimator",
            "D/N",
            f"{confidence(best.confidence)} interval",
            "a of N ∝ Cᵃ",
            "E",
            "A",
            "B",
            "α",
            "β",
            "k",
        ),
        rows=tuple(rows),
    )


def _floor(law: Mapping[str, Any]) -> str:
    """E with its interval, where the runs tell one."""
    ends = (law.get("interval") or {}).get("E")
    found = significant(law.get("E"), 4)
    if not ends:
        return found
    return f"{found} ({interval(ends, 4)})" if ends[0] else f"{found} {spell_range(ends)}"


def level_table(evidence: Evidence) -> Table | None:
    """The minimum of each level, and where the design had put its centre."""
    if not evidence.levels:
        return None
    centres = {str(v[0]): v for v in (evidence.sweep.levels if evidence.sweep else ())}
    ratios = evidence.answer is not None
    headings = ["Level", "C (FLOPs)", "Runs", "N at the minimum", "± (sd)"]
    headings += ["D/N there"] if ratios else []
    headings += ["Loss there", "Counts?"]
    headings += ["Centred on D/N", "because"] if centres else []
    rows = []
    for level in evidence.levels:
        cells = [
            level.name,
            power(level.flops),
            str(sum(r.level == level.name for r in evidence.used)),
            si(level.params_opt),
            percent(math.expm1(level.sd_ln_params)) if known(level.sd_ln_params) else MISSING,
        ]
        cells += [count(level.tokens_per_parameter)] if ratios else []
        cells += [
            significant(level.loss_opt, 4),
            "yes" if level.accepted else f"no: {level.reason}",
        ]
        if centres:
            centre = centres.get(level.name)
            cells += [count(centre[2]), str(centre[3])] if centre else [MISSING, MISSING]
        rows.append(tuple(cells))
    counts_at = headings.index("Counts?")
    return Table(
        caption="Minimum of each compute level",
        headings=tuple(headings),
        rows=tuple(rows),
        text_columns=(0, counts_at, *((len(headings) - 1,) if centres else ())),
    )


def frontier_table(evidence: Evidence) -> Table | None:
    """The optimum at each compute; None when refused."""
    if not evidence.frontier or evidence.answer is None:
        return None
    rows = []
    for row in evidence.frontier:
        where = (
            "inside the runs"
            if row.extrapolation <= 1.05
            else (f"{significant(row.extrapolation, 2)}× beyond the largest run")
        )
        if row.flops == evidence.answer.flops:
            where += " — the target"
        rows.append(
            (
                power(row.flops),
                si(row.params),
                si(row.tokens),
                count(row.tokens_per_parameter),
                interval((row.low, row.high)),
                significant(row.loss, 4),
                where,
            )
        )
    return Table(
        caption="What to train at other computes",
        headings=(
            "C (FLOPs)",
            "N",
            "D",
            "D/N",
            f"{confidence(evidence.answer.confidence)} interval",
            "Loss",
            "Extrapolation",
        ),
        rows=tuple(rows),
        text_columns=(6,),
    )


def convention_table(evidence: Evidence) -> Table | None:
    """The same runs under every reading of N; None when refused."""
    readings = evidence.fit.get("conventions") or {}
    if evidence.answer is None or not readings:
        return None
    per_token = evidence.bytes_per_token
    rows = []
    seen: list[object] = []
    for name, record in readings.items():
        ratio = record.get("tokens_per_parameter")
        # A dense model has as many active parameters as any: the same row twice says nothing.
        if name == "active" and ratio in seen:
            continue
        seen.append(ratio)
        chosen = " — used above" if name == evidence.table.convention else ""
        cells = [
            f"{name}: {CONVENTION_WORDS.get(name, name)}{chosen}",
            count(ratio),
            interval(record.get("interval")),
        ]
        if per_token is not None:
            cells.append(count(ratio * per_token) if known(ratio) else MISSING)
        cells += [
            count(record.get("tokens_per_parameter_6nd")),
            significant(record.get("exponent_N"), 3),
        ]
        rows.append(tuple(cells))
    headings = ["N counts", "D/N at the target", "Interval"]
    headings += ["Bytes per parameter"] if per_token is not None else []
    headings += ["D/N if C were 6ND", "a of N ∝ Cᵃ"]
    return Table(
        caption="The ratio under each way of counting parameters",
        headings=tuple(headings),
        rows=tuple(rows),
    )


def sensitivity_table(evidence: Evidence) -> Table | None:
    """The variations of the fit that move the ratio most; None when refused or not computed."""
    variants = (evidence.fit.get("sensitivity") or {}).get("variants") or ()
    moved = [v for v in variants if known(v.get("tokens_per_parameter")) and known(v.get("shift"))]
    if evidence.answer is None or not moved:
        return None
    strongest = sorted(moved, key=lambda v: -abs(v["shift"]))[:_STRONGEST]
    return Table(
        caption=f"Other choices: the {len(strongest)} of {len(moved)} that move the ratio most",
        headings=("Choice", "D/N at the target", "Change"),
        rows=tuple(
            (
                str(v.get("name", "")),
                count(v["tokens_per_parameter"]),
                f"{math.expm1(v['shift']):+.0%}".replace("%", " %"),
            )
            for v in strongest
        ),
    )


def published_table(evidence: Evidence) -> Table | None:
    """Published ratios at the target; None without a target."""
    if evidence.target is None:
        return None
    scale = evidence.tokens_per_bpe_token
    rows = []
    for law in PUBLISHED:
        ratio = law.ratio(evidence.target)
        cells = [law.name, count(ratio)]
        cells += [count(ratio * scale)] if scale != 1 else []
        rows.append((*cells, law.counts, law.note))
    best = evidence.answer
    if best is not None:
        cells = ["This sweep", count(best.tokens_per_parameter / scale)]
        cells += [count(best.tokens_per_parameter)] if scale != 1 else []
        convention = CONVENTION_WORDS.get(evidence.table.convention, evidence.table.convention)
        rows.append((*cells, convention, "the runs of this report"))
    headings = ["Source", "Tokens per parameter" if scale == 1 else "BPE tokens per parameter"]
    headings += ["Bytes per parameter"] if scale != 1 else []
    wide = len(headings)
    return Table(
        caption=f"Published ratios at {power(evidence.target)} FLOPs",
        headings=(*headings, "N and C count", "Note"),
        rows=tuple(rows),
        text_columns=(0, wide, wide + 1),
    )


_METHOD_WORDS = {
    "delta": "delta method: curvature of the fit at its minimum",
    "pairs bootstrap": "bootstrap of runs",
    "cluster bootstrap": "bootstrap of runs, those that share training kept together",
    "residual bootstrap": "bootstrap of residuals",
    "wild bootstrap": "bootstrap of residuals with random signs",
    "wild cluster bootstrap": "bootstrap with random signs, runs that share training together",
}


def interval_table(evidence: Evidence) -> Table | None:
    """The interval of the ratio by every route; None when refused or not computed."""
    found = evidence.fit.get("uncertainty") or {}
    best = evidence.answer
    if best is None or not found.get("methods"):
        return None
    share = confidence(found.get("confidence", best.confidence))
    rows = [
        (
            _METHOD_WORDS.get(m["method"], m["method"]),
            share,
            interval(m["interval"]),
            significant(m.get("sd_ln_ratio"), 3),
        )
        for m in found["methods"]
    ]
    profile = evidence.fit.get("profile") or {}
    if profile.get("interval"):
        ends = interval(profile["interval"]) + (", open" if profile.get("open") else "")
        rows.append(
            ("profile likelihood (the picture)", confidence(profile["confidence"]), ends, MISSING)
        )
    form = evidence.fit.get("model_form") or {}
    if form.get("interval"):
        rows.append(
            (
                "with the choice of law and of counting added",
                confidence(form["confidence"]),
                interval(form["interval"]),
                significant(
                    math.hypot(*(form[f"sd_ln_ratio_{n}"] for n in ("own", "form", "counting"))), 3
                ),
            )
        )
    rows.append(
        (
            "the headline above",
            confidence(best.confidence),
            interval((best.low, best.high)),
            MISSING,
        )
    )
    return Table(
        caption=f"Interval of D/N at {power(best.flops)} FLOPs, by every route",
        headings=("Route", "Confidence", "D/N", "sd of ln(D/N)"),
        rows=tuple(rows),
    )
