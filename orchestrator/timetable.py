"""When planned trials would run: how long a sweep takes, and how much of its slots stands idle.

List scheduling, as the service and its executors do it: trials in the order of their rounds,
longest first, each on the first slots that are free, none before the rounds that its own waits for
are over.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush, heapreplace

from orchestrator.rounds import Level


def device_s(levels: Sequence[Level]) -> float:
    """What all trials occupy, GPU-seconds, or core-seconds where they run on cores."""
    return sum(trial.estimated_s * trial.devices for level in levels for trial in level.trials)


def slot_s(levels: Sequence[Level]) -> float:
    """What all trials occupy, slot-seconds."""
    return sum(trial.estimated_s * trial.slots for level in levels for trial in level.trials)


def duration_s(levels: Sequence[Level], slots: int) -> float:
    """Wall-clock from the first trial's start to the last one's end, seconds.

    Args:
        levels: every round, in order.
        slots: trials at a time, of those that take one slot.
    """
    free = [0.0] * max(1, slots)
    over = [0.0]
    for level in levels:
        begin, end = over[level.waits_for], over[-1]
        for trial in level.trials:
            further = min(trial.slots, len(free)) - 1
            for _ in range(further):
                heappop(free)
            # The first that is left is free last of those that the trial takes.
            until = max(free[0], begin) + trial.estimated_s
            heapreplace(free, until)
            for _ in range(further):
                heappush(free, until)
            end = max(end, until)
        over.append(end)
    return over[-1]


def idle_share(levels: Sequence[Level], slots: int) -> float:
    """Share of the slots' time until the last trial's end in which nothing runs, 0 to 1.

    Args:
        levels: every round, in order.
        slots: trials at a time, of those that take one slot.
    """
    available = max(1, slots) * duration_s(levels, slots)
    return max(0.0, 1 - slot_s(levels) / available) if available else 0.0
