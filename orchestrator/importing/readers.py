"""Readers of foreign runs: tables, W&B exports, MLflow experiments."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from analysis.files import read_frame
from analysis.table import TableError
from orchestrator.errors import BadInput, Fault, nearest
from orchestrator.importing.runs import ForeignRuns, blank_series, text_column, trouble_of
from orchestrator.importing.wandb_export import (
    is_chart,
    read_history,
    read_records,
    read_runs_table,
)

Format = Literal["csv", "parquet", "wandb", "mlflow"]
FORMATS: tuple[str, ...] = get_args(Format)

_FORMAT_OF_ENDING = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".json": "wandb",
    ".jsonl": "wandb",
    ".ndjson": "wandb",
}
_MLFLOW_FINISHED = frozenset({"finished"})
_IDS = ("trial_id", "run_id", "ID", "id")
_NAMES = ("run_name", "Name", "name", "tags.mlflow.runName")


def guess_format(source: str, *, experiment: str | None) -> str:
    """Which reader a source is for, from its form.

    Raises:
        BadInput: when neither its ending nor its scheme says.
    """
    if experiment is not None or "://" in source or source.startswith("sqlite:"):
        return "mlflow"
    ending = Path(source).suffix.lower()
    if ending in _FORMAT_OF_ENDING:
        return _FORMAT_OF_ENDING[ending]
    raise BadInput(
        Fault(
            code="SWP-4010",
            rule="the form of a source follows from its ending (.csv, .tsv, .parquet, .jsonl) or "
            f"from its scheme (sqlite:///, http://); `{ending or source}` says neither",
            place=source,
            remedy=f"name it with --format: {', '.join(FORMATS)}",
        )
    )


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_missing(path: Path) -> None:
    """Raise for a file that is not there, with the nearest one that is."""
    if path.is_file():
        return
    beside = path.parent if path.parent.is_dir() else Path()
    found = [str(item) for item in beside.iterdir() if item.suffix in _FORMAT_OF_ENDING]
    raise BadInput(
        Fault(
            code="SWP-4000",
            rule="the table must exist",
            place=str(path),
            remedy=nearest(str(path), found)
            if found
            else "name a file, or an MLflow store with --format mlflow",
        )
    )


def read_file(path: Path, form: str) -> ForeignRuns:
    """The runs of a file.

    Args:
        path: CSV, TSV, parquet, or JSON lines.
        form: `csv`, `parquet` or `wandb`.

    Raises:
        BadInput: when the file is missing, empty, or not what `form` says.
    """
    refuse_missing(path)
    if path.suffix.lower() in (".json", ".jsonl", ".ndjson"):
        return _read_json(path)
    try:
        frame = read_frame(path)
    except TableError as error:
        raise BadInput(
            [
                Fault(code="SWP-4011", rule=f.message, place=f.place, remedy=f.remedy)
                for f in error.faults
            ]
        ) from None
    frame.columns = pd.Index([str(name) for name in frame.columns])
    marks = ({"Name", "State"}, {"config", "summary"})
    marked = any(mark <= set(frame.columns) for mark in marks)
    if form == "wandb" or marked or is_chart(frame):
        return _from_wandb(frame, path)
    return _plain_table(frame)


def read_tracked(
    runs: Sequence[Any], *, needed: Sequence[str], place: str, parent: str | None
) -> ForeignRuns:
    """MLflow's runs, as `orchestrator.tracking.reading.read_experiment` gives them.

    Values stand under `params.NAME`, `metrics.NAME` (the last one logged) and `tags.NAME`. A run
    that others are nested under, and that holds none of the needed values, is set aside.

    Args:
        runs: the experiment's runs, oldest first.
        needed: names of columns that mark a run as a measurement.
        place: the store and the experiment, for errors.
        parent: name or id of the run whose children alone are read; None = every run.

    Raises:
        BadInput: when no run has this parent.
    """
    chosen = [run for run in runs if parent is None or run.parent_id in _ids_of(runs, parent)]
    if not chosen:
        parents = sorted({run.name for run in runs if run.run_id in _parents(runs)})
        raise BadInput(
            Fault(
                code="SWP-4014",
                rule="the experiment must hold runs to read"
                + (f"; none is nested under `{parent}`" if parent else ", and holds none"),
                place=place,
                remedy=nearest(parent, parents) if parent and parents else "name another one",
            )
        )
    containers = _parents(runs)
    rows: list[dict[str, Any]] = []
    kept, aside = [], []
    for run in chosen:
        values = {
            **{f"params.{k}": v for k, v in run.params.items()},
            # A NaN that was logged is a diverged run; in a frame it would look like an empty cell.
            **{f"metrics.{k}": "nan" if math.isnan(v) else v for k, v in run.metrics.items()},
            **{f"tags.{k}": v for k, v in run.tags.items()},
        }
        bare = {name.split(".", 1)[1] for name in values} | set(values)
        if run.run_id in containers and not bare & set(needed):
            aside.append(f"{run.name}: a parent of other runs, no measurement of its own")
            continue
        rows.append(values)
        kept.append(run)
    frame = pd.DataFrame(rows, index=pd.RangeIndex(len(rows)))
    return ForeignRuns(
        frame=frame,
        ids=pd.Series([run.run_id for run in kept], index=frame.index, dtype=object),
        names=pd.Series([run.name for run in kept], index=frame.index, dtype=object),
        trouble=trouble_of(
            pd.Series([run.status for run in kept], index=frame.index, dtype=object),
            finished=_MLFLOW_FINISHED,
        ),
        aside=tuple(aside),
    )


def _parents(runs: Sequence[Any]) -> set[str]:
    return {run.parent_id for run in runs if run.parent_id}


def _ids_of(runs: Sequence[Any], parent: str) -> set[str]:
    return {run.run_id for run in runs if parent in (run.run_id, run.name)}


def _plain_table(frame: pd.DataFrame) -> ForeignRuns:
    """A table of any tool; MLflow's own `search_runs` table brings a status that is heeded."""
    trouble = blank_series(len(frame))
    notes: tuple[str, ...] = ()
    states = text_column(frame, ("status",))
    if states is not None and set(states.str.upper()) <= {
        "", "RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED",
    }:  # fmt: skip
        trouble = trouble_of(states, finished=_MLFLOW_FINISHED)
        notes = ("column 'status' was read as MLflow's state of each run",)
    ids, names = text_column(frame, _IDS), text_column(frame, _NAMES)
    return ForeignRuns(
        frame=frame,
        ids=blank_series(len(frame)) if ids is None else ids,
        names=blank_series(len(frame)) if names is None else names,
        trouble=trouble,
        notes=notes,
    )


def _from_wandb(frame: pd.DataFrame, path: Path) -> ForeignRuns:
    try:
        return read_history(frame) if "_step" in frame else read_runs_table(frame)
    except ValueError as error:
        raise _not_an_export(path, error) from None


def _read_json(path: Path) -> ForeignRuns:
    """JSON lines (one object per line) or one JSON list of objects."""
    text = path.read_text(encoding="utf-8-sig")
    try:
        whole = text.lstrip().startswith("[")
        records = _parsed(text) if whole else _lines(text)
        if not all(isinstance(record, Mapping) for record in records):
            raise ValueError("every line must be a JSON object")
        if not records:
            raise ValueError("the file is empty")
        if "config" in records[0] or "summary" in records[0]:
            return read_records(records)
        return _from_wandb(pd.DataFrame(records), path)
    except ValueError as error:
        raise _not_an_export(path, error) from None


def _lines(text: str) -> list[Any]:
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                found.append(_parsed(line))
            except ValueError as error:
                raise ValueError(f"line {number} is not JSON ({error})") from None
    return found


def _parsed(text: str) -> Any:
    # A NaN that was logged is a diverged run; in a frame it would look like an empty cell.
    return json.loads(text, parse_constant=lambda word: word.lower())


def _not_an_export(path: Path, error: Exception) -> BadInput:
    return BadInput(
        Fault(
            code="SWP-4011",
            rule=f"a W&B export holds a row per run, or a history with its run: {error}",
            place=str(path),
            remedy="export the table of runs (with the columns of the configuration shown) as "
            "CSV, or write one JSON object per run with `config`, `summary`, `state`, `id`, `name`",
        )
    )
