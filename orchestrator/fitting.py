"""Fits and reports outside of a run: of a sweep's journal, or of any table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.answer import fit_table
from analysis.files import read_table
from analysis.holdout import forecast_top
from analysis.record import finite
from analysis.report import ReportFolderError, write_report
from analysis.table import LossTable, TableError, read_rows
from orchestrator.budget import parse_budget
from orchestrator.errors import BadInput, Fault
from orchestrator.journal import read_state
from orchestrator.outcome import RESAMPLES, fit_losses, loss_frame, write_outcome

TABLE_CODE = "SWP-4001"
"""Every fault of a loss table; its rule names which."""


def fit_any_table(
    path: Path,
    *,
    mapping: Mapping[str, str],
    target_flops: float | None,
    convention: str,
    huber_delta: float | None,
    law: str | None = None,
    holdout: bool = False,
    report_dir: Path | None,
) -> dict[str, Any]:
    """Fit a CSV or parquet file; optionally write a report of it.

    Args:
        path: the file.
        mapping: our column name -> the file's.
        target_flops: compute that the ratio is wanted at; None = the largest run's.
        convention: which parameter count is N.
        huber_delta: width of the objective; None = from the residuals.
        law: what must answer; None = the data choose.
        holdout: also forecast the dearest level from the rest and score it.
        report_dir: folder of the report; None = none.

    Raises:
        BadInput: with every fault of the table; or when there is nothing below the dearest level.
    """
    if not path.is_file():
        raise BadInput(
            Fault(
                code="SWP-4000",
                rule="the table must exist",
                place=str(path),
                remedy="name a CSV or parquet file",
            )
        )
    try:
        table = read_table(path, mapping=mapping, convention=convention)
    except TableError as error:
        raise BadInput(
            [
                Fault(
                    code=TABLE_CODE,
                    rule=f"{fault.message} ({fault.rule})",
                    place=f"{path}: {fault.place}" if fault.place != str(path) else str(path),
                    remedy=fault.remedy,
                )
                for fault in error.faults
            ]
        ) from error
    fit = _fit(
        table,
        target_flops=target_flops,
        convention=convention,
        huber_delta=huber_delta,
        law=law,
        holdout=holdout,
    )
    if report_dir is not None:
        try:
            write_report(report_dir, fit=fit, table=table)
        except ReportFolderError as error:
            raise BadInput(
                Fault(
                    code="SWP-4002",
                    rule=f"a report replaces its folder whole: {error}",
                    place=str(report_dir),
                    remedy="name a new folder, or one that holds a report and nothing else",
                )
            ) from error
    return fit


def fit_sweep(
    sweep_dir: Path, *, huber_delta: float | None, law: str | None = None, holdout: bool = False
) -> dict[str, Any]:
    """Fit what a sweep has finished so far; the options are `fit_any_table`'s."""
    state = read_state(sweep_dir)
    if huber_delta is None and law is None and not holdout:
        return fit_losses(state)
    assert state.opened is not None
    return _fit(
        read_rows(loss_frame(state)),
        target_flops=state.opened["target_flops"],
        convention="matmul",
        huber_delta=huber_delta,
        law=law,
        holdout=holdout,
    )


def _fit(
    table: LossTable,
    *,
    target_flops: float | None,
    convention: str,
    huber_delta: float | None,
    law: str | None,
    holdout: bool,
) -> dict[str, Any]:
    report = fit_table(
        table,
        target_flops=target_flops,
        convention=convention,
        huber_delta=huber_delta,
        law=law,
        resamples=RESAMPLES,
    )
    if not holdout:
        return report.to_dict()
    try:
        forecast = forecast_top(
            table,
            report,
            law=law,
            convention=convention,
            huber_delta=huber_delta,
            resamples=RESAMPLES,
        )
    except ValueError as error:
        raise BadInput(
            Fault(
                code="SWP-4003",
                rule=str(error),
                place="--holdout top",
                remedy="fit without it, or add runs of less compute",
            )
        ) from error
    return {**report.to_dict(), "holdout": finite(forecast.to_dict())}


def report_sweep(sweep_dir: Path) -> Path:
    """Write a sweep's table, fit and report again from its journal; returns the HTML report."""
    state = read_state(sweep_dir)
    file = sweep_dir / "budget.yaml"
    budget = parse_budget(file.read_text(), file=str(file))
    return write_outcome(state, sweep_dir, budget, fit_losses(state))
