"""The loss table: rows of any origin in, one validated value out.

In comes a pandas frame with a parameter column, `tokens` and `loss` (more is welcome), and a
mapping from our column names to the frame's. Out comes a `LossTable`: numbers as float64, compute
filled in where it was missing, levels found, excluded rows kept with their reason. Every fault of
a frame is reported in one pass as a `TableError`; nothing is silently coerced or dropped, and what
was inferred is written in `LossTable.notes`.

Conversion to float64 happens at the door because 6*N*D of 64-bit integers overflows without an
error above 9.2e18 FLOPs.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.cells import consistency_faults, excluded_reasons, to_numbers
from analysis.columns import (
    COLUMNS,
    CONVENTIONS,
    LAW_COLUMNS,
    SYMBOLS,
    UNNAMED_CONVENTION,
    Fault,
    TableError,
    parameter_column,
)
from analysis.levels import cluster_levels, fill_levels

__all__ = [
    "COLUMNS",
    "CONVENTIONS",
    "SYMBOLS",
    "UNNAMED_CONVENTION",
    "Fault",
    "LossTable",
    "TableError",
    "cluster_levels",
    "parameter_column",
    "read_rows",
]


@dataclass(frozen=True, kw_only=True)
class LossTable:
    """A validated loss table under one reading of N; made by `read_rows`."""

    frame: pd.DataFrame
    """All rows, excluded ones too: the canonical columns first, the frame's own others after."""
    convention: str
    """Which parameter count is N: one of `CONVENTIONS`, or `params` when the table names none."""
    notes: tuple[str, ...] = ()
    """What was inferred while reading, in words."""

    @cached_property
    def used(self) -> pd.DataFrame:
        """The rows that enter a fit: those whose `excluded` is empty."""
        return self.frame[self.frame["excluded"] == ""]

    @property
    def n_points(self) -> int:
        """Number of rows that enter a fit."""
        return len(self.used)

    def column(self, name: str) -> np.ndarray:
        """One numeric column of the used rows as float64, shape (n_points,).

        Raises:
            KeyError: when the table has no such column.
        """
        return self.used[name].to_numpy(dtype=np.float64)

    def has(self, name: str) -> bool:
        """Whether every used row has a value in the column."""
        return name in self.frame.columns and bool(self.used[name].notna().all())

    @property
    def params_name(self) -> str:
        """Name of the column that holds N under `convention`."""
        return parameter_column(self.convention)

    @property
    def params(self) -> np.ndarray:
        """N of the used rows under `convention`, shape (n_points,)."""
        return self.column(self.params_name)

    @property
    def tokens(self) -> np.ndarray:
        """D of the used rows, shape (n_points,)."""
        return self.column("tokens")

    @property
    def flops(self) -> np.ndarray:
        """C of the used rows, FLOPs, shape (n_points,)."""
        return self.column("flops")

    @property
    def loss(self) -> np.ndarray:
        """L of the used rows, nats per token unless the table says otherwise, shape (n_points,)."""
        return self.column("loss")

    @property
    def loss_unit(self) -> str | None:
        """Unit of L by the table's `loss_unit`; None where the used rows do not name one."""
        if not self.has("loss_unit"):
            return None
        named = {str(unit).strip() for unit in self.used["loss_unit"]}
        return named.pop() or None if len(named) == 1 else None

    @property
    def levels(self) -> np.ndarray:
        """Level label of the used rows ('' = belongs to none), shape (n_points,), strings."""
        return self.used["level"].to_numpy(dtype=str)

    @property
    def conventions(self) -> tuple[str, ...]:
        """Readings of N that every used row carries."""
        named = tuple(c for c in CONVENTIONS if self.has(parameter_column(c)))
        return named or (UNNAMED_CONVENTION,)

    def with_convention(self, convention: str) -> LossTable:
        """The same rows with another parameter count as N.

        Raises:
            KeyError: when the table does not carry that count.
        """
        if not self.has(parameter_column(convention)):
            raise KeyError(f"the table has no {parameter_column(convention)!r}")
        return replace(self, convention=convention)

    def select(self, keep: np.ndarray, *, reason: str) -> LossTable:
        """The table with the used rows outside `keep` excluded for `reason`.

        Args:
            keep: booleans over the used rows, shape (n_points,).
            reason: written into `excluded` of the rows left out.
        """
        frame = self.frame.copy()
        dropped = self.used.index[~np.asarray(keep, dtype=bool)]
        frame.loc[dropped, "excluded"] = reason
        return replace(self, frame=frame)


def read_rows(
    frame: pd.DataFrame, *, mapping: Mapping[str, str] | None = None, convention: str = "matmul"
) -> LossTable:
    """Validate a frame and give it the loss table's names, types and derived columns.

    Args:
        frame: the rows as they came from a file or from a sweep.
        mapping: our column name -> the frame's, as `--map params=my_column` gives it.
        convention: the reading of N to use; when the table lacks the default one, the first
            reading that it has is used instead and noted.

    Returns:
        The table. `flops` is 6*N*D where absent; `tokens` is flops/(6*N) where only compute is
        given; `level` comes from clusters of compute where absent.

    Raises:
        TableError: with every fault found, in one pass.
    """
    notes: list[str] = []
    renamed, faults = rename(frame, dict(mapping or {}), notes)
    renamed = _without_blank_readings(renamed)
    if len(renamed) == 0:
        faults.append(
            Fault(
                rule="empty-table",
                place="table",
                message="a loss table needs at least one row; this one has none",
                remedy="Check the file, or run `sweep run` to fill one",
            )
        )
    chosen = _choose_convention(renamed, convention, notes, faults)
    _require(renamed, faults)
    if faults:
        raise TableError(faults)
    excluded = excluded_reasons(renamed["excluded"]) if "excluded" in renamed else None
    renamed["excluded"] = (
        pd.Series("", index=renamed.index, dtype="str") if excluded is None else excluded
    )
    key = {"tokens", "loss", parameter_column(chosen)}
    faults = to_numbers(renamed, {*key, "flops"}, never_blank=key)
    if faults:
        raise TableError(faults)
    _fill_compute(renamed, parameter_column(chosen), notes)
    faults = consistency_faults(renamed, parameter_column(chosen))
    if faults:
        raise TableError(faults)
    _mark_duplicates(renamed, parameter_column(chosen), notes)
    fill_levels(renamed, notes)
    ordered = [c for c in COLUMNS if c in renamed] + [c for c in renamed if c not in COLUMNS]
    return LossTable(
        frame=renamed[ordered].reset_index(drop=True), convention=chosen, notes=tuple(notes)
    )


def rename(
    frame: pd.DataFrame, mapping: dict[str, str], notes: list[str]
) -> tuple[pd.DataFrame, list[Fault]]:
    """The frame under our names, and the faults of the mapping itself.

    Args:
        frame: the rows as they came.
        mapping: our column name -> the frame's.
        notes: what was inferred is appended here.
    """
    faults: list[Fault] = []
    names = [str(c) for c in frame.columns]
    source = frame.copy()
    source.columns = pd.Index(names)
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        faults.append(
            Fault(
                rule="duplicate-column",
                place=f"columns {', '.join(repeated)}",
                message="each column name may appear once",
                remedy="Rename or delete the repeated columns",
            )
        )
        source = source.loc[:, ~source.columns.duplicated()]
    known = {*COLUMNS, *LAW_COLUMNS, UNNAMED_CONVENTION}
    for ours, theirs in mapping.items():
        if ours not in known:
            faults.append(_unknown_target(ours, known))
        elif theirs not in names:
            faults.append(_missing_source(ours, theirs, names))
    usable = {o: t for o, t in mapping.items() if o in known and t in names}
    for symbol, ours in SYMBOLS.items():
        taken = ours in names or ours in usable
        if ours == UNNAMED_CONVENTION:
            taken = taken or any(parameter_column(c) in {*names, *usable} for c in CONVENTIONS)
        if symbol in names and not taken:
            usable[ours] = symbol
            notes.append(f"column {symbol!r} was read as {ours!r}")
    if "excluded" not in names and "excluded" not in usable:
        for name in names:
            if name.startswith("excluded_by_"):
                usable["excluded"] = name
                notes.append(f"column {name!r} was read as 'excluded'")
                break
    result = source.drop(columns=[o for o, t in usable.items() if o in source and o != t])
    # A source column may feed two of ours (params_total and params_body, say): copy, then drop.
    copies = {ours: source[theirs] for ours, theirs in usable.items()}
    result = result.drop(columns=[t for t in set(usable.values()) if t in result])
    result = pd.concat([result, pd.DataFrame(copies, index=source.index)], axis=1)
    if "excluded" in usable and usable["excluded"] != "excluded":
        flags = excluded_reasons(result["excluded"], flag=usable["excluded"])
        result["excluded"] = flags
    return result.reset_index(drop=True), faults


def _without_blank_readings(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame without parameter columns that hold nothing: they are no reading of N."""
    names = [parameter_column(c) for c in (*CONVENTIONS, UNNAMED_CONVENTION)]
    blank = [n for n in names if n in frame and len(frame) and frame[n].isna().all()]
    return frame.drop(columns=blank)


def _unknown_target(ours: str, known: set[str]) -> Fault:
    near = difflib.get_close_matches(ours, sorted(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return Fault(
        rule="unknown-column",
        place=f"--map {ours}=...",
        message=f"the left side must be a column of the loss table, not {ours!r}{hint}",
        remedy=f"Use one of: {', '.join(sorted(known))}",
    )


def _missing_source(ours: str, theirs: str, names: list[str]) -> Fault:
    near = difflib.get_close_matches(theirs, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return Fault(
        rule="missing-column",
        place=f"--map {ours}={theirs}",
        message=f"the table has no column {theirs!r}{hint}",
        remedy=f"Its columns are: {', '.join(names) or '(none)'}",
    )


def _choose_convention(
    frame: pd.DataFrame, wanted: str, notes: list[str], faults: list[Fault]
) -> str:
    """The reading of N to use, or a fault when the table has no parameter column."""
    if parameter_column(wanted) in frame:
        return wanted
    for convention in (*CONVENTIONS, UNNAMED_CONVENTION):
        if parameter_column(convention) in frame:
            notes.append(
                f"the table has no {parameter_column(wanted)!r}: "
                f"N is its {parameter_column(convention)!r}"
            )
            return convention
    choices = ", ".join([*(parameter_column(c) for c in CONVENTIONS), UNNAMED_CONVENTION])
    faults.append(missing_column(UNNAMED_CONVENTION, f"a parameter column ({choices})", frame))
    return wanted


def missing_column(
    ours: str, described: str, frame: pd.DataFrame, *, law: str | None = None
) -> Fault:
    """The fault of a column that a table (or a law that was asked for) cannot do without."""
    names = [str(c) for c in frame.columns]
    near = difflib.get_close_matches(ours, names, n=1, cutoff=0.5)
    example = near[0] if near else "my_column"
    whose = "a loss table" if law is None else f"the {law} law"
    hint = f"; the nearest name is {near[0]!r}" if near else ""
    return Fault(
        rule="missing-column",
        place=f"column {ours}",
        message=f"{whose} needs {described}; found: {', '.join(names) or '(none)'}{hint}",
        remedy=f"Name it with --map {ours}={example}",
    )


def _require(frame: pd.DataFrame, faults: list[Fault]) -> None:
    if "loss" not in frame:
        faults.append(missing_column("loss", "'loss'", frame))
    if "tokens" not in frame and "flops" not in frame:
        faults.append(missing_column("tokens", "'tokens' (or 'flops')", frame))


def _fill_compute(frame: pd.DataFrame, column: str, notes: list[str]) -> None:
    """Fill `tokens`, `flops` and `flops_6nd` by C = 6*N*D where they are absent."""
    if "tokens" not in frame:
        frame["tokens"] = frame["flops"] / (6.0 * frame[column])
        notes.append("the table has no 'tokens': D = flops / (6 N)")
    if "flops" not in frame:
        frame["flops"] = 6.0 * frame[column] * frame["tokens"]
        notes.append("the table has no 'flops': C = 6 N D")
    frame["flops_6nd"] = 6.0 * frame[column] * frame["tokens"]


def _mark_duplicates(frame: pd.DataFrame, column: str, notes: list[str]) -> None:
    """Exclude rows that repeat an earlier row's numbers exactly: a copy is not a measurement."""
    keys = [column, "tokens", "flops", "loss"]
    keys += [k for k in ("seed", "trial_id", "trajectory_id", "learning_rate") if k in frame]
    used = frame["excluded"] == ""
    copies = used & frame[used].duplicated(subset=keys).reindex(frame.index, fill_value=False)
    if copies.any():
        frame.loc[copies, "excluded"] = "duplicate of an earlier row"
        notes.append(f"{int(copies.sum())} rows repeat an earlier row exactly and are excluded")
