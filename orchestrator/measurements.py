"""Measured runs of either origin, ready to be fitted: a sweep's folder, or a table file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.curves import Curves
from analysis.files import read_frame
from analysis.table import LossTable, TableError, read_rows
from orchestrator.errors import BadInput, Fault
from orchestrator.journal import read_state
from orchestrator.outcome import loss_frame, training_curves

TABLE_CODE = "SWP-4001"
"""Every fault of a loss table; its rule names which."""
TABLE_ENDINGS = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """Runs that were measured, and what is known around them."""

    name: str
    """What people call them."""
    table: LossTable
    """The runs."""
    target_flops: float | None
    """Compute that the sweep was for; None for a table."""
    sweep_dir: Path | None
    """The sweep's folder; None for a table."""
    curves: Curves | None
    """Training curves by trial_id; None where there are none."""


def is_table(name: str) -> bool:
    """Whether a name given by a person is that of a table file."""
    return Path(name).suffix.lower() in TABLE_ENDINGS


def read_measurements(path: Path, *, curves: bool = False) -> Measurements:
    """The runs of a sweep's folder or of a table file.

    Args:
        path: either.
        curves: whether a sweep's training curves are read too.

    Raises:
        BadInput: for a table that is missing or wrong, with every fault.
    """
    if not path.is_dir():
        return Measurements(
            name=path.name,
            table=read_loss_table(path),
            target_flops=None,
            sweep_dir=None,
            curves=None,
        )
    state = read_state(path)
    assert state.opened is not None
    return Measurements(
        name=path.name,
        table=read_rows(loss_frame(state)),
        target_flops=state.opened["target_flops"],
        sweep_dir=path,
        curves=training_curves(state, path) if curves else None,
    )


def read_loss_table(
    path: Path, *, mapping: Mapping[str, str] | None = None, convention: str = "matmul"
) -> LossTable:
    """A table file, its faults as ours.

    Args:
        path: CSV, TSV or parquet.
        mapping: our column name -> the file's.
        convention: which parameter count is N.

    Raises:
        BadInput: when it is missing, or with every fault of it.
    """
    try:
        return read_rows(read_table_frame(path), mapping=mapping, convention=convention)
    except TableError as error:
        raise table_faults(error, path) from error


def table_faults(error: TableError, path: Path) -> BadInput:
    """The faults of a table as ours, each with the file it is in."""
    return BadInput(
        [
            Fault(
                code=TABLE_CODE,
                rule=f"{fault.message} ({fault.rule})",
                place=f"{path}: {fault.place}" if fault.place != str(path) else str(path),
                remedy=fault.remedy + _units_remedy(fault.rule, path),
            )
            for fault in error.faults
        ]
    )


def read_table_frame(path: Path) -> pd.DataFrame:
    """The rows of a table file as they are.

    Raises:
        BadInput: when it is missing, empty or no table.
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
        return read_frame(path)
    except TableError as error:
        raise table_faults(error, path) from error


def _units_remedy(rule: str, path: Path) -> str:
    return f"; or: sweep import {path.name} --unit tokens=1e9" if rule == "mixed-units" else ""
