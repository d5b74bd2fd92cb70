"""Fits and reports outside of a run: of a sweep's journal, or of any table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.answer import fit_table
from analysis.curves import Curves
from analysis.families import FAMILIES
from analysis.family_report import fit_law_to_inputs
from analysis.holdout import forecast_top, holdout_section
from analysis.law_inputs import read_law_inputs
from analysis.priors import Prior
from analysis.record import finite
from analysis.report import ReportFolderError, write_report
from analysis.table import LossTable, TableError
from orchestrator.advice import worth_making
from orchestrator.budget import parse_budget
from orchestrator.errors import BadInput, Fault
from orchestrator.journal import read_state
from orchestrator.measurements import (
    read_loss_table,
    read_measurements,
    read_table_frame,
    table_faults,
)
from orchestrator.outcome import RESAMPLES, fit_losses, how_far, loss_frame, write_outcome
from orchestrator.recipe_file import with_files
from orchestrator.state import SweepState, TrialStatus


def fit_any_table(
    path: Path,
    *,
    mapping: Mapping[str, str],
    target_flops: float | None,
    convention: str,
    huber_delta: float | None,
    law: str | None = None,
    holdout: bool = False,
    priors: Sequence[Prior] = (),
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
        priors: what is known of E and the exponents beforehand.
        report_dir: folder of the report; None = none.

    Raises:
        BadInput: with every fault of the table; or when there is nothing below the dearest level.
    """
    table = read_loss_table(path, mapping=mapping, convention=convention)
    fit = _fit(
        table,
        target_flops=target_flops,
        convention=convention,
        huber_delta=huber_delta,
        law=law,
        holdout=holdout,
        priors=priors,
    )
    if report_dir is not None:
        _write_report(report_dir, fit, table)
    return fit


def fit_with_family(
    source: Path,
    law: str,
    *,
    mapping: Mapping[str, str],
    target_flops: float | None,
    convention: str,
    huber_delta: float | None,
) -> dict[str, Any]:
    """Fit one of `analysis.families` to a table file or to a sweep's folder.

    Args:
        source: the file, or the folder.
        law: name of the family.
        mapping: our column name -> the file's.
        target_flops: compute that the optimum is wanted at; None = the largest run's.
        convention: which parameter count is N.
        huber_delta: width of the objective; None = least squares.

    Raises:
        BadInput: with every column that the law lacks and every bad cell.
    """
    frame = loss_frame(read_state(source)) if source.is_dir() else read_table_frame(source)
    try:
        data = read_law_inputs(frame, FAMILIES[law], mapping=mapping, convention=convention)
    except TableError as error:
        raise table_faults(error, source) from error
    report = fit_law_to_inputs(
        FAMILIES[law], data, target_flops=target_flops, huber_delta=huber_delta
    )
    return report.to_dict()


def fit_sweep(
    sweep_dir: Path,
    *,
    target_flops: float | None = None,
    huber_delta: float | None,
    law: str | None = None,
    holdout: bool = False,
    priors: Sequence[Prior] = (),
) -> dict[str, Any]:
    """Fit what a sweep has finished so far; the options are `fit_any_table`'s.

    Without `target_flops` the ratio is wanted at the target of the sweep's budget.
    """
    runs = read_measurements(sweep_dir, curves=True)
    return _fit(
        runs.table,
        target_flops=target_flops or runs.target_flops,
        convention="matmul",
        huber_delta=huber_delta,
        law=law,
        holdout=holdout,
        priors=priors,
        curves=runs.curves,
    )


def _fit(
    table: LossTable,
    *,
    target_flops: float | None,
    convention: str,
    huber_delta: float | None,
    law: str | None,
    holdout: bool,
    priors: Sequence[Prior],
    curves: Curves | None = None,
) -> dict[str, Any]:
    report = fit_table(
        table,
        target_flops=target_flops,
        convention=convention,
        huber_delta=huber_delta,
        law=law,
        resamples=RESAMPLES,
        curves=curves,
        priors=priors,
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
            priors=priors,
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
    assert state.opened is not None
    budget = with_files(budget, Path(state.opened["base"]))
    fit = fit_losses(state, sweep_dir=sweep_dir)
    return write_outcome(
        state,
        sweep_dir,
        budget,
        fit,
        next_runs=worth_making(state, budget),
        unfinished=_unfinished(state, sweep_dir),
    )


def _unfinished(state: SweepState, sweep_dir: Path) -> str:
    """What the report of a sweep that can go on says on top; '' of one that is over."""
    if state.finished or state.counts[TrialStatus.UNAFFORDABLE]:
        return ""
    plan = json.loads((sweep_dir / "plan.json").read_text())
    planned = sum(len(level["trials"]) for level in plan["levels"])
    return f"This sweep is not over: {how_far(state, planned)}"


def report_table(path: Path, folder: Path) -> Path:
    """Fit a table file and write its report; returns the HTML report.

    Raises:
        BadInput: with every fault of the table, or when the folder holds something else.
    """
    table = read_loss_table(path)
    found = fit_table(table, resamples=RESAMPLES)
    fit = {**found.to_dict(), **holdout_section(table, found, resamples=RESAMPLES)}
    return _write_report(folder, fit, table)


def _write_report(folder: Path, fit: dict[str, Any], table: LossTable) -> Path:
    try:
        return write_report(folder, fit=fit, table=table)
    except ReportFolderError as error:
        raise BadInput(
            Fault(
                code="SWP-4002",
                rule=f"a report replaces its folder whole: {error}",
                place=str(folder),
                remedy="name a new folder, or one that holds a report and nothing else",
            )
        ) from error
