"""Identity and JSON of a trial's configuration."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from trainer.config import OptimizerConfig, ScheduleConfig, TrainConfig
from trainer.identity import ADDED, OUTSIDE, identity_record
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
    with pytest.raises(ValueError, match=r"missing \['status', 'trial_id'\]"):
        RunResult.from_json("{}")
    with pytest.raises(ValueError, match=r"unknown \['lost'\]"):
        RunResult.from_json('{"trial_id": "x", "status": "completed", "lost": 1}')


def test_a_result_that_is_older_than_a_field_is_read_with_its_default() -> None:
    result = RunResult.from_json('{"trial_id": "x", "status": "completed", "loss": 2.0}')
    assert result == RunResult(trial_id="x", status=RunStatus.COMPLETED, loss=2.0)


def published(family: str, schedule: ScheduleConfig) -> TrainConfig:
    return TrainConfig(
        shape=preset(family, d_model=64, n_layer=2, n_head=4, vocab_size=256, context=128),
        data_digest="d" * 64,
        steps=1000,
        batch_sequences=8,
        validation_tokens=4096,
        seed=0,
        optimizer=OptimizerConfig(learning_rate=3e-3),
        schedule=schedule,
    )


def test_identities_of_the_first_version_stay_what_they_were() -> None:
    llama = published("llama", ScheduleConfig(name="wsd", warmup_steps=50, cooldown_steps=200))
    assert llama.trial_id == "1c6f799eff32e052"
    assert llama.trajectory_id == "bfe3825aadb4159d"
    points = ScheduleConfig(name="points", points=((0, 0.0), (10, 1.0)))
    assert published("deepseek", points).trial_id == "39a8ab226a5a6a4f"


def test_a_record_without_the_fields_that_have_defaults_is_read_with_them() -> None:
    config = published("llama", ScheduleConfig())

    def bare(value: Any) -> dict[str, Any]:
        kept = (f for f in dataclasses.fields(value) if f.default is dataclasses.MISSING)
        return {
            f.name: bare(v) if dataclasses.is_dataclass(v := getattr(value, f.name)) else v
            for f in kept
        }

    record = bare(config)
    assert "init" not in record
    assert record["schedule"] == {}
    assert TrainConfig.from_dict(record) == config


def test_a_field_added_later_moves_an_identity_only_where_it_is_used() -> None:
    @dataclass(frozen=True)
    class Now:
        width: int
        bias: bool = False

    @dataclass(frozen=True)
    class Later(Now):
        scale: float = field(default=1.0, metadata=ADDED)
        place: str = field(default="", metadata=OUTSIDE)

    assert identity_record(Later(3, place="here")) == identity_record(Now(3))
    assert identity_record(Later(3, scale=2.0)) == {"width": 3, "bias": False, "scale": 2.0}
    assert identity_record(((1, Now(2)),)) == [[1, {"width": 2, "bias": False}]]


def test_fields_that_came_later_leave_earlier_identities_alone(make_config: MakeConfig) -> None:
    """The identities are those of the first version, at the values that were meant by it."""
    config = make_config(data_digest="0" * 64)
    record = json.loads(config.to_json())
    del record["order"], record["early_stopping"]
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"))
    assert config.trial_id == hashlib.sha256(canonical.encode()).hexdigest()[:16]
    assert dataclasses.replace(config, order="random").trial_id != config.trial_id
    shape = preset("deepseek", d_model=16, n_layer=2, n_head=2, vocab_size=256, context=32)
    assert shape.experts is not None
    hot = dataclasses.replace(shape, experts=dataclasses.replace(shape.experts, temperature=2.0))
    routed, heated = (dataclasses.replace(config, shape=s) for s in (shape, hot))
    assert routed.trial_id != heated.trial_id
