"""Rounds of trials: a design is asked for points, and the points become trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.budget import Budget
from orchestrator.design_section import (
    AdaptiveDesign,
    Design,
    FileDesign,
    GridDesign,
    IsoflopDesign,
    LadderDesign,
)
from orchestrator.designs.base import (
    Centre,
    Designer,
    Ground,
    Measurement,
    Opened,
    Point,
    Progress,
    Round,
    Size,
)
from orchestrator.designs.fixed import points_of
from orchestrator.designs.kinds import designer
from orchestrator.errors import BadInput, Fault
from orchestrator.lattice import (
    SIZES_PER_DECADE,
    lattice,
    nearest_shape,
    on_ladder,
    real_shape,
    size_ladder,
)
from orchestrator.trial import (
    Hardware,
    Notes,
    Trial,
    flops_per_token_near,
    plan_trial,
    validation_tokens,
)
from orchestrator.units import format_count
from trainer.flops import training_flops_per_token
from trainer.shapes import Shape, count_parameters

if TYPE_CHECKING:
    from trainer.data.facts import DataFacts

COARSE_PER_DECADE = 6
"""Sizes a decade where the levels of an isoFLOP design share trunks and their spacing allows it:
the default plan costs 0.79 of independent runs on it; of seven sizes a level 0.80, and 0.88 on
the ladder of eight (measured)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """The trials of one round: of a compute level, or of a batch of points."""

    level: int
    """Level, from 1."""
    flops: float
    """Compute of each trial, of the dearest one in a round that is not even, FLOPs."""
    centre: Centre
    """Where its sizes are centred."""
    provisional: bool
    """Whether it will move when the rounds before it have been measured."""
    trials: tuple[Trial, ...]
    """Its trials, longest first."""
    even: bool = True
    """Whether it is a level: all of its trials of equal compute."""
    waits_for: int = 0
    """Rounds, from the first, that are over before it begins, as far as can be expected."""


def design_of(
    budget: Budget,
    facts: DataFacts,
    *,
    budget_flops: float,
    first_budget_flops: float | None = None,
) -> Designer:
    """The budget's design, ready to be asked for its rounds.

    Args:
        budget: what was asked for.
        facts: counts of the data.
        budget_flops: compute that may be planned with, FLOPs.
        first_budget_flops: what it was before the sweep was extended; None: it was not.
    """
    ground = ground_of(budget, facts, budget_flops=budget_flops)
    points = _known_points(budget, facts)
    if first_budget_flops is None:
        return designer(budget.design, ground, points=points)
    from orchestrator.designs.extended import Extended

    began = ground_of(budget, facts, budget_flops=first_budget_flops)
    settings = budget.design
    if not isinstance(settings, AdaptiveDesign):
        settings = AdaptiveDesign(kind="adaptive")
    return Extended(designer(budget.design, began, points=points), settings, ground)


def ground_of(budget: Budget, facts: DataFacts, *, budget_flops: float) -> Ground:
    """What a budget's designs may ask for.

    Args:
        budget: what was asked for.
        facts: counts of the data.
        budget_flops: compute that may be charged, FLOPs.
    """
    context = budget.model.context
    asked = budget.training.batch_tokens
    sequences = 1 if isinstance(asked, str) else max(1, round(asked / context))

    def sizes() -> tuple[Size, ...]:
        return tuple(
            Size(
                shape=shape,
                params=params,
                flops_per_token=training_flops_per_token(shape).total,
            )
            for params, shape in size_ladder(budget.model, facts.vocab_size)
        )

    return Ground(
        spendable=budget_flops * (1 - budget.budget.reserve),
        target_flops=budget.target.flops,
        seeds=len(budget.training.seeds),
        flops_per_token=lambda params: flops_per_token_near(budget, facts, params),
        sizes=sizes,
        smallest=lambda: lattice(budget.model, facts.vocab_size)[0][0],
        min_tokens=budget.training.min_steps * sequences * context,
        evaluation_tokens=validation_tokens(budget, facts),
    )


def plan_round(
    budget: Budget, facts: DataFacts, hardware: Hardware, asked: Round
) -> tuple[tuple[Trial, ...], tuple[str, ...]]:
    """Trials of one round, longest first, and the warnings they raise."""
    notes = Notes()
    shapes = _shapes(budget, facts, asked, notes)
    found: dict[tuple[Shape, int, int], Trial] = {}
    for point in asked.points:
        shape = point.shape or shapes.get(point.params)
        if shape is None:
            continue
        for seed in _seeds(budget, point):
            trial = plan_trial(budget, facts, hardware, asked, point, shape, seed, notes)
            if trial is None:
                continue
            if found.setdefault((shape, trial.config.steps, seed), trial) is not trial:
                notes.add("points that come to the same shape and tokens are trained once")
    trials = list(found.values())
    trials.sort(key=lambda trial: (-trial.estimated_s, trial.counts.matmul, trial.config.seed))
    return tuple(trials), tuple(notes.lines)


def _known_points(budget: Budget, facts: DataFacts) -> tuple[Point, ...]:
    """Points of a design that knows all of them beforehand."""
    design = budget.design
    if isinstance(design, GridDesign | LadderDesign):
        return points_of(design)
    if not isinstance(design, FileDesign):
        return ()
    points = []
    for number, listed in enumerate(design.points or (), start=1):
        shape = None
        if listed.shape is not None:
            if not budget.model.is_preset:
                raise BadInput(
                    Fault(
                        code="SWP-1205",
                        rule=f"a point of family {budget.model.family} has `params`, got a shape: "
                        "width, depth and heads are those of our own families",
                        place=f"design.points.{number}",
                        remedy="give `params`; the nearest of model.sizes is trained",
                    )
                )
            s = listed.shape
            shape = real_shape(
                budget.model,
                facts.vocab_size,
                d_model=s.d_model,
                n_layer=s.n_layer,
                n_head=s.n_head,
            )
        params = listed.params if shape is None else count_parameters(shape).matmul
        points.append(
            Point(
                params=float(params or 0.0),
                shape=shape,
                tokens=listed.tokens,
                reason=f"point {number} of the list",
            )
        )
    return tuple(points)


def _shapes(budget: Budget, facts: DataFacts, asked: Round, notes: Notes) -> dict[float, Shape]:
    """A shape for every different size that a round asks for; in a level, one of its own.

    Where runs of one size can share a trunk, levels share sizes: those of a ladder.
    """
    per_decade = _per_decade(budget.design)
    shapes: dict[float, Shape] = {}
    shared = asked.even and share_trunks(budget)
    for params in dict.fromkeys(point.params for point in asked.points if point.shape is None):
        taken = frozenset(shapes.values()) if asked.even else frozenset()
        wanted = on_ladder(params, per_decade=per_decade) if shared else params
        shape = nearest_shape(budget.model, facts.vocab_size, wanted, taken=taken)
        if shape is None:
            notes.add(
                f"level {asked.number}: no shape near N = {format_count(params)}; that size is "
                "left out"
            )
        else:
            shapes[params] = shape
    return shapes


def _per_decade(design: Design) -> int:
    """Sizes a decade of the ladder on which levels share sizes.

    The coarser it is, the more trunks are shared, as long as no two sizes of a level meet on one
    rung. Batches are chosen from `size_ladder`, and so levels that batches follow lie on it.
    """
    if not isinstance(design, IsoflopDesign):
        return SIZES_PER_DECADE
    spacing = 2 * math.log10(design.span) / (design.sizes - 1)
    return COARSE_PER_DECADE if spacing >= 1 / COARSE_PER_DECADE else SIZES_PER_DECADE


def share_trunks(budget: Budget) -> bool:
    """Whether runs of one size and different length may have a trajectory in common."""
    training = budget.training
    return training.schedule == "wsd" and training.warmup_steps is not None


def _seeds(budget: Budget, point: Point) -> tuple[int, ...]:
    seeds = budget.training.seeds
    return (max(seeds) + point.replicate,) if point.replicate else seeds


def plan_levels(
    budget: Budget,
    facts: DataFacts,
    hardware: Hardware,
    measurements: Sequence[Measurement],
    ceiling: float,
    notes: Notes,
) -> tuple[Level, ...]:
    """Every round, asked for as if the losses at hand were all that will be known."""
    done = max((item.level for item in measurements), default=0)
    design = design_of(budget, facts, budget_flops=ceiling)
    levels: list[Level] = []
    opened: list[Opened] = []
    barren = False
    while True:
        number = len(levels) + 1
        progress = Progress(
            rounds=len(levels),
            opened=opened,
            measurements=[item for item in measurements if item.level < number],
            settled=min(done, number - 1),
        )
        asked = design.propose(progress)
        if asked is None or barren:
            return tuple(levels)
        trials, lines = plan_round(budget, facts, hardware, asked)
        for line in lines:
            notes.add(line)
        levels.append(
            Level(
                level=number,
                flops=asked.flops,
                centre=asked.centre,
                provisional=design.learns and number > done + 1,
                trials=trials,
                even=asked.even,
                waits_for=number - 1 - design.expected_lag(number),
            )
        )
        opened += [_opened(trial) for trial in trials]
        # A batch of which nothing can be trained would be asked for again and again.
        barren = not trials and not asked.even


def _opened(trial: Trial) -> Opened:
    return Opened(
        level=trial.level,
        params=trial.counts.matmul,
        tokens=trial.config.tokens,
        cost_flops=trial.cost_flops,
    )
