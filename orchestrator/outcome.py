"""From a sweep's state to the files a person opens: losses.csv, fit.json, report/."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.answer import fit_table
from analysis.curves import NEVER_DECAYED
from analysis.files import write_fit, write_table
from analysis.holdout import holdout_section
from analysis.report import CurvePoint, NextRun, RecipeCheck, SweepFacts, write_report
from analysis.table import COLUMNS, read_rows
from orchestrator.budget import Budget
from orchestrator.collect import rows, versions
from orchestrator.state import FINAL, Purpose, SweepState, TrialState
from orchestrator.sweep_files import last_metrics, metric_lines
from orchestrator.training_section import Recipe
from orchestrator.verifying import FACTORS
from orchestrator.verifying import checks as recipe_checks
from trainer.schedule import multiplier

RESAMPLES = 2000
"""Bootstrap refits behind every interval."""
MOST_POINTS = 400
"""Points that are read of a training curve, twice what a trial logs by itself."""
MOST_POINTS_IN_ALL = 200_000
"""Points that are read of all of a sweep's training curves."""
_CURVE = ("tokens", "flops", "loss", "learning_rate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """How much is made of a sweep's losses."""

    resamples: int | None = None
    """Bootstrap refits behind every interval; None: `RESAMPLES`."""
    interim: bool = True
    """Whether every round is followed by a fit, and by a page where there is a report."""
    report: bool = True
    """Whether the table, the report and the measured speed are written at the end."""


FULL_ANSWER = Answer()
"""What `sweep run` gives."""


def loss_frame(state: SweepState) -> pd.DataFrame:
    """The loss table of everything that is over."""
    assert state.opened is not None
    records = rows(state, unique_tokens=state.opened["data"]["train_tokens"])
    return pd.DataFrame(records, columns=list(COLUMNS))


def fit_losses(
    state: SweepState,
    *,
    resamples: int | None = None,
    sweep_dir: Path | None = None,
    detail: bool = True,
) -> dict[str, Any]:
    """Fit everything that is over; the seed is fixed, so equal tables give equal fits.

    Args:
        state: the sweep.
        resamples: bootstrap refits; None: `RESAMPLES`.
        sweep_dir: its folder, for the envelope of its training curves and the forecast of its
            dearest level; None leaves both out.
        detail: also the sections that only a report prints.
    """
    assert state.opened is not None
    table = read_rows(loss_frame(state))
    count = RESAMPLES if resamples is None else resamples
    report = fit_table(
        table,
        target_flops=state.opened["target_flops"],
        resamples=count,
        curves=None if sweep_dir is None else training_curves(state, sweep_dir),
        detail=detail,
    )
    if sweep_dir is None or not detail:
        return report.to_dict()
    return {**report.to_dict(), **holdout_section(table, report, resamples=count)}


def training_curves(state: SweepState, sweep_dir: Path) -> dict[str, dict[str, list[float]]] | None:
    """Logged points of every run that is in the fit, as the envelope takes them.

    Returns:
        By trial_id: `tokens`, `flops`, `loss`, `learning_rate`; None when nothing was logged.
    """
    runs = [trial for trial in state.trials.values() if trial.result and trial.result.is_datum]
    most = _points_a_curve(len(runs))
    curves = {}
    for trial in runs:
        lines = _end_of(sweep_dir, trial) or metric_lines(sweep_dir, trial.trial_id, most=most)
        points = [
            [line[name] for name in _CURVE]
            for line in lines
            if all(line.get(name) is not None for name in _CURVE) and line["flops"] > 0
        ]
        if points:
            columns = map(list, zip(*points, strict=True))
            curves[trial.trial_id] = dict(zip(_CURVE, columns, strict=True))
    return curves or None


def _end_of(sweep_dir: Path, trial: TrialState) -> list[dict[str, Any]]:
    """The end of a run whose rate decayed, at its peak rate and at its last; empty for others.

    No other point of it is data, and of 1,000 logged ones nothing else is read: the envelope takes
    the end itself from the table, and of the curve asks how far the rate fell.
    """
    config, result = trial.config, trial.result
    if result is None or config.schedule.name == "points":
        return []
    share = multiplier(config.steps - 1, config.steps, config.schedule)
    if share >= NEVER_DECAYED or last_metrics(sweep_dir, trial.trial_id) is None:
        return []
    peak = config.optimizer.learning_rate
    flops = trial.flops_per_step * config.steps
    end = {"tokens": config.tokens, "flops": flops, "loss": result.loss}
    return [{**end, "learning_rate": rate} for rate in (peak, share * peak)]


def _points_a_curve(curves: int) -> int:
    """Points that are read of each curve, so that a sweep of thousands of runs is soon read."""
    return max(20, min(MOST_POINTS, MOST_POINTS_IN_ALL // max(curves, 1)))


def write_losses(state: SweepState, sweep_dir: Path) -> Path:
    """Write `losses.csv`."""
    return write_table(loss_frame(state), sweep_dir / "losses.csv")


def write_outcome(
    state: SweepState,
    sweep_dir: Path,
    budget: Budget,
    fit: Mapping[str, Any],
    *,
    next_runs: Sequence[NextRun] = (),
    unfinished: str = "",
) -> Path:
    """Write `losses.csv`, `fit.json` and the report; returns the path of the HTML report.

    Args:
        state: the sweep.
        sweep_dir: its folder.
        budget: its budget.
        fit: of everything that is over.
        next_runs: what the report names as worth making.
        unfinished: what the report says on top of a sweep that is not over.
    """
    write_losses(state, sweep_dir)
    write_fit(fit, sweep_dir / "fit.json")
    facts = _facts(state, sweep_dir, budget)
    hashes = {**facts.hashes, "losses.csv": _sha256(sweep_dir / "losses.csv")}
    return write_report(
        sweep_dir / "report",
        fit=fit,
        table=read_rows(loss_frame(state)),
        curves=_curves(state, sweep_dir),
        sweep=replace(
            facts,
            hashes=hashes,
            unfinished=unfinished,
            next_runs=next_runs,
            next_steps=_next_steps(state, fit, unfinished=bool(unfinished)),
        ),
    )


def write_page(
    state: SweepState, sweep_dir: Path, budget: Budget, fit: Mapping[str, Any], *, planned: int
) -> Path:
    """Write the page of a sweep that is still running, and nothing else.

    Args:
        state: the sweep.
        sweep_dir: its folder.
        budget: its budget.
        fit: of everything that is over.
        planned: trials of its plan.
    """
    return write_report(
        sweep_dir / "report",
        fit=fit,
        table=read_rows(loss_frame(state)),
        curves=_curves(state, sweep_dir),
        sweep=replace(
            _facts(state, sweep_dir, budget),
            unfinished=f"Sweep still running when this was written: {how_far(state, planned)}",
        ),
        page_only=True,
    )


def how_far(state: SweepState, planned: int) -> str:
    """How many runs are over, of how many, and the level that is being trained."""
    runs = [t for t in state.trials.values() if t.purpose is Purpose.DESIGN]
    over = sum(t.status in FINAL for t in runs)
    return f"{over} of {max(planned, len(runs))} runs are over, level {len(state.levels)}"


def _curves(state: SweepState, sweep_dir: Path) -> dict[str, list[CurvePoint]]:
    return {
        trial_id: [
            CurvePoint(
                step=line["step"], tokens=line["tokens"], flops=line["flops"], loss=line["loss"]
            )
            for line in metric_lines(sweep_dir, trial_id, most=_points_a_curve(len(state.trials)))
            if line.get("loss") is not None
        ]
        for trial_id in state.trials
    }


def _facts(state: SweepState, sweep_dir: Path, budget: Budget) -> SweepFacts:
    assert state.opened is not None
    opened = state.opened
    trials = state.trials.values()
    ran = [t.result for t in trials if t.result and not t.cached_from]
    device_s = sum(result.wall_s * result.devices for result in ran)
    price = budget.budget.price_per_hour
    data = opened["data"]
    return SweepFacts(
        name=opened["name"],
        budget_flops=opened["budget_flops"],
        charged_flops=state.charged_flops,
        useful_flops=sum(t.result.flops for t in trials if t.result and t.result.is_datum),
        target_flops=opened["target_flops"],
        price=None if price is None else price * device_s / 3600,
        slot_hours=sum(result.wall_s for result in ran) / 3600,
        states=state.counts,
        family=_family(budget),
        recipe=_recipe(budget),
        forecast=(state.validation or {}).get("message", ""),
        corpus=str(data["source"]),
        tokenizer=str(data["tokenizer"]),
        bytes_per_token=data["bytes_per_token"],
        convention="N = matmul parameters (body matrices and head); FLOPs = 6 N plus the full "
        "attention score matrix, per token",
        started=datetime.fromtimestamp(state.opened_at, UTC).isoformat(timespec="seconds"),
        method=_method(budget, data, versions(state)),
        recipe_checks=[
            RecipeCheck(
                params=check.params,
                learning_rate=check.learning_rate,
                losses=dict(zip(FACTORS, check.losses, strict=True)),
            )
            for check in recipe_checks(state)
        ],
        spending=_spending(state),
        levels=[(lv.level, lv.flops, lv.tokens_per_parameter, lv.reason) for lv in state.levels],
        faults=[
            f"{t.label}: {t.reason or 'worker died'}, {t.losses_of_workers} attempt(s) lost"
            for t in trials
            if t.losses_of_workers
        ],
        examination=[
            f"{c['name']}: {'passed' if c['passed'] else 'failed'}; {c['message']}"
            for c in (state.examination or {}).get("checks", ())
        ],
        commands=_commands(budget),
        versions=dict(versions(state)),
        hashes={
            "budget": opened["budget_digest"],
            "data": data["digest"],
        },
        labels={t.trial_id: t.label for t in trials},
    )


def _method(
    budget: Budget, data: Mapping[str, Any], libraries: Mapping[str, str]
) -> dict[str, str]:
    """What only a sweep can answer of the checklist."""
    training = budget.training
    torch = f", PyTorch {libraries['torch']}" if "torch" in libraries else ""
    return {
        "data": f"{data['source']}, {data['train_tokens']} different tokens",
        "tokenizer": str(data["tokenizer"]),
        "flops_rule": "6 N plus the full attention score matrix, per token; N = matmul parameters",
        "recipe": _recipe(budget),
        "schedule": f"{training.schedule} to the end of each run, "
        f"warmup {training.warmup_steps or training.warmup_fraction} "
        + ("steps" if training.warmup_steps else "of the steps"),
        "code": f"isosweep {version('isosweep')}, its own trainer{torch}",
        "evaluation": "cross-entropy per token on text held out of training"
        + (f" ({data['split']})" if data.get("split") else ""),
        "checkpoints": "the last one",
    }


def _spending(state: SweepState) -> list[tuple[str, float]]:
    """What was charged beside the runs of the design, and what of those came to nothing."""
    opened = state.opened or {}
    trials = list(state.trials.values())

    def charged(purpose: Purpose) -> float:
        return sum(t.charged_flops for t in trials if t.purpose is purpose)

    lost = sum(
        t.charged_flops
        for t in trials
        if t.purpose is Purpose.DESIGN and not (t.result and t.result.is_datum)
    )
    replayed = sum(
        t.flops_per_step * max(0, t.result.steps_executed + t.result.prefix_steps - t.result.steps)
        for t in trials
        if t.result and not t.cached_from
    )
    rows = [
        ("Checks before the sweep", state.examined_flops),
        ("Search for a recipe", float(opened.get("tuning_flops", 0.0))),
        ("Check of the recipe", charged(Purpose.VERIFY)),
        ("Run that scores the forecast", charged(Purpose.VALIDATE)),
        ("Runs that gave no loss", lost),
        ("Steps trained again after a fault", replayed),
    ]
    return [(what, flops) for what, flops in rows if flops > 0]


def _next_steps(state: SweepState, fit: Mapping[str, Any], *, unfinished: bool) -> list[str]:
    """What a person does next, by what the fit says."""
    assert state.opened is not None
    name, target = state.opened["name"], state.opened["target_flops"]
    steps = []
    if unfinished:
        steps.append(f"`sweep resume {name}` trains what is left.")
    if fit["status"] == "not_identified":
        steps.append("Add what the failed rules ask for (see the verdict).")
    else:
        goal = f" --flops {target:g}" if target else ""
        steps.append(
            f"`sweep predict {name}{goal} --config next.json` writes the optimum as a run that "
            "the trainer can start."
        )
    if fit["status"] != "identified":
        steps.append(
            f"`sweep extend {name} --budget +FLOPS` gives the sweep more money; it goes on where "
            "it ended."
        )
    if fit["status"] != "not_identified" and state.validation is None:
        steps.append(
            "Train the optimum and compare its loss with the forecast: a budget with "
            "`target: {validate: true}` does it."
        )
    return steps


def _family(budget: Budget) -> str:
    return f"{budget.model.family}, context {budget.model.context} tokens"


def _recipe(budget: Budget) -> str:
    """Learning rate and batch as asked for, and who found them."""
    training = budget.training
    origin = f"; {training.recipe.origin}" if isinstance(training.recipe, Recipe) else ""
    return f"learning rate {training.learning_rate}, batch {training.batch_tokens} tokens{origin}"


def _commands(budget: Budget) -> list[tuple[str, str]]:
    name = budget.name
    browse = [(f"sweep ui {name}", "browse its runs in MLflow")] if budget.tracking.enabled else []
    return [
        (f"sweep resume {name}", "do what is left of it; a finished sweep trains nothing"),
        (f"sweep fit --table outputs/{name}/losses.csv", "fit its table again"),
        *browse,
    ]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
