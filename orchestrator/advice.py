"""What the next trial of a sweep would buy: the best points and the interval they would leave."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from analysis.answer import fit_table
from analysis.cost import SIX_N
from analysis.doe import choose_runs, make_design
from analysis.laws import FloatArray
from analysis.quantiles import student_quantile
from analysis.report import NextRun
from analysis.table import read_rows
from orchestrator.budget import Budget
from orchestrator.collect import progress
from orchestrator.design_section import AdaptiveDesign
from orchestrator.designs.adaptive import OVERHEAD, Adaptive, Belief
from orchestrator.errors import Fault, StateRefused
from orchestrator.outcome import RESAMPLES, loss_frame
from orchestrator.rounds import ground_of
from orchestrator.state import SweepState
from orchestrator.trial import Hardware, duration_near
from trainer.data.facts import DataFacts

SCHEMA = "sweep.next/1"
_NO_PRIOR = 1e3
"""Prior sd of each parameter that leaves the runs alone to speak."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """One run worth making."""

    params: int
    """N, matmul parameters."""
    tokens: int
    """D."""
    flops: float
    """What it would charge, FLOPs."""
    hours: float | None
    """Expected hours of one slot; None where no hardware was named."""
    sd_before: float
    """Expected sd of ln(D/N) at the target before it, by the law that answers."""
    sd_after: float
    """After it, the earlier ones of the list done too."""
    fold_before: float
    """95 % range of D/N at the target before it, high over low: at first the fit's own."""
    fold_after: float
    """After it: expected where neither the noise nor the law that answers turns out otherwise."""

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
            "fold_95_before": self.fold_before,
            "fold_95_after": self.fold_after,
            "gain_per_flop": self.gain_per_flop,
        }


def next_runs(
    state: SweepState,
    budget: Budget,
    facts: DataFacts,
    hardware: Hardware | None = None,
    *,
    count: int = 5,
) -> tuple[Advice, ...]:
    """The runs that are expected to shrink the interval most per FLOP, best first.

    Args:
        state: the sweep so far, whatever its design.
        budget: its budget.
        facts: counts of its data.
        hardware: what its trials run on; without it no hours are said.
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
    done = (
        np.array([m.params for m in known.measurements], dtype=np.float64),
        np.array([m.tokens for m in known.measurements], dtype=np.float64),
    )
    # Chosen as the batches of an extended sweep are, then judged by the law that answers.
    picks = choose_runs(
        design.problems(belief, known, runs),
        done,
        (runs.N, runs.D),
        count=count,
        weights=[law.weight for law in belief.laws],
        costs=runs.price,
        overhead=OVERHEAD * design.dearest,
    )
    answer = _Answer(state, belief, done, design.target)
    chosen = [pick.index for pick in picks]
    sds, folds = [], []
    for number in range(len(chosen) + 1):
        taken = chosen[:number]
        sds.append(answer.sd(runs.N[taken], runs.D[taken]))
        folds.append(answer.fold(sds[-1], len(done[0]) + number))
    return tuple(
        Advice(
            params=round(float(runs.N[index])),
            tokens=round(float(runs.D[index])),
            flops=float(runs.price[index]),
            hours=duration_near(
                budget, facts, hardware, params=float(runs.N[index]), tokens=float(runs.D[index])
            )
            / 3600
            if hardware
            else None,
            sd_before=sds[number],
            sd_after=sds[number + 1],
            fold_before=folds[number],
            fold_after=folds[number + 1],
        )
        for number, index in enumerate(chosen)
    )


def worth_making(state: SweepState, budget: Budget) -> tuple[NextRun, ...]:
    """The three best next runs as a report names them, from the journal alone.

    None for models of other code, whose sizes are not here, for journals that lack a count of the
    data, and where the finished runs are too few for a belief: the rules say what to add.
    """
    data = (state.opened or {})["data"]
    counts = {field.name for field in fields(DataFacts)} - {"exact"}
    if not budget.model.is_preset or not counts <= set(data):
        return ()
    facts = DataFacts(exact=True, **{name: data[name] for name in counts})
    try:
        found = next_runs(state, budget, facts, count=3)
    except (StateRefused, ValueError, ArithmeticError):
        return ()
    return tuple(
        NextRun(
            params=run.params,
            tokens=run.tokens,
            flops=run.flops,
            fold_before=run.fold_before,
            fold_after=run.fold_after,
        )
        for run in found
    )


class _Answer:
    """The fit's own interval, and what further runs would leave of it.

    Its half-width is a Student quantile times a standard deviation, beside which the spread
    between laws may stand. Runs shrink the first; the second is taken to stay.
    """

    def __init__(
        self,
        state: SweepState,
        belief: Belief,
        done: tuple[FloatArray, FloatArray],
        target_flops: float,
    ) -> None:
        report = fit_table(
            read_rows(loss_frame(state)),
            target_flops=target_flops,
            resamples=RESAMPLES,
            detail=False,
        )
        fit = report.fits.get(report.headline_law or "") or report.fits.get("chinchilla")
        prior = None if fit is None else [_NO_PRIOR] * fit.form.n_params
        law = belief.laws[0]
        self._done = done
        self._design = make_design(
            law.surface if fit is None else fit.surface,
            target_flops=target_flops,
            N=done[0],
            D=done[1],
            noise_sd=law.noise_sd if fit is None else fit.noise_sd,
            cost=report.cost or SIX_N,
            form=law.form if fit is None else fit.form,
            prior_sd=prior,
        )
        self._before = self.sd(done[0][:0], done[1][:0])
        self._half = self._form = 0.0
        if report.optimum:
            low, high = report.optimum[0].intervals["0.95"]
            self._half = 0.5 * math.log(high / low)
            own = self._quantile(len(done[0])) * self._before
            if "form" in report.optimum[0].interval.method:
                self._form = math.sqrt(max(self._half**2 - own**2, 0.0))

    def sd(self, N: FloatArray, D: FloatArray) -> float:
        """Expected sd of ln(D/N) at the target after further runs."""
        return self._design.sd_ln_ratio(
            np.concatenate([self._done[0], N]), np.concatenate([self._done[1], D])
        )

    def fold(self, sd: float, runs: int) -> float:
        """Expected 95 % range after so many runs in all; from the sd alone where none is known."""
        if not self._half:
            return math.exp(min(2 * self._quantile(runs) * sd, 99.0))
        shrunk = self._quantile(runs) * sd / (self._quantile(len(self._done[0])) * self._before)
        own = math.sqrt(self._half**2 - self._form**2) * shrunk
        return math.exp(min(2 * math.hypot(own, self._form), 99.0))

    def _quantile(self, runs: int) -> float:
        return student_quantile(0.975, max(1, runs - self._design.form.n_params))
