"""Learning-rate schedules: the multiple of the peak at each step.

In: a step, the run's steps and a `ScheduleConfig`. Out: a number in [0, 1]. Step s in [0, steps)
is the s-th update; warmup gives it (s + 1) / warmup_steps, so no update is wasted at zero.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from trainer.config import ScheduleConfig


def multiplier(step: int, steps: int, schedule: ScheduleConfig) -> float:
    """Learning rate of one update as a multiple of the peak.

    `cosine` is warmup and half a cosine to the floor at the last update (Loshchilov & Hutter 2017,
    arXiv 1608.03983). `wsd` is warmup, stable, and a cooldown 1 - sqrt(x), or 1 - x, to the floor
    (Haegele et al. 2024, arXiv 2405.18392), where x runs over (0, 1] in `cooldown_steps` updates.
    `linear` is warmup and a straight line that reaches the floor after `decay_steps`, or at the
    last update. `points` are straight lines between knots, constant before and after them.

    Args:
        step: index of the update, from 0.
        steps: updates of the whole run.
        schedule: the schedule's name and knots.

    Raises:
        ValueError: when the schedule does not fit into the run.
    """
    check_schedule(steps, schedule)
    done = step + 1
    if schedule.name == "points":
        return _between(done, schedule.points)
    if done < schedule.warmup_steps:
        return done / schedule.warmup_steps
    return schedule.floor + (1.0 - schedule.floor) * _share_left(done, steps, schedule)


def _share_left(done: int, steps: int, schedule: ScheduleConfig) -> float:
    """How much of the way down to the floor is left after some updates, in [0, 1]."""
    after_warmup = done - schedule.warmup_steps
    if schedule.name == "cosine":
        x = _ratio(after_warmup, steps - schedule.warmup_steps)
        return 0.5 * (1.0 + math.cos(math.pi * x))
    if schedule.name == "linear":
        x = _ratio(after_warmup, schedule.decay_steps or steps - schedule.warmup_steps)
        return 1.0 - x
    x = _ratio(done - (steps - schedule.cooldown_steps), schedule.cooldown_steps)
    return 1.0 - (math.sqrt(x) if schedule.cooldown == "sqrt" else x)


def _ratio(part: int, whole: int) -> float:
    """Part / whole, held in [0, 1]; 0 where nothing has begun."""
    return min(1.0, part / whole) if part > 0 and whole > 0 else 0.0


def _between(step: int, points: Sequence[tuple[int, float]]) -> float:
    for (start, low), (end, high) in itertools.pairwise(points):
        if start <= step <= end:
            return low + (high - low) * (step - start) / (end - start)
    return points[0][1] if step < points[0][0] else points[-1][1]


def check_schedule(steps: int, schedule: ScheduleConfig) -> None:
    """Refuse a schedule that is longer than its run.

    Raises:
        ValueError: naming the phase that does not fit and the largest value that would.
    """
    used = schedule.warmup_steps + (schedule.cooldown_steps if schedule.name == "wsd" else 0)
    if schedule.warmup_steps < 0 or schedule.cooldown_steps < 0 or used > steps:
        raise ValueError(
            f"warmup and cooldown must fit into the run: warmup_steps={schedule.warmup_steps}, "
            f"cooldown_steps={schedule.cooldown_steps}, steps={steps}; "
            f"give them {steps} steps or fewer together"
        )
    if not 0.0 <= schedule.floor <= 1.0:
        raise ValueError(f"floor must lie in [0, 1] (a multiple of the peak), got {schedule.floor}")
    if schedule.name == "points":
        knots = [step for step, _ in schedule.points]
        if not knots or any(a >= b for a, b in itertools.pairwise(knots)):
            raise ValueError(f"points must be (step, multiple) with ascending steps, got {knots}")
        if knots[0] > steps:
            raise ValueError(f"the first point must lie within the {steps} steps, got {knots[0]}")
