"""Identity and JSON of a trial's configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from trainer.config import OptimizerConfig, ScheduleConfig, TrainConfig
from trainer.result import RunResult, RunStatus
from trainer.shapes import preset

MakeConfig = Callable[..., TrainConfig]


def variants(config: TrainConfig) -> list[TrainConfig]:
    replace = dataclasses.replace
    sizes = {"d_model": 16, "n_layer": 2, "n_head": 2, "vocab_size": 256, "context": 32}
    points = ScheduleConfig(name="points", points=((0, 0.0), (10, 1.0)))
    return [
        config,
        replace(config, seed=1),
        replace(config, steps=31),
        replace(config, batch_sequences=5),
        replace(config, validation_tokens=1024),
        replace(config, data_digest="0" * 64),
        replace(config, precision="bf16"),
        replace(config, dropout=0.1),
        replace(config, init="gpt2"),
        replace(config, trainer_version=99),
        replace(config, optimizer=OptimizerConfig(learning_rate=2e-2)),
        replace(config, schedule=points),
        replace(config, shape=preset("llama", **sizes)),
        replace(config, shape=preset("deepseek", **sizes)),
    ]


def test_configurations_survive_json_and_differ_in_identity(make_config: MakeConfig) -> None:
    found = variants(make_config())
    for config in found:
        again = TrainConfig.from_json(config.to_json())
        assert again == config
        assert again.trial_id == config.trial_id
    assert len({config.trial_id for config in found}) == len(found)


def test_wsd_runs_of_other_lengths_share_a_trajectory_and_cosine_runs_do_not(
    make_config: MakeConfig,
) -> None:
    wsd = ScheduleConfig(name="wsd", warmup_steps=3, cooldown_steps=6)
    other = ScheduleConfig(
        name="wsd", warmup_steps=3, cooldown_steps=12, cooldown="linear", floor=0.1
    )
    short = make_config(schedule=wsd)
    long = make_config(schedule=other, steps=60, validation_tokens=1024)
    assert short.trajectory_id == long.trajectory_id
    assert short.trial_id != long.trial_id
    warmer = ScheduleConfig(name="wsd", warmup_steps=4, cooldown_steps=6)
    assert make_config(schedule=warmer).trajectory_id != short.trajectory_id
    assert make_config(schedule=wsd, seed=1).trajectory_id != short.trajectory_id
    assert make_config().trajectory_id != make_config(steps=60).trajectory_id


def test_an_unknown_field_is_refused(make_config: MakeConfig) -> None:
    text = make_config().to_json().replace('"seed"', '"sead"')
    with pytest.raises(TypeError, match="sead"):
        TrainConfig.from_json(text)


def test_a_result_survives_json_and_non_finite_losses_are_refused() -> None:
    result = RunResult(
        trial_id="x",
        status=RunStatus.COMPLETED,
        loss=0.1 + 0.2,
        notes=("a", "b"),
        versions={"t": "1"},
    )
    assert RunResult.from_json(result.to_json()) == result
    assert result.is_datum
    assert not dataclasses.replace(result, status=RunStatus.DIVERGED).is_datum
    with pytest.raises(ValueError, match="not JSON compliant"):
        dataclasses.replace(result, loss=float("nan")).to_json()
    with pytest.raises(ValueError, match=r"missing \['attempts'"):
        RunResult.from_json("{}")
