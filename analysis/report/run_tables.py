"""Tables of runs and money: every row of the loss table, the budget, pairs of words.

In: an `Evidence`. Out: `Table`s of plain strings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from analysis.report.evidence import Evidence, Run
from analysis.report.text_table import Table
from analysis.report.words import (
    MISSING,
    count,
    duration,
    known,
    percent,
    power,
    si,
    significant,
)

_RUN_EXTRAS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("bpb", "Bits per byte", lambda v: significant(v, 4)),
    ("steps", "Steps", lambda v: f"{v:.0f}"),
    ("learning_rate", "Learning rate", significant),
    ("epochs", "Epochs", lambda v: significant(v, 2)),
    ("seed", "Seed", lambda v: significant(v, 12) if isinstance(v, (int, float)) else str(v)),
    ("wall_s", "Time", duration),
    ("device", "Device", str),
)
"""Columns shown where the table has them: name in the table, heading, how a cell is written."""


def run_table(evidence: Evidence) -> Table:
    """Every row of the loss table."""
    frame = evidence.table.frame
    extra = [e for e in _RUN_EXTRAS if e[0] in frame and frame[e[0]].notna().any()]
    ids = any(run.label != run.trial_id for run in evidence.runs)
    rows, values = [], []
    for run in evidence.runs:
        cells: list[str] = [
            run.label,
            run.level or MISSING,
            si(run.params),
            si(run.tokens),
            count(run.ratio),
            power(run.flops),
            significant(run.loss, 4),
            "yes" if run.used else f"no: {run.excluded}",
        ]
        cells += [_cell(run, key, write) for key, _, write in extra]
        rows.append((*cells, run.trial_id) if ids else tuple(cells))
        numbers = [None, None, run.params, run.tokens, run.ratio, run.flops, run.loss, None]
        numbers += [_number(run.row.get(key)) for key, _, _ in extra]
        values.append((*numbers, None) if ids else tuple(numbers))
    headings = ["Run", "Level", "N", "D", "D/N", "C (FLOPs)", "Loss", "In the fit?"]
    headings += [heading for _, heading, _ in extra] + (["Id"] if ids else [])
    in_words = ("Run", "Level", "In the fit?", "Device", "Id")
    return Table(
        caption="Every run",
        headings=tuple(headings),
        rows=tuple(rows),
        text_columns=tuple(i for i, h in enumerate(headings) if h in in_words),
        anchors=tuple(run.anchor for run in evidence.runs),
        faint=tuple(not run.used for run in evidence.runs),
        values=tuple(values),
    )


def exclusion_table(evidence: Evidence) -> Table | None:
    """The rows that the fit leaves out, with the reason; None without any."""
    if not evidence.excluded:
        return None
    return Table(
        caption=f"{len(evidence.excluded)} of {len(evidence.runs)} runs are left out",
        headings=("Run", "Why", "Level", "N", "D", "C (FLOPs)", "Loss"),
        rows=tuple(
            (
                run.label,
                run.excluded,
                run.level or MISSING,
                si(run.params),
                si(run.tokens),
                power(run.flops),
                significant(run.loss, 4),
            )
            for run in evidence.excluded
        ),
        text_columns=(0, 1, 2),
    )


def _number(value: Any) -> float | None:
    """A cell as a number to sort by; None for words and for what is missing."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _cell(run: Run, key: str, write: Callable[[Any], str]) -> str:
    value = run.row.get(key)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    return write(value)


def budget_table(evidence: Evidence) -> Table:
    """What was allowed, spent and useful."""
    sweep = evidence.sweep
    in_fit = sum(r.flops for r in evidence.used if known(r.flops))
    rows: list[tuple[str, str, str]] = []

    def share(value: float | None) -> str:
        total = sweep.budget_flops if sweep else None
        return percent(value / total, 3) if known(value) and known(total) and total else ""

    if sweep is not None:
        rows += [
            ("Budget", f"{power(sweep.budget_flops)} FLOPs", ""),
            (
                "Charged (retries and failures too)",
                f"{power(sweep.charged_flops)} FLOPs",
                share(sweep.charged_flops),
            ),
            ("In finished runs", f"{power(sweep.useful_flops)} FLOPs", share(sweep.useful_flops)),
        ]
    rows.append(("In the runs that the fit uses", f"{power(in_fit)} FLOPs", share(in_fit)))
    if sweep is not None:
        rows += [(what, f"{power(flops)} FLOPs", share(flops)) for what, flops in sweep.spending]
        if known(sweep.slot_hours) and sweep.slot_hours is not None:
            rows.append(("Training time, all slots", duration(3600 * sweep.slot_hours), ""))
        if known(sweep.wall_s):
            rows.append(("From first start to last end", duration(sweep.wall_s), ""))
        if known(sweep.price):
            rows.append(("Price", f"{count(sweep.price)} {sweep.currency_note}".strip(), ""))
        if sweep.states:
            states = ", ".join(f"{n} {state}" for state, n in sweep.states.items() if n)
            rows.append(("Trials", states or "none", ""))
    return Table(
        caption="Budget",
        headings=("What", "Amount", "Share of budget"),
        rows=tuple(rows),
        text_columns=(0,),
    )


def pairs_table(caption: str, headings: tuple[str, str], pairs: Sequence[tuple[str, str]]) -> Table:
    """Two columns of words."""
    return Table(caption=caption, headings=headings, rows=tuple(pairs), text_columns=(0, 1))
