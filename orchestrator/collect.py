"""From a sweep's state to its loss table: a row per trial that is over, exclusions with reasons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.designs.base import Measurement, Opened, Progress
from orchestrator.state import FINAL, Purpose, SweepState, TrialState
from trainer.flops import six_n_flops_per_token, training_flops_per_token
from trainer.shapes import count_parameters

WALL_CLOCK_COLUMNS = ("wall_s", "device", "tokens_per_s", "mfu")
"""Columns that may differ between two executions of the same trial."""


_NOT_FITTED = {
    Purpose.TUNE: "a step of the search for a recipe",
    Purpose.VERIFY: "a check of the recipe",
    Purpose.VALIDATE: "the run that scores the forecast",
}
"""Why runs that no design asked for stay out of the fit."""


def rows(state: SweepState, *, unique_tokens: int) -> list[dict[str, Any]]:
    """Rows of the loss table, by level, size and seed: the same whatever the order of execution.

    Args:
        state: the sweep.
        unique_tokens: training tokens of the corpus; a run sees at most so many different ones.
    """
    over = [
        (trial.level, row(trial, unique_tokens=unique_tokens))
        for trial in state.trials.values()
        if trial.status in FINAL
    ]
    over.sort(key=lambda pair: (pair[0], pair[1]["params_matmul"], pair[1]["trial_id"]))
    found = [record for _, record in over]
    if any(record["level"] is not None for record in found):
        # Beside real levels a run of none is written as such; without any, they may be found.
        found = [{**r, "level": "" if r["level"] is None else r["level"]} for r in found]
    return found


def row(trial: TrialState, *, unique_tokens: int) -> dict[str, Any]:
    """One trial as a row of the loss table."""
    config, result = trial.config, trial.result
    counts = count_parameters(config.shape)
    aside = _NOT_FITTED.get(trial.purpose)
    datum = result is not None and result.is_datum and aside is None
    # Asked of ten thousand trials: an identity that is known already is not hashed again.
    trajectory = config.trajectory_id if config.shares_trajectory else trial.trial_id
    return {
        "trial_id": trial.trial_id,
        "level": trial.level if trial.even else None,
        "params_total": counts.total,
        "params_body": counts.body,
        "params_embedding": counts.embedding,
        "params_head": counts.head,
        "params_matmul": counts.matmul,
        "params_active": counts.active,
        "tokens": config.tokens,
        "unique_tokens": min(unique_tokens, config.tokens),
        "epochs": config.tokens / unique_tokens,
        "flops": training_flops_per_token(config.shape).total * config.tokens,
        "flops_6nd": six_n_flops_per_token(counts.matmul) * config.tokens,
        "flops_target": trial.flops_target,
        "loss": result.loss if result and datum else None,
        "loss_sd": result.loss_se if result and datum else None,
        "bpb": result.bpb if result and datum else None,
        "batch_tokens": config.batch_tokens,
        "steps": config.steps,
        "learning_rate": config.optimizer.learning_rate,
        "seed": config.seed,
        "trajectory_id": trajectory,
        "wall_s": result.wall_s if result else None,
        "device": result.device if result else "",
        "tokens_per_s": result.tokens_per_s if result else None,
        "mfu": None,
        "excluded": "" if datum else aside or trial.reason or trial.status.value,
    }


def progress(state: SweepState, *, settled: int) -> Progress:
    """A sweep as its design sees it: all trials opened, the losses of the rounds up to `settled`.

    Money is counted as planned, not as charged: what a lost worker cost must not change a choice.
    """
    return Progress(
        rounds=len(state.levels),
        opened=tuple(
            Opened(
                level=trial.level,
                params=count_parameters(trial.config.shape).matmul,
                tokens=trial.config.tokens,
                cost_flops=trial.cost_flops,
            )
            for trial in sorted(state.trials.values(), key=lambda t: (t.level, t.trial_id))
            if trial.purpose is Purpose.DESIGN
        ),
        measurements=tuple(m for m in measurements(state) if m.level <= settled),
        settled=settled,
    )


def measurements(state: SweepState) -> tuple[Measurement, ...]:
    """Finished trials as the design sees them."""
    return tuple(
        Measurement(
            level=trial.level,
            params=count_parameters(trial.config.shape).matmul,
            tokens=trial.config.tokens,
            loss=trial.result.loss,
        )
        for trial in sorted(state.trials.values(), key=lambda t: (t.level, t.trial_id))
        if trial.purpose is Purpose.DESIGN
        and trial.result is not None
        and trial.result.is_datum
        and trial.result.loss is not None
    )


def versions(state: SweepState) -> Mapping[str, str]:
    """Library versions that any finished trial reports."""
    merged: dict[str, str] = {}
    for trial in state.trials.values():
        if trial.result is not None:
            merged.update(trial.result.versions)
    return merged
