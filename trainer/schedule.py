"""Learning-rate schedules: the multiple of the peak at each step.

In: a step, the run's steps and a `ScheduleConfig`. Out: a number in [0, 1]. Step s in [0, steps)
is the s-th update; warmup gives it (s + 1) / warmup_steps, so no update is wasted at zero.
"""

from __future__ import annotations

import math

from trainer.config import ScheduleConfig


def multiplier(step: int, steps: int, schedule: ScheduleConfig) -> float:
    """Learning rate of one update as a multiple of the peak.

    `cosine` is warmup and half a cosine to the floor at the last update (Loshchilov & Hutter 2017,
    arXiv 1608.03983). `wsd` is warmup, stable, and a cooldown 1 - sqrt(x) to the floor (Haegele et
    al. 2024, arXiv 2405.18392), where x runs over (0, 1] in `cooldown_steps` updates.

    Args:
        step: index of the update, from 0.
        steps: updates of the whole run.
        schedule: the schedule's name and knots.

    Raises:
        ValueError: when the schedule does not fit into the run.
    """
    check_schedule(steps, schedule)
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.name == "cosine":
        span = steps - schedule.warmup_steps
        cosine = 0.5 * (
            1.0 + math.cos(math.pi * min(1.0, (step + 1 - schedule.warmup_steps) / span))
        )
        return schedule.floor + (1.0 - schedule.floor) * cosine
    start = steps - schedule.cooldown_steps
    if step < start:
        return 1.0
    x = min(1.0, (step + 1 - start) / schedule.cooldown_steps)
    return schedule.floor + (1.0 - schedule.floor) * (1.0 - math.sqrt(x))


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
