"""The verbs of the service: serve and submit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.terminal import AsJson, BudgetFile, Outputs, err, out, print_json, read_budget
from orchestrator.units import format_flops

if TYPE_CHECKING:
    from orchestrator.server.listening import Opened


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    for verb in (serve, submit):
        app.command()(verb)


def serve(
    outputs: Outputs = Path("outputs"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Its port; 0: a free one.", min=0, max=65535)] = 8765,
    expose: Annotated[
        bool, typer.Option("--expose", help="Let other machines reach it (with --host).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Serve the sweeps of a folder: an HTTP interface and a web page. Ctrl-C ends it, not them."""
    from orchestrator.server.listening import MEANING
    from orchestrator.server.listening import serve as listen

    def announce(opened: Opened) -> None:
        if opened.new_token is not None:
            err.print(f"Token, shown this once: {opened.new_token}", markup=False, soft_wrap=True)
        if opened.beyond_loopback:
            err.print(f"warning: {MEANING}", markup=False, soft_wrap=True)
        if as_json:
            print_json(
                {
                    "schema": "sweep.serve/1",
                    "url": opened.url,
                    "token_file": str(opened.token_file),
                    "outputs": str(outputs.resolve()),
                }
            )
            sys.stdout.flush()
            return
        out.print(f"page: {opened.url}", markup=False, soft_wrap=True)
        out.print(f"token: in {opened.token_file}", markup=False, soft_wrap=True)
        out.print("Ctrl-C ends the service; sweeps that it started go on.")

    listen(outputs.resolve(), host=host, port=port, expose=expose, announce=announce)


def submit(
    budget_file: BudgetFile,
    server: Annotated[
        str, typer.Option(help="Address of the service.", envvar="SWEEP_SERVER")
    ] = "http://127.0.0.1:8765",
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file", help="Private file with its token; default: SWEEP_TOKEN, or its own."
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print what happens until it ends.")
    ] = False,
    outputs: Outputs = Path("outputs"),
    as_json: AsJson = False,
) -> None:
    """Hand a budget to a service, which runs it; submitted again, it does what is left."""
    from orchestrator.client import exit_code_of, service_at
    from orchestrator.client import follow as follow_events
    from orchestrator.client import submit as hand_in

    budget, text = read_budget(budget_file)
    service = service_at(server, token_file=token_file, outputs=outputs)
    document = hand_in(service, budget_file, text)
    if not as_json:
        begun = "started" if document["started"] else f"already {document['standing']}"
        out.print(f"{budget.name}: {begun} at {service.url}", markup=False, soft_wrap=True)
        out.print(f"page: {document['page']}", markup=False, soft_wrap=True)
        if not follow:
            again = f"sweep submit {budget_file} --server {service.url} --follow"
            out.print(f"follow: {again}", markup=False, soft_wrap=True)
    end = None
    if follow:
        end = follow_events(
            service,
            budget.name,
            show=lambda words: err.print(words, markup=False, highlight=False, soft_wrap=True),
        )
    if as_json:
        print_json({**document, "end": end})
    if end is not None:
        code = exit_code_of(end)
        if not as_json:
            _print_end(end)
        raise typer.Exit(code)


def _print_end(end: dict[str, Any]) -> None:
    if end["fit"] is not None:
        out.print(end["fit"]["message"], markup=False, soft_wrap=True)
    if end["budget_flops"]:
        share = end["charged_flops"] / end["budget_flops"]
        out.print(
            f"charged {format_flops(end['charged_flops'])} of "
            f"{format_flops(end['budget_flops'])} FLOPs ({share:.0%})"
        )
