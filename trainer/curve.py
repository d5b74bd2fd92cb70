"""What the held-out losses of a run say: which is best, when to stop, flat, falling or rising.

In: a history of (step, held-out loss) in nats per token, ascending by step. Nothing but the
history decides, so a run that was killed and resumed decides as an undisturbed one would.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

History = Sequence[tuple[int, float]]
"""(step, held-out loss in nats per token), ascending by step."""

PLATEAU_IMPROVEMENT = 0.015
"""Share of the perplexity; evaluations that improve it by less are flat."""

PLATEAU_EVALUATIONS = 2
"""Flat evaluations in a row that make a plateau."""

RISE = 0.01
"""Nats above the best loss from which the last one counts as risen: the same tokens are evaluated
every time, so their noise is far below."""


def best(history: History, *, min_delta: float = 0.0) -> tuple[int, float]:
    """The last evaluation that was better than the best before it by more than `min_delta` nats.

    Args:
        history: at least one evaluation.
        min_delta: what counts as better, nats.
    """
    found = history[0]
    for step, loss in history[1:]:
        if loss < found[1] - min_delta:
            found = step, loss
    return found


def out_of_patience(history: History, *, patience: int, min_delta: float = 0.0) -> bool:
    """Whether the last `patience` evaluations have brought no new best (Prechelt 1998, UP_s)."""
    if not history:
        return False
    at, _ = best(history, min_delta=min_delta)
    return sum(step > at for step, _ in history) >= patience


def has_plateaued(history: History) -> bool:
    """Whether each of the last evaluations improved the perplexity by less than 1.5 %."""
    gains = _gains(history)[-PLATEAU_EVALUATIONS:]
    return len(gains) == PLATEAU_EVALUATIONS and all(gain < PLATEAU_IMPROVEMENT for gain in gains)


def findings(history: History, *, steps: int, planned: int) -> tuple[str, ...]:
    """What a reader of the result must know, each as `label: sentence`.

    Args:
        history: evaluations of the run; may be empty.
        steps: optimiser steps that were run.
        planned: steps that were planned.
    """
    found = []
    if steps != planned:
        length = "stopped early" if steps < planned else "longer than planned"
        found.append(f"{length}: {steps:,} of {planned:,} planned steps were run")
    gains = _gains(history)
    if not gains:
        return tuple(found)
    (at, lowest), (last_step, last) = best(history), history[-1]
    if last > lowest + RISE:
        found.append(
            f"validation rising: held-out loss {last:.4f} at step {last_step:,}, "
            f"{last - lowest:.4f} above its best at step {at:,}"
        )
    elif has_plateaued(history):
        found.append(
            f"plateau: the last {PLATEAU_EVALUATIONS} evaluations improved the held-out "
            f"perplexity by {', '.join(f'{gain:.1%}' for gain in gains[-PLATEAU_EVALUATIONS:])}, "
            f"less than {PLATEAU_IMPROVEMENT:.1%} each"
        )
    elif gains[-1] >= PLATEAU_IMPROVEMENT:
        found.append(
            f"still improving at stop: the last evaluation improved the held-out perplexity by "
            f"{gains[-1]:.1%}"
        )
    return tuple(found)


def _gains(history: History) -> list[float]:
    """Share by which each evaluation lowered the perplexity of the one before."""
    losses = [loss for _, loss in history]
    return [-math.expm1(b - a) for a, b in itertools.pairwise(losses)]
