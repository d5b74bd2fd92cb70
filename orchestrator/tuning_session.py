"""Wires a search together: data, hardware, plan, executor and display; writes what it found."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.recipe import TriedRun
from analysis.report.plots_recipe import draw_recipe
from orchestrator.board import Quote
from orchestrator.errors import BadInput, Fault
from orchestrator.opening import TUNING_FOLDER
from orchestrator.recipe_file import RECIPE_FILE, write_recipe
from orchestrator.session import (
    RunRequest,
    check_places,
    display_for,
    executor_for,
    prepare,
    tracker_for,
)
from orchestrator.state import FINAL
from orchestrator.tuning import Search, Tuned, tune
from orchestrator.tuning_space import DEFAULT_SHARE, LEAST_TRIALS

SCHEMA = "sweep.tune/1"
TRACKER_GRACE_S = 60.0
"""How long the end of a search waits for MLflow."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TuneRequest:
    """What `sweep tune` was asked to do."""

    run: RunRequest
    """The budget and where its sweep lives."""
    trials: int
    """Runs per size."""
    sizes: int
    """Number of sizes."""
    flops: float | None
    """Compute it may charge; None: a tenth of the budget."""
    with_batch: bool | None
    """Whether the batch is searched; None: where the budget leaves it open (`auto`)."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TuneReply:
    """What came of it."""

    tuned: Tuned
    """The search."""
    document: dict[str, Any]
    """The JSON document, schema `sweep.tune/1`."""


def tune_budget(request: TuneRequest, console: Console) -> TuneReply:
    """Search for a budget's recipe, or go on with the search, and write what was found.

    Args:
        request: what to search.
        console: where progress goes.

    Raises:
        BadInput: when the request cannot be met.
    """
    _check(request)
    prepared = prepare(request.run)
    setting = prepared.setting
    flops = request.flops or DEFAULT_SHARE * setting.plan.budget_flops
    with_batch = request.with_batch
    if with_batch is None:
        with_batch = setting.budget.training.batch_tokens == "auto"
    plan = setting.plan
    search = Search(
        trials=request.trials,
        sizes=request.sizes,
        flops=flops,
        with_batch=with_batch,
        estimated_s=flops / plan.cost_flops * plan.estimated_s,
    )
    quote = Quote(budget_flops=flops, flops=flops, seconds=search.estimated_s, slots=plan.slots)
    display = display_for(request.run, console, quote, estimating=lambda _: ())
    folder = setting.sweep_dir / TUNING_FOLDER
    check_places(setting.budget, setting.machine, plan.slots)
    tracker = tracker_for(setting.budget, setting.outputs, folder)
    try:
        tuned = tune(
            setting,
            search,
            make_executor=lambda: executor_for(
                setting.budget, setting.machine, setting.plan.slots, folder
            ),
            tracker=tracker,
            display=display,
        )
    except BaseException:
        if tracker is not None:
            tracker.stop(TRACKER_GRACE_S)
        raise
    recipe = picture = None
    if tuned.rule is not None:
        picture = draw_recipe(folder / "recipe.svg", _runs(tuned), tuned.optima, tuned.rule)
        if tuned.sound:
            recipe = setting.sweep_dir / RECIPE_FILE
            write_recipe(
                recipe,
                name=setting.budget.name,
                rule=tuned.rule,
                optima=tuned.optima,
                runs=len(tuned.state.trials),
            )
    largest = max(trial.counts.matmul for trial in setting.plan.trials)
    if tracker is not None:
        tracker.conclude(tuned.state, note=_note(tuned), report=picture)
        tracker.stop(TRACKER_GRACE_S)
    document = _document(tuned, request.run, largest, recipe, picture)
    return TuneReply(tuned=tuned, document=document)


def _note(tuned: Tuned) -> str:
    """What a search found, in one line; empty while it has found nothing."""
    if tuned.rule is None:
        return ""
    standing = "" if tuned.sound else ", at the edge of what was tried: no recipe"
    return f"learning rate = {tuned.rule.learning_rate_text}{standing}"


def _check(request: TuneRequest) -> None:
    if request.trials >= LEAST_TRIALS and 1 <= request.sizes <= 4:
        return
    raise BadInput(
        Fault(
            code="SWP-1351",
            rule=f"a parabola needs at least {LEAST_TRIALS} runs, a rule 1 to 4 sizes; got "
            f"--trials {request.trials} --sizes {request.sizes}",
            place="--trials, --sizes",
            remedy="for example --trials 8 --sizes 2",
        )
    )


def _runs(tuned: Tuned) -> dict[float, list[TriedRun]]:
    from trainer.shapes import count_parameters

    runs: dict[float, list[TriedRun]] = {}
    for trial in tuned.state.trials.values():
        if trial.status in FINAL:
            runs.setdefault(count_parameters(trial.config.shape).matmul, []).append(
                TriedRun(
                    learning_rate=trial.config.optimizer.learning_rate,
                    batch_tokens=trial.config.batch_tokens,
                    loss=trial.result.loss if trial.result else None,
                )
            )
    return runs


def _document(
    tuned: Tuned, run: RunRequest, largest: float, recipe: Path | None, picture: Path | None
) -> dict[str, Any]:
    state, rule = tuned.state, tuned.rule
    assert state.opened is not None
    status = "interrupted" if rule is None else ("found" if tuned.sound else "edge")
    if not state.trials or (rule is None and not tuned.exit_code.name.startswith(("INT", "TERM"))):
        status = "no_losses"
    return {
        "schema": SCHEMA,
        "name": run.budget.name,
        "status": status,
        "sizes": [dataclasses.asdict(best) for best in tuned.optima],
        "rule": None
        if rule is None
        else {
            "learning_rate": rule.learning_rate_text,
            "exponent": rule.exponent,
            "exponent_interval": rule.exponent_interval,
            "batch_tokens": rule.batch_text,
            "at_largest_planned": {"params": largest, "learning_rate": rule.rate(largest)},
        },
        "trials": state.counts,
        "trained": tuned.trained,
        "charged_flops": state.charged_flops,
        "budget_flops": state.opened["budget_flops"],
        "recipe": str(recipe) if recipe else None,
        "use": None
        if recipe is None
        else f"training: {{recipe: {os.path.relpath(recipe, run.base)}}}",
        "picture": str(picture) if picture else None,
    }
