"""`recipe.verify`: is the learning rate right where it matters, before the sweep spends on it?

At one or two of the first level's sizes the planned run and the same run at half and at twice its
learning rate are trained. A recipe whose own run is worse than a neighbour by more than noise is
refused. The planned runs are the sweep's own, so only the neighbours cost anything.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import BadInput, Fault
from orchestrator.rounds import Level
from orchestrator.state import Purpose, SweepState, TrialState
from orchestrator.trial import Trial, added_record
from orchestrator.units import format_count
from trainer.shapes import count_parameters

FACTORS = (0.5, 1.0, 2.0)
"""Multiples of the recipe's learning rate that are trained."""
NOISE_LN_LOSS = 0.005
"""sd of ln L between two runs that is believed here: the upper end of what clean runs of one size
show between seeds (0.1 to 0.5 %)."""
TOLERANCE = 2 * math.sqrt(2) * NOISE_LN_LOSS
"""Difference of ln L of two runs that noise explains, twice its sd."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What a recipe's check said at one size."""

    params: int
    """N, matmul parameters."""
    learning_rate: float
    """What the recipe says here."""
    losses: tuple[float | None, ...]
    """Held-out losses at `FACTORS` of it; None where there is none."""

    @property
    def better(self) -> float | None:
        """The factor whose loss is below the recipe's own by more than noise; None if none is."""
        own = self.losses[FACTORS.index(1.0)]
        found = [
            (loss, factor)
            for factor, loss in zip(FACTORS, self.losses, strict=True)
            if factor != 1.0 and loss is not None
        ]
        if not found:
            return None
        loss, factor = min(found)
        worse = own is None or math.log(own / loss) > TOLERANCE
        return factor if worse else None

    @property
    def message(self) -> str:
        """In words."""
        values = ", ".join(
            f"{factor:g}x: {'no loss' if loss is None else f'{loss:.4f}'}"
            for factor, loss in zip(FACTORS, self.losses, strict=True)
        )
        return f"N = {format_count(self.params)}, rate {self.learning_rate:.3g}: {values}"


def runs_to_check(levels: Sequence[Level], sizes: int) -> tuple[Trial, ...]:
    """The runs of a check: at each size the planned one and its neighbours in learning rate.

    Args:
        levels: of the plan; the sizes are the smallest and the middle one of the first.
        sizes: 0, 1 (the middle one) or 2.
    """
    if not sizes or not levels:
        return ()
    seed = levels[0].trials[0].config.seed
    planned = sorted(
        (trial for trial in levels[0].trials if trial.config.seed == seed),
        key=lambda trial: trial.counts.matmul,
    )
    middle = planned[len(planned) // 2]
    chosen = [middle] if sizes == 1 or middle is planned[0] else [planned[0], middle]
    return tuple(_at(trial, factor) for trial in chosen for factor in FACTORS)


def added_flops(levels: Sequence[Level], sizes: int) -> float:
    """What a check costs beside the runs that are planned anyway, FLOPs."""
    planned = {trial.trial_id for level in levels for trial in level.trials}
    runs = runs_to_check(levels, sizes)
    return sum(trial.cost_flops for trial in runs if trial.trial_id not in planned)


def checks(state: SweepState) -> tuple[Check, ...]:
    """What the runs of a check say, size by size."""
    runs = [state.trials[trial_id] for trial_id in state.added.get(Purpose.VERIFY, ())]
    by_shape: dict[Any, list[TrialState]] = {}
    for run in runs:
        by_shape.setdefault(run.config.shape, []).append(run)
    found = []
    for shape, three in by_shape.items():
        three = sorted(three, key=lambda run: run.config.optimizer.learning_rate)
        found.append(
            Check(
                params=count_parameters(shape).matmul,
                learning_rate=three[1].config.optimizer.learning_rate,
                losses=tuple(run.result.loss if run.result else None for run in three),
            )
        )
    return tuple(found)


def verdict(found: Sequence[Check]) -> dict[str, Any]:
    """The journal's record of a check: whether it passed, and its losses in words."""
    return {
        "passed": all(check.better is None for check in found),
        "messages": [check.message for check in found],
        "better": [check.better for check in found],
    }


def refuse(record: dict[str, Any]) -> BadInput:
    """The error that ends a sweep whose recipe is bad."""
    factors = [factor for factor in record["better"] if factor is not None]
    return BadInput(
        Fault(
            code="SWP-1208",
            rule="a recipe's own learning rate must not be worse than a neighbour's beyond noise; "
            f"{factors[0]:g}x of it is better ({'; '.join(record['messages'])})",
            place="recipe.verify",
            remedy="find a better one with `sweep tune`, or multiply training.learning_rate by "
            f"{factors[0]:g}, and give the budget another `name`; or go on as it is with "
            "`recipe: {verify: 0}` under another `name`",
        )
    )


def _at(trial: Trial, factor: float) -> Trial:
    if factor == 1.0:
        return trial
    optimizer = dataclasses.replace(
        trial.config.optimizer, learning_rate=factor * trial.config.optimizer.learning_rate
    )
    config = dataclasses.replace(trial.config, optimizer=optimizer)
    return dataclasses.replace(
        trial, config=config, label=f"{trial.label} · {factor:g}x rate", notes=(), why=""
    )


def records(runs: Sequence[Trial]) -> list[dict[str, Any]]:
    """The runs of a check as the journal keeps them."""
    return [added_record(trial) for trial in runs]
