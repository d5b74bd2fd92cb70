"""The forms in which people take runs out of Weights & Biases.

runs table      CSV of the workspace's table: Name, State, ..., then columns of the
                configuration and of the summary under their own names
run records     one JSON object per run with `config` and `summary`, from the public API; or
                the same as CSV with both as text, as the API guide's script writes it
history         a row per logged step with `_step`, from `run.history()`; several runs need a
                column that names the run. The last value of every column counts
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from orchestrator.importing.runs import ForeignRuns, blank_series, text_column, trouble_of

FINISHED = frozenset({"finished"})
_IDS = ("ID", "id", "run_id")
_NAMES = ("Name", "name", "run_name", "display_name", "run")
_STATES = ("State", "state")


def is_chart(frame: pd.DataFrame) -> bool:
    """Whether a table is the export of one chart: a row per step, a band around every curve."""
    return "Step" in frame and any(str(name).endswith(("__MIN", "__MAX")) for name in frame)


def read_runs_table(frame: pd.DataFrame) -> ForeignRuns:
    """The table of runs, or the API guide's CSV of dictionaries.

    Args:
        frame: the export as it stands.

    Raises:
        ValueError: for the export of one chart, which holds losses and no sizes.
    """
    if is_chart(frame):
        raise ValueError("this is one chart's export, which holds neither parameters nor tokens")
    packed = [name for name in ("config", "summary") if name in frame]
    if packed:
        records = [{str(k): v for k, v in r.items()} for r in frame.to_dict("records")]
        return read_records([{**r, **{k: _dictionary(r[k]) for k in packed}} for r in records])
    states = text_column(frame, _STATES)
    ids, names = text_column(frame, _IDS), text_column(frame, _NAMES)
    notes: tuple[str, ...] = ()
    if states is None:
        notes = ("the export has no 'State': every run is taken for finished",)
    if ids is None and names is not None and names.is_unique:
        ids = names
    return ForeignRuns(
        frame=frame.reset_index(drop=True),
        ids=blank_series(len(frame)) if ids is None else ids,
        names=blank_series(len(frame)) if names is None else names,
        trouble=blank_series(len(frame))
        if states is None
        else trouble_of(states, finished=FINISHED),
        notes=notes,
    )


def read_records(records: Sequence[Mapping[str, Any]]) -> ForeignRuns:
    """One record per run: nested values as `config.NAME` and `summary.NAME`.

    Args:
        records: each with `config` and `summary`; `id`, `name` and `state` where known.
    """
    rows = [
        {
            **_flat(record.get("config") or {}, "config."),
            **_flat(record.get("summary") or {}, "summary."),
        }
        for record in records
    ]
    frame = pd.DataFrame(rows, index=pd.RangeIndex(len(rows)))
    about = pd.DataFrame(
        [{k: v for k, v in r.items() if k not in ("config", "summary")} for r in records],
        index=frame.index,
    )
    found = read_runs_table(about)
    return ForeignRuns(
        frame=frame, ids=found.ids, names=found.names, trouble=found.trouble, notes=found.notes
    )


def read_history(frame: pd.DataFrame) -> ForeignRuns:
    """Logged steps: the last value of every column, run by run; a blank cell is no value.

    Args:
        frame: a row per step with `_step` and, for several runs, a column naming the run.

    Raises:
        ValueError: when steps repeat and nothing tells the runs apart.
    """
    key = next((name for name in (*_IDS, *_NAMES) if name in frame), None)
    if key is None and frame["_step"].duplicated().any():
        raise ValueError(
            "its steps repeat, so it holds several runs, and no column says which "
            f"({', '.join((*_IDS, *_NAMES))})"
        )
    run = frame[key].astype(str) if key else pd.Series("history", index=frame.index)
    ordered = frame.assign(__run__=run).sort_values(["__run__", "_step"], kind="stable")
    last = ordered.groupby("__run__", sort=False).last()
    last = last.loc[list(dict.fromkeys(run))]
    ids = pd.Series(last.index.astype(str), dtype=object) if key else blank_series(len(last))
    rows = last.reset_index(drop=True)
    states = text_column(rows, _STATES)
    notes = [
        f"a history of {len(frame)} steps: the last value of each column of {len(rows)} run(s)"
    ]
    if states is None:
        notes.append("a history does not say how a run ended: every run is taken for finished")
    return ForeignRuns(
        frame=rows,
        ids=ids,
        names=ids,
        trouble=blank_series(len(rows))
        if states is None
        else trouble_of(states, finished=FINISHED),
        notes=tuple(notes),
    )


def _flat(record: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Nested values under dotted names; `{"value": x}`, W&B's own wrapping, is x."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping) and "value" in value and set(value) <= {"value", "desc"}:
            value = value["value"]
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _dictionary(cell: object) -> dict[str, Any]:
    """A dictionary that was written into a cell, as JSON or as Python shows it."""
    text = str(cell)
    try:
        value = json.loads(text)
    except ValueError:
        try:
            # repr writes numbers that literal_eval does not read; as text they stay visible.
            value = ast.literal_eval(text.replace(": nan", ": 'nan'").replace(": inf", ": 'inf'"))
        except (ValueError, SyntaxError) as error:
            raise ValueError(f"a cell of `config` or `summary` is no dictionary: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"a cell of `config` or `summary` is no dictionary: {text[:40]}")
    return value
