"""Cells of a loss table: made numbers, with every one that is none, and units that cannot be."""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np
import pandas as pd

from analysis.columns import Fault

_POSITIVE = (
    "params",
    "params_total",
    "params_body",
    "params_matmul",
    "params_active",
    "tokens",
    "unique_tokens",
    "epochs",
    "flops",
    "flops_6nd",
    "flops_target",
    "loss",
    "bpb",
    "batch_tokens",
    "steps",
    "experts",
    "granularity",
    "lr_area",
)
_NON_NEGATIVE = (
    "params_embedding",
    "params_head",
    "loss_sd",
    "learning_rate",
    "wall_s",
    "tokens_per_s",
    "mfu",
    "sparsity",
)
_ANY_SIGN = ("lr_annealed",)
_NUMERIC = _POSITIVE + _NON_NEGATIVE + _ANY_SIGN
_FAULTS_PER_COLUMN = 20
_DECIMAL_COMMA = re.compile(r"^\s*[+-]?\d+,\d+\s*$")


def excluded_reasons(cells: pd.Series, *, flag: str = "") -> pd.Series:
    """Reasons as text: '' = used. Truthy flags (1, True, yes) become the flag column's name."""

    def reason(cell: object) -> str:
        if cell is None or cell is pd.NA or (isinstance(cell, float) and np.isnan(cell)):
            return ""
        text = str(cell).strip()
        if text.lower() in ("", "0", "0.0", "false", "no", "nan", "none"):
            return ""
        if text.lower() in ("1", "1.0", "true", "yes"):
            return flag or "excluded"
        return text

    return cells.map({cell: reason(cell) for cell in cells.unique()}).astype("str")


def to_numbers(
    frame: pd.DataFrame, required: Collection[str], *, never_blank: Collection[str]
) -> list[Fault]:
    """Make the numeric columns float64 in place; report every bad cell of a used row.

    Args:
        frame: the rows under our names, with their `excluded` reasons.
        required: columns in which no used row may lack a number.
        never_blank: those of them that may not be left out by being blank throughout.
    """
    faults: list[Fault] = []
    used = (frame["excluded"] == "").to_numpy()
    for name in _NUMERIC:
        if name not in frame:
            continue
        cells = frame[name]
        values = _numbers(cells)
        blank = cells.isna().to_numpy()
        if not pd.api.types.is_numeric_dtype(cells):
            blank = blank | (cells.astype(str).str.strip() == "").to_numpy()
        whole_blank = bool(blank[used].all()) and name not in never_blank
        need = used & (name in required) & (not whole_blank)
        bad = (need | (used & ~blank)) & ~np.isfinite(values)
        low = (values <= 0) if name in _POSITIVE else (values < 0) & (name not in _ANY_SIGN)
        wrong_sign = used & ~bad & np.isfinite(values) & low
        faults += _cell_faults(frame, name, bad, "not-a-number", "must be a finite number")
        sign = "greater than zero" if name in _POSITIVE else "zero or more"
        faults += _cell_faults(frame, name, wrong_sign, "not-positive", f"must be {sign}")
        frame[name] = values
        if whole_blank and used.any():
            del frame[name]
    return faults


def _numbers(cells: pd.Series) -> np.ndarray:
    """Cells as float64; nan where there is no number, or one that is too large for it."""
    try:
        numbers = pd.to_numeric(cells, errors="coerce")
    except OverflowError:  # an integer of more than 308 digits, which "coerce" does not cover
        numbers = pd.to_numeric(cells.where(cells.astype(str).str.len() <= 308), errors="coerce")
    return numbers.astype(np.float64).to_numpy(copy=True)


def _cell_faults(
    frame: pd.DataFrame, name: str, bad: np.ndarray, rule: str, must: str
) -> list[Fault]:
    rows = np.flatnonzero(bad)
    faults = []
    for row in rows[:_FAULTS_PER_COLUMN]:
        cell = frame[name].iloc[row]
        shown = "an empty cell" if pd.isna(cell) or str(cell).strip() == "" else repr(str(cell))
        remedy = "Correct the cell, or name a reason in the row's 'excluded' column"
        if _DECIMAL_COMMA.match(str(cell)):
            remedy = "Write decimals with a point, not a comma"
        faults.append(
            Fault(
                rule=rule,
                place=f"row {row + 1}, column {name}",
                message=f"{name} {must}, got {shown}",
                remedy=remedy,
            )
        )
    if len(rows) > _FAULTS_PER_COLUMN:
        faults.append(
            Fault(
                rule=rule,
                place=f"column {name}",
                message=f"{len(rows) - _FAULTS_PER_COLUMN} more rows have the same fault",
                remedy="Check how the column was written",
            )
        )
    return faults


def consistency_faults(frame: pd.DataFrame, column: str) -> list[Fault]:
    """Units that cannot be right, and trials that appear twice."""
    faults: list[Fault] = []
    used = frame[frame["excluded"] == ""]
    if len(used) == 0:
        return faults
    small = [name for name in (column, "tokens") if float(used[name].median()) < 100.0]
    for name in small:
        faults.append(
            Fault(
                rule="mixed-units",
                place=f"column {name}",
                message=f"{name} must be plain counts; its median is {used[name].median():.4g}, "
                "which looks like millions or billions",
                remedy="Multiply the column by its unit (1e6, 1e9) before fitting",
            )
        )
    for name in (column, "tokens"):
        values = used[name].to_numpy()
        if name not in small and values.max() / values.min() > 1e8:
            row = int(np.argmin(values))
            faults.append(
                Fault(
                    rule="mixed-units",
                    place=f"row {int(used.index[row]) + 1}, column {name}",
                    message=f"{name} spans {values.min():.4g} to {values.max():.4g}: more than "
                    "eight decades in one table looks like two units",
                    remedy="Write every row in the same unit (plain counts)",
                )
            )
    ratio = float((used["flops"] / used["flops_6nd"]).median())
    if not small and not 1e-3 < ratio < 1e3:
        faults.append(
            Fault(
                rule="mixed-units",
                place="column flops",
                message=f"flops must be near 6 N D; the median of flops/(6 N D) is {ratio:.3g}",
                remedy="Check the units of flops, tokens and the parameter column",
            )
        )
    faults += _contradictions(used)
    if "trial_id" in used:
        ids = used["trial_id"].dropna().astype(str)
        ids = ids[ids != ""]
        for name in sorted(ids[ids.duplicated()].unique())[:_FAULTS_PER_COLUMN]:
            rows = ", ".join(str(int(i) + 1) for i in ids.index[ids == name])
            faults.append(
                Fault(
                    rule="duplicate-trial",
                    place=f"rows {rows}, column trial_id",
                    message=f"each trial may appear once; {name!r} appears on several rows",
                    remedy="Delete the copies, or give each row its own trial_id",
                )
            )
    return faults


def _contradictions(used: pd.DataFrame) -> list[Fault]:
    """Rows that agree in everything, their seed included, except in the loss."""
    same = [str(name) for name in used.columns if "loss" not in str(name) and name != "bpb"]
    if "seed" not in used or used["seed"].isna().any():
        return []
    doubled = used[used.duplicated(subset=same, keep=False)]
    faults = []
    for _, group in doubled.groupby(same, dropna=False, sort=False):
        if group["loss"].nunique() > 1:
            rows = ", ".join(str(int(i) + 1) for i in group.index)
            losses = ", ".join(f"{loss:g}" for loss in group["loss"])
            faults.append(
                Fault(
                    rule="contradiction",
                    place=f"rows {rows}, column loss",
                    message="one run with one seed has one loss; these rows agree in everything "
                    f"else and say {losses}",
                    remedy="Delete the wrong one, or give the rows seeds of their own",
                )
            )
    return faults[:_FAULTS_PER_COLUMN]
