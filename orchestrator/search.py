"""The next learning rate and batch of a search: Optuna, asked and told. The only file with optuna.

Stateless: the study is told everything that the journal knows and asked once, so that a search that
was killed goes on exactly where it was, and nothing is kept that could disagree with the journal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

HARD_LIMITS = (1e-6, 1.0)
"""No learning rate outside is ever tried."""
_STEP = 4.0
"""The first rates are the centre, and this factor below and above it."""
_BEYOND = 2.0
"""How far past an edge the next rate lies, when the best one is at that edge."""
_TPE_STARTUP = 3
"""Runs before the estimator is trusted: those of the opening."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """One run to try."""

    learning_rate: float
    """Peak learning rate."""
    batch: int
    """Which of the space's batches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """What may be tried at one size."""

    centre: float
    """Learning rate to start from."""
    centre_batch: int
    """Batch to start from."""
    batches: int
    """Number of batches to choose from, small to large."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    """One run that was asked for, whatever became of it."""

    learning_rate: float
    """Peak learning rate."""
    batch: int
    """Which of the space's batches."""
    loss: float | None = None
    """Held-out loss; None when there is none."""
    over: bool = False
    """Whether nothing more will come; without a loss it then was a bad one."""
    rungs: tuple[tuple[int, float], ...] = ()
    """Training losses on the way: (percent, loss)."""


def suggest(space: Space, tried: Sequence[Tried], *, seed: int) -> Suggestion:
    """The next run at one size: a function of what was tried, and of the seed.

    First the centre and a factor of 4 around it, and other batches at the centre; while the best
    rate is the least or the greatest tried, a step beyond it; then the tree-structured Parzen
    estimator.

    Args:
        space: what may be tried.
        tried: every run asked for so far, in order.
        seed: of the estimator.
    """
    opening = _opening(space)
    if len(tried) < len(opening):
        return opening[len(tried)]
    finished = [run for run in tried if run.loss is not None]
    if finished:
        best = min(finished, key=lambda run: run.loss or math.inf)
        rates = [run.learning_rate for run in tried]
        for edge, beyond in ((min(rates), 1 / _BEYOND), (max(rates), _BEYOND)):
            rate = _limited(edge * beyond)
            if best.learning_rate == edge and rate != edge:
                return Suggestion(learning_rate=rate, batch=best.batch)
    return _ask(space, tried, seed)


def _opening(space: Space) -> list[Suggestion]:
    rates = [space.centre, space.centre / _STEP, space.centre * _STEP]
    first = [Suggestion(learning_rate=_limited(r), batch=space.centre_batch) for r in rates]
    others = [
        Suggestion(learning_rate=_limited(space.centre), batch=batch)
        for batch in (space.centre_batch - 1, space.centre_batch + 1)
        if 0 <= batch < space.batches
    ]
    return first + others


def _ask(space: Space, tried: Sequence[Tried], seed: int) -> Suggestion:
    """Tell a fresh study everything and ask it once."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=_TPE_STARTUP, seed=seed + len(tried), constant_liar=True
        )
        study = optuna.create_study(direction="minimize", sampler=sampler)
        rates = [run.learning_rate for run in tried]
        distributions: dict[str, BaseDistribution] = {
            "learning_rate": FloatDistribution(min(rates), max(rates), log=True)
        }
        if space.batches > 1:
            distributions["batch"] = IntDistribution(0, space.batches - 1)
        worst = max((run.loss for run in tried if run.loss is not None), default=1.0)
        for run in tried:
            study.add_trial(_told(run, distributions, worst))
        asked = study.ask(distributions)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return Suggestion(
        learning_rate=float(asked.params["learning_rate"]),
        batch=int(asked.params.get("batch", space.centre_batch)),
    )


def _told(
    run: Tried, distributions: dict[str, BaseDistribution], worst: float
) -> optuna.trial.FrozenTrial:
    params = {"learning_rate": run.learning_rate, "batch": run.batch}
    params = {name: value for name, value in params.items() if name in distributions}
    if run.loss is not None:
        state, value = optuna.trial.TrialState.COMPLETE, run.loss
    elif not run.over:
        state, value = optuna.trial.TrialState.RUNNING, None
    elif run.rungs:
        state, value = optuna.trial.TrialState.PRUNED, None
    else:  # it diverged or failed: as bad as anything that was seen, and a little worse
        state, value = optuna.trial.TrialState.COMPLETE, 1.5 * worst
    return optuna.trial.create_trial(
        state=state,
        value=value,
        params=params,
        distributions=distributions,
        intermediate_values=dict(run.rungs),
    )


def _limited(rate: float) -> float:
    return min(max(rate, HARD_LIMITS[0]), HARD_LIMITS[1])
