"""Scaling-law analysis: from a table of (parameters, tokens, loss) to a ratio that can be trusted.

    from analysis import fit_table, read_table
    report = fit_table(read_table("losses.csv"), target_flops=1e21)
    print(report)

Names are imported when first used, so that a caller who needs the laws alone pays for no more.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.answer import fit_table as fit_table
    from analysis.compare import compare_reports as compare_reports
    from analysis.files import read_fit as read_fit
    from analysis.files import read_table as read_table
    from analysis.files import write_fit as write_fit
    from analysis.files import write_table as write_table
    from analysis.fit import SurfaceFit as SurfaceFit
    from analysis.fit import fit_surface as fit_surface
    from analysis.fit_report import FitReport as FitReport
    from analysis.laws import Surface as Surface
    from analysis.predict import predict_loss as predict_loss
    from analysis.predict import predict_optimum as predict_optimum
    from analysis.priors import Prior as Prior
    from analysis.priors import parse_prior as parse_prior
    from analysis.table import LossTable as LossTable
    from analysis.table import TableError as TableError
    from analysis.table import read_rows as read_rows

_HOMES = {
    "FitReport": "fit_report",
    "LossTable": "table",
    "Prior": "priors",
    "Surface": "laws",
    "SurfaceFit": "fit",
    "TableError": "table",
    "compare_reports": "compare",
    "fit_surface": "fit",
    "fit_table": "answer",
    "parse_prior": "priors",
    "predict_loss": "predict",
    "predict_optimum": "predict",
    "read_fit": "files",
    "read_rows": "table",
    "read_table": "files",
    "write_fit": "files",
    "write_table": "files",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    return getattr(importlib.import_module(f"analysis.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
