"""Budget + table so far -> Plan: every trial with its size, tokens, rules, price and memory.

Pure: the same budget, data facts, throughput and measurements give the same plan, so that the
plan can be printed before anything runs and rebuilt after a crash.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.advisories import overrun, refuse_apart, refuse_hopeless, refuse_narrow, warn
from orchestrator.budget import Budget
from orchestrator.ceiling import ceiling_of
from orchestrator.designs.base import Measurement
from orchestrator.idle_slots import idle_line
from orchestrator.rounds import Level, plan_levels
from orchestrator.timetable import device_s, duration_s
from orchestrator.trial import Hardware, Notes, Trial, trial_record
from orchestrator.verifying import added_flops
from trainer.footprint import CHECKPOINTS_KEPT, checkpoint_bytes

if TYPE_CHECKING:
    from trainer.data.facts import DataFacts


RECORD_BYTES = 5e5
"""Disk that one trial takes beside its checkpoints: curves, samples, and its run in MLflow."""
SHARE = 0.25
"""Share of the budget that the design leaves to the run of the predicted optimum."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything a budget will be spent on."""

    name: str
    """Name of the sweep."""
    budget_flops: float
    """Compute that may be charged, FLOPs."""
    target_flops: float
    """Compute of the run that the answer is for, FLOPs."""
    levels: tuple[Level, ...]
    """Levels, cheapest first."""
    slots: int
    """Trials at a time."""
    estimated_s: float
    """Expected duration of the sweep, seconds."""
    device_hours: float
    """Expected GPU-hours (core-hours on CPUs)."""
    price: float | None
    """Expected price, when the budget names one."""
    data_exact: bool
    """Whether the data's counts are exact (prepared or byte data) or estimated."""
    disk_bytes: float = 0.0
    """Disk that the sweep takes: checkpoints, trunks, token files, records; about."""
    tuning_flops: float = 0.0
    """What the search for its recipe has charged of the budget, FLOPs."""
    aside_flops: float = 0.0
    """What the design may not plan with: the check of the recipe, and the run that validates."""
    warnings: tuple[str, ...] = ()
    """What a person should know before saying yes."""
    idle: str = ""
    """Of the warnings the one about slots that stand idle; empty where there is none."""
    paid: frozenset[str] = frozenset()
    """Trials that an earlier sweep has paid for, by id: they are not trained again."""

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials, level by level."""
        return tuple(trial for level in self.levels for trial in level.trials)

    @property
    def cost_flops(self) -> float:
        """Compute of all trials with their evaluation, FLOPs."""
        return sum(trial.cost_flops for trial in self.trials)

    @property
    def due_flops(self) -> float:
        """Compute of the trials that nobody has paid for yet, FLOPs."""
        return sum(trial.cost_flops for trial in self.trials if trial.trial_id not in self.paid)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, schema `sweep.plan/1`."""
        return {
            "schema": "sweep.plan/1",
            "name": self.name,
            "budget_flops": self.budget_flops,
            "planned_flops": self.cost_flops,
            "tuning_flops": self.tuning_flops,
            "aside_flops": self.aside_flops,
            "target_flops": self.target_flops,
            "slots": self.slots,
            "estimated_s": self.estimated_s,
            "device_hours": self.device_hours,
            "price": self.price,
            "data_exact": self.data_exact,
            "disk_bytes": self.disk_bytes,
            "warnings": list(self.warnings),
            "levels": [
                {
                    "level": level.level,
                    "flops": level.flops,
                    "centre": dataclasses.asdict(level.centre),
                    "provisional": level.provisional,
                    **({} if level.even else {"even": False}),
                    "trials": [trial_record(trial) for trial in level.trials],
                }
                for level in self.levels
            ],
        }


def make_plan(
    budget: Budget,
    facts: DataFacts,
    hardware: Hardware,
    *,
    measurements: Sequence[Measurement] = (),
    budget_flops: float | None = None,
    tuning_flops: float = 0.0,
    aside_flops: float | None = None,
) -> Plan:
    """Plan the whole sweep as far as it can be known now.

    Args:
        budget: what was asked for.
        facts: counts of the data.
        hardware: what trials run on.
        measurements: finished trials; levels up to the highest of them keep the centre they had.
        budget_flops: the ceiling fixed when the sweep began; None: derived from the budget.
        tuning_flops: what the search for a recipe has charged of it already.
        aside_flops: what was set aside when the sweep began; None: by the budget.

    Raises:
        BadInput: when the budget cannot pay for a plan that could have an answer.
    """
    ceiling = budget_flops if budget_flops is not None else ceiling_of(budget, facts, hardware)
    notes = Notes()
    spendable = ceiling - tuning_flops
    levels = plan_levels(budget, facts, hardware, measurements, spendable, notes)
    aside = aside_flops if aside_flops is not None else _aside(budget, levels, ceiling)
    if aside:
        notes, spendable = Notes(), spendable - aside
        levels = plan_levels(budget, facts, hardware, measurements, spendable, notes)
    refuse_hopeless(budget, facts, hardware, spendable, levels)
    refuse_narrow(budget, facts, notes)
    if not measurements:  # before any training, never in the middle of a sweep
        refuse_apart(budget, levels)
    warn(budget, facts, levels, spendable, notes)
    idle = idle_line(budget, facts, hardware, levels, spendable)
    if idle:
        notes.add(idle)
    hours = device_s(levels) / 3600
    price = budget.budget.price_per_hour
    return Plan(
        name=budget.name,
        budget_flops=ceiling,
        target_flops=budget.target.flops or 10 * max(level.flops for level in levels),
        levels=levels,
        slots=hardware.slots,
        estimated_s=duration_s(levels, hardware.slots),
        device_hours=hours,
        price=None if price is None else price * hours,
        data_exact=facts.exact,
        disk_bytes=_disk_bytes(levels, facts),
        tuning_flops=tuning_flops,
        aside_flops=aside,
        warnings=tuple(notes.lines),
        idle=idle,
    )


def settle(plan: Plan, paid: Collection[str]) -> Plan:
    """A plan some of whose trials are paid for: duration, price and warnings are of the rest.

    Args:
        plan: the plan as if nothing had been trained.
        paid: ids of its trials that have a result.
    """
    known = frozenset(paid)
    if not known:
        return plan
    levels = [
        dataclasses.replace(level, trials=tuple(t for t in level.trials if t.trial_id not in known))
        for level in plan.levels
    ]
    hours = device_s(levels) / 3600
    spendable = plan.budget_flops - plan.tuning_flops - plan.aside_flops
    before = overrun(plan.cost_flops, spendable)
    settled = dataclasses.replace(
        plan,
        paid=known,
        estimated_s=duration_s(levels, plan.slots),
        device_hours=hours,
        price=None if plan.price is None else plan.price / plan.device_hours * hours,
    )
    now = overrun(settled.due_flops, spendable)
    warnings = [now if line == before else line for line in plan.warnings]
    # Other sizes would give up the runs that are paid for: no advice about idle slots then.
    kept = tuple(line for line in warnings if line and line != plan.idle)
    return dataclasses.replace(settled, warnings=kept, idle="")


def _disk_bytes(levels: Sequence[Level], facts: DataFacts) -> float:
    """Two checkpoints and the records of every trial, the trunks of `wsd`, and the token files."""
    trials = [trial for level in levels for trial in level.trials]
    checkpoints = sum(
        (CHECKPOINTS_KEPT + (trial.config.schedule.name == "wsd"))
        * checkpoint_bytes(trial.config.shape)
        for trial in trials
    )
    bytes_per_id = 2 if facts.vocab_size <= 1 << 16 else 4
    tokens = facts.train_tokens + facts.validation_tokens
    return checkpoints + RECORD_BYTES * len(trials) + bytes_per_id * tokens


def _aside(budget: Budget, levels: Sequence[Level], ceiling: float) -> float:
    """What the check of the recipe and the run of the predicted optimum need, FLOPs."""
    share = SHARE * ceiling if budget.target.validate else 0.0
    return share + added_flops(levels, budget.recipe.verify)
