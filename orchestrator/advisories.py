"""What a plan cannot be, and what a person should know of it before saying yes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.numerals import spell
from orchestrator.budget import Budget
from orchestrator.ceiling import largest_ceiling
from orchestrator.design_section import AdaptiveDesign, GridDesign, IsoflopDesign
from orchestrator.designs.base import Point
from orchestrator.designs.fixed import LEAST_SPAN, narrow_span
from orchestrator.errors import BadInput, Fault
from orchestrator.rounds import Level, _known_points, plan_levels, share_trunks
from orchestrator.trial import FEW_STEPS, Hardware, Notes, Trial, flops_per_token_near
from orchestrator.units import format_count, format_flops
from trainer.shapes import Shape

if TYPE_CHECKING:
    from trainer.data.facts import DataFacts

MANY_EPOCHS = 4.0
"""More epochs than this and repeated tokens are worth visibly less than fresh ones (Muennighoff et
al. 2023, arXiv 2305.16264, section 6): a single-epoch law no longer describes the runs."""

MIN_SIZES = 3
"""A level of fewer sizes has no minimum to look for."""

MIN_TRIALS = 6
"""Fewer runs than this leave nothing over after a law of five parameters."""


def refuse_hopeless(
    budget: Budget, facts: DataFacts, hardware: Hardware, ceiling: float, levels: Sequence[Level]
) -> None:
    """A level without three sizes cannot show a minimum: say the least that would do."""
    if not isinstance(budget.design, IsoflopDesign | AdaptiveDesign):
        _refuse_few(budget, levels)
        return
    poor = next((level for level in levels if level.even and _sizes(level) < MIN_SIZES), None)
    if poor is None:
        return
    if isinstance(budget.design.levels, tuple):
        remedy = "raise design.levels"
    else:
        least = _least_ceiling(budget, facts, hardware, ceiling)
        remedy = f"raise the budget to about {format_flops(least)} FLOPs"
    raise BadInput(
        Fault(
            code="SWP-1201",
            rule=f"every level needs at least {MIN_SIZES} sizes of {budget.training.min_steps} "
            f"steps or more; level {poor.level} of {format_flops(poor.flops)} FLOPs has "
            f"{_sizes(poor)}",
            place="budget",
            remedy=f"{remedy}, or lower training.batch_tokens, model.context or "
            "training.min_steps, or use fewer levels",
        )
    )


def _refuse_few(budget: Budget, levels: Sequence[Level]) -> None:
    """Points that leave no law to fit."""
    trials = [trial for level in levels for trial in level.trials]
    sizes = len({trial.config.shape for trial in trials})
    if sizes >= MIN_SIZES and len(trials) >= MIN_TRIALS:
        return
    raise BadInput(
        Fault(
            code="SWP-1203",
            rule=f"a law needs at least {MIN_TRIALS} trials of {MIN_SIZES} sizes, of "
            f"{budget.training.min_steps} steps or more; the design has {len(trials)} of {sizes}",
            place="design",
            remedy="add points, or lower training.batch_tokens, model.context or "
            "training.min_steps",
        )
    )


def _refuse_collinear(points: Sequence[Point]) -> None:
    """At one D/N everywhere the law's two exponents cannot be told apart."""
    ratios = [point.tokens / point.params for point in points if point.tokens]
    if len(ratios) < MIN_TRIALS or max(ratios) > 1.05 * min(ratios):
        return
    raise BadInput(
        Fault(
            code="SWP-1209",
            rule=f"the runs of a design must differ in D/N; all {len(ratios)} have "
            f"{ratios[0]:.3g} tokens per parameter, so alpha and beta cannot be told apart",
            place="design",
            remedy="give each size several token counts",
        )
    )


def refuse_narrow(budget: Budget, facts: DataFacts, notes: Notes) -> None:
    """A grid of small span buys nearly nothing: say what it would know."""
    design = budget.design
    if isinstance(design, IsoflopDesign | AdaptiveDesign):
        return
    points = _known_points(budget, facts)
    _refuse_collinear(points)
    if not isinstance(design, GridDesign):
        return
    spans = narrow_span(points)
    if spans is None:
        return
    # Imported here: only a doubtful grid needs the law's Jacobian.
    from orchestrator.designs.preview import expected_sd

    per_token = [flops_per_token_near(budget, facts, point.params) for point in points]
    sd = expected_sd(points, per_token, target_flops=budget.target.flops)
    fold = spell(math.exp(min(3.92 * sd, 99)))
    line = (
        f"the grid spans {spell(spans[0])}x in N and {spell(spans[1])}x in D, under "
        f"{LEAST_SPAN:g}x: the 95 % range of D/N it can give is expected to be {fold}-fold "
        f"(sd of ln(D/N) {sd:.2g})"
    )
    if design.allow_narrow:
        notes.add(line)
        return
    raise BadInput(
        Fault(
            code="SWP-1204",
            rule=line,
            place="design",
            remedy="widen design.sizes and design.tokens_per_parameter, use `kind: adaptive` or "
            "`isoflop`, or say `allow_narrow: true`",
        )
    )


def _least_ceiling(budget: Budget, facts: DataFacts, hardware: Hardware, ceiling: float) -> float:
    """The smallest budget, to 2 %, all of whose levels have enough sizes, FLOPs."""
    low, high = ceiling, largest_ceiling(budget, facts)
    while high / low > 1.02:
        middle = math.sqrt(low * high)
        levels = plan_levels(budget, facts, hardware, (), middle, Notes())
        enough = all(_sizes(level) >= MIN_SIZES for level in levels if level.even)
        low, high = (low, middle) if enough else (middle, high)
    return high * 1.02  # printed with three digits: never rounded below what works


def _sizes(level: Level) -> int:
    return len({trial.config.shape for trial in level.trials})


def refuse_apart(budget: Budget, levels: Sequence[Level]) -> None:
    """A trunk that was asked for, and rules of D under which no two runs have one.

    `schedule: wsd` with `warmup_steps` is how a budget asks for runs that share: its cost and its
    choice of sizes are planned for it. No use is lost by refusing the rest: `warmup_fraction`
    trains each run alone, and as "100*B/D" it gives every run the same 100 steps, whatever the
    other rules say; of that only a warning remains (`warn`).
    """
    runs = _apart([trial for level in levels for trial in level.trials])
    if not share_trunks(budget) or not runs:
        return
    values = {
        "batch_tokens": [trial.config.tokens / trial.config.steps for trial in runs],
        "learning_rate": [trial.config.optimizer.learning_rate for trial in runs],
        "weight_decay": [trial.config.optimizer.weight_decay for trial in runs],
    }
    differing = {key: at for key, at in values.items() if min(at) != max(at)}
    said = ", ".join(
        f"{key} ({getattr(budget.training, key)}) from {min(at):.3g} to {max(at):.3g}"
        for key, at in differing.items()
    )
    raise BadInput(
        Fault(
            code="SWP-1210",
            rule="runs of one size share a trunk (`schedule: wsd` with `warmup_steps`) only where "
            f"batch, learning rate and weight decay do not depend on D; the {len(runs)} runs of "
            f"N = {format_count(runs[0].counts.matmul)} have {said}",
            place=f"training.{next(iter(differing))}",
            remedy=f"give {' and '.join(differing)} as a number or a rule of N alone, or say "
            "`warmup_fraction` instead of `warmup_steps`: each run is then trained alone",
        )
    )


def _apart(trials: Sequence[Trial]) -> list[Trial]:
    """The `wsd` runs of one size and seed that differ in length and have nothing in common."""
    sizes: dict[tuple[Shape, int], list[Trial]] = {}
    for trial in trials:
        if trial.config.schedule.name == "wsd":
            sizes.setdefault((trial.config.shape, trial.config.seed), []).append(trial)
    return next(
        (
            runs
            for runs in sizes.values()
            if len({trial.config.trajectory_id for trial in runs}) == len(runs) > 1
        ),
        [],
    )


def overrun(cost: float, ceiling: float) -> str:
    """What to say of a plan that costs more than may be charged, FLOPs; empty when it does not."""
    if cost <= ceiling:
        return ""
    return (
        f"the plan costs {format_flops(cost)} FLOPs, more than the budget of "
        f"{format_flops(ceiling)}: the last trials will not be started"
    )


def warn(
    budget: Budget,
    facts: DataFacts,
    levels: Sequence[Level],
    ceiling: float,
    notes: Notes,
) -> None:
    """Note what a person should know before saying yes."""
    trials = [trial for level in levels for trial in level.trials]
    few = sum(trial.config.steps < FEW_STEPS for trial in trials)
    if few:
        notes.add(
            f"{few} of {len(trials)} trials have fewer than {FEW_STEPS} steps: smaller "
            "training.batch_tokens give more"
        )
    if _apart(trials):
        notes.add(
            "runs of one size share no trunk, because their warmup, batch or learning rate depends "
            "on D: give training.warmup_steps and a batch and rate that do not"
        )
    worst = max((trial.epochs for trial in trials), default=0.0)
    if worst > 1:
        repeated = sum(trial.epochs > 1 for trial in trials)
        serious = " More than 4 epochs bend the law." if worst > MANY_EPOCHS else ""
        notes.add(
            f"the corpus has {format_count(facts.train_tokens)} training tokens; "
            f"{repeated} of {len(trials)} trials read it more than once (at most {worst:.1f} "
            f"epochs).{serious}"
        )
    for what in ("learning rate", "batch", "weight decay", "warmup"):
        clamped = sum(f"{what} clamped" in trial.notes for trial in trials)
        if clamped:
            notes.add(f"the {what} rule is clamped at its bounds in {clamped} trials")
    if isinstance(budget.design, IsoflopDesign) and len(levels) < 3:
        notes.add(
            f"{len(levels)} level(s) cannot show how the ratio changes with compute: use 3 or more"
        )
    over = overrun(sum(trial.cost_flops for trial in trials), ceiling)
    if over:
        notes.add(over)
    asked = int(budget.data.validation_tokens)
    if asked > facts.validation_tokens:
        notes.add(
            f"only {format_count(facts.validation_tokens)} held-out tokens exist of the "
            f"{format_count(asked)} asked for"
        )
