"""The verb that finds hyper-parameters: tune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from orchestrator.errors import BadInput, Fault
from orchestrator.terminal import (
    AsJson,
    BudgetFile,
    Outputs,
    Quiet,
    Verbose,
    err,
    out,
    points_into_the_budget,
    print_json,
    read_budget,
)
from orchestrator.units import format_count, format_flops, parse_flops

if TYPE_CHECKING:
    from orchestrator.tuning_session import TuneReply


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command()(tune)


@points_into_the_budget
def tune(
    budget_file: BudgetFile,
    trials: Annotated[int, typer.Option(help="Runs per size.")] = 8,
    sizes: Annotated[int, typer.Option(help="Sizes, a factor of 4 apart.")] = 2,
    flops: Annotated[
        str | None, typer.Option(help="Compute it may charge; default: a tenth of the budget.")
    ] = None,
    batch: Annotated[
        bool | None,
        typer.Option(
            "--batch/--no-batch", help="Search the batch too; default: where the budget says auto."
        ),
    ] = None,
    outputs: Outputs = Path("outputs"),
    executor: Annotated[
        str | None, typer.Option(help="ray or inline; replaces run.executor.")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """Find the learning rate (and batch) at small sizes, and write the rule as a recipe."""
    from orchestrator.session import RunRequest
    from orchestrator.tuning_session import TuneRequest, tune_budget

    budget, text = read_budget(budget_file, run={"executor": executor} if executor else {})
    reply = tune_budget(
        TuneRequest(
            run=RunRequest(
                budget=budget,
                text=text,
                base=budget_file.resolve().parent,
                outputs=outputs.resolve(),
                ask=False,
                quiet=quiet,
                verbose=verbose,
            ),
            trials=trials,
            sizes=sizes,
            flops=None if flops is None else _flops(flops),
            with_batch=batch,
        ),
        err,
    )
    if as_json:
        print_json(reply.document)
    else:
        _print(reply, budget_file)
    raise typer.Exit(int(reply.tuned.exit_code))


def _print(reply: TuneReply, budget_file: Path) -> None:
    document, rule = reply.document, reply.tuned.rule
    table = Table(box=None, pad_edge=False)
    for name in ("N", "best rate", "95 % interval", "batch", "loss", "runs", "standing"):
        table.add_column(name, justify="left" if name == "standing" else "right")
    for best in reply.tuned.optima:
        low, high = best.interval
        table.add_row(
            format_count(best.params),
            f"{best.learning_rate:.3g}",
            f"[{low:.3g}, {high:.3g}]",
            format_count(best.batch_tokens),
            f"{best.loss:.4f}",
            f"{best.n_finished} of {best.n_tried}",
            best.standing,
        )
    out.print(table)
    if rule is not None:
        interval = rule.exponent_interval
        known = f"95 % interval [{interval[0]:.3g}, {interval[1]:.3g}]"
        out.print(
            f"learning rate = {rule.learning_rate_text}: as N^-k, k = {rule.exponent:.3g}, {known}",
            soft_wrap=True,
        )
        if rule.batch_text is not None:
            out.print(f"batch = {rule.batch_text} tokens")
    for line in caveats(reply):
        out.print(f"[yellow]warning:[/] {line}", soft_wrap=True)
    out.print(
        f"charged {format_flops(document['charged_flops'])} of "
        f"{format_flops(document['budget_flops'])} FLOPs, part of the sweep's budget"
    )
    if document["picture"]:
        out.print(f"picture: {document['picture']}", soft_wrap=True)
    if document["recipe"]:
        batch = rule.batch_text if rule is not None else None
        replaced = "learning_rate" if batch is None else "learning_rate and batch_tokens"
        out.print(
            f"recipe: {document['recipe']}\n\nIn {budget_file}, in place of {replaced}:\n"
            f"  {document['use']}",
            soft_wrap=True,
        )
    elif document["status"] == "interrupted":
        out.print("Stopped. The same command goes on.")


def caveats(reply: TuneReply) -> list[str]:
    """What a person should know before relying on a rule."""
    lines = []
    rule = reply.tuned.rule
    for best in reply.tuned.optima:
        if best.standing == "edge":
            lines.append(
                f"N = {format_count(best.params)}: the best rate, {best.learning_rate:.3g}, is at "
                "the edge of what was tried; no recipe is written. Go on with more --trials"
            )
        elif best.standing == "bracketed":
            lines.append(
                f"N = {format_count(best.params)}: no parabola through its runs; the best rate is "
                "the best run's, between its neighbours"
            )
        if best.batch_standing == "edge":
            lines.append(
                f"N = {format_count(best.params)}: the best batch is at the edge of what was tried"
            )
    if rule is not None:
        low, high = rule.exponent_interval
        largest = reply.document["rule"]["at_largest_planned"]["params"]
        reach = (largest / rule.at_params) ** ((high - low) / 2)
        if reach > 1.5:
            lines.append(
                f"the exponent is uncertain: at the largest planned N = {format_count(largest)} "
                f"the rate is known to a factor of {reach:.2g}"
            )
    return lines


def _flops(text: str) -> float:
    try:
        value = parse_flops(text)
        if value > 0:
            return value
        problem = f"must be greater than 0, got {value:g}"
    except ValueError as error:
        problem = str(error)
    raise BadInput(
        Fault(
            code="SWP-1352",
            rule=f"--flops is an amount of compute: {problem}",
            place=f"--flops {text}",
            remedy="for example --flops 1e13 or --flops '20 TFLOP'",
        )
    )
