"""The speed probe trains real steps and reports consistent figures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trainer.config import TrainConfig
from trainer.flops import training_flops_per_token
from trainer.probe import measure


def test_a_probe_measures_at_least_five_steps(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config()
    speed = measure(config, seconds=0.0)
    assert speed.steps == 5
    assert speed.tokens_per_s == pytest.approx(config.batch_tokens / speed.seconds_per_step)
    per_token = training_flops_per_token(config.shape).total
    assert speed.flops_per_s == pytest.approx(speed.tokens_per_s * per_token)
