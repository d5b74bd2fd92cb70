"""What every reader of foreign runs hands over: their values as they stand, and what is unsound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

PREFIXES = ("metrics", "params", "tags", "summary", "config")
"""Where a tracker keeps a value; `metrics.loss` may be called `loss` where that is unambiguous."""


@dataclass(frozen=True, kw_only=True)
class ForeignRuns:
    """Runs of another origin, one row each, nothing interpreted yet."""

    frame: pd.DataFrame
    """The values under the source's own column names, one row per run, index 0, 1, ..."""
    ids: pd.Series
    """Identity of each run in its source; '' = it has none."""
    names: pd.Series
    """Readable name of each run; '' = it has none."""
    trouble: pd.Series
    """Why a run's values are not final (`unfinished: RUNNING`); '' = nothing against it."""
    notes: tuple[str, ...] = ()
    """What was inferred while reading, in words."""
    aside: tuple[str, ...] = ()
    """Runs that are no measurement and make no row, with the reason."""


def blank_series(length: int) -> pd.Series:
    """Empty text, one per run."""
    return pd.Series("", index=pd.RangeIndex(length), dtype=object)


def text_column(frame: pd.DataFrame, names: Sequence[str]) -> pd.Series | None:
    """The first column of these names as text, '' where empty; None when there is none."""
    for name in names:
        if name in frame:
            return frame[name].map(lambda cell: "" if pd.isna(cell) else str(cell))
    return None


def trouble_of(states: pd.Series, *, finished: frozenset[str]) -> pd.Series:
    """Why a run in a state other than finished is not a measurement.

    Args:
        states: state of each run in its source's own words; '' = unknown.
        finished: states, in lower case, whose values are final.
    """

    def reason(state: str) -> str:
        if not state or state.lower() in finished:
            return ""
        unfinished = state.lower() in ("running", "scheduled", "pending", "preempting", "preempted")
        return f"{'unfinished' if unfinished else 'ended badly'}: {state}"

    known = {state: reason(str(state)) for state in states.unique()}
    return states.map(known)
