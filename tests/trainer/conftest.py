"""Fixtures of the trainer's tests: a small corpus, small trials, one thread."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.config import OptimizerConfig, RunOptions, ScheduleConfig, TrainConfig
from trainer.data.shards import TokenData, prepare
from trainer.data.source import DataSource
from trainer.shapes import preset

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def token_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared byte-level corpus of sums."""
    source = DataSource(corpus="synthetic:addition?lines=2000", validation_fraction=0.2)
    return prepare(source, cache_root=tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="session")
def token_data(token_dir: Path) -> TokenData:
    return TokenData.open(token_dir)


@pytest.fixture
def make_config(token_data: TokenData) -> MakeConfig:
    """A trial of a tiny model; keyword arguments replace fields of the configuration."""

    def make(*, family: str = "gpt", **changes: Any) -> TrainConfig:
        shape = preset(family, d_model=16, n_layer=2, n_head=2, vocab_size=256, context=32)
        config = TrainConfig(
            shape=shape,
            data_digest=token_data.manifest.digest,
            steps=30,
            batch_sequences=4,
            validation_tokens=512,
            seed=0,
            optimizer=OptimizerConfig(learning_rate=1e-2),
            schedule=ScheduleConfig(name="cosine", warmup_steps=3),
        )
        return dataclasses.replace(config, **changes)

    return make


@pytest.fixture
def options(token_dir: Path) -> RunOptions:
    return RunOptions(data_dir=token_dir, device="cpu", log_points=10, checkpoint_every_s=0.0)
