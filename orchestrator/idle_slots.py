"""What a plan says of slots that would stand idle, and what would mend it, each mend computed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from orchestrator.budget import Budget
from orchestrator.design_section import IsoflopDesign
from orchestrator.rounds import Level, design_of, plan_levels
from orchestrator.timetable import duration_s, idle_share, slot_s
from orchestrator.trial import Hardware, Notes

if TYPE_CHECKING:
    from trainer.data.facts import DataFacts

MUCH = 0.10
"""Idle share above which a plan speaks of it."""
WORTH = 0.01
"""A mend is named where it lowers the idle share by this much."""
LONGER = 1.05
"""Slots are not missed where the sweep takes no more than this many times as long without them."""
ENOUGH_SIZES = 5
"""Sizes from which a parabola can be judged: fewer are no mend."""
MOST_SIZES = 50
"""Sizes that `design.sizes` takes."""
MOST_REPLANNED = 1000
"""Trials up to which other sizes are tried: they are planned whole, at the price of the plan."""


def idle_line(
    budget: Budget, facts: DataFacts, hardware: Hardware, levels: Sequence[Level], ceiling: float
) -> str:
    """How much of the slots would stand idle, why, and what would mend it; empty where little is.

    Args:
        budget: what was asked for.
        facts: counts of the data.
        hardware: what trials run on.
        levels: every round of its plan.
        ceiling: compute that the rounds may be planned with, FLOPs.
    """
    slots = hardware.slots
    share = idle_share(levels, slots)
    if slots < 2 or share <= MUCH:
        return ""
    found = [
        *_other_sizes(budget, facts, hardware, levels, ceiling),
        *_overlapping(budget, facts, levels, ceiling, slots),
        *_fewer_slots(levels, slots),
    ]
    mends = [f"{what} leaves {_percent(left)}" for what, left in found if left <= share - WORTH]
    return f"about {_percent(share)} of the time of {slots} slots is idle: " + ". ".join(
        filter(None, (_why(levels, slots), "; ".join(mends)))
    )


def _why(levels: Sequence[Level], slots: int) -> str:
    """What leaves most of it idle: how many trials a round has, or that one takes much longer."""
    alone = [dataclasses.replace(level, waits_for=0) for level in levels if level.trials]
    worst = max(alone, key=lambda one: slots * duration_s([one], slots) - slot_s([one]))
    runs, seconds = len(worst.trials), [trial.estimated_s for trial in worst.trials]
    kind = "a level" if worst.even else "a round"
    if len({trial.slots for trial in worst.trials}) > 1:
        return f"in {kind} some of {runs} trials take the GPUs of several others"
    if 1 - runs / (math.ceil(runs / slots) * slots) < idle_share([worst], slots) / 2:
        times = max(seconds) * runs / sum(seconds)
        return f"in {kind} of {runs} trials the longest takes {times:.2g} times their mean"
    waits = ", and the next waits for it" if levels[-1].waits_for == len(levels) - 1 > 0 else ""
    left = runs % slots
    if left == runs:
        return f"{kind} has {runs} trials{waits}"
    return f"{kind} of {runs} trials ends with {left} on the {slots}{waits}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _other_sizes(
    budget: Budget, facts: DataFacts, hardware: Hardware, levels: Sequence[Level], ceiling: float
) -> Iterator[tuple[str, float]]:
    """The nearest number of sizes that the slots divide, seeds counted, where it can be paid."""
    design, seeds = budget.design, len(budget.training.seeds)
    if not isinstance(design, IsoflopDesign) or _runs(levels) > MOST_REPLANNED:
        return
    step = hardware.slots // math.gcd(hardware.slots, seeds)
    fewer = design.sizes // step * step
    near = [n for n in (fewer, fewer + step) if ENOUGH_SIZES <= n <= MOST_SIZES]
    for sizes in sorted(near, key=lambda n: abs(n - design.sizes)):
        other = budget.model_copy(update={"design": design.model_copy(update={"sizes": sizes})})
        planned = plan_levels(other, facts, hardware, (), ceiling, Notes())
        whole = all(len(level.trials) == sizes * seeds for level in planned)
        if whole and sum(t.cost_flops for level in planned for t in level.trials) <= ceiling:
            yield f"design.sizes: {sizes}", idle_share(planned, hardware.slots)
            return


def _overlapping(
    budget: Budget, facts: DataFacts, levels: Sequence[Level], ceiling: float, slots: int
) -> Iterator[tuple[str, float]]:
    """The same levels, each beside the one below it."""
    design = budget.design
    if not isinstance(design, IsoflopDesign) or design.overlap:
        return
    other = budget.model_copy(update={"design": design.model_copy(update={"overlap": True})})
    waiting = design_of(other, facts, budget_flops=ceiling)
    beside = [
        dataclasses.replace(level, waits_for=level.level - 1 - waiting.expected_lag(level.level))
        for level in levels
    ]
    yield "design.overlap: true", idle_share(beside, slots)


def _fewer_slots(levels: Sequence[Level], slots: int) -> Iterator[tuple[str, float]]:
    """As few slots as the sweep takes no longer with, where every trial takes one."""
    if any(trial.slots > 1 for level in levels for trial in level.trials):
        return
    longest = LONGER * duration_s(levels, slots)
    # With fewer than this even slots that are never idle take longer.
    fewest = max(2, math.ceil(slot_s(levels) / longest))
    for few in range(fewest, min(fewest + 3, slots)):
        if duration_s(levels, few) <= longest:
            yield f"run.slots: {few}, in about the same time,", idle_share(levels, few)
            return


def _runs(levels: Sequence[Level]) -> int:
    return sum(len(level.trials) for level in levels)
