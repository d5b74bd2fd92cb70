"""Text for people: the plan as a quotation, a sweep's status, the answer and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.numerals import spell, spell_range
from analysis.surface_words import objective_words
from orchestrator.plan import Plan
from orchestrator.state import SweepState, TrialStatus
from orchestrator.throughput import Throughput
from orchestrator.trial import Trial
from orchestrator.units import (
    format_bytes,
    format_count,
    format_duration,
    format_flops,
)

if TYPE_CHECKING:
    from orchestrator.plan_record import Before

WIDE = 110
"""Columns of a terminal from which each trial's notes have room."""

NOT_BEGUN = "nothing has begun yet"
"""What is shown of a journal without events: its driver has not come so far, or was refused."""

MOST_ROWS = 1000
"""Trials up to which a status shows every one."""

_VERDICTS = {
    "identified": "identified",
    "weak": "weakly identified",
    "not_identified": "NOT IDENTIFIED",
}


def print_plan(console: Console, plan: Plan, throughput: Throughput) -> None:
    """Print the plan: every trial, then duration, price and warnings."""
    console.print(
        "[dim]N: parameters that multiply tokens (body matrices and head); total: with embeddings;"
        " shape: width x depth; D: training tokens; rate: peak learning rate; batch: tokens a step"
        "[/]\n"
    )
    for level in plan.levels:
        note = ", moves with what is measured below it" if level.provisional else ""
        console.print(
            f"[bold]{'Level' if level.even else 'Round'} {level.level}: "
            f"{'' if level.even else 'up to '}{format_flops(level.flops)} FLOPs a trial[/], "
            f"centred on {level.centre.tokens_per_parameter:.3g} tokens per parameter "
            f"({level.centre.reason}{note})"
        )
        table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 1))
        wide = console.width >= WIDE
        for name in ("N", "total", "shape", "D", "D/N", "FLOPs", "rate", "batch", "steps"):
            table.add_column(name, justify="right", no_wrap=True)
        for name in ("memory", "time"):
            table.add_column(name, justify="right", no_wrap=True)
        if wide:
            table.add_column("")
        for trial in sorted(level.trials, key=lambda t: (t.counts.matmul, t.config.seed)):
            shape = trial.config.shape
            table.add_row(
                format_count(trial.counts.matmul),
                format_count(trial.counts.total),
                f"{shape.d_model}x{shape.n_layer}",
                format_count(trial.config.tokens),
                format_count(trial.tokens_per_parameter),
                format_flops(trial.flops),
                f"{trial.config.optimizer.learning_rate:.3g}",
                format_count(trial.config.batch_tokens),
                f"{trial.config.steps:,}",
                format_bytes(trial.memory_bytes),
                format_duration(trial.estimated_s),
                *([", ".join(trial.notes)] if wide else []),
            )
        console.print(table)
        console.print()
    _print_quotation(console, plan, throughput)


def at_a_time(plan: Plan, device: str) -> str:
    """How many trials run at a time, and on what each."""
    shares = sorted({trial.devices for trial in plan.trials})
    # The smallest share that a budget names may be one that no size of the plan asks for.
    most = max(1, plan.slots // min((trial.slots for trial in plan.trials), default=1))
    if shares in ([], [1.0]):
        return f"{most} x {device} at a time"
    each = " to ".join(f"{share:g}" for share in dict.fromkeys((shares[0], shares[-1])))
    return f"{each} x {device} each, up to {most} at a time"


def _print_quotation(console: Console, plan: Plan, throughput: Throughput) -> None:
    """What is bought, how long it takes, what it costs, what it will tell, what to mind."""
    source = "measured here" if throughput.measured else "assumed, not yet measured here"
    data = "" if plan.data_exact else " (token counts are estimates until the corpus is tokenised)"
    price = "" if plan.price is None else f", about {plan.price:,.2f} at the price given"
    rows = [
        (
            "what",
            f"{len(plan.trials)} trials in {len(plan.levels)} levels, "
            f"{format_flops(plan.cost_flops)} of {format_flops(plan.budget_flops)} FLOPs"
            f" ({plan.cost_flops / plan.budget_flops:.0%} of the budget){data}",
        ),
        (
            "how long",
            f"about {format_duration(plan.estimated_s)} on {at_a_time(plan, throughput.device)} "
            f"(speed {source})",
        ),
        (
            "how much",
            f"{plan.device_hours:.3g} hours of one {throughput.device}{price}; "
            f"about {format_bytes(plan.disk_bytes)} of disk: checkpoints, token files, records",
        ),
        (
            "tells you",
            f"D/N for a run of {format_flops(plan.target_flops)} FLOPs, "
            f"{spell(plan.target_flops / plan.levels[-1].flops)} times the largest level",
        ),
    ]
    for rate in dict.fromkeys(trial.learning_rate_source for trial in plan.trials):
        rows.append(("rate", rate))
    if plan.aside_flops:
        rows.append(
            (
                "set aside",
                f"{format_flops(plan.aside_flops)} FLOPs for the check of the recipe and the run "
                "of the predicted optimum",
            )
        )
    if plan.tuning_flops:
        rows.append(("spent", f"{format_flops(plan.tuning_flops)} FLOPs, on finding the recipe"))
    rows += [("warning", line) for line in plan.warnings]
    console.print(_labelled(rows), highlight=False)


def _labelled(rows: Sequence[tuple[str, str]]) -> Table:
    """Lines with a word before each, as a quotation has them."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for word, line in rows:
        style = "yellow" if word == "warning" else "bold"
        table.add_row(f"[{style}]{word}[/]", escape(line))
    return table


def before_lines(before: Before) -> list[str]:
    """What changed since the last plan of the name."""
    lines = []
    if before.changes:
        lines.append("changed since the last plan of this name:")
        lines += [f"  {line}" for line in before.changes]
        lines += [f"  => {line}" for line in before.consequences]
    elif before.consequences:
        lines.append("no key changed since the last plan of this name, but the data or the speed:")
        lines += [f"  => {line}" for line in before.consequences]
    return lines


def answer_lines(fit: Mapping[str, Any]) -> list[str]:
    """The answer in a few plain lines; no number when there is none to give."""
    verdict = _VERDICTS[fit["status"]]
    if fit["status"] == "not_identified" or not fit["optimum"]:
        failed = [check for check in fit["checks"] if not check["passed"]]
        return [
            f"{verdict}: these runs do not determine the ratio.",
            *(f"  {check['rule']} {check['severity']}s: {check['message']}" for check in failed),
        ]
    best = fit["optimum"][0]
    low, high = best["interval"]
    band = best["near_optimal"].get("waste_5pct")
    lines = [
        f"{spell(best['tokens_per_parameter'])} tokens per parameter "
        f"[{spell(low)}, {spell(high)}] ({best['confidence']:.0%} interval) at "
        f"{format_flops(best['flops'])} FLOPs: {verdict}",
        f"  train N = {format_count(best['params'])} parameters on "
        f"D = {format_count(best['tokens'])} tokens; {fit['n_points']} runs, "
        f"{spell(best['extrapolation'])} times beyond the largest",
    ]
    if band:
        lines.append(
            f"  any ratio between {spell(band[0])} and {spell(band[1])} wastes under 5 % of the "
            "compute"
        )
    if fit["status"] == "weak":
        lines.append(f"  {fit['message']}")
    return lines


def byte_lines(fit: Mapping[str, Any], bytes_per_token: float) -> list[str]:
    """What a ratio in small tokens is worth in the tokens that published ratios are in."""
    if fit["status"] == "not_identified" or not fit["optimum"] or bytes_per_token > 2:
        return []
    from analysis.published import BYTES_PER_BPE_TOKEN

    ratio = fit["optimum"][0]["tokens_per_parameter"] * bytes_per_token
    return [
        f"  a token here is {bytes_per_token:.3g} byte(s): {spell(ratio)} bytes a parameter are "
        f"about {ratio / BYTES_PER_BPE_TOKEN:.2g} BPE tokens, the unit of published ratios"
    ]


def _in_bytes(fit: Mapping[str, Any]) -> list[str]:
    """The optimum in bytes of raw text, where the table tells how many a token holds."""
    best = fit["optimum"][0] if fit["optimum"] else {}
    if "bytes_per_parameter" not in best:
        return []
    low, high = best["bytes_per_parameter_interval"]
    loss = "" if best["bpb"] is None else f"; loss {best['bpb']:.4f} bits per byte"
    return [
        f"  in bytes ({best['bytes_per_token']:.3g} a token): "
        f"{spell(best['bytes_per_parameter'])} bytes per parameter "
        f"[{spell(low)}, {spell(high)}]{loss}"
    ]


def print_fit(console: Console, fit: Mapping[str, Any]) -> None:
    """Print a fit: the answer, the laws, the levels, the checks that failed, the warnings."""
    first, *rest = answer_lines(fit)
    console.print(f"[bold]{escape(first)}[/]", soft_wrap=True)
    for line in [*rest, *_in_bytes(fit)]:
        console.print(escape(line), soft_wrap=True)
    for name, law in fit["laws"].items():
        numbers = {
            key: f"{key} {law[key]:.5g}"
            for key in ("E", "A", "B", "alpha", "beta", "k")
            if key in law
        }
        if "E" in law["interval"]:
            numbers["E"] += f" {spell_range(law['interval']['E'])}"
        objective = f"{law['objective']:.8g} ({objective_words(law['huber_delta'])})"
        line = f"  {name}: {', '.join(numbers.values())}; objective {objective}"
        console.print(escape(line), soft_wrap=True)
    for level in fit["isoflop"]:
        if level["accepted"]:
            found = (
                f"minimum at N = {format_count(level['params_opt'])}, "
                f"D/N = {spell(level['tokens_per_parameter'])}"
            )
        else:
            found = level["reason"]
        console.print(
            f"  level {level['level']} ({format_flops(level['flops'])} FLOPs, "
            f"{level['n_points']} runs): {escape(found)}",
            soft_wrap=True,
        )
    for line in fit["warnings"]:
        console.print(f"[yellow]warning:[/] {escape(line)}", soft_wrap=True)


def print_family_fit(console: Console, fit: Mapping[str, Any], law: str) -> None:
    """Print the fit of a law over columns of its own: verdict, parameters, rules, notes."""
    verdict = _VERDICTS[fit["status"]]
    message = fit["message"].removeprefix(f"{verdict}. ")
    console.print(f"[bold]{verdict}[/]: {escape(message)}", soft_wrap=True)
    if fit["optimum"]:
        best = fit["optimum"][0]
        console.print(
            f"  train N = {format_count(best['params'])} parameters on "
            f"D = {format_count(best['tokens'])} tokens; loss {best['loss']:.4f}, "
            f"{spell(best['extrapolation'])} times beyond the largest run",
            highlight=False,
            soft_wrap=True,
        )
    if law in fit["laws"]:
        record = fit["laws"][law]
        for name, sd in record["sd"].items():
            how = f"+- {sd:.2g}" if sd is not None else "not determined by these runs"
            if name in record["held"]:
                how = "kept at the published value"
            console.print(f"  {name:<8} {record[name]:.5g}  {how}", highlight=False)
        console.print(f"  source: {record['source']}", highlight=False, soft_wrap=True)
    for line in fit["warnings"]:
        console.print(f"[yellow]note:[/] {escape(line)}", highlight=False, soft_wrap=True)


def prediction_lines(record: Mapping[str, Any]) -> list[str]:
    """A prediction in words, with its intervals and how far it reaches beyond the runs."""
    reach = record["extrapolation"]
    beyond = (
        f"{spell(reach)} times beyond the runs" if reach > 1 else "inside the range of the runs"
    )
    unit = f" {record['loss_unit']}" if record["loss_unit"] else ""
    loss = (
        f"loss {record['loss']:.4f} {_ends(record['prediction_interval'], '.4f')}{unit} "
        f"({record['confidence']:.0%} interval of one run), {beyond}"
    )
    if "tokens_per_parameter" not in record:
        return [
            f"N = {format_count(record['params'])} parameters on "
            f"D = {format_count(record['tokens'])} tokens: {loss}"
        ]
    hours = [f"{record['gpu_hours']:g} hours at {record['speed']}:"] if "speed" in record else []
    computes = record["flops_interval"]
    span = f" {_ends(computes, '.3g')}" if computes else ""
    return [
        *hours,
        f"{format_flops(record['flops'])} FLOPs{span}: "
        f"{_counted('N', record['params'], record['params_interval'])} parameters on "
        f"{_counted('D', record['tokens'], record['tokens_interval'])} tokens, "
        f"{spell(record['tokens_per_parameter'])} tokens per parameter "
        f"{_ends(record['interval'], '.3g')}",
        f"  {loss}",
    ]


def _counted(name: str, value: float, ends: Sequence[float | None]) -> str:
    """A count with its interval, where it has one of any width."""
    low, high = (("?" if end is None else format_count(end)) for end in ends)
    span = "" if ends[0] == ends[1] is not None else f" [{low}, {high}]"
    return f"{name} = {format_count(value)}{span}"


def _ends(ends: Sequence[float | None], form: str) -> str:
    low, high = ("?" if end is None else format(end, form) for end in ends)
    return f"[{low}, {high}]"


def ready_lines(
    trial: Trial, config: Path, data_dir: Path | None, remarks: Sequence[str]
) -> list[str]:
    """A configuration that was written: what it trains, how to start it, what to know."""
    shape = trial.config.shape
    data = data_dir or "THE_SWEEPS_TOKEN_FILES"
    return [
        f"{config}: {shape.d_model}x{shape.n_layer}, N = {format_count(trial.counts.matmul)}, "
        f"D = {format_count(trial.config.tokens)}, {format_flops(trial.flops)} FLOPs",
        *(f"  {remark}" for remark in remarks),
        f"Next: python -m trainer {config} --data {data} --out {config.with_suffix('')}",
    ]


def comparison_lines(record: Mapping[str, Any], first: str, second: str) -> list[str]:
    """A comparison of two sweeps in words, compute by compute."""
    lines = [f"{second} against {first}, at the best size of each:"]
    units = record["loss_units"]
    unit = f" {units[0]}" if units[0] and units[0] == units[1] else ""
    if None not in units and not unit:
        lines.append(
            f"  note: the losses are in {units[0]} and in {units[1]}; their difference means "
            "something in one unit alone"
        )
    for level in record["levels"]:
        low, high = level["interval"]
        verdict = (
            "cannot tell them apart"
            if low <= 0 <= high
            else (f"{second} is better" if high < 0 else f"{first} is better")
        )
        outside = ", beyond the runs of one" if level["extrapolated"] else ""
        lines.append(
            f"  {format_flops(level['flops'])} FLOPs: {level['difference']:+.4f}{unit} "
            f"[{low:+.4f}, {high:+.4f}], {spell(level['compute_multiplier'])} times the compute: "
            f"{verdict}{outside}"
        )
    return lines


def next_commands(
    name: str, report: Path | None, outputs: Path, *, tracked: bool = True, stopped: bool = False
) -> list[tuple[str, str]]:
    """What to do next: command and purpose; the folder is named where it is not the default."""
    there = "" if outputs == Path("outputs") else f" --outputs {outputs}"
    commands = [
        (f"sweep status {name}{there}", "every trial and what was charged"),
        (f"sweep logs {name}{there}", "what happened, event by event"),
        (f"sweep next {name}{there}", "what further runs would buy"),
    ]
    if tracked:
        commands.insert(0, (f"sweep ui {name}{there}", "browse the runs in MLflow"))
    if report is not None:
        commands.insert(0, (f"open {_relative(report)}", "the report (any browser)"))
    if stopped:
        commands.insert(0, (f"sweep resume {name}{there}", "go on where it stopped"))
    return commands


def print_commands(console: Console, commands: Sequence[tuple[str, str]]) -> None:
    """Print commands with their purposes, aligned."""
    width = max(len(command) for command, _ in commands)
    for command, purpose in commands:
        console.print(f"  {command:<{width}}  [dim]{purpose}[/]", highlight=False, soft_wrap=True)


def print_status(console: Console, state: SweepState) -> None:
    """Print every trial and the sweep's account; of very many, those that have not completed."""
    if state.opened is None:
        console.print(NOT_BEGUN)
        return
    shown = list(state.trials.values())
    if len(shown) > MOST_ROWS:
        shown = [t for t in shown if t.status is not TrialStatus.COMPLETED][:MOST_ROWS]
    table = Table(box=None, pad_edge=False)
    for name in ("trial", "state", "loss", "D/N", "FLOPs", "time", "attempts"):
        table.add_column(name, justify="left" if name in ("trial", "state") else "right")
    for trial in shown:
        result = trial.result
        state_text = trial.status.value + (" (cached)" if trial.cached_from else "")
        table.add_row(
            escape(trial.label),
            state_text,
            f"{result.loss:.4f}" if result and result.loss is not None else "",
            f"{trial.config.tokens / _matmul(trial):.3g}",
            format_flops(trial.flops_per_step * trial.config.steps),
            format_duration(result.wall_s) if result else "",
            str(trial.attempts),
        )
        if trial.reason and trial.status is not TrialStatus.PLANNED:
            table.add_row(f"  [dim]{escape(trial.reason)}[/]")
    console.print(table)
    if left_out := len(state.trials) - len(shown):
        console.print(f"[dim]and {left_out:,} more trials; all of them: `sweep status --json`[/]")
    budget = state.opened["budget_flops"]
    console.print(
        f"charged {format_flops(state.charged_flops)} of {format_flops(budget)} FLOPs "
        f"({state.charged_flops / budget:.0%}); "
        + ", ".join(f"{count} {name}" for name, count in state.counts.items() if count),
        highlight=False,
    )
    if state.fit and state.fit.get("tokens_per_parameter"):
        low, high = state.fit["interval"]
        console.print(
            f"so far {state.fit['tokens_per_parameter']:.3g} tokens per parameter "
            f"[{low:.3g}, {high:.3g}] at {format_flops(state.fit['flops'])} FLOPs: "
            f"{_VERDICTS[state.fit['status']]}",
            highlight=False,
        )


def _matmul(trial: Any) -> int:
    from trainer.shapes import count_parameters

    return count_parameters(trial.config.shape).matmul


def _relative(path: Path) -> Path:
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
