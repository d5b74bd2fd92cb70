"""What the next trial of a sweep would buy: the best points and the interval they would leave."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.doe import Pick, choose_runs
from analysis.laws import CHINCHILLA
from orchestrator.budget import Budget
from orchestrator.collect import progress
from orchestrator.design_section import AdaptiveDesign
from orchestrator.designs.adaptive import OVERHEAD, Adaptive, Candidates
from orchestrator.errors import Fault, StateRefused
from orchestrator.rounds import ground_of
from orchestrator.state import SweepState
from orchestrator.trial import Hardware
from trainer.data.facts import DataFacts

SCHEMA = "sweep.next/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """One run worth making."""

    params: int
    """N, matmul parameters."""
    tokens: int
    """D."""
    flops: float
    """What it would charge, FLOPs."""
    hours: float
    """Expected hours of one slot."""
    sd_before: float
    """Expected sd of ln(D/N) at the target before it."""
    sd_after: float
    """After it, the earlier ones of the list done too."""

    @property
    def gain_per_flop(self) -> float:
        """-ln(1 - share of the variance it removes), per FLOP."""
        return 2 * math.log(self.sd_before / self.sd_after) / self.flops

    def to_dict(self) -> dict[str, Any]:
        """As `sweep next --json` prints it; widths are 95 % ranges, high over low."""
        return {
            "params": self.params,
            "tokens": self.tokens,
            "tokens_per_parameter": self.tokens / self.params,
            "flops": self.flops,
            "hours": self.hours,
            "sd_ln_ratio_before": self.sd_before,
            "sd_ln_ratio_after": self.sd_after,
            "fold_95_before": _fold(self.sd_before),
            "fold_95_after": _fold(self.sd_after),
            "gain_per_flop": self.gain_per_flop,
        }


def next_runs(
    state: SweepState, budget: Budget, facts: DataFacts, hardware: Hardware, *, count: int = 5
) -> tuple[Advice, ...]:
    """The runs that are expected to shrink the interval most per FLOP, best first.

    Args:
        state: the sweep so far, whatever its design.
        budget: its budget.
        facts: counts of its data.
        hardware: what its trials run on.
        count: number of runs.

    Raises:
        StateRefused: when no trial is finished yet.
    """
    assert state.opened is not None
    known = progress(state, settled=len(state.levels))
    if not known.measurements:
        raise StateRefused(
            Fault(
                code="SWP-5010",
                rule="`sweep next` looks at finished trials, and this sweep has none",
                place=str(state.opened["name"]),
                remedy="run it first; `sweep plan` shows what it begins with",
            )
        )
    ceiling = state.opened["budget_flops"]
    design = Adaptive(
        AdaptiveDesign(kind="adaptive"), ground_of(budget, facts, budget_flops=ceiling)
    )
    design.target = state.opened["target_flops"]
    design.dearest = max(trial.cost_flops for trial in state.trials.values())
    belief = design.belief(known)
    runs = design.candidates(design.ratio(belief, known), known)
    problem = design.problems(belief, known, runs, form=CHINCHILLA)[0]
    done = (
        np.array([m.params for m in known.measurements], dtype=np.float64),
        np.array([m.tokens for m in known.measurements], dtype=np.float64),
    )
    picks = choose_runs(
        problem,
        done,
        (runs.N, runs.D),
        count=count,
        costs=runs.price,
        overhead=OVERHEAD * design.dearest,
    )
    advice, before = [], problem.sd_ln_ratio(*done)
    for pick in picks:
        advice.append(_advice(runs, pick, before, hardware))
        before = pick.sd_after
    return tuple(advice)


def _advice(runs: Candidates, pick: Pick, before: float, hardware: Hardware) -> Advice:
    flops = float(runs.price[pick.index])
    return Advice(
        params=round(float(runs.N[pick.index])),
        tokens=round(float(runs.D[pick.index])),
        flops=flops,
        hours=flops / hardware.throughput.flops_per_s / 3600,
        sd_before=before,
        sd_after=pick.sd_after,
    )


def _fold(sd: float) -> float:
    return math.exp(min(2 * 1.96 * sd, 99.0))
