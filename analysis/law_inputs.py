"""The inputs of a law over named inputs, read off a table: every fault of it in one pass.

    N params (any reading)   D tokens          C flops         U unique_tokens
    M batch_tokens           K steps           X experts       G granularity    S sparsity
    S1 lr_area               S2 lr_annealed

What follows from other columns need not be given: K = D/M, D = M K, C = 6 N D, and S1 and S2 from
the learning rates of whole training curves (`steps`, `learning_rate`, one row per logged step).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.cells import excluded_reasons, to_numbers
from analysis.columns import CONVENTIONS, UNNAMED_CONVENTION, Fault, TableError, parameter_column
from analysis.family import Family
from analysis.laws import FloatArray
from analysis.run_families import annealing_areas
from analysis.table import missing_column, rename

_COLUMN = {
    "D": "tokens",
    "C": "flops",
    "U": "unique_tokens",
    "M": "batch_tokens",
    "K": "steps",
    "X": "experts",
    "G": "granularity",
    "S": "sparsity",
    "S1": "lr_area",
    "S2": "lr_annealed",
}
_WORDS = {
    "D": "'tokens', the tokens seen with repeats",
    "C": "'flops'",
    "U": "'unique_tokens', the tokens of the corpus that a run repeats",
    "M": "'batch_tokens', tokens per step",
    "K": "'steps'",
    "X": "'experts', experts per layer",
    "G": "'granularity', width of the dense feed-forward over an expert's",
    "S": "'sparsity', the inactive share of the experts",
    "S1": "'lr_area', the sum of learning rates (or 'steps' and 'learning_rate' of whole curves)",
    "S2": "'lr_annealed', the annealing area (or 'steps' and 'learning_rate' of whole curves)",
}
_CURVE_POINTS = 4
"""Fewest rows of one trajectory from which its schedule is read."""


@dataclass(frozen=True, kw_only=True)
class LawInputs:
    """What one law is fitted to."""

    inputs: Mapping[str, FloatArray]
    """The law's inputs by name, shape (m,) each."""
    loss: FloatArray
    """L, shape (m,)."""
    params: FloatArray | None
    """N, shape (m,); None where the table has none."""
    active: FloatArray | None
    """Active parameters, shape (m,); None where the table has none."""
    tokens: FloatArray | None
    """D, shape (m,); None where the table has none."""
    flops: FloatArray | None
    """C, shape (m,), 6 N D (of active N) where the table does not say; None without N and D."""
    notes: tuple[str, ...]
    """What was inferred or left out, in words."""


def read_law_inputs(
    frame: pd.DataFrame,
    family: Family,
    *,
    mapping: Mapping[str, str] | None = None,
    convention: str = "matmul",
) -> LawInputs:
    """The inputs of a law from a table's rows.

    Args:
        frame: the rows.
        family: the law.
        mapping: our column name -> the frame's.
        convention: which parameter count is N, where the table has several.

    Raises:
        TableError: with every missing column and every cell that is no number, in one pass.
    """
    notes: list[str] = []
    table, faults = rename(frame, dict(mapping or {}), notes)
    if len(table) == 0:
        faults.append(
            Fault(
                rule="empty-table",
                place="table",
                message="a loss table needs at least one row; this one has none",
                remedy="Check the file",
            )
        )
    column = _parameter_column(table, convention)
    needed = {"loss"} | _needed(family, table, column, faults)
    if "loss" not in table:
        faults.append(missing_column("loss", "'loss'", table))
    if faults:
        raise TableError(faults)
    table["excluded"] = excluded_reasons(table["excluded"]) if "excluded" in table else ""
    faults = to_numbers(table, needed, never_blank=needed)
    if faults:
        raise TableError(faults)
    used = table[table["excluded"] == ""].reset_index(drop=True)
    if len(used) < len(table):
        notes.append(f"{len(table) - len(used)} of {len(table)} rows are excluded, with reasons")
    if {"S1", "S2"} <= set(family.inputs) and "lr_area" not in used:
        used = _with_areas(used, notes)

    def numbers(name: str | None) -> FloatArray | None:
        if name is None or name not in used or used[name].isna().any():
            return None
        return used[name].to_numpy(dtype=np.float64)

    N, D, C = numbers(column), numbers("tokens"), numbers("flops")
    active = numbers("params_active")
    batch, steps = numbers("batch_tokens"), numbers("steps")
    if D is None and "M" in family.inputs and batch is not None and steps is not None:
        D = batch * steps
        notes.append("the table has no 'tokens': D = M K")
    if C is None and N is not None and D is not None:
        C = 6.0 * (N if active is None else active) * D
        if family.has_optimum:
            of = "N" if active is None else "params_active"
            notes.append(f"the table has no 'flops': C = 6 {of} D")
    if column not in (None, "params", parameter_column(convention)):
        notes.append(f"N is the table's {column!r}")
    inputs: dict[str, FloatArray] = {}
    if family.name == "overtraining":
        assert N is not None
        assert D is not None
        assert C is not None
        inputs = {"C": C, "M": D / N}
    else:
        for name in family.inputs:
            values = N if name == "N" else numbers(_COLUMN[name])
            if values is None and name == "K":
                assert D is not None
                assert batch is not None
                values = D / batch
                notes.append("the table has no 'steps': K = D / M")
            assert values is not None
            inputs[name] = values
    return LawInputs(
        inputs=inputs,
        loss=used["loss"].to_numpy(dtype=np.float64),
        params=N,
        active=active,
        tokens=D,
        flops=C,
        notes=tuple(notes),
    )


def _parameter_column(table: pd.DataFrame, convention: str) -> str | None:
    names = [parameter_column(c) for c in (convention, *CONVENTIONS, UNNAMED_CONVENTION)]
    return next((n for n in names if n in table and not table[n].isna().all()), None)


def _needed(
    family: Family, table: pd.DataFrame, column: str | None, faults: list[Fault]
) -> set[str]:
    """Columns that the law cannot do without; a fault for each that is not there."""
    wanted = ("N", "D") if family.name == "overtraining" else family.inputs
    needed: set[str] = set()
    for name in wanted:
        if name == "N":
            if column is None:
                faults.append(
                    missing_column("params", "a parameter column ('params', 'params_...')", table)
                )
            else:
                needed.add(column)
            continue
        ours = _COLUMN[name]
        if ours in table:
            needed.add(ours)
        elif name == "K" and "tokens" in table:
            needed.add("tokens")
        elif name in ("S1", "S2") and {"steps", "learning_rate"} <= set(table.columns):
            needed |= {"steps", "learning_rate"}
        else:
            faults.append(missing_column(ours, _WORDS[name], table, law=family.name))
    return needed


def _with_areas(used: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The rows with S1 and S2 of their place in the schedule of their trajectory."""
    keys = (
        used["trajectory_id"].astype(str) if "trajectory_id" in used else pd.Series("", used.index)
    )
    used = used.assign(lr_area=np.nan, lr_annealed=np.nan)
    for name, rows in used.groupby(keys, sort=False):
        rows = rows.sort_values("steps")
        step = rows["steps"].to_numpy(dtype=np.float64)
        if len(rows) < _CURVE_POINTS or (np.diff(step) <= 0).any():
            whose = f"trajectory {name}" if name else "the table"
            raise TableError(
                [
                    Fault(
                        rule="no-curve",
                        place=f"column steps, {whose}",
                        message="a schedule is read from a whole curve: at least "
                        f"{_CURVE_POINTS} rows with growing steps; found {len(rows)} rows",
                        remedy="Give one row per logged step, with 'trajectory_id' naming its run "
                        "where there are several; or give 'lr_area' and 'lr_annealed'",
                    )
                ]
            )
        every = np.arange(1, int(step[-1]) + 1)
        logged = rows["learning_rate"].to_numpy(dtype=np.float64)
        # Before the first row is the warm-up, which starts at nothing.
        rate = np.interp(every, np.append(0.0, step), np.append(0.0, logged))
        first, second = annealing_areas(rate)
        at = step.astype(int) - 1
        used.loc[rows.index, "lr_area"] = first[at]
        used.loc[rows.index, "lr_annealed"] = second[at]
    notes.append("S1 and S2 were summed from 'steps' and 'learning_rate', linear between rows")
    return used
