"""Measured runs of either origin, ready to be fitted: a sweep's folder, or a table file."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.columns import Fault as TableFault
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

    @property
    def loss_unit(self) -> str | None:
        """Unit of the losses: a sweep's own, or what the table names; None where it names none."""
        return self.table.loss_unit if self.sweep_dir is None else "nats per token"


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
        raise table_faults(error, path, mapping) from error


def table_faults(
    error: TableError, path: Path, mapping: Mapping[str, str] | None = None
) -> BadInput:
    """The faults of a table as ours, each with the file it is in.

    Args:
        error: what is wrong.
        path: the file.
        mapping: our column name -> the file's.
    """
    return BadInput([_as_ours(fault, path, mapping or {}) for fault in error.faults])


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


def _as_ours(fault: TableFault, path: Path, mapping: Mapping[str, str]) -> Fault:
    """A fault of a table with the line and column of its cell, where the file is text."""
    place = f"{path}: {fault.place}" if fault.place != str(path) else str(path)
    excerpt = ""
    if cell := re.fullmatch(r"row (\d+), column (\w+)", fault.place):
        name = mapping.get(cell[2], cell[2])
        if found := find_cell(path, row=int(cell[1]), column=name):
            line, column, excerpt = found
            place = f"{path}:{line}:{column} ({fault.place})"
    return Fault(
        code=TABLE_CODE,
        rule=f"{fault.message} ({fault.rule})",
        place=place,
        excerpt=excerpt,
        remedy=fault.remedy + _units_remedy(fault.rule, path),
    )


def find_cell(path: Path, *, row: int, column: str) -> tuple[int, int, str] | None:
    """Where a cell of a text table stands.

    Args:
        path: a CSV or TSV file.
        row: of the data, from 1; the header is not one.
        column: its name in the header.

    Returns:
        Line and column in the file, from 1, and the line with a caret under the cell; None where
        the file is no text, or a row takes more than one line.
    """
    if path.suffix not in (".csv", ".tsv"):
        return None
    separator = "\t" if path.suffix == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as file:
        text = [line.rstrip("\r\n") for line in itertools.islice(file, row + 1)]
    names = next(csv.reader(text[:1], delimiter=separator), [])
    # An empty line is no row, and a quote left open goes on in the next line: not worth counting.
    simple = all(text) and all(line.count('"') % 2 == 0 for line in text)
    if column not in names or len(text) <= row or not simple:
        return None
    starts = [0]
    quoted = False
    for place, sign in enumerate(text[row], start=1):
        quoted ^= sign == '"'
        if sign == separator and not quoted:
            starts.append(place)
    index = names.index(column)
    if index >= len(starts):
        return None
    shown = text[row].replace("\t", " ")[:200]
    return row + 1, starts[index] + 1, f"{shown}\n{' ' * min(starts[index], 199)}^"


def _units_remedy(rule: str, path: Path) -> str:
    return f"; or: sweep import {path.name} --unit tokens=1e9" if rule == "mixed-units" else ""
