"""Which trials of a round are trained together, as one stack: settled before any of them starts.

Models of width 16 or 32 spend their time on starting operations, and several of one shape start no
more than one does (`trainer.stack`). A stack gives other last bits than trials trained alone, and
so does another stack: what is settled here is journalled with the round, and a sweep that goes on
goes on with it.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.budget import Budget
from orchestrator.hardware import Machine, placement_of
from orchestrator.trial import Trial

PAYS = 1.25
"""Speed over trials trained alone from which a stack pays. Stacks are fewer and longer than trials,
so that slots stand idle for longer at the end of a round: less than this may be lost again."""

WIDEST = 64
"""Width above which nothing is looked for: at 64 a stack of 8 gains 5 %, at 48 it gained 90 %."""

LARGEST = 16
"""Most trials of a stack: 32 were no faster than 16 at widths 32 and 48, and hardly at 16."""

WORTH_S = 30.0
"""Expected seconds of a round's candidates below which nothing is measured: that takes seconds."""


def candidates(trials: Sequence[Trial], *, slots: int) -> list[list[Trial]]:
    """Trials that might be trained as stacks, each trial at most once.

    A group of one shape and batch is cut into as many parts as keep the slots busy.

    Args:
        trials: of one round, in the order of dispatch.
        slots: jobs at a time.
    """
    groups: dict[Any, list[Trial]] = defaultdict(list)
    apart = 0
    for trial in trials:
        config = trial.config
        # Trunks that runs of one trajectory share save more than a stack does.
        if (
            config.precision == "fp32"
            and config.schedule.name != "wsd"
            and config.shape.d_model <= WIDEST
        ):
            groups[config.shape, config.batch_sequences, config.optimizer.name].append(trial)
        else:
            apart += 1
    busy = -(-slots // (apart + len(groups))) if groups else 1
    found = []
    for group in groups.values():
        parts = max(-(-len(group) // LARGEST), min(busy, len(group) // 2))
        if len(group) > 1:
            found += [
                group[k * len(group) // parts : (k + 1) * len(group) // parts] for k in range(parts)
            ]
    return found


def settle_stacks(
    trials: Sequence[Trial],
    budget: Budget,
    machine: Machine,
    ask: Callable[[Mapping[str, Any]], dict[str, Any]],
    *,
    slots: int,
) -> list[dict[str, Any]]:
    """Measure which candidates of a round pay; a record of each for the journal.

    On a cluster, whose machines are not this one, nothing is stacked.

    Returns:
        For each candidate `trials` (identities in order), `together` and the `reason`; empty where
        nothing could be gained.
    """
    found = candidates(trials, slots=slots)
    expected_s = sum(trial.estimated_s for stack in found for trial in stack)
    if budget.run.address is not None or expected_s < WORTH_S * slots:
        return []
    reply = ask(
        {
            "what": "stacks",
            "stacks": [[dataclasses.asdict(trial.config) for trial in stack] for stack in found],
            "device": "cuda" if placement_of(budget, machine).on_gpus else "cpu",
            "threads": max(1, int(budget.run.cpus_per_trial)),
        }
    )
    return [
        {
            "trials": [trial.trial_id for trial in stack],
            "together": (judged["gain"] or 0.0) >= PAYS,
            "reason": judged["reason"],
        }
        for stack, judged in zip(found, reply["stacks"], strict=True)
    ]
