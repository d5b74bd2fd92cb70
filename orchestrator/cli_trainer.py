"""The verbs that train a model or hand one out: bench, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

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
from orchestrator.units import format_count, format_flops


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    for verb in (bench, export):
        app.command()(verb)


@points_into_the_budget
def bench(
    budget_file: BudgetFile,
    outputs: Outputs = Path("outputs"),
    seconds: Annotated[float, typer.Option(help="How long each size is measured.", min=0.1)] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Measure this machine's throughput at a budget's sizes; later plans are timed by it."""
    from orchestrator.data import facts_of
    from orchestrator.hardware import detect, hardware_for, keep, placement_of
    from orchestrator.machinery import bench as measure
    from orchestrator.model_sizes import with_model_sizes
    from orchestrator.plan import make_plan
    from orchestrator.points import with_points

    budget, _ = read_budget(budget_file)
    machine = detect()
    hardware = hardware_for(budget, outputs.resolve(), machine)
    base = budget_file.resolve().parent
    facts = facts_of(budget, base, outputs.resolve())
    budget = with_model_sizes(with_points(budget, base), base, facts.vocab_size)
    measured = measure(
        make_plan(budget, facts, hardware),
        device="cuda" if placement_of(budget, machine).on_gpus else "cpu",
        threads=max(1, int(budget.run.cpus_per_trial)),
        seconds=seconds,
    )
    speed = keep(outputs.resolve(), hardware.throughput, [item.step_time for item in measured])
    sizes = [
        {
            "params_matmul": item.trial.counts.matmul,
            "d_model": item.trial.config.shape.d_model,
            "n_layer": item.trial.config.shape.n_layer,
            "batch_tokens": item.trial.config.batch_tokens,
            "ms_per_step": 1e3 * item.seconds_per_step,
            "tokens_per_s": item.tokens_per_s,
            "flops_per_s": item.flops_per_s,
            "memory_bytes": item.trial.memory_bytes,
        }
        for item in measured
    ]
    if as_json:
        print_json({"schema": "sweep.bench/1", "device": speed.device, "sizes": sizes})
        return
    table = Table(box=None, pad_edge=False)
    for name in ("N", "shape", "batch", "ms a step", "tokens/s", "FLOP/s"):
        table.add_column(name, justify="right")
    for size in sizes:
        table.add_row(
            format_count(size["params_matmul"]),
            f"{size['d_model']}x{size['n_layer']}",
            format_count(size["batch_tokens"]),
            f"{size['ms_per_step']:.3g}",
            format_count(size["tokens_per_s"]),
            format_flops(size["flops_per_s"]),
        )
    out.print(table)
    out.print(f"One {speed.device}; kept in {outputs}/hardware.json for `sweep plan`.")


def export(
    sweep: SweepName,
    trial: Annotated[str, typer.Argument(help="A trial's label, or the beginning of its id.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write.")],
    outputs: Outputs = Path("outputs"),
    as_json: AsJson = False,
) -> None:
    """Write a trained model as a folder that `transformers` loads."""
    from orchestrator.data import prepare_data
    from orchestrator.journal import read_state
    from orchestrator.machinery import export_trial
    from orchestrator.operations import find_trial, frozen_budget

    home = find_sweep(sweep, outputs)
    found = find_trial(read_state(home), trial)
    budget, _, base = frozen_budget(home)
    data = prepare_data(budget, base, home.parent)
    name = export_trial(home, found, folder, data_dir=data.folder)
    if as_json:
        print_json({"schema": "sweep.export/1", "folder": str(folder), "class": name})
    else:
        out.print(f"Wrote {found.label} to {folder}: load it with transformers' {name}.")
