"""One import: a source in, `losses.csv` and the record of how it came to be out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.files import write_table
from analysis.record import finite
from orchestrator.errors import BadInput, Fault, nearest
from orchestrator.importing.canonical import Imported, canonical
from orchestrator.importing.readers import (
    FORMATS,
    file_digest,
    guess_format,
    read_file,
    read_tracked,
    refuse_missing,
)
from orchestrator.importing.runs import ForeignRuns
from orchestrator.journal import write_atomic
from orchestrator.tracking.reading import StoreError, read_experiment
from orchestrator.tracking.store import ROW_TAG, redacted

SCHEMA = "sweep.import/1"


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """What `sweep import` was asked for."""

    source: str
    """A file, or the tracking URI of an MLflow store."""
    out: Path
    """The table to write: `.csv` or `.parquet`."""
    form: str | None = None
    """One of `FORMATS`; None = from the source."""
    experiment: str | None = None
    """Name of the MLflow experiment."""
    parent: str | None = None
    """MLflow only: the run whose children alone are read."""
    mapping: Mapping[str, str] = field(default_factory=dict)
    """Our column -> the source's."""
    units: Mapping[str, float] = field(default_factory=dict)
    """Our column -> the factor that makes it a plain count."""
    force: bool = False
    """Whether a table that is there may be replaced."""


def import_runs(request: ImportRequest) -> dict[str, Any]:
    """Read a source, write the table and beside it `NAME.import.json`.

    Returns:
        The record, schema `sweep.import/1`: rows, exclusions, columns, formulas, notes, digest.

    Raises:
        BadInput: for a source that cannot be read or runs that make no table; nothing is written.
        EnvironmentUnusable: when an MLflow server does not answer.
    """
    form = request.form or guess_format(request.source, experiment=request.experiment)
    if form not in FORMATS:
        raise _bad("SWP-4010", f"a format is one of {', '.join(FORMATS)}", form, "", FORMATS)
    if form != "mlflow":
        refuse_missing(Path(request.source))
    _refuse_replacing(request)
    if form == "mlflow":
        runs, place, digest = *_tracked(request), None
    else:
        runs, place = read_file(Path(request.source), form), Path(request.source).name
        digest = file_digest(Path(request.source))
    table = canonical(runs, mapping=request.mapping, units=request.units, place=place)
    write_table(table.frame, request.out)
    record = _record(request, form, table, runs, place, digest)
    write_atomic(provenance_path(request.out), json.dumps(record, indent=2) + "\n")
    return record


def provenance_path(table: Path) -> Path:
    """Where the record of an imported table lies."""
    return table.with_name(f"{table.stem}.import.json")


def _refuse_replacing(request: ImportRequest) -> None:
    if request.out.suffix not in (".csv", ".parquet"):
        raise _bad(
            "SWP-4016",
            "a table is written as .csv or .parquet",
            str(request.out),
            "for example --out losses.csv",
        )
    same = request.out.exists() and Path(request.source).exists()
    if same and request.out.samefile(request.source):
        raise _bad(
            "SWP-4016",
            "an import never replaces its own source",
            str(request.out),
            "name another file with --out",
        )
    if request.out.exists() and not request.force:
        raise _bad(
            "SWP-4016",
            "an import does not replace a file",
            str(request.out),
            "name another file with --out, or add --force",
        )


def _tracked(request: ImportRequest) -> tuple[ForeignRuns, str]:
    """The runs of an MLflow experiment, and what to call it."""
    if request.experiment is None:
        raise _bad(
            "SWP-4014",
            "an MLflow store holds many experiments: name one",
            redacted(request.source),
            "--experiment NAME",
        )
    place = f"{redacted(request.source)}#{request.experiment}"
    try:
        runs = read_experiment(request.source, request.experiment)
    except StoreError as error:
        raise _bad("SWP-4014", str(error), place, error.remedy, error.known) from None
    needed = {ours: request.mapping.get(ours, ours) for ours in ("params", "tokens", "loss")}
    marks = [*needed.values(), f"tags.{ROW_TAG}"]
    return read_tracked(runs, needed=marks, place=place, parent=request.parent), place


def _bad(code: str, rule: str, place: str, remedy: str, known: Any = ()) -> BadInput:
    close = nearest(place.rsplit("#", 1)[-1], known) if known else ""
    words = "; ".join(part for part in (remedy, close) if part)
    return BadInput(Fault(code=code, rule=rule, place=place, remedy=words))


def _record(
    request: ImportRequest,
    form: str,
    table: Imported,
    runs: ForeignRuns,
    place: str,
    digest: str | None,
) -> dict[str, Any]:
    excluded = table.excluded
    return finite(
        {
            "schema": SCHEMA,
            "table": str(request.out),
            "source": place,
            "format": form,
            "sha256": digest,
            "n_rows": len(table.frame),
            "n_used": len(table.frame) - sum(excluded.values()),
            "excluded": excluded,
            "set_aside": list(runs.aside),
            "params": table.params,
            "columns": dict(table.columns),
            "units": dict(request.units),
            "derived": dict(table.derived),
            "notes": list(table.notes),
        }
    )
