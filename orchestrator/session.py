"""Wires a run together: data, hardware, plan, executor, tracker and display around the service."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.background import BackgroundProjection
from orchestrator.board import Quote
from orchestrator.budget import Budget
from orchestrator.data import prepare_data
from orchestrator.display import Display, Estimating, LineDisplay, LiveDisplay, SilentDisplay
from orchestrator.errors import Exit
from orchestrator.estimate import Estimator
from orchestrator.executors.base import Executor
from orchestrator.hardware import (
    Machine,
    detect,
    hardware_for,
    placement_of,
    refuse_missing_gpus,
)
from orchestrator.journal import JOURNAL, read_state
from orchestrator.model_sizes import with_model_sizes
from orchestrator.opening import TUNING_FOLDER, tuning_flops
from orchestrator.plan import Plan, make_plan, settle
from orchestrator.plan_record import cached
from orchestrator.preflight import ask, settle_kernels, settle_precision
from orchestrator.recipe_file import with_files
from orchestrator.secrecy import keep_private
from orchestrator.service import Outcome, run_sweep
from orchestrator.setting import Setting
from orchestrator.storage import Storage
from orchestrator.tracking.projection import Projection
from orchestrator.views import at_a_time, print_plan

_STATUS = {
    Exit.COMPLETE: "complete",
    Exit.WITH_FAILURES: "finished_with_failures",
    Exit.BUDGET_SPENT: "budget_spent",
    Exit.INTERRUPTED: "interrupted",
    Exit.TERMINATED: "terminated",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
    """What `sweep run` was asked to do."""

    budget: Budget
    """The budget."""
    text: str
    """Its file's text."""
    base: Path
    """Folder that relative paths in it are taken from."""
    outputs: Path
    """Folder of all sweeps, absolute."""
    ask: bool
    """Whether to show the plan and ask before spending."""
    quiet: bool
    """Whether to show no progress."""
    verbose: bool = False
    """Whether to show every event, and what the trainer notes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunReply:
    """What came of it."""

    exit_code: Exit
    """Exit code of the command."""
    document: dict[str, Any]
    """The JSON document, schema `sweep.run/1`."""
    report: Path | None
    """The report, if there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A budget whose data, hardware and plan are settled."""

    setting: Setting
    """All of them."""
    begun: bool
    """Whether its sweep has a journal."""


def prepare(request: RunRequest) -> Prepared:
    """Tokenise a budget's corpus, look at the machine and plan."""
    budget, outputs = with_files(request.budget, request.base), request.outputs
    sweep_dir = outputs / budget.name
    data = prepare_data(budget, request.base, outputs)
    budget = with_model_sizes(budget, request.base, data.facts.vocab_size)
    machine = detect()
    hardware = hardware_for(budget, outputs, machine)
    begun = (sweep_dir / JOURNAL).exists()
    opened = read_state(sweep_dir).opened if begun else None
    if opened:
        hardware = replace(hardware, precision=opened.get("precision", hardware.precision))

    def planned() -> Plan:
        return make_plan(
            budget,
            data.facts,
            hardware,
            budget_flops=opened["budget_flops"] if opened else None,
            tuning_flops=tuning_flops(sweep_dir),
            aside_flops=opened.get("aside_flops") if opened else None,
        )

    plan = planned()
    speeds: dict[str, float] = {}
    if not begun:
        precision, speeds = settle_precision(budget, plan, hardware, machine, ask)
        if precision != hardware.precision:
            hardware = replace(hardware, precision=precision)
            plan = planned()
    setting = Setting(
        budget=budget,
        budget_text=request.text,
        base=request.base,
        plan=plan,
        sweep_dir=sweep_dir,
        outputs=outputs,
        data=data,
        hardware=hardware,
        machine=machine,
        precision_seconds=speeds,
        kernels=tuple(opened.get("kernels", ())) if opened else (),
    )
    return Prepared(setting=setting, begun=begun)


def run_budget(request: RunRequest, console: Console) -> RunReply | None:
    """Run a budget; None when a person was asked and said no.

    Args:
        request: what to run.
        console: where progress goes.
    """
    keep_private()
    prepared = prepare(request)
    setting, begun = prepared.setting, prepared.begun
    budget, plan, hardware = setting.budget, setting.plan, setting.hardware
    sweep_dir, outputs, machine = setting.sweep_dir, setting.outputs, setting.machine
    if not begun:
        plan = settle(plan, [trial.trial_id for trial in cached(outputs, plan)])
    if request.ask and not begun:
        print_plan(console, plan, hardware.throughput)
        if console.input("\nRun it? [Y/n] ").strip().lower() not in ("", "y", "yes"):
            return None
    if not begun:
        setting = replace(setting, kernels=settle_kernels(budget, plan, machine, ask))
    display = display_for(request, console, quote_of(plan), Estimator())
    if not begun:
        display.note(
            f"{budget.name}: {len(plan.trials)} trials in {len(plan.levels)} levels on "
            + at_a_time(plan, hardware.throughput.device)
        )
    if not (begun and read_state(sweep_dir).finished):
        check_places(budget, machine, plan.slots)
    outcome = run_sweep(
        setting,
        make_executor=lambda: executor_for(budget, machine, plan.slots, sweep_dir),
        tracker=tracker_for(budget, outputs, sweep_dir),
        display=display,
        ask=ask,
    )
    return RunReply(exit_code=outcome.exit_code, document=_document(outcome), report=outcome.report)


def tracking_uri(budget: Budget, outputs: Path) -> str:
    """Where a budget's runs are tracked."""
    return budget.tracking.uri or f"sqlite:///{outputs / 'mlflow.db'}"


def open_projection(budget: Budget, outputs: Path, sweep_dir: Path) -> Projection:
    """The MLflow projection of a sweep."""
    return Projection(
        uri=tracking_uri(budget, outputs),
        experiment=budget.tracking.experiment,
        artifacts=outputs / "mlartifacts",
        sweep_dir=sweep_dir,
    )


def tracker_for(budget: Budget, outputs: Path, sweep_dir: Path) -> BackgroundProjection | None:
    """The projection of a sweep or a search, not yet started; None where the budget has none."""
    if not budget.tracking.enabled:
        return None
    return BackgroundProjection(lambda: open_projection(budget, outputs, sweep_dir))


def check_places(budget: Budget, machine: Machine, slots: int) -> None:
    """See that trials will have their GPUs, their cluster and their storage.

    Raises:
        EnvironmentUnusable: naming what is not there.
    """
    refuse_missing_gpus(budget, machine)
    run = budget.run
    if run.executor == "ray" and run.address is not None:
        from orchestrator.executors.ray_cluster import check_cluster

        placement = placement_of(budget, machine)
        check_cluster(
            run.address,
            cpus=placement.cpus,
            gpus=placement.most if placement.on_gpus else 0.0,
            together=slots * placement.least if placement.on_gpus else 0.0,
        )
    if run.storage is not None:
        Storage(run.storage).check()


def executor_for(budget: Budget, machine: Machine, slots: int, sweep_dir: Path) -> Executor:
    """What runs a budget's trials; not yet started."""
    executor = _executor(budget, machine, slots, sweep_dir)
    if budget.run.storage is None:
        return executor
    from orchestrator.executors.stored import StoredExecutor

    # A search for a recipe has a folder of its own below the sweep's.
    inner = [TUNING_FOLDER] if sweep_dir.name == TUNING_FOLDER else []
    sweep = "/".join((budget.name, *inner))
    return StoredExecutor(executor, Storage(budget.run.storage), sweep=sweep)


def _executor(budget: Budget, machine: Machine, slots: int, sweep_dir: Path) -> Executor:
    if budget.run.executor == "inline":
        from orchestrator.executors.inline import InlineExecutor

        return InlineExecutor()
    from orchestrator.executors.ray_tune import RayTuneExecutor

    placement = placement_of(budget, machine)
    return RayTuneExecutor(
        slots=slots,
        cpus=max(machine.cores, int(slots * budget.run.cpus_per_trial)),
        gpus=min(len(machine.gpus), budget.budget.gpus or len(machine.gpus)),
        log_dir=sweep_dir,
        address=budget.run.address,
        # With several GPUs a trial takes as many as share its batch equally: not all the same.
        warm=placement.even and not (placement.on_gpus and placement.most > 1),
    )


def quote_of(plan: Plan) -> Quote:
    """What a plan promised."""
    return Quote(
        budget_flops=plan.budget_flops,
        flops=plan.due_flops,
        seconds=plan.estimated_s,
        slots=plan.slots,
    )


def display_for(
    request: RunRequest, console: Console, quote: Quote, estimating: Estimating
) -> Display:
    """What listens: silence, lines, or a display that stays in place."""
    if not request.verbose:
        # Trials in this process note things about themselves; `sweep show` has them.
        logging.getLogger("trainer").setLevel(logging.ERROR)
    if request.quiet:
        return SilentDisplay()
    if not console.is_terminal:
        return LineDisplay(console, estimating, verbose=request.verbose)
    return LiveDisplay(console, quote, estimating, verbose=request.verbose)


def _document(outcome: Outcome) -> dict[str, Any]:
    state = outcome.state
    assert state.opened is not None
    return {
        "schema": "sweep.run/1",
        "name": state.opened["name"],
        "status": _STATUS[outcome.exit_code],
        "trials": state.counts,
        "trained": outcome.trained,
        "charged_flops": state.charged_flops,
        "budget_flops": state.opened["budget_flops"],
        "tokenizer": state.opened["data"]["tokenizer"],
        "bytes_per_token": state.opened["data"]["bytes_per_token"],
        "fit": outcome.fit,
        "recipe_check": state.verified,
        "validation": state.validation,
        "report": str(outcome.report) if outcome.report else None,
        "tracker": outcome.tracker_trouble,
    }
