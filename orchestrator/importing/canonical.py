"""Foreign runs under our names: columns found, units applied, every run judged, nothing invented.

In: `ForeignRuns`, which column is which, units. Out: a frame with the loss table's columns, empty
where the source is silent, a reason in `excluded` of every run that cannot be a measurement. What
stands in a cell that should be a number and is none is a fault, not an exclusion.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.table import (
    COLUMNS,
    CONVENTIONS,
    SYMBOLS,
    UNNAMED_CONVENTION,
    TableError,
    parameter_column,
    read_rows,
)
from orchestrator.errors import BadInput, Fault, nearest
from orchestrator.importing.runs import PREFIXES, ForeignRuns

OWN_ROW = "tags.sweep.row"
"""Where our own projection keeps a trial's whole row of the loss table, as JSON."""

EXTRA = ("tokenizer", "loss_unit", "precision")
"""Columns beside the table's own that say whether runs may be fitted together (rule R8)."""

PROVENANCE = ("source", "run_name")
"""Columns that say where a row comes from."""

_TARGETS = (*COLUMNS, UNNAMED_CONVENTION, *EXTRA)
_TEXT = frozenset({"trial_id", "level", "trajectory_id", "device", "excluded", *EXTRA})
_PARAMETER_COLUMNS = (*(parameter_column(c) for c in CONVENTIONS), UNNAMED_CONVENTION)
_LIKELY_UNITS = (1e3, 1e6, 1e9, 1e12)
_LOW, _HIGH = 1e-2, 1e6
"""Median tokens per parameter outside of these is taken for a unit that was not given."""
_TYPICAL = 20.0
_FEW_PARAMETERS, _FEW_TOKENS = 100.0, 1e4
"""Medians under these are no models that anyone trained."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Foreign runs as a loss table, and how they became one."""

    frame: pd.DataFrame
    """All of the loss table's columns in their order, then what else was kept."""
    columns: Mapping[str, str]
    """Our column -> the source's."""
    derived: Mapping[str, str]
    """Our column -> the formula by which it was filled."""
    notes: tuple[str, ...]
    """What was inferred, in words."""
    params: str
    """The column that holds N."""

    @property
    def excluded(self) -> dict[str, int]:
        """Reasons and how many rows have each."""
        reasons = self.frame.loc[self.frame["excluded"] != "", "excluded"]
        return {str(k): int(v) for k, v in reasons.value_counts(sort=False).items()}


@dataclass
class _Draft:
    """A frame in the making."""

    frame: pd.DataFrame
    columns: dict[str, str]
    params: str
    notes: list[str] = field(default_factory=list)
    order: pd.Index | None = None
    """Order of the rows to write; None = the source's."""


def canonical(
    runs: ForeignRuns,
    *,
    mapping: Mapping[str, str],
    units: Mapping[str, float],
    place: str,
) -> Imported:
    """Foreign runs as a loss table.

    Args:
        runs: as a reader gives them.
        mapping: our column -> the source's; wins over columns that already have our names.
        units: our column -> the factor that makes it a plain count (or nats, FLOPs, seconds).
        place: the source, for errors and the `source` column.

    Raises:
        BadInput: for a column that is missing or unknown, a unit that cannot be right, cells
            that are no numbers, one identity with two measurements, and when no run is left.
    """
    if OWN_ROW in runs.frame and runs.frame[OWN_ROW].notna().any() and not mapping:
        draft = _own(runs)
    else:
        draft = _named(runs, mapping, place)
    _scale(draft, units, place)
    frame = draft.frame
    frame["excluded"] = _reasons(draft, runs.trouble)
    _mark_copies(draft, place)
    used = frame["excluded"] == ""
    if not used.any():
        raise _nothing_left(frame, place)
    _refuse_units(draft, units, place)
    derived = _derive(draft)
    _validate(draft, place)
    frame["source"], frame["run_name"] = place, runs.names.to_numpy()
    empty = {name: pd.Series(np.nan, index=frame.index) for name in COLUMNS if name not in frame}
    frame = pd.concat([frame, pd.DataFrame(empty, index=frame.index)], axis=1)
    if draft.order is not None:
        frame = frame.loc[draft.order]
    unnamed = [UNNAMED_CONVENTION] if UNNAMED_CONVENTION in frame else []
    extra = [name for name in EXTRA if name in frame]
    return Imported(
        frame=frame[[*COLUMNS, *unnamed, *extra, *PROVENANCE]],
        columns=draft.columns,
        derived=derived,
        notes=(*runs.notes, *draft.notes),
        params=draft.params,
    )


def resolve(name: str, frame: pd.DataFrame) -> list[str]:
    """Columns that a name may mean: itself, else those that carry it after a tracker's prefix."""
    if name in frame:
        return [name]
    return [f"{prefix}.{name}" for prefix in PREFIXES if f"{prefix}.{name}" in frame]


def _at_the_end(name: str, frame: pd.DataFrame) -> list[str]:
    """Columns of nested settings whose path ends in a name, as `config.model.n` does in `n`."""
    return [column for column in map(str, frame.columns) if column.endswith(f".{name}")]


def _bare(name: str) -> str:
    """A column's name without a tracker's prefix."""
    prefix, _, rest = name.partition(".")
    return rest if prefix in PREFIXES else name


def _own(runs: ForeignRuns) -> _Draft:
    """Trials of our own sweeps: the row that the projection kept, exactly."""
    rows = [
        json.loads(text) if isinstance(text, str) else {"trial_id": trial_id}
        for text, trial_id in zip(
            runs.frame[OWN_ROW],
            runs.frame.get("tags.sweep.trial_id", runs.ids),
            strict=True,
        )
    ]
    frame = pd.DataFrame(rows, index=runs.frame.index).reindex(columns=list(COLUMNS))
    order = frame.sort_values(["level", "params_matmul", "trial_id"], kind="stable").index
    return _Draft(
        frame=frame,
        columns={name: OWN_ROW for name in COLUMNS if frame[name].notna().any()},
        params=parameter_column(CONVENTIONS[0]),
        notes=["the runs are a sweep's own: their rows were read as they were written"],
        order=order,
    )


def _named(runs: ForeignRuns, mapping: Mapping[str, str], place: str) -> _Draft:
    """The source's columns under our names."""
    source, faults, notes = runs.frame, [], []
    columns: dict[str, str] = {}
    for ours, theirs in mapping.items():
        if ours not in _TARGETS:
            faults.append(
                _fault(
                    f"--map names a column of the loss table on its left; `{ours}` is none",
                    f"--map {ours}={theirs}",
                    nearest(ours, _TARGETS),
                )
            )
            continue
        found = resolve(theirs, source) or _at_the_end(theirs, source)
        if len(found) == 1:
            columns[ours] = found[0]
        else:
            faults.append(_unresolved(ours, theirs, found, source))
    for ours in _TARGETS:
        found = resolve(ours, source)
        if ours in columns or not found:
            continue
        if len(found) > 1:
            faults.append(_unresolved(ours, ours, found, source))
        else:
            columns[ours] = found[0]
    for symbol, ours in SYMBOLS.items():
        wanted = _PARAMETER_COLUMNS if ours == UNNAMED_CONVENTION else (ours,)
        found = resolve(symbol, source)
        if len(found) == 1 and not any(name in columns for name in wanted):
            columns[ours] = found[0]
            notes.append(f"column {found[0]!r} was read as {ours!r}")
    params = next((name for name in _PARAMETER_COLUMNS if name in columns), None)
    # What was named wrongly is a fault already; to call it missing too would hide the name.
    for ours, names in ((UNNAMED_CONVENTION, _PARAMETER_COLUMNS), *((n, (n,)) for n in _NEEDED)):
        if not any(name in columns or name in mapping for name in names):
            faults.append(_missing(ours, source))
    if faults:
        raise BadInput([*faults])
    assert params is not None
    frame = pd.DataFrame({o: source[t] for o, t in columns.items()}, index=source.index)
    _note_other_losses(columns["loss"], source, notes)
    if "trial_id" not in frame and (runs.ids != "").any():
        frame["trial_id"] = runs.ids
    return _Draft(frame=frame, columns=columns, params=params, notes=notes)


_NEEDED = ("tokens", "loss")


def _unresolved(ours: str, theirs: str, found: list[str], source: pd.DataFrame) -> Fault:
    if found:
        return _fault(
            f"a column must have one meaning; `{theirs}` is {' and '.join(found)}",
            f"--map {ours}={theirs}",
            f"--map {ours}={found[0]}",
        )
    return _fault(
        f"the source must hold the column that --map names; it has no `{theirs}`",
        f"--map {ours}={theirs}",
        nearest(theirs, map(str, source.columns)),
    )


def _missing(ours: str, source: pd.DataFrame) -> Fault:
    """A needed column that nothing was read as, with the likeliest of those that there are."""
    words = {
        UNNAMED_CONVENTION: ("param", "size"),
        "tokens": ("token",),
        "loss": ("loss", "nll", "cross_entropy"),
    }[ours]
    names = [str(name) for name in source.columns]
    likely = [n for n in names if any(word in _bare(n).lower() for word in words)]
    described = {
        UNNAMED_CONVENTION: f"the number of parameters ({', '.join(_PARAMETER_COLUMNS)})",
        "tokens": "the training tokens (tokens)",
        "loss": "the loss (loss)",
    }[ours]
    example = likely[0] if likely else "THEIR_COLUMN"
    given = shlex.quote(f"{ours}={example}")
    listed = ", ".join(likely or names[:30])
    return _fault(
        f"every run needs {described}; no column has that name",
        f"column {ours}",
        f"name it with --map {given}; {'likely' if likely else 'columns'}: {listed}",
    )


def _fault(rule: str, place: str, remedy: str) -> Fault:
    return Fault(code="SWP-4012", rule=rule, place=place, remedy=remedy)


def _note_other_losses(chosen: str, source: pd.DataFrame, notes: list[str]) -> None:
    others = [n for n in map(str, source.columns) if "loss" in _bare(n).lower() and n != chosen]
    if others:
        notes.append(
            f"loss is the column {chosen!r}; the source also has {', '.join(others[:8])}: "
            "a fit wants the held-out loss at the end of training (--map loss=...)"
        )


def _scale(draft: _Draft, units: Mapping[str, float], place: str) -> None:
    for name, factor in units.items():
        if name not in draft.frame or name in _TEXT:
            raise BadInput(
                Fault(
                    code="SWP-4013",
                    rule="--unit names a column of numbers that the source gives; "
                    f"`{name}` is none",
                    place=f"{place}: --unit {name}={factor:g}",
                    remedy=nearest(name, [str(n) for n in draft.frame if n not in _TEXT]),
                )
            )
        cells = draft.frame[name]
        numbers = pd.to_numeric(cells, errors="coerce")
        # What is no number stays as it is, for the fault that names it.
        draft.frame[name] = (numbers * factor).where(numbers.notna(), cells)
        if factor != 1.0:
            draft.notes.append(f"{name} was multiplied by {factor:g}")


def _reasons(draft: _Draft, trouble: pd.Series) -> pd.Series:
    """Why each run is no measurement: its end, a value that is absent or not finite."""
    frame = draft.frame
    reasons = trouble.astype(object)
    if "excluded" in frame:
        given = frame["excluded"].where(~_blank(frame["excluded"]), "").astype(str)
        reasons = given.astype(object).where(given != "", reasons)
    needed = [draft.params, *_NEEDED]
    if "flops" in frame and not _blank(frame["flops"])[reasons == ""].all():
        needed.append("flops")
    words = {draft.params: "no parameter count", "flops": "no flops, which other runs have"}
    for name in needed:
        blank, strange = _blank(frame[name]), _not_finite(frame[name])
        reasons[blank & (reasons == "")] = words.get(name, f"no {name}")
        told = strange & (reasons == "")
        reasons[told] = name + " is " + frame.loc[told, name].astype(str).str.strip().str.lower()
    return reasons


def _blank(cells: pd.Series) -> pd.Series:
    if pd.api.types.is_numeric_dtype(cells):
        return cells.isna()
    return cells.isna() | (cells.astype(str).str.strip() == "")


def _not_finite(cells: pd.Series) -> pd.Series:
    """Cells that were written as numbers and are none: nan as text, infinities."""
    infinite = pd.Series(np.isinf(_numbers(cells)), index=cells.index)
    if pd.api.types.is_numeric_dtype(cells):
        return infinite
    words = cells.astype(str).str.strip().str.lower()
    return infinite | (words.isin(["nan", "inf", "-inf", "infinity", "-infinity"]) & cells.notna())


def _numbers(cells: pd.Series) -> np.ndarray:
    return pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)


def _mark_copies(draft: _Draft, place: str) -> None:
    """Exclude rows that repeat an earlier run; one identity with two measurements is a fault."""
    frame = draft.frame
    used = frame["excluded"] == ""
    # Which runs repeat one another is a question of numbers, not of identities.
    keys = [
        name
        for name in (draft.params, *_NEEDED, "flops", "seed", "learning_rate", "trajectory_id")
        if name in frame
    ]
    copies = frame[used].duplicated(subset=keys)
    repeated = copies[copies].index
    if "trial_id" in frame:
        first = frame[used].drop_duplicates(subset=keys)
        ids = first["trial_id"].fillna("").astype(str)
        twice = ids[(ids != "") & ids.duplicated(keep=False)]
        if len(twice):
            name = twice.iloc[0]
            rows = ", ".join(str(i + 1) for i in twice.index[twice == name][:10])
            raise BadInput(
                Fault(
                    code="SWP-4001",
                    rule=f"each run may appear once; `{name}` has several measurements "
                    "(duplicate-trial)",
                    place=f"{place}: rows {rows}",
                    remedy="leave one row of each run, or map trial_id to a column that tells "
                    "them apart",
                )
            )
    frame.loc[repeated, "excluded"] = "duplicate of an earlier row"


def _nothing_left(frame: pd.DataFrame, place: str) -> BadInput:
    counts = frame["excluded"].value_counts(sort=True)
    listed = "; ".join(f"{n} x {reason}" for reason, n in list(counts.items())[:6])
    return BadInput(
        Fault(
            code="SWP-4015",
            rule="an import needs at least one finished run with parameters, tokens and loss; "
            f"of {len(frame)} rows none is: {listed or 'there are none'}",
            place=place,
            remedy="check the source, and which columns --map names",
        )
    )


def _refuse_units(draft: _Draft, units: Mapping[str, float], place: str) -> None:
    """Refuse counts whose ratio no run has: a unit was left out."""
    used = draft.frame[draft.frame["excluded"] == ""]
    middle = {}
    for name in (draft.params, "tokens"):
        numbers = _numbers(used[name])
        middle[name] = float(np.nanmedian(numbers)) if np.isfinite(numbers).any() else math.nan
    params, tokens = middle[draft.params], middle["tokens"]
    if not (params > 0 and tokens > 0) or "tokens" in units or draft.params in units:
        return
    ratio = tokens / params
    if _LOW <= ratio <= _HIGH and params >= _FEW_PARAMETERS and tokens >= _FEW_TOKENS:
        return
    guesses = {
        (draft.params, "tokens")[which]: factor for which, factor in _likely_units(params, tokens)
    }
    remedy = "use " + " ".join(f"--unit {name}={factor:.0e}" for name, factor in guesses.items())
    raise BadInput(
        Fault(
            code="SWP-4013",
            rule="parameters and tokens must be plain counts; the medians are "
            f"{params:.4g} parameters and {tokens:.4g} tokens, {ratio:.3g} tokens per parameter, "
            "which looks like thousands, millions or billions",
            place=f"{place}: columns {draft.columns.get(draft.params)}, "
            f"{draft.columns.get('tokens')}",
            remedy=f"{remedy.replace('e+', 'e').replace('e0', 'e')}; or, if they are counts, "
            "--unit tokens=1",
        )
    )


def _likely_units(params: float, tokens: float) -> list[tuple[int, float]]:
    """Factors that would make the counts plausible: which count (0 params, 1 tokens), and by what.

    Fewest changes first, then the ratio nearest to a usual one, then millions before thousands.
    """
    choices = []
    for of_params in (1.0, *_LIKELY_UNITS):
        for of_tokens in (1.0, *_LIKELY_UNITS):
            n, d = params * of_params, tokens * of_tokens
            if 1e3 <= n <= 1e13 and 1e5 <= d <= 1e15:
                changes = (of_params != 1.0) + (of_tokens != 1.0)
                off = abs(math.log(d / n / _TYPICAL))
                thousands = 1e3 in (of_params, of_tokens)
                choices.append((changes, round(off, 6), thousands, of_params, of_tokens))
    if not choices:
        return [(1, 1e9)]
    *_, of_params, of_tokens = min(choices)
    return [(i, f) for i, f in enumerate((of_params, of_tokens)) if f != 1.0] or [(1, 1e9)]


def _derive(draft: _Draft) -> dict[str, str]:
    """Fill `flops_6nd`, the one column that follows from others; returns its formula."""
    frame = draft.frame
    if "flops_6nd" in frame and not _blank(frame["flops_6nd"]).any():
        return {}
    frame["flops_6nd"] = 6.0 * _numbers(frame[draft.params]) * _numbers(frame["tokens"])
    return {"flops_6nd": f"6 N D with N = {draft.params}"}


def _validate(draft: _Draft, place: str) -> None:
    """Let the loss table's own rules look at the rows; every fault in one pass."""
    frame = draft.frame
    given = frame.loc[:, [name for name in frame if not _blank(frame[name]).all()]]
    try:
        read_rows(given.assign(excluded=frame["excluded"]))
    except TableError as error:
        raise BadInput(
            [
                Fault(
                    code="SWP-4001",
                    rule=f"{fault.message} ({fault.rule})",
                    place=f"{place}: {fault.place}",
                    remedy=fault.remedy,
                )
                for fault in error.faults
            ]
        ) from None
