"""A budget as a quotation: its files read, its corpus counted, its plan against what was before."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.budget import Budget
from orchestrator.data import facts_of
from orchestrator.design_section import AdaptiveDesign, IsoflopDesign
from orchestrator.errors import BadInput
from orchestrator.hardware import detect, hardware_for
from orchestrator.model_sizes import with_model_sizes
from orchestrator.opening import tuning_flops
from orchestrator.plan import Plan, make_plan, settle
from orchestrator.plan_record import Before, compare
from orchestrator.recipe_file import with_files
from orchestrator.trial import Hardware
from trainer.data.facts import DataFacts

_REHEARSALS, _NOISE_SD = 3, 0.005


@dataclass(frozen=True, kw_only=True, slots=True)
class Quotation:
    """What a budget would be spent on; nothing is trained for it."""

    budget: Budget
    """The budget with its files read."""
    facts: DataFacts
    """Counts of its data."""
    hardware: Hardware
    """What its trials would run on."""
    plan: Plan
    """Every trial, as if nothing had been trained."""
    before: Before
    """What of it is paid for, and what changed since the last plan."""

    @property
    def due(self) -> Plan:
        """The plan with duration, price and warnings of what nobody has paid for yet."""
        return settle(self.plan, [trial.trial_id for trial in self.before.cached])

    def to_dict(self) -> dict[str, Any]:
        """As `sweep plan --json` prints it, schema `sweep.plan/1`."""
        return {**self.due.to_dict(), **self.before.to_dict(), "expected": None}

    def expected(self) -> dict[str, Any]:
        """The interval that it is expected to buy, as it is and with the adaptive design."""
        found, design = self._rehearsed(self.budget), self.budget.design
        if isinstance(design, IsoflopDesign) and isinstance(design.levels, int):
            # No more levels than the budget was laid out for: it may not pay for cheaper ones.
            few = min(design.levels, AdaptiveDesign(kind="adaptive").levels)
            other = AdaptiveDesign(
                kind="adaptive", levels=few, tokens_per_parameter=design.tokens_per_parameter
            )
            # A budget may pay for levels and yet not for batches after them.
            with contextlib.suppress(BadInput):
                rehearsed = self._rehearsed(self.budget.model_copy(update={"design": other}))
                return {**found, "adaptive": {**rehearsed, "levels": few}}
        return {**found, "adaptive": None}

    def _rehearsed(self, budget: Budget) -> dict[str, Any]:
        from orchestrator.simulate import simulate

        found = simulate(
            budget,
            self.facts,
            self.hardware,
            law="chinchilla",
            noise_sd=_NOISE_SD,
            replicates=_REHEARSALS,
        ).to_dict()
        kept = ("fold_95", "status", "trials", "replicates")
        return {**{name: found[name] for name in kept}, "noise_sd": _NOISE_SD}


def quote(budget: Budget, base: Path, outputs: Path) -> Quotation:
    """Quote a budget on this machine.

    Args:
        budget: what was asked for.
        base: folder that its relative paths are taken from.
        outputs: folder of all sweeps.

    Raises:
        BadInput: when a file is wrong, or the budget cannot pay for a plan with an answer.
    """
    budget = with_files(budget, base)
    facts = facts_of(budget, base, outputs)
    budget = with_model_sizes(budget, base, facts.vocab_size)
    hardware = hardware_for(budget, outputs, detect())
    plan = make_plan(budget, facts, hardware, tuning_flops=tuning_flops(outputs / budget.name))
    return Quotation(
        budget=budget,
        facts=facts,
        hardware=hardware,
        plan=plan,
        before=compare(outputs, budget, plan),
    )
