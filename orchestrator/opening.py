"""The first event of a sweep's journal, and the check that a later run means the same sweep."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.budget import Budget, changed_keys, filled, parse_budget
from orchestrator.errors import Fault, StateRefused
from orchestrator.journal import JOURNAL, Journal, is_held, read_state, write_atomic
from orchestrator.setting import Setting
from orchestrator.state import EventKind

TUNING_FOLDER = "tuning"
"""Folder of the search for a recipe, in its sweep's folder."""


def tuning_flops(sweep_dir: Path) -> float:
    """Compute that the search in a sweep's folder has charged; 0 without one."""
    folder = sweep_dir / TUNING_FOLDER
    return read_state(folder).charged_flops if (folder / JOURNAL).exists() else 0.0


def open_sweep(setting: Setting, journal: Journal) -> None:
    """Begin a sweep, or check that this is the sweep that was begun.

    Raises:
        StateRefused: when the budget or the tokens are not those that it began with, or the search
            for its recipe is under way.
    """
    opened = journal.state.opened
    budget, data = setting.budget, setting.data
    if opened is None:
        _refuse_while_tuning(setting.sweep_dir)
        write_atomic(setting.sweep_dir / "budget.yaml", setting.budget_text)
        write_atomic(
            setting.sweep_dir / "plan.json", json.dumps(setting.plan.to_dict(), indent=2) + "\n"
        )
        journal.append(
            EventKind.SWEEP_OPENED,
            sweep_id=uuid.uuid4().hex,
            name=budget.name,
            base=str(setting.base),
            budget_flops=setting.plan.budget_flops,
            target_flops=setting.plan.target_flops,
            budget_digest=budget.digest,
            science=budget.science(),
            data=data.record,
            aside_flops=setting.plan.aside_flops,
            precision=setting.hardware.precision,
            precision_seconds=dict(setting.precision_seconds),
            **({"kernels": list(setting.kernels)} if setting.kernels else {}),
            **({"tuning_flops": spent} if (spent := tuning_flops(setting.sweep_dir)) else {}),
        )
        return
    if changes := _changes(opened, setting.sweep_dir, budget):
        raise StateRefused(
            Fault(
                code="SWP-5004",
                rule="a sweep goes on with the budget it began with; changed: "
                + "; ".join(changes),
                place=str(setting.sweep_dir),
                remedy="give the new budget another `name` (finished trials are taken over), or "
                f"go on with the kept one: sweep resume {budget.name}",
            )
        )
    if opened["data"]["digest"] != data.record["digest"]:
        raise StateRefused(
            Fault(
                code="SWP-5005",
                rule="a sweep goes on with the tokens it began with; the corpus, the tokenizer or "
                f"the split gave {opened['data']['digest'][:12]}, now {data.record['digest'][:12]}",
                place=data.record["source"],
                remedy="restore the files, or give the budget another `name`",
            )
        )


def _refuse_while_tuning(sweep_dir: Path) -> None:
    """What a search charges is part of the sweep's budget, and known only when it is over."""
    folder = sweep_dir / TUNING_FOLDER
    if folder.is_dir() and is_held(folder):
        raise StateRefused(
            Fault(
                code="SWP-5013",
                rule="a sweep begins when the search for its recipe is over; the search is running",
                place=str(folder),
                remedy=f"wait for it (`sweep status {sweep_dir.name} --watch`), or end it with "
                f"`sweep stop {sweep_dir.name}`",
            )
        )


def _changes(opened: Mapping[str, Any], sweep_dir: Path, budget: Budget) -> list[str]:
    """What a budget says otherwise than the one that a sweep began with.

    A release may add keys: the record of an older sweep lacks them, and then they mean what the
    kept file, read today, says of them.
    """
    if opened["budget_digest"] == budget.digest:
        return []
    kept = parse_budget((sweep_dir / "budget.yaml").read_text(), file="budget.yaml")
    return changed_keys(filled(opened["science"], kept.science()), budget.science())
