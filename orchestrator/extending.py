"""`sweep extend`: more money for a sweep that is finished or spent; everything it has stays.

The amount is in the unit of the budget. Its plan goes on where it ended; a design that has nothing
more to ask for is followed by batches that sharpen the answer most per FLOP.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.budget import Budget
from orchestrator.errors import BadInput, Fault
from orchestrator.journal import Journal
from orchestrator.state import EventKind
from orchestrator.units import parse_flops, parse_seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Extension:
    """What was added."""

    added_flops: float
    """Compute added, FLOPs."""
    budget_flops: float
    """The new ceiling, FLOPs."""


def extend(sweep_dir: Path, budget: Budget, amount: str) -> Extension:
    """Raise a sweep's ceiling, durably; what it pays for is trained by the next run.

    Args:
        sweep_dir: the sweep.
        budget: what it began with.
        amount: `+1e13` in the unit of the budget: FLOPs, GPU-hours or core-hours, or a duration
            such as `+2h` where it is `gpus` and `wall_clock`.

    Raises:
        BadInput: when it is no amount of that unit.
        StateRefused: while the sweep is running.
    """
    with Journal(sweep_dir) as journal:
        assert journal.state.opened is not None
        opened = journal.state.opened
        # The first amount and what it was converted to give the rate of every later one.
        first = opened.get("first_budget_flops", opened["budget_flops"])
        added = first * _share(budget, amount)
        journal.append(
            EventKind.BUDGET_EXTENDED,
            budget_flops=opened["budget_flops"] + added,
            first_budget_flops=first,
            added=amount,
        )
        return Extension(added_flops=added, budget_flops=opened["budget_flops"] + added)


def _share(budget: Budget, amount: str) -> float:
    """An amount as a share of the budget's own."""
    spending, text = budget.budget, amount.strip().removeprefix("+").strip()
    try:
        if spending.flops is not None:
            value, own = parse_flops(text), spending.flops
        elif spending.wall_clock is not None:
            value, own = parse_seconds(text), spending.wall_clock
        else:
            value = float(text.removesuffix("h").strip())
            own = spending.gpu_hours or spending.cpu_hours or 0.0
        if not 0 < value < float("inf"):
            raise ValueError(f"must be more than nothing, got {value:g}")
    except ValueError as error:
        raise BadInput(
            Fault(
                code="SWP-1353",
                rule=f"a sweep is extended by an amount in the unit of its budget: {error}",
                place=f"--budget {amount}",
                remedy="for example --budget +1e13 for FLOPs, +2 for hours, +2h for wall-clock",
            )
        ) from None
    return value / own
