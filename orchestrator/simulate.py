"""A sweep rehearsed against a known law: how wrong, how sure and how honest its answer would be.

The planner, the service's loop, the journal and the fit are the real ones; only the trainer is
replaced. Each replicate is a sweep of its own in a temporary folder.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from analysis.cost import read_cost
from analysis.laws import Surface
from orchestrator.budget import Budget
from orchestrator.data import PreparedData
from orchestrator.designs.adaptive import prior_law
from orchestrator.display import SilentDisplay
from orchestrator.errors import BadInput, Fault
from orchestrator.executors.synthetic import SyntheticExecutor, Truth
from orchestrator.hardware import Machine
from orchestrator.lattice import size_ladder
from orchestrator.outcome import Answer, loss_frame
from orchestrator.plan import Plan, make_plan
from orchestrator.service import Outcome, run_sweep
from orchestrator.setting import Setting
from orchestrator.state import SweepState
from orchestrator.trial import Hardware
from trainer.data.facts import DataFacts
from trainer.flops import training_flops_per_token

SCHEMA = "sweep.simulate/1"
_KEYS = ("E", "A", "B", "alpha", "beta", "k")
_NEARBY = 10.0
"""Sizes within this factor of the optimum tell what it costs."""
_SKALING_K = 0.5
"""Outer exponent of the `skaling` law: refitted to 404 published runs it was 0.48 (Videau et al.
2026, arXiv 2608.07222, report 0.31 to 0.45 on the same kind of data)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Replicate:
    """What one simulated sweep said."""

    status: str
    """`identified`, `weak` or `not_identified`."""
    ln_ratio: float | None
    """ln(D/N) at the target; None when it was refused."""
    low: float | None
    """Lower end of its 95 % interval, ln."""
    high: float | None
    """Upper end."""
    ln_truth: float
    """ln(D/N) of the law's optimum at the target, along the cost curve read off these runs."""
    trials: int
    """Trials that were run."""
    charged_flops: float
    """Compute that was charged."""
    method: str = ""
    """How the interval was made, in words."""
    failed: tuple[tuple[str, str], ...] = ()
    """Rule and words of every check that made the answer weak or refused it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulation:
    """What a design did against a known truth."""

    law: Surface
    """The truth."""
    target_flops: float
    """Compute at which the ratio is judged."""
    truth: float
    """D/N there, for the real cost of sizes around the optimum."""
    replicates: tuple[Replicate, ...]
    """Every simulated sweep."""

    def to_dict(self) -> dict[str, Any]:
        """The simulation as plain values, schema `sweep.simulate/1`."""
        answered = [r for r in self.replicates if r.ln_ratio is not None]
        errors = [float(r.ln_ratio or 0.0) - r.ln_truth for r in answered]
        ends = [(float(r.low or 0.0), float(r.high or 0.0)) for r in answered]
        inside = [low <= r.ln_truth <= high for r, (low, high) in zip(answered, ends, strict=True)]
        curves = [r.ln_truth - math.log(self.truth) for r in self.replicates]
        count = len(self.replicates)
        width = float(np.median([high - low for low, high in ends])) if ends else None
        sure = (
            binomtest(sum(inside), len(inside)).proportion_ci(method="wilson") if inside else None
        )
        return {
            "schema": SCHEMA,
            "law": {key: getattr(self.law, key) for key in _KEYS},
            "target_flops": self.target_flops,
            "tokens_per_parameter": self.truth,
            "replicates": count,
            "answered": len(answered),
            "trials": float(np.mean([r.trials for r in self.replicates])),
            "charged_flops": float(np.mean([r.charged_flops for r in self.replicates])),
            "bias_ln_ratio": float(np.mean(errors)) if errors else None,
            "sd_ln_ratio": float(np.std(errors, ddof=1)) if len(errors) > 1 else None,
            "coverage_95": float(np.mean(inside)) if inside else None,
            "cost_curve_bias_ln_ratio": float(np.mean(curves)),
            "coverage_95_interval": None if sure is None else [sure.low, sure.high],
            "width_95": width,
            "fold_95": None if width is None else math.exp(width),
            "status": {
                status: sum(r.status == status for r in self.replicates) / count
                for status in ("identified", "weak", "not_identified")
            },
            "reasons": [
                {"rule": rule, "share": share, "message": message}
                for rule, share, message in self.reasons()
            ],
        }

    def reasons(self) -> list[tuple[str, float, str]]:
        """Rules that made answers weak or refused them: share of the sweeps, words of the first."""
        words: dict[str, str] = {}
        for rule, message in (failure for r in self.replicates for failure in r.failed):
            words.setdefault(rule, message)
        met = Counter(rule for r in self.replicates for rule in {rule for rule, _ in r.failed})
        return [(rule, n / len(self.replicates), words[rule]) for rule, n in met.most_common()]


def simulate(
    budget: Budget,
    facts: DataFacts,
    hardware: Hardware,
    *,
    law: Surface | str,
    noise_sd: float = 0.005,
    replicates: int = 20,
    resamples: int = 200,
    seed: int = 0,
) -> Simulation:
    """Run a budget's sweep against a known law, several times.

    Args:
        budget: what would be spent.
        facts: counts of its data.
        hardware: what its trials would run on.
        law: the truth; `chinchilla` and `skaling` are laws with published exponents whose optimum
            at the dearest run of the plan is the budget's own `tokens_per_parameter`.
        noise_sd: sd of ln L of one run.
        replicates: number of simulated sweeps.
        resamples: bootstrap refits behind each interval.
        seed: of the noise.
    """
    plan = make_plan(budget, facts, hardware)
    truth = named_law(law, plan) if isinstance(law, str) else law
    found = []
    for number in range(replicates):
        world = Truth(law=truth, noise_sd=noise_sd, seed=seed + number)
        with tempfile.TemporaryDirectory(prefix="sweep-simulate-") as folder:
            outcome = simulated_sweep(
                budget, facts, hardware, plan, world, Path(folder), resamples=resamples
            )
        if outcome.fit is None:  # a signal stopped the simulated sweep as it would a real one
            raise KeyboardInterrupt
        found.append(_said(outcome.fit, outcome.state, truth, plan.target_flops))
    return Simulation(
        law=truth,
        target_flops=plan.target_flops,
        truth=true_ratio(truth, budget, facts, plan.target_flops),
        replicates=tuple(found),
    )


def true_ratio(law: Surface, budget: Budget, facts: DataFacts, target_flops: float) -> float:
    """D/N of a law's optimum at the target, for the real cost of the family's sizes around it."""
    middle = math.log(law.optimum(target_flops).params)
    near = [
        (float(params), training_flops_per_token(shape).total)
        for params, shape in size_ladder(budget.model, facts.vocab_size)
        if abs(math.log(params) - middle) <= math.log(_NEARBY)
    ]
    if len(near) < 2:
        return law.optimum(target_flops).tokens_per_parameter
    N, per_token = (np.array(column) for column in zip(*near, strict=True))
    cost = read_cost(N, np.ones_like(N), per_token)
    return law.optimum_along(target_flops, cost).tokens_per_parameter


def _ratio_along_runs(law: Surface, state: SweepState, target_flops: float) -> float:
    """D/N of a law's optimum at the target, along the cost curve that the fit reads off the runs.

    An interval speaks about the law; how well a few small models tell what a large one costs is
    another question, answered by `cost_curve_bias_ln_ratio`.
    """
    frame = loss_frame(state)
    N, D, C = (
        frame[name].to_numpy(dtype=np.float64) for name in ("params_matmul", "tokens", "flops")
    )
    return law.optimum_along(target_flops, read_cost(N, D, C)).tokens_per_parameter


def named_law(name: str, plan: Plan) -> Surface:
    """A law by name or by its numbers.

    Args:
        name: `chinchilla`, `skaling`, or `E=..,A=..,B=..,alpha=..,beta=..[,k=..]`.
        plan: where a named law has its optimum: at the first round's D/N for the dearest round.

    Raises:
        BadInput: when it is neither.
    """
    if name in ("chinchilla", "skaling"):
        flops = max(level.flops for level in plan.levels)
        ratio = plan.levels[0].centre.tokens_per_parameter
        return prior_law(flops, ratio, k=_SKALING_K if name == "skaling" else 1.0)
    try:
        parts = [part.partition("=") for part in name.replace(" ", "").split(",")]
        pairs = {key: value for key, _, value in parts}
        unknown = set(pairs) - set(_KEYS)
        missing = set(_KEYS[:5]) - set(pairs)
        if unknown or missing:
            raise ValueError(
                f"unknown: {', '.join(sorted(unknown)) or 'none'}, "
                f"missing: {', '.join(sorted(missing)) or 'none'}"
            )
        return Surface(**{key: float(value) for key, value in pairs.items()})
    except ValueError as error:
        raise BadInput(
            Fault(
                code="SWP-1320",
                rule=f"a law is `chinchilla`, `skaling` or its numbers: {error}",
                place=f"--law {name}",
                remedy='for example --law "E=1.82,A=482,B=2085,alpha=0.348,beta=0.366"',
            )
        ) from None


def simulated_sweep(
    budget: Budget,
    facts: DataFacts,
    hardware: Hardware,
    plan: Plan,
    world: Truth,
    folder: Path,
    *,
    resamples: int,
) -> Outcome:
    """One sweep of synthetic trials, through the real loop.

    Args:
        budget: what would be spent.
        facts: counts of its data.
        hardware: what its trials would run on.
        plan: the budget's plan.
        world: the truth and the noise.
        folder: where the sweep may write.
        resamples: bootstrap refits behind its interval.
    """
    record = {
        "digest": facts.digest or "",
        "train_tokens": facts.train_tokens,
        "bytes_per_token": facts.bytes_per_token,
        "source": "synthetic",
        "tokenizer": budget.data.tokenizer,
    }
    return run_sweep(
        Setting(
            budget=budget,
            budget_text="",
            base=folder,
            plan=plan,
            sweep_dir=folder / "outputs" / budget.name,
            outputs=folder / "outputs",
            data=PreparedData(folder=folder / "data", facts=facts, record=record),
            hardware=hardware,
            machine=Machine(cores=hardware.slots, gpus=()),
        ),
        make_executor=lambda: SyntheticExecutor(world),
        tracker=None,
        display=SilentDisplay(),
        answer=Answer(resamples=resamples, interim=False, report=False),
    )


def _said(
    fit: Mapping[str, Any], state: SweepState, law: Surface, target_flops: float
) -> Replicate:
    row = fit["optimum"][0] if fit["optimum"] else None
    low, high = row["intervals"]["0.95"] if row else (None, None)
    return Replicate(
        status=fit["status"],
        ln_ratio=math.log(row["tokens_per_parameter"]) if row else None,
        low=None if low is None else math.log(low),
        high=None if high is None else math.log(high),
        ln_truth=math.log(_ratio_along_runs(law, state, target_flops)),
        trials=state.counts["completed"],
        charged_flops=state.charged_flops,
        method="" if row is None else row["method"],
        failed=_failed(fit),
    )


def _failed(fit: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Rules that made a fit weak or refused it; the verdict's own words where no rule did."""
    failed = tuple(
        (check["rule"], check["message"])
        for check in fit["checks"]
        if not check["passed"] and check["severity"] != "note"
    )
    if failed or fit["status"] == "identified":
        return failed
    return (("verdict", fit["message"].partition(" Weak: ")[2] or fit["message"]),)
