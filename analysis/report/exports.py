"""The report's files beside its pages: CSV, parquet, LaTeX, JSON and a notebook.

Everything is made in memory; `analysis.report` writes it. Cells that a spreadsheet would run
as a formula are quoted; LaTeX's own characters are escaped.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from analysis.record import finite
from analysis.report.escape import csv_cell, latex
from analysis.report.picture import Picture
from analysis.report.story import Story
from analysis.report.text_table import Table
from analysis.table import COLUMNS, CONVENTIONS, LossTable


def fit_json(fit: Mapping[str, Any]) -> str:
    """`fit.json`: strict JSON, null for what is not finite."""
    return json.dumps(finite(fit), indent=2, allow_nan=False) + "\n"


def losses_csv(table: LossTable) -> str:
    """The loss table with exact floats; text cells cannot be formulas."""
    frame, ordered = table.frame, _ordered(table)
    rows = frame[ordered].itertuples(index=False, name=None)
    return _csv([str(c) for c in ordered], rows)


def _ordered(table: LossTable) -> list[Any]:
    """The table's columns, ours first and in their order."""
    frame = table.frame
    return [c for c in COLUMNS if c in frame] + [c for c in frame if c not in COLUMNS]


def losses_parquet(table: LossTable) -> bytes:
    """The loss table as parquet, in the columns and the order of `losses.csv`."""
    frame = table.frame[_ordered(table)]
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pandas(frame, preserve_index=False), out)
    return out.getvalue()


def notebook(fit: Mapping[str, Any]) -> str:
    """A notebook that starts from the table beside it: reads, fits again, draws, asks.

    Its outputs are empty: whoever runs it fills them. Foreign text does not enter it.
    """
    best: Mapping[str, Any] = next(iter(fit.get("optimum") or ()), {})
    target = best.get("flops") or (fit.get("sensitivity") or {}).get("target_flops")
    code = [
        f"TARGET = {float(target)!r}  # FLOPs" if target else "TARGET = None  # the largest run's",
        f"CONVENTION = {str(fit['convention'])!r}"
        if fit.get("convention") in CONVENTIONS
        else 'CONVENTION = "matmul"',
    ]
    cells = [
        _cell("markdown", _NOTEBOOK_HEAD),
        _cell("code", "\n".join([*_NOTEBOOK_READ, *code])),
        *(_cell(kind, source) for kind, source in _NOTEBOOK),
    ]
    document = {
        "cells": [{"id": f"cell-{i:02d}", **cell} for i, cell in enumerate(cells)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(document, indent=1) + "\n"


def _cell(kind: str, source: str) -> dict[str, Any]:
    cell: dict[str, Any] = {
        "cell_type": kind,
        "metadata": {},
        "source": source.splitlines(keepends=True),
    }
    return {**cell, "execution_count": None, "outputs": []} if kind == "code" else cell


_NOTEBOOK_HEAD = """\
# From the table of runs to the ratio

`losses.csv` beside this notebook holds every run of the report. The cells below fit it again, \
draw it, and ask it for other computes. Change what you doubt, and run them again.\
"""
_NOTEBOOK_READ = (
    "from analysis import fit_table, read_table",
    "",
    'table = read_table("losses.csv")',
    'print(f"{table.n_points} of {len(table.frame)} runs are in the fit")',
)
_NOTEBOOK = (
    (
        "code",
        "report = fit_table(table, target_flops=TARGET, convention=CONVENTION)\nprint(report)",
    ),
    ("markdown", "Every run, by model size at equal compute; hollow marks are left out."),
    (
        "code",
        """\
import matplotlib.pyplot as plt

name, frame = table.params_name, table.frame
figure, ax = plt.subplots()
for level, runs in frame.groupby(frame["level"].astype(str) if "level" in frame else lambda _: ""):
    used = runs["excluded"] == ""
    (line,) = ax.plot(runs[name][used], runs["loss"][used], "o", label=f"level {level}".strip())
    ax.plot(runs[name][~used], runs["loss"][~used], "o", color=line.get_color(), mfc="none")
ax.set_xscale("log")
ax.set_xlabel("parameters N")
ax.set_ylabel("held-out loss")
ax.legend()
plt.show()\
""",
    ),
    (
        "markdown",
        "The same runs with some left out: here the dearest fifth. An answer that moves by more "
        "than its interval was not as sure as it said.",
    ),
    (
        "code",
        """\
cheap = table.flops <= sorted(table.flops)[int(0.8 * table.n_points)]
print(fit_table(table.select(cheap, reason="doubted"), target_flops=TARGET,
                convention=CONVENTION, resamples=200))\
""",
    ),
    ("markdown", "The optimum at other computes; a refused fit has none."),
    (
        "code",
        """\
for row in report.optimum:
    low, high = row.interval.low, row.interval.high
    print(f"{row.flops:.3g} FLOPs: N = {row.params:.3g}, D = {row.tokens:.3g}, "
          f"D/N = {row.tokens / row.params:.3g} [{low:.3g}, {high:.3g}]")\
""",
    ),
)


def picture_csv(picture: Picture) -> str:
    """The numbers behind a picture."""
    return _csv([c.key for c in picture.columns], picture.rows)


def _csv(headings: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([csv_cell(h) for h in headings])
    writer.writerows([csv_cell(_plain(v)) for v in row] for row in rows)
    return out.getvalue()


def _plain(value: Any) -> Any:
    """A cell as Python writes it shortest and exactly; '' for what is missing."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, (str, bool, int)):
        return value
    return repr(value) if isinstance(value, float) else str(value)


def tables_tex(story: Story) -> str:
    """The answer, the levels and the runs as booktabs tables."""
    parts = [
        "% Needs \\usepackage{booktabs}, \\usepackage{longtable} and \\usepackage{textcomp}.\n"
    ]
    for name in ("frontier", "levels", "conventions"):
        if name in story.tables:
            parts.append(_tabular(story.tables[name], long=False))
    parts.append(_tabular(story.tables["runs"], long=True))
    return f"% {latex(story.answer)}\n" + "\n".join(parts)


def _tabular(table: Table, *, long: bool) -> str:
    columns = "".join("l" if i in table.text_columns else "r" for i in range(len(table.headings)))
    head = " & ".join(map(_tex, table.headings)) + r" \\"
    body = "\n".join(" & ".join(map(_tex, row)) + r" \\" for row in table.rows)
    caption = f"\\caption{{{_tex(table.caption)}}}"
    if long:
        return (
            f"\\begin{{longtable}}{{{columns}}}\n{caption}\\\\\n\\toprule\n{head}\n\\midrule\n"
            f"\\endhead\n{body}\n\\bottomrule\n\\end{{longtable}}\n"
        )
    return (
        f"\\begin{{table}}\n\\centering\n{caption}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n"
        f"{head}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def _tex(text: str) -> str:
    for sign, command in (("α", r"$\alpha$"), ("β", r"$\beta$"), ("±", r"$\pm$"), ("—", "---")):
        if sign in text:
            return command.join(_tex(part) for part in text.split(sign))
    return latex(text)
