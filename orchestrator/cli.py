"""The `sweep` command: verbs, printing, exit codes. Heavy imports stay inside the verbs."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from orchestrator import (
    cli_analysis,
    cli_designs,
    cli_import,
    cli_operations,
    cli_recipes,
    cli_service,
    cli_trainer,
)
from orchestrator.errors import BadInput, Exit, Fault, SweepError, nearest, page_of
from orchestrator.secrecy import scrubbed
from orchestrator.terminal import (
    AsJson,
    BudgetFile,
    Outputs,
    Quiet,
    SweepName,
    Verbose,
    err,
    find_sweep,
    out,
    points_into_the_budget,
    print_json,
    print_outcome,
    read_budget,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.budget import Budget
    from orchestrator.example import Question

SHELLS = ("bash", "zsh", "fish")
"""Shells that `sweep completion` knows."""
COMPLETE = "_SWEEP_COMPLETE"
"""Variable by which a shell asks for completions."""

app = typer.Typer(
    name="sweep",
    help="From a compute budget to your compute-optimal tokens-per-parameter ratio.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)


def main() -> None:
    """Run the command; errors become one message and the exit code of the design's table."""
    if COMPLETE in os.environ:
        from typer.completion import completion_init

        completion_init()
    try:
        app(prog_name="sweep")
    except SweepError as error:
        text = scrubbed(f"{error}\nread more: {error.pages}")
        err.print(text, markup=False, soft_wrap=True)
        raise SystemExit(int(error.exit_code)) from None
    except KeyboardInterrupt:
        err.print("Interrupted.")
        raise SystemExit(int(Exit.INTERRUPTED)) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except Exception as error:
        if "SWEEP_DEBUG" in os.environ:
            raise
        err.print(
            f"error[SWP-7000]: a defect of ours: {type(error).__name__}: {scrubbed(str(error))}\n"
            "  help: run it again with SWEEP_DEBUG=1 for the trace, and report it\n"
            f"read more: {page_of('SWP-7000')}",
            markup=False,
        )
        raise SystemExit(int(Exit.BUG)) from None


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("budget.yaml"),
    name: Annotated[str, typer.Option(help="Name of the sweep.")] = "my-sweep",
    amount: Annotated[
        str | None,
        typer.Option("--budget", help="Amount, e.g. 'cpu_hours: 0.5' or 'flops: 1e18'."),
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="What to train on: embedded, a path, a data set's name.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="How it is cut into tokens: byte, char, bpe:4096, a name.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a commented budget to start from; on a terminal, asks for what no option says."""
    from orchestrator.budget import parse_budget
    from orchestrator.example import QUESTIONS, example

    if path.exists() and not force:
        raise BadInput(
            Fault(
                code="SWP-1301",
                rule="`sweep init` does not replace a file",
                place=str(path),
                remedy="name another file, or add --force",
            )
        )
    given = {"amount": amount, "corpus": corpus, "tokenizer": tokenizer}
    asks = not as_json and not any(given.values()) and sys.stdin.isatty() and err.is_terminal
    answers = {
        key: value or (_ask(question) if asks else question.default)
        for (key, value), question in zip(given.items(), QUESTIONS, strict=True)
    }
    text = example(name=name, file=path.name, **answers)
    parse_budget(text, file=path.name)
    path.write_text(text)
    if as_json:
        print_json({"schema": "sweep.init/1", "path": str(path)})
        return
    out.print(f"Wrote {path}. Next: [bold]sweep plan {path}[/], then [bold]sweep run {path}[/].")


def _ask(question: Question) -> str:
    """A person's answer, asked again until a budget can be made of it; empty: the default."""
    from orchestrator.budget import parse_budget
    from orchestrator.example import example

    while True:
        err.print(f"{escape(question.text)} [dim]{escape(question.examples)}[/]")
        answer = err.input(f"  [{question.default}] ", markup=False).strip() or question.default
        try:
            parse_budget(example(name="trial", file="budget.yaml", **{question.key: answer}))
        except SweepError as error:
            err.print(str(error), markup=False, soft_wrap=True)
        else:
            return answer


@app.command()
@points_into_the_budget
def check(
    budget_file: Annotated[Path | None, typer.Argument(help="The budget file.")] = None,
    outputs: Outputs = Path("outputs"),
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of budget files, for editors.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a budget file, its corpus and its plan; run nothing."""
    from orchestrator.budget import json_schema

    if schema:
        print_json(json_schema())
        return
    if budget_file is None:
        raise BadInput(
            Fault(
                code="SWP-1302",
                rule="`sweep check` needs a budget file or --schema",
                remedy="sweep check budget.yaml",
            )
        )
    from orchestrator.quoting import quote

    budget, _ = read_budget(budget_file)
    plan = quote(budget, budget_file.resolve().parent, outputs.resolve()).plan
    if as_json:
        print_json(
            {"schema": "sweep.check/1", "valid": True, "name": budget.name,
             "trials": len(plan.trials), "warnings": list(plan.warnings)}
        )  # fmt: skip
        return
    for line in plan.warnings:
        err.print(f"[yellow]warning:[/] {escape(line)}")
    out.print(
        f"{budget_file} is a valid budget: {len(plan.trials)} trials in {len(plan.levels)} levels."
    )


@app.command()
@points_into_the_budget
def plan(
    budget_file: BudgetFile,
    outputs: Outputs = Path("outputs"),
    show_defaults: Annotated[
        bool, typer.Option("--show-defaults", help="Print the whole budget, defaults filled in.")
    ] = False,
    expect: Annotated[
        bool,
        typer.Option("--expect", help="Also rehearse it: the interval that it may buy."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a budget would be spent on: trials, time, price, warnings, what changed."""
    budget, _ = read_budget(budget_file)
    if show_defaults:
        _print_defaults(budget, as_json=as_json)
        return
    from orchestrator.plan_record import keep
    from orchestrator.quoting import quote

    quotation = quote(budget, budget_file.resolve().parent, outputs.resolve())
    # A folder that is only to be read holds no note; the plan is no worse for it.
    with contextlib.suppress(PermissionError):
        keep(outputs.resolve(), quotation.budget, quotation.plan)
    expected = quotation.expected() if expect else None
    if as_json:
        print_json({**quotation.to_dict(), "expected": expected})
        return
    from orchestrator.views import before_lines, print_plan

    print_plan(out, quotation.due, quotation.hardware.throughput)
    for line in before_lines(quotation.before):
        out.print(escape(line), soft_wrap=True)
    if expected is not None:
        out.print(
            f"expected to buy {_bought(expected)} ({expected['replicates']} rehearsals against a "
            f"law with published exponents, noise {expected['noise_sd']:.1%})",
            soft_wrap=True,
        )
        other = expected["adaptive"]
        if other is not None:
            out.print(
                f"with `design: {{kind: adaptive, levels: {other['levels']}}}` {_bought(other)}, "
                f"in {other['trials']:.0f} trials instead of {expected['trials']:.0f}",
                soft_wrap=True,
            )


def _bought(expected: Mapping[str, Any]) -> str:
    from analysis.numerals import spell

    width = expected["fold_95"]
    return "no answer" if width is None else f"a 95 % range of D/N about {spell(width)}-fold wide"


@app.command()
@points_into_the_budget
def run(
    budget_file: BudgetFile,
    outputs: Outputs = Path("outputs"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    executor: Annotated[
        str | None, typer.Option(help="ray or inline; replaces run.executor.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster; replaces run.address.")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """Run a sweep to its answer; run again, it does what is left."""
    from orchestrator.session import RunRequest, run_budget

    changes = {key: value for key, value in (("executor", executor), ("address", address)) if value}
    budget, text = read_budget(budget_file, run=changes)
    request = RunRequest(
        budget=budget,
        text=text,
        base=budget_file.resolve().parent,
        outputs=outputs.resolve(),
        ask=not (yes or as_json) and sys.stdin.isatty() and err.is_terminal,
        quiet=quiet,
        verbose=verbose,
    )
    outcome = run_budget(request, err)
    if outcome is None:
        raise typer.Exit(int(Exit.COMPLETE))
    if as_json:
        print_json(outcome.document)
    else:
        print_outcome(budget, outcome.document, outcome.report, outputs)
    raise typer.Exit(int(outcome.exit_code))


@app.command()
def status(
    sweep: SweepName,
    outputs: Outputs = Path("outputs"),
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow it until it ends; Ctrl-C only leaves.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show every trial of a sweep, or of the search for its recipe, and what was charged."""
    from orchestrator.documents import status_document
    from orchestrator.operations import present_state
    from orchestrator.views import print_status

    folder = find_sweep(sweep, outputs, or_search=True)
    if watch:
        from orchestrator.watching import watch as follow

        with contextlib.suppress(KeyboardInterrupt):
            follow(folder, err)
    if as_json:
        print_json(status_document(folder))
    else:
        print_status(out, present_state(folder))


@app.command()
def ui(
    sweep: Annotated[str | None, typer.Argument(help="Link to this sweep's runs.")] = None,
    outputs: Outputs = Path("outputs"),
    port: Annotated[int, typer.Option(help="Port on this machine; 0: a free one.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Open MLflow on the sweeps' store and print links to the runs. Ctrl-C ends it."""
    from orchestrator.mlflow_ui import serve

    folder = find_sweep(sweep, outputs) if sweep else None
    serve(outputs.resolve(), folder, port=port, announce=_announce(as_json))
    if out.is_terminal:
        out.print()  # the prompt goes below the terminal's ^C


@app.command()
def doctor(
    sweep: Annotated[
        str | None,
        typer.Argument(
            help="A sweep, or the search for its recipe, whose record goes into the bundle."
        ),
    ] = None,
    outputs: Outputs = Path("outputs"),
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Zip file to write for a maintainer: findings, versions, the sweep's "
            "journal and logs; no weights, no data, no secrets."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look at this machine: versions, devices, disk, memory, what a sweep would stumble on."""
    from orchestrator.doctor import examine

    findings = examine(outputs.resolve())
    sound = all(finding.sound for finding in findings)
    packed: list[str] = []
    if bundle is not None:
        from orchestrator.bundle import pack

        folder = find_sweep(sweep, outputs, or_search=True) if sweep else None
        packed = pack(bundle, findings, folder)
    if as_json:
        print_json(
            {
                "schema": "sweep.doctor/1",
                "sound": sound,
                "findings": [finding.to_dict() for finding in findings],
                **({"bundle": str(bundle), "packed": packed} if bundle is not None else {}),
            }
        )
    else:
        for finding in findings:
            mark = "[green]ok[/]  " if finding.sound else "[red]bad[/] "
            out.print(f"{mark}{escape(finding.what)}: {escape(finding.found)}", soft_wrap=True)
            if finding.remedy:
                out.print(f"     {escape(finding.remedy)}", soft_wrap=True)
        if bundle is not None:
            out.print(
                f"{escape(str(bundle))}: {len(packed)} files; look through it before you send it",
                soft_wrap=True,
            )
    raise typer.Exit(int(Exit.COMPLETE if sound else Exit.ENVIRONMENT))


@app.command()
def completion(
    shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")],
    as_json: AsJson = False,
) -> None:
    """Print what makes a shell complete verbs, options and the names of sweeps."""
    from typer.completion import get_completion_script

    if shell not in SHELLS:
        raise BadInput(
            Fault(
                code="SWP-1360",
                rule=f"completion is there for {', '.join(SHELLS)}",
                place=shell,
                remedy=nearest(shell, SHELLS),
            )
        )
    script = get_completion_script(prog_name="sweep", complete_var=COMPLETE, shell=shell)
    if as_json:
        print_json({"schema": "sweep.completion/1", "shell": shell, "script": script})
    else:
        out.print(script, markup=False, soft_wrap=True)


@app.command()
def version(as_json: AsJson = False) -> None:
    """Print the versions of isosweep and of what results depend on."""
    from importlib.metadata import version as version_of

    names = ("isosweep", "torch", "ray", "mlflow", "optuna", "scipy", "numpy", "pandas")
    versions = {name: version_of(name) for name in names}
    if as_json:
        print_json({"schema": "sweep.version/1", "versions": versions})
    else:
        for name, number in versions.items():
            out.print(f"{name} {number}")


def _print_defaults(budget: Budget, *, as_json: bool) -> None:
    record = budget.model_dump(mode="json")
    if as_json:
        print_json({"schema": "sweep.budget/1", "budget": record})
        return
    import yaml

    from trainer.recipe import LEARNING_RATE_RULES

    out.print(yaml.safe_dump(record, sort_keys=False, allow_unicode=True).rstrip(), markup=False)
    out.print(f"# learning-rate rules: {', '.join(LEARNING_RATE_RULES)}", markup=False)


def _announce(as_json: bool) -> Any:
    """Prints the links of a started UI."""

    def announce(links: dict[str, str]) -> None:
        if as_json:
            print_json({"schema": "sweep.ui/1", **links})
            sys.stdout.flush()
            return
        for what, link in links.items():
            out.print(f"{what}: {link}", soft_wrap=True)
        out.print("Ctrl-C ends it.")

    return announce


cli_import.register(app)
cli_analysis.register(app)
cli_operations.register(app)
cli_designs.register(app)
cli_recipes.register(app)
cli_trainer.register(app)
cli_service.register(app)
