"""The budget in FLOPs: hours are converted by what the plan that they pay for takes here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.budget import Budget
from orchestrator.design_section import AdaptiveDesign, IsoflopDesign
from orchestrator.designs.isoflop import level_flops
from orchestrator.lattice import lattice
from orchestrator.rounds import Level, plan_levels
from orchestrator.timetable import device_s, duration_s
from orchestrator.trial import Hardware, Notes
from trainer.flops import training_flops_per_token

if TYPE_CHECKING:
    from trainer.data.facts import DataFacts

_RATE_CORRECTIONS = 6
"""Rounds of turning hours into FLOPs by the plan that they pay for; the rate settles in three."""


def ceiling_of(budget: Budget, facts: DataFacts, hardware: Hardware) -> float:
    """The budget in FLOPs; time is converted by what the plan that it pays for takes here."""
    spending = budget.budget
    if spending.flops is not None:
        return spending.flops
    if spending.wall_clock is not None:
        seconds = spending.wall_clock * (1 - spending.reserve)
    else:
        seconds = (spending.gpu_hours or spending.cpu_hours or 0.0) * 3600

    def time_of(levels: Sequence[Level]) -> float:
        if spending.wall_clock is not None:
            return duration_s(levels, hardware.slots)
        return device_s(levels)

    def planned(ceiling: float) -> tuple[Level, ...]:
        return plan_levels(budget, facts, hardware, (), ceiling, Notes())

    if not isinstance(budget.design, IsoflopDesign):
        # The mix of sizes, and so the rate, hardly moves with the money: a few corrections do.
        ceiling = seconds * hardware.throughput.flops_per_s
        for _ in range(_RATE_CORRECTIONS):
            levels = planned(ceiling)
            cost = sum(trial.cost_flops for level in levels for trial in level.trials)
            if not cost:
                return ceiling
            ceiling = seconds * cost / time_of(levels)
        return ceiling

    # A plan's time grows with its compute up to the largest shape of the lattice; bisect in ln C.
    low, high = 1e6, largest_ceiling(budget, facts)
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if time_of(planned(middle)) <= seconds else (low, middle)
    return low


def largest_ceiling(budget: Budget, facts: DataFacts) -> float:
    """The budget whose top level is centred on the largest shape there is."""
    design = budget.design
    assert isinstance(design, IsoflopDesign | AdaptiveDesign)
    params, shape = lattice(budget.model, facts.vocab_size)[-1]
    top = params * design.tokens_per_parameter * training_flops_per_token(shape).total
    if isinstance(design, AdaptiveDesign):
        return top / design.dearest
    spendable = 1 - budget.budget.reserve
    return top / level_flops(design, spendable, len(budget.training.seeds))[-1]
