"""The verb that brings runs from elsewhere: import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.terminal import (
    AsJson,
    Mapping,
    Units,
    out,
    parse_mapping,
    parse_units,
    print_json,
)


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command("import")(import_runs)


def import_runs(
    source: Annotated[
        str,
        typer.Argument(help="A CSV, parquet or W&B export, or an MLflow store's tracking URI."),
    ],
    form: Annotated[
        str | None,
        typer.Option("--format", help="csv, parquet, wandb or mlflow; default: from the source."),
    ] = None,
    mapping: Mapping = None,
    units: Units = None,
    experiment: Annotated[
        str | None, typer.Option(help="MLflow: name of the experiment to read.")
    ] = None,
    parent: Annotated[
        str | None, typer.Option(help="MLflow: only the runs nested under this run.")
    ] = None,
    table: Annotated[
        Path, typer.Option("--out", help="The loss table to write, .csv or .parquet.")
    ] = Path("losses.csv"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a loss table of runs that were trained elsewhere; every exclusion has its reason."""
    from orchestrator.importing.importer import ImportRequest
    from orchestrator.importing.importer import import_runs as read

    record = read(
        ImportRequest(
            source=source,
            out=table,
            form=form,
            experiment=experiment,
            parent=parent,
            mapping=parse_mapping(mapping or []),
            units=parse_units(units or []),
            force=force,
        )
    )
    if as_json:
        print_json(record)
        return
    for line in _lines(record):
        out.print(line, markup=False, soft_wrap=True)


def _lines(record: dict[str, Any]) -> list[str]:
    """An import in words: what was read as what, what stays out and why."""
    lines = [f"{record['table']}: {record['n_used']} runs from {record['source']}"]
    left_out = record["n_rows"] - record["n_used"]
    if left_out:
        lines.append(f"  {left_out} more are kept out of fits:")
        lines += [f"    {count} x {reason}" for reason, count in record["excluded"].items()]
    if record["set_aside"]:
        lines.append(f"  {len(record['set_aside'])} parent run(s) hold no measurement")
    named = [f"{ours} = {theirs}" for ours, theirs in record["columns"].items() if ours != theirs]
    if named:
        lines.append(f"  columns: {', '.join(named)}")
    lines += [f"  derived: {name} = {formula}" for name, formula in record["derived"].items()]
    lines += [f"  note: {note}" for note in record["notes"]]
    lines.append(f"Next: sweep fit --table {record['table']}")
    return lines
