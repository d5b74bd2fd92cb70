"""The verbs on sweeps that exist: resume, logs, show, stop, retry, ls, sync, clean."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from orchestrator.errors import Exit
from orchestrator.terminal import (
    AsJson,
    Outputs,
    Quiet,
    SweepName,
    Verbose,
    err,
    find_sweep,
    out,
    print_json,
)
from orchestrator.terminal import print_outcome as print_run_outcome
from orchestrator.units import format_bytes, format_flops


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    for verb in (resume, extend, logs, show, stop, retry, ls, sync, clean):
        app.command()(verb)


def resume(
    sweep: SweepName,
    outputs: Outputs = Path("outputs"),
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """Do what is left of a sweep, with the budget it began with."""
    from orchestrator.operations import frozen_budget
    from orchestrator.session import RunRequest, run_budget

    folder = find_sweep(sweep, outputs)
    budget, text, base = frozen_budget(folder)
    request = RunRequest(
        budget=budget,
        text=text,
        base=base,
        outputs=folder.parent,
        ask=False,
        quiet=quiet,
        verbose=verbose,
    )
    reply = run_budget(request, err)
    assert reply is not None
    if as_json:
        print_json(reply.document)
    else:
        print_run_outcome(budget, reply.document, reply.report, outputs)
    raise typer.Exit(int(reply.exit_code))


def extend(
    sweep: SweepName,
    amount: Annotated[
        str,
        typer.Option(
            "--budget",
            help="What to add, in the unit of the budget: +1e13 (FLOPs), +2 (hours), +2h.",
        ),
    ],
    outputs: Outputs = Path("outputs"),
    later: Annotated[
        bool, typer.Option("--later", help="Only record it; `sweep resume` trains.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """Give a finished or spent sweep more money; it goes on where it ended."""
    from orchestrator.extending import extend as raise_ceiling
    from orchestrator.operations import frozen_budget
    from orchestrator.session import RunRequest, run_budget

    folder = find_sweep(sweep, outputs)
    budget, text, base = frozen_budget(folder)
    added = raise_ceiling(folder, budget, amount)
    document = {
        "schema": "sweep.extend/1",
        "name": budget.name,
        "added_flops": added.added_flops,
        "budget_flops": added.budget_flops,
        "run": None,
    }
    code = Exit.COMPLETE
    if not as_json:
        out.print(
            f"{budget.name}: {format_flops(added.added_flops)} FLOPs more, "
            f"{format_flops(added.budget_flops)} in all."
        )
    if not later:
        request = RunRequest(
            budget=budget,
            text=text,
            base=base,
            outputs=folder.parent,
            ask=False,
            quiet=quiet,
            verbose=verbose,
        )
        reply = run_budget(request, err)
        assert reply is not None
        document["run"], code = reply.document, reply.exit_code
        if not as_json:
            print_run_outcome(budget, reply.document, reply.report, outputs)
    if as_json:
        print_json(document)
    raise typer.Exit(int(code))


def logs(sweep: SweepName, outputs: Outputs = Path("outputs"), as_json: AsJson = False) -> None:
    """Print what happened in a sweep, event by event."""
    from orchestrator.documents import logs_document

    document = logs_document(find_sweep(sweep, outputs, or_search=True))
    if as_json:
        print_json(document)
        return
    for line in document["lines"]:
        out.print(line, markup=False, soft_wrap=True)


def show(
    sweep: SweepName,
    trial: Annotated[str, typer.Argument(help="A trial's label, or the beginning of its id.")],
    outputs: Outputs = Path("outputs"),
    as_json: AsJson = False,
) -> None:
    """Print everything about one trial: configuration, result, cost, files."""
    import yaml

    from orchestrator.documents import trial_document

    document = trial_document(find_sweep(sweep, outputs, or_search=True), trial)
    if as_json:
        print_json(document)
    else:
        record = {key: value for key, value in document.items() if key != "schema"}
        text = yaml.safe_dump(record, sort_keys=False, allow_unicode=True).rstrip()
        out.print(text, markup=False, soft_wrap=True)


def stop(sweep: SweepName, outputs: Outputs = Path("outputs"), as_json: AsJson = False) -> None:
    """Ask a running sweep, or the search for its recipe, to write its checkpoints and end."""
    from orchestrator.operations import stop as ask_to_stop

    asked = ask_to_stop(find_sweep(sweep, outputs, or_search=True))
    if as_json:
        print_json({"schema": "sweep.stop/1", "asked": asked})
    else:
        out.print("Asked it to stop." if asked else "It is not running.")


def retry(
    sweep: SweepName,
    trial: Annotated[
        str | None, typer.Argument(help="One trial; default: all that ended badly.")
    ] = None,
    outputs: Outputs = Path("outputs"),
    as_json: AsJson = False,
) -> None:
    """Set trials that failed, diverged or were abandoned back, for `sweep resume` to train anew."""
    from orchestrator.operations import retry as set_back

    labels = set_back(find_sweep(sweep, outputs), trial)
    if as_json:
        print_json({"schema": "sweep.retry/1", "trials": labels})
        return
    for label in labels:
        out.print(f"{label}: to be trained anew", markup=False)
    out.print(f"Next: sweep resume {sweep}" if labels else "No trial ended badly.")


def ls(outputs: Outputs = Path("outputs"), as_json: AsJson = False) -> None:
    """List the sweeps of the outputs folder."""
    from orchestrator.documents import sweeps_document

    document = sweeps_document(outputs, searches=True)
    sweeps = document["sweeps"]
    if as_json:
        print_json(document)
        return
    table = Table(box=None, pad_edge=False)
    for name in ("sweep", "standing", "trials", "charged", "D/N", "verdict"):
        table.add_column(name, justify="left" if name in ("sweep", "standing") else "right")
    for item in sweeps:
        ratio = item["tokens_per_parameter"]
        table.add_row(
            escape(item["name"]),
            item["standing"],
            f"{item['trials']['completed']} of {sum(item['trials'].values())}",
            f"{format_flops(item['charged_flops'])} of {format_flops(item['budget_flops'])}"
            if item["budget_flops"]
            else "",
            f"{ratio:.3g}" if ratio else "",
            item["verdict"] or "",
        )
    out.print(table if sweeps else f"No sweeps in {outputs}/ yet.")


def sync(
    sweep: SweepName,
    outputs: Outputs = Path("outputs"),
    model: Annotated[
        bool,
        typer.Option("--model", help="Also log the model of lowest loss, for `transformers`."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring MLflow up to a sweep's journal; a store that was lost is rebuilt whole."""
    from orchestrator.journal import JOURNAL, read_state
    from orchestrator.opening import TUNING_FOLDER
    from orchestrator.operations import frozen_budget
    from orchestrator.session import open_projection
    from orchestrator.tracking.note import sweep_note

    folder = find_sweep(sweep, outputs)
    budget, _, base = frozen_budget(folder)
    state = read_state(folder)
    projection = open_projection(budget, folder.parent, folder)
    if state.finished and state.fit is not None:
        projection.finish(state, note=sweep_note(state), report=folder / "report")
    else:
        projection.sync(state)
    search = folder / TUNING_FOLDER
    if (search / JOURNAL).exists():
        found = read_state(search)
        tuning = open_projection(budget, folder.parent, search)
        tuning.finish(found, note="", report=None)
    logged = None
    if model:
        # Not imported without it: the export loads torch and transformers.
        from orchestrator.data import prepare_data
        from orchestrator.machinery import best_trial, export_trial

        best = best_trial(state)
        data = prepare_data(budget, base, folder.parent)
        with TemporaryDirectory(prefix="sweep-model-") as place:
            name = export_trial(folder, best, Path(place), data_dir=data.folder)
            projection.log_model(state, best, Path(place))
        logged = {"trial_id": best.trial_id, "label": best.label, "class": name}
    runs = sum(bool(trial.attempts or trial.result) for trial in state.trials.values())
    if as_json:
        print_json(
            {
                "schema": "sweep.sync/1",
                "runs": runs,
                "parent": projection.parent_id,
                "model": logged,
            }
        )
        return
    out.print(f"MLflow holds {runs} runs of {budget.name}.")
    if state.finished and not (folder / "report").is_dir():
        out.print(f"Its report is not there: `sweep report {budget.name}` writes it again.")
    if logged is not None:
        out.print(
            f"The best of them, {logged['label']}, has its model under Artifacts, `model/`: "
            f"load it with transformers' {logged['class']}.",
            markup=False,
            soft_wrap=True,
        )


def clean(
    sweep: SweepName,
    outputs: Outputs = Path("outputs"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove checkpoints of trials that are over; results, metrics and reports stay."""
    from orchestrator.operations import clean as remove_checkpoints

    folder = find_sweep(sweep, outputs)
    trials, size = remove_checkpoints(folder, dry=True)
    if trials and not (yes or as_json):
        asked = err.input(f"Remove {format_bytes(size)} of checkpoints of {trials} trials? [y/N] ")
        if asked.strip().lower() not in ("y", "yes"):
            raise typer.Exit(int(Exit.COMPLETE))
    remove_checkpoints(folder, dry=False)
    if as_json:
        print_json({"schema": "sweep.clean/1", "trials": trials, "bytes": size})
    else:
        out.print(f"Removed {format_bytes(size)} of checkpoints of {trials} trials.")
