"""The report's files beside its pages: CSV of the runs and of each picture, LaTeX, BibTeX, JSON.

Everything is text made in memory; `analysis.report` writes it. Cells that a spreadsheet would run
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

from analysis.record import finite
from analysis.report.escape import csv_cell, latex
from analysis.report.picture import Picture
from analysis.report.story import Story
from analysis.report.text_table import Table
from analysis.table import COLUMNS, LossTable


def fit_json(fit: Mapping[str, Any]) -> str:
    """`fit.json`: strict JSON, null for what is not finite."""
    return json.dumps(finite(fit), indent=2, allow_nan=False) + "\n"


def losses_csv(table: LossTable) -> str:
    """The loss table with exact floats; text cells cannot be formulas."""
    frame = table.frame
    ordered = [c for c in COLUMNS if c in frame] + [c for c in frame if c not in COLUMNS]
    rows = frame[ordered].itertuples(index=False, name=None)
    return _csv([str(c) for c in ordered], rows)


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
