"""The verbs that judge designs: simulate and next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from analysis.numerals import spell
from orchestrator.terminal import (
    AsJson,
    BudgetFile,
    Outputs,
    SweepName,
    find_sweep,
    out,
    points_into_the_budget,
    print_json,
    read_budget,
)


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command()(simulate)
    app.command(name="next")(next_run)


@points_into_the_budget
def simulate(
    budget_file: BudgetFile,
    law: Annotated[
        str, typer.Option(help="chinchilla, skaling, or E=..,A=..,B=..,alpha=..,beta=..[,k=..].")
    ] = "chinchilla",
    noise: Annotated[float, typer.Option(help="sd of ln loss of one run.", min=0.0)] = 0.005,
    replicates: Annotated[int, typer.Option(help="Simulated sweeps.", min=1)] = 20,
    outputs: Outputs = Path("outputs"),
    as_json: AsJson = False,
) -> None:
    """Rehearse a sweep against a known law: bias, coverage and width of its answer."""
    from orchestrator.data import facts_of
    from orchestrator.hardware import detect, hardware_for
    from orchestrator.model_sizes import with_model_sizes
    from orchestrator.recipe_file import with_files
    from orchestrator.simulate import simulate as rehearse

    base = budget_file.resolve().parent
    budget = with_files(read_budget(budget_file)[0], base)
    facts = facts_of(budget, base, outputs.resolve())
    found = rehearse(
        with_model_sizes(budget, base, facts.vocab_size),
        facts,
        hardware_for(budget, outputs.resolve(), detect()),
        law=law,
        noise_sd=noise,
        replicates=replicates,
    ).to_dict()
    if as_json:
        print_json(found)
        return
    out.print(
        f"{budget.name}: {found['replicates']} simulated sweeps of {found['trials']:.3g} trials; "
        f"the true ratio at {found['target_flops']:.3g} FLOPs is "
        f"{found['tokens_per_parameter']:.3g} tokens per parameter",
        soft_wrap=True,
    )
    shares = found["status"]
    out.print(
        f"  identified {shares['identified']:.0%}, weak {shares['weak']:.0%}, "
        f"refused {shares['not_identified']:.0%}"
    )
    for reason in found["reasons"]:
        out.print(
            f"    {reason['rule']} in {reason['share']:.0%}: {escape(reason['message'])}",
            soft_wrap=True,
        )
    if found["answered"]:
        low, high = found["coverage_95_interval"]
        out.print(
            f"  ln(D/N): bias {found['bias_ln_ratio']:+.3f}, 95 % interval {found['width_95']:.3g} "
            f"wide ({spell(found['fold_95'])}-fold), covers the truth in "
            f"{found['coverage_95']:.0%} of {found['answered']} "
            f"answers ({low:.0%} to {high:.0%} of all such sweeps)",
            soft_wrap=True,
        )


def next_run(
    sweep: SweepName,
    outputs: Outputs = Path("outputs"),
    count: Annotated[int, typer.Option(help="How many runs to name.", min=1)] = 5,
    as_json: AsJson = False,
) -> None:
    """Name the runs that would sharpen a sweep's answer most per FLOP, and what each would buy."""
    from orchestrator.advice import SCHEMA, next_runs
    from orchestrator.data import facts_of
    from orchestrator.hardware import detect, hardware_for
    from orchestrator.journal import read_state
    from orchestrator.model_sizes import with_model_sizes
    from orchestrator.operations import frozen_budget
    from orchestrator.recipe_file import with_files
    from orchestrator.units import format_count, format_duration

    folder = find_sweep(sweep, outputs)
    budget, _, base = frozen_budget(folder)
    budget = with_files(budget, base)
    facts = facts_of(budget, base, folder.parent)
    found = next_runs(
        read_state(folder),
        with_model_sizes(budget, base, facts.vocab_size),
        facts,
        hardware_for(budget, folder.parent, detect()),
        count=count,
    )
    if as_json:
        print_json({"schema": SCHEMA, "runs": [advice.to_dict() for advice in found]})
        return
    if not found:
        out.print("No run inside the window of compute and D/N is left.")
    for advice in found:
        row = advice.to_dict()
        out.print(
            f"N = {format_count(advice.params)}, D = {format_count(advice.tokens)} "
            f"({row['tokens_per_parameter']:.3g} tokens per parameter), {advice.flops:.3g} FLOPs, "
            f"about {format_duration((advice.hours or 0.0) * 3600)}: 95 % range of D/N "
            f"{spell(row['fold_95_before'])}-fold -> {spell(row['fold_95_after'])}-fold",
            soft_wrap=True,
        )
