"""Tables of records around a fit: the checklist, the recipe's check, runs worth making.

In: an `Evidence`. Out: `Table`s of plain strings; None where there is nothing to say.
"""

from __future__ import annotations

from analysis.checklist import fill_checklist
from analysis.report.evidence import Evidence
from analysis.report.text_table import Table
from analysis.report.words import count, plural, power, si, significant

_SILENT = "not in the records"


def checklist_table(evidence: Evidence) -> Table:
    """The checklist of (Mis)Fitting; a refused fit has no answer to its last question."""
    fit = evidence.fit if evidence.answer else {**evidence.fit, "optimum": []}
    method = dict(evidence.sweep.method) if evidence.sweep else {}
    items = fill_checklist(fit, evidence.table, method)
    silent = sum(item.answer is None for item in items)
    return Table(
        caption=f"{len(items) - silent} of {len(items)} questions answered"
        + (f"; on {plural(silent, 'question')} the records are silent" if silent else ""),
        headings=("Part", "What must be stated", "Answer"),
        rows=tuple((item.heading, item.question, item.answer or _SILENT) for item in items),
        text_columns=(0, 1, 2),
        faint=tuple(item.answer is None for item in items),
    )


def recipe_table(evidence: Evidence) -> Table | None:
    """Losses of the check of the recipe by learning rate; None without one."""
    checks = evidence.sweep.recipe_checks if evidence.sweep else ()
    if not checks:
        return None
    factors = sorted({factor for check in checks for factor in check.losses})
    return Table(
        caption="Held-out loss at multiples of the recipe's learning rate",
        headings=("N", "Recipe's rate", *(f"{significant(f)}×" for f in factors)),
        rows=tuple(
            (
                si(check.params),
                significant(check.learning_rate),
                *(significant(check.losses.get(f), 4) for f in factors),
            )
            for check in checks
        ),
        text_columns=(),
    )


def next_table(evidence: Evidence) -> Table | None:
    """The runs that would sharpen the answer most; None where none was computed."""
    runs = evidence.sweep.next_runs if evidence.sweep else ()
    if not runs:
        return None
    return Table(
        caption="Runs that would sharpen the ratio most per FLOP, best first",
        headings=("N", "D", "D/N", "Cost (FLOPs)", "95 % range of D/N now", "with it"),
        rows=tuple(
            (
                si(run.params),
                si(run.tokens),
                count(run.tokens / run.params),
                power(run.flops),
                f"{significant(run.fold_before)}-fold",
                f"{significant(run.fold_after)}-fold",
            )
            for run in runs
        ),
        text_columns=(),
    )
