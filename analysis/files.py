"""Loss tables and fits on disk: CSV and parquet tables, `fit.json`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.fit_report import FitReport
from analysis.record import finite
from analysis.table import COLUMNS, Fault, LossTable, TableError, read_rows

_TEXT = ("trial_id", "level", "trajectory_id", "device", "excluded")


def read_frame(path: str | Path) -> pd.DataFrame:
    """The rows of a CSV, TSV or parquet file as they are.

    Raises:
        FileNotFoundError: when there is no such file.
        TableError: when the file is empty or cannot be parsed as a table.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such table: {path}")
    if path.suffix == ".parquet":
        try:
            return pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise TableError([_unreadable(path, error)]) from error
    separator = "\t" if path.suffix == ".tsv" else ","
    if path.stat().st_size == 0:
        raise TableError([_unreadable(path, ValueError("the file is empty"))])
    try:
        text = dict.fromkeys(_TEXT, str)
        frame = pd.read_csv(
            path,
            sep=separator,
            dtype=text,
            keep_default_na=True,
            encoding="utf-8-sig",
            low_memory=False,
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise TableError([_unparsed(path, error)]) from error
    if len(frame.columns) == 1 and ";" in str(frame.columns[0]):
        raise TableError([_semicolons(path)])
    if not isinstance(frame.index, pd.RangeIndex):
        raise TableError([_ragged(path)])
    return frame


def _unparsed(path: Path, error: Exception) -> Fault:
    ragged = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
    if ragged is None:
        return _unreadable(path, error)
    return Fault(
        rule="ragged-table",
        place=f"line {ragged[2]}",
        message=f"every row must have as many cells as the header, {ragged[1]}; this one has "
        f"{ragged[3]}",
        remedy="Write decimals with a point, or quote the cells that hold a comma",
    )


def _unreadable(path: Path, error: Exception) -> Fault:
    return Fault(
        rule="unreadable-table",
        place=str(path),
        message=f"a table must be a CSV, TSV or parquet file with a header: {error}",
        remedy="Check the file's format and its ending (.csv, .tsv, .parquet)",
    )


def _ragged(path: Path) -> Fault:
    return Fault(
        rule="ragged-table",
        place=str(path),
        message="every row must have as many cells as the header; these rows have more, as they "
        "do where decimals are written with a comma",
        remedy="Write decimals with a point, or quote the cells that hold a comma",
    )


def _semicolons(path: Path) -> Fault:
    return Fault(
        rule="unreadable-table",
        place=str(path),
        message="the cells of a CSV file are separated by commas; these are by semicolons",
        remedy="Save it with commas between cells and points in decimals",
    )


def read_table(
    path: str | Path, *, mapping: Mapping[str, str] | None = None, convention: str = "matmul"
) -> LossTable:
    """Read and validate a loss table.

    Args:
        path: CSV, TSV or parquet file.
        mapping: our column name -> the file's.
        convention: which parameter count is N.

    Raises:
        FileNotFoundError: when there is no such file.
        TableError: with every fault of the file, in one pass.
    """
    return read_rows(read_frame(path), mapping=mapping, convention=convention)


def write_table(table: LossTable | pd.DataFrame, path: str | Path) -> Path:
    """Write a table whole: canonical columns first, exact floats, atomically replaced.

    A CSV written here reads back bit for bit: floats are written with `repr` precision.
    """
    path = Path(path)
    frame = table.frame if isinstance(table, LossTable) else table
    ordered = [c for c in COLUMNS if c in frame] + [c for c in frame if c not in COLUMNS]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    if path.suffix == ".parquet":
        frame[ordered].to_parquet(partial, index=False)
    else:
        frame[ordered].to_csv(partial, index=False, lineterminator="\n")
    os.replace(partial, path)
    return path


def write_fit(report: FitReport | Mapping[str, Any], path: str | Path) -> Path:
    """Write a fit (a mapping, or anything with `to_dict`) as strict JSON, atomically replaced.

    Values that are not finite become null.
    """
    path = Path(path)
    record = report if isinstance(report, Mapping) else report.to_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(finite(record), indent=2, allow_nan=False) + "\n", "utf-8")
    os.replace(partial, path)
    return path


def read_fit(path: str | Path) -> dict[str, Any]:
    """Read a `fit.json`.

    Raises:
        ValueError: when the file is not one.
    """
    record = json.loads(Path(path).read_text("utf-8"))
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != "sweep.fit/1":
        raise ValueError(f"{path}: expected schema sweep.fit/1, got {schema!r}")
    return record
