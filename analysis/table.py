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
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

COLUMNS = (
    "trial_id",
    "level",
    "params_total",
    "params_body",
    "params_embedding",
    "params_head",
    "params_matmul",
    "params_active",
    "tokens",
    "unique_tokens",
    "epochs",
    "flops",
    "flops_6nd",
    "flops_target",
    "loss",
    "loss_sd",
    "bpb",
    "batch_tokens",
    "steps",
    "learning_rate",
    "seed",
    "trajectory_id",
    "wall_s",
    "device",
    "tokens_per_s",
    "mfu",
    "excluded",
)
"""The loss table's columns, in the order in which they are written."""

CONVENTIONS = ("matmul", "total", "body", "active")
"""Named readings of N, the default first: `params_<name>` holds it."""

UNNAMED_CONVENTION = "params"
"""The convention's name when the table has one parameter column without a reading of its own."""

SYMBOLS = {"N": "params", "D": "tokens", "C": "flops", "L": "loss"}
"""The field's one-letter column names, understood when the long name is absent."""

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
)
_NON_NEGATIVE = (
    "params_embedding",
    "params_head",
    "loss_sd",
    "learning_rate",
    "wall_s",
    "tokens_per_s",
    "mfu",
)
_NUMERIC = _POSITIVE + _NON_NEGATIVE
_FAULTS_PER_COLUMN = 20
_LEVEL_WIDTH = 0.25
"""Runs whose ln C lies within this range are one level when the table names none."""
_LEVEL_GAP = 0.25
"""Levels found from C alone are at least this far apart in ln C."""
_LEVEL_SHARE = 0.6
"""Share of the runs that must fall into such groups; otherwise compute was not set in levels."""
_DECIMAL_COMMA = re.compile(r"^\s*[+-]?\d+,\d+\s*$")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing wrong with a table, in the parts that an error line needs."""

    rule: str
    """Slug of the broken rule: `missing-column`, `not-a-number`, `not-positive`, ..."""
    place: str
    """Where: a column, or a row and a column (rows count from 1, the header is not a row)."""
    message: str
    """The rule, then what was found."""
    remedy: str
    """What to change."""

    def __str__(self) -> str:
        return f"{self.place}: {self.message}. {self.remedy}"


class TableError(ValueError):
    """A table that cannot be fitted as it is; holds every fault that was found."""

    def __init__(self, faults: Iterable[Fault]):
        self.faults = list(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


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


def parameter_column(convention: str) -> str:
    """Name of the column that holds N under a convention."""
    return UNNAMED_CONVENTION if convention == UNNAMED_CONVENTION else f"params_{convention}"


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
    renamed, faults = _rename(frame, dict(mapping or {}), notes)
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
    excluded = _excluded_reasons(renamed["excluded"]) if "excluded" in renamed else None
    renamed["excluded"] = (
        pd.Series("", index=renamed.index, dtype="str") if excluded is None else excluded
    )
    faults = _to_numbers(renamed, parameter_column(chosen))
    if faults:
        raise TableError(faults)
    _fill_compute(renamed, parameter_column(chosen), notes)
    faults = _consistency_faults(renamed, parameter_column(chosen))
    if faults:
        raise TableError(faults)
    _mark_duplicates(renamed, parameter_column(chosen), notes)
    _fill_levels(renamed, notes)
    ordered = [c for c in COLUMNS if c in renamed] + [c for c in renamed if c not in COLUMNS]
    return LossTable(
        frame=renamed[ordered].reset_index(drop=True), convention=chosen, notes=tuple(notes)
    )


def _rename(
    frame: pd.DataFrame, mapping: dict[str, str], notes: list[str]
) -> tuple[pd.DataFrame, list[Fault]]:
    """The frame under our names, and the faults of the mapping itself."""
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
    known = {*COLUMNS, UNNAMED_CONVENTION}
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
        flags = _excluded_reasons(result["excluded"], flag=usable["excluded"])
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
    faults.append(_missing_column(UNNAMED_CONVENTION, f"a parameter column ({choices})", frame))
    return wanted


def _missing_column(ours: str, described: str, frame: pd.DataFrame) -> Fault:
    names = [str(c) for c in frame.columns]
    near = difflib.get_close_matches(ours, names, n=1, cutoff=0.5)
    example = near[0] if near else "my_column"
    hint = f"; the nearest name is {near[0]!r}" if near else ""
    return Fault(
        rule="missing-column",
        place=f"column {ours}",
        message=f"a loss table needs {described}; found: {', '.join(names) or '(none)'}{hint}",
        remedy=f"Name it with --map {ours}={example}",
    )


def _require(frame: pd.DataFrame, faults: list[Fault]) -> None:
    if "loss" not in frame:
        faults.append(_missing_column("loss", "'loss'", frame))
    if "tokens" not in frame and "flops" not in frame:
        faults.append(_missing_column("tokens", "'tokens' (or 'flops')", frame))


def _excluded_reasons(cells: pd.Series, *, flag: str = "") -> pd.Series:
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


def _to_numbers(frame: pd.DataFrame, column: str) -> list[Fault]:
    """Make the numeric columns float64 in place; report every bad cell of a used row."""
    faults: list[Fault] = []
    used = (frame["excluded"] == "").to_numpy()
    required = {"tokens", "loss", "flops", column}
    for name in _NUMERIC:
        if name not in frame:
            continue
        cells = frame[name]
        values = pd.to_numeric(cells, errors="coerce").astype(np.float64).to_numpy(copy=True)
        blank = cells.isna().to_numpy()
        if not pd.api.types.is_numeric_dtype(cells):
            blank = blank | (cells.astype(str).str.strip() == "").to_numpy()
        whole_blank = bool(blank[used].all()) and name not in ("tokens", "loss", column)
        need = used & (name in required) & (not whole_blank)
        bad = (need | (used & ~blank)) & ~np.isfinite(values)
        low = (values <= 0) if name in _POSITIVE else (values < 0)
        wrong_sign = used & ~bad & np.isfinite(values) & low
        faults += _cell_faults(frame, name, bad, "not-a-number", "must be a finite number")
        sign = "greater than zero" if name in _POSITIVE else "zero or more"
        faults += _cell_faults(frame, name, wrong_sign, "not-positive", f"must be {sign}")
        frame[name] = values
        if whole_blank and used.any():
            del frame[name]
    return faults


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


def _fill_compute(frame: pd.DataFrame, column: str, notes: list[str]) -> None:
    """Fill `tokens`, `flops` and `flops_6nd` by C = 6*N*D where they are absent."""
    if "tokens" not in frame:
        frame["tokens"] = frame["flops"] / (6.0 * frame[column])
        notes.append("the table has no 'tokens': D = flops / (6 N)")
    if "flops" not in frame:
        frame["flops"] = 6.0 * frame[column] * frame["tokens"]
        notes.append("the table has no 'flops': C = 6 N D")
    frame["flops_6nd"] = 6.0 * frame[column] * frame["tokens"]


def _consistency_faults(frame: pd.DataFrame, column: str) -> list[Fault]:
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


def _mark_duplicates(frame: pd.DataFrame, column: str, notes: list[str]) -> None:
    """Exclude rows that repeat an earlier row's numbers exactly: a copy is not a measurement."""
    keys = [column, "tokens", "flops", "loss"]
    keys += [k for k in ("seed", "trial_id", "trajectory_id", "learning_rate") if k in frame]
    used = frame["excluded"] == ""
    copies = used & frame[used].duplicated(subset=keys).reindex(frame.index, fill_value=False)
    if copies.any():
        frame.loc[copies, "excluded"] = "duplicate of an earlier row"
        notes.append(f"{int(copies.sum())} rows repeat an earlier row exactly and are excluded")


def _fill_levels(frame: pd.DataFrame, notes: list[str]) -> None:
    """Give each row a level label: the column's, or one per cluster of compute."""
    if "level" in frame and frame["level"].notna().any():
        frame["level"] = pd.Series(map(_label, frame["level"]), index=frame.index, dtype="str")
        return
    source = "flops_target" if "flops_target" in frame else "flops"
    used = frame.index[frame["excluded"] == ""]
    labels = pd.Series("", index=frame.index, dtype="str")
    compute = frame.loc[used, source].to_numpy(dtype=np.float64)
    usable = np.isfinite(compute) & (compute > 0)
    labels.loc[used[usable]] = cluster_levels(compute[usable])
    frame["level"] = labels
    found = sorted({label for label in labels if label}, key=float)
    if found:
        notes.append(f"levels were found from {source}: {', '.join(found)}")


def _label(cell: object) -> str:
    if cell is None or cell is pd.NA or (isinstance(cell, float) and np.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e6:
        return str(int(cell))
    return str(cell)


def cluster_levels(compute: np.ndarray) -> np.ndarray:
    """Group runs of nearly equal compute.

    Args:
        compute: C of each run, FLOPs, shape (n,).

    Returns:
        Labels (the group's geometric mean, as text), shape (n,), dtype object; '' where a run is
        in no group of at least 3 that is narrow and set apart from its neighbours, and everywhere
        when fewer than 60 % of the runs are in such groups: compute that was drawn at random
        clusters here and there without being a level.
    """
    labels = np.full(len(compute), "", dtype=object)
    order = np.argsort(compute, kind="stable")
    log_c = np.log(compute[order])
    starts = np.flatnonzero(np.diff(log_c, prepend=-np.inf) > _LEVEL_GAP)
    for start, stop in zip(starts, [*starts[1:], len(log_c)], strict=True):
        members = log_c[start:stop]
        if len(members) >= 3 and members[-1] - members[0] <= _LEVEL_WIDTH:
            labels[order[start:stop]] = f"{np.exp(members.mean()):.4g}"
    if (labels != "").mean() < _LEVEL_SHARE:
        labels[:] = ""
    return labels
