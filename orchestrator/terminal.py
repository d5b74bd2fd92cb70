"""What the verbs share: consoles, options, finding a sweep, printing JSON and outcomes."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import sys
from collections import abc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from orchestrator.errors import BadInput, Fault, SweepError, nearest

if TYPE_CHECKING:
    from orchestrator.budget import Budget


class _Listened(Console):
    """A console that falls silent when whoever read it is gone; what is done goes on."""

    def on_broken_pipe(self) -> None:
        """Print nothing from now on: rich itself would end the process."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


P = ParamSpec("P")
R = TypeVar("R")

out = _Listened(file=sys.stdout, highlight=False)
err = _Listened(file=sys.stderr, highlight=False)


def _sweep_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Sweeps of the outputs folder, for a shell that completes a word."""
    from orchestrator.journal import JOURNAL
    from orchestrator.opening import TUNING_FOLDER

    folder = Path(ctx.params.get("outputs") or os.environ.get("SWEEP_OUTPUTS") or "outputs")
    places = (f"*/{JOURNAL}", f"*/{TUNING_FOLDER}/{JOURNAL}")
    found = {path.relative_to(folder).parts[0] for place in places for path in folder.glob(place)}
    return sorted(name for name in found if name.startswith(incomplete))


BudgetFile = Annotated[Path, typer.Argument(help="The budget file.", metavar="BUDGET.YAML")]
SweepName = Annotated[
    str,
    typer.Argument(
        help="A sweep's name, its folder, or its budget file.",
        metavar="SWEEP",
        autocompletion=_sweep_names,
    ),
]
Measured = Annotated[
    str,
    typer.Argument(
        help="A sweep's name, folder or budget file; or a table.",
        metavar="SWEEP",
        autocompletion=_sweep_names,
    ),
]
Outputs = Annotated[
    Path, typer.Option("--outputs", help="Folder of all sweeps.", envvar="SWEEP_OUTPUTS")
]
Mapping = Annotated[
    list[str] | None,
    typer.Option("--map", help="ours=theirs, e.g. params=N; repeat for each column."),
]
Units = Annotated[
    list[str] | None,
    typer.Option("--unit", help="ours=FACTOR, e.g. tokens=1e9 where they are in billions."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Also a line for every event, as `sweep logs` has them."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def read_budget(path: Path, *, run: dict[str, str] | None = None) -> tuple[Budget, str]:
    """A budget file as a value and as text, with options of the command laid over `run:`."""
    from orchestrator.budget import parse_budget
    from orchestrator.yaml_source import MAX_BYTES, too_large

    if not path.is_file():
        beside = path.parent if path.parent.is_dir() else Path()
        found = [str(item) for item in beside.glob("*.yaml")]
        raise BadInput(
            Fault(
                code="SWP-1000",
                rule="the budget file must exist",
                place=str(path),
                remedy=nearest(str(path), found) if found else "`sweep init` writes one",
            )
        )
    if path.stat().st_size > MAX_BYTES:
        raise too_large(str(path), path.stat().st_size)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(
            Fault(
                code="SWP-1001",
                rule=f"a budget file must be UTF-8 text; byte {error.start} is not",
                place=str(path),
                remedy="save it as UTF-8",
            )
        ) from None
    budget = parse_budget(text, file=str(path))
    if run:
        record = budget.model_dump(mode="json")
        record["run"] |= run
        try:
            budget = type(budget).model_validate(record)
        except ValueError as error:
            raise BadInput(
                Fault(
                    code="SWP-1304",
                    rule=f"an option takes what `run:` takes: {_problem(error)}",
                    place=", ".join(f"--{key} {value}" for key, value in run.items()),
                    remedy="see `sweep run --help`",
                )
            ) from None
    return budget, text


def points_into_the_budget(verb: Callable[P, R]) -> Callable[P, R]:
    """Make a verb's errors point into its budget file.

    Planning knows keys, not lines; here a fault at `run` or `data.corpus` gets the line and the
    column of that key, where the file has it.
    """

    @functools.wraps(verb)
    def pointing(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            return verb(*arguments, **options)
        except SweepError as error:
            path = options.get("budget_file")
            if not isinstance(path, Path) or not path.is_file():
                raise
            raise type(error)([_located(fault, path) for fault in error.faults]) from error

    return pointing


def _located(fault: Fault, path: Path) -> Fault:
    """A fault whose place is a key of a budget, with the place of that key in the file."""
    from orchestrator.yaml_source import parse_yaml

    key, _, rest = fault.place.partition(": ")
    keys = tuple(int(part) if part.isdigit() else part for part in key.split("."))
    if fault.excerpt or not re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)*", key):
        return fault
    try:
        source = parse_yaml(path.read_text(encoding="utf-8"), file=str(path))
    except (SweepError, UnicodeDecodeError):
        return fault
    if keys[:1] not in source.places:
        return fault
    place = source.place(keys) + (f" ({rest})" if rest else "")
    return replace(fault, place=place, excerpt=source.excerpt(keys))


def _problem(error: ValueError) -> str:
    """What pydantic found first, without its own frame of words."""
    from pydantic import ValidationError

    found = error.errors()[0] if isinstance(error, ValidationError) else None
    return f"{found['msg']}, got {found['input']!r}" if found else str(error)


def print_outcome(
    budget: Budget, document: dict[str, Any], report_path: Path | None, outputs: Path
) -> None:
    """Print the answer of a run, what it cost, and what to do next."""
    from orchestrator.views import answer_lines, byte_lines, next_commands, print_commands

    trials = document["trials"]
    done = ", ".join(f"{count} {state}" for state, count in trials.items() if count)
    out.print()
    if document["fit"] is not None:
        first, *rest = answer_lines(document["fit"])
        out.print(f"[bold]{escape(first)}[/]", soft_wrap=True)
        for line in [*rest, *byte_lines(document["fit"], document["bytes_per_token"])]:
            out.print(escape(line), soft_wrap=True)
    else:
        over = sum(trials.values()) - trials["planned"] - trials["running"]
        out.print(
            f"[bold]Stopped[/] after {over} of {sum(trials.values())} trials planned so far; "
            "nothing that they found is lost.",
            soft_wrap=True,
        )
    share = document["charged_flops"] / document["budget_flops"]
    out.print(
        f"  trials: {done}; charged {document['charged_flops']:.3g} of "
        f"{document['budget_flops']:.3g} FLOPs ({share:.0%})"
    )
    if document["tracker"]:
        out.print(f"[yellow]MLflow is behind:[/] {escape(document['tracker'])}")
    out.print()
    stopped = document["fit"] is None
    tracked = budget.tracking.enabled
    commands = next_commands(budget.name, report_path, outputs, tracked=tracked, stopped=stopped)
    print_commands(out, commands)


def find_sweep(name: str, outputs: Path, *, or_search: bool = False) -> Path:
    """The folder of a sweep given by name, folder or budget file.

    Args:
        name: what a person typed.
        outputs: folder of all sweeps.
        or_search: whether the search for its recipe does where the sweep has not begun.

    Raises:
        BadInput: when there is none.
    """
    from orchestrator.journal import JOURNAL
    from orchestrator.opening import TUNING_FOLDER

    given = Path(name)
    candidates = [outputs / name, given]
    if given.is_file():
        candidates = [outputs / read_budget(given)[0].name, given.parent]
    if or_search:
        candidates += [folder / TUNING_FOLDER for folder in candidates]
    for folder in candidates:
        if (folder / JOURNAL).is_file():
            return folder.resolve()
    known = sorted(path.parent.name for path in outputs.glob(f"*/{JOURNAL}"))
    remedy = nearest(name, known) if known else "start one with `sweep run budget.yaml`"
    if any((folder / TUNING_FOLDER / JOURNAL).is_file() for folder in candidates):
        remedy = (
            "only the search for its recipe has begun: `sweep tune budget.yaml` goes on with it, "
            "`sweep run budget.yaml` begins the sweep"
        )
    raise BadInput(
        Fault(
            code="SWP-1305",
            rule=f"no sweep of this name in {outputs}/",
            place=name,
            remedy=remedy,
        )
    )


def parse_mapping(pairs: list[str]) -> dict[str, str]:
    """`--map ours=theirs` as a dictionary.

    Raises:
        BadInput: for a pair that is none.
    """
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise BadInput(
            Fault(
                code="SWP-1306",
                rule="--map takes ours=theirs",
                place=f"--map {wrong[0]}",
                remedy="for example --map params=N --map tokens=D",
            )
        )
    return dict(pair.split("=", 1) for pair in pairs)


def parse_units(pairs: list[str]) -> dict[str, float]:
    """`--unit ours=FACTOR` as a dictionary.

    Raises:
        BadInput: for a pair that is none, or a factor that is not a positive number.
    """
    found = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            factor = float(text)
        except ValueError:
            factor = math.nan
        if not 0 < factor < math.inf:
            raise BadInput(
                Fault(
                    code="SWP-1340",
                    rule="--unit takes a column and the positive number that its cells are "
                    "multiplied by",
                    place=f"--unit {pair}",
                    remedy="for example --unit tokens=1e9",
                )
            )
        found[name] = factor
    return found


def print_json(document: abc.Mapping[str, Any]) -> None:
    """Print one JSON document on stdout; non-finite numbers are refused."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False, default=str) + "\n")
