"""The store of training prefixes: what runs of one trajectory and different length share.

With a warmup-stable-decay schedule the weights at step s, before any cooldown, depend on the
trajectory (`TrainConfig.trajectory_id`), not on the run's length. So a run leaves its state in the
store where its cooldown begins, and a longer run of the same trajectory starts from there: many
token counts of one size cost one trunk and their cooldowns (Haegele et al. 2024, arXiv
2405.18392, section 4).

    store/<trajectory_id>/step-<n>.{json,pt}
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer import checkpoint
from trainer.checkpoint import Loaded, NoGoodCheckpoint
from trainer.config import TrainConfig

_log = logging.getLogger(__name__)


def branch_step(config: TrainConfig) -> int | None:
    """The last step whose state longer runs can share; None when a run shares nothing."""
    if not config.shares_trajectory:
        return None
    branch = config.steps - config.schedule.cooldown_steps
    # Before the end of the warmup there is nothing worth sharing.
    return branch if branch >= max(1, config.schedule.warmup_steps) else None


def steps_to_keep(config: TrainConfig, wanted: Iterable[int]) -> frozenset[int]:
    """Steps at which a run stores its state.

    Args:
        config: the run.
        wanted: steps at which other runs of the sweep will branch off.
    """
    branch = branch_step(config)
    if branch is None:
        return frozenset()
    return frozenset((branch, *(step for step in wanted if 0 < step < branch)))


def keep(
    store: Path, config: TrainConfig, state: dict[str, Any], *, environment: dict[str, str]
) -> None:
    """Put a state into the store, unless it is there already.

    Raises:
        OSError: when the disk is full or not writable.
    """
    folder = store / config.trajectory_id
    if state["step"] in checkpoint.steps(folder):
        return
    checkpoint.save(
        folder,
        state,
        step=state["step"],
        owner=config.trajectory_id,
        environment=environment,
        kept=None,
    )


def longest(store: Path, config: TrainConfig, *, environment: dict[str, str]) -> Loaded | None:
    """The longest whole prefix that a run may start from.

    Only prefixes from the same device, threads, kernels and versions are used: they are what the
    run would have computed itself, bit for bit.
    """
    branch = branch_step(config)
    if branch is None:
        return None
    folder = store / config.trajectory_id
    for step in reversed(checkpoint.steps(folder)):
        if step > branch:
            continue
        try:
            if checkpoint.read_manifest(folder, step).environment != environment:
                continue
            return checkpoint.load(folder, step, owner=config.trajectory_id)
        except NoGoodCheckpoint as error:
            _log.warning("prefix passed over: %s", error)
    return None
