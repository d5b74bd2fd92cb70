"""Runs of one trajectory share their trunk, and nobody can tell from the results; row R4."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer import checkpoint, prefix
from trainer.config import RunOptions, ScheduleConfig, TrainConfig
from trainer.result import Interrupted, RunResult
from trainer.run import run_trial

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def ladder(make_config: MakeConfig) -> list[TrainConfig]:
    """Runs of 20, 40 and 80 steps on one trajectory, with cooldowns of a fifth."""
    return [
        make_config(
            steps=steps,
            schedule=ScheduleConfig(name="wsd", warmup_steps=5, cooldown_steps=steps // 5),
        )
        for steps in (20, 40, 80)
    ]


@pytest.fixture
def shared(options: RunOptions, tmp_path: Path) -> RunOptions:
    return dataclasses.replace(options, prefix_dir=tmp_path / "store")


def lines(folder: Path) -> list[dict]:
    found = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in x.items() if k not in ("tokens_per_s", "time")} for x in found]


def science(result: RunResult) -> tuple:
    return (result.trial_id, result.loss, result.loss_se, result.train_loss, result.flops)


def test_a_ladder_of_runs_trains_one_trunk_and_its_cooldowns(
    ladder: list[TrainConfig], options: RunOptions, shared: RunOptions, tmp_path: Path
) -> None:
    executed = []
    for number, config in enumerate(ladder):
        alone = run_trial(config, options, tmp_path / f"alone-{number}")
        result = run_trial(config, shared, tmp_path / f"shared-{number}")
        assert science(result) == science(alone)
        assert lines(tmp_path / f"shared-{number}") == lines(tmp_path / f"alone-{number}")
        assert result.steps_executed + result.prefix_steps == config.steps
        assert (alone.steps_executed, alone.prefix_steps) == (config.steps, 0)
        executed.append(result.steps_executed)
    # Trunks end at 16, 32 and 64; only the rest of each run is trained.
    assert executed == [20, 40 - 16, 80 - 32]
    store = tmp_path / "store" / ladder[0].trajectory_id
    assert checkpoint.steps(store) == [16, 32, 64]


def test_a_longer_run_can_leave_prefixes_for_shorter_ones(
    ladder: list[TrainConfig], shared: RunOptions, tmp_path: Path
) -> None:
    generous = dataclasses.replace(shared, prefix_steps=(16, 32, 70))
    run_trial(ladder[2], generous, tmp_path / "long")
    assert checkpoint.steps(tmp_path / "store" / ladder[0].trajectory_id) == [16, 32, 64]
    short = run_trial(ladder[0], shared, tmp_path / "short")
    assert (short.steps_executed, short.prefix_steps) == (4, 16)


def test_a_run_with_a_prefix_resumes_like_any_other(
    ladder: list[TrainConfig], options: RunOptions, shared: RunOptions, tmp_path: Path
) -> None:
    run_trial(ladder[0], shared, tmp_path / "first")
    folder = tmp_path / "second"
    counter = iter(range(1, 100))
    with pytest.raises(Interrupted):
        run_trial(ladder[1], shared, folder, should_stop=lambda: next(counter) == 3)
    result = run_trial(ladder[1], shared, folder)
    alone = run_trial(ladder[1], options, tmp_path / "alone")
    assert science(result) == science(alone)
    assert lines(folder) == lines(tmp_path / "alone")
    assert (result.steps_executed, result.prefix_steps, result.attempts) == (24, 16, 2)


def test_a_damaged_prefix_is_passed_over(
    ladder: list[TrainConfig], shared: RunOptions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_trial(ladder[0], shared, tmp_path / "first")
    run_trial(ladder[1], shared, tmp_path / "second")
    store = tmp_path / "store" / ladder[0].trajectory_id
    (store / "step-00000032.pt").write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        result = run_trial(ladder[2], shared, tmp_path / "third")
    assert result.prefix_steps == 16
    assert "prefix passed over" in caplog.text


def test_a_prefix_from_another_environment_or_trajectory_is_not_used(
    ladder: list[TrainConfig], make_config: MakeConfig, shared: RunOptions, tmp_path: Path
) -> None:
    run_trial(ladder[0], shared, tmp_path / "first")
    two_threads = dataclasses.replace(shared, threads=2)
    assert run_trial(ladder[1], two_threads, tmp_path / "threads").prefix_steps == 0
    other_seed = dataclasses.replace(ladder[1], seed=1)
    assert run_trial(other_seed, shared, tmp_path / "seed").prefix_steps == 0
    cosine = make_config(steps=40)
    assert run_trial(cosine, shared, tmp_path / "cosine").prefix_steps == 0


def test_only_the_stable_phase_of_wsd_is_shared(make_config: MakeConfig) -> None:
    def wsd(warmup: int, cooldown: int) -> TrainConfig:
        schedule = ScheduleConfig(name="wsd", warmup_steps=warmup, cooldown_steps=cooldown)
        return make_config(steps=20, schedule=schedule)

    assert prefix.branch_step(wsd(5, 4)) == 16
    assert prefix.branch_step(wsd(5, 0)) == 20
    assert prefix.branch_step(wsd(10, 10)) == 10
    assert prefix.branch_step(wsd(0, 20)) is None
    assert prefix.branch_step(make_config()) is None
    assert prefix.steps_to_keep(wsd(5, 4), (0, 8, 16, 18)) == {8, 16}
    assert prefix.steps_to_keep(make_config(), (8,)) == frozenset()
