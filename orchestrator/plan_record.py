"""What a plan shares with what was there before: runs already paid for, and the last plan."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.budget import Budget, changed_keys
from orchestrator.journal import write_atomic
from orchestrator.plan import Plan
from orchestrator.trial import Trial
from orchestrator.trial_files import paid_for
from orchestrator.units import format_flops

PLANS = "plans"
"""Folder of the last plan of every name, in the outputs folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Before:
    """A plan against what was there before it."""

    cached: tuple[Trial, ...]
    """Runs that a sweep of this folder has paid for."""
    changes: tuple[str, ...]
    """Keys of the budget that differ from the last plan of this name, `key: old -> new`."""
    consequences: tuple[str, ...]
    """What they changed in the plan."""

    @property
    def cached_flops(self) -> float:
        """Compute that will not be charged again, FLOPs."""
        return sum(trial.cost_flops for trial in self.cached)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for `sweep plan --json`."""
        return {
            "cached": [trial.trial_id for trial in self.cached],
            "cached_flops": self.cached_flops,
            "changed_keys": list(self.changes),
            "changed": list(self.consequences),
        }


def cached(outputs: Path, plan: Plan) -> tuple[Trial, ...]:
    """Trials of a plan that any sweep of an outputs folder has paid for."""
    known = [trial for trial in plan.trials if trial.config.data_digest]
    return tuple(trial for trial in known if paid_for(outputs, trial.trial_id))


def compare(outputs: Path, budget: Budget, plan: Plan) -> Before:
    """A plan against the results in the outputs folder and against its last version.

    Args:
        outputs: folder of all sweeps.
        budget: what the plan was made from.
        plan: the plan.
    """
    found = cached(outputs, plan)
    path = outputs / PLANS / f"{budget.name}.json"
    if not path.exists():
        return Before(cached=found, changes=(), consequences=())
    last = json.loads(path.read_text())
    now = _record(budget, plan)
    changes = changed_keys(last["science"], now["science"])
    lines = []
    for key, what in (
        ("trials", "trials"),
        ("planned_flops", "planned FLOPs"),
        ("estimated_s", "seconds"),
        ("price", "price"),
    ):
        old, new = last[key], now[key]
        if old != new:
            lines.append(f"{what}: {_number(key, old)} -> {_number(key, new)}")
    kept = set(last["points"]) & set(now["points"])
    if last["points"] != now["points"]:
        lines.append(f"{len(kept)} of the {len(last['points'])} runs planned before are kept")
    return Before(cached=found, changes=tuple(changes), consequences=tuple(lines))


def keep(outputs: Path, budget: Budget, plan: Plan) -> None:
    """Keep a plan for the comparison with the next one of its name."""
    path = outputs / PLANS / f"{budget.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(_record(budget, plan), indent=1) + "\n")


def _record(budget: Budget, plan: Plan) -> dict[str, Any]:
    return {
        "schema": "sweep.last-plan/1",
        "science": budget.science(),
        "trials": len(plan.trials),
        "planned_flops": plan.cost_flops,
        "estimated_s": round(plan.estimated_s),
        "price": plan.price,
        "points": sorted(trial.trial_id for trial in plan.trials),
    }


def _number(key: str, value: float | None) -> str:
    if value is None:
        return "none"
    return format_flops(value) if key == "planned_flops" else f"{value:.4g}"
